"""The machine: states, events, and which transition an event takes from which state. Pure Python, no SQL.

>>> machine = Machine(
...     initial="Running",
...     events=[
...         Event("Stop", {("Running", "Stopped"): "Stopped"}),
...         Event("Delete", {"Stopped": "Deleted"}),
...     ],
... )
>>> machine.targets("Stop")
{'Running': 'Stopped', 'Stopped': 'Stopped'}
>>> machine.events_from("Stopped"), machine.final
(['Stop', 'Delete'], ('Deleted',))

A machine is checked as a whole when it is made, and never changes afterwards; every question to it is a
lookup in a table made then. A state is known by the object that the machine declares: a string that equals a
str-valued member is answered with the member.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from types import MappingProxyType
from typing import Any

from ..errors import InvalidMachine, UnknownEvent
from ..errors.texts import State, listed, shown, stored_form
from . import document
from .events import Event, Transition, exact, in_order, plain
from .states import callable_payload, find_state, is_state, spelled
from .validation import Declaration, problems


@dataclass(frozen=True, slots=True, init=False, eq=False, repr=False)
class Machine:
    """A finite state machine, checked and immutable.

    *initial* is the state that a row begins in. *events* are the `Event` objects, in the order to list them.
    *states* gives the order of the states, which is also the order of the ENUM column: an iterable of states,
    or an `enum.Enum` class (then its members are the states, everywhere). By default it is the order of first
    appearance, the initial state first. *name* is for messages.

    Two more arguments are for machines that change while servers run. *aliases* maps another spelling, a
    string, to the state that a row with it is in: ``aliases={"Error": "Failed"}`` understands rows that hold
    ``Error``, and whatever is written says ``Failed``. *retired* are states that rows may still hold and that
    nothing leads to; they are states as any other, listed last unless *states* names them.

    `.final` are the states that no event leaves for another. `.events` maps names to Events, in order.
    `.stored_states` are all texts that the database may hold: the states, then the aliases.

    Two machines are equal only if they are one; a copy of a machine is itself, an unpickled one is another.

    Raises:
        InvalidMachine: the declaration is wrong; every problem is listed.
        TypeError: *events* or *states* is nothing that can be gone through in order.
    """

    states: tuple[State, ...]
    initial: State
    final: tuple[State, ...]
    name: str | None
    events: Mapping[str, Event]
    retired: tuple[State, ...]
    aliases: Mapping[str, State]
    stored_states: tuple[str, ...]
    # The tables behind the questions; declared states map to themselves.
    _declared: Mapping[State, State]
    _stored: Mapping[State, str]
    _loaded: Mapping[str, State]
    _spellings: Mapping[State, tuple[str, ...]]
    _transitions: Mapping[str, tuple[Transition, ...]]
    _targets: Mapping[str, dict[State, State]]
    _events_from: Mapping[State, tuple[str, ...]]
    _payload: Mapping[str, tuple[str, ...]]

    def __init__(
        self,
        *,
        initial: State,
        events: Iterable[Event],
        states: Iterable[State] | None = None,
        name: str | None = None,
        aliases: Mapping[str, State] | None = None,
        retired: Iterable[State] = (),
    ) -> None:
        if name is not None and not isinstance(name, str):
            raise TypeError(f"the name of a machine is a str or None, not {shown(name)}")
        if aliases is not None and not isinstance(aliases, Mapping):
            raise TypeError(f"aliases are a dict of spelling to state, not {shown(aliases)}")
        declaration = _declaration(initial, events, states, aliases or {}, retired)
        found = problems(declaration)
        if found:
            raise InvalidMachine(found, name)
        for attribute, table in _tables(declaration).items():
            object.__setattr__(self, attribute, table)
        object.__setattr__(self, "name", name)

    def event_name(self, event: str | Event) -> str:
        """The name of *event*, which may be given as a name or as an `Event` of that name.

        Raises:
            UnknownEvent: there is no such event, whatever *event* is.
        """
        name = event.name if isinstance(event, Event) else event
        if isinstance(name, str):
            plain = stored_form(name)
            if plain in self.events:
                return plain
        raise UnknownEvent(name, self.events)

    def transitions(self, event: str | Event) -> list[Transition]:
        """The transitions of *event*, each from one single state: by source, in the order in which they win.

        An event's own effect is not repeated in them.

        Raises:
            UnknownEvent: there is no such event.
        """
        return list(self._transitions[self.event_name(event)])

    def targets(self, event: str | Event) -> dict[State, State]:
        """``{source: target}`` of *event*; of several transitions from one source, the first.

        Raises:
            UnknownEvent: there is no such event.
        """
        return dict(self._targets[self.event_name(event)])

    def sources(self, event: str | Event) -> list[State]:
        """The states that *event* leaves, in the order of the states.

        Raises:
            UnknownEvent: there is no such event.
        """
        return list(self._targets[self.event_name(event)])

    def payload(self, event: str | Event) -> tuple[str, ...]:
        """The names that a fire of *event* must give, by first appearance in its guards and effects.

        Raises:
            UnknownEvent: there is no such event.
        """
        return self._payload[self.event_name(event)]

    @staticmethod
    def callable_payload(function: Callable[..., object]) -> tuple[str, ...]:
        """The payload that one guard or effect takes: the names after its first parameter.

        A parameter with a default is payload all the same, as required as the others: the function is called
        once per model and event, when no value is known yet.

        >>> Machine.callable_payload(lambda order, amount, reason="": order.total >= amount)
        ('amount', 'reason')
        """
        return callable_payload(function)

    def events_from(self, state: State) -> list[str]:
        """The names of the events that leave *state*, guards aside, in the order of the events.

        Raises:
            ValueError: *state* is not declared.
        """
        return list(self._events_from[self._find(state)])

    def declares(self, value: object) -> bool:
        """Whether *value* is one of the states, or an alias of one; never raises."""
        return self._known(value) is not None

    def stored(self, state: State) -> str:
        """The text that the database holds for *state*.

        A str-valued member is stored by its value, any other member by its name, a string as itself, and an
        alias as the state that it stands for.

        Raises:
            ValueError: *state* is not declared, or nothing that could be a state.
        """
        return self._stored[self._find(state)]

    def spellings(self, state: State) -> tuple[str, ...]:
        """The texts that the database may hold for *state*: the one that is written, then its aliases.

        Raises:
            ValueError: *state* is not declared.
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
                f"{spelled(state)} is no state of this machine; its states are {listed(map(spelled, self.states))}"
            )
        return found

    def __repr__(self) -> str:
        name = "" if self.name is None else f"{self.name!r}: "
        return f"<Machine {name}{listed(map(spelled, self.states))}; {listed(map(repr, self.events))}>"

    def _repr_html_(self) -> str:
        """What notebooks show: the picture where Graphviz is installed, else the table."""
        from ..diagram import html

        return html(self)

    def _repr_markdown_(self) -> str:
        from ..diagram import markdown_table

        return markdown_table(self)

    def to_json(self) -> str:
        """This machine as JSON, for a CI job to compare with the last release's by `diff_machines`.

        Lost are what guards and effects say (that they are there, and their payload's names, is kept) and Enum
        classes: a member is written as the text that the database holds. The same machine gives the same text.
        """
        return document.to_json(self)

    @classmethod
    def from_json(cls, text: str) -> Machine:
        """The machine that `to_json` wrote; its guards and effects are `Absent`, so it is to be compared, not fired.

        Raises:
            ValueError: *text* is not what `to_json` writes. InvalidMachine, which is one, when its machine is wrong.
        """
        return document.from_json(cls, text)

    # What never changes needs no copy. A copied column type keeps its machine.
    def __copy__(self) -> Machine:
        return self

    def __deepcopy__(self, memo: object) -> Machine:
        return self

    # Not by attributes: the tables are read-only views, and the machine is checked where it arrives.
    def __reduce__(self) -> tuple[Callable[[], Machine], tuple[()]]:
        events = tuple(self.events.values())
        return (
            partial(
                Machine,
                initial=self.initial,
                events=events,
                states=self.states,
                name=self.name,
                aliases=dict(self.aliases),
                retired=self.retired,
            ),
            (),
        )


def _declaration(
    initial: object, events: object, states: object, aliases: Mapping[Any, Any], retired: object
) -> Declaration:
    given = in_order(events, "the events of a machine")
    sound = [event for event in given if isinstance(event, Event)]
    given_states = _appearing(initial, sound) if states is None else in_order(states, "the states of a machine")
    given_retired = in_order(retired, "the retired states of a machine")
    named = _declared(given_states)
    more = [state for state in given_retired if find_state(named, state) is None]
    given_states = (*given_states, *dict.fromkeys(filter(is_state, more)))
    return Declaration(
        states=given_states,
        initial=initial,
        events=sound,
        strangers=[event for event in given if not isinstance(event, Event)],
        declared=_declared(given_states),
        aliases={exact(alias): target for alias, target in aliases.items()},
        retired=given_retired,
    )


def _declared(states: Iterable[object]) -> dict[State, State]:
    """Those of *states* that can be states, each once, mapped to themselves: strings as exact ones."""
    exact = (plain(state) for state in states)
    return {state: state for state in exact if is_state(state)}


def _appearing(initial: object, events: Iterable[Event]) -> tuple[object, ...]:
    """The states that are named, each once, in the order of their appearance."""
    written = [transition for event in events for transition in event.transitions]
    named = chain.from_iterable((*transition.written_sources(), transition.target) for transition in written)
    return tuple(dict.fromkeys(filter(is_state, (initial, *named))))


def _tables(declaration: Declaration) -> dict[str, object]:
    """The attributes of the machine that *declaration*, found sound, describes."""
    declared = declaration.declared
    states = tuple(declared)
    stored = {state: stored_form(state) for state in states}
    ways = {event.name: _ways(event, declared) for event in declaration.events}
    transitions = {name: tuple(chain.from_iterable(of_event.values())) for name, of_event in ways.items()}
    aliases = {alias: declared[target] for alias, target in declaration.aliases.items()}
    spelled_as = {
        state: (text, *(alias for alias, target in aliases.items() if target == state))
        for state, text in stored.items()
    }
    left = {way.source for way in chain.from_iterable(transitions.values()) if way.source != way.target}
    return {
        "states": states,
        "initial": find_state(declared, declaration.initial),
        "final": tuple(state for state in states if state not in left),
        "events": MappingProxyType({event.name: event for event in declaration.events}),
        "retired": tuple(declared[state] for state in _declared(declaration.retired)),
        "aliases": MappingProxyType(aliases),
        "stored_states": (*stored.values(), *aliases),
        "_declared": declared,
        "_stored": stored,
        "_loaded": {text: state for state, text in stored.items()} | aliases,
        "_spellings": spelled_as,
        "_transitions": transitions,
        "_targets": {
            name: {source: first.target for source, (first, *_) in of_event.items()} for name, of_event in ways.items()
        },
        "_events_from": {
            state: tuple(name for name, of_event in ways.items() if state in of_event) for state in states
        },
        "_payload": {event.name: _payload(event) for event in declaration.events},
    }


def _ways(event: Event, declared: Mapping[State, State]) -> dict[State, list[Transition]]:
    """The transitions of *event* by the single state that they leave, in the order of the states."""
    ways: dict[State, list[Transition]] = {state: [] for state in declared}
    for written, sources in event.spread(declared):
        for source in sources:
            ways[source].append(replace(written, source=source, target=declared[written.target]))
    return {source: transitions for source, transitions in ways.items() if transitions}


def _payload(event: Event) -> tuple[str, ...]:
    names = (Machine.callable_payload(function) for _, function in event.callables())
    return tuple(dict.fromkeys(chain.from_iterable(names)))
