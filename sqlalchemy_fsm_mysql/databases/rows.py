"""The statements that fire an event on one row, for any database with row locks: a locking read, then the update."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, Executable, String, bindparam, select, type_coerce, update
from sqlalchemy.exc import DBAPIError

from ..errors import FSMError, RefusedByDatabase
from ..sql.code import NO_ROW, Reading, Taken
from ..sql.events import EventSQL
from ..sql.exact import stored_text
from ..sql.locks import locked_aggregates
from .messages import refusal_in
from .ready import built_once

if TYPE_CHECKING:
    from .kinds import Database
    from .transactions import Transactions

__all__ = ["PortableRows", "RowStatements"]


class RowStatements:
    """Fires an event by ``SELECT … FOR UPDATE`` and ``UPDATE``: two round trips that every server and proxy knows.

    Subclasses override what their database does better. The parameters of each statement name the row by its key.
    """

    database: Database
    transactions: Transactions

    def __init__(self, database: Database) -> None:
        self.database, self.transactions = database, database.transactions

    def fire(
        self,
        connection: Connection,
        event: EventSQL,
        parameters: Mapping[str, Any],
        *,
        known_version: bool = False,
    ) -> Reading:
        """Fire *event* on the row that *parameters* name, and return the reading of the outcome code.

        With *known_version* the reading says whether the row had the version that the parameters carry.
        """
        with self.transactions.together(connection):
            self.lock(connection, event)
            code = connection.execute(
                self.read_code(event, known_version=known_version), parameters
            ).scalar_one_or_none()
            if code is None:
                return NO_ROW
            reading = event.read(int(code))
            if isinstance(reading, Taken):
                connection.execute(self.take(event, reading.branch.number), parameters)
            return reading

    def require_locks(self, connection: Connection, event: EventSQL, *criteria: ColumnElement[Any]) -> None:
        """Refuse an event, or criteria, that decide by other rows in a way in which the server would not lock them.

        Raises: FSMError.
        """

    def force(self, connection: Connection, event: EventSQL, parameters: Mapping[str, Any], target: str) -> Any:
        """Set the row's state to the parameter ``fsm_state``; the value before, `NO_ROW` for a missing row.

        *target* is the parameter's text. The triggers compare it when their exception is needed, which is only after
        they have refused the UPDATE.
        """
        with self.transactions.together(connection):
            self.lock(connection, event)
            before = self.stored_state(connection, event, parameters)
            if before is NO_ROW:
                return NO_ROW
            put = self.put_state(event)
            try:
                connection.execute(put, parameters)
            except (DBAPIError, RefusedByDatabase) as error:
                if refusal_in(error) is None:
                    raise
                text = connection.execute(self.read_text(event), parameters).scalar_one()
                state = event.row.state
                before_text, after_text = "" if text is None else str(text), stored_text(state, target)
                with self.database.enforcer.permitted(connection, state, before_text, after_text, rows=1):
                    connection.execute(put, parameters)
            return before

    def stored_state(self, connection: Connection, event: EventSQL, parameters: Mapping[str, Any]) -> Any:
        """The value in the row's state column now, `NO_ROW` for a missing row; None is the value NULL.

        It is read with a lock, because a plain read may show an old snapshot.
        """
        row = connection.execute(self.read_state(event), parameters).one_or_none()
        return NO_ROW if row is None else row[0]

    def stored_version(self, connection: Connection, event: EventSQL, parameters: Mapping[str, Any]) -> Any:
        """The row's version now, read with a lock; None for a missing row."""
        self.lock(connection, event)
        return connection.execute(self.read_version(event), parameters).scalar_one_or_none()

    def lock(self, connection: Connection, event: EventSQL) -> None:
        """Take the lock that keeps the row from moving between read and update, where the read itself does not."""

    def statements(self, event: EventSQL) -> list[Executable]:
        """The statements that fire *event*, in order. A fire sends at most one of those that take a branch."""
        return [
            self.read_code(event, known_version=False),
            *(self.take(event, branch.number) for branch in event.branches),
        ]

    def explained(self, event: EventSQL, *, makes_versions: bool = False) -> Iterator[tuple[str, Executable]]:
        """Every statement that a fire of *event* may send, in order, each with when it is sent; for people to read.

        *makes_versions* is whether Python makes the row's next version.
        """
        if makes_versions:
            yield "always: the version that the next one is made of", self.read_version(event)
        yield "always", self.read_code(event, known_version=False)
        if event.row.version is not None:
            yield "or, when the session knows the row's version", self.read_code(event, known_version=True)
        for branch in event.branches:
            guard = "" if branch.guard is None else ", and the guard is true"
            yield f"when it was {branch.source!r}{guard}", self.take(event, branch.number)
        yield "when it has a state that is not declared", self.read_state(event)

    # The statements. Each is built at its first use and kept in the event.

    @built_once
    def read_code(self, event: EventSQL, *, known_version: bool) -> Executable:
        """A locking read of the outcome code; with *known_version* the code compares the row's version."""
        code = event.code(known_version=known_version).label("code")
        return select(code).where(event.row.is_key()).with_for_update()

    @built_once
    def take(self, event: EventSQL, branch: int) -> Executable:
        """The UPDATE of a locked row that is known to take the branch with this number."""
        assignments = event.branch_assignments(event.branches[branch])
        return update(event.row.table).where(event.row.is_key()).ordered_values(*assignments)

    @built_once
    def read_state(self, event: EventSQL) -> Executable:
        """A locking read of the state, as the column's type loads it."""
        return select(event.row.state).where(event.row.is_key()).with_for_update()

    @built_once
    def read_text(self, event: EventSQL) -> Executable:
        """A locking read of the state as the text that the column stores."""
        return select(type_coerce(event.row.state, String())).where(event.row.is_key()).with_for_update()

    @built_once
    def read_version(self, event: EventSQL) -> Executable:
        """A locking read of the row's version."""
        assert event.row.version is not None
        return select(event.row.version).where(event.row.is_key()).with_for_update()

    @built_once
    def put_state(self, event: EventSQL) -> Executable:
        """The UPDATE that writes the parameter ``fsm_state``, whatever the row's state is."""
        row = event.row
        values = event.forced_assignments(bindparam("fsm_state", type_=row.state.type))
        return update(row.table).where(row.is_key()).ordered_values(*values)


class PortableRows(RowStatements):
    """The same by standard SQL, for a database of which nothing is known."""

    @built_once
    def read_code(self, event: EventSQL, *, known_version: bool) -> Executable:
        for branch in event.branches:
            expressions = [*branch.effects.values(), *([] if branch.guard is None else [branch.guard])]
            if any(locked_aggregates(expression) for expression in expressions):
                raise FSMError(
                    f"{event.name!r} from {branch.source!r} decides by an aggregate of other rows (count, max, "
                    "DISTINCT, GROUP BY …), and standard SQL cannot lock the rows of one: ask by exists(), or mark "
                    "the subquery by unlocked(), which lets those rows change before COMMIT"
                )
        return super().read_code(event, known_version=known_version)
