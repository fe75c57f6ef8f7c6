"""A finite state machine in the MySQL row: an event is one atomic UPDATE that also says what happened."""

from .column import StateMachineColumn, StateType
from .errors import (
    FireError,
    FSMError,
    GuardNotSatisfied,
    InstanceStateError,
    InvalidMachine,
    LockTimeout,
    NotWritable,
    OutcomeUnknown,
    RowNotFound,
    StateAssignmentError,
    TransactionAborted,
    TransitionNotAllowed,
    UnknownEvent,
    UnknownState,
)
from .firing import fire_key, try_fire_key
from .machine import ANY, Event, Machine, Transition
from .outcome import Moved, MovedRows, Refused
from .stateful import Stateful

__all__ = [
    "ANY",
    "Event",
    "FSMError",
    "FireError",
    "GuardNotSatisfied",
    "InstanceStateError",
    "InvalidMachine",
    "LockTimeout",
    "Machine",
    "Moved",
    "MovedRows",
    "NotWritable",
    "OutcomeUnknown",
    "Refused",
    "RowNotFound",
    "StateAssignmentError",
    "StateMachineColumn",
    "StateType",
    "Stateful",
    "TransactionAborted",
    "Transition",
    "TransitionNotAllowed",
    "UnknownEvent",
    "UnknownState",
    "fire_key",
    "try_fire_key",
]
