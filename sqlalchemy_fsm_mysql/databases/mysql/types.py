"""The types of our columns on MySQL and on MariaDB.

``sqlalchemy.dialects.mysql`` is imported in the functions: importing it takes as long as the rest of this library, and
a program that only declares a model does not need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from sqlalchemy import Dialect
from sqlalchemy.types import TypeEngine

from ..types import ColumnTypes, integer_type

__all__ = ["MariaDBTypes", "MySQLTypes"]


class MySQLTypes(ColumnTypes):
    """ENUM or VARCHAR in a binary collation; that of VARCHAR does not pad: 'ready' and 'ready ' are different.

    States in ASCII make an ENUM in ``ascii_bin``; states in another script need ``utf8mb4``.
    """

    has_enum = True
    # The character set and collation of a VARCHAR of states, and the collation of any other exact text. MySQL has no
    # collation of ascii that does not pad.
    state_charset: ClassVar[tuple[str, str]] = ("utf8mb4", "utf8mb4_0900_bin")
    exact_collation: ClassVar[str] = "utf8mb4_0900_bin"

    def state(self, dialect: Dialect, states: Sequence[str], storage: str) -> TypeEngine[Any]:
        if storage == "integer":
            return integer_type(states)
        from sqlalchemy.dialects import mysql

        is_ascii = all(map(str.isascii, states))
        if storage == "enum":
            charset, collation = ("ascii", "ascii_bin") if is_ascii else ("utf8mb4", self.exact_collation)
            return mysql.ENUM(*_doubled(states, dialect), charset=charset, collation=collation)
        charset, collation = self.state_charset if is_ascii else ("utf8mb4", self.exact_collation)
        return mysql.VARCHAR(max(map(len, states)), charset=charset, collation=collation)

    def exact_text(self, dialect: Dialect, length: int) -> TypeEngine[str]:
        from sqlalchemy.dialects import mysql

        return mysql.VARCHAR(length, charset="utf8mb4", collation=self.exact_collation)

    def timestamp(self) -> TypeEngine[Any]:
        from sqlalchemy.dialects import mysql

        return mysql.DATETIME(fsp=6)


class MariaDBTypes(MySQLTypes):
    """As MySQL's, with the collations that MariaDB has."""

    state_charset = ("ascii", "ascii_nopad_bin")
    exact_collation = "utf8mb4_nopad_bin"


def _doubled(states: Sequence[str], dialect: Dialect) -> Sequence[str]:
    """*states* as ``mysql.ENUM`` takes them: older SQLAlchemy doubles no backslash and no percent sign by itself."""
    from sqlalchemy.dialects import mysql

    doubled = {
        "\\": getattr(dialect, "_backslash_escapes", True),  # set from sql_mode at the first connect
        "%": getattr(dialect.identifier_preparer, "_double_percents", False),
    }
    for sign, is_doubled in doubled.items():
        if is_doubled and mysql.ENUM(sign).compile(dialect=dialect) == f"ENUM('{sign}')":
            states = [state.replace(sign, sign * 2) for state in states]
    return states
