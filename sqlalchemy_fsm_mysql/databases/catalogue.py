"""The facts about a column, its table and the server's settings, read for the doctor."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

from sqlalchemy import Column, Connection, Table, inspect
from sqlalchemy.engine import Inspector

# A string literal of standard SQL, and a name, which may contain a quote.
_PLAIN = re.compile(r"'((?:[^']|'')*)'")
_QUOTED_NAME = re.compile(r'"(?:[^"]|"")*"(?=\s+IN\b)')


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


class Catalogue:
    """The facts that SQLAlchemy reads from any database."""

    is_scriptable: ClassVar[bool] = False
    """Whether a script of SQL can read the catalogue and run a statement that it has composed of it."""

    def table(self, connection: Connection, table: Table) -> TableFacts | None:
        """The facts about *table*; None when there is no such table."""
        inspector, schema = inspect(connection), connection.schema_for_object(table)
        if not inspector.has_table(table.name, schema=schema):
            return None
        columns = frozenset(column["name"] for column in inspector.get_columns(table.name, schema=schema))
        key = tuple(inspector.get_pk_constraint(table.name, schema=schema)["constrained_columns"])
        indexes = inspector.get_indexes(table.name, schema=schema)
        unique = [tuple(cast("list[str]", index["column_names"])) for index in indexes if index["unique"]]
        unique += [tuple(one["column_names"]) for one in inspector.get_unique_constraints(table.name, schema=schema)]
        return TableFacts(columns, self.engine(inspector, table, schema), (key, *unique))

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
        columns = {found["name"]: found for found in inspector.get_columns(column.table.name, schema=schema)}
        found = columns.get(column.name)
        if found is None:
            return None
        type_ = found["type"]
        enums = [self.enum_value(value) for value in getattr(type_, "enums", None) or ()]
        states = tuple(enums) if enums else self._checked(inspector, column.table.name, schema, checks)
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
        self, inspector: Inspector, table: str, schema: str | None, names: Sequence[str]
    ) -> tuple[str, ...] | None:
        """The texts that the first CHECK of *names* lists; None when there is none."""
        checks = inspector.get_check_constraints(table, schema=schema) if names else ()
        by_name = {str(check["name"]): str(check["sqltext"]) for check in checks}
        return next((self.strings(by_name[name]) for name in names if name in by_name), None)

    def strings(self, listed: str) -> tuple[str, ...]:
        """The string literals in *listed*, which the database has written."""
        return tuple(one.replace("''", "'") for one in _PLAIN.findall(_QUOTED_NAME.sub("", listed)))

    def settings(self, connection: Connection) -> Settings:
        """The server's version, and its settings as *connection* has them."""
        version = connection.dialect.server_version_info or ()
        return Settings(".".join(map(str, version)))

    def may_see_triggers(self, connection: Connection, table: Table) -> bool:
        """Whether the account would see a trigger on *table*, if there was one."""
        return True
