"""SQLite has one writer at a time: each fire takes the write lock first, then reads and writes under it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from sqlalchemy import Connection, Executable, false, update

from ...sql.code import Reading
from ...sql.events import EventSQL
from ..ready import built_once
from ..rows import RowStatements
from ..transactions import Transactions

__all__ = ["SQLiteRows", "SQLiteTransactions"]


class SQLiteTransactions(Transactions):
    """SQLite's transactions; a database in memory lives as long as its connection."""

    begin = "BEGIN IMMEDIATE"
    ends_on_any_error = False

    @contextmanager
    def together(self, connection: Connection) -> Iterator[None]:
        # A savepoint begins a transaction here, in AUTOCOMMIT too: https://www.sqlite.org/lang_savepoint.html
        with nullcontext() if connection.in_nested_transaction() else super().together(connection):
            yield

    def abandon(self, connection: Connection) -> None:
        transaction = connection.get_transaction()
        if transaction is not None and connection.engine.url.database in {None, "", ":memory:"}:
            transaction.rollback()  # the database would be gone with its connection
        else:
            super().abandon(connection)


class SQLiteRows(RowStatements):
    """Takes the database's write lock, reads the row, updates it. No FOR UPDATE: SQLite has none, and needs none."""

    def fire(
        self,
        connection: Connection,
        event: EventSQL,
        parameters: Mapping[str, Any],
        *,
        known_version: bool = False,
    ) -> Reading:
        try:
            return super().fire(connection, event, parameters, known_version=known_version)
        except OverflowError as error:  # of the driver, before it has sent the statement
            raise ValueError("SQLite stores whole numbers of at most 64 bits, one of them for the sign") from error

    def lock(self, connection: Connection, event: EventSQL) -> None:
        connection.execute(self.take_write_lock(event))

    def statements(self, event: EventSQL) -> list[Executable]:
        return [self.take_write_lock(event), *super().statements(event)]

    def explained(self, event: EventSQL, *, makes_versions: bool = False) -> Iterator[tuple[str, Executable]]:
        yield "always: takes the write lock, and changes nothing", self.take_write_lock(event)
        yield from super().explained(event, makes_versions=makes_versions)

    @built_once
    def take_write_lock(self, event: EventSQL) -> Executable:
        """An UPDATE of no row."""
        # An UPDATE takes the write lock when it starts, before it looks at a row:
        # https://www.sqlite.org/lang_transaction.html
        return update(event.row.table).where(false()).values({event.row.state: event.row.state})
