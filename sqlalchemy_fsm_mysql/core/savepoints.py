"""A savepoint of one call: its errors take back what the call has done, and nothing else of the transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from .notes import notes_of

__all__ = ["Savepoint", "savepoint"]


class Savepoint(NamedTuple):
    """A savepoint that is set. It is never released: it ends with the transaction, and costs nothing until then."""

    connection: Connection
    name: str

    def roll_back(self) -> None:
        """Take back everything since the savepoint."""
        self.connection.exec_driver_sql(f"ROLLBACK TO SAVEPOINT {self.name}")

    def roll_back_after_error(self) -> None:
        """The same after an error, which may have ended the transaction and the savepoint with it."""
        # Then the first error says why, and it is the one to raise.
        with suppress(DBAPIError):
            if not self.connection.invalidated:
                self.roll_back()


@contextmanager
def savepoint(connection: Connection, name: str) -> Iterator[Savepoint]:
    """Set the savepoint *name* for the block, which rolls back to it after an error of its statements."""
    connection.exec_driver_sql(f"SAVEPOINT {name}")
    notes = notes_of(connection)
    notes.savepoints += 1
    try:
        yield Savepoint(connection, name)
    finally:
        notes.savepoints -= 1
