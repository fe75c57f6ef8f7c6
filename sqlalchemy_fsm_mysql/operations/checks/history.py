"""The checks of a history's table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Column, Connection, Table

from ...databases import database_of, is_autocommit
from ...databases.catalogue import ColumnFacts
from ...orm.mapped import MappedState
from ...sql.history import HistorySQL
from ..findings import Finding, label_of, named
from .column import of_engine

__all__ = ["of_history"]

_INTEGERS = ("tinyint", "smallint", "mediumint", "integer", "bigint")


def of_history(mapped: MappedState, connection: Connection) -> Iterator[Finding]:
    history = mapped.extras.history
    if history is None:
        return
    if is_autocommit(connection):
        own = f"{mapped.model.__name__}.{mapped.attribute}"
        what = f"the connection is in AUTOCOMMIT, but the history of {own} needs transactions"
        yield Finding("error", "autocommit", what, 'use isolation_level="READ COMMITTED"')
    table: Table = history.sql.table
    facts = database_of(connection).catalogue.table(connection, table)
    if facts is None:
        yield Finding(
            "error", "no history", f"there is no table {table.name}", "create it by a migration, or by create_all()"
        )
        return
    gone = [column.name for column in table.c if column.name not in facts.columns]
    if gone:
        yield Finding("error", "history columns", f"{table.name} has no column {named(gone)}", "add it by a migration")
    yield from of_engine(table.name, facts)
    key = tuple(column.name for column in (*history.sql.row_key, table.c.sequence))
    if key not in facts.unique:
        what = f"{table.name} has no unique index on ({', '.join(key)}): each fire reads all history rows of its row"
        yield Finding("error", "history index", what, "make these columns the primary key")
    token = table.c.token.name
    if token not in gone and (token,) not in facts.unique:
        what = f"{table.name} has no unique index on ({token}): the same token could move a row twice"
        yield Finding("error", "history index", what, f"ADD UNIQUE INDEX ({token})")
    more = sorted(facts.required - {column.name for column in table.c})
    if more:
        what = (
            f"{table.name} has the column {named(more)}, NOT NULL and without a default, which the model does not have"
        )
        yield Finding("error", "history columns", what, "declare it with a default, or make it NULL")
    for column in table.c:
        found = None if column.name in gone else database_of(connection).catalogue.column(connection, column)
        if found is not None:
            yield from _of_history_column(mapped, history.sql, column, found, connection)


def _of_history_column(
    mapped: MappedState, history: HistorySQL, column: Column[Any], found: ColumnFacts, connection: Connection
) -> Iterator[Finding]:
    label, machine, table = label_of(column), mapped.machine, history.table
    wanted = {
        table.c.source: max(map(len, machine.stored_states)),
        table.c.target: max(map(len, machine.stored_states)),
        table.c.event: max(map(len, machine.events)),
        table.c.token: getattr(table.c.token.type, "length", None),
        table.c.actor: getattr(table.c.actor.type, "length", None),
    }.get(column)
    if wanted is not None and found.length is not None and found.length < wanted:
        what = f"{label} has room for {found.length} characters, but a value can have {wanted}"
        yield Finding("error", "too short", what, "make the column longer")
    if column in (table.c.source, table.c.target) and found.states is not None:
        refused = [state for state in machine.stored_states if state not in found.states]
        if refused:
            what = f"{label} does not take {named(refused)}, so those transitions cannot be recorded"
            yield Finding("error", "states missing", what, "make it a VARCHAR")
    if column is table.c.token and not found.is_exact and not str(found.collation).endswith("_bin"):
        what = f"{label} has the collation {found.collation}: tokens that differ by case or accent are one token"
        yield Finding("error", "token collation", what, "give it a binary collation, such as that of create_all()")
    charset = str(found.collation).partition("_")[0]
    if column is table.c.actor and found.collation is not None and charset not in ("utf8mb4", "binary"):
        what = f"{label} is stored in {charset}: a fire fails if its actor has another character"
        yield Finding("warning", "actor charset", what, f"MODIFY {column.name} VARCHAR(255) CHARACTER SET utf8mb4")
    if column in history.row_key:
        own = mapped.row.key[history.row_key.index(column)]
        key = database_of(connection).catalogue.column(connection, own)
        kinds = [found.kind] if key is None else [found.kind, key.kind]
        if set(kinds) <= set(_INTEGERS) and _INTEGERS.index(kinds[0]) < _INTEGERS.index(kinds[-1]):
            what = f"{label} is {kinds[0].upper()}, and the key that it records is {kinds[-1].upper()}"
            yield Finding("error", "history key", what, "give it the type of that key")
