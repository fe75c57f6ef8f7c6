"""The SQL text of MySQL and MariaDB."""

from __future__ import annotations

from datetime import timedelta

from ...sql.exact import needs_no_quoting
from ..syntax import Syntax

__all__ = ["MariaDBSyntax", "MySQLSyntax"]

_MICROSECOND = timedelta(microseconds=1)


class MySQLSyntax(Syntax):
    """UTC whatever the session's time zone, and bytes in utf8mb4 whatever a column's character set."""

    has_exact_literals = True

    def now(self) -> str:
        return "UTC_TIMESTAMP(6)"

    def ago(self, interval: timedelta) -> str:
        # Seconds with their fraction: OceanBase's microseconds are out of range (error 1690) after 35 minutes.
        seconds, fraction = divmod(interval // _MICROSECOND, 1_000_000)
        return f"({self.now()} - INTERVAL {seconds}.{fraction:06} SECOND)"

    def after(self, seconds: str) -> str:
        return f"({self.now()} + INTERVAL ({seconds}) * 1000000 MICROSECOND)"

    def seconds(self, earlier: str, later: str) -> str:
        return f"(TIMESTAMPDIFF(MICROSECOND, {earlier}, {later}) / 1000000)"

    def exact_text(self, column: str) -> str:
        return self.as_bytes(column)

    def exact_literal(self, name: str) -> str:
        # Hexadecimal is independent of sql_mode and of the connection's character set.
        return f"_binary'{name}'" if needs_no_quoting(name) else f"X'{name.encode().hex().upper()}'"

    def defined_text(self, name: str) -> str | None:
        # MySQL keeps the character set of the connection that sends a CHECK. Where that is not utf8mb4, SHOW CREATE
        # TABLE has a question mark in the place of every character that is not ASCII.
        return None if name.isascii() else f"_utf8mb4 X'{name.encode().hex().upper()}'"

    def as_bytes(self, text: str) -> str:
        # By way of utf8mb4: a column in latin1 or ucs2 stores other bytes than the texts of a machine.
        return f"CAST(CONVERT({text} USING utf8mb4) AS BINARY)"


class MariaDBSyntax(MySQLSyntax):
    """As MySQL's; MariaDB keeps a CHECK in utf8mb4, and shows bytes in it as escapes."""

    def defined_text(self, name: str) -> str | None:
        return None
