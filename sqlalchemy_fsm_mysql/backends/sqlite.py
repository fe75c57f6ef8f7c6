"""SQLite: one writer at a time, so the write lock is taken first and the rest is read and written under it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from sqlalchemy import Connection, false, update

from ..statement import EventSQL
from .base import Backend


class SQLiteBackend(Backend):
    """Takes the database's write lock, reads the row, updates it. No FOR UPDATE: SQLite has none, and needs none."""

    begin = "BEGIN IMMEDIATE"

    @contextmanager
    def transaction(self, connection: Connection) -> Iterator[None]:
        # A savepoint begins a transaction here, in AUTOCOMMIT too: https://www.sqlite.org/lang_savepoint.html
        with nullcontext() if connection.in_nested_transaction() else super().transaction(connection):
            yield

    def lock(self, connection: Connection, event: EventSQL) -> None:
        # Any UPDATE takes the write lock when it starts, before it looks at a row: https://www.sqlite.org/lang_transaction.html
        key = (type(self), "lock")
        if key not in event.cache:
            state = event.row.state
            event.cache[key] = update(event.row.table).where(false()).values({state: state})
        connection.execute(event.cache[key])
