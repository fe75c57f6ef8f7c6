"""The table of a history on a base that brings a primary key of its own.

Without one, the key of the row and ``sequence`` are the primary key. Many bases bring a surrogate key ``id``. Then this
is the primary key, and the other two are a unique key: fires read the last number of a row by it, and it is what makes
a number unique.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Column, Integer, Table, UniqueConstraint
from sqlalchemy.schema import SchemaItem
from sqlalchemy.schema import Sequence as DatabaseSequence
from sqlalchemy.sql.elements import conv

from ..databases.identifiers import short_identifier
from ..errors import InvalidMachine

__all__ = ["shown_row", "table_parts"]


def table_parts(model: type[Any], table: str, parts: Sequence[SchemaItem], key: Sequence[str]) -> list[SchemaItem]:
    """The *parts* of the table of the history *model*; *key* are the attributes of the row's key and the number.

    Raises: InvalidMachine when the model inherits a primary key that the database does not make.
    """
    columns = [part for part in parts if isinstance(part, Column)]
    if not key:  # mapped before the history was declared: __init_subclass__ raises
        return list(parts)
    own = [column for column in columns if column.key in key]
    surrogate = [column for column in columns if column.primary_key and column not in own]
    if not surrogate:
        return list(parts)
    problems = list(_problems(model, surrogate))
    if problems:
        raise InvalidMachine(problems)
    for column in own:
        column.primary_key = False
    unique = UniqueConstraint(*(column.name for column in own), name=conv(short_identifier(f"uq_{table}_sequence")))
    return [*parts, unique]


def _problems(model: type[Any], surrogate: Sequence[Column[Any]]) -> Iterator[str]:
    for column in surrogate:
        is_made = column.server_default is not None or column.identity is not None or column.computed is not None
        is_sequence = isinstance(column.default, DatabaseSequence)
        advice = f"give {column.name!r} a default in the database, or declare the history on a base without it"
        inherits = f"{model.__name__} inherits the primary key {column.name!r}"
        if column.default is not None and not is_sequence:
            # Statements that record many moves are an INSERT … SELECT.
            yield f"{inherits}, whose default Python makes, once for all the rows of a statement: {advice}"
        elif not (is_made or is_sequence or _counts(column, surrogate)):
            yield f"{inherits}, and neither a default nor AUTO_INCREMENT gives it a value: {advice}"


def _counts(column: Column[Any], surrogate: Sequence[Column[Any]]) -> bool:
    """Whether *column* is the only one, and AUTO_INCREMENT."""
    is_integer = column.type._type_affinity is Integer  # noqa: SLF001 - as Table's own autoincrement does
    return len(surrogate) == 1 and is_integer and column.autoincrement is not False and not column.foreign_keys


def shown_row(row: Any) -> str:
    """The ``repr`` of a history row: what is loaded of its key, the event and the states; no SQL is sent for it.

    >>> from types import SimpleNamespace
    >>> shown_row(SimpleNamespace(record_id=1, sequence=2, event="Pay", actor="ada"))
    "SimpleNamespace(record_id=1, sequence=2, event='Pay')"
    """
    loaded = row.__dict__
    names = [*(name for name in loaded if name.startswith("record_")), "sequence", "event", "source", "target"]
    values = ", ".join(f"{name}={loaded[name]!r}" for name in names if name in loaded)
    return f"{type(row).__name__}({values})"


def make_table(model: type[Any], make: Any, arguments: Sequence[Any], options: Any, key: Sequence[str]) -> Table:
    """The table that *make*, the class of the base's tables, makes of *arguments*: name, metadata, parts."""
    name, metadata, *parts = arguments
    table: Table = make(name, metadata, *table_parts(model, name, parts, key), **options)
    return table
