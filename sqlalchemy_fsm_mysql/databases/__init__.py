"""All that differs between databases: one :class:`Database` for each, composed of parts.

``database.py`` is the list of them and the only place that reads a dialect's name. The modules beside it are the parts
for any database with row locks; ``mysql/`` and ``sqlite/`` override what their databases do in another way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace

from sqlalchemy import Connection, Dialect

from .database import (
    EXECUTION_OPTION,
    LOCKING,
    MARIADB,
    MYSQL,
    SQLITE,
    SUPPORTED,
    Database,
    database_of,
    database_of_dialect,
    enforcer_of,
    file_of,
    has_server,
    is_embedded,
    is_in_memory,
    name_of,
    require_database,
    supported,
    types_of,
)
from .transactions import is_autocommit

__all__ = [
    "EXECUTION_OPTION",
    "LOCKING",
    "MARIADB",
    "MYSQL",
    "SQLITE",
    "SUPPORTED",
    "Database",
    "backend_of",
    "backend_of_dialect",
    "database_of",
    "database_of_dialect",
    "enforcer_of",
    "file_of",
    "has_server",
    "is_autocommit",
    "is_embedded",
    "is_in_memory",
    "name_of",
    "require_database",
    "supported",
    "types_of",
]


# The old names, until the modules of orm are renamed.


class _Backend(SimpleNamespace):
    record: Callable[..., int]
    needs_check: Callable[..., bool]


def backend_of(connection: Connection) -> _Backend:
    return _backend(database_of(connection))


def backend_of_dialect(dialect: Dialect) -> _Backend:
    types = types_of(dialect)
    return _Backend(
        column_type=types.state, exact_text=types.exact_text, timestamp=types.timestamp, needs_check=types.needs_check
    )


@cache
def _backend(database: Database) -> _Backend:
    return _Backend(
        fire=database.rows.fire,
        force=database.rows.force,
        stored_state=database.rows.stored_state,
        stored_version=database.rows.stored_version,
        lock=database.rows.lock,
        can_sweep=database.sets.can_sweep,
        sweep=database.sets.sweep,
        take_keys=database.sets.take_keys,
        record=database.history.record,
        record_sweep=database.history.record_sweep,
        record_keys=database.history.record_keys,
        transaction=database.transactions.together,
        abandon=database.transactions.abandon,
        can_upsert=database.upsert is not None,
        upsert=getattr(database.upsert, "upsert", None),
    )
