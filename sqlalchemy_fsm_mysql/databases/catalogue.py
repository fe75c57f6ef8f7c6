"""What a database says of itself, for the doctor: a column, its table, and the settings of a connection."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from sqlalchemy import Column, Connection, Dialect, Table, bindparam, inspect, text
from sqlalchemy.engine import Inspector
from sqlalchemy.exc import DBAPIError

# A string literal of standard SQL, and of MySQL; and a name, which may have one in it.
_PLAIN = re.compile(r"'((?:[^']|'')*)'")
_QUOTED_NAME = re.compile(r'"(?:[^"]|"")*"(?=\s+IN\b)')
_STRING = re.compile(r"'((?:[^'\\]|''|\\.)*)'", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ColumnFacts:
    """A column as the database has it. `states` are the texts that it takes, None when nothing limits them.

    `length` is that of a VARCHAR, `collation` and `default` are None where there is none, or it is not known.
    """

    states: tuple[str, ...] | None
    is_enum: bool
    length: int | None
    collation: str | None
    is_nullable: bool
    default: str | None


@dataclass(frozen=True, slots=True)
class TableFacts:
    """A table as the database has it: its columns' names, its engine, and the columns of each unique index in order."""

    columns: frozenset[str]
    engine: str | None
    unique: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """What matters of a server's variables, by their names; `counts_found_rows` is None where it cannot be told."""

    version: str
    variables: Mapping[str, str] = field(default_factory=dict)
    counts_found_rows: bool | None = None

    def says(self, name: str, *values: str) -> bool:
        """Whether the variable *name* is there and has one of *values*, in upper case."""
        return self.variables.get(name, "").upper() in values


def table_facts(connection: Connection, table: Table) -> TableFacts | None:
    """What the database has of *table*; None when there is no such table."""
    return _CATALOGUES.get(connection.dialect.name, Catalogue()).table(connection, table)


def column_facts(connection: Connection, column: Column[Any], check: str | None = None) -> ColumnFacts | None:
    """What the database has of *column*, of a table that is there; None when there is no such column.

    *check* is the name of the CHECK that lists its states, where it is no ENUM.
    """
    return _CATALOGUES.get(connection.dialect.name, Catalogue()).column(connection, column, check)


def settings(connection: Connection) -> Settings:
    """The server's version, and its settings as *connection* has them."""
    return _CATALOGUES.get(connection.dialect.name, Catalogue()).settings(connection)


def may_see_triggers(connection: Connection) -> bool:
    """Whether the account would see a trigger, if there was one."""
    return _CATALOGUES.get(connection.dialect.name, Catalogue()).may_see_triggers(connection)


def database_name(dialect: Dialect) -> str:
    """What kind of database it is."""
    return "mariadb" if getattr(dialect, "is_mariadb", False) else dialect.name


class Catalogue:
    """What any database says through SQLAlchemy."""

    def table(self, connection: Connection, table: Table) -> TableFacts | None:
        inspector, schema = inspect(connection), connection.schema_for_object(table)
        if not inspector.has_table(table.name, schema=schema):
            return None
        columns = frozenset(column["name"] for column in inspector.get_columns(table.name, schema=schema))
        key = tuple(inspector.get_pk_constraint(table.name, schema=schema)["constrained_columns"])
        indexes = inspector.get_indexes(table.name, schema=schema)
        unique = [tuple(cast("list[str]", index["column_names"])) for index in indexes if index["unique"]]
        unique += [tuple(one["column_names"]) for one in inspector.get_unique_constraints(table.name, schema=schema)]
        return TableFacts(columns, self.engine(inspector, table, schema), (key, *unique))

    def engine(self, inspector: Inspector, table: Table, schema: str | None) -> str | None:
        """The table's storage engine, where there are several."""
        return None

    def column(self, connection: Connection, column: Column[Any], check: str | None) -> ColumnFacts | None:
        inspector, schema = inspect(connection), connection.schema_for_object(column.table)
        columns = {found["name"]: found for found in inspector.get_columns(column.table.name, schema=schema)}
        found = columns.get(column.name)
        if found is None:
            return None
        type_ = found["type"]
        enums = [self.enum_value(value) for value in getattr(type_, "enums", None) or ()]
        states = tuple(enums) if enums else self._checked(inspector, column.table.name, schema, check)
        default = found.get("default")
        return ColumnFacts(
            states=states,
            is_enum=bool(enums),
            length=None if enums else getattr(type_, "length", None),
            collation=self.collation(connection, column),
            is_nullable=bool(found["nullable"]),
            default=None if default is None else next(iter(self.strings(str(default))), str(default)),
        )

    def enum_value(self, reflected: str) -> str:
        """A value of an ENUM, as SQLAlchemy reflects it."""
        return reflected

    def collation(self, connection: Connection, column: Column[Any]) -> str | None:
        """The column's collation, where that decides what is equal."""
        return None

    def _checked(
        self, inspector: Inspector, table: str, schema: str | None, name: str | None
    ) -> tuple[str, ...] | None:
        """The texts that the CHECK *name* lists; None when there is none."""
        checks = inspector.get_check_constraints(table, schema=schema) if name else ()
        found = next((str(check["sqltext"]) for check in checks if check["name"] == name), None)
        return None if found is None else self.strings(found)

    def strings(self, listed: str) -> tuple[str, ...]:
        """The string literals in *listed*, which the database has written."""
        return tuple(one.replace("''", "'") for one in _PLAIN.findall(_QUOTED_NAME.sub("", listed)))

    def settings(self, connection: Connection) -> Settings:
        version = connection.dialect.server_version_info or ()
        return Settings(".".join(map(str, version)))

    def may_see_triggers(self, connection: Connection) -> bool:
        return True


class ServerCatalogue(Catalogue):
    """What MySQL and MariaDB say of themselves."""

    VARIABLES = (
        *("sql_mode", "transaction_isolation", "tx_isolation", "innodb_snapshot_isolation"),
        *("read_only", "super_read_only", "innodb_read_only", "transaction_read_only", "tx_read_only"),
        *("wsrep_on", "wsrep_sync_wait", "group_replication_consistency", "group_replication_single_primary_mode"),
        *("innodb_flush_log_at_trx_commit", "log_bin", "sync_binlog"),
    )

    def engine(self, inspector: Inspector, table: Table, schema: str | None) -> str | None:
        options = inspector.get_table_options(table.name, schema=schema)
        return cast("str | None", options.get("mysql_engine") or options.get("mariadb_engine"))

    def enum_value(self, reflected: str) -> str:
        return re.sub(r"\\(.)", r"\1", reflected)  # SHOW CREATE TABLE doubles a backslash, and SQLAlchemy leaves it so

    def collation(self, connection: Connection, column: Column[Any]) -> str | None:
        query = text(
            "SELECT COLLATION_NAME FROM information_schema.COLUMNS WHERE TABLE_NAME = :table"
            " AND TABLE_SCHEMA = COALESCE(:schema, DATABASE()) AND COLUMN_NAME = :column"
        )
        schema = connection.schema_for_object(column.table)
        where = {"schema": schema, "table": column.table.name, "column": column.name}
        return cast("str | None", connection.execute(query, where).scalar())

    def settings(self, connection: Connection) -> Settings:
        query = text("SHOW VARIABLES WHERE Variable_name IN :names").bindparams(bindparam("names", expanding=True))
        found = connection.execute(query, {"names": list(self.VARIABLES)}).all()
        version = str(connection.execute(text("SELECT VERSION()")).scalar_one())
        return Settings(version, {str(row[0]).lower(): str(row[1]) for row in found}, _counts_found_rows(connection))

    def strings(self, listed: str) -> tuple[str, ...]:
        return _strings(listed)

    def may_see_triggers(self, connection: Connection) -> bool:
        grants = [str(row[0]) for row in connection.execute(text("SHOW GRANTS"))]
        # A grant ON nothing is a role, which may have the privilege.
        return any(" ON " not in grant or re.search(r"\bTRIGGER\b|\bALL PRIVILEGES\b", grant) for grant in grants)


def _counts_found_rows(connection: Connection) -> bool | None:
    """Whether an UPDATE that changes nothing counts its row: what CLIENT_FOUND_ROWS makes of it. Tried out."""
    try:
        connection.execute(text("CREATE TEMPORARY TABLE fsm_doctor (n INT)"))
    except DBAPIError:
        return None
    try:
        connection.execute(text("INSERT INTO fsm_doctor VALUES (1)"))
        return connection.execute(text("UPDATE fsm_doctor SET n = 1")).rowcount == 1
    finally:
        connection.execute(text("DROP TEMPORARY TABLE fsm_doctor"))


def _strings(listed: str) -> tuple[str, ...]:
    """The string literals in *listed*.

    >>> _strings(r"('new', _utf8mb4'it''s', 'a\\\\b')")
    ('new', "it's", 'a\\\\b')
    """
    without_names = re.sub(rf"({_STRING.pattern})|`(?:[^`]|``)*`", lambda m: m[1] or "", listed, flags=re.DOTALL)
    return tuple(re.sub(r"''|\\(.)", lambda m: m[1] or "'", found) for found in _STRING.findall(without_names))


_CATALOGUES: dict[str, Catalogue] = {
    "mysql": ServerCatalogue(),
    "mariadb": ServerCatalogue(),
}
