"""How an adoption ends: the state column stands alone, and the old one is dropped, or generated for readers.

Everything that uses the old column is looked for first, because some of it the server refuses only when the triggers
are gone. Should the server refuse a step all the same, the triggers are made again before any other session writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from alembic.operations import Operations
from sqlalchemy.exc import DBAPIError

from ..core.failures import Cause, is_due_to
from ..databases.mysql.adoption import (
    Adoption,
    Index,
    OldValue,
    adoption_of,
    create_triggers,
    foreign_keys,
    indexes,
    old_value_case,
)
from ..databases.mysql.dependents import dependents
from ..databases.mysql.literals import quoted
from ..databases.mysql.shape import ColumnShape
from ..errors import MigrationRefused
from ..operations.adoption import disagreeing, look
from .adopting import AdoptedTable, trigger_names
from .adoption import FinishAdoptionOp
from .databases import log


@Operations.implementation_for(FinishAdoptionOp)
def finish_adoption(operations: Operations, op: FinishAdoptionOp) -> None:
    table = AdoptedTable(operations, op)
    old, new = table.shape(op.column_name), table.shape(op.new)
    going = adoption_of(table.connection, op.table_name, op.column_name, op.new, table.schema)
    waiting = table.shape(table.spare)
    if new is None:
        raise MigrationRefused(op.label, f"the table has no column {op.new}", "op.adopt_column() adds it")
    if going is None and not new.is_nullable and (old is None or old.is_generated) and waiting is None:
        log.info("%s: the adoption by %s is finished already", op.label, op.new)
        return
    if going is None and (new.is_nullable or (waiting is None and not op.drop)):
        raise MigrationRefused(op.label, f"no triggers keep it in step with {op.new}", "op.adopt_column() makes them")
    if going is not None and old is not None:
        _require_step(table, going, op)
    of_old = _own_indexes(table, op, going) if old is not None and not old.is_generated else []
    # 1. NOT NULL, while the triggers still supply the state of old code's rows.
    if new.is_nullable:
        type_ = f"MODIFY COLUMN {table.quote(op.new)} {new.full_type} NOT NULL{_comment(new)}"
        table.alter(f"make {op.new} NOT NULL", type_, "INPLACE, LOCK=NONE")
    # 2. The column for readers waits under a name of its own, so that a crash cannot lose what it shows.
    if going is not None and old is not None and not op.drop and waiting is None:
        generated = f"ADD COLUMN {table.quote(table.spare)} {_generated(table, going, old)}"
        table.alter("add the column for readers", generated, "INSTANT")
    # 3. What stands in the way of dropping the old column by ALGORITHM=INSTANT.
    _drop_keys(table, op, of_old)
    # 4. For a moment no other session writes: either the triggers keep both in step, or the old column is gone.
    _switch(table, op, going, old)
    # 5. Readers find by the generated column what they found by the old one.
    for one in of_old if not op.drop else ():
        parts = zip(one.columns, one.lengths, strict=True)
        columns = ", ".join(f"{table.quote(name)}{f'({length})' if length else ''}" for name, length in parts)
        unique = "UNIQUE " if one.is_unique else ""
        table.alter("add an index", f"ADD {unique}INDEX {table.quote(one.name)} ({columns})", "INPLACE, LOCK=NONE")
    log.info("%s: %s has taken its place", op.label, op.new)


def _require_step(table: AdoptedTable, going: Adoption, op: FinishAdoptionOp) -> None:
    if left := disagreeing(table.connection, going, table.schema):
        raise MigrationRefused(
            op.label,
            f"{left} rows are not in step with {op.new}",
            "run op.adopt_column() to its end; nothing was changed",
        )


def _own_indexes(table: AdoptedTable, op: FinishAdoptionOp, going: Adoption | None) -> list[Index]:
    """The indexes of the old column alone.

    Raises: MigrationRefused when anything else of the table uses it, or other tables refer to it.
    """
    keys = foreign_keys(table.connection, op.table_name, table.schema)
    of_keys = [
        f"the foreign key {key.name}{'' if key.table == op.table_name else f' of {key.table}'}"
        for key in keys
        if (key.table != op.table_name and op.column_name in key.referred_columns)
        or (key.table == op.table_name and op.column_name in key.columns and len(key.columns) > 1)
    ]
    found = [one for one in indexes(table.connection, op.table_name, table.schema) if op.column_name in one.columns]
    shared = [f"the index {one.name}" for one in found if len(one.columns) > 1 or one.name == "PRIMARY"]
    with table.place.pinned(op.lock_wait_timeout):
        others = dependents(
            table.connection,
            op.table_name,
            op.column_name,
            table.schema,
            own_triggers=going.names if going else (),
            stays_readable=not op.drop,
        )
    if using := [*of_keys, *shared, *others]:
        raise MigrationRefused(
            op.label,
            f"still used by {', '.join(using)}",
            f"make these on {op.new} where they are needed, and drop them, as by op.create_index() and op.drop_index(),"
            " op.drop_constraint(), op.release_machine(); nothing was changed",
        )
    return found


def _drop_keys(table: AdoptedTable, op: FinishAdoptionOp, of_old: Sequence[Index]) -> None:
    for key in foreign_keys(table.connection, op.table_name, table.schema):
        if key.table == op.table_name and key.columns == (op.column_name,):
            table.alter("drop a foreign key", f"DROP FOREIGN KEY {table.quote(key.name)}", "INPLACE")
    for one in of_old:
        table.alter("drop an index", f"DROP INDEX {table.quote(one.name)}", "INPLACE, LOCK=NONE")


def _switch(table: AdoptedTable, op: FinishAdoptionOp, going: Adoption | None, old: ColumnShape | None) -> None:
    """Drop the triggers and the old column; should the server refuse, the triggers are made again."""
    undo: list[str] = []
    default = None
    if going is not None and old is not None:
        names = trigger_names(table.connection, going, table.schema)
        old_values = going.old_values(_holds(table, going, old))
        undo = create_triggers(going, old_values, table.quote, table.schema, names)
        default = _default(going, old)
    try:
        table.locked(_last_steps(table, op, going, old, default), undo)
    except DBAPIError as error:
        if not is_due_to(error, Cause.ALGORITHM_REFUSED):
            raise
        raise table.unable(f"drop {op.column_name}", "INSTANT", error) from error


def _last_steps(
    table: AdoptedTable, op: FinishAdoptionOp, going: Adoption | None, old: ColumnShape | None, default: str | None
) -> list[str]:
    alter, new = f"ALTER TABLE {table.name}", table.quote(op.new)
    steps = [f"DROP TRIGGER {table.prefix}{table.quote(name)}" for name in (going.names if going else ())]
    # Not before: with a default, the triggers could not tell the rows of old code from those of new code.
    if default is not None:
        steps.append(f"{alter} ALTER COLUMN {new} SET DEFAULT {quoted(default)}")
    if old is not None and not old.is_generated:
        algorithm = "" if op.copies_table else ", ALGORITHM=INSTANT"
        steps.append(f"{alter} DROP COLUMN {table.quote(op.column_name)}{algorithm}")
    if not op.drop:
        steps.append(f"{alter} RENAME COLUMN {table.quote(table.spare)} TO {table.quote(op.column_name)}")
    return steps


def _default(going: Adoption, old: ColumnShape) -> str | None:
    """The state that stands for the old column's default."""
    states = dict(going.mapping)
    if old.default is None:
        return states.get(None) if old.is_nullable else None
    value: OldValue = int(float(old.default)) if going.is_number else old.default
    return states.get(value, going.unknown)


def _generated(table: AdoptedTable, going: Adoption, old: ColumnShape) -> str:
    holds = _holds(table, going, old)
    return (
        f"{old.full_type} AS ({old_value_case(table.quote(going.new), going.old_values(holds))}) VIRTUAL{_comment(old)}"
    )


def _holds(table: AdoptedTable, going: Adoption, old: ColumnShape) -> Callable[[OldValue], bool]:
    found = look(
        table.connection,
        going.table,
        going.old,
        going.new,
        states=list(going.states),
        mapping=dict(going.mapping),
        unknown=going.unknown,
        schema=table.schema,
    )
    return found.holds


def _comment(shape: ColumnShape) -> str:
    return f" COMMENT {quoted(shape.comment)}" if shape.comment else ""
