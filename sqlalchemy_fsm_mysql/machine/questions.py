"""The questions that a machine answers. Each answer is a look into a table that was made with the machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from ..errors import UnknownEvent
from ..errors.texts import State, listed, stored_form
from .events import Effect, Event, Transition
from .groups import Borders, Groups
from .guards import Guard
from .payload import Takes
from .states import AnyState, find_state, is_state, state_text


@dataclass(frozen=True, slots=True, init=False, eq=False, repr=False)
class Questions:
    """The tables of a `Machine`, and what is asked of them."""

    states: tuple[State, ...]
    initial: State
    initial_states: tuple[State, ...]
    final: tuple[State, ...]
    name: str | None
    events: Mapping[str, Event]
    groups: Mapping[str, tuple[State, ...]]
    on_enter: Mapping[State | AnyState, Effect]
    on_exit: Mapping[State | AnyState, Effect]
    retired: tuple[State, ...]
    aliases: Mapping[str, State]
    stored_states: tuple[str, ...]
    grouping: Groups
    borders: Borders
    # The tables behind the questions; declared states map to themselves.
    _declared: Mapping[State, State]
    _stored: Mapping[State, str]
    _loaded: Mapping[str, State]
    _spellings: Mapping[State, tuple[str, ...]]
    _transitions: Mapping[str, tuple[Transition, ...]]
    _targets: Mapping[str, dict[State, State]]
    _events_from: Mapping[State, tuple[str, ...]]
    _payload: Mapping[str, Takes]
    _hash: int

    def event_name(self, event: str | Event) -> str:
        """The name of *event*, which may be given as a name or as an `Event` of that name.

        Raises: UnknownEvent when there is no such event, whatever *event* is.
        """
        name = event.name if isinstance(event, Event) else event
        if isinstance(name, str):
            plain = stored_form(name)
            if plain in self.events:
                return plain
        raise UnknownEvent(name, self.events)

    def transitions(self, event: str | Event) -> list[Transition]:
        """The transitions of *event*, each from one single state: by source, in the order in which they win.

        A guard of the event itself is among the guards of each. Effects of the event, and of the borders that a
        transition crosses, are not repeated in them.

        Raises: UnknownEvent when there is no such event.
        """
        return list(self._transitions[self.event_name(event)])

    def targets(self, event: str | Event) -> dict[State, State]:
        """``{source: target}`` of *event*; of several transitions from one source, the first.

        Raises: UnknownEvent when there is no such event.
        """
        return dict(self._targets[self.event_name(event)])

    def sources(self, event: str | Event) -> list[State]:
        """The states that *event* leaves, in the order of the states.

        Raises: UnknownEvent when there is no such event.
        """
        return list(self._targets[self.event_name(event)])

    def payload(self, event: str | Event) -> tuple[str, ...]:
        """The names that a fire of *event* may give, by first appearance in its guards and effects.

        Those of :meth:`optional_payload` need not be given.

        Raises: UnknownEvent when there is no such event.
        """
        return self._payload[self.event_name(event)].names

    def optional_payload(self, event: str | Event) -> dict[str, Any]:  # Any: a default is whatever a column takes
        """The names of :meth:`payload` that have a default, with it.

        Raises: UnknownEvent when there is no such event.
        """
        return dict(self._payload[self.event_name(event)].optional)

    @staticmethod
    def callable_payload(function: Callable[..., object]) -> tuple[str, ...]:
        """The payload that one guard or effect takes: the names after its first parameter.

        A parameter with a default is payload that a fire may leave out. A keyword-only one is the function's own.

        >>> Questions.callable_payload(lambda order, amount, reason="", *, limit=100: order.total >= amount)
        ('amount', 'reason')
        """
        return Takes.of(function).names

    def guards(self, event: str | Event) -> dict[str, Guard]:
        """The guards of *event*, its own first, by their names; of several with one name the first.

        Raises: UnknownEvent when there is no such event.
        """
        declared = self.events[self.event_name(event)]
        every = chain(declared.guards, *(transition.guards for transition in declared.transitions))
        found: dict[str, Guard] = {}
        for guard in every:
            found.setdefault(str(guard.name), guard)
        return found

    def events_from(self, state: State) -> list[str]:
        """The names of the events that leave *state*, guards aside, in the order of the events.

        Raises: ValueError when *state* is not declared.
        """
        return list(self._events_from[self._find(state)])

    def declares(self, value: object) -> bool:
        """Whether *value* is one of the states, or an alias of one; never raises."""
        return self._known(value) is not None

    def stored(self, state: State) -> str:
        """The text that the database holds for *state*.

        A str-valued member is stored by its value, any other member by its name, a string as itself, and an
        alias as the state that it stands for.

        Raises: ValueError when *state* is not declared, or nothing that could be a state.
        """
        return self._stored[self._find(state)]

    def spellings(self, state: State) -> tuple[str, ...]:
        """The texts that the database may hold for *state*: the one that is written, then its aliases.

        Raises: ValueError when *state* is not declared.
        """
        return self._spellings[self._find(state)]

    def loaded(self, text: str) -> State:
        """The state that the database holds as *text*, the inverse of `stored`; an alias is its state.

        An undeclared text is returned as it is: during a rolling deploy a newer server may have written it.
        """
        return self._loaded.get(text, text)

    def _known(self, value: object) -> State | None:
        found = find_state(self._declared, value)
        if found is None and isinstance(value, str) and is_state(value):
            return self.aliases.get(stored_form(value))
        return found

    def _find(self, state: State) -> State:
        found = self._known(state)
        if found is None:
            raise ValueError(
                f"{state_text(state)} is not a state of this machine; its states are "
                f"{listed(map(state_text, self.states))}"
            )
        return found
