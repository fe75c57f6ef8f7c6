"""A database that refuses what the machine does not allow, whoever writes: triggers made from the machine.

:func:`enforce_machine` puts them on the table of a state column, :func:`release_machine` takes them away. A column
declared ``enforced=True`` has them from ``metadata.create_all()`` on. What they refuse is :class:`RefusedByDatabase`.

Guards are not repeated in the triggers: an edge is allowed if some event has it, whatever its guard says.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from sqlalchemy import Column, Connection, Engine, Table, inspect
from sqlalchemy.orm import QueryableAttribute

from ..databases import database_of, name_of
from ..databases.triggers import KINDS, CreateTrigger, DropTrigger, InstalledTrigger, column_digest
from ..errors import FSMError
from ..errors.texts import shown
from ..machine.rules import Rules
from ..orm.column import StateType

__all__ = ["enforce_machine", "install_triggers", "own_triggers", "permitted", "release_machine", "remove_triggers"]

LOCK_WAIT = 5


def enforce_machine(column: Any, bind: Connection | Engine, *, lock_wait_timeout: int = LOCK_WAIT) -> None:
    """Have the database of *bind* hold every writer of *column* to its machine, by triggers on its table.

    *column* is a mapped attribute, ``Order.state``, or a Core column with a ``StateType``. Triggers of an older machine
    are replaced: the new ones are created first, so at no time is the table without, and for that moment only what
    both allow is allowed. Called again, it does nothing. Rows are not looked at.

    MySQL and MariaDB commit an open transaction before they create a trigger, and need the privilege TRIGGER for it;
    with the binary log on, see ``log_bin_trust_function_creators``. While it waits for the table, all other writers
    wait, too: it gives up after *lock_wait_timeout* seconds.

    Raises: TypeError when *column* holds no machine's state; FSMError for a database whose triggers are not known here;
    SQLAlchemy's DBAPIError for a missing privilege or table, or after the wait.
    """
    own = state_column(column)
    with connected(bind) as connection:
        install_triggers(connection, own, rules_of(own), lock_wait_timeout=lock_wait_timeout)


def release_machine(column: Any, bind: Connection | Engine, *, lock_wait_timeout: int = LOCK_WAIT) -> None:
    """Take the triggers of :func:`enforce_machine` for *column* away, whichever machine made them.

    Raises: TypeError when *column* holds no machine's state; FSMError when the account could not see a trigger, if
    there was one; SQLAlchemy's DBAPIError.
    """
    own = state_column(column)
    with connected(bind) as connection:
        remove_triggers(connection, own, lock_wait_timeout=lock_wait_timeout)


def permitted(
    column: Any, connection: Connection, source: str, target: str, *, rows: int
) -> AbstractContextManager[None]:
    """The way through the triggers, for repairs: within the block *connection* may take *rows* rows along one edge.

    *source* and *target* are the texts that rows hold. Whatever else is written in the block is held to the machine,
    and so is all that comes after it. ``force_state`` and the Alembic operation ``migrate_states`` go this way.

    On SQLite the trigger is replaced for the block, within a savepoint, by one that does not count the rows.

    Raises: TypeError when *column* holds no machine's state; ValueError when *rows* is no number of rows.
    """
    if type(rows) is not int or rows < 1:
        raise ValueError(f"rows={shown(rows)}: how many rows are let through is a number from 1 on")
    return database_of(connection).enforcer.permitted(connection, state_column(column), source, target, rows=rows)


def state_column(column: Any) -> Column[Any]:
    """The Core column behind *column*.

    Raises: TypeError when it is none, or is in no table.
    """
    if isinstance(column, QueryableAttribute):
        column = getattr(inspect(column).property, "columns", [None])[0]
    if not isinstance(column, Column) or not isinstance(column.table, Table):
        raise TypeError(f"a mapped state such as Order.state is wanted, or a column of a Table, not {shown(column)}")
    return column


def rules_of(column: Column[Any]) -> Rules:
    """The rules that *column* is declared with.

    Raises: TypeError when it holds no machine's state.
    """
    if not isinstance(column.type, StateType):
        raise TypeError(f"{column} has the type {type(column.type).__name__}; a machine's state has a StateType")
    return column.type.rules


@contextmanager
def connected(bind: Connection | Engine) -> Iterator[Connection]:
    """*bind* itself, or a connection of it whose work is committed at the end."""
    if isinstance(bind, Connection):
        yield bind
        return
    if not isinstance(bind, Engine):
        raise TypeError(f"a Connection or an Engine is wanted, not {type(bind).__name__}")
    with bind.begin() as connection:
        yield connection


def own_triggers(connection: Connection, column: Column[Any]) -> list[InstalledTrigger]:
    """The triggers that hold *column* to a machine."""
    digest = column_digest(column.name)
    return [one for one in database_of(connection).enforcer.triggers(connection, column.table) if one.column == digest]


def install_triggers(
    connection: Connection, column: Column[Any], rules: Rules, *, lock_wait_timeout: int = LOCK_WAIT
) -> None:
    """Hold *column* to *rules*, and no longer to others."""
    enforcer = database_of(connection).enforcer
    if not enforcer.can_enforce:
        raise FSMError(
            f"a machine cannot be enforced on {name_of(connection.dialect)}: its triggers are not known here"
        )
    found = own_triggers(connection, column)
    wanted = {kind: CreateTrigger(column, rules, kind) for kind in KINDS}
    have = {(one.kind, one.fingerprint) for one in found}
    with enforcer.waiting_at_most(connection, lock_wait_timeout):
        for kind, trigger in wanted.items():
            if (kind, rules.fingerprint) not in have:
                connection.execute(trigger)
        for one in found:
            if one.fingerprint != rules.fingerprint:
                connection.execute(DropTrigger(column.table, one.name))


def remove_triggers(connection: Connection, column: Column[Any], *, lock_wait_timeout: int = LOCK_WAIT) -> None:
    """Hold *column* to nothing."""
    found = own_triggers(connection, column)
    if not found and not database_of(connection).catalogue.may_see_triggers(connection):
        raise FSMError(
            f"{column}: this account has no privilege TRIGGER, without which no trigger is seen; nothing was changed"
        )
    with database_of(connection).enforcer.waiting_at_most(connection, lock_wait_timeout):
        for one in found:
            connection.execute(DropTrigger(column.table, one.name))
