"""All that differs between databases: one :class:`Database` for each, composed of parts.

``database.py`` is the list of them and the only place that reads a dialect's name. The modules beside it are the parts
for any database with row locks; ``mysql/`` and ``sqlite/`` override what their databases do in another way.
"""

from __future__ import annotations

from . import compiled  # noqa: F401 - tells SQLAlchemy the text of our expressions
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
    ends_on_any_error,
    enforcer_of,
    errors_of,
    file_of,
    has_server,
    is_embedded,
    is_in_memory,
    name_of,
    require_database,
    supported,
    syntax_of,
    types_of,
)
from .transactions import at_level, is_autocommit

__all__ = [
    "EXECUTION_OPTION",
    "LOCKING",
    "MARIADB",
    "MYSQL",
    "SQLITE",
    "SUPPORTED",
    "Database",
    "at_level",
    "database_of",
    "database_of_dialect",
    "ends_on_any_error",
    "enforcer_of",
    "errors_of",
    "file_of",
    "has_server",
    "is_autocommit",
    "is_embedded",
    "is_in_memory",
    "name_of",
    "require_database",
    "supported",
    "syntax_of",
    "types_of",
]
