"""The types of our columns, on any database with VARCHAR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from sqlalchemy import Connection, DateTime, Dialect, Integer, SmallInteger, String
from sqlalchemy.types import TypeEngine

__all__ = ["ColumnTypes", "integer_type"]

_SMALLINT = range(-(2**15), 2**15)


class ColumnTypes:
    """The types of our columns. Each method gets the dialect that will write the type."""

    has_enum: ClassVar[bool] = False
    """Whether the database has a type that stores one of a list of texts as a number."""

    def learn(self, connection: Connection) -> None:
        """Ask the server of *connection*, once for each dialect, what its types can have."""

    def share(self, dialect: Dialect, other: Dialect) -> None:
        """Let *other*, a dialect for the same server, know all that was learned for *dialect*."""

    def state(self, dialect: Dialect, states: Sequence[str], storage: str) -> TypeEngine[Any]:
        """The type of a state column with *states*, the values that it stores; numbers are texts of digits."""
        if storage == "integer":
            return integer_type(states)
        return String(max(map(len, states)))

    def exact_text(self, dialect: Dialect, length: int) -> TypeEngine[str]:
        """A text type that compares every difference: in case, in accents, in trailing spaces."""
        return String(length)

    def timestamp(self) -> TypeEngine[Any]:
        """A type for points in time with microseconds, in UTC."""
        return DateTime()

    def needs_check(self, storage: str) -> bool:
        """Whether the column needs a CHECK, because its type accepts undeclared states."""
        return storage != "enum" or not self.has_enum


def integer_type(numbers: Sequence[str]) -> TypeEngine[int]:
    """SMALLINT where it takes all *numbers*, else INT.

    >>> integer_type(["1", "-3"]), integer_type(["40000"])
    (SmallInteger(), Integer())
    """
    return SmallInteger() if all(int(number) in _SMALLINT for number in numbers) else Integer()
