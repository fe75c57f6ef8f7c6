"""The details of a fire, checked before its first statement: the history row that holds them is written after the move.

The value is serialized as its column will do it, by the engine's own ``json_serializer`` if it has one.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, NoReturn

from sqlalchemy import JSON, Dialect
from sqlalchemy.types import TypeEngine

__all__ = ["DEPTH", "check_details"]

DEPTH: Final = 31
"""How deep lists and objects may lie in each other: MariaDB stores 31 levels, MySQL 100."""

# Both servers refuse NaN, half a surrogate pair and numbers beyond a double, all of which Python's json writes. A text
# without any of these signs needs no second look. Each pattern begins with a sign that most texts have few of.
_HALF_A_PAIR: Final = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
_LARGE_NUMBER: Final = re.compile(r"[0-9](?:[eE]\+?[0-9]{3}|[0-9]{299})")


def check_details(details: Any, type_: TypeEngine[Any], dialect: Dialect) -> None:
    """Refuse *details* that a column of *type_* cannot hold.

    Raises: TypeError for a value that its serializer does not take; ValueError for one that is no JSON, as NaN, or that
    is nested deeper than `DEPTH`.
    """
    serialize = type_.dialect_impl(dialect).bind_processor(dialect)
    if serialize is None:
        return
    try:
        text = serialize(details)
        if isinstance(text, (bytes, bytearray)):
            text = text.decode()
        if isinstance(text, str) and isinstance(getattr(type_, "impl_instance", type_), JSON):
            _check_text(text)
    except RecursionError as error:
        raise ValueError(f"details= is nested deeper than {DEPTH} levels") from error
    except TypeError as error:
        raise TypeError(f"details= is stored as JSON: {error}") from error
    except ValueError as error:
        raise ValueError(f"details= is stored as JSON: {error}") from error


def _check_text(text: str) -> None:
    may_be_deep = text.count("[") + text.count("{") > DEPTH
    has_constant = "NaN" in text or "Infinity" in text
    has_pairs = ("\\u" in text or not text.isascii()) and _HALF_A_PAIR.search(text) is not None
    if not (may_be_deep or has_constant or has_pairs or _LARGE_NUMBER.search(text)):
        return
    value = json.loads(text, parse_constant=_no_number, parse_float=_double, parse_int=_double)
    if _depth(value) > DEPTH:
        raise ValueError(f"it is nested deeper than {DEPTH} levels")
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("it has text with a lone surrogate, which UTF-8 cannot encode") from error


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [one for one in level if isinstance(one, (list, dict))]:
        depth += 1
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return depth


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number in JSON")


def _double(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueError("a number is too large for a double")
    return number
