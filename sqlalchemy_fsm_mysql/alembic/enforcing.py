"""``op.enforce_machine`` and ``op.release_machine``: the triggers of a machine that a revision has written out as JSON.

The machine of a revision never changes, so an old revision makes the triggers that it made then. ``sqlalchemy-fsm-mysql
json module:Model.state`` prints the text. Autogenerate writes it for a column that is declared ``enforced=True`` and
lacks the triggers of its machine; it never takes triggers away.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from alembic.autogenerate import comparators, renderers
from alembic.autogenerate.api import AutogenContext
from alembic.operations import MigrateOperation, Operations
from alembic.operations.ops import ModifyTableOps
from sqlalchemy import Column, Dialect, MetaData, String, Table

from ..databases import enforcer_of, name_of
from ..databases.triggers import KINDS, CreateTrigger, DropTrigger
from ..errors import MigrationRefused
from ..errors.texts import State
from ..machine import ANY, AnyState, Machine
from ..machine.rules import Rules
from ..operations.enforcement import LOCK_WAIT, install_triggers, own_triggers, remove_triggers
from ..orm.column import StateType
from .databases import log
from .ops import IrreversibleOp, StatesOp

__all__ = ["EnforceMachineOp", "ReleaseMachineOp"]

InitialStates = Sequence[State] | AnyState


def _rules(machine: Machine | str, initial_states: InitialStates) -> Rules:
    """The rules of *machine*, or of one that is written out as JSON."""
    return Rules.of(machine if isinstance(machine, Machine) else Machine.from_json(machine), initial_states)


def _text(machine: Machine | str | None) -> str | None:
    return machine.to_json() if isinstance(machine, Machine) else machine


@Operations.register_operation("enforce_machine")
@dataclass(kw_only=True, eq=False)
class EnforceMachineOp(StatesOp):
    """The database holds every writer of the column to a machine."""

    machine: str
    initial_states: InitialStates = ()
    previous: str | None = None
    previous_initial_states: InitialStates = ()
    replaces: bool = False  # triggers of a machine that is not known
    lock_wait_timeout: int = LOCK_WAIT

    @classmethod
    def enforce_machine(
        cls,
        operations: Operations,
        table_name: str,
        column_name: str,
        machine: Machine | str,
        *,
        initial_states: InitialStates = (),
        previous: Machine | str | None = None,
        previous_initial_states: InitialStates = (),
        schema: str | None = None,
        lock_wait_timeout: int = LOCK_WAIT,
    ) -> None:
        """Put the triggers of *machine*, a `Machine` or better the text of its ``to_json()``, on the table.

        *initial_states* are the states in which a row may begin besides, or ``ANY``, as for ``StateMachineColumn``.
        Triggers of another machine are dropped when the new ones are there. *previous* is the machine of those: with
        ``--sql``, which cannot look for them, they are dropped by its names, and ``op.reverse()`` goes back to it. Can
        be run again.

        Raises: MigrationRefused on a database whose triggers are not known; ValueError for a text that is no machine's;
        the driver's error.
        """
        for text, states in ((machine, initial_states), (previous, previous_initial_states)):
            if text is not None:
                _rules(text, states)
        operations.invoke(
            cls(
                table_name=table_name,
                column_name=column_name,
                machine=_text(machine) or "",
                initial_states=initial_states,
                previous=_text(previous),
                previous_initial_states=previous_initial_states,
                schema=schema,
                lock_wait_timeout=lock_wait_timeout,
            )
        )

    def reverse(self) -> MigrateOperation:
        if self.replaces:
            return IrreversibleOp(f"{self.label}: whose triggers were there before is not known: write its machine out")
        if self.previous is None:
            return ReleaseMachineOp(machine=self.machine, initial_states=self.initial_states, **self.where)
        return EnforceMachineOp(
            machine=self.previous,
            initial_states=self.previous_initial_states,
            previous=self.machine,
            previous_initial_states=self.initial_states,
            **self.where,
        )

    def to_diff_tuple(self) -> tuple[Any, ...]:
        return ("enforce_machine", self.schema, self.table_name, self.column_name)


@Operations.register_operation("release_machine")
@dataclass(kw_only=True, eq=False)
class ReleaseMachineOp(StatesOp):
    """The database holds the column to no machine any more."""

    machine: str | None = None
    initial_states: InitialStates = ()
    lock_wait_timeout: int = LOCK_WAIT

    @classmethod
    def release_machine(
        cls,
        operations: Operations,
        table_name: str,
        column_name: str,
        machine: Machine | str | None = None,
        *,
        initial_states: InitialStates = (),
        schema: str | None = None,
        lock_wait_timeout: int = LOCK_WAIT,
    ) -> None:
        """Take the triggers of any machine from the table. *machine* is needed for ``--sql`` and ``op.reverse()`` only.

        Raises: MigrationRefused for ``--sql`` without *machine*; FSMError when the account lacks the privilege TRIGGER,
        and sees none; the driver's error.
        """
        operations.invoke(
            cls(
                table_name=table_name,
                column_name=column_name,
                machine=_text(machine),
                initial_states=initial_states,
                schema=schema,
                lock_wait_timeout=lock_wait_timeout,
            )
        )

    def reverse(self) -> MigrateOperation:
        if self.machine is None:
            return IrreversibleOp(f"{self.label}: the machine of the triggers that were dropped is not known")
        return EnforceMachineOp(
            machine=self.machine,
            initial_states=self.initial_states,
            **self.where,
        )

    def to_diff_tuple(self) -> tuple[Any, ...]:
        return ("release_machine", self.schema, self.table_name, self.column_name)


@Operations.implementation_for(EnforceMachineOp)
def enforce_machine(operations: Operations, op: EnforceMachineOp) -> None:
    context, rules = operations.get_context(), _rules(op.machine, op.initial_states)
    if not enforcer_of(context.dialect).can_enforce:
        raise MigrationRefused(
            op.label, f"the triggers of {name_of(context.dialect)} are not known", "write them by hand"
        )
    if not context.as_sql:
        install_triggers(operations.get_bind(), _column(op), rules, lock_wait_timeout=op.lock_wait_timeout)
        log.info("%s: held to the machine %s", op.label, rules.fingerprint)
        return
    context.impl.static_output(f"-- {op.label}: held to the machine {rules.fingerprint}")
    made = [CreateTrigger(_column(op), rules, kind, if_missing=True) for kind in KINDS]
    before = [] if op.previous is None else _names(op, op.previous, op.previous_initial_states)
    # Two machines with the same edges have the same triggers, as when an event was renamed.
    gone = [trigger for trigger in before if trigger.name not in {one.name for one in made}]
    for text in _script(context.dialect, op.lock_wait_timeout, [*made, *gone]):
        context.impl.static_output(text)


@Operations.implementation_for(ReleaseMachineOp)
def release_machine(operations: Operations, op: ReleaseMachineOp) -> None:
    context = operations.get_context()
    if not context.as_sql:
        remove_triggers(operations.get_bind(), _column(op), lock_wait_timeout=op.lock_wait_timeout)
        log.info("%s: held to no machine", op.label)
        return
    if op.machine is None:
        raise MigrationRefused(op.label, "--sql cannot look for the triggers", "say which machine they are of")
    context.impl.static_output(f"-- {op.label}: held to no machine")
    for text in _script(context.dialect, op.lock_wait_timeout, _names(op, op.machine, op.initial_states)):
        context.impl.static_output(text)


def _column(op: StatesOp) -> Column[Any]:
    return Table(op.table_name, MetaData(), Column(op.column_name, String()), schema=op.schema).c[op.column_name]


def _names(op: StatesOp, machine: str, initial_states: InitialStates) -> list[DropTrigger]:
    """What drops the triggers of *machine*, by their names."""
    column, rules = _column(op), _rules(machine, initial_states)
    return [DropTrigger(column.table, CreateTrigger(column, rules, kind).name) for kind in KINDS]


def _script(dialect: Dialect, seconds: int, statements: Sequence[Any]) -> Iterator[str]:
    """*statements* as text for the database's command-line client."""
    kind: Any = type(dialect)  # Any: Dialect declares no __init__, every dialect has one
    return enforcer_of(dialect).script(kind(paramstyle="named"), statements, seconds=seconds)


@comparators.dispatch_for("table")
def _compare_table(
    context: AutogenContext,
    modify: ModifyTableOps,
    schema: str | None,
    table_name: str,
    stored: Table | None,
    declared: Table | None,
) -> None:
    """Add what is needed for the columns of *declared* that shall be enforced."""
    connection = context.connection
    if declared is None or connection is None or not enforcer_of(connection.dialect).can_enforce:
        return
    for column in declared.c:
        type_ = column.type
        if not isinstance(type_, StateType) or not type_.enforced:
            continue
        reflected = None if stored is None else stored.c.get(column.name)
        if not context.run_object_filters(column, column.name, "column", reflected=False, compare_to=reflected):
            continue
        found = [] if stored is None else own_triggers(connection, column)
        if {one.fingerprint for one in found} == {type_.rules.fingerprint} and len(found) == len(KINDS):
            continue
        replaces = any(one.fingerprint != type_.rules.fingerprint for one in found)
        what = "triggers of another machine" if replaces else "that a machine shall be enforced"
        log.info("Detected %s on '%s.%s'", what, table_name, column.name)
        modify.ops.append(
            EnforceMachineOp(
                table_name=table_name,
                column_name=column.name,
                schema=schema,
                machine=type_.machine.to_json(),
                initial_states=_stored(type_),
                replaces=replaces,
            )
        )


def _stored(type_: StateType) -> InitialStates:
    states = type_.initial_states
    return states if isinstance(states, AnyState) else [type_.machine.stored(state) for state in states]


@renderers.dispatch_for(EnforceMachineOp)
def _enforce(context: AutogenContext, op: EnforceMachineOp) -> str:
    options = _begins(context, "initial_states", op.initial_states)
    if op.previous is not None:
        options += [f"previous={_short(op.previous)}"]
        options += _begins(context, "previous_initial_states", op.previous_initial_states)
    return _call(context, "enforce_machine", op, _short(op.machine), options)


@renderers.dispatch_for(ReleaseMachineOp)
def _release(context: AutogenContext, op: ReleaseMachineOp) -> str:
    if op.machine is None:
        return _call(context, "release_machine", op, "", [])
    options = _begins(context, "initial_states", op.initial_states)
    return _call(context, "release_machine", op, _short(op.machine), options)


def _short(machine: str) -> str:
    """The JSON of *machine* as a literal, on one line."""
    return repr(json.dumps(json.loads(machine)))


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
