"""The database's own clock."""

from __future__ import annotations

from typing import Any

from sqlalchemy import DateTime
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class utc_now(FunctionElement[Any]):  # noqa: N801 - a SQL function, written like func.now
    """The database's current time in UTC, with microseconds where it has them (SQLite: milliseconds)."""

    type = DateTime()
    inherit_cache = True
    name = "utc_now"


@compiles(utc_now)
def _standard(element: utc_now, compiler: Any, **_: Any) -> str:
    return "CURRENT_TIMESTAMP"


@compiles(utc_now, "mysql")
@compiles(utc_now, "mariadb")
def _mysql(element: utc_now, compiler: Any, **_: Any) -> str:
    return "UTC_TIMESTAMP(6)"


@compiles(utc_now, "sqlite")
def _sqlite(element: utc_now, compiler: Any, **_: Any) -> str:
    return "(strftime('%Y-%m-%d %H:%M:%f', 'now') || '000')"
