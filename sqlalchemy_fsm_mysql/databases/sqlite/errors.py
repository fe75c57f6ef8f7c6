"""The meanings of SQLite's errors."""

from __future__ import annotations

from ..meanings import ErrorMeanings, Meaning
from ..messages import read_message
from .driver import is_sqlite_error

__all__ = ["SQLiteErrors"]

# SQLite's extended result codes: https://www.sqlite.org/rescode.html
_NAMES: dict[str, Meaning] = {
    "SQLITE_BUSY_SNAPSHOT": Meaning.ABORTED,
    "SQLITE_BUSY": Meaning.LOCK_TIMEOUT,
    "SQLITE_BUSY_TIMEOUT": Meaning.LOCK_TIMEOUT,
    "SQLITE_BUSY_RECOVERY": Meaning.LOCK_TIMEOUT,
    "SQLITE_LOCKED": Meaning.LOCK_TIMEOUT,
    "SQLITE_LOCKED_SHAREDCACHE": Meaning.LOCK_TIMEOUT,
    "SQLITE_CONSTRAINT_UNIQUE": Meaning.DUPLICATE,
    "SQLITE_CONSTRAINT_PRIMARYKEY": Meaning.DUPLICATE,
    "SQLITE_CONSTRAINT_ROWID": Meaning.DUPLICATE,
    "SQLITE_CONSTRAINT_NOTNULL": Meaning.VALUE,
    "SQLITE_READONLY": Meaning.NOT_WRITABLE,
    "SQLITE_READONLY_DBMOVED": Meaning.NOT_WRITABLE,
    "SQLITE_READONLY_DIRECTORY": Meaning.NOT_WRITABLE,
}
# sqlite3 names its errors from Python 3.11 on; before, the message has to do.
_MESSAGES: dict[str, Meaning] = {
    "database is locked": Meaning.LOCK_TIMEOUT,
    "database table is locked": Meaning.LOCK_TIMEOUT,
    "attempt to write a readonly database": Meaning.NOT_WRITABLE,
}
# The same, where the message goes on with the columns.
_CONSTRAINTS: dict[str, Meaning] = {
    "UNIQUE constraint failed": Meaning.DUPLICATE,
    "NOT NULL constraint failed": Meaning.VALUE,
}

# The errors that other rows would meet as well: of the schema, and of the disk and the memory.
_OF_EVERY_ROW = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_CORRUPT", "SQLITE_NOMEM", "SQLITE_CANTOPEN", "SQLITE_SCHEMA")
_OF_THE_SCHEMA = ("no such ", "near ", "ambiguous column", "database or disk is full", "disk I/O error")

_BY_TRIGGER = "SQLITE_CONSTRAINT_TRIGGER"


class SQLiteErrors(ErrorMeanings):
    """By the name of the result code, or by the message where sqlite3 does not know the name."""

    def is_raised_by(self, driver: BaseException) -> bool:
        # Drivers for encrypted databases have classes of their own, which give the result codes the same names.
        return is_sqlite_error(driver) or hasattr(driver, "sqlite_errorname")

    def of(self, driver: BaseException | None, code: int | None) -> Meaning:
        name, message = getattr(driver, "sqlite_errorname", None), str(driver)
        if name in (None, _BY_TRIGGER) and read_message(message) is not None:
            return Meaning.REFUSED
        found = _NAMES.get(str(name)) or _MESSAGES.get(message)
        if found is None and name is None:
            found = _CONSTRAINTS.get(message.partition(":")[0])
        return found or Meaning.UNRELATED

    def is_of_every_row(self, driver: BaseException | None, code: int | None) -> bool:
        name, message = getattr(driver, "sqlite_errorname", None) or "", str(driver)
        return name.startswith(_OF_EVERY_ROW) or message.startswith(_OF_THE_SCHEMA)
