"""States, and how one is found among those that a machine declares."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import Final, TypeGuard, final

from ..errors.texts import State, shown, stored_form

FORCED: Final = "force_state"
"""The event name of a forced state in a history: `force_state` bypasses the machine, so no event moved the row."""


@final
class AnyState:
    """The type of `ANY`, which is its only instance."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "ANY"

    # To copy and pickle a string means: the module's name for this very object.
    def __reduce__(self) -> str:
        return "ANY"


ANY: Final = AnyState()
"""As a source: every state that the event names no other transition for.

The target of the transition is among them, unless it is named elsewhere: from there ANY leads back to it.
Several transitions from ANY cover the same states, and the first whose guard holds wins.

As a key of `on_enter` and `on_exit`: every state.
"""


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


def state_text(state: object) -> str:
    """*state* as its declaration spells it: a plain member as ``Light.RED``, anything else by its repr.

    >>> state_text("Paid"), state_text(enum.Enum("Light", "RED").RED)
    ("'Paid'", 'Light.RED')
    """
    if isinstance(state, enum.Enum) and not isinstance(state, str):
        return f"{type(state).__name__}.{state.name}"
    return shown(stored_form(state)) if isinstance(state, str) else shown(state)


def exact(value: object) -> object:
    """A string as an exact `str`, the value of a member that is one; anything else as it is."""
    return stored_form(value) if isinstance(value, str) else value


def plain(value: object) -> object:
    """The same for a state, where a member stays the member."""
    return value if isinstance(value, enum.Enum) else exact(value)


def in_order(values: object, what: str) -> tuple[object, ...]:
    """*values* as a tuple.

    Raises: TypeError when *values* are not a list or tuple, or anything else without an order.
    """
    if isinstance(values, (str, bytes, set, frozenset, Mapping)) or not isinstance(values, Iterable):
        raise TypeError(f"{what} come as a list or tuple, not as {shown(values)}")
    return tuple(values)


def members(values: Iterable[object]) -> tuple[object, ...]:
    """*values* as a tuple; those of a set in the order of their names, so that it is the same each time."""
    if isinstance(values, (set, frozenset)):
        return tuple(sorted(values, key=lambda value: stored_form(value) if is_state(value) else repr(value)))
    return tuple(values)
