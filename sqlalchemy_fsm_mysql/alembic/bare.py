"""The bare ALTER of a step that copies the table, ready for gh-ost and pt-online-schema-change: comments of ``--sql``.

A script has no connection, and does not know how the column is made. So the revision has the column's definition, which
autogenerate reads from the server.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from ..databases.mysql.ddl import both_dialects
from ..databases.mysql.literals import quoted
from .databases import Wanted, altered, state_table
from .definition import StoredColumn, mysql_column
from .ops import AddStatesOp, AlterStatesOp, ConvertStatesOp, DropStatesOp

__all__ = ["bare_alter"]


def bare_alter(op: AlterStatesOp) -> Iterator[str]:
    """The comments in the script of *op*; none when the revision has no definition of the column.

    Raises: ValueError when the definition is none of an ENUM, a VARCHAR or a whole number.
    """
    if op.definition is None:
        return
    stored = mysql_column([op.definition], op.column_name, "")
    if stored is None:
        raise ValueError(f"definition={op.definition!r}; it must be the column's line of SHOW CREATE TABLE")
    if _before(op) in ("varchar", "integer"):
        yield "-- No bare ALTER: in the copy that gh-ost and pt-online-schema-change make, the CHECK has another name."
        return
    wanted, dialects = _wanted(op, stored), both_dialects()
    table = state_table(op.table_name, op.column_name, op.schema)
    column = table.c[op.column_name]
    on_mariadb, on_mysql = (str(altered(stored, wanted, table, column, one).compile(dialect=one)) for one in dialects)
    is_same = on_mariadb == on_mysql
    for server, whole in [("", on_mysql)] if is_same else [(" for MariaDB", on_mariadb), (" for MySQL", on_mysql)]:
        clauses = shlex.quote(whole[whole.index(" MODIFY COLUMN ") + 1 :])
        place = shlex.quote(f"D={op.schema or 'DATABASE'},t={op.table_name}")
        yield f"-- The bare ALTER{server}: {whole}"
        yield f"--   gh-ost --table={shlex.quote(op.table_name)} --alter={clauses}"
        yield f"--   pt-online-schema-change --alter={clauses} {place}"
    if not isinstance(op, AddStatesOp):
        # Both tools copy by INSERT IGNORE.
        name, states = column.name, ", ".join(f"CAST({quoted(one)} AS BINARY)" for one in wanted.states)
        name = dialects[1].identifier_preparer.quote(name)
        is_other = f"COALESCE(CAST(CONVERT({name} USING utf8mb4) AS BINARY) NOT IN ({states}), TRUE)"
        counted = f"SELECT COUNT(*) FROM {dialects[1].identifier_preparer.format_table(table)} WHERE {is_other}"  # noqa: S608 - quoted
        yield "-- Both tools turn other values into '' without an error. Before, and at the switch, this has to be 0:"
        yield f"--   {counted}"


def _before(op: AlterStatesOp) -> str | None:
    """How the column is stored before the step; None for one that takes anything."""
    return op.existing_storage if isinstance(op, ConvertStatesOp) else op.storage


def _wanted(op: AlterStatesOp, stored: StoredColumn) -> Wanted:
    """The column after the step."""
    if isinstance(op, ConvertStatesOp):
        return Wanted(op.states, storage=op.storage, is_new=True)
    if isinstance(op, DropStatesOp):
        return Wanted(tuple(one for one in stored.states if one not in op.states), default=op.server_default)
    assert isinstance(op, AddStatesOp)
    return Wanted((*stored.states, *(one for one in op.states if one not in stored.states)))
