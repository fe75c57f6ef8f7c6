"""The dialect that writes DDL for MySQL and MariaDB."""

from __future__ import annotations

from sqlalchemy import Dialect
from sqlalchemy.dialects import mysql

__all__ = ["both_dialects", "writing_dialect"]


def writing_dialect(dialect: Dialect) -> Dialect:
    """A dialect for the same kind of server, with SQLAlchemy's defaults: no sql_mode changes how text is quoted."""
    return mysql.dialect(paramstyle="named", is_mariadb=getattr(dialect, "is_mariadb", False))


def both_dialects() -> tuple[Dialect, Dialect]:
    """A dialect that writes for MariaDB, and one for MySQL."""
    return (
        mysql.dialect(paramstyle="named", is_mariadb=True),
        mysql.dialect(paramstyle="named", is_mariadb=False),
    )
