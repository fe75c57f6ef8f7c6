"""How each operation is done: what is checked first, what is altered, and what is a reason to refuse."""

from __future__ import annotations

from collections.abc import Collection

from alembic.operations import Operations
from sqlalchemy.exc import DBAPIError

from ..core.failures import Cause, is_due_to
from ..databases import name_of
from ..databases.mysql.shape import copy_remark
from ..errors import MigrationRefused
from .batches import Migration, committing, migrate
from .databases import ColumnStates, Place, ServerPlace, Wanted, log, place_of
from .offline import script
from .ops import AddStatesOp, AlterStatesOp, ConvertStatesOp, DropStatesOp, MigrateStatesOp, StatesOp
from .rows import required, rows_in, rows_outside, shown_rows


@Operations.implementation_for(AddStatesOp)
def add_states(operations: Operations, op: AddStatesOp) -> None:
    if _is_offline(operations, op):
        return
    place = _place(operations, op)
    current = required(place, is_number=op.storage == "integer")
    missing = [state for state in dict.fromkeys(op.states) if state not in current.states]
    if not missing:
        log.info("%s: has %s already", place.label, _listed(op.states))
        return
    if current.storage in ("text", "number"):
        raise MigrationRefused(place.label, "nothing limits the values of the column", "see op.convert_states()")
    require_distinct(place, current, missing)
    if place.storage(op.storage) != "enum" or op.algorithm == "COPY":
        _require_consent(place, op)
    wanted = Wanted((*current.states, *missing), algorithm=op.algorithm)
    try:
        _alter(place, op, wanted)
    except DBAPIError as error:
        if not is_due_to(error, Cause.ALGORITHM_REFUSED):
            raise
        raise MigrationRefused(
            place.label,
            f"the server cannot add {_listed(missing)} with ALGORITHM={op.algorithm}",
            'algorithm="COPY" copies the table, and blocks writers while it does; nothing was changed',
        ) from error
    log.info("%s: takes %s", place.label, _listed(missing))


@Operations.implementation_for(DropStatesOp)
def drop_states(operations: Operations, op: DropStatesOp) -> None:
    if _is_offline(operations, op):
        return
    place = _place(operations, op)
    current = required(place, is_number=op.storage == "integer")
    gone = [state for state in op.states if state in current.states]
    if not gone:
        log.info("%s: does not allow %s already", place.label, _listed(op.states))
        return
    left = tuple(state for state in current.states if state not in gone)
    _require_empty(place, gone)
    default = _default_after(place, op, current, left)
    _require_consent(place, op)
    try:
        _alter(place, op, Wanted(left, default=default, algorithm=op.algorithm))
    except DBAPIError as error:
        if is_due_to(error, Cause.ROWS_REFUSED):  # written since they were counted
            _require_empty(place, gone)
        raise
    log.info("%s: does not allow %s any longer", place.label, _listed(gone))


@Operations.implementation_for(ConvertStatesOp)
def convert_states(operations: Operations, op: ConvertStatesOp) -> None:
    if _is_offline(operations, op):
        return
    place = _place(operations, op)
    current = required(place, is_number=op.storage == "integer")
    wanted = place.storage(op.storage)
    is_as_new = current.is_exact and not current.is_nullable
    if current.storage == wanted and set(current.states) == set(op.states) and is_as_new:
        log.info("%s: is stored as %s already", place.label, wanted)
        return
    strange = rows_outside(place, op.states)
    if strange:
        raise MigrationRefused(
            place.label,
            "rows have other values than the states",
            "move them by op.migrate_states(), or take the column over by op.adopt_column(); nothing was changed",
            rows=shown_rows(strange),
        )
    _require_consent(place, op)
    _alter(place, op, Wanted(op.states, storage=wanted, is_new=True))
    log.info("%s: is stored as %s", place.label, wanted)


@Operations.implementation_for(MigrateStatesOp)
def migrate_states(operations: Operations, op: MigrateStatesOp) -> None:
    if _is_offline(operations, op):
        return
    place = _place(operations, op)
    current = required(place, is_number=op.is_number)
    strange = [
        target
        for target in op.targets.values()
        if current.storage not in ("text", "number") and target not in current.states
    ]
    if strange:
        raise MigrationRefused(place.label, f"the column does not take {_listed(strange)}", "op.add_states() first")
    if current.default is not None and current.default in op.targets and op.condition is None:
        default = op.targets[current.default]
        place.patiently(5, 1, lambda: place.set_default(default, lock_wait_timeout=1))
    with committing(operations, place.label):
        migration = Migration(
            op.targets,
            op.batch_size,
            op.history,
            op.record,
            op.actor,
            op.details,
            where=op.condition,
            names=op.names,
            keeps_timestamps=op.keeps_timestamps,
            since=op.since,
        )
        migrate(_place(operations, op), migration)


def require_distinct(place: Place, current: ColumnStates, states: Collection[str]) -> None:
    """Refuse *states* that the column's collation takes for others that it has, such as 'paid' beside 'Paid'.

    Raises: MigrationRefused.
    """
    if current.is_exact:
        return
    folded = {state.casefold(): state for state in current.states}
    found = [(state, folded[state.casefold()]) for state in states if state.casefold() in folded]
    if found:
        state, other = found[0]
        raise MigrationRefused(
            place.label,
            f"the column's collation takes {state!r} for {other!r}, which the column has",
            "op.adopt_column() adds a state column beside it, with a mapping of the values; nothing was changed",
        )


def _require_consent(place: Place, op: AlterStatesOp) -> None:
    """Refuse a step for which the server copies the table, unless the revision accepts that."""
    if op.copies_table or not isinstance(place, ServerPlace):
        return
    size = copy_remark(place.connection, place.table.name, place.schema)
    raise MigrationRefused(
        place.label,
        f"for this step the server copies the table and blocks its writers ({size})",
        "give copies_table=True when that is acceptable, or plan a maintenance window; nothing was changed",
    )


def _is_offline(operations: Operations, op: StatesOp) -> bool:
    """Whether only a script is asked for; it is written."""
    context = operations.get_context()
    if not context.as_sql:
        return False
    for statement in script(context.dialect, op):
        context.impl.static_output(statement)
    return True


def _place(operations: Operations, op: StatesOp) -> Place:
    place = place_of(operations.get_bind(), op.table_name, op.column_name, op.schema)
    if place is None:
        name = name_of(operations.get_context().dialect)
        raise MigrationRefused(op.label, f"how to alter a state column of {name} is not known", "write it by hand")
    return place


def _alter(place: Place, op: AlterStatesOp, wanted: Wanted) -> None:
    try:
        place.patiently(
            op.attempts, op.lock_wait_timeout, lambda: place.alter(wanted, lock_wait_timeout=op.lock_wait_timeout)
        )
    except DBAPIError as error:
        if is_due_to(error, Cause.KEY_REFUSED):
            raise MigrationRefused(
                place.label,
                f"a foreign key prevents this change of the column ({error.orig})",
                "keep the column's type, drop the foreign key first, or take the column over by op.adopt_column()",
            ) from error
        if not is_due_to(error, Cause.VERSIONED):
            raise
        raise MigrationRefused(
            place.label,
            "MariaDB does not alter a table WITH SYSTEM VERSIONING whose history must be kept",
            "SET SESSION system_versioning_alter_history = KEEP before; nothing was changed",
        ) from error


def _require_empty(place: Place, states: list[str]) -> None:
    rows = shown_rows(rows_in(place, states))
    if rows:
        advice = "move them first, as by op.migrate_states(); nothing was changed"
        raise MigrationRefused(place.label, "cannot drop states that rows are in", advice, rows=rows)


def _default_after(place: Place, op: DropStatesOp, current: ColumnStates, left: tuple[str, ...]) -> str | None:
    if op.server_default is not None and op.server_default not in left:
        raise MigrationRefused(
            place.label,
            f"server_default={op.server_default!r} is not a state that stays",
            f"use one of {_listed(left)}",
        )
    if current.default is None or current.default in left:
        return op.server_default
    if op.server_default is None:
        raise MigrationRefused(
            place.label, f"{current.default!r} is the column's default", "pass server_default=; nothing was changed"
        )
    return op.server_default


def _listed(states: list[str] | tuple[str, ...]) -> str:
    return ", ".join(map(repr, states))
