"""How many rows hold which state, byte by byte; NULL and ``''`` are values like any other."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, LargeBinary, String, and_, false, func, literal, or_, select

from ..databases.exact import AsBytes
from ..databases.mysql.shape import column_shape, table_kind
from ..errors import MigrationRefused
from .databases import ColumnStates, Place, ServerPlace

NUMBERS = ("tinyint", "smallint", "mediumint", "int", "bigint")

__all__ = ["Value", "is_among", "required", "rows_by_value", "rows_in", "rows_outside", "shown_rows"]

Value = str | None


def rows_by_value(place: Place) -> dict[Value, int]:
    """How many rows hold each value. It reads the whole table."""
    text = AsBytes(place.column)
    counted = place.connection.execute(select(text, func.count()).select_from(place.table).group_by(text))
    rows = {_decoded(value): int(number) for value, number in counted}
    return dict(sorted(rows.items(), key=lambda row: (row[0] is not None, row[0] or "")))


def rows_in(place: Place, states: Collection[Value], *criteria: Any) -> dict[Value, int]:
    """How many rows under *criteria* hold each of *states*; those that none holds are left out."""
    text = AsBytes(place.column)
    query = select(text, func.count()).where(is_among(place.column, states), *criteria).group_by(text)
    found = {_decoded(value): int(number) for value, number in place.connection.execute(query)}
    return {state: found[state] for state in states if state in found}


def rows_outside(place: Place, states: Collection[Value]) -> dict[Value, int]:
    """How many rows hold anything else, by that value."""
    return {value: number for value, number in rows_by_value(place).items() if value not in states}


def is_among(column: ColumnElement[str], states: Collection[Value]) -> ColumnElement[bool]:
    """Whether *column* holds one of *states*, byte by byte."""
    texts = [state for state in states if state is not None]
    # The first comparison is by the column's collation, and may use its index; the second decides.
    among = and_(
        column.in_([literal(text, String()) for text in texts]),
        AsBytes(column).in_([literal(text.encode(), LargeBinary()) for text in texts]),
    )
    parts = [among] if texts else []
    return or_(false(), *parts, *([column.is_(None)] if None in states else []))


def shown_rows(rows: dict[Value, int]) -> dict[str, int]:
    """*rows* for a message, in which NULL is no state of that name."""
    return {"NULL (no value)" if value is None else value: number for value, number in rows.items()}


def required(place: Place, *, is_number: bool = False) -> ColumnStates:
    """The values that the column allows. With *is_number*, the states are numbers.

    Raises: MigrationRefused when there is no such column, or when it is of a kind that the server would convert in its
    own way: a number by position in the ENUM, a text without regard to unknown values.
    """
    if isinstance(place, ServerPlace):
        _require_column(place, NUMBERS if is_number else ("enum", "varchar"))
    current = place.column_states()
    if current is None:
        raise MigrationRefused(place.label, "there is no such column", "name a column that the table has")
    if is_number != (current.storage in ("integer", "number")):  # on SQLite
        raise MigrationRefused(
            place.label,
            f"the column stores {'texts' if is_number else 'numbers'}",
            "add a column of the other storage, and copy the states by op.batch_alter_table(); nothing was changed",
        )
    return current


def _require_column(place: ServerPlace, kinds: tuple[str, ...]) -> None:
    where = (place.connection, place.table.name)
    kind = table_kind(*where, place.schema)
    if kind != "BASE TABLE":
        what = "there is no table of this name" if kind is None else f"this is a {kind.lower()}"
        raise MigrationRefused(place.label, what, "name the table that has the column, and its schema= if it has one")
    shape = column_shape(*where, place.column.name, place.schema)
    if shape is None:
        raise MigrationRefused(place.label, "the table has no column of this name", "name one that it has")
    if shape.is_generated:
        raise MigrationRefused(
            place.label, "the column is generated", "alter the column that it is computed from; nothing was changed"
        )
    if shape.kind not in kinds:
        raise MigrationRefused(
            place.label,
            f"the column is {shape.type}, which the server would convert to states in its own way",
            "op.adopt_column() adds a state column beside it; nothing was changed",
        )


def _decoded(value: bytes | str | None) -> Value:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value
