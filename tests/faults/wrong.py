"""Small wrong versions of the library. A check that passes on all of them proves nothing; see test_wrong_versions.py."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

from sqlalchemy import Connection, String, func, select, update
from sqlalchemy.exc import DBAPIError

from sqlalchemy_fsm_mysql.core import failures as transactions
from sqlalchemy_fsm_mysql.databases.mysql.history import MySQLHistory
from sqlalchemy_fsm_mysql.databases.mysql.rows import MySQLRows
from sqlalchemy_fsm_mysql.orm import units
from sqlalchemy_fsm_mysql.orm.column import StateType
from sqlalchemy_fsm_mysql.orm.journal import Journal
from sqlalchemy_fsm_mysql.sql import expressions
from sqlalchemy_fsm_mysql.sql.code import OFFSET, TAKEN, Reading, Refusal, Taken
from sqlalchemy_fsm_mysql.sql.events import EventSQL, number

Wrong = Callable[[], AbstractContextManager[Any]]


def read_then_write() -> AbstractContextManager[Any]:
    """The code is read without a lock, and written down later."""

    def fire(self: MySQLRows, connection: Connection, event: EventSQL, parameters: Any, **_: Any) -> Reading:
        code = connection.execute(select(event.code()).where(event.row.is_key()), parameters).scalar_one()
        time.sleep(0.001)
        reading = event.read(int(code))
        if isinstance(reading, Taken):
            connection.execute(self.take(event, reading.branch.number), parameters)
        return reading

    return patch.object(MySQLRows, "fire", fire)


def history_outside_of_the_transaction() -> AbstractContextManager[Any]:
    """The record is committed by itself, whatever becomes of the move."""
    within = MySQLHistory.record

    def record(self: MySQLHistory, connection: Connection, history: Any, parameters: Any) -> int:
        with connection.engine.begin() as other:
            return within(self, other, history, parameters)

    return patch.object(MySQLHistory, "record", record)


def acknowledging_without_commit() -> AbstractContextManager[Any]:
    """One unit in three is acknowledged, and was not committed."""
    told: list[int] = []

    def attempt(session_factory: Any, work: Any) -> Any:
        with session_factory() as session:
            result = work(session)
            told.append(1)
            (session.rollback if len(told) % 3 == 0 else session.commit)()
            return result

    return patch.object(units, "_attempt", attempt)


def code_table_off_by_one() -> AbstractContextManager[Any]:
    """Each branch's code is read as the next one's."""
    right = MySQLRows.fire

    def fire(self: MySQLRows, connection: Connection, event: EventSQL, parameters: Any, **how: Any) -> Reading:
        reading = right(self, connection, event, parameters, **how)
        if isinstance(reading, Taken):
            return Taken(event.branches[(reading.branch.number + 1) % len(event.branches)], reading.is_other_version)
        return reading

    return patch.object(MySQLRows, "fire", fire)


def refusal_codes_off_by_one() -> AbstractContextManager[Any]:
    """Each refusing state's code is read as the one before."""
    right = MySQLRows.fire

    def fire(self: MySQLRows, connection: Connection, event: EventSQL, parameters: Any, **how: Any) -> Reading:
        reading = right(self, connection, event, parameters, **how)
        if isinstance(reading, Refusal):
            return reading._replace(state=event.states[event.states.index(reading.state) - 1])
        return reading

    return patch.object(MySQLRows, "fire", fire)


@contextmanager
def guard_outside_of_the_case() -> Iterator[None]:
    """The code is made without guards, and they stand beside it in the WHERE."""
    right = EventSQL._code_in

    def without_guards(self: EventSQL, index: int, branches: Any) -> Any:
        return number(branches[0].code) if branches else right(self, index, branches)

    def fire(self: MySQLRows, event: EventSQL, *, known_version: Any) -> Any:
        remembered = func.last_insert_id(event.code(known_version=known_version) + number(OFFSET))
        guards = [branch.guard for branch in event.branches if branch.guard is not None]
        statement = update(event.row.table).where(event.row.is_key(), remembered >= number(OFFSET + TAKEN), *guards)
        return statement.ordered_values(*event.assignments())

    with patch.object(EventSQL, "_code_in", without_guards), patch.object(MySQLRows, "fire_statement", fire):
        yield


def savepoint_rule_removed() -> AbstractContextManager[Any]:
    """After a savepoint's rollback the instances stay as the fire left them."""
    return patch.object(Journal, "_expire", lambda *_: None)


def retry_of_one_statement() -> AbstractContextManager[Any]:
    """After a deadlock the statement is sent again; the server has forgotten what came before it."""
    right = MySQLRows.fire

    def fire(self: MySQLRows, connection: Connection, event: EventSQL, parameters: Any, **how: Any) -> Reading:
        while True:
            try:
                return right(self, connection, event, parameters, **how)
            except DBAPIError as error:
                if transactions.meaning(error) is not transactions.Meaning.ABORTED:
                    raise

    return patch.object(MySQLRows, "fire", fire)


def token_outside_of_the_history() -> AbstractContextManager[Any]:
    """The token is not written down."""
    within = MySQLHistory.record

    def record(self: MySQLHistory, connection: Connection, history: Any, parameters: Any) -> int:
        return within(self, connection, history, {**parameters, "fsm_token": None})

    return patch.object(MySQLHistory, "record", record)


def plain_resolution() -> AbstractContextManager[Any]:
    """Every COMMIT of unknown outcome is taken for one that failed, and the unit is told to have failed."""

    def of_commit(error: Exception, tokens: list[str]) -> Any:
        units.raise_of_unit(error)

    return patch.object(units, "raise_of_commit", of_commit)


def guard_reads_without_locks() -> AbstractContextManager[Any]:
    """What a guard reads of other rows is read as any UPDATE under READ COMMITTED reads it."""
    return patch.object(expressions, "for_share", lambda expression: expression)


def members_compared_as_text() -> AbstractContextManager[Any]:
    """In all operators but = and IN, a member of an Enum goes to the driver as any other object."""

    def coerced(self: StateType, op: Any, value: Any) -> Any:
        return self if getattr(op, "__name__", "") in ("eq", "ne", "in_op", "not_in_op") else String()

    return patch.object(StateType, "coerce_compared_value", coerced)


WRONG: dict[str, Wrong] = {
    "": nullcontext,
    "read-then-write": read_then_write,
    "history outside of the transaction": history_outside_of_the_transaction,
    "acknowledging without commit": acknowledging_without_commit,
    "code table off by one": code_table_off_by_one,
    "refusal codes off by one": refusal_codes_off_by_one,
    "guard outside of the CASE": guard_outside_of_the_case,
    "guard reads without locks": guard_reads_without_locks,
    "members compared as text": members_compared_as_text,
    "savepoint rule removed": savepoint_rule_removed,
    "retry of one statement": retry_of_one_statement,
    "token not recorded": token_outside_of_the_history,
    "unknown outcome taken for a failure": plain_resolution,
}


def wrong_version(name: str) -> AbstractContextManager[Any]:
    """The library in the wrong version *name* within the block; the right one for the empty name."""
    return WRONG[name]()
