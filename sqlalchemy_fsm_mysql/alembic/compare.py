"""The comparison of autogenerate: how the states of a model's column differ from those that the database lets in.

Alembic compares types, and knows nothing of a CHECK or of an order that only the database has. So the change of a
state column is taken out of its hands: each column is compared here, and what Alembic made of it is replaced.

A revision has either what makes room (``add_states``, ``migrate_states``, ``convert_states``) or what takes it away
(``drop_states``): these belong before and after a deploy.
"""

from __future__ import annotations

from collections.abc import Iterator
from logging import Logger, getLogger
from typing import Any, cast

import alembic.util
from alembic.autogenerate import comparators
from alembic.autogenerate.api import AutogenContext
from alembic.operations import MigrateOperation
from alembic.operations.ops import (
    AlterColumnOp,
    DropColumnOp,
    DropConstraintOp,
    DropIndexOp,
    ModifyTableOps,
    UpgradeOps,
)
from sqlalchemy import Column, Select, literal_column, select

from ..core.target import EXTRAS, Extras
from ..databases import types_of
from ..databases.mysql.adoption import adoptions, foreign_keys, indexes
from ..databases.mysql.shape import copy_remark
from ..errors import MigrationRefused
from ..orm.column import StateType, Storage
from .databases import ColumnStates, Place, ServerPlace, place_of
from .implementation import require_distinct
from .ops import AddStatesOp, Algorithm, ConvertStatesOp, DropStatesOp, MigrateStatesOp, StatesOp
from .render import with_our_types
from .rows import is_among
from .since import since_columns
from .surveys import column_states, survey_of

log: Logger = getLogger("alembic.autogenerate.sqlalchemy_fsm_mysql")

# A key that Alembic takes for a change, so that it keeps the operation until `_finish`.
_FOUND = "modify_fsm_states"

# Alembic 1.18 and later order comparators by priority, and let one of "types" stop those that come behind it.
_PRIORITY = getattr(alembic.util, "DispatchPriority", None)
_RESULT = getattr(alembic.util, "PriorityDispatchResult", None)
_IN_TYPES: dict[str, Any] = {} if _PRIORITY is None else {"priority": _PRIORITY.MEDIUM, "subgroup": "types"}
_AT_THE_END: dict[str, Any] = {} if _PRIORITY is None else {"priority": _PRIORITY.LAST, "subgroup": "states"}
_CONTINUE, _STOP = (None, None) if _RESULT is None else (_RESULT.CONTINUE, _RESULT.STOP)


@comparators.dispatch_for("column", **_IN_TYPES)
def _compare_column(
    context: AutogenContext,
    alter: AlterColumnOp,
    schema: str | None,
    table_name: str,
    column_name: str,
    stored: Column[Any],
    declared: Column[Any],
) -> Any:
    """Note the operations on the states on *alter*, for `_finish`."""
    type_ = declared.type
    if not isinstance(type_, StateType) or context.opts.get("compare_type", True) is False:
        return _CONTINUE
    assert context.connection is not None
    place = place_of(context.connection, table_name, column_name, schema)
    if place is None or _is_left(context, stored, declared):
        return _CONTINUE
    current = column_states(place, survey_of(context, table_name, schema))
    numbers = ("integer", "number")
    if current is None or (current.storage in numbers) != (type_.storage == "integer"):
        is_number = current is not None and current.storage in numbers
        advice = 'a machine over an Enum of ints takes it as it is, by storage="integer"; else ' if is_number else ""
        raise MigrationRefused(
            place.label,
            f"the column is {stored.type!s}, which alter_column() would have the server convert in its own way: numbers"
            " by position, unknown texts to ''",
            f"{advice}op.adopt_column() takes it over, and the command `sqlalchemy-fsm-mysql adopt` writes that"
            " revision; compare_type= in env.py may leave the column out",
        )
    alter.kw[_FOUND] = list(_changes(place, current, declared, schema))
    return _STOP


def _is_left(context: AutogenContext, stored: Column[Any], declared: Column[Any]) -> bool:
    """Whether the ``compare_type`` of env.py says that the column stays as it is."""
    asked = context.opts.get("compare_type")
    if not callable(asked):
        return False
    return asked(context.migration_context, stored, declared, stored.type, declared.type) is False


def _is_server(context: AutogenContext) -> bool:
    return context.connection is not None and types_of(context.connection.dialect).has_enum


@comparators.dispatch_for("schema", **_AT_THE_END)
def _finish(context: AutogenContext, upgrade: UpgradeOps, schemas: Any) -> Any:
    """Put what was found in the place of what Alembic made of it."""
    theirs = context.opts.get("render_item")
    if not getattr(theirs, "renders_states", False):
        context.opts["render_item"] = with_our_types(theirs)
    found: list[MigrateOperation] = []
    enforced: list[MigrateOperation] = []
    added: list[MigrateOperation] = []
    for modify in [op for op in upgrade.ops if isinstance(op, ModifyTableOps)]:
        # Triggers come last, and in a downgrade go first: in batch mode SQLite's table is made again without them at
        # the end of what is altered in it.
        enforced += [op for op in modify.ops if isinstance(op, StatesOp)]
        modify.ops = [op for op in modify.ops if not isinstance(op, StatesOp)]
        added += since_columns(context, modify)
        _leave_adoptions(context, modify)
        for alter in [op for op in modify.ops if isinstance(op, AlterColumnOp)]:
            if _FOUND not in alter.kw:
                continue
            found += alter.kw.pop(_FOUND)
            alter.modify_type = None
            if alter.modify_nullable is False and _is_server(context):
                alter.modify_nullable = None  # convert_states does it, in strict mode, once no row holds NULL
            if not alter.has_changes():
                modify.ops.remove(alter)
        if modify.is_empty():
            upgrade.ops.remove(modify)
    makes_room = [op for op in found if not isinstance(op, DropStatesOp)]
    for op in found:
        if makes_room and isinstance(op, DropStatesOp):
            log.info("%s: to drop %s is left for a later revision", op.label, _listed(op.states))
    # The triggers of a column that is dropped go before it, and a column comes before its index.
    first = [op for op in enforced if getattr(op, "comes_first", False)]
    upgrade.ops[:0] = [*first, *added]
    upgrade.ops += [*(makes_room or found), *(op for op in enforced if op not in first)]
    return _CONTINUE


def _leave_adoptions(context: AutogenContext, modify: ModifyTableOps) -> None:
    """Leave both columns of an adoption as they are: old code still reads and writes the one that the model lacks."""
    if not _is_server(context) or not modify.ops:
        return
    connection, table, schema = context.connection, modify.table_name, modify.schema
    assert connection is not None
    for going in adoptions(connection, table, schema, survey_of(context, table, schema)):
        keys = foreign_keys(connection, table, schema)
        names = {one.name for one in indexes(connection, table, schema) if going.old in one.columns}
        names |= {key.name for key in keys if key.table == table and going.old in key.columns}
        for op in list(modify.ops):
            if (
                (isinstance(op, DropColumnOp) and op.column_name == going.old)
                or (isinstance(op, DropIndexOp) and op.index_name in names)
                or (isinstance(op, DropConstraintOp) and op.constraint_name in names)
            ):
                modify.ops.remove(op)
            elif isinstance(op, AlterColumnOp) and op.column_name == going.new and _FOUND in op.kw:
                op.kw[_FOUND] = [one for one in op.kw[_FOUND] if not isinstance(one, ConvertStatesOp)]
                op.modify_nullable, op.modify_server_default = None, False
            else:
                continue
            log.info("%s.%s is being adopted by %s; op.finish_adoption() ends that", table, going.old, going.new)


def _changes(
    place: Place, current: ColumnStates, declared: Column[Any], schema: str | None
) -> Iterator[MigrateOperation]:
    """The operations that change *current* to what *declared* says."""
    type_ = cast(StateType, declared.type)
    machine, wanted = type_.machine, place.storage(type_.storage)
    where: dict[str, Any] = {"table_name": place.table.name, "column_name": declared.name, "schema": schema}
    if current.storage != wanted or (current.is_nullable and not declared.nullable):
        yield from _converted(place, current, type_, where)
        return
    added = tuple(state for state in type_.stored_states if state not in current.states)
    gone = tuple(state for state in current.states if state not in type_.stored_states)
    altering = {**where, "storage": wanted, "existing": current.states}
    require_distinct(place, current, added)
    if added:
        log.info("Detected added states %s on '%s'", _listed(added), place.label)
        algorithm: Algorithm = "INSTANT" if wanted == "enum" else "COPY"
        yield AddStatesOp(states=added, algorithm=algorithm, remark=_remark(place), **altering)
    yield from _moved(place, current, declared, where)
    if gone:
        log.info("Detected removed states %s on '%s'", _listed(gone), place.label)
        default = type_.stored_value(machine.initial) if current.default in gone else None
        line = _definition(place, current)
        yield DropStatesOp(states=gone, server_default=default, remark=_remark(place), definition=line, **altering)
    for state in map(type_.stored_value, machine.retired):
        if state in current.states and not _has_rows(place, state):
            log.info("%s: %r is retired, and no row has it: the machine can be declared without it", place.label, state)


def _converted(
    place: Place, current: ColumnStates, type_: StateType, where: dict[str, Any]
) -> Iterator[MigrateOperation]:
    """The operation that stores the states in another form, or forbids NULL."""
    wanted = place.storage(type_.storage)
    if current.storage != wanted:
        log.info("Detected states stored as %s, not %s, on '%s'", current.storage, wanted, place.label)
    else:
        log.info("Detected states that may be NULL on '%s'", place.label)
    # States that rows may still be in stay in the column; a later revision drops them.
    extra = tuple(state for state in current.states if state not in type_.stored_states)
    # The column's own order comes first, since an ENUM is stored and sorted by position. A column of text has none.
    yield ConvertStatesOp(
        states=(*current.states, *(state for state in type_.stored_states if state not in current.states))
        if current.states
        else (*type_.stored_states, *extra),
        storage=wanted,
        existing_storage=_STORAGES.get(current.storage),
        remark=_remark(place),
        definition=_definition(place, current),
        **where,
    )


_STORAGES: dict[str, Storage] = {"enum": "enum", "varchar": "varchar", "integer": "integer"}


def _definition(place: Place, current: ColumnStates) -> str | None:
    """The column's line of SHOW CREATE TABLE, for the bare ALTER of ``--sql``; a column with a CHECK has none."""
    return (
        place.definition() if isinstance(place, ServerPlace) and current.storage in ("enum", "text", "number") else None
    )


def _remark(place: Place) -> str:
    if not isinstance(place, ServerPlace):
        return ""
    return copy_remark(place.connection, place.table.name, place.schema)


def _moved(
    place: Place, current: ColumnStates, declared: Column[Any], where: dict[str, Any]
) -> Iterator[MigrateOperation]:
    """Rows with an alias, or that may get one: a rename, or a merge into a state that the database has already."""
    machine = cast(StateType, declared.type).machine
    extras: Extras | None = declared.info.get(EXTRAS)
    history = extras.history if extras is not None else None
    if cast(StateType, declared.type).numbers is not None:  # a number stays when its state is renamed
        return
    for alias, state in machine.aliases.items():
        target = machine.stored(state)
        is_new = target not in current.states
        if alias not in current.states or not (is_new or current.default == alias or _has_rows(place, alias)):
            continue
        log.info("Detected state %r %s %r on '%s'", alias, "renamed to" if is_new else "known as", target, place.label)
        record = {} if history is None else _record(history)
        yield MigrateStatesOp(
            targets={alias: target},
            history=None if history is None else history.sql.table.name,
            record=record,
            reversible=is_new or not _has_rows(place, target),
            **where,
        )


def _record(history: Any) -> dict[str, str]:
    """The columns of the history that hold the record's key, each with that of the record's table."""
    own = history.mapped.row.key
    return {part.name: column.name for part, column in zip(history.sql.row_key, own, strict=True)}


def _has_rows(place: Place, state: str) -> bool:
    query: Select[Any] = (
        select(literal_column("1")).select_from(place.table).where(is_among(place.column, [state])).limit(1)
    )
    return place.connection.execute(query).first() is not None


def _listed(states: tuple[str, ...]) -> str:
    return ", ".join(map(repr, states))


__all__: list[str] = []
