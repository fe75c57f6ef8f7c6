"""A state column in one kind of database: how it is read, and how it is altered.

:func:`place_of` chooses by the :class:`Database`; an operation works with the :class:`Place`, and knows no server.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from logging import Logger, getLogger
from typing import Any, ClassVar

from sqlalchemy import Column, Connection, Dialect, MetaData, String, Table, select, text, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import AddConstraint, CheckConstraint

from ..core.failures import Cause, Meaning, is_due_to, meaning
from ..databases import MARIADB, MYSQL, SQLITE, Database, database_of, supported, types_of
from ..databases.identifiers import check_names
from ..databases.mysql.ddl import AlterColumn, writing_dialect
from ..databases.mysql.literals import quoted
from ..errors import MigrationRefused
from ..orm.column import Storage, states_check
from .definition import SQLiteTable, StoredColumn, mysql_column, sqlite_table

__all__ = ["ColumnStates", "Place", "Wanted", "place_of"]

log: Logger = getLogger("alembic.sqlalchemy_fsm_mysql")


@dataclass(frozen=True, slots=True)
class ColumnStates:
    """The values that the column allows: `storage` is enum, varchar or integer (with a CHECK), or text or number, which
    take any. Numbers are texts of digits.

    `is_exact` is whether its collation tells apart all texts; `is_nullable` is known of servers only.
    """

    storage: str
    states: tuple[str, ...]
    default: str | None
    is_exact: bool = True
    is_nullable: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """The column after an ALTER; None is as it is. `algorithm` is asked of a server.

    With `is_new`, collation and NOT NULL are those of a new column, and not those that the column has.
    """

    states: tuple[str, ...]
    storage: Storage | None = None
    default: str | None = None
    algorithm: str | None = None
    is_new: bool = False


def constraint_text(constraint: CheckConstraint, dialect: Dialect) -> str:
    """``CONSTRAINT … CHECK (…)``, as within CREATE TABLE."""
    whole = str(AddConstraint(constraint).compile(dialect=dialect))
    return whole[whole.index(" ADD ") + len(" ADD ") :]


def state_table(table: str, column: str, schema: str | None) -> Table:
    """The table as far as a migration of the column needs it."""
    return Table(table, MetaData(), Column(column, String()), schema=schema)


class Place:
    """A state column of one table, on one connection."""

    schema: str | None
    table: Table

    checks: tuple[str, ...]
    column: Column[Any]
    connection: Connection
    label: str

    has_skip_locked: ClassVar[bool] = True

    def __init__(self, connection: Connection, table: str, column: str, schema: str | None) -> None:
        translated = connection.get_execution_options().get("schema_translate_map") or {}
        self.connection, self.schema = connection, translated.get(schema, schema)
        self.table = state_table(table, column, self.schema)
        self.column = self.table.c[column]
        self.label = ".".join(part for part in (self.schema, table, column) if part)
        self.checks = check_names(table, column)
        types_of(connection.dialect).learn(connection)

    def column_states(self) -> ColumnStates | None:
        """The values that the column allows; None when there is no such column, or one of another kind."""
        raise NotImplementedError

    def alter(self, wanted: Wanted, *, lock_wait_timeout: int) -> None:
        """Alter the column."""
        raise NotImplementedError

    def set_default(self, default: str, *, lock_wait_timeout: int) -> None:
        """Have new rows begin in *default*, where they are written without a state."""
        raise NotImplementedError

    def storage(self, declared: Storage) -> Storage:
        """The form in which a column declared as *declared* is stored here."""
        if declared == "integer":
            return declared
        return "varchar" if types_of(self.connection.dialect).needs_check(declared) else "enum"

    def begin_short(self) -> None:
        """Say that the next transaction shall lock what it changes, and nothing else."""

    def patiently(self, attempts: int, lock_wait_timeout: int, work: Callable[[], None]) -> None:
        """Do *work*, which gives up after *lock_wait_timeout* seconds; a second later again, *attempts* times in all.

        An ALTER that queues for the table has all writers queue behind it. Between two attempts they get through.
        """
        for attempt in range(1, attempts + 1):
            try:
                work()
            except DBAPIError as error:
                if meaning(error) is not Meaning.LOCK_TIMEOUT:
                    raise
                if attempt == attempts:
                    users = database_of(self.connection).transactions.users_of(self.connection, self.table)
                    raise MigrationRefused(
                        self.label,
                        f"open transactions locked the table for {attempts} times {lock_wait_timeout} s"
                        f"{' (' if users else ''}{'; '.join(users)}{')' if users else ''}",
                        "end them, or give more attempts=; nothing was changed",
                    ) from error
                log.warning("%s: the table is in use; attempt %d of %d failed", self.label, attempt, attempts)
                time.sleep(1)
            else:
                return


# --- MySQL and MariaDB


# Text in quotes is a string, a backslash escapes, and what does not fit is an error.
PIN = (
    "SET @fsm_sql_mode = @@SESSION.sql_mode, @fsm_lock_wait = @@SESSION.lock_wait_timeout, "
    "SESSION sql_mode = 'STRICT_ALL_TABLES', SESSION lock_wait_timeout = {:d}"
)
UNPIN = "SET SESSION sql_mode = @fsm_sql_mode, SESSION lock_wait_timeout = @fsm_lock_wait"


class ServerPlace(Place):
    """MySQL and MariaDB."""

    def column_states(self) -> ColumnStates | None:
        with self.pinned(1):
            stored = self._stored()
        if stored is None:
            return None
        return ColumnStates(stored.storage, stored.states, stored.default, stored.is_exact, stored.is_nullable)

    def definition(self) -> str | None:
        """The column's line of SHOW CREATE TABLE."""
        with self.pinned(1):
            stored = self._stored()
        return None if stored is None else stored.definition

    def alter(self, wanted: Wanted, *, lock_wait_timeout: int) -> None:
        with self.pinned(lock_wait_timeout):
            stored = self._stored()
            assert stored is not None
            alter = altered(stored, wanted, self.table, self.column, self.connection.dialect)
            try:
                self._run(alter)
            except DBAPIError as error:
                if not is_due_to(error, Cause.KEY_REFUSED) or not stored.has_type_of(alter.definition):
                    raise
                # MySQL makes a column of a foreign key NOT NULL only by itself, without a copy of the table.
                self._run(AlterColumn(self.table, alter.definition, algorithm="INPLACE"))
                self._run(alter)

    def set_default(self, default: str, *, lock_wait_timeout: int) -> None:
        preparer = writing_dialect(self.connection.dialect).identifier_preparer
        table, column = preparer.format_table(self.table), preparer.format_column(self.column)
        with self.pinned(lock_wait_timeout):
            self._execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET DEFAULT {quoted(default)}")

    def begin_short(self) -> None:
        self._execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")

    @contextmanager
    def pinned(self, lock_wait_timeout: int) -> Iterator[None]:
        """A session in which quoting is known, mistakes are errors, and other sessions do not wait for long."""
        self._execute(PIN.format(lock_wait_timeout))
        try:
            yield
        finally:
            if not self.connection.invalidated:
                self._execute(UNPIN)

    def _stored(self) -> StoredColumn | None:
        preparer = writing_dialect(self.connection.dialect).identifier_preparer
        created = self._execute(f"SHOW CREATE TABLE {preparer.format_table(self.table)}").one()
        lines = str(created[1]).split("\n")
        found = [mysql_column(lines, self.column.name, check) for check in self.checks]
        return next((one for one in found if one is not None and one.check is not None), found[0])

    def _run(self, alter: AlterColumn) -> None:
        self._execute(str(alter.compile(dialect=writing_dialect(self.connection.dialect))))

    def _execute(self, statement: str) -> Any:
        # Without parameters, so that a percent sign in a state or a comment is one.
        return self.connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def altered(stored: StoredColumn, wanted: Wanted, table: Table, column: Column[Any], dialect: Dialect) -> AlterColumn:
    """The statements that alter the *stored* column to the *wanted* one."""
    storage = wanted.storage or stored.storage
    changed = stored if wanted.default is None else _with_default(stored, wanted.default)
    if wanted.is_new:
        changed = changed.not_null()
    type_ = _type_text(stored, wanted.states, storage, dialect, is_new=wanted.is_new)
    add = _check(column, wanted.states, storage) if storage != "enum" else None
    return AlterColumn(table, changed.with_type(type_), drop=stored.check, add=add, algorithm=wanted.algorithm)


def _check(column: Column[Any], states: Sequence[str], storage: str) -> CheckConstraint:
    return states_check(column, states, is_number=storage == "integer")


def _with_default(stored: StoredColumn, default: str) -> StoredColumn:
    return replace(stored, definition=stored.with_default(quoted(default)))


def _type_text(stored: StoredColumn, states: Sequence[str], storage: str, dialect: Dialect, *, is_new: bool) -> str:
    if storage == "integer" and stored.takes is not None and all(int(state) in stored.takes for state in states):
        return stored.definition[stored.type_start : stored.type_end]
    writing = writing_dialect(dialect)
    types_of(dialect).share(dialect, writing)
    type_ = str(types_of(writing).state(writing, states, storage).compile(dialect=writing))
    if storage == "integer":
        return type_
    collation = type_[type_.rindex(")") + 1 :] if is_new or storage != stored.storage else ""
    if storage == "enum":
        return type_[: type_.rindex(")") + 1] + collation
    longest = max(map(len, states))
    # A length that fits its states exactly is fitted again; a length that a person chose is only made longer.
    fitted = stored.length == max(map(len, stored.states), default=0)
    return f"varchar({longest if fitted or stored.length is None else max(longest, stored.length)}){collation}"


# --- SQLite


class SQLitePlace(Place):
    """SQLite, whose schema is text that may be rewritten: https://www.sqlite.org/lang_altertable.html#otheralter.

    What changes is a CHECK, which the stored rows do not depend on; indexes, triggers and all else stay as they are.
    """

    has_skip_locked = False

    def column_states(self) -> ColumnStates | None:
        sql = self._sql()
        if sql is None or self.column.name not in self._columns():
            return None
        found, is_number = self._parts(sql), self._is_number()
        storage = ("integer" if is_number else "varchar") if found.has_check else "number" if is_number else "text"
        return ColumnStates(storage, found.states, found.default_of(self.column.name))

    def alter(self, wanted: Wanted, *, lock_wait_timeout: int) -> None:
        sql = self._sql()
        assert sql is not None
        check = _check(self.column, wanted.states, "integer" if self._is_number() else "varchar")
        constraint = constraint_text(check, sqlite.dialect())
        changed = self._parts(sql).with_check(constraint, self.column.name, max(map(len, wanted.states)))
        if wanted.default is not None:
            changed = self._parts(changed).with_default(self.column.name, wanted.default)
        self._rewrite(changed)

    def set_default(self, default: str, *, lock_wait_timeout: int) -> None:
        sql = self._sql()
        assert sql is not None
        self._rewrite(self._parts(sql).with_default(self.column.name, default))

    def _parts(self, sql: str) -> SQLiteTable:
        found = [sqlite_table(sql, check) for check in self.checks]
        return next((one for one in found if one.has_check), found[0])

    def _columns(self) -> dict[str, str]:
        """The type of each column."""
        rows = self._pragma(f"table_info({self._quote(self.table.name)})")
        return {str(row[1]): str(row[2]) for row in rows}

    def _is_number(self) -> bool:
        return "INT" in self._columns()[self.column.name].upper()

    def _schema_table(self) -> Table:
        columns = (Column(name, String()) for name in ("type", "name", "sql"))
        return Table("sqlite_master", MetaData(), *columns, schema=self.schema)

    def _sql(self) -> str | None:
        schema = self._schema_table()
        query = select(schema.c.sql).where(schema.c.type == "table", schema.c.name == self.table.name)
        return self.connection.execute(query).scalar_one_or_none()

    def _rewrite(self, sql: str) -> None:
        schema = self._schema_table()
        version = int(self._pragma("schema_version").scalar_one())
        self._pragma("writable_schema = ON")
        try:
            same = (schema.c.type == "table", schema.c.name == self.table.name)
            self.connection.execute(update(schema).where(*same).values(sql=sql))
            # Every connection reads the schema again when its number has changed.
            self._pragma(f"schema_version = {version + 1:d}")
        finally:
            self._pragma("writable_schema = OFF")
        self.connection.execute(select(self.column).limit(0))

    def _pragma(self, what: str) -> Any:
        prefix = "" if self.schema is None else f"{self._quote(self.schema)}."
        return self.connection.execute(text(f"PRAGMA {prefix}{what}"))

    def _quote(self, name: str) -> str:
        return str(self.connection.dialect.identifier_preparer.quote(name))


_PLACES: dict[Database, type[Place]] = {MYSQL: ServerPlace, MARIADB: ServerPlace, SQLITE: SQLitePlace}


def place_of(connection: Connection, table: str, column: str, schema: str | None) -> Place | None:
    """The column at its place; None in a database that this package cannot alter."""
    database = supported(connection.dialect)
    return None if database is None else _PLACES[database](connection, table, column, schema)
