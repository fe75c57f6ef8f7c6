"""Keys of many rows, as criteria."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, and_, or_, tuple_


def is_beyond(key: Sequence[ColumnElement[Any]], values: Sequence[Any]) -> ColumnElement[bool]:
    """Whether a row comes after *values* in the order of its *key*.

    Without a comparison of tuples, for which MySQL uses no index range
    (https://dev.mysql.com/doc/refman/9.4/en/range-optimization.html#row-constructor-range-optimization).

    >>> from sqlalchemy import column
    >>> print(is_beyond([column("a"), column("b")], [1, 2]))
    a > :a_1 OR a = :a_2 AND b > :b_1
    """
    alternatives = []
    for i, (column, value) in enumerate(zip(key, values, strict=True)):
        same = [column == value for column, value in zip(key[:i], values[:i], strict=True)]
        alternatives.append(and_(*same, column > value))
    return or_(*alternatives)


def is_among(key: Sequence[Column[Any]], keys: Sequence[tuple[Any, ...]]) -> ColumnElement[bool]:
    """Whether a row's *key* is one of *keys*."""
    if len(key) == 1:
        return key[0].in_([parts[0] for parts in keys])
    return tuple_(*key).in_(keys)
