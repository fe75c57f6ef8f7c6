"""The SQL text of SQLite."""

from __future__ import annotations

from datetime import timedelta

from ..syntax import Syntax

__all__ = ["SQLiteSyntax"]

_MILLISECOND = timedelta(milliseconds=1)


class SQLiteSyntax(Syntax):
    """Times as text with six digits of the second, of which SQLite counts three."""

    def now(self) -> str:
        return "(strftime('%Y-%m-%d %H:%M:%f', 'now') || '000')"

    def ago(self, interval: timedelta) -> str:
        # A part of a millisecond is rounded up, so that nothing is due too early.
        seconds, thousandths = divmod(-(-interval // _MILLISECOND), 1000)
        return f"(strftime('%Y-%m-%d %H:%M:%f', 'now', '-{seconds}.{thousandths:03} seconds') || '000')"

    def after(self, seconds: str) -> str:
        return f"(strftime('%Y-%m-%d %H:%M:%f', 'now', ({seconds}) || ' seconds') || '000')"

    def seconds(self, earlier: str, later: str) -> str:
        return f"round((julianday({later}) - julianday({earlier})) * 86400, 3)"
