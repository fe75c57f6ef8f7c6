"""A finite state machine in the MySQL row: an event is one atomic UPDATE that also says what happened."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import DatabaseUnfit as DatabaseUnfit
    from .errors import FireError as FireError
    from .errors import FSMError as FSMError
    from .errors import GuardNotSatisfied as GuardNotSatisfied
    from .errors import InstanceStateError as InstanceStateError
    from .errors import InvalidMachine as InvalidMachine
    from .errors import KeyConflict as KeyConflict
    from .errors import LockTimeout as LockTimeout
    from .errors import NotWritable as NotWritable
    from .errors import OutcomeUnknown as OutcomeUnknown
    from .errors import RefusedByDatabase as RefusedByDatabase
    from .errors import RowNotFound as RowNotFound
    from .errors import StateAssignmentError as StateAssignmentError
    from .errors import TokenConflict as TokenConflict
    from .errors import TooManyRows as TooManyRows
    from .errors import TransactionAborted as TransactionAborted
    from .errors import TransactionRequired as TransactionRequired
    from .errors import TransitionNotAllowed as TransitionNotAllowed
    from .errors import UniqueViolation as UniqueViolation
    from .errors import UnknownEvent as UnknownEvent
    from .errors import UnknownState as UnknownState
    from .machine import ANY as ANY
    from .machine import Event as Event
    from .machine import Guard as Guard
    from .machine import Machine as Machine
    from .machine import Transition as Transition
    from .machine.evolution import diff_machines as diff_machines
    from .operations.doctor import check_database as check_database
    from .operations.doctor import require_database as require_database
    from .operations.due import run_due as run_due
    from .operations.dwell import dwell_times as dwell_times
    from .operations.enforcement import enforce_machine as enforce_machine
    from .operations.enforcement import release_machine as release_machine
    from .operations.figures import count_rows as count_rows
    from .operations.figures import count_transitions as count_transitions
    from .operations.retention import erase_actor as erase_actor
    from .operations.retention import prune_history as prune_history
    from .orm.attribute import StateMapped as StateMapped
    from .orm.calls import fire_key as fire_key
    from .orm.calls import force_state as force_state
    from .orm.calls import try_fire_key as try_fire_key
    from .orm.claims import claim as claim
    from .orm.coalescer import Coalescer as Coalescer
    from .orm.commits import commit_with_fire as commit_with_fire
    from .orm.commits import commit_with_fire_key as commit_with_fire_key
    from .orm.commits import try_commit_with_fire as try_commit_with_fire
    from .orm.commits import try_commit_with_fire_key as try_commit_with_fire_key
    from .orm.due import fire_due as fire_due
    from .orm.history import TransitionHistory as TransitionHistory
    from .orm.history import find_by_token as find_by_token
    from .orm.history import replay as replay
    from .orm.hooks import on_committed as on_committed
    from .orm.hooks import on_moved as on_moved
    from .orm.hooks import remove_hook as remove_hook
    from .orm.leases import Leased as Leased
    from .orm.leases import extend_lease as extend_lease
    from .orm.many_keys import fire_keys as fire_keys
    from .orm.sets import fire_where as fire_where
    from .orm.since import StateSinceColumn as StateSinceColumn
    from .orm.stateful import Stateful as Stateful
    from .orm.stateful import StateMachineColumn as StateMachineColumn
    from .orm.stateful import StateType as StateType
    from .orm.units import run_transaction as run_transaction
    from .orm.upsert import fire_or_create as fire_or_create
    from .outcomes import Missing as Missing
    from .outcomes import Moved as Moved
    from .outcomes import MovedRows as MovedRows
    from .outcomes import Refused as Refused
    from .sql.clock import utc_in as utc_in
    from .sql.clock import utc_now as utc_now
    from .sql.locks import unlocked as unlocked

# Imported at their first use: a machine can be declared, checked and drawn where SQLAlchemy is not installed.
_HOMES: dict[str, tuple[str, ...]] = {
    "errors": (
        "DatabaseUnfit",
        "FSMError",
        "FireError",
        "GuardNotSatisfied",
        "InstanceStateError",
        "InvalidMachine",
        "KeyConflict",
        "LockTimeout",
        "NotWritable",
        "OutcomeUnknown",
        "RefusedByDatabase",
        "RowNotFound",
        "StateAssignmentError",
        "TokenConflict",
        "TooManyRows",
        "TransactionAborted",
        "TransactionRequired",
        "TransitionNotAllowed",
        "UniqueViolation",
        "UnknownEvent",
        "UnknownState",
    ),
    "machine": (
        "ANY",
        "Event",
        "Guard",
        "Machine",
        "Transition",
    ),
    "machine.evolution": ("diff_machines",),
    "operations.doctor": (
        "check_database",
        "require_database",
    ),
    "operations.due": ("run_due",),
    "operations.dwell": ("dwell_times",),
    "operations.enforcement": (
        "enforce_machine",
        "release_machine",
    ),
    "operations.figures": (
        "count_rows",
        "count_transitions",
    ),
    "operations.retention": (
        "erase_actor",
        "prune_history",
    ),
    "orm.attribute": ("StateMapped",),
    "orm.calls": (
        "fire_key",
        "force_state",
        "try_fire_key",
    ),
    "orm.claims": ("claim",),
    "orm.coalescer": ("Coalescer",),
    "orm.commits": (
        "commit_with_fire",
        "commit_with_fire_key",
        "try_commit_with_fire",
        "try_commit_with_fire_key",
    ),
    "orm.due": ("fire_due",),
    "orm.history": (
        "TransitionHistory",
        "find_by_token",
        "replay",
    ),
    "orm.hooks": (
        "on_committed",
        "on_moved",
        "remove_hook",
    ),
    "orm.leases": (
        "Leased",
        "extend_lease",
    ),
    "orm.many_keys": ("fire_keys",),
    "orm.sets": ("fire_where",),
    "orm.since": ("StateSinceColumn",),
    "orm.stateful": (
        "StateMachineColumn",
        "StateType",
        "Stateful",
    ),
    "orm.units": ("run_transaction",),
    "orm.upsert": ("fire_or_create",),
    "outcomes": (
        "Missing",
        "Moved",
        "MovedRows",
        "Refused",
    ),
    "sql.clock": ("utc_in", "utc_now"),
    "sql.locks": ("unlocked",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)  # noqa: PLE0605 - a list of the table's names, and not another copy of them


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_HOME[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
