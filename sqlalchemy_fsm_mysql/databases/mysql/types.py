"""The types of our columns on MySQL and on MariaDB.

``sqlalchemy.dialects.mysql`` is imported in the functions: importing it takes as long as the rest of this library, and
a program that only declares a model does not need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Dialect, text
from sqlalchemy.types import TypeEngine

from ..types import ColumnTypes, integer_type

__all__ = ["MariaDBTypes", "MySQLTypes"]


class MySQLTypes(ColumnTypes):
    """ENUM or VARCHAR in a binary collation; that of VARCHAR does not pad: 'ready' and 'ready ' are different.

    States in ASCII make an ENUM in ``ascii_bin``; states in another script need ``utf8mb4``. A server that has not the
    collation, such as OceanBase and MySQL 5.7, gets ``utf8mb4_bin``. The server is asked before a table is created.
    """

    has_enum = True
    # The collation of a VARCHAR of states, and that of any other exact text. MySQL has no collation of ascii that does
    # not pad.
    state_collation: ClassVar[str] = "utf8mb4_0900_bin"
    exact_collation: ClassVar[str] = "utf8mb4_0900_bin"

    def __init__(self) -> None:
        self._collations: WeakKeyDictionary[Dialect, frozenset[str]] = WeakKeyDictionary()

    def learn(self, connection: Connection) -> None:
        if connection.dialect not in self._collations:
            found = connection.execute(text("SHOW COLLATION"))
            self._collations[connection.dialect] = frozenset(str(row[0]) for row in found)

    def share(self, dialect: Dialect, other: Dialect) -> None:
        if dialect in self._collations:
            self._collations[other] = self._collations[dialect]

    def _known(self, dialect: Dialect, collation: str) -> tuple[str, str]:
        """The character set and the name of *collation*; those of ``utf8mb4_bin`` where the server has it not."""
        if collation not in self._collations.get(dialect, {collation}):
            # It pads: the tokens 'a' and 'a ' are the same one. States are compared as bytes in any collation.
            collation = "utf8mb4_bin"
        return collation.partition("_")[0], collation

    def state(self, dialect: Dialect, states: Sequence[str], storage: str) -> TypeEngine[Any]:
        if storage == "integer":
            return integer_type(states)
        from sqlalchemy.dialects import mysql

        is_ascii = all(map(str.isascii, states))
        if storage == "enum":
            charset, collation = self._known(dialect, "ascii_bin" if is_ascii else self.exact_collation)
            return mysql.ENUM(*_doubled(states, dialect), charset=charset, collation=collation)
        charset, collation = self._known(dialect, self.state_collation if is_ascii else self.exact_collation)
        return mysql.VARCHAR(max(map(len, states)), charset=charset, collation=collation)

    def exact_text(self, dialect: Dialect, length: int) -> TypeEngine[str]:
        from sqlalchemy.dialects import mysql

        charset, collation = self._known(dialect, self.exact_collation)
        return mysql.VARCHAR(length, charset=charset, collation=collation)

    def timestamp(self) -> TypeEngine[Any]:
        from sqlalchemy.dialects import mysql

        return mysql.DATETIME(fsp=6)


class MariaDBTypes(MySQLTypes):
    """As MySQL's, with the collations that MariaDB has."""

    state_collation = "ascii_nopad_bin"
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
