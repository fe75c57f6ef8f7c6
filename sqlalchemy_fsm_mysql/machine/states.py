"""What a state is, and how one is found among those that a machine declares."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable, Mapping
from typing import Final, TypeGuard

from ..errors.texts import State, shown, stored_form

FORCED: Final = "force_state"
"""The event name of a forced state in a history: `force_state` goes past the machine, so no event moved the row."""


def is_state(value: object) -> TypeGuard[State]:
    """Whether *value* can be a state at all: a string or a member of an Enum class, and hashable.

    >>> is_state("Paid"), is_state(b"Paid"), is_state(None)
    (True, False, False)
    """
    if not isinstance(value, (str, enum.Enum)):
        return False
    try:
        hash(value)
    except TypeError:
        return False
    return True


def find_state(declared: Mapping[State, State], value: object) -> State | None:
    """The declared state that *value* is, None when it is none of them; never raises.

    *declared* maps every state to itself, so that a string of a subclass, or one that equals a str-valued
    member, comes out as the object that the machine declares.
    """
    if not is_state(value):
        return None
    found = declared.get(value)
    if isinstance(value, str) and isinstance(found, str):
        return found
    # Members of two IntEnum classes can be equal, and share a hash.
    return found if type(found) is type(value) else None


def spelled(state: object) -> str:
    """*state* as its declaration spells it: a plain member as ``Light.RED``, anything else by its repr.

    >>> spelled("Paid"), spelled(enum.Enum("Light", "RED").RED)
    ("'Paid'", 'Light.RED')
    """
    if isinstance(state, enum.Enum) and not isinstance(state, str):
        return f"{type(state).__name__}.{state.name}"
    return shown(stored_form(state)) if isinstance(state, str) else shown(state)


def parameters(function: Callable[..., object]) -> list[inspect.Parameter]:
    """The parameters of a guard or an effect: the mapped class first, then the payload.

    Raises:
        ValueError, TypeError: it has no signature that could be read, as some built-in functions.
    """
    return list(inspect.signature(function).parameters.values())


def callable_payload(function: Callable[..., object]) -> tuple[str, ...]:
    """The payload that one guard or effect takes: the names after its first parameter."""
    return tuple(parameter.name for parameter in parameters(function)[1:])
