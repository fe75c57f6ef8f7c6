"""``op.enforce_machine`` and ``op.release_machine``: the triggers of a machine that a revision has written out as JSON.

The machine of a revision never changes, so an old revision makes the triggers that it made then. ``sqlalchemy-fsm-mysql
json module:Model.state`` prints the text. In the place of a machine stand edges, ``{"new": ["paid"], None: ["new"]}``,
where only the triggers are known and not the machine that they were made of; those from None are states of a new row.

:mod:`.enforced` has autogenerate write the operations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from alembic.operations import MigrateOperation, Operations
from sqlalchemy import Column, Dialect, MetaData, String, Table
from sqlalchemy.schema import CreateTable

from ..databases import enforcer_of, name_of
from ..databases.triggers import KINDS, CreateTrigger, DropTrigger, Mode, trigger_name
from ..databases.watching import watched_table
from ..errors import MigrationRefused, TableBusy
from ..errors.texts import State, escaped
from ..machine import AnyState, Machine
from ..machine.rules import Rules
from ..operations.enforcement import LOCK_WAIT, install_triggers, remove_triggers, require_seconds
from .arguments import require_choice, require_list
from .databases import log
from .ops import IrreversibleOp, StatesOp

__all__ = ["Allowed", "EnforceMachineOp", "InitialStates", "ReleaseMachineOp", "column_of", "edges_of", "rules_of"]

InitialStates: TypeAlias = Sequence[State] | AnyState
Edges: TypeAlias = "Mapping[str | None, Sequence[str]]"
Allowed: TypeAlias = "str | Edges"
"""The JSON of a machine, or edges."""


def rules_of(
    machine: Machine | Allowed, initial_states: InitialStates = (), also: Sequence[Machine | Allowed] = ()
) -> Rules:
    """The rules of *machine*, of the text of one, or of edges; together with those of each of *also*."""
    if isinstance(machine, Mapping):
        rules = Rules.of_edges(machine)
    else:
        if not isinstance(initial_states, AnyState):
            require_list("initial_states", initial_states)
        rules = Rules.of(machine if isinstance(machine, Machine) else Machine.from_json(machine), initial_states)
    return rules.union(*map(rules_of, also)) if also else rules


def edges_of(rules: Rules) -> dict[str | None, list[str]]:
    """*rules* as edges."""
    edges: dict[str | None, list[str]] = {text: list(targets) for text, targets in rules.moves.items() if targets}
    return {**edges, None: list(rules.begins)}


def _text(machine: Machine | Allowed) -> Allowed:
    return machine.to_json() if isinstance(machine, Machine) else machine


@Operations.register_operation("enforce_machine")
@dataclass(kw_only=True, eq=False)
class EnforceMachineOp(StatesOp):
    """The database enforces a machine on every writer of the column."""

    machine: Allowed
    initial_states: InitialStates = ()
    also: tuple[Allowed, ...] = ()
    mode: Mode = "refuse"
    previous: Allowed | None = None
    previous_initial_states: InitialStates = ()
    replaces: bool = False  # triggers of a machine that is not known
    phase: Literal["expand", "contract"] | None = None  # for the revision: when a rolling deploy may run it
    lock_wait_timeout: int = LOCK_WAIT

    def __post_init__(self) -> None:
        require_seconds(self.lock_wait_timeout)
        super().__post_init__()

    @classmethod
    def enforce_machine(
        cls,
        operations: Operations,
        table_name: str,
        column_name: str,
        machine: Machine | Allowed,
        *,
        initial_states: InitialStates = (),
        also: Sequence[Machine | Allowed] = (),
        mode: Mode = "refuse",
        previous: Machine | Allowed | None = None,
        previous_initial_states: InitialStates = (),
        schema: str | None = None,
        lock_wait_timeout: int = LOCK_WAIT,
    ) -> None:
        """Create the triggers of *machine*: a `Machine`, or better the text of its ``to_json()``. It can be run again.

        *initial_states* are further states of a new row, or ``ANY``, as for ``StateMachineColumn``. *also* are further
        machines, texts of machines, or edges, ``{"paid": ["void"]}``. The triggers also allow their edges: in a rolling
        deploy, those of the servers that run the other release. With *mode* ``"watch"``, the triggers refuse nothing.
        They write every edge that they would refuse to the table ``fsm_watched_edges``.

        Triggers of another machine are dropped when the new ones are there. *previous* is the machine that they were
        made of. ``op.reverse()`` goes back to it. A script of ``--sql`` cannot look for triggers, and drops these.

        Raises: MigrationRefused on a database whose triggers are not supported; ValueError for a text that is not a
        machine's; the driver's error.
        """
        require_choice("mode", mode, ("refuse", "watch"))
        require_list("also", also)
        for text, states in ((machine, initial_states), (previous, previous_initial_states)):
            if text is not None:
                rules_of(text, states, also)
        operations.invoke(
            cls(
                table_name=table_name,
                column_name=column_name,
                machine=_text(machine),
                initial_states=initial_states,
                also=tuple(map(_text, also)),
                mode=mode,
                previous=None if previous is None else _text(previous),
                previous_initial_states=previous_initial_states,
                schema=schema,
                lock_wait_timeout=lock_wait_timeout,
            )
        )

    @property
    def rules(self) -> Rules:
        """The rules of the triggers."""
        return rules_of(self.machine, self.initial_states, self.also)

    def reverse(self) -> MigrateOperation:
        if self.replaces:
            return IrreversibleOp(f"{self.label}: whose triggers were there before is not known: write its machine out")
        own: dict[str, Any] = {"machine": self.machine, "initial_states": self.initial_states}
        if self.also:
            own = {"machine": edges_of(self.rules), "initial_states": ()}
        if self.previous is None:
            return ReleaseMachineOp(**own, **self.where)
        return EnforceMachineOp(
            machine=self.previous,
            initial_states=self.previous_initial_states,
            previous=own["machine"],
            previous_initial_states=own["initial_states"],
            **self.where,
        )

    def to_diff_tuple(self) -> tuple[Any, ...]:
        return ("enforce_machine", self.schema, self.table_name, self.column_name)


@Operations.register_operation("release_machine")
@dataclass(kw_only=True, eq=False)
class ReleaseMachineOp(StatesOp):
    """The database enforces no machine on the column any more."""

    machine: Allowed | None = None
    initial_states: InitialStates = ()
    comes_first: bool = False  # in a revision, before the column is dropped
    lock_wait_timeout: int = LOCK_WAIT

    def __post_init__(self) -> None:
        require_seconds(self.lock_wait_timeout)
        super().__post_init__()

    @classmethod
    def release_machine(
        cls,
        operations: Operations,
        table_name: str,
        column_name: str,
        machine: Machine | Allowed | None = None,
        *,
        initial_states: InitialStates = (),
        schema: str | None = None,
        lock_wait_timeout: int = LOCK_WAIT,
    ) -> None:
        """Drop the triggers of any machine from the table. Only ``--sql`` and ``op.reverse()`` need *machine*.

        Raises: MigrationRefused for ``--sql`` without *machine*; FSMError when the account lacks the privilege TRIGGER,
        and sees no triggers; the driver's error.
        """
        if machine is not None:
            rules_of(machine, initial_states)
        operations.invoke(
            cls(
                table_name=table_name,
                column_name=column_name,
                machine=None if machine is None else _text(machine),
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
    context, rules = operations.get_context(), op.rules
    if not enforcer_of(context.dialect).can_enforce:
        raise MigrationRefused(
            op.label, f"the triggers of {name_of(context.dialect)} are not known", "write them by hand"
        )
    if not context.as_sql:
        column = column_of(op)
        try:
            install_triggers(operations.get_bind(), column, rules, mode=op.mode, lock_wait_timeout=op.lock_wait_timeout)
        except TableBusy as error:
            raise MigrationRefused(op.label, error.happened, error.advice) from error
        log.info("%s: the machine %s is enforced", op.label, rules.fingerprint)
        return
    context.impl.static_output(f"-- {escaped(op.label)}: the machine {rules.fingerprint} is enforced")
    if op.mode == "watch":
        watched = watched_table(op.schema)
        written = CreateTable(watched, if_not_exists=True).compile(dialect=context.dialect)
        context.impl.static_output(f"{str(written).strip()};")
    made = [CreateTrigger(column_of(op), rules, kind, mode=op.mode, if_missing=True) for kind in KINDS]
    before = [] if op.previous is None else _names(op, rules_of(op.previous, op.previous_initial_states))
    # Two machines with the same edges have the same triggers, as when an event was renamed.
    gone = [trigger for trigger in before if trigger.name not in {one.name for one in made}]
    for text in _script(context.dialect, op.lock_wait_timeout, [*made, *gone]):
        context.impl.static_output(text)


@Operations.implementation_for(ReleaseMachineOp)
def release_machine(operations: Operations, op: ReleaseMachineOp) -> None:
    context = operations.get_context()
    if not context.as_sql:
        try:
            remove_triggers(operations.get_bind(), column_of(op), lock_wait_timeout=op.lock_wait_timeout)
        except TableBusy as error:
            raise MigrationRefused(op.label, error.happened, error.advice) from error
        log.info("%s: no machine is enforced", op.label)
        return
    if op.machine is None:
        raise MigrationRefused(
            op.label, "--sql cannot look for the triggers", "pass machine=, whose triggers the script drops"
        )
    context.impl.static_output(f"-- {escaped(op.label)}: no machine is enforced")
    for text in _script(context.dialect, op.lock_wait_timeout, _names(op, rules_of(op.machine, op.initial_states))):
        context.impl.static_output(text)


def column_of(op: StatesOp) -> Column[Any]:
    """The column of *op*, as far as its triggers need it."""
    return Table(op.table_name, MetaData(), Column(op.column_name, String()), schema=op.schema).c[op.column_name]


def _names(op: StatesOp, rules: Rules) -> list[DropTrigger]:
    """The statements that drop the triggers of *rules*, by their names."""
    column = column_of(op)
    # Watching and refusing follow each other, so the triggers before may have been of the other mode.
    modes: tuple[Mode, ...] = ("refuse", "watch")
    return [DropTrigger(column.table, trigger_name(column, rules, kind, mode)) for mode in modes for kind in KINDS]


def _script(dialect: Dialect, seconds: int, statements: Sequence[Any]) -> Iterator[str]:
    """*statements* as text for the database's command-line client."""
    kind: Any = type(dialect)  # Any: Dialect declares no __init__, every dialect has one
    return enforcer_of(dialect).script(kind(paramstyle="named"), statements, seconds=seconds)
