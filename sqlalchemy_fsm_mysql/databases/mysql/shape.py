"""How a table and a column of MySQL or MariaDB are made, as information_schema has it, and how large the table is.

SQLAlchemy's reflection parses SHOW CREATE TABLE, which depends on the session's sql_mode; these queries do not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

__all__ = ["SHAPE", "ColumnShape", "column_shape", "copy_remark", "shape_of", "table_kind", "table_size", "text_of"]

# Rows and bytes a second that MySQL 9.7 and MariaDB 10.11 copied in an ALTER TABLE, on 2 cores: the slower of the
# figures with 2 million rows.
ROWS_A_SECOND, BYTES_A_SECOND = 180_000, 20_000_000

_SIZE = text(
    "SELECT TABLE_TYPE, COALESCE(TABLE_ROWS, 0), COALESCE(DATA_LENGTH, 0) + COALESCE(INDEX_LENGTH, 0)"
    " FROM information_schema.TABLES WHERE TABLE_SCHEMA = COALESCE(:schema, DATABASE()) AND TABLE_NAME = :table"
)
SHAPE = (
    "COLUMN_NAME, COLUMN_TYPE, DATA_TYPE, CHARACTER_SET_NAME, COLLATION_NAME, CHARACTER_MAXIMUM_LENGTH,"
    " IS_NULLABLE, COLUMN_DEFAULT, COALESCE(GENERATION_EXPRESSION, ''), EXTRA, VERSION(), COLUMN_COMMENT"
)
"""The columns of information_schema.COLUMNS that :func:`shape_of` reads."""
_COLUMN = text(
    f"SELECT {SHAPE} FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = COALESCE(:schema, DATABASE())"  # noqa: S608
    " AND TABLE_NAME = :table AND COLUMN_NAME = :column"
)


@dataclass(frozen=True, slots=True)
class ColumnShape:
    """A column: `type` as SHOW CREATE TABLE has it, `kind` its first word, `default` as text, None without one."""

    name: str
    type: str
    kind: str
    charset: str | None
    collation: str | None
    length: int | None
    is_nullable: bool
    default: str | None
    is_generated: bool
    comment: str = ""

    @property
    def full_type(self) -> str:
        """The type with its character set and collation."""
        if self.collation is None:
            return self.type
        return f"{self.type} CHARACTER SET {self.charset} COLLATE {self.collation}"


def table_kind(connection: Connection, table: str, schema: str | None) -> str | None:
    """``BASE TABLE``, ``VIEW`` or another kind of MySQL or MariaDB; None when there is no such table."""
    found = connection.execute(_SIZE, {"schema": schema, "table": table}).first()
    kind = None if found is None else str(found[0]).upper()
    return "BASE TABLE" if kind == "SYSTEM VERSIONED" else kind  # MariaDB's name for a table with a history of its own


def column_shape(connection: Connection, table: str, column: str, schema: str | None) -> ColumnShape | None:
    """How *column* is made; None when there is no such column."""
    found = connection.execute(_COLUMN, {"schema": schema, "table": table, "column": column}).first()
    return None if found is None else shape_of(found)


def shape_of(found: Sequence[Any]) -> ColumnShape:
    """The shape of the column that *found*, the values of `SHAPE`, describes."""
    name, type_, kind, charset, collation, length, nullable, default, expression, extra, version, comment = found
    if "MariaDB" in str(version):
        # MariaDB shows a default as an expression, MySQL as a value unless EXTRA says otherwise.
        default = _literal(default)
    elif "DEFAULT_GENERATED" in str(extra):
        default = None
    return ColumnShape(
        name=str(name),
        type=text_of(type_),
        kind=str(kind).lower(),
        charset=charset,
        collation=collation,
        length=None if length is None else int(length),
        is_nullable=nullable == "YES",
        default=None if default is None else text_of(default),
        is_generated=bool(expression),
        comment=text_of(comment),
    )


def table_size(connection: Connection, table: str, schema: str | None) -> tuple[int, int]:
    """About how many rows and bytes *table* has, by the server's statistics; (0, 0) when unknown."""
    found = connection.execute(_SIZE, {"schema": schema, "table": table}).first()
    return (int(found[1]), int(found[2])) if found is not None else (0, 0)


def copy_remark(connection: Connection, table: str, schema: str | None) -> str:
    """The table's size, and about how long a copy of it takes, for people."""
    rows, size = table_size(connection, table, schema)
    seconds = max(rows / ROWS_A_SECOND, size / BYTES_A_SECOND, 0.1)
    return f"about {rows:,} rows, {size / 1e6:,.0f} MB, some {seconds:,.1f} s"


def _literal(expression: str | None) -> str | None:
    """The value of a default that MariaDB shows as an expression; None for NULL, and for what is no literal."""
    if expression is None:
        return None
    quoted = re.fullmatch(r"'(.*)'", expression, re.DOTALL)
    if quoted:
        return re.sub(r"\\(.)", r"\1", quoted[1].replace("''", "'"), flags=re.DOTALL)
    return expression if re.fullmatch(r"-?\d+(\.\d+)?", expression) else None


def text_of(value: str | bytes) -> str:
    """*value* of information_schema, which some drivers give as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)
