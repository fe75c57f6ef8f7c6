"""One fire on MySQL and MariaDB: one UPDATE whose own answer reports the outcome.

``LAST_INSERT_ID(expr)`` remembers the value of *expr*, and the server sends it back with the statement's answer, as
``cursor.lastrowid`` (https://dev.mysql.com/doc/refman/9.4/en/information-functions.html#function_last-insert-id). The
UPDATE computes the outcome code there, in its WHERE. A row that the event does not move is therefore not updated, but
its code was computed from the locked row. The lock lasts for this one statement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from weakref import WeakSet, ref

from sqlalchemy import ColumnElement, Connection, Dialect, Executable, func, select, update

from ...errors import FSMError, OutcomeHidden
from ...sql.code import HIDDEN, OFFSET, TAKEN, Reading
from ...sql.events import Chosen, EventSQL, number
from ...sql.locks import locked_tests
from ..ready import ReadyStatement, built_once
from ..rows import RowStatements
from ..transactions import is_autocommit
from .remembered import has_full_locks, is_remembered_at_once

__all__ = ["REMEMBERED", "MySQLLockingRows", "MySQLRows"]

# Without an argument, LAST_INSERT_ID() is the value remembered last; halved, it fits a signed BIGINT.
REMEMBERED = Chosen(func.last_insert_id().bitwise_rshift(number(1)), lambda branch: OFFSET + branch.code >> 1)


# Where an event keeps its ready statement, without and with a version that the session knows.
_READY = ("mysql fire", "mysql fire of a known version")


class ReadyFire(ReadyStatement):
    """The UPDATE of a fire; `answering` has the dialects, and so the engines, whose answer contains the code."""

    knows_version: bool

    __slots__ = ("answering", "knows_version", "last_answering")

    def __init__(self, statement: Executable, *, knows_version: bool) -> None:
        super().__init__(statement)
        self.knows_version = knows_version
        self.answering: WeakSet[Dialect] = WeakSet()
        self.last_answering: Callable[[], Dialect | None] = lambda: None  # the last of them: a WeakSet is slow to ask

    def answers_on(self, dialect: Dialect) -> None:
        self.answering.add(dialect)
        self.last_answering = ref(dialect)

    def hides_on(self, dialect: Dialect) -> None:
        self.answering.discard(dialect)
        self.last_answering = lambda: None


class MySQLLockingRows(RowStatements):
    """The locking read, which refuses to decide by rows that the server would not lock."""

    def fire(
        self,
        connection: Connection,
        event: EventSQL,
        parameters: Mapping[str, Any],
        *,
        known_version: bool = False,
    ) -> Reading:
        self.require_locks(connection, event)
        return super().fire(connection, event, parameters, known_version=known_version)

    def require_locks(self, connection: Connection, event: EventSQL, *criteria: ColumnElement[Any]) -> None:
        locks = self.locks_in_tests(event) or any(locked_tests(criterion) for criterion in criteria)
        if locks and not has_full_locks(connection):
            raise FSMError(
                f"{event.name!r} decides by other rows, in an EXISTS, an IN or an aggregate, and this server, which is "
                "neither MySQL nor MariaDB, does not keep the locks of those rows: ask by a scalar subquery, or mark "
                "the subquery by unlocked(), which lets those rows change before COMMIT"
            )

    @built_once
    def locks_in_tests(self, event: EventSQL) -> bool:
        """Whether a guard or an effect of *event* locks other rows by an EXISTS, an IN or an aggregate."""
        guards = [branch.guard for branch in event.branches if branch.guard is not None]
        effects = [value for branch in event.branches for value in branch.effects.values()]
        return any(locked_tests(expression) for expression in (*guards, *effects))


class MySQLRows(MySQLLockingRows):
    """One statement for each fire. Where its answer does not contain the code, a second look."""

    def fire(
        self,
        connection: Connection,
        event: EventSQL,
        parameters: Mapping[str, Any],
        *,
        known_version: bool = False,
    ) -> Reading:
        ready = event.cache.get(_READY[known_version])
        if ready is None:
            ready = self.ready_fire(event, known_version=known_version)
        dialect = connection.dialect
        if ready.last_answering() is dialect or dialect in ready.answering:
            remembered, rows = ready.answer(connection, parameters)
            reading = event.readings.get(remembered - OFFSET)
            return reading or self._read(connection, event, ready, parameters, remembered, rows)
        # A table with an UPDATE trigger needs a second look. A proxy that shares server connections sends it to another
        # session, unless it is in the UPDATE's transaction. So in AUTOCOMMIT there is a transaction until an answer has
        # contained a code.
        if (event.is_guarded or self.locks_in_tests(event)) and not is_remembered_at_once(connection):
            return super().fire(connection, event, parameters, known_version=known_version)
        with self.transactions.together(connection):
            remembered, rows = ready.answer(connection, parameters)
            return self._read(connection, event, ready, parameters, remembered, rows)

    def _read(
        self,
        connection: Connection,
        event: EventSQL,
        ready: ReadyFire,
        parameters: Mapping[str, Any],
        remembered: int,
        rows: int,
    ) -> Reading:
        """The reading of the UPDATE's answer, of the value *remembered* and so many *rows*; else by a second look."""
        code = remembered - OFFSET
        if code >= HIDDEN:
            if rows:
                ready.answers_on(connection.dialect)
            return event.read(code)
        # An UPDATE trigger on the table hides the remembered id from the answer, but not from the session.
        if rows:
            return self._second_look(connection, event, ready, parameters)
        # There is no such row, or the answer says too little: a driver may hide the id, or count changed rows and
        # not found rows. The UPDATE has changed nothing, so the locking read can decide.
        return super().fire(connection, event, parameters, known_version=ready.knows_version)

    def _second_look(
        self, connection: Connection, event: EventSQL, ready: ReadyFire, parameters: Mapping[str, Any]
    ) -> Reading:
        """The code that the session remembers, after an UPDATE that moved the row and whose answer did not contain it.

        Raises: OutcomeHidden in AUTOCOMMIT outside of a transaction, since the session may be another one by now.
        """
        if connection.dialect in ready.answering and is_autocommit(connection):  # the trigger is new
            ready.hides_on(connection.dialect)
            if not self.transactions.is_together(connection):
                keys = tuple(parameters[f"fsm_key_{i}"] for i in range(len(event.row.key)))
                key = keys[0] if len(keys) == 1 else keys
                raise OutcomeHidden(table=event.row.table.name, key=key, event=event.name)
        return event.read(int(connection.execute(select(func.last_insert_id())).scalar_one()) - OFFSET)

    def statements(self, event: EventSQL) -> list[Executable]:
        return [self.fire_statement(event, known_version=False)]

    def explained(self, event: EventSQL, *, makes_versions: bool = False) -> Iterator[tuple[str, Executable]]:
        if makes_versions:
            yield "always: the version that the next one is made of", self.read_version(event)
        yield "always", self.fire_statement(event, known_version=False)
        if event.row.version is not None:
            yield "or, when the session knows the row's version", self.fire_statement(event, known_version=True)
        yield "when it moved the row, and a trigger on the table hides the answer", select(func.last_insert_id())
        rest = list(super().explained(event))
        yield "when no row was moved, and none seen: a locking read decides", rest[0][1]
        for when, statement in rest[1:]:
            yield f"after the locking read, {when}", statement

    def ready_fire(self, event: EventSQL, *, known_version: bool) -> ReadyFire:
        """:meth:`fire_statement`, compiled once for each dialect."""
        statement = self.fire_statement(event, known_version=known_version)
        ready = event.cache[_READY[known_version]] = ReadyFire(statement, knows_version=known_version)
        return ready

    @built_once
    def fire_statement(self, event: EventSQL, *, known_version: bool) -> Executable:
        """The one UPDATE of a fire."""
        remembered = func.last_insert_id(event.code(known_version=known_version) + number(OFFSET))
        # The effects of a guarded event read the code that the WHERE has remembered. Asked again, a guard could give
        # another answer, because an effect before may have changed the columns that it reads.
        chosen = REMEMBERED if event.is_guarded else None
        return (
            update(event.row.table)
            .where(event.row.is_key(), remembered >= number(OFFSET + TAKEN))
            .ordered_values(*event.assignments(chosen))
        )
