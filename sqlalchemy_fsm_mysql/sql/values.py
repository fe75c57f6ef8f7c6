"""The Python values that fit a SQL type. MySQL and MariaDB convert a value of another type, and may find it equal.

A text is compared with a number as numbers, so ``code = 0`` is true of every text that begins with no digit
(https://dev.mysql.com/doc/refman/9.4/en/type-conversion.html). A guard that compares a text column with a payload
would let the number 0 through, which is what JSON's ``{"code": 0}`` gives.
"""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from math import isfinite
from typing import Any, Final

from sqlalchemy import (
    Boolean,
    Date,
    DateTime,
    Enum,
    Integer,
    Interval,
    LargeBinary,
    Numeric,
    String,
    Time,
    TypeDecorator,
)
from sqlalchemy.types import NullType, TypeEngine

from ..errors.texts import shown

__all__ = ["has_surrogate", "python_types", "unfit"]

_BYTES: Final = (bytes, bytearray, memoryview)
_BITS_OF_DOUBLE: Final = 1024  # no number that a column holds is larger
_SCALARS: Final = (str, *_BYTES, int, float, Decimal, date, time, timedelta)

# The first match counts: in SQLAlchemy an Enum is a String, and in Python a datetime is a date.
_KINDS: Final[tuple[tuple[type[TypeEngine[Any]], tuple[type[Any], ...] | None], ...]] = (
    (TypeDecorator, None),
    (Enum, None),
    (LargeBinary, _BYTES),
    (Boolean, (bool,)),
    (Integer, (int,)),
    (Numeric, (int, float, Decimal)),
    (Interval, (timedelta,)),
    (DateTime, (datetime,)),
    (Date, (date,)),
    (Time, (time,)),
    (String, (str,)),
    (NullType, _SCALARS),
)


def python_types(type_: TypeEngine[Any]) -> tuple[type[Any], ...] | None:
    """The Python types whose values a column of *type_* is compared with and assigned, without a conversion.

    None where the type converts values itself, and refuses those that it cannot: an Enum, JSON, a TypeDecorator.

    >>> python_types(String()), python_types(Integer())
    ((<class 'str'>,), (<class 'int'>,))
    """
    return next((kinds for kind, kinds in _KINDS if isinstance(type_, kind)), None)


def unfit(type_: TypeEngine[Any], value: Any, *, is_list: bool = False) -> Exception | None:
    """The TypeError or ValueError for a *value* that a parameter of *type_* cannot be given; None when it fits.

    With *is_list*, the parameter belongs to an IN, and takes a list of values. None stands for NULL and fits anything.
    """
    if is_list:
        if not isinstance(value, (list, tuple, set, frozenset)):
            return TypeError(f"takes a list of values, not {type(value).__name__}")
        return next((problem for one in value if (problem := unfit(type_, one)) is not None), None)
    kinds = python_types(type_)
    if value is None or kinds is None:
        return None
    if not _is_one_of(kinds, value):
        return TypeError(f"takes {_shown_kinds(type_, kinds)}, not {type(value).__name__}")
    return _unsendable(value, 64 if isinstance(type_, Integer) else _BITS_OF_DOUBLE)


def _is_one_of(kinds: tuple[type[Any], ...], value: Any) -> bool:
    # In Python, a bool is an int and a datetime is a date; in SQL they are other types.
    if isinstance(value, bool) and kinds is not _SCALARS:
        return bool in kinds
    if isinstance(value, datetime) and kinds is not _SCALARS:
        return datetime in kinds
    return isinstance(value, kinds)


def _unsendable(value: Any, bits: int) -> ValueError | None:
    if isinstance(value, int) and value.bit_length() > bits:
        return ValueError(f"takes a whole number of at most {bits} bits, not one of {value.bit_length():,}")
    if isinstance(value, (float, Decimal)) and not isfinite(value):
        return ValueError(f"takes a finite number, not {shown(value)}")
    if isinstance(value, str) and has_surrogate(value):
        return ValueError("takes text that UTF-8 can encode, and this text has a lone surrogate")
    return None


def _shown_kinds(type_: TypeEngine[Any], kinds: tuple[type[Any], ...]) -> str:
    if kinds is _SCALARS:
        return "one value of a column's"
    if kinds is _BYTES:
        return "bytes"
    return " or ".join(kind.__name__ for kind in kinds) + f" (the column is {type(type_).__name__})"


def has_surrogate(text: str) -> bool:
    """Whether *text* has a half of a surrogate pair, which UTF-8 cannot hold."""
    if text.isascii():
        return False
    return any("\ud800" <= character <= "\udfff" for character in text)
