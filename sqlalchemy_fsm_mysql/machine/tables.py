"""From the arguments of a machine to its declaration, and from a sound declaration to the tables it answers by.

Each table is made in one pass over the transitions by single source, so a machine with thousands of states and events
is made in seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from types import MappingProxyType
from typing import Any

from ..errors.texts import State, shown, stored_form
from .declaration import Declaration
from .events import Effect, Event, Transition, require_callable
from .groups import Groups, Role
from .guards import AllOf, GivenGuard
from .payload import Takes
from .states import AnyState, exact, find_state, in_order, is_state, members, plain


def declared_by(
    initial: object,
    events: object,
    states: object,
    *,
    aliases: Mapping[Any, Any],
    retired: object,
    groups: object,
    initial_states: object,
    on_enter: object,
    on_exit: object,
) -> Declaration:
    """The arguments of `Machine` as a declaration.

    Raises: TypeError when one of them is of a type that it cannot be.
    """
    members_of = _written_groups(groups)
    born = _iterable(initial_states, "the initial states of a machine")
    given = in_order(events, "the events of a machine")
    sound = [event for event in given if isinstance(event, Event)]
    if states is None:
        given_states = _appearing(initial, sound, born, members_of)
    else:
        given_states = in_order(states, "the states of a machine")
    given_retired = in_order(retired, "the retired states of a machine")
    named = _declared(given_states)
    more = [state for state in given_retired if find_state(named, state) is None]
    given_states = (*given_states, *dict.fromkeys(filter(is_state, more)))
    declared = _declared(given_states)
    return Declaration(
        states=given_states,
        initial=initial,
        events=sound,
        strangers=[event for event in given if not isinstance(event, Event)],
        declared=declared,
        aliases={exact(alias): target for alias, target in aliases.items()},
        retired=given_retired,
        initial_states=born,
        groups=Groups.of(members_of, declared),
        borders=[*_borders("enter", on_enter), *_borders("exit", on_exit)],
    )


def _iterable(values: object, what: str) -> tuple[object, ...]:
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise TypeError(f"{what} come as a list, tuple or set, not as {shown(values)}")
    return members(values)


def _written_groups(groups: object) -> dict[str, tuple[object, ...]]:
    """The members of each group, as written."""
    if groups is None:
        return {}
    if not isinstance(groups, Mapping):
        raise TypeError(f"groups are a dict of name to states, not {shown(groups)}")
    written: dict[str, tuple[object, ...]] = {}
    for name, given in groups.items():
        if not isinstance(name, str):
            raise TypeError(f"groups are named by str, not by {shown(name)}")
        written[stored_form(name)] = tuple(map(plain, _iterable(given, f"the states of group {shown(name)}")))
    return written


def _borders(role: Role, effects: object) -> list[tuple[Role, object, Effect]]:
    if effects is None:
        return []
    if not isinstance(effects, Mapping):
        raise TypeError(f"on_{role} is a dict of state, group or ANY to an effect, not {shown(effects)}")
    for of, effect in effects.items():
        if effect is None:
            raise TypeError(f"the effect of on_{role} of {shown(of)} is None: leave it out")
        require_callable(effect, f"effect of on_{role} of {shown(of)}")
    return [(role, of if isinstance(of, AnyState) else plain(of), effect) for of, effect in effects.items()]


def _declared(states: Iterable[object]) -> dict[State, State]:
    """Those of *states* that can be states, each once, mapped to themselves: strings as exact ones."""
    exact = (plain(state) for state in states)
    return {state: state for state in exact if is_state(state)}


def _appearing(
    initial: object, events: Iterable[Event], initial_states: Iterable[object], groups: Mapping[str, object]
) -> tuple[object, ...]:
    """The states that are named, each once, in the order of their appearance; a source may be a group instead."""
    written = [transition for event in events for transition in event.transitions]
    named = chain.from_iterable(
        (*(source for source in transition.written_sources() if source not in groups), transition.target)
        for transition in written
    )
    return tuple(dict.fromkeys(filter(is_state, (initial, *named, *initial_states))))


def tables(declaration: Declaration) -> dict[str, object]:
    """The attributes of the machine that *declaration*, found sound, describes."""
    declared = declaration.declared
    states = tuple(declared)
    stored = {state: stored_form(state) for state in states}
    order = {state: number for number, state in enumerate(states)}
    ways = {event.name: _ways(event, spread, declared, order) for event, spread in declaration.spread}
    transitions = {name: tuple(chain.from_iterable(of_event.values())) for name, of_event in ways.items()}
    aliases = {alias: declared[target] for alias, target in declaration.aliases.items()}
    spelled_as = {state: [text] for state, text in stored.items()}
    for alias, target in aliases.items():
        spelled_as[target].append(alias)
    left = {way.source for way in chain.from_iterable(transitions.values()) if way.source != way.target}
    events_from: dict[State, list[str]] = {state: [] for state in states}
    for name, of_event in ways.items():
        for state in of_event:
            events_from[state].append(name)
    return {
        "states": states,
        "initial": find_state(declared, declaration.initial),
        "initial_states": tuple(_declared(declaration.initial_states)),
        "final": tuple(state for state in states if state not in left),
        "events": MappingProxyType({event.name: event for event in declaration.events}),
        "groups": MappingProxyType(dict(declaration.groups.states)),
        "on_enter": MappingProxyType(_effects_of(declaration, "enter")),
        "on_exit": MappingProxyType(_effects_of(declaration, "exit")),
        "retired": tuple(declared[state] for state in _declared(declaration.retired)),
        "aliases": MappingProxyType(aliases),
        "stored_states": (*stored.values(), *aliases),
        "_declared": declared,
        "_stored": stored,
        "_loaded": {text: state for state, text in stored.items()} | aliases,
        "_spellings": {state: tuple(texts) for state, texts in spelled_as.items()},
        "_transitions": transitions,
        "_targets": {
            name: {source: first.target for source, (first, *_) in of_event.items()} for name, of_event in ways.items()
        },
        "_events_from": {state: tuple(names) for state, names in events_from.items()},
        "_payload": {event.name: Takes.of(*declaration.functions(event)) for event in declaration.events},
        "grouping": declaration.groups,
        "borders": declaration.crossings,
    }


def _effects_of(declaration: Declaration, role: Role) -> dict[State | AnyState, Effect]:
    return {effect.of: effect.function for effect in declaration.crossings.effects if effect.role == role}


def _ways(
    event: Event,
    spread: Iterable[tuple[Transition, list[State]]],
    declared: Mapping[State, State],
    order: Mapping[State, int],
) -> dict[State, list[Transition]]:
    """The transitions of *event* by the single state that they leave, in the order of the states."""
    ways: dict[State, list[Transition]] = {}
    for written, sources in spread:
        guard = _both(event, written)
        target = declared[written.target]
        for source in sources:
            single = Transition(source, target, guard=guard, effect=written.effect)
            ways.setdefault(source, []).append(single)
    return {source: ways[source] for source in sorted(ways, key=order.__getitem__)}


def _both(event: Event, written: Transition) -> GivenGuard | None:
    """The guards of *event* and of its transition in one."""
    if event.guard is None:
        return written.guard
    if written.guard is None:
        return event.guard
    return AllOf((*event.guards, *written.guards))
