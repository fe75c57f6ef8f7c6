"""All that can be wrong with a machine's declaration, found in one go.

`problems` runs every rule of `RULES`; a rule is a function that yields one sentence per problem. A sentence
says which state or event it is about, what is true, and what would work. Rules do not build on each other:
each passes over what another one reports.

`Machine` calls this module when it is made, so `machine` is not imported here.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain

from ..errors.texts import State, listed, shown, stored_form
from . import validation_of_functions as functions
from .declaration import Declaration, arrow, repeated
from .names import look_alikes, name_problems
from .states import FORCED, AnyState, find_state, is_state, state_text

# https://dev.mysql.com/doc/refman/en/string-type-syntax.html: "An ENUM column can have a maximum of 65,535
# distinct elements."
MAX_STATES = 65_535


def problems(declaration: Declaration) -> list[str]:
    """Everything wrong with *declaration*, each problem once; empty when it is sound."""
    return list(dict.fromkeys(chain.from_iterable(rule(declaration) for rule in RULES)))


def kinds(declaration: Declaration) -> Iterator[str]:
    """States are strings or Enum members, events are Events."""
    for state in declaration.states:
        if not is_state(state):
            yield f"state {shown(state)} is neither a str nor a hashable member of an Enum class"
    for stranger in declaration.strangers:
        yield f"event {shown(stranger)} is not an Event: write Event(name, transitions)"


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
        yield from name_problems(f"state {state_text(state)}", stored_form(state), any_script=True)
    aliases = [alias for alias in declaration.aliases if isinstance(alias, str)]
    for alias in aliases:
        yield from name_problems(f"alias {shown(alias)}", alias, any_script=True)
    known = set(map(stored_form, declaration.declared))
    # The rule `aliases` reports an alias that is a state's own name.
    others = [(shown(alias), alias) for alias in aliases if alias not in known]
    states = [(state_text(state), stored_form(state)) for state in declaration.declared]
    yield from look_alikes("states and aliases" if others else "states", [*states, *others])


def event_names(declaration: Declaration) -> Iterator[str]:
    """Events are asked for by name, and the history stores them."""
    for given in declaration.event_names():
        if not isinstance(given, str):
            yield f"event {shown(given)} has a name that is not a str: give one"
    names = list(dict.fromkeys(name for name in declaration.event_names() if isinstance(name, str)))
    for name in names:
        yield from name_problems(f"event {shown(name)}", name)
    yield from look_alikes("events", [(shown(name), name) for name in names])


def repetitions(declaration: Declaration) -> Iterator[str]:
    """A state, an event, or a source within one transition, is named once."""
    for state in repeated(filter(is_state, declaration.states)):
        yield f"state {state_text(state)} is declared more than once: leave one"
    for name in repeated(name for name in declaration.event_names() if isinstance(name, str)):
        yield f"event {shown(name)} is declared more than once: put all its transitions into one Event"
    for event, transition in declaration.transitions():
        for source in repeated(transition.written_sources()):
            yield f"{arrow(event, transition)} names {state_text(source)} more than once: leave one"


def initial_state(declaration: Declaration) -> Iterator[str]:
    """The initial state is one of the states."""
    if find_state(declaration.declared, declaration.initial) is None:
        initial = state_text(declaration.initial)
        yield f"the initial state {initial} is not declared; the states are {declaration.known()}"


def aliases(declaration: Declaration) -> Iterator[str]:
    """An alias is another spelling of a declared state, and no state itself."""
    known = set(map(stored_form, declaration.declared))
    for alias, target in declaration.aliases.items():
        if not isinstance(alias, str) or isinstance(alias, enum.Enum):
            yield f"alias {shown(alias)} is not a str: give the text that the database contains"
        elif alias in known:
            yield f"alias {shown(alias)} is a state too: take it out of the states and the transitions"
        if find_state(declaration.declared, target) is None:
            yield (
                f"alias {shown(alias)} stands for {state_text(target)}, which is not declared;"
                f" the states are {declaration.known()}"
            )


def initial_states(declaration: Declaration) -> Iterator[str]:
    """Further states that rows begin in are declared, and some event leaves each for another."""
    left = {
        source
        for _, ways in declaration.spread
        for transition, sources in ways
        for source in sources
        if source != find_state(declaration.declared, transition.target)
    }
    retired = {find_state(declaration.declared, state) for state in declaration.retired}
    for twice in repeated(filter(is_state, declaration.initial_states)):
        yield f"initial state {state_text(twice)} is named more than once: leave one"
    for given in dict.fromkeys(filter(is_state, declaration.initial_states)):
        state = find_state(declaration.declared, given)
        if state is None:
            yield f"initial state {state_text(given)} is not declared; the states are {declaration.known()}"
        elif state in retired:
            yield f"initial state {state_text(given)} is retired: rows could not begin in it"
        elif state not in left:
            yield (
                f"initial state {state_text(given)} is never left by an event: a row born in it could not move; add one"
            )
    for stranger in declaration.initial_states:
        if not is_state(stranger):
            yield f"initial state {shown(stranger)} is neither a str nor a hashable member of an Enum class"


def groups(declaration: Declaration) -> Iterator[str]:
    """A group is a name for states, of which there is one at least, and no state itself."""
    known = {stored_form(state) for state in declaration.declared} | {
        alias for alias in declaration.aliases if isinstance(alias, str)
    }
    names = declaration.groups.written
    in_circles = set(chain.from_iterable(declaration.groups.circles()))
    for name, members in names.items():
        what = f"group {shown(name)}"
        yield from name_problems(what, name, any_script=True)
        if name in known:
            yield f"{what} is a state too: rename the group"
        for member in repeated(filter(_is_hashable, members)):
            yield f"{what} names {state_text(member)} more than once: leave one"
        for member in members:
            if declaration.groups.named(member) is None and find_state(declaration.declared, member) is None:
                yield f"{what} names {state_text(member)}, which is not declared; {declaration.known_names()}"
        if not members:
            yield f"{what} is empty: name a state at least, or drop the group"
    for circle in declaration.groups.circles():
        yield f"groups {listed(map(shown, circle))} contain each other: a group cannot contain itself"
    yield from look_alikes("groups", [(shown(name), name) for name in names if name not in in_circles])


def retired_states(declaration: Declaration) -> Iterator[str]:
    """A retired state is left, and never entered: not by an event from another state, and not by a new row."""
    retired = {find_state(declaration.declared, state) for state in declaration.retired} - {None}
    for state in declaration.retired:
        if not is_state(state):
            yield f"retired state {shown(state)} is neither a str nor a hashable member of an Enum class"
    for state in repeated(filter(is_state, declaration.retired)):
        yield f"retired state {state_text(state)} is named more than once: leave one"
    if find_state(declaration.declared, declaration.initial) in retired:
        yield f"the initial state {state_text(declaration.initial)} is retired: rows could not begin in it"
    for event, ways in declaration.spread:
        for transition, sources in ways:
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
    known = declaration.known_names()
    for event, transition in declaration.transitions():
        what = f"event {shown(event.name)}"
        for state in (*transition.written_sources(), transition.target):
            if find_state(declaration.declared, state) is not None:
                continue
            if declaration.groups.named(state) is None:
                yield f"{what} names the state {state_text(state)}, which is not declared; {known}"
        if declaration.groups.named(transition.target) is not None:
            yield f"{what} leads to the group {state_text(transition.target)}: a row is in one state, so name that"


def idle_transitions(declaration: Declaration) -> Iterator[str]:
    """Every transition can win; one without a guard always does, so nothing comes after it."""
    for event, ways in declaration.spread:
        settled: set[State] = set()
        for transition, sources in ways:
            lost = [source for source in sources if source in settled]
            if lost:
                yield (
                    f"{arrow(event, transition)} can never win from {listed(map(state_text, lost))}: an earlier"
                    " transition from there has no guard; put this one first, or drop it"
                )
            if transition.guard is None:
                settled.update(sources)


def sourceless_transitions(declaration: Declaration) -> Iterator[str]:
    """Every transition has a source; ANY covers what the event's other transitions leave."""
    for event, ways in declaration.spread:
        for transition, sources in ways:
            if not sources and (isinstance(transition.source, AnyState) or not transition.written_sources()):
                yield (
                    f"{arrow(event, transition)} can never win: it covers no state, as every state has a"
                    " transition of its own, or none is named; drop it"
                )


def unreachable_states(declaration: Declaration) -> Iterator[str]:
    """Every state can come about from an initial one, or from a retired one, which rows still hold."""
    initial = find_state(declaration.declared, declaration.initial)
    if initial is None:
        return
    leads = edges(declaration)
    born = [find_state(declaration.declared, state) for state in (*declaration.retired, *declaration.initial_states)]
    reached = reachable([initial, *(state for state in born if state is not None)], leads)
    lost = [state for state in declaration.declared if state not in reached]
    if lost and reached == {initial} and any(leads.values()):
        # Most often the initial state is misspelt, and not each of the others unreachable for a reason of its own.
        yield (
            f"no event leads from the initial state {state_text(initial)} to another one, and so none can reach"
            f" {listed(map(state_text, lost))}; add a transition from it, or correct its name"
        )
        return
    for state in declaration.declared:
        if state not in reached:
            yield (
                f"state {state_text(state)} cannot be reached: no events lead to it from {state_text(initial)};"
                " add a transition to it, or drop the state"
            )


def edges(declaration: Declaration) -> dict[State, set[State]]:
    """The declared states that some event leads to, by the state that it leaves."""
    found: dict[State, set[State]] = {}
    for _, ways in declaration.spread:
        for transition, sources in ways:
            target = find_state(declaration.declared, transition.target)
            for source in sources:
                found.setdefault(source, set()).update(() if target is None else (target,))
    return found


def reachable(starts: Iterable[State], edges: Mapping[State, Iterable[State]]) -> set[State]:
    """*starts* and all that *edges* lead to from there.

    >>> sorted(reachable(["a"], {"a": ["b"], "b": ["c"], "d": ["a"]}))
    ['a', 'b', 'c']
    """
    reached = set(starts)
    waiting = list(reached)
    while waiting:
        fresh = set(edges.get(waiting.pop(), ())) - reached
        reached |= fresh
        waiting += fresh
    return reached


def _is_hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


RULES: tuple[Callable[[Declaration], Iterable[str]], ...] = (
    kinds,
    number_of_states,
    state_names,
    event_names,
    reserved_events,
    repetitions,
    initial_state,
    initial_states,
    aliases,
    retired_states,
    groups,
    functions.border_effects,
    empty_events,
    unknown_states,
    idle_transitions,
    sourceless_transitions,
    unreachable_states,
    functions.payload_names,
    functions.guard_names,
    functions.unrecorded_events,
    functions.timed_events,
    functions.descriptions,
)
