"""The table to which triggers in the mode "watch" write each edge that they would refuse."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, Integer, MetaData, String, Table

__all__ = ["WATCHED", "watched_table"]

WATCHED = "fsm_watched_edges"
STATE_LENGTH, ACCOUNT_LENGTH = 64, 255


def watched_table(schema: str | None) -> Table:
    """The table: a row for each change of a state, or new row, that a machine does not allow.

    `source` is NULL for a new row, `account` is the login of the connection, ``user@host``, where there is one, `at` is
    UTC. Rows of a transaction that was rolled back are gone with it.
    """
    from sqlalchemy.dialects import mysql  # only who watches pays for importing it

    def text() -> Any:
        # A collation that MySQL and MariaDB both have: a script does not know which of them will run it.
        exact = mysql.VARCHAR(STATE_LENGTH, charset="utf8mb4", collation="utf8mb4_bin")
        return String(STATE_LENGTH).with_variant(exact, "mysql", "mariadb")

    return Table(
        WATCHED,
        MetaData(),
        Column("id", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True),
        Column("at", DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb"), nullable=False),
        Column("table_name", text(), nullable=False),
        Column("column_name", text(), nullable=False),
        Column("source", text()),
        Column("target", text()),
        Column("account", String(ACCOUNT_LENGTH)),
        schema=schema,
    )
