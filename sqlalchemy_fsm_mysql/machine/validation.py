"""All that can be wrong with a machine's declaration, found in one go.

`problems` runs every rule of `RULES`; a rule is a function that yields one sentence per problem. A sentence
says which state or event it is about, what is true, and what would work. Rules do not build on each other:
each passes over what another one reports.

`Machine` calls this module when it is made, so the classes of `machine` are known here as types only.
"""

from __future__ import annotations

import enum
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

from ..errors.texts import State, listed, shown, stored_form
from .states import FORCED, find_state, is_state, parameters, spelled

if TYPE_CHECKING:
    from .events import Event, Transition

# https://dev.mysql.com/doc/refman/en/string-type-syntax.html: "An ENUM column can have a maximum of 65,535
# distinct elements."
MAX_STATES = 65_535
MAX_NAME_CHARACTERS = 64

# fire, fire_where, claim and force_state take these keywords for themselves.
RESERVED_NAMES = frozenset({
    "actor", "batch_size", "column", "criteria", "details", "event", "key", "limit", "max_rows", "model",
    "order_by", "progress", "session", "token",
})  # fmt: skip
RESERVED_PREFIX = "fsm_"

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, slots=True)
class Declaration:
    """A machine as its author wrote it, right or wrong.

    `states` are the states given, or those that appear in the events when none were given; `declared` maps
    each that can be a state at all to itself. `strangers` are the given events that are no `Event`. `aliases`
    and `retired` are as given, a string as an exact one.
    """

    states: Sequence[object]
    initial: object
    events: Sequence[Event]
    strangers: Sequence[object]
    declared: Mapping[State, State]
    aliases: Mapping[Any, Any] = field(default_factory=dict)  # Any: as written, right or wrong
    retired: Sequence[object] = ()

    def transitions(self) -> Iterator[tuple[Event, Transition]]:
        """Every transition as it was written, with its event."""
        return ((event, transition) for event in self.events for transition in event.transitions)

    def event_names(self) -> list[object]:
        """The names of the events as given, which need not be strings."""
        return [event.name for event in self.events]

    def known(self) -> str:
        """The declared states, for a message."""
        return listed(map(spelled, self.declared)) or "none"


def problems(declaration: Declaration) -> list[str]:
    """Everything wrong with *declaration*, each problem once; empty when it is sound."""
    return list(dict.fromkeys(chain.from_iterable(rule(declaration) for rule in RULES)))


def kinds(declaration: Declaration) -> Iterator[str]:
    """States are strings or Enum members, events are Events."""
    for state in declaration.states:
        if not is_state(state):
            yield f"state {shown(state)} is neither a str nor a hashable member of an Enum class"
    for stranger in declaration.strangers:
        yield f"event {shown(stranger)} is no Event: write Event(name, transitions)"


def reserved_events(declaration: Declaration) -> Iterator[str]:
    """A history has to tell an event from a state that was set past the machine."""
    if FORCED in declaration.event_names():
        yield f"event {FORCED!r}: this name is what a history shows for force_state(); choose another"


def number_of_states(declaration: Declaration) -> Iterator[str]:
    """An ENUM column has a limit, which holds for VARCHAR too: the storage of a machine may change."""
    if not declaration.states:
        yield "there are no states: declare one at least"
    number = len(declaration.states) + len(declaration.aliases)
    if number > MAX_STATES:
        what = "states and aliases" if declaration.aliases else "states"
        yield f"there are {number} {what}: MySQL's ENUM takes {MAX_STATES} at most"


def state_names(declaration: Declaration) -> Iterator[str]:
    """States are stored under names that survive every storage and collation."""
    for state in declaration.declared:
        yield from name_problems(f"state {spelled(state)}", stored_form(state))
    aliases = [alias for alias in declaration.aliases if isinstance(alias, str)]
    for alias in aliases:
        yield from name_problems(f"alias {shown(alias)}", alias)
    known = set(map(stored_form, declaration.declared))
    # An alias that is a state's own name is told by `aliases`.
    others = [(shown(alias), alias) for alias in aliases if alias not in known]
    states = [(spelled(state), stored_form(state)) for state in declaration.declared]
    yield from look_alikes("states and aliases" if others else "states", [*states, *others])


def event_names(declaration: Declaration) -> Iterator[str]:
    """Events are asked for by name, and the history stores them."""
    for given in declaration.event_names():
        if not isinstance(given, str):
            yield f"event {shown(given)} has a name that is no str: give one"
    names = list(dict.fromkeys(name for name in declaration.event_names() if isinstance(name, str)))
    for name in names:
        yield from name_problems(f"event {shown(name)}", name)
    yield from look_alikes("events", [(shown(name), name) for name in names])


def name_problems(what: str, name: str) -> Iterator[str]:
    """What keeps *name* from being stored and found again unchanged.

    >>> list(name_problems("state ' 7'", " 7"))
    ["state ' 7' begins or ends with a space: strip it"]
    """
    if not name:
        yield f"{what} is empty: give it a name"
    if len(name) > MAX_NAME_CHARACTERS:
        yield f"{what} is {len(name)} characters long: {MAX_NAME_CHARACTERS} is the most"
    if not (name.isascii() and name.isprintable()):
        yield f"{what} is not all printable ASCII: use letters, digits, punctuation and inner spaces"
    if name != name.strip(" "):
        yield f"{what} begins or ends with a space: strip it"
    # MySQL takes an unquoted number, and at times a quoted one, for the index of an ENUM's value.
    if name.isascii() and name.isdigit():
        yield f"{what} is made only of digits, which MySQL can take for an ENUM's index: add a letter"


def look_alikes(what: str, names: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Names, as spelled and as stored, that a collation which ignores case would merge.

    >>> list(look_alikes("states", [("'Ready'", "Ready"), ("'READY'", "READY"), ("'Stopped'", "Stopped")]))
    ["states 'Ready', 'READY' differ only in case, which most collations ignore: rename all but one"]
    """
    alike: dict[str, list[tuple[str, str]]] = {}
    for spelling, name in names:
        alike.setdefault(name.casefold(), []).append((spelling, name))
    for group in alike.values():
        spellings = listed(spelling for spelling, _ in group)
        if len({name for _, name in group}) > 1:
            yield f"{what} {spellings} differ only in case, which most collations ignore: rename all but one"
        elif len(group) > 1:
            yield f"{what} {spellings} are stored alike, as {shown(group[0][1])}: rename all but one"


def repetitions(declaration: Declaration) -> Iterator[str]:
    """A state, an event, or a source within one transition, is named once."""
    for state in repeated(filter(is_state, declaration.states)):
        yield f"state {spelled(state)} is declared more than once: leave one"
    for name in repeated(name for name in declaration.event_names() if isinstance(name, str)):
        yield f"event {shown(name)} is declared more than once: put all its transitions into one Event"
    for event, transition in declaration.transitions():
        for source in repeated(transition.written_sources()):
            yield f"{arrow(event, transition)} names {spelled(source)} more than once: leave one"


def repeated(values: Iterable[object]) -> list[object]:
    """The values that come more than once, each once.

    >>> repeated("abcacc")
    ['a', 'c']
    """
    counts = Counter(values)
    return [value for value, count in counts.items() if count > 1]


def initial_state(declaration: Declaration) -> Iterator[str]:
    """The initial state is one of the states."""
    if find_state(declaration.declared, declaration.initial) is None:
        initial = spelled(declaration.initial)
        yield f"the initial state {initial} is not declared; the states are {declaration.known()}"


def aliases(declaration: Declaration) -> Iterator[str]:
    """An alias is another spelling of a declared state, and no state itself."""
    known = set(map(stored_form, declaration.declared))
    for alias, target in declaration.aliases.items():
        if not isinstance(alias, str) or isinstance(alias, enum.Enum):
            yield f"alias {shown(alias)} is no str: give the text that the database holds"
        elif alias in known:
            yield f"alias {shown(alias)} is a state too: take it out of the states and the transitions"
        if find_state(declaration.declared, target) is None:
            yield (
                f"alias {shown(alias)} stands for {spelled(target)}, which is not declared;"
                f" the states are {declaration.known()}"
            )


def retired_states(declaration: Declaration) -> Iterator[str]:
    """A retired state is left, and never entered: not by an event from another state, and not by a new row."""
    retired = {find_state(declaration.declared, state) for state in declaration.retired} - {None}
    for state in declaration.retired:
        if not is_state(state):
            yield f"retired state {shown(state)} is neither a str nor a hashable member of an Enum class"
    for state in repeated(filter(is_state, declaration.retired)):
        yield f"retired state {spelled(state)} is named more than once: leave one"
    if find_state(declaration.declared, declaration.initial) in retired:
        yield f"the initial state {spelled(declaration.initial)} is retired: rows could not begin in it"
    for event in declaration.events:
        for transition, sources in event.spread(declaration.declared):
            target = find_state(declaration.declared, transition.target)
            if target in retired and any(source != target for source in sources):
                yield f"{arrow(event, transition)} leads to a retired state: drop it, or do not retire the state"


def empty_events(declaration: Declaration) -> Iterator[str]:
    """An event leads somewhere."""
    for event in declaration.events:
        if not event.transitions:
            yield f"event {shown(event.name)} has no transitions: give it one, or drop the event"


def unknown_states(declaration: Declaration) -> Iterator[str]:
    """Transitions lead from declared states to declared states."""
    known = declaration.known()
    for event, transition in declaration.transitions():
        for state in (*transition.written_sources(), transition.target):
            if find_state(declaration.declared, state) is None:
                yield (
                    f"event {shown(event.name)} names the state {spelled(state)}, which is not declared;"
                    f" the states are {known}"
                )


def idle_transitions(declaration: Declaration) -> Iterator[str]:
    """Every transition can win; one without a guard always does, so nothing comes after it."""
    for event in declaration.events:
        settled: set[State] = set()
        for transition, sources in event.spread(declaration.declared):
            lost = [source for source in sources if source in settled]
            if lost:
                yield (
                    f"{arrow(event, transition)} can never win from {listed(map(spelled, lost))}: an earlier"
                    " transition from there has no guard; put this one first, or drop it"
                )
            if transition.guard is None:
                settled.update(sources)


def sourceless_transitions(declaration: Declaration) -> Iterator[str]:
    """Every transition has a source; ANY covers what the event's other transitions leave."""
    for event in declaration.events:
        for transition, sources in event.spread(declaration.declared):
            if not sources and not transition.written_sources():
                yield (
                    f"{arrow(event, transition)} can never win: it covers no state, as every state has a"
                    " transition of its own, or none is named; drop it"
                )


def unreachable_states(declaration: Declaration) -> Iterator[str]:
    """Every state can come about from the initial one, or from a retired one, which rows still hold."""
    initial = find_state(declaration.declared, declaration.initial)
    if initial is None:
        return
    leads = edges(declaration)
    retired = [find_state(declaration.declared, state) for state in declaration.retired]
    reached = reachable(initial, leads).union(*(reachable(state, leads) for state in retired if state is not None))
    lost = [state for state in declaration.declared if state not in reached]
    if lost and reached == {initial} and any(leads.values()):
        # Most often the initial state is misspelt, and not each of the others unreachable for a reason of its own.
        yield (
            f"no event leads from the initial state {spelled(initial)} to another one, and so none can reach"
            f" {listed(map(spelled, lost))}; add a transition from it, or correct its name"
        )
        return
    for state in declaration.declared:
        if state not in reached:
            yield (
                f"state {spelled(state)} cannot be reached: no events lead to it from {spelled(initial)};"
                " add a transition to it, or drop the state"
            )


def edges(declaration: Declaration) -> dict[State, set[State]]:
    """The declared states that some event leads to, by the state that it leaves."""
    found: dict[State, set[State]] = {}
    for event in declaration.events:
        for transition, sources in event.spread(declaration.declared):
            target = find_state(declaration.declared, transition.target)
            for source in sources:
                found.setdefault(source, set()).update(() if target is None else (target,))
    return found


def reachable(start: State, edges: Mapping[State, Iterable[State]]) -> set[State]:
    """*start* and all that *edges* lead to from there.

    >>> sorted(reachable("a", {"a": ["b"], "b": ["c"], "d": ["a"]}))
    ['a', 'b', 'c']
    """
    reached = {start}
    waiting = [start]
    while waiting:
        fresh = set(edges.get(waiting.pop(), ())) - reached
        reached |= fresh
        waiting += fresh
    return reached


def payload_names(declaration: Declaration) -> Iterator[str]:
    """Guards and effects take the mapped class, then the payload by name."""
    for event in declaration.events:
        for role, function in event.callables():
            for problem in parameter_problems(function):
                yield f"event {shown(event.name)}: {role} {problem}"


def parameter_problems(function: Callable[..., object]) -> Iterator[str]:
    """What keeps *function* from being called with the mapped class and a payload by name.

    >>> list(parameter_problems(lambda order, *amounts: order.total))
    ['takes *amounts: name each value of the payload']
    """
    try:
        model, *payload = parameters(function)
    except (TypeError, ValueError):
        yield "has no first parameter for the mapped class, or no signature to read: wrap it in a lambda"
        return
    if model.kind not in POSITIONAL:
        yield f"does not take the mapped class by position: {model} comes first"
    for parameter in payload:
        yield from payload_problems(parameter)


def payload_problems(parameter: inspect.Parameter) -> Iterator[str]:
    """What keeps *parameter* from being a name of the payload."""
    name = parameter.name
    if parameter.kind not in NAMED:
        yield REFUSED_KINDS[parameter.kind].format(name)
    elif name in RESERVED_NAMES:
        yield f"takes {name!r}, which is an option of fire: rename it"
    elif name.startswith(RESERVED_PREFIX):
        yield f"takes {name!r}: names that begin with {RESERVED_PREFIX!r} are the library's own; rename it"


def arrow(event: Event, transition: Transition) -> str:
    """*transition* of *event*, for a message."""
    sources = transition.source if isinstance(transition.source, tuple) else (transition.source,)
    origin = listed(map(spelled, sources)) or "()"
    return f"event {shown(event.name)}: the transition from {origin} to {spelled(transition.target)}"


REFUSED_KINDS = {
    inspect.Parameter.POSITIONAL_ONLY: "takes {!r} by position only: the payload comes by name",
    inspect.Parameter.VAR_POSITIONAL: "takes *{}: name each value of the payload",
    inspect.Parameter.VAR_KEYWORD: "takes **{}: name each value of the payload",
}

RULES: tuple[Callable[[Declaration], Iterable[str]], ...] = (
    kinds,
    number_of_states,
    state_names,
    event_names,
    reserved_events,
    repetitions,
    initial_state,
    aliases,
    retired_states,
    empty_events,
    unknown_states,
    idle_transitions,
    sourceless_transitions,
    unreachable_states,
    payload_names,
)
