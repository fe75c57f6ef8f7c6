"""An event, its transitions, and the sources they are written with; what users write, as values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from datetime import timedelta
from typing import Any, TypeAlias, cast

from ..errors.texts import State, shown
from .groups import Groups
from .guards import GivenGuard, Guard, checked_guard, guards_of
from .states import AnyState, exact, find_state, in_order, is_state, members, state_text

Effect: TypeAlias = Callable[..., Mapping[str, Any]]  # Any: a SQL expression, and SQLAlchemy is not imported here
Source: TypeAlias = State | Iterable[State] | AnyState
After: TypeAlias = timedelta | Callable[..., Any]  # Any: as above


@dataclass(frozen=True, slots=True)
class Transition:
    """One transition of an event: from `source` to `target`, perhaps with a guard and an effect.

    - `source`: a state, a group's name, an iterable of these, or `ANY`.
    - `target`: the state that the row gets.
    - `guard`: a function that gets the mapped class and the payload by name, and returns a SQL condition. With a dict
      of named guards, all have to be true. None means that the transition is always possible.
    - `effect`: a function that gets the same arguments, and returns ``{attribute name: SQL expression or value}``,
      which is written together with the state. None means no effect.

    Raises: TypeError when an argument is of a wrong type.
    """

    source: Source
    target: State
    _: KW_ONLY
    guard: GivenGuard | None = None
    effect: Effect | None = None

    def __post_init__(self) -> None:
        source: object = self.source
        if isinstance(source, Iterable) and not isinstance(source, (str, bytes)):
            object.__setattr__(self, "source", members(source))
        for source in self.written_sources():
            _require_state(source, "source", _SOURCES)
        _require_state(self.target, "target", "one state")
        object.__setattr__(self, "guard", checked_guard(self.guard))
        require_callable(self.effect, "effect")

    @property
    def guards(self) -> tuple[Guard, ...]:
        """The guards, each with its name; all of them must be true."""
        return guards_of(self.guard)

    def written_sources(self) -> tuple[State, ...]:
        """The states and groups that `source` names; none for `ANY`."""
        if isinstance(self.source, AnyState):
            return ()
        return self.source if isinstance(self.source, tuple) else (cast(State, self.source),)


# Any: Source; the key type of a Mapping is invariant, so a dict of plain strings would not fit.
Written: TypeAlias = Mapping[Any, State] | Iterable[Transition]

_SOURCES = "a state, a group, an iterable of these, or ANY"


@dataclass(frozen=True, slots=True, init=False)
class Event:
    """Something that can happen to a row: a name, and its transitions.

    - *transitions* is ``{source: target}``. A source is a state, a group's name, a tuple of these, or `ANY`. An
      iterable of `Transition` is the other form; `.transitions` is a tuple of Transitions in both cases. Several
      transitions from one source are tried in their order, and the first whose guard is true is taken.
    - *guard* has to be true for every transition of the event, in addition to the transition's own guard.
    - *effect* is written by every transition, together with the transition's own effect.
    - *after* makes a timed event. A timedelta: the event is due that long after the row has entered its state, and the
      model needs a `StateSinceColumn`. A function: the event is due at the time that it returns for a row. Before that,
      the guard ``"after"`` refuses the event. ``fire_due`` fires the events that are due.
    - *recorded*, if false, leaves the event out of the history. Only an event that leads every state back to itself can
      have it.
    - *description* is a text for people, which diagrams show.

    Raises: TypeError when an argument is of a wrong type.
    """

    name: str
    transitions: tuple[Transition, ...]
    guard: GivenGuard | None
    effect: Effect | None
    after: After | None
    recorded: bool
    description: str | None

    def __init__(
        self,
        name: str,
        transitions: Written,
        *,
        guard: GivenGuard | None = None,
        effect: Effect | None = None,
        after: After | None = None,
        recorded: bool = True,
        description: str | None = None,
    ) -> None:
        require_callable(effect, "effect")
        if after is not None and not isinstance(after, timedelta) and not callable(after):
            raise TypeError(f"after is a timedelta or a function that takes the mapped class, not {shown(after)}")
        if not isinstance(recorded, bool):
            raise TypeError(f"recorded is True or False, not {shown(recorded)}")
        if description is not None and not isinstance(description, str):
            raise TypeError(f"the description of an event is a str or None, not {shown(description)}")
        parts = {
            "name": exact(name),
            "transitions": tuple(_transitions(name, transitions)),
            "guard": checked_guard(guard),
            "effect": effect,
            "after": after,
            "recorded": recorded,
            "description": description,
        }
        for part, value in parts.items():
            object.__setattr__(self, part, value)

    @property
    def guards(self) -> tuple[Guard, ...]:
        """The guards of the event itself, each with its name."""
        return guards_of(self.guard)

    @property
    def is_timed(self) -> bool:
        """Whether the event has an `after`."""
        return self.after is not None

    def spread(self, declared: Mapping[State, State], groups: Groups) -> list[tuple[Transition, list[State]]]:
        """Each transition, as written, with the single states among *declared* that it leaves, each once."""
        spread = [(written, _sources(written, declared, groups)) for written in self.transitions]
        if not any(isinstance(written.source, AnyState) for written in self.transitions):
            return spread
        named = {state for _, sources in spread for state in sources}
        rest = [state for state in declared if state not in named]
        return [(written, rest if isinstance(written.source, AnyState) else sources) for written, sources in spread]

    def callables(self) -> Iterator[tuple[str, Callable[..., object]]]:
        """The guards and effects, in the order written, each with a name for its role; not the function of `after`."""
        for guard in self.guards:
            yield "the guard of the event", guard.function
        for written in self.transitions:
            for guard in written.guards:
                yield f"the guard of the transition to {state_text(written.target)}", guard.function
            if written.effect is not None:
                yield f"the effect of the transition to {state_text(written.target)}", written.effect
        if self.effect is not None:
            yield "the effect", self.effect


def require_callable(value: object, part: str) -> None:
    """Raises: TypeError when *value* is neither None nor a function."""
    if value is not None and not callable(value):
        raise TypeError(f"the {part} is {shown(value)}: give a function that takes the mapped class, or None")


def _require_state(value: object, part: str, expected: str) -> None:
    if not is_state(value):
        raise TypeError(
            f"the {part} of a transition is {expected}, where a state is a str or a member of an Enum class,"
            f" not {shown(value)}"
        )


def _transitions(name: object, given: object) -> Iterator[Transition]:
    what = f"the transitions of event {shown(name)}"
    pairs = [Transition(*pair) for pair in given.items()] if isinstance(given, Mapping) else in_order(given, what)
    for transition in pairs:
        if not isinstance(transition, Transition):
            raise TypeError(f"{what} are Transition objects or one dict, not {shown(transition)}")
        yield transition


def _sources(written: Transition, declared: Mapping[State, State], groups: Groups) -> list[State]:
    """The single states that *written* names, as far as they are declared; each once."""
    found: dict[State, None] = {}
    for source in written.written_sources():
        state = find_state(declared, source)
        group = groups.named(source)
        if state is not None:
            found[state] = None
        elif group is not None:
            found.update(dict.fromkeys(groups.states[group]))
    return list(found)
