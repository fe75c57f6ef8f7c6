"""The arguments of the operations, checked when a revision calls one: a wrong argument sends nothing.

What is no text, number or list is a TypeError, and a value that is out of range a ValueError.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from sqlalchemy import JSON
from sqlalchemy.dialects import mysql

from ..core.attribution import ACTOR_LENGTH
from ..core.details import check_details
from ..errors.texts import shown, stored_form
from ..sql.values import has_surrogate

__all__ = [
    "STORAGES",
    "by_text",
    "require_arguments",
    "require_choice",
    "require_list",
    "state_names",
    "state_text",
]

STORAGES: Final = ("enum", "varchar", "integer")
_NAMES = ("table_name", "column_name", "new")
_NAMES_OR_NONE = ("schema", "history", "since")
_TEXTS_OR_NONE = ("definition", "condition", "actor")
_NUMBERS = ("lock_wait_timeout", "attempts", "batch_size")
_FLAGS = ("copies_table", "keeps_timestamps", "drop")
_MOST = 2**31 - 1


def require_arguments(op: object) -> None:
    """Check each attribute of *op*, an operation, whose name says what it is.

    Raises: TypeError, ValueError.
    """
    given = vars(op)
    for name in given.keys() & {*_NAMES, *_NAMES_OR_NONE, *_TEXTS_OR_NONE}:
        value = given[name]
        if value is None and name not in _NAMES:
            continue
        _require_text(name, value)
        if name not in _TEXTS_OR_NONE and (not value or "\0" in value):
            raise ValueError(f"{name}={shown(value)}; it must be a name in the database")
    if len(given.get("actor") or "") > ACTOR_LENGTH:
        raise ValueError(f"actor={shown(given['actor'])}; it must have at most {ACTOR_LENGTH} characters")
    for name in given.keys() & set(_NUMBERS):
        _require_number(name, given[name])
    for name in given.keys() & set(_FLAGS):
        if not isinstance(given[name], bool):
            raise TypeError(f"{name}={shown(given[name])}; it must be True or False")
    for name in given.keys() & {"record", "names"}:
        _require_texts(name, given[name])
    if given.get("details") is not None:
        check_details(given["details"], JSON(), mysql.dialect())


def _require_number(name: str, value: object) -> None:
    """Raises: ValueError when *value* is no whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST:
        raise ValueError(f"{name} is a whole number of at least 1 and at most {_MOST:,}, not {shown(value)}")


def require_choice(name: str, value: object, choices: Collection[str | None]) -> None:
    """Raises: ValueError when *value* is none of *choices*."""
    # No comparison by ==: a value of the caller's may answer it with something that is neither true nor false.
    if not (value is None or isinstance(value, str)) or value not in choices:
        raise ValueError(f"{name}={shown(value)}; there are {', '.join(map(repr, choices))}")


def require_list(name: str, values: object) -> None:
    """Raises: TypeError when *values* are no list, tuple or the like."""
    if not isinstance(values, Collection) or isinstance(values, (str, bytes, bytearray, memoryview, Mapping)):
        raise TypeError(f"{name}={shown(values)}; it must be a list")


def state_names(states: object) -> tuple[str, ...]:
    """*states* as texts; one string is not a list of one.

    Raises: TypeError, ValueError.
    """
    require_list("states", states)
    assert isinstance(states, Collection)
    return tuple(map(state_text, states))


def state_text(state: object) -> str:
    """*state*, a name or a number, as text.

    >>> state_text("new"), state_text(3)
    ('new', '3')

    Raises: TypeError, ValueError.
    """
    if isinstance(state, int) and not isinstance(state, (bool, str)):
        return str(int(state))
    _require_text("a state", state)
    assert isinstance(state, str)
    if not state:
        raise TypeError("a state has a name; '' is none")
    return stored_form(state)


def by_text(names: Any) -> Any:
    """*names*, the names of numbers, by the text of the number."""
    if not isinstance(names, Mapping):  # refused by the operation
        return {} if names is None else names
    return {str(number): name for number, name in names.items()}


def _require_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name}={shown(value)}; it must be a string")
    if has_surrogate(value):
        raise ValueError(f"{name}={shown(value)}; it has a lone surrogate, which UTF-8 cannot encode")


def _require_texts(name: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}={shown(value)}; it must be a dict of names")
    for text in (part for pair in value.items() for part in pair):
        _require_text(name, text)
        if not text:
            raise ValueError(f"{name}={shown(value)}; a name in it is empty")
