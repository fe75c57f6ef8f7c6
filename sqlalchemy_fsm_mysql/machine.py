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

import enum
import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from itertools import chain
from types import MappingProxyType
from typing import Any, Final, TypeAlias, cast, final

from .errors import InvalidMachine, State, UnknownEvent, listed, shown, stored_form
from .validation import Declaration, find_state, is_state, parameters, problems, spelled

Guard: TypeAlias = Callable[..., Any]  # Any: a SQL expression, and SQLAlchemy is not imported here
Effect: TypeAlias = Callable[..., Mapping[str, Any]]  # Any: as above

JSON_FORMAT: Final = 1


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
        object.__setattr__(self, "name", _exact(name))
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
        return tuple(parameter.name for parameter in parameters(function)[1:])

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
        from .diagram import html

        return html(self)

    def _repr_markdown_(self) -> str:
        from .diagram import markdown_table

        return markdown_table(self)

    def to_json(self) -> str:
        """This machine as JSON, for a CI job to compare with the last release's by `diff_machines`.

        Lost are what guards and effects say (that they are there, and their payload's names, is kept) and Enum
        classes: a member is written as the text that the database holds. The same machine gives the same text.
        """
        document = {
            "format": JSON_FORMAT,
            "name": self.name,
            "initial": self.stored(self.initial),
            "states": [self._stored[state] for state in self.states],
            "retired": [self._stored[state] for state in self.retired],
            "aliases": {alias: self._stored[state] for alias, state in self.aliases.items()},
            "events": [
                {
                    "name": event.name,
                    "effect": _names_taken(event.effect),
                    "transitions": [self._transition_document(t) for t in self._transitions[event.name]],
                }
                for event in self.events.values()
            ],
        }
        return json.dumps(document, indent=2)

    def _transition_document(self, transition: Transition) -> dict[str, object]:
        document: dict[str, object] = {
            "source": self.stored(cast(State, transition.source)),
            "target": self.stored(transition.target),
        }
        present = {"guard": transition.guard, "effect": transition.effect}
        return document | {role: _names_taken(given) for role, given in present.items() if given is not None}

    @classmethod
    def from_json(cls, text: str) -> Machine:
        """The machine that `to_json` wrote; its guards and effects are `Absent`, so it is to be compared, not fired.

        Raises:
            ValueError: *text* is not what `to_json` writes. InvalidMachine, which is one, when its machine is wrong.
        """
        try:
            document = json.loads(text)
            if document["format"] != JSON_FORMAT:
                raise ValueError(f"format {shown(document['format'])} is not known here, {JSON_FORMAT} is")
            events = [
                Event(event["name"], _documented(event["transitions"]), effect=_absent(event, "effect"))
                for event in document["events"]
            ]
            arguments = {key: document[key] for key in ("initial", "states", "name", "aliases", "retired")}
            return cls(events=events, **arguments)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"this is no machine's JSON: {type(error).__name__}: {error}") from error

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


class Absent:
    """A guard or an effect of a machine that came from JSON: that it is there and what payload it takes, no more."""

    def __init__(self, payload: Iterable[str]) -> None:
        model = inspect.Parameter("model", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        names = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in payload]
        self.__signature__ = inspect.Signature([model, *names])

    def __call__(self, *_: object, **__: object) -> Any:
        """Raises: TypeError, always."""
        raise TypeError("this machine was read from JSON, which holds no guards and effects: it cannot be fired")


def _documented(transitions: Iterable[Mapping[str, Any]]) -> list[Transition]:
    return [
        Transition(
            written["source"], written["target"], guard=_absent(written, "guard"), effect=_absent(written, "effect")
        )
        for written in transitions
    ]


def _absent(document: Mapping[str, Any], role: str) -> Absent | None:
    names = document.get(role)
    return None if names is None else Absent(names)


def _names_taken(function: Callable[..., object] | None) -> list[str] | None:
    return None if function is None else list(Machine.callable_payload(function))


def _exact(value: object) -> object:
    """A string as an exact `str`, the value of a member that is one; anything else as it is."""
    return stored_form(value) if isinstance(value, str) else value


def _plain(value: object) -> object:
    """The same for a state, where a member stays the member."""
    return value if isinstance(value, enum.Enum) else _exact(value)


def _require_state(value: object, part: str, expected: str) -> None:
    if not is_state(value):
        raise TypeError(
            f"the {part} of a transition is {expected}, where a state is a str or a member of an Enum class,"
            f" not {shown(value)}"
        )


def _require_callable(value: object, part: str) -> None:
    if value is not None and not callable(value):
        raise TypeError(f"the {part} is {shown(value)}: give a function that takes the mapped class, or None")


def _in_order(values: object, what: str) -> tuple[object, ...]:
    """*values* as a tuple.

    Raises:
        TypeError: they cannot be gone through, or in no order that lasts.
    """
    if isinstance(values, (str, bytes, set, frozenset, Mapping)) or not isinstance(values, Iterable):
        raise TypeError(f"{what} come as a list or tuple, not as {shown(values)}")
    return tuple(values)


def _transitions(name: object, given: object) -> Iterator[Transition]:
    what = f"the transitions of event {shown(name)}"
    pairs = [Transition(*pair) for pair in given.items()] if isinstance(given, Mapping) else _in_order(given, what)
    for transition in pairs:
        if not isinstance(transition, Transition):
            raise TypeError(f"{what} are Transition objects or one dict, not {shown(transition)}")
        yield transition


def _found(declared: Mapping[State, State], written: Transition) -> list[State]:
    """The single sources that *written* names, as far as they are declared."""
    found = (find_state(declared, source) for source in written.written_sources())
    return [state for state in found if state is not None]


def _declaration(
    initial: object, events: object, states: object, aliases: Mapping[Any, Any], retired: object
) -> Declaration:
    given = _in_order(events, "the events of a machine")
    sound = [event for event in given if isinstance(event, Event)]
    given_states = _appearing(initial, sound) if states is None else _in_order(states, "the states of a machine")
    given_retired = _in_order(retired, "the retired states of a machine")
    named = _declared(given_states)
    more = [state for state in given_retired if find_state(named, state) is None]
    given_states = (*given_states, *dict.fromkeys(filter(is_state, more)))
    return Declaration(
        states=given_states,
        initial=initial,
        events=sound,
        strangers=[event for event in given if not isinstance(event, Event)],
        declared=_declared(given_states),
        aliases={_exact(alias): target for alias, target in aliases.items()},
        retired=given_retired,
    )


def _declared(states: Iterable[object]) -> dict[State, State]:
    """Those of *states* that can be states, each once, mapped to themselves: strings as exact ones."""
    exact = (_plain(state) for state in states)
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
