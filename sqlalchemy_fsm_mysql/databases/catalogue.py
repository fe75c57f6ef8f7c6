"""The facts about a column, its table and the server's settings, read for the doctor."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

from sqlalchemy import Column, Connection, Integer, String, Table, inspect
from sqlalchemy.engine import Inspector
from sqlalchemy.types import TypeEngine

_BITS = {"tinyint": 8, "smallint": 16, "mediumint": 24, "int": 32, "integer": 32, "bigint": 64}

# A string literal of standard SQL, and a name, which may contain a quote.
_PLAIN = re.compile(r"'((?:[^']|'')*)'")
_QUOTED_NAME = re.compile(r'"(?:[^"]|"")*"(?=\s+IN\b)')


@dataclass(frozen=True, slots=True)
class ColumnFacts:
    """A column as the database has it. `states` are the texts that it takes, None when nothing limits them.

    `length` is that of a VARCHAR, `collation` and `default` are None where there is none, or it is not known. `kind` is
    the name of the type in lower case: ``"tinyint"``; `takes` is the range of a whole number.
    """

    states: tuple[str, ...] | None
    is_enum: bool
    length: int | None
    collation: str | None
    is_nullable: bool
    default: str | None
    kind: str = "varchar"
    is_text: bool = True
    takes: range | None = None
    is_generated: bool = False

    @property
    def is_exact(self) -> bool:
        """Whether the collation takes no two texts for equal; of an ENUM it need not tell trailing spaces apart."""
        collation = str(self.collation)
        if self.collation is None or collation == "binary":
            return True
        if self.is_enum:
            return collation.endswith("_bin")
        return "nopad_bin" in collation or collation.endswith("0900_bin")


@dataclass(frozen=True, slots=True)
class TableFacts:
    """A table as the database has it: its columns' names, its engine, and the columns of each unique index in order.

    `indexes` are the columns of all indexes but the primary key's, without indexes on expressions. `required` are the
    columns that an INSERT has to give a value, because they are NOT NULL without a default.
    """

    columns: frozenset[str]
    engine: str | None
    unique: tuple[tuple[str, ...], ...]
    required: frozenset[str] = frozenset()
    is_view: bool = False
    indexes: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """The server's variables that the doctor reads, by name; `counts_found_rows` is None where it is not known.

    `is_pooled` is whether a proxy sends the statements of a connection to other server connections. `charset` is the
    character set in which the driver writes texts.
    """

    version: str
    variables: Mapping[str, str] = field(default_factory=dict)
    counts_found_rows: bool | None = None
    is_pooled: bool | None = None
    charset: str | None = None

    def says(self, name: str, *values: str) -> bool:
        """Whether the variable *name* is there and has one of *values*, in upper case."""
        return self.variables.get(name, "").upper() in values


class Catalogue:
    """The facts that SQLAlchemy reads from any database."""

    is_scriptable: ClassVar[bool] = False
    """Whether a script of SQL can read the catalogue and run a statement that it has composed of it."""

    def table(self, connection: Connection, table: Table) -> TableFacts | None:
        """The facts about *table*; None when there is no such table."""
        inspector, schema = inspect(connection), connection.schema_for_object(table)
        if not inspector.has_table(table.name, schema=schema):
            return None
        found = inspector.get_columns(table.name, schema=schema)
        required = {
            column["name"]
            for column in found
            if not column["nullable"] and column.get("default") is None and not column.get("computed")
            if column.get("autoincrement") is not True
        }
        key = tuple(inspector.get_pk_constraint(table.name, schema=schema)["constrained_columns"])
        indexes = inspector.get_indexes(table.name, schema=schema)
        # An index on the first characters of a column says nothing of the whole text.
        unique = [
            tuple(cast("list[str]", index["column_names"]))
            for index in indexes
            if index["unique"] and not any(name.endswith("_length") for name in index.get("dialect_options", {}))
        ]
        partial = {index["name"] for index in indexes} - {None}
        unique += [
            tuple(one["column_names"])
            for one in inspector.get_unique_constraints(table.name, schema=schema)
            if one["name"] not in partial
        ]
        return TableFacts(
            columns=frozenset(column["name"] for column in found),
            engine=self.engine(inspector, table, schema),
            unique=(key, *unique),
            required=frozenset(required),
            indexes=tuple(
                tuple(cast("list[str]", index["column_names"]))
                for index in indexes
                if None not in index["column_names"]
            ),
            is_view=table.name in inspector.get_view_names(schema=schema),
        )

    def column_names(self, connection: Connection, table: Table) -> set[str]:
        """The names of the columns of *table*."""
        found = inspect(connection).get_columns(table.name, schema=connection.schema_for_object(table))
        return {str(column["name"]) for column in found}

    def engine(self, inspector: Inspector, table: Table, schema: str | None) -> str | None:
        """The table's storage engine, where there are several."""
        return None

    def column(self, connection: Connection, column: Column[Any], checks: Sequence[str] = ()) -> ColumnFacts | None:
        """The facts about *column*, of a table that is there; None when there is no such column.

        *checks* are names of the CHECK that lists the column's states, where it is not an ENUM.
        """
        inspector, schema = inspect(connection), connection.schema_for_object(column.table)
        # A column's name is the same in any case on all our databases.
        columns = {found["name"].lower(): found for found in inspector.get_columns(column.table.name, schema=schema)}
        found = columns.get(column.name.lower())
        if found is None:
            return None
        type_ = found["type"]
        enums = [self.enum_value(value) for value in getattr(type_, "enums", None) or ()]
        states = tuple(enums) if enums else self._checked(inspector, column.table.name, schema, checks)
        default = found.get("default")
        if default is not None and isinstance(type_, Integer):
            default = str(default).strip("'()")
        return ColumnFacts(
            states=states,
            is_enum=bool(enums),
            length=None if enums else getattr(type_, "length", None),
            collation=self.collation(connection, column),
            is_nullable=bool(found["nullable"]),
            default=None if default is None else next(iter(self.strings(str(default))), str(default)),
            kind=str(getattr(type_, "__visit_name__", "")).lower(),
            is_text=isinstance(type_, String),
            takes=_range_of(type_),
            is_generated=bool(found.get("computed")),
        )

    def enum_value(self, reflected: str) -> str:
        """A value of an ENUM, as SQLAlchemy reflects it."""
        return reflected

    def collation(self, connection: Connection, column: Column[Any]) -> str | None:
        """The column's collation, where that decides what is equal."""
        return None

    def _checked(
        self, inspector: Inspector, table: str, schema: str | None, names: Sequence[str]
    ) -> tuple[str, ...] | None:
        """The texts that the first CHECK of *names* lists; None when there is none."""
        by_name = _checks(inspector, table, schema) if names else {}
        found = next((by_name[name] for name in names if name in by_name), None)
        return None if found is None else self.strings(found) or numbers_in(found)

    def checks(self, connection: Connection, table: Table) -> dict[str, str]:
        """The CHECKs of *table* that have a name, each as the database writes it."""
        return _checks(inspect(connection), table.name, connection.schema_for_object(table))

    def unenforced_checks(self, connection: Connection, table: Table) -> set[str]:
        """The names of the CHECKs of *table* that the database does not enforce."""
        return set()

    def missing_rights(self, connection: Connection, column: Column[Any], *, writes: str) -> list[str]:
        """The rights on the table of *column* that the account lacks; *writes* is ``"update"`` or ``"insert"``."""
        return []

    def definer_problem(self, connection: Connection, table: Table, definer: str) -> str | None:
        """Why triggers on *table* cannot run with the rights of *definer*; None when they can, or it is not known."""
        return None

    def strings(self, listed: str) -> tuple[str, ...]:
        """The string literals in *listed*, which the database has written."""
        return tuple(one.replace("''", "'") for one in _PLAIN.findall(_QUOTED_NAME.sub("", listed)))

    def settings(self, connection: Connection) -> Settings:
        """The server's version, and its settings as *connection* has them."""
        version = connection.dialect.server_version_info or ()
        return Settings(".".join(map(str, version)))

    def may_see_columns(self, connection: Connection, table: Table) -> bool:
        """Whether the account sees every column of *table*."""
        return True

    def may_see_triggers(self, connection: Connection, table: Table) -> bool:
        """Whether the account would see a trigger on *table*, if there was one."""
        return True


def _checks(inspector: Inspector, table: str, schema: str | None) -> dict[str, str]:
    """The CHECKs of a table that have a name. SQLAlchemy leaves the quotes within a name doubled."""
    quote = inspector.dialect.identifier_preparer.final_quote
    found = inspector.get_check_constraints(table, schema=schema)
    named = {check["name"]: str(check["sqltext"]) for check in found}
    return {name.replace(quote * 2, quote): text for name, text in named.items() if name is not None}


def numbers_in(condition: str) -> tuple[str, ...]:
    """The numbers that *condition*, a CHECK as the database writes it, lists behind IN.

    >>> numbers_in("(`state` in (1,2,-3))"), numbers_in("(`state` in (-(3)))")  # MariaDB, MySQL
    (('1', '2', '-3'), ('-3',))
    """
    condition = re.sub(r"-\((\d+)\)", r"-\1", condition)
    found = re.search(r"\bin\s*\(\s*((?:-?\d+[\s,]*)+)\)", condition, re.IGNORECASE)
    return () if found is None else tuple(re.findall(r"-?\d+", found[1]))


def _range_of(type_: TypeEngine[Any]) -> range | None:
    """The whole numbers that a column of *type_* takes; None for another type."""
    bits = _BITS.get(str(getattr(type_, "__visit_name__", "")).lower())
    if bits is None:
        return None
    return range(2**bits) if getattr(type_, "unsigned", False) else range(-(2 ** (bits - 1)), 2 ** (bits - 1))
