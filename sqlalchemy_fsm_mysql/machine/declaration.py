"""A machine as its author wrote it, before anything is known to be right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..errors.texts import State, listed, shown
from .groups import BorderEffect, Borders, Groups, Role
from .states import AnyState, find_state, state_text

if TYPE_CHECKING:
    from .events import Event, Transition


@dataclass(eq=False, repr=False)
class Declaration:
    """A machine as its author wrote it, right or wrong.

    `states` are the states given, or those that appear in the events when none were given; `declared` maps
    each that can be a state at all to itself. `strangers` are the given events that are no `Event`. `aliases`,
    `retired` and `initial_states` are as given, a string as an exact one; so are the members of `groups`, each a
    tuple, and the keys of `borders`.
    """

    states: Sequence[object]
    initial: object
    events: Sequence[Event]
    strangers: Sequence[object]
    declared: Mapping[State, State]
    aliases: Mapping[Any, Any] = field(default_factory=dict)  # Any: as written, right or wrong
    retired: Sequence[object] = ()
    initial_states: Sequence[object] = ()
    groups: Groups = field(default_factory=lambda: Groups({}, {}))
    borders: Sequence[tuple[Role, object, Callable[..., Any]]] = ()  # the effect of entering or leaving what

    @cached_property
    def spread(self) -> list[tuple[Event, list[tuple[Transition, list[State]]]]]:
        """Each event with its transitions, as written, and the single declared states that each of them leaves."""
        return [(event, event.spread(self.declared, self.groups)) for event in self.events]

    @cached_property
    def crossings(self) -> Borders:
        """The effects of `on_enter` and `on_exit`, as far as what they belong to is declared."""
        return Borders(self._border_effects(), self.groups)

    def _border_effects(self) -> Iterator[BorderEffect]:
        for role, of, function in self.borders:
            state = find_state(self.declared, of)
            if isinstance(of, AnyState):
                yield BorderEffect(role, of, function)
            elif state is not None:
                yield BorderEffect(role, state, function)
            elif (group := self.groups.named(of)) is not None:
                yield BorderEffect(role, group, function, is_group=True)

    def functions(self, event: Event) -> list[Callable[..., Any]]:
        """All that a fire of *event* may have called: its guards, its effects, and those of the borders on its ways."""
        borders: dict[int, Callable[..., Any]] = {}
        if self.borders:
            for transition, sources in event.spread(self.declared, self.groups):
                target = find_state(self.declared, transition.target)
                if target is None:
                    continue
                for source in sources:
                    crossed = self.crossings.crossed(source, target)
                    borders.update({id(border.function): border.function for border in crossed})
        return [*(function for _, function in event.callables()), *borders.values()]

    def transitions(self) -> Iterator[tuple[Event, Transition]]:
        """Every transition as it was written, with its event."""
        return ((event, transition) for event in self.events for transition in event.transitions)

    def event_names(self) -> list[object]:
        """The names of the events as given, which need not be strings."""
        return [event.name for event in self.events]

    def known(self) -> str:
        """The declared states, for a message."""
        return listed(map(state_text, self.declared)) or "none"

    def known_names(self) -> str:
        """The declared states and the groups, for a message."""
        groups = f"; the groups are {listed(map(shown, self.groups.written))}" if self.groups.written else ""
        return f"the states are {self.known()}{groups}"


def repeated(values: Iterable[object]) -> list[object]:
    """The values that come more than once, each once.

    >>> repeated("abcacc")
    ['a', 'c']
    """
    counts = Counter(values)
    return [value for value, count in counts.items() if count > 1]


def arrow(event: Event, transition: Transition) -> str:
    """*transition* of *event*, for a message."""
    sources = transition.source if isinstance(transition.source, tuple) else (transition.source,)
    origin = listed(map(state_text, sources)) or "()"
    return f"event {shown(event.name)}: the transition from {origin} to {state_text(transition.target)}"
