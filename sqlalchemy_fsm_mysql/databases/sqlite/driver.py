"""How an error of SQLite's driver is known."""

from __future__ import annotations

__all__ = ["is_sqlite_error"]


def is_sqlite_error(driver: BaseException) -> bool:
    """Whether *driver* is an exception of sqlite3."""
    return type(driver).__module__.startswith("sqlite3")
