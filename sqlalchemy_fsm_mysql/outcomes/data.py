"""Outcomes as data: the dicts that ``to_dict()`` returns, typed, and how a primary key becomes JSON."""

from __future__ import annotations

import sys
from types import NoneType
from typing import Any, Literal

# pydantic takes only typing_extensions' TypedDict before Python 3.12. SQLAlchemy needs typing_extensions, too.
if sys.version_info >= (3, 12):
    from typing import TypedDict
else:
    from typing_extensions import TypedDict

__all__ = [
    "JSON",
    "KeyData",
    "MissingData",
    "MovedData",
    "MovedRowsData",
    "RefusedData",
    "RowErrorData",
    "TransitionData",
    "plain_key",
]

JSON = Any  # Any: what JSON can hold, and no type checker can spell a recursive type in every framework's schema


class MovedData(TypedDict):
    """A ``Moved`` as data; ``source`` and ``target`` are states as they are stored, ``details`` is JSON."""

    moved: Literal[True]
    model: str
    key: JSON
    event: str
    source: str
    target: str
    changed: bool
    created: bool
    replayed: bool
    sequence: int | None
    actor: str | None
    details: JSON
    token: str | None


class RefusedData(TypedDict):
    """A ``Refused`` as data; ``state`` and ``allowed_from`` are states as they are stored."""

    moved: Literal[False]
    model: str
    key: JSON
    event: str
    state: str
    reason: Literal["state", "guard"]
    allowed_from: list[str]
    failed: list[str]
    sentences: list[str]


class MissingData(TypedDict):
    """A ``Missing`` as data."""

    moved: Literal[False]
    model: str
    key: JSON
    event: str
    state: None
    reason: Literal["missing"]


class TransitionData(TypedDict):
    """The number of rows that took one transition."""

    source: str
    target: str
    rows: int


class KeyData(TypedDict):
    """The transition that one row took."""

    key: JSON
    source: str
    target: str


class RowErrorData(TypedDict):
    """A row that stays as it is, because the server failed on it; ``error`` is the text for developers."""

    key: JSON
    event: str | None
    error: str


class _MovedRowsData(TypedDict):
    model: str
    event: str
    moved: int
    changed: int
    by_transition: list[TransitionData]


class MovedRowsData(_MovedRowsData, total=False):
    """A ``MovedRows`` as data; ``errors`` and ``keys`` are there when it has them."""

    errors: list[RowErrorData]
    keys: list[KeyData]


def plain_key(key: object) -> JSON:
    """A primary key for JSON: a list when composite; a UUID, a date or bytes as text.

    >>> plain_key(42), plain_key((1, b"\\x01")), plain_key("x")
    (42, [1, '01'], 'x')
    """
    if isinstance(key, tuple):
        return [plain_key(part) for part in key]
    if isinstance(key, (bytes, bytearray)):
        return key.hex()
    return key if isinstance(key, (int, str, float, NoneType)) else str(key)
