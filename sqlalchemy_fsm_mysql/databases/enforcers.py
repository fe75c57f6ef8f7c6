"""Which triggers a database takes."""

from __future__ import annotations

from sqlalchemy import Dialect

from .mysql_triggers import MySQLEnforcer
from .sqlite_triggers import SQLiteEnforcer
from .triggers import Enforcer

_NONE = Enforcer()
_ENFORCERS: dict[str, Enforcer] = {"mysql": MySQLEnforcer(), "mariadb": MySQLEnforcer(), "sqlite": SQLiteEnforcer()}


def enforcer_of(dialect: Dialect) -> Enforcer:
    """The one that fits *dialect*, whichever backend was asked for."""
    return _ENFORCERS.get(dialect.name, _NONE)
