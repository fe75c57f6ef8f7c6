"""The triggers on SQLite: RAISE, with a message for each pair of states."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import Column, Connection, MetaData, Table, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles

from ..messages import UNDECLARED
from ..triggers import (
    CreateTrigger,
    DropTrigger,
    Enforcer,
    ForeignTrigger,
    InstalledTrigger,
    Literals,
    column_digest,
    ours_among,
)
from ..watching import WATCHED

# RAISE took no expression for its message before SQLite 3.47, so there is one for each pair of states; with more pairs
# than this, for each source.
_MOST_PAIRS = 4096
_WHEN = "\nWHEN "
_ALLOWS = "  -- allows "


class SQLiteEnforcer(Enforcer):
    """SQLite's triggers."""

    can_enforce = True

    def triggers(self, connection: Connection, table: Table) -> list[InstalledTrigger]:
        return list(ours_among(_stored(connection, table)))

    def foreign_triggers(self, connection: Connection, table: Table) -> list[ForeignTrigger]:
        return [
            ForeignTrigger(name, kind, "after" if re.search(r"\bAFTER\b", body, re.IGNORECASE) else "before", 1, body)
            for name, kind, body in _stored(connection, table)
            if InstalledTrigger.of(name, kind, body) is None
        ]

    def used_names(self, connection: Connection, table: Table) -> set[str]:
        master = _master(connection, table)
        elsewhere = [master.c.type == "trigger", func.lower(master.c.tbl_name) != table.name.lower()]
        return {str(name).lower() for name in connection.scalars(select(master.c.name).where(*elsewhere))}

    def allowed(self, trigger: InstalledTrigger) -> frozenset[tuple[str, ...]] | None:
        line = next((line for line in trigger.body.split("\n") if line.startswith(_ALLOWS)), None)
        return None if line is None else frozenset(map(tuple, json.loads(line.removeprefix(_ALLOWS))))

    @contextmanager
    def permitted(
        self, connection: Connection, column: Column[Any], source: str, target: str, *, rows: int
    ) -> Iterator[None]:
        """For the block, a trigger without this edge replaces each UPDATE trigger of the column.

        No other connection meets the replaced triggers, because this transaction holds the write lock. An error that
        ends the block, or the transaction, restores them by rolling back.
        """
        digest = column_digest(column.name)
        own = {
            trigger_name: body
            for trigger_name, kind, body in _stored(connection, column.table)
            if kind == "update" and (found := InstalledTrigger.of(trigger_name, kind, body)) and found.column == digest
        }
        quoted = connection.dialect.identifier_preparer.quote(column.name)
        source_text, target_text = (f"CAST(X'{text.encode().hex()}' AS TEXT)" for text in (source, target))
        # As text: a number would equal no text, because COALESCE() has not the affinity of its column.
        leaves = f"CAST(COALESCE(OLD.{quoted}, '') AS TEXT) COLLATE BINARY = {source_text}"
        edge = f"({leaves} AND CAST(NEW.{quoted} AS TEXT) COLLATE BINARY = {target_text})"
        opened = {name: body.replace(_WHEN, f"{_WHEN}NOT {edge} AND ", 1) for name, body in own.items()}
        connection.exec_driver_sql("SAVEPOINT fsm_permit")
        try:
            _replace(connection, column, opened)
            yield
            _replace(connection, column, own)
        except BaseException:
            with suppress(DBAPIError):  # after an error that has ended the transaction there is no savepoint
                connection.exec_driver_sql("ROLLBACK TO SAVEPOINT fsm_permit")
            raise
        finally:
            with suppress(DBAPIError):
                connection.exec_driver_sql("RELEASE SAVEPOINT fsm_permit")


class _SQLiteLiterals(Literals):
    def __init__(self, compiler: Any, *, is_numeric: bool) -> None:
        super().__init__(compiler)
        self._is_numeric = is_numeric

    def value(self, state: str) -> str:
        """*state* as OLD and NEW have it: in a trigger, the number 1 equals no text, whatever the column's type."""
        return state if self._is_numeric else self.plain(state)


@compiles(CreateTrigger, "sqlite")
def _create_on_sqlite(element: CreateTrigger, compiler: Any, **_: Any) -> str:
    column = compiler.preparer.quote(element.column.name)
    # Not by the column's collation, which may be NOCASE.
    old, new = f"OLD.{column} COLLATE BINARY", f"NEW.{column} COLLATE BINARY"
    of_column, build = (f" OF {column}", _sqlite_update) if element.kind == "update" else ("", _sqlite_insert)
    when, body = build(element, old, new, _SQLiteLiterals(compiler, is_numeric=element.rules.is_numeric))
    if element.mode == "watch":
        body = _watch(element, compiler)
    return "\n".join(
        [
            f"{element.create} {element.qualified(compiler)}",
            f"BEFORE {element.kind.upper()}{of_column} ON {compiler.preparer.quote(element.table.name)} FOR EACH ROW",
            f"{_WHEN.strip()} {when}",
            "BEGIN",
            f"  -- {element.mark}",
            f"{_ALLOWS}{_allowed(element)}",
            *(f"  {statement};" for statement in body),
            "END",
        ]
    )


def _allowed(element: CreateTrigger) -> str:
    rules = element.rules
    return json.dumps(rules.edges if element.kind == "update" else [[text] for text in rules.begins])


def _watch(element: CreateTrigger, compiler: Any) -> Iterator[str]:
    literals, column = Literals(compiler), compiler.preparer.quote(element.column.name)
    source = f"OLD.{column}" if element.kind == "update" else "NULL"
    table, name = literals.plain(element.table.name), literals.plain(element.column.name)
    values = f"strftime('%Y-%m-%d %H:%M:%f', 'now') || '000', {table}, {name}, {source}, NEW.{column}"
    yield f"INSERT INTO {WATCHED} (at, table_name, column_name, source, target) VALUES ({values})"  # noqa: S608 - quoted


def _sqlite_update(element: CreateTrigger, old: str, new: str, literals: _SQLiteLiterals) -> tuple[str, Iterator[str]]:
    moves, label = element.rules.moves, element.label
    whens = [
        f"WHEN {literals.value(source)} THEN {new} IN ({', '.join(map(literals.value, targets))})"
        for source, targets in moves.items()
        if targets
    ]
    allowed = f"COALESCE(CASE {old} {' '.join(whens)} END, 0)" if whens else "0"

    def body() -> Iterator[str]:
        for source, targets in moves.items():
            others = [text for text in moves if text != source and text not in targets]
            named = others if len(moves) ** 2 <= _MOST_PAIRS else []
            messages = {target: _no_move(label, source, target) for target in (*named, None)}
            yield f"SELECT {_raised(new, messages, literals)} WHERE {old} = {literals.value(source)}"
        messages = {target: _no_move(label, None, target) for target in (*moves, None)}
        yield f"SELECT {_raised(new, messages, literals)}"

    return f"{old} IS NOT {new} AND NOT {allowed}", body()


def _sqlite_insert(element: CreateTrigger, old: str, new: str, literals: _SQLiteLiterals) -> tuple[str, Iterator[str]]:
    begins, label = element.rules.begins, element.label
    others = [text for text in element.rules.moves if text not in begins]
    messages = {target: f"{label}: {_quoted(target)} is no initial state" for target in (*others, None)}
    allowed = f"COALESCE({new} IN ({', '.join(map(literals.value, begins))}), 0)"
    return f"NOT {allowed}", iter([f"SELECT {_raised(new, messages, literals)}"])


def _no_move(label: str, source: str | None, target: str | None) -> str:
    return f"{label}: {_quoted(source)} to {_quoted(target)} is no transition"


def _quoted(state: str | None) -> str:
    return UNDECLARED if state is None else f"'{state}'"


def _raised(value: str, messages: dict[str | None, str], literals: _SQLiteLiterals) -> str:
    """The SQL that raises the message for each *value*; that of None for any other."""
    raises = {state: f"RAISE(ABORT, {literals.plain(message)})" for state, message in messages.items()}
    otherwise = raises.pop(None)
    if not raises:
        return otherwise
    whens = [f"WHEN {literals.value(str(state))} THEN {raised}" for state, raised in raises.items()]
    return f"CASE {value} {' '.join(whens)} ELSE {otherwise} END"


def _replace(connection: Connection, column: Column[Any], bodies: dict[str, str]) -> None:
    for name, body in bodies.items():
        connection.execute(DropTrigger(column.table, name))
        connection.exec_driver_sql(body)


def _master(connection: Connection, table: Table) -> Table:
    master = Table("sqlite_master", MetaData(), *map(Column, ("name", "sql", "type", "tbl_name")))
    master.schema = connection.schema_for_object(table)
    return master


def _stored(connection: Connection, table: Table) -> list[tuple[str, str, str]]:
    master = _master(connection, table)
    is_here = [master.c.type == "trigger", func.lower(master.c.tbl_name) == table.name.lower()]
    found = connection.execute(select(master.c.name, master.c.sql).where(*is_here))
    return [(name, "update" if "BEFORE UPDATE" in sql else "insert", sql) for name, sql in found]
