"""SQLite: one writer at a time, so the write lock is taken first and the rest is read and written under it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Executable, false, update

from ..sql.events import EventSQL
from .base import Backend


def file_of(url: URL) -> Path | None:
    """The file that *url* names; None for a database in memory, a ``file:`` URI, and a server."""
    is_file = url.get_backend_name() == "sqlite" and not url.host and "uri" not in url.query
    return Path(url.database) if is_file and url.database and url.database != ":memory:" else None


class SQLiteBackend(Backend):
    """Takes the database's write lock, reads the row, updates it. No FOR UPDATE: SQLite has none, and needs none."""

    has_wire = False
    begin = "BEGIN IMMEDIATE"

    @contextmanager
    def transaction(self, connection: Connection) -> Iterator[None]:
        # A savepoint begins a transaction here, in AUTOCOMMIT too: https://www.sqlite.org/lang_savepoint.html
        with nullcontext() if connection.in_nested_transaction() else super().transaction(connection):
            yield

    def abandon(self, connection: Connection) -> None:
        transaction = connection.get_transaction()
        if transaction is not None and connection.engine.url.database in {None, "", ":memory:"}:
            transaction.rollback()  # the database would be gone with its connection
        else:
            super().abandon(connection)

    def lock(self, connection: Connection, event: EventSQL) -> None:
        connection.execute(self.statement(event, ("lock", None)))

    def statements(self, event: EventSQL) -> list[Executable]:
        return [self.statement(event, ("lock", None)), *super().statements(event)]

    def explained(self, event: EventSQL, *, makes_versions: bool = False) -> Iterator[tuple[str, Executable]]:
        yield "always: takes the write lock, and changes nothing", self.statement(event, ("lock", None))
        yield from super().explained(event, makes_versions=makes_versions)

    def _lock(self, event: EventSQL, _: Any) -> Executable:
        # Any UPDATE takes the write lock when it starts, before it looks at a row: https://www.sqlite.org/lang_transaction.html
        return update(event.row.table).where(false()).values({event.row.state: event.row.state})
