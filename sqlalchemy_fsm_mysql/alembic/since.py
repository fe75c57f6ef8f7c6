"""A since column for a table that has rows: ``op.add_since_column``, which copies nothing, and which autogenerate
writes for a new `StateSinceColumn` in the place of ``op.add_column``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from alembic.autogenerate import renderers
from alembic.autogenerate.api import AutogenContext
from alembic.operations import MigrateOperation, Operations
from alembic.operations.ops import AddColumnOp, DropColumnOp, ModifyTableOps
from sqlalchemy import Column, Connection, DefaultClause, inspect, select
from sqlalchemy.exc import DBAPIError

from ..core.failures import Cause, is_due_to
from ..databases import supported, syntax_of
from ..databases.mysql.ddl import writing_dialect
from ..errors import MigrationRefused
from ..orm.since import StateSinceType
from ..sql.clock import utc_default, utc_now
from .databases import ServerPlace, log, place_of
from .ops import StatesOp

__all__ = ["AddSinceColumnOp", "since_columns"]


@Operations.register_operation("add_since_column")
@dataclass(kw_only=True, eq=False)
class AddSinceColumnOp(StatesOp):
    """The table gets a `StateSinceColumn`; its rows are in their state since now."""

    lock_wait_timeout: int = 1
    attempts: int = 5

    @classmethod
    def add_since_column(
        cls,
        operations: Operations,
        table_name: str,
        column_name: str = "state_since",
        *,
        schema: str | None = None,
        lock_wait_timeout: int = 1,
        attempts: int = 5,
    ) -> None:
        """Add the column of a `StateSinceColumn` without a copy of the table, whatever its size.

        Existing rows get the time of this migration, because the table does not know when they entered their state. A
        timed event counts from this time. New rows get the current time. There are two steps, both INSTANT: add the
        column with a constant, then set the default. A default that is an expression would make the server copy the
        table. After a failure in between, run it again. On SQLite the default stays the constant, and only INSERTs of
        the library set the current time.

        Run it before the release whose models have the column, and create the index ``(state, state_since)`` with it.
        *lock_wait_timeout* (seconds) and *attempts* are those of ``op.add_states``. Autogenerate writes the operation
        for a new `StateSinceColumn`. If the model declares the column with a comment, as nullable, or with a default of
        its own, autogenerate writes ``op.add_column``.

        Raises: MigrationRefused when the table is in use, when the database is not supported, and when the server
        cannot add the column INSTANTly.
        """
        operations.invoke(
            cls(
                table_name=table_name,
                column_name=column_name,
                schema=schema,
                lock_wait_timeout=lock_wait_timeout,
                attempts=attempts,
            )
        )

    def reverse(self) -> MigrateOperation:
        return DropColumnOp(self.table_name, self.column_name, schema=self.schema)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        return ("add_since_column", self.schema, self.table_name, self.column_name)


def since_columns(context: AutogenContext, modify: ModifyTableOps) -> Iterator[AddSinceColumnOp]:
    """Take each new since column out of *modify*, and yield the operation in its place.

    A column that is declared otherwise than the operation makes it, such as with a comment, stays Alembic's.
    """
    if context.connection is None or not supported(context.connection.dialect):
        return
    has_comments = context.connection.dialect.supports_comments
    for op in list(modify.ops):
        if isinstance(op, AddColumnOp) and _is_made_here(op.column) and not (has_comments and op.column.comment):
            modify.ops.remove(op)
            yield AddSinceColumnOp(table_name=op.table_name, column_name=op.column.name, schema=op.schema)


def _is_made_here(column: Column[Any]) -> bool:
    """Whether *column* is as `AddSinceColumnOp` adds it, but for a comment."""
    default = column.server_default
    return (
        isinstance(column.type, StateSinceType)
        and not column.nullable
        and isinstance(default, DefaultClause)
        and isinstance(default.arg, utc_default)
        and not column.dialect_kwargs
    )


# The comment above the operation: when a rolling deploy may run it.
_PHASE = "expand: before the release whose model has it; rows are in their state since this migration"


@renderers.dispatch_for(AddSinceColumnOp)
def _render(context: AutogenContext, op: AddSinceColumnOp) -> list[str]:
    prefix = context.opts["alembic_module_prefix"] or ""
    names = [repr(str.__str__(name)) for name in (op.table_name, op.column_name)]
    schema = [] if op.schema is None else [f"schema={op.schema!r}"]
    return [f"# {_PHASE}", f"{prefix}add_since_column({', '.join([*names, *schema])})"]


@Operations.implementation_for(AddSinceColumnOp)
def add_since_column(operations: Operations, op: AddSinceColumnOp) -> None:
    context = operations.get_context()
    preparer = writing_dialect(context.dialect).identifier_preparer
    table = preparer.quote(op.table_name)
    if op.schema is not None:
        table = f"{preparer.quote(op.schema)}.{table}"
    column, now = preparer.quote(op.column_name), syntax_of(context.dialect).now()
    set_default = f"ALTER TABLE {table} ALTER COLUMN {column} SET DEFAULT ({now}), ALGORITHM=INSTANT"
    if context.as_sql:
        # The time is known when the script runs.
        add = f"ALTER TABLE {table} ADD COLUMN {column} DATETIME(6) NOT NULL DEFAULT ''', {now}, ''', ALGORITHM=INSTANT"
        operations.execute(f"SET @fsm_alter = CONCAT('{add}')")
        for statement in ("PREPARE fsm_alter FROM @fsm_alter", "EXECUTE fsm_alter", "DEALLOCATE PREPARE fsm_alter"):
            operations.execute(statement)
        operations.execute(set_default)
        return
    connection = operations.get_bind()
    place = place_of(connection, op.table_name, op.column_name, op.schema)
    if place is None:
        raise MigrationRefused(op.label, "this database is not supported", "add the column by op.add_column()")
    is_there = op.column_name in {one["name"] for one in inspect(connection).get_columns(op.table_name, op.schema)}
    moment = f"'{connection.scalar(select(utc_now())):%Y-%m-%d %H:%M:%S.%f}'"
    if isinstance(place, ServerPlace):
        add = f"ALTER TABLE {table} ADD COLUMN {column} DATETIME(6) NOT NULL DEFAULT {moment}, ALGORITHM=INSTANT"
        _alter(place, op, [set_default] if is_there else [add, set_default])
    elif not is_there:
        _execute(connection, f"ALTER TABLE {table} ADD COLUMN {column} DATETIME NOT NULL DEFAULT {moment}")
    log.info(
        "%s: %s", op.label, "is there already" if is_there else f"added; its rows are in their state since {moment}"
    )


def _alter(place: ServerPlace, op: AddSinceColumnOp, statements: list[str]) -> None:
    def alter() -> None:
        with place.pinned(op.lock_wait_timeout):
            for statement in statements:
                _execute(place.connection, statement)

    try:
        place.patiently(op.attempts, op.lock_wait_timeout, alter)
    except DBAPIError as error:
        if not is_due_to(error, Cause.ALGORITHM_REFUSED):
            raise
        raise MigrationRefused(
            op.label,
            f"the server cannot add the column by ALGORITHM=INSTANT ({error.orig})",
            "op.add_column() with the column of the model copies the table instead, and blocks writers while it does;"
            " nothing was changed",
        ) from error


def _execute(connection: Connection, statement: str) -> None:
    connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
