"""A finite state machine in the MySQL row: an event is one atomic UPDATE that also says what happened."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bulk import claim as claim
    from .bulk import fire_where as fire_where
    from .enforcement import enforce_machine as enforce_machine
    from .enforcement import permitted as permitted
    from .enforcement import release_machine as release_machine
    from .errors import DatabaseUnfit as DatabaseUnfit
    from .errors import FireError as FireError
    from .errors import FSMError as FSMError
    from .errors import GraphvizMissing as GraphvizMissing
    from .errors import GuardNotSatisfied as GuardNotSatisfied
    from .errors import HistoryError as HistoryError
    from .errors import InstanceStateError as InstanceStateError
    from .errors import InvalidMachine as InvalidMachine
    from .errors import KeyConflict as KeyConflict
    from .errors import LockTimeout as LockTimeout
    from .errors import MigrationRefused as MigrationRefused
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
    from .errors import UnknownEvent as UnknownEvent
    from .errors import UnknownState as UnknownState
    from .evolution import Change as Change
    from .evolution import Phase as Phase
    from .evolution import diff_machines as diff_machines
    from .figures import count_rows as count_rows
    from .figures import count_transitions as count_transitions
    from .firing import find_by_token as find_by_token
    from .firing import fire_key as fire_key
    from .firing import force_state as force_state
    from .firing import try_fire_key as try_fire_key
    from .history import TransitionHistory as TransitionHistory
    from .history import replay as replay
    from .hooks import on_committed as on_committed
    from .hooks import on_moved as on_moved
    from .hooks import remove_hook as remove_hook
    from .inspection import Finding as Finding
    from .inspection import check_database as check_database
    from .inspection import require_database as require_database
    from .machine import ANY as ANY
    from .machine import Event as Event
    from .machine import Machine as Machine
    from .machine import Transition as Transition
    from .outcome import Moved as Moved
    from .outcome import MovedRows as MovedRows
    from .outcome import Refused as Refused
    from .stateful import Stateful as Stateful
    from .stateful import StateMachineColumn as StateMachineColumn
    from .stateful import StateType as StateType
    from .units import run_transaction as run_transaction
    from .upsert import fire_or_create as fire_or_create

# Imported at their first use: a machine can be declared, checked and drawn where SQLAlchemy is not installed.
_HOMES = {
    "bulk": ("claim", "fire_where"),
    "enforcement": ("enforce_machine", "permitted", "release_machine"),
    "errors": (
        "DatabaseUnfit",
        "FSMError",
        "FireError",
        "GraphvizMissing",
        "GuardNotSatisfied",
        "HistoryError",
        "InstanceStateError",
        "InvalidMachine",
        "KeyConflict",
        "LockTimeout",
        "MigrationRefused",
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
        "UnknownEvent",
        "UnknownState",
    ),
    "evolution": ("Change", "Phase", "diff_machines"),
    "figures": ("count_rows", "count_transitions"),
    "firing": ("find_by_token", "fire_key", "force_state", "try_fire_key"),
    "history": ("TransitionHistory", "replay"),
    "hooks": ("on_committed", "on_moved", "remove_hook"),
    "inspection": ("Finding", "check_database", "require_database"),
    "machine": ("ANY", "Event", "Machine", "Transition"),
    "outcome": ("Moved", "MovedRows", "Refused"),
    "stateful": ("StateMachineColumn", "StateType", "Stateful"),
    "units": ("run_transaction",),
    "upsert": ("fire_or_create",),
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
