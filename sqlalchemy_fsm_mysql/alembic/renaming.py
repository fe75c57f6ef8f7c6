"""Alembic's own ``drop_column``, ``alter_column`` and ``rename_table`` on a column with triggers of ours.

MySQL and MariaDB drop or rename a column that a trigger reads, and from then on every write of the table fails. So the
triggers go before the column is dropped, and follow it when the column or the table is renamed. ``--sql`` cannot look
for triggers and leaves the operations as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from alembic.operations import Operations, toimpl
from alembic.operations.batch import BatchOperationsImpl
from alembic.operations.ops import AlterColumnOp, DropColumnOp, MigrateOperation, RenameTableOp
from sqlalchemy import Column, Connection, MetaData, String, Table

from ..databases import enforcer_of
from ..operations.enforcement import (
    install_triggers,
    installed_rules,
    own_triggers,
    remove_triggers,
    triggered_columns,
)
from .databases import log

__all__: list[str] = []


def _column(table: str, column: str, schema: str | None) -> Column[Any]:
    return Table(table, MetaData(), Column(column, String()), schema=schema).c[column]


def _connection(operations: Operations) -> Connection | None:
    """The connection, where triggers can be looked for."""
    context = operations.get_context()
    return None if context.as_sql or not enforcer_of(context.dialect).can_enforce else operations.get_bind()


def drop_column(operations: Operations, op: DropColumnOp) -> None:
    """Drop the triggers of the column, then the column."""
    connection, column = _connection(operations), _column(op.table_name, op.column_name, op.schema)
    if connection is not None and own_triggers(connection, column):
        remove_triggers(connection, column)
        log.info("%s: no machine is enforced, because the column is dropped", column)
    toimpl.drop_column(operations, op)


def alter_column(operations: Operations, op: AlterColumnOp) -> None:
    """Alter the column; where it gets another name, drop its triggers before and create them anew after."""
    connection, column = _connection(operations), _column(op.table_name, op.column_name, op.schema)
    is_renamed = op.modify_name is not None and op.modify_name.lower() != op.column_name.lower()
    found = own_triggers(connection, column) if is_renamed and connection is not None else []
    if connection is None or op.modify_name is None or not found:
        toimpl.alter_column(operations, op)
        return
    rules = installed_rules(connection, column)
    remove_triggers(connection, column)
    toimpl.alter_column(operations, op)
    if rules is None or isinstance(operations.impl, BatchOperationsImpl):  # a batch alters the table at its end
        log.warning("%s: renamed, and no longer enforced; op.enforce_machine() has to follow", column)
        return
    install_triggers(connection, _column(op.table_name, op.modify_name, op.schema), rules, mode=found[0].mode)


def rename_table(operations: Operations, op: RenameTableOp) -> None:
    """Rename the table, and create its triggers anew: their names and messages contain that of the table."""
    toimpl.rename_table(operations, op)
    connection = _connection(operations)
    if connection is None:
        return
    table = Table(op.new_table_name, MetaData(), schema=op.schema)
    for name in triggered_columns(connection, table):
        column = _column(op.new_table_name, name, op.schema)
        rules, found = installed_rules(connection, column), own_triggers(connection, column)
        if rules is not None:
            install_triggers(connection, column, rules, mode=found[0].mode)


def _replace(kind: type[MigrateOperation], implementation: Callable[[Operations, Any], None]) -> None:
    # implementation_for(replace=True) came with Alembic 1.17.2.
    Operations._to_impl._registry[kind, "default"] = implementation  # noqa: SLF001


_replace(DropColumnOp, drop_column)
_replace(AlterColumnOp, alter_column)
_replace(RenameTableOp, rename_table)
