"""An event, its transitions, and the sources they are written with; what users write, as values."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final, TypeAlias, final

from ..errors.texts import State, shown, stored_form
from .states import find_state, is_state, spelled

Guard: TypeAlias = Callable[..., Any]  # Any: a SQL expression, and SQLAlchemy is not imported here
Effect: TypeAlias = Callable[..., Mapping[str, Any]]  # Any: as above


@final
class AnyState:
    """The type of `ANY`, its only instance."""

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
"""

Source: TypeAlias = State | tuple[State, ...] | AnyState


@dataclass(frozen=True, slots=True)
class Transition:
    """One way for an event to go: from `source` to `target`.

    `source` is a state, a tuple of states, or `ANY`. `guard` is called with the mapped class and the payload
    by name and returns a SQL condition, None when the transition is always open. `effect` is called likewise
    and
    returns ``{attribute name: SQL expression}``, what is written along with the state.

    Raises:
        TypeError: a part is of a type that it cannot be.
    """

    source: Source
    target: State
    _: KW_ONLY
    guard: Guard | None = None
    effect: Effect | None = None

    def __post_init__(self) -> None:
        for source in self.written_sources():
            _require_state(source, "source", "a state, a tuple of states, or ANY")
        _require_state(self.target, "target", "one state")
        _require_callable(self.guard, "guard")
        _require_callable(self.effect, "effect")

    def written_sources(self) -> tuple[State, ...]:
        """The states that `source` names; none for `ANY`."""
        if isinstance(self.source, AnyState):
            return ()
        return self.source if isinstance(self.source, tuple) else (self.source,)


# Any: Source; the key type of a Mapping is invariant, so a dict of plain strings would not fit.
Written: TypeAlias = Mapping[Any, State] | Iterable[Transition]


@dataclass(frozen=True, slots=True, init=False)
class Event:
    """What can happen to a row: a name, and the transitions that the event takes.

    *transitions* is ``{source: target}``, where a source may be a tuple of states or `ANY`, or an iterable of
    `Transition`; `.transitions` is a tuple of Transitions either way. Several from one source are tried in
    their order: the first whose guard holds wins. *effect* is written by every transition of the event, along
    with the transition's own.

    Raises:
        TypeError: a part is of a type that it cannot be.
    """

    name: str
    transitions: tuple[Transition, ...]
    effect: Effect | None

    def __init__(
        self,
        name: str,
        transitions: Written,
        *,
        effect: Effect | None = None,
    ) -> None:
        _require_callable(effect, "effect")
        object.__setattr__(self, "name", exact(name))
        object.__setattr__(self, "transitions", tuple(_transitions(name, transitions)))
        object.__setattr__(self, "effect", effect)

    def spread(self, declared: Mapping[State, State]) -> list[tuple[Transition, list[State]]]:
        """Each transition, as written, with the single states among *declared* that it leaves."""
        named = {find_state(declared, s) for written in self.transitions for s in written.written_sources()}
        rest = [state for state in declared if state not in named]
        return [
            (written, rest if isinstance(written.source, AnyState) else _found(declared, written))
            for written in self.transitions
        ]

    def callables(self) -> Iterator[tuple[str, Callable[..., object]]]:
        """The guards and effects, in the order written, each with a name for its role."""
        for written in self.transitions:
            if written.guard is not None:
                yield f"the guard of the transition to {spelled(written.target)}", written.guard
            if written.effect is not None:
                yield f"the effect of the transition to {spelled(written.target)}", written.effect
        if self.effect is not None:
            yield "the effect", self.effect


def exact(value: object) -> object:
    """A string as an exact `str`, the value of a member that is one; anything else as it is."""
    return stored_form(value) if isinstance(value, str) else value


def plain(value: object) -> object:
    """The same for a state, where a member stays the member."""
    return value if isinstance(value, enum.Enum) else exact(value)


def _require_state(value: object, part: str, expected: str) -> None:
    if not is_state(value):
        raise TypeError(
            f"the {part} of a transition is {expected}, where a state is a str or a member of an Enum class,"
            f" not {shown(value)}"
        )


def _require_callable(value: object, part: str) -> None:
    if value is not None and not callable(value):
        raise TypeError(f"the {part} is {shown(value)}: give a function that takes the mapped class, or None")


def in_order(values: object, what: str) -> tuple[object, ...]:
    """*values* as a tuple.

    Raises:
        TypeError: they cannot be gone through, or in no order that lasts.
    """
    if isinstance(values, (str, bytes, set, frozenset, Mapping)) or not isinstance(values, Iterable):
        raise TypeError(f"{what} come as a list or tuple, not as {shown(values)}")
    return tuple(values)


def _transitions(name: object, given: object) -> Iterator[Transition]:
    what = f"the transitions of event {shown(name)}"
    pairs = [Transition(*pair) for pair in given.items()] if isinstance(given, Mapping) else in_order(given, what)
    for transition in pairs:
        if not isinstance(transition, Transition):
            raise TypeError(f"{what} are Transition objects or one dict, not {shown(transition)}")
        yield transition


def _found(declared: Mapping[State, State], written: Transition) -> list[State]:
    """The single sources that *written* names, as far as they are declared."""
    found = (find_state(declared, source) for source in written.written_sources())
    return [state for state in found if state is not None]
