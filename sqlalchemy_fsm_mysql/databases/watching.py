"""The table to which triggers in the mode "watch" write each edge that they would refuse."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Dialect, Integer, MetaData, String, Table

from .types import ColumnTypes

__all__ = ["WATCHED", "watched_table"]

WATCHED = "fsm_watched_edges"
STATE_LENGTH, ACCOUNT_LENGTH = 64, 255


def watched_table(schema: str | None, types: ColumnTypes, dialect: Dialect) -> Table:
    """The table: a row for each change of a state, or new row, that a machine does not allow.

    `source` is NULL for a new row, `account` is the login of the connection, ``user@host``, where there is one, `at` is
    UTC. Rows of a transaction that was rolled back are gone with it.
    """
    return Table(
        WATCHED,
        MetaData(),
        Column("id", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True),
        Column("at", types.timestamp(), nullable=False),
        Column("table_name", types.exact_text(dialect, STATE_LENGTH), nullable=False),
        Column("column_name", types.exact_text(dialect, STATE_LENGTH), nullable=False),
        Column("source", types.exact_text(dialect, STATE_LENGTH)),
        Column("target", types.exact_text(dialect, STATE_LENGTH)),
        Column("account", String(ACCOUNT_LENGTH)),
        schema=schema,
    )
