"""Triggers in autogenerate: which are missing, allow too little or too much, or stand on a column that is dropped.

Autogenerate reads the edges out of the triggers, because the database does not know the machine that they were made of.
It writes at most one step of a rolling deploy: triggers that refuse an edge of the model's machine are widened, and go
on to allow the edges of the servers that run the release before; a later revision takes these away.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from alembic.autogenerate import comparators, renderers
from alembic.autogenerate.api import AutogenContext
from alembic.operations.ops import ModifyTableOps
from sqlalchemy import Column, Connection, Table

from ..databases import database_of, enforcer_of
from ..databases.mysql.survey import Survey
from ..databases.triggers import KINDS, CreateTrigger
from ..machine import ANY, AnyState
from ..machine.rules import Rules
from ..operations.enforcement import installed_rules, orphaned_triggers, own_triggers
from ..orm.column import StateType
from .databases import log
from .enforcing import Allowed, EnforceMachineOp, InitialStates, ReleaseMachineOp, edges_of
from .ops import StatesOp
from .surveys import survey_of

__all__: list[str] = []


@comparators.dispatch_for("table")
def _compare_table(
    context: AutogenContext,
    modify: ModifyTableOps,
    schema: str | None,
    table_name: str,
    stored: Table | None,
    declared: Table | None,
) -> None:
    """Add what is needed for the enforced columns of *declared*, and for those that are dropped."""
    connection = context.connection
    if connection is None or not enforcer_of(connection.dialect).can_enforce:
        return
    survey = survey_of(context, table_name, schema)
    if stored is not None:
        modify.ops += list(_released(context, connection, stored, declared, survey))
    if declared is not None:
        modify.ops += [
            op
            for column in declared.c
            if isinstance(column.type, StateType) and column.type.enforced
            if _is_included(context, column, stored)
            for op in _enforced(connection, column, stored, schema, survey)
        ]


def _is_included(context: AutogenContext, column: Column[Any], stored: Table | None) -> bool:
    reflected = None if stored is None else stored.c.get(column.name)
    return bool(context.run_object_filters(column, column.name, "column", reflected=False, compare_to=reflected))


def _released(
    context: AutogenContext, connection: Connection, stored: Table, declared: Table | None, survey: Survey | None
) -> Iterator[ReleaseMachineOp]:
    """A release for each column that is dropped and has triggers: the server would drop it and leave them broken."""
    for column in stored.c:
        if declared is not None and column.name in declared.c:
            continue
        if not context.run_object_filters(column, column.name, "column", reflected=True, compare_to=None):
            continue
        if own_triggers(connection, column, survey):
            rules = installed_rules(connection, column, survey)
            yield ReleaseMachineOp(
                table_name=stored.name,
                column_name=column.name,
                schema=stored.schema,
                machine=None if rules is None else edges_of(rules),
                comes_first=True,
            )


def _enforced(
    connection: Connection, column: Column[Any], stored: Table | None, schema: str | None, survey: Survey | None
) -> Iterator[EnforceMachineOp]:
    """The operation that the column needs next, if any."""
    type_ = column.type
    assert isinstance(type_, StateType)
    where: dict[str, Any] = {"table_name": column.table.name, "column_name": column.name, "schema": schema}
    machine = _machine_of(type_)
    label = f"{column.table.name}.{column.name}"
    found = [] if stored is None else own_triggers(connection, column, survey)
    if not found:
        if stored is not None and not database_of(connection).catalogue.may_see_triggers(connection, column.table):
            log.warning("%s: this account has no privilege TRIGGER and sees no triggers; none are compared", label)
            return
        log.info("Detected a machine to enforce on '%s'", label)
        yield EnforceMachineOp(**where, **machine)
        return
    if any(one.mode == "watch" for one in found):
        log.info("%s: the triggers only watch; op.enforce_machine() has them refuse", label)
        return
    if {one.kind for one in found} != set(KINDS):
        log.info("Detected that one of two triggers is missing on '%s'", label)
        yield EnforceMachineOp(**where, **machine)
        return
    before = installed_rules(connection, column, survey)
    if before is None:
        log.info("Detected triggers that cannot be read on '%s'", label)
        yield EnforceMachineOp(**where, **machine, replaces=True)
        return
    missing, extra = before.lacks(type_.rules), type_.rules.lacks(before)
    if missing:
        log.info("Detected triggers that refuse %s on '%s'", _listed(missing), label)
        also: tuple[Allowed, ...] = (edges_of(extra),) if extra else ()
        if extra:
            log.info("%s: to refuse %s is left for a later revision", label, _listed(extra))
        yield EnforceMachineOp(**where, **machine, also=also, previous=edges_of(before), phase="expand")
    elif extra:
        log.info("Detected triggers that also allow %s on '%s'", _listed(extra), label)
        yield EnforceMachineOp(**where, **machine, previous=edges_of(before), phase="contract")
    elif not _is_current(connection, column, type_.rules, survey):
        log.info("Detected triggers of an earlier name of '%s'", label)
        yield EnforceMachineOp(**where, **machine, previous=edges_of(before))


def _machine_of(type_: StateType) -> dict[str, Any]:
    """The machine as the operation's arguments: its text, or edges where the column stores numbers, which it lacks."""
    if type_.numbers is not None:
        return {"machine": edges_of(type_.rules)}
    return {"machine": type_.machine.to_json(), "initial_states": _stored(type_)}


def _is_current(connection: Connection, column: Column[Any], rules: Rules, survey: Survey | None) -> bool:
    found = own_triggers(connection, column, survey)
    wanted = [CreateTrigger(column, rules, kind) for kind in KINDS]
    is_complete = len(found) == len(wanted) and all(any(one.is_as(trigger) for one in found) for trigger in wanted)
    return is_complete and not orphaned_triggers(connection, column.table, survey)


def _listed(rules: Rules) -> str:
    edges = [f"{source!r} to {target!r}" for source, target in rules.edges]
    return ", ".join([*edges, *(f"new rows in {text!r}" for text in rules.begins)])


def _stored(type_: StateType) -> InitialStates:
    states = type_.initial_states
    return states if isinstance(states, AnyState) else [type_.machine.stored(state) for state in states]


# The comments above an operation: when a rolling deploy may run it.
_PHASES = {
    "expand": "expand: before the release with this machine; servers of the release before are not refused either",
    "contract": "contract: once every server runs the release with this machine",
}


@renderers.dispatch_for(EnforceMachineOp)
def _enforce(context: AutogenContext, op: EnforceMachineOp) -> list[str]:
    options = _begins(context, "initial_states", op.initial_states)
    if op.also:
        options.append(f"also=[{', '.join(map(_short, op.also))}]")
    if op.mode != "refuse":
        options.append(f"mode={op.mode!r}")
    if op.previous is not None:
        options.append(f"previous={_short(op.previous)}")
        options += _begins(context, "previous_initial_states", op.previous_initial_states)
    comment = [] if op.phase is None else [f"# {_PHASES[op.phase]}"]
    return [*comment, _call(context, "enforce_machine", op, _short(op.machine), options)]


@renderers.dispatch_for(ReleaseMachineOp)
def _release(context: AutogenContext, op: ReleaseMachineOp) -> str:
    if op.machine is None:
        return _call(context, "release_machine", op, "", [])
    options = _begins(context, "initial_states", op.initial_states)
    return _call(context, "release_machine", op, _short(op.machine), options)


def _short(machine: Allowed) -> str:
    """*machine* as a literal, on one line."""
    return repr(dict(machine) if isinstance(machine, Mapping) else json.dumps(json.loads(machine)))


def _begins(context: AutogenContext, name: str, states: InitialStates) -> list[str]:
    if states is ANY:
        context.imports.add("from sqlalchemy_fsm_mysql import ANY")
        return [f"{name}=ANY"]
    return [f"{name}={[str(state) for state in states]!r}"] if isinstance(states, Sequence) and states else []


def _call(context: AutogenContext, name: str, op: StatesOp, machine: str, options: list[str]) -> str:
    prefix = context.opts["alembic_module_prefix"] or ""
    schema = [] if op.schema is None else [f"schema={op.schema!r}"]
    arguments = [repr(str.__str__(op.table_name)), repr(str.__str__(op.column_name)), machine, *schema, *options]
    return f"{prefix}{name}({', '.join(filter(None, arguments))})"
