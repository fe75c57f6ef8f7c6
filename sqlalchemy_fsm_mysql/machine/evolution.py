"""The changes between two releases of a machine, and the order in which N servers take each. Pure Python.

>>> from sqlalchemy_fsm_mysql import Event, Machine
>>> last = Machine(initial="Running", events=[Event("Fail", {"Running": "Error"})])
>>> next_ = Machine(initial="Running", events=[Event("Fail", {"Running": "Failed"})], aliases={"Error": "Failed"})
>>> for change in diff_machines(last, next_):
...     print(change)
state 'Error' is renamed to 'Failed'
  1. expand: append 'Failed' to the column's states (last in the ENUM: no copy of the table)
  2. deploy: a release with aliases={"Failed": "Error"}: it understands both, and writes 'Error'; on all servers
  3. deploy: a release with aliases={"Error": "Failed"}: it understands both, and writes 'Failed'; on all servers
  4. data: set the rows that have 'Error' to 'Failed', in batches by key
  5. deploy: a release without the alias, on all servers
  6. contract: remove 'Error' from the column's states, once no row has it

A phase begins when the one before it has ended on every server. While a deploy runs, servers of both releases
write the same rows; the order is such that neither meets a state that it does not know. Where the database
checks the edges by triggers, these change before the first release that needs a new edge, and once more after the
last release that needed an old one (phases named ``enforce``).

What guards and effects *say* cannot be compared; whether they are there, their names, and the payload that they take,
can. Descriptions and the sentences of guards do not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from itertools import starmap
from typing import Final, cast

from ..errors.texts import State, listed, shown
from .events import Event
from .groups import Role
from .guards import UNNAMED
from .machine import Machine
from .payload import written_payload
from .recipes import RECIPES, Change, Phase, change
from .states import AnyState

__all__ = ["RECIPES", "Change", "Phase", "diff_machines"]


_CROSSING: Final[dict[Role, str]] = {"enter": "entering", "exit": "leaving"}


def diff_machines(old: Machine, new: Machine) -> list[Change]:
    """Compare two releases of a machine: the changes from *old* to *new*, each with the phases of its deployment.

    Returns: a list of `Change`; empty when both machines do the same. The order of states and events, and the names of
    the machines, do not count.

    A rename is recognised by the alias that *new* keeps for it. Without the alias it is a removal and an addition. Each
    machine can come from `Machine.from_json`.

    Raises: TypeError when one of the two is not a Machine.
    """
    for machine in (old, new):
        if not isinstance(machine, Machine):
            raise TypeError(f"diff_machines() compares two Machines, not {shown(machine)}")
    return [*_states(old, new), *_initial(old, new), *_groups(old, new), *_borders(old, new), *_events(old, new)]


def _stored(machine: Machine, states: tuple[State, ...]) -> list[str]:
    return list(map(machine.stored, states))


def _states(old: Machine, new: Machine) -> Iterator[Change]:
    before, after = _stored(old, old.states), _stored(new, new.states)
    new_names = set()
    for text in before:
        if text in after:
            yield from _kept_state(old, new, text)
        elif text in new.aliases:
            target = new.stored(text)
            new_names.add(target)
            is_known = "spelling switched" if target in old.aliases else "state renamed"
            yield change("states merged" if target in before else is_known, text, target)
        else:
            yield change("retired state removed" if text in _stored(old, old.retired) else "state removed", text)
    for text in after:
        if text not in before and text not in new_names:
            yield change("state announced" if text in _stored(new, new.retired) else "state added", after=text)
    for alias in new.aliases:
        if alias not in old.stored_states:
            yield change("alias added", new.stored(alias), alias)
    for alias in old.aliases:
        if alias not in new.stored_states:
            yield change("alias removed", alias, old.stored(alias))


def _kept_state(old: Machine, new: Machine, text: str) -> Iterator[Change]:
    was, is_ = text in _stored(old, old.retired), text in _stored(new, new.retired)
    if is_ and not was:
        yield change("state retired", text)
    if was and not is_:
        yield change("state brought into use", after=text)


def _initial(old: Machine, new: Machine) -> Iterator[Change]:
    before, after = _in_terms_of(new, old.stored(old.initial)), new.stored(new.initial)
    if before != after:
        yield change("initial changed", before, after)
    born_before = {_in_terms_of(new, old.stored(state)) for state in old.initial_states} | {before}
    born = [new.stored(state) for state in new.initial_states]
    for text in born:
        if text not in born_before:
            yield change("initial state added", after=text)
    for text in sorted(born_before - {before}):
        if text not in born and text != after:
            yield change("initial state removed", text)


def _groups(old: Machine, new: Machine) -> Iterator[Change]:
    for name in old.groups:
        if name not in new.groups:
            yield change("group removed", name)
    for name, states in new.groups.items():
        if name not in old.groups:
            yield change("group added", after=name)
            continue
        before = {_in_terms_of(new, old.stored(state)) for state in old.groups[name]}
        after = {new.stored(state) for state in states}
        joined = [f"state {shown(text)} joins group {shown(name)}" for text in sorted(after - before)]
        left = [f"state {shown(text)} leaves group {shown(name)}" for text in sorted(before - after)]
        for what in (*joined, *left):
            yield change("group changed", after=what)


def _borders(old: Machine, new: Machine) -> Iterator[Change]:
    """Effects of entering and leaving that came or went, or that take another payload."""
    before, after = _border_payloads(old, new), _border_payloads(new, new)
    for border in dict.fromkeys([*before, *after]):
        was, is_ = before.get(border), after.get(border)
        if was is None:
            yield change("border effects changed", after=f"{border} has an effect now")
        elif is_ is None:
            yield change("border effects changed", after=f"{border} has no effect any more")
        elif was != is_:
            taken = listed(map(shown, is_)) or "nothing"
            yield change("border effects changed", after=f"the effect of {border} takes {taken} now")


def _border_payloads(machine: Machine, new: Machine) -> dict[str, list[str]]:
    found = {}
    for border in machine.borders.effects:
        of = border.of
        if isinstance(of, AnyState):
            name = "any state"
        elif border.is_group:
            name = f"group {shown(of)}"
        else:
            name = f"state {shown(_in_terms_of(new, machine.stored(of)))}"
        found[f"{_CROSSING[border.role]} {name}"] = written_payload(border.function)
    return found


def _in_terms_of(new: Machine, text: str) -> str:
    """The state of *new* that an older machine stores as *text*."""
    return new.stored(text) if new.declares(text) else text


def _events(old: Machine, new: Machine) -> Iterator[Change]:
    for name in old.events:
        if name not in new.events:
            yield change("event removed", name)
    for name in new.events:
        if name not in old.events:
            yield change("event added", after=name)
            continue
        yield from _ways(old, new, name)
        yield from _payload(old, new, name)
        yield from _options(old.events[name], new.events[name])


def _payload(old: Machine, new: Machine, name: str) -> Iterator[Change]:
    required, was_required = (
        set(machine.payload(name)) - set(machine.optional_payload(name)) for machine in (new, old)
    )
    before, after = set(old.payload(name)), set(new.payload(name))
    if (before, was_required) == (after, required):
        return
    is_wider = before <= after and required <= was_required
    was, is_ = (
        listed(shown(each) + (" (optional)" if each in machine.optional_payload(name) else "") for each in names)
        or "nothing"
        for machine, names in ((old, old.payload(name)), (new, new.payload(name)))
    )
    kind = "payload widened" if is_wider else "payload changed"
    yield change(kind, f"event {shown(name)} took {was}", f"now it takes {is_}")


def _options(old: Event, new: Event) -> Iterator[Change]:
    before, after = (_due(event) for event in (old, new))
    if before != after:
        yield change("deadline changed", new.name, f"was {before}, and is {after}")
    if old.recorded != new.recorded:
        yield change("recording changed", new.name, f"is {'' if new.recorded else 'not '}in the history from now on")


def _due(event: Event) -> str:
    if event.after is None:
        return "never due by itself"
    return f"due after {event.after}" if isinstance(event.after, timedelta) else "due at a time of the row's"


def _ways(old: Machine, new: Machine, name: str) -> Iterator[Change]:
    """How the transitions of one event changed, by source; `_states` reports a source that came or went."""
    before, after = _by_source(old, new, name), _by_source(new, new, name)
    for source in dict.fromkeys([*before, *after]):
        where = f"event {shown(name)} from {shown(source)}"
        was, is_ = before.get(source, []), after.get(source, [])
        if not is_ and new.declares(source):
            yield change("transition removed", f"{where} no longer leads to {_targets(was)}")
        elif not was and source in {_in_terms_of(new, old.stored(state)) for state in old.states}:
            yield change("transition added", after=f"{where} now leads to {_targets(is_)}")
        elif was and is_:
            yield from _changed_way(where, was, is_)


# The target, the guards' names, and "effect" when the transition or its event has one.
Way = tuple[str, tuple[str, ...], tuple[str, ...]]


def _by_source(machine: Machine, new: Machine, name: str) -> dict[str, list[Way]]:
    ways: dict[str, list[Way]] = {}
    has_effect = machine.events[name].effect is not None
    for transition in machine.transitions(name):
        source = _in_terms_of(new, machine.stored(cast(State, transition.source)))
        target = _in_terms_of(new, machine.stored(transition.target))
        guards = tuple(sorted(str(guard.name) for guard in transition.guards))
        way = (target, guards, ("effect",) if has_effect or transition.effect is not None else ())
        ways.setdefault(source, []).append(way)
    return ways


def _targets(ways: list[Way]) -> str:
    return listed(shown(target) for target in dict.fromkeys(target for target, _, _ in ways))


def _changed_way(where: str, was: list[Way], is_: list[Way]) -> Iterator[Change]:
    if [target for target, _, _ in was] != [target for target, _, _ in is_]:
        yield change("target changed", f"{where} led to {_targets(was)}", f"now it leads to {_targets(is_)}")
        return
    for kind, position in (("guards changed", 1), ("effects changed", 2)):
        before, after = ([(way[0], way[position]) for way in ways if way[position]] for ways in (was, is_))
        if before != after:
            role = kind.partition(" ")[0]
            had, has = (listed(starmap(_on_the_way, ways)) or "none" for ways in (before, after))
            yield change(kind, f"{where} had {role} on the way to {had}", f"now it has them on the way to {has}")


def _on_the_way(target: str, names: tuple[str, ...]) -> str:
    """
    >>> _on_the_way("paid", ("owner", "in stock")), _on_the_way("paid", ("guard",))
    ("'paid' ('owner', 'in stock')", "'paid'")
    """
    given = [shown(name) for name in names if name not in (UNNAMED, "effect")]
    return f"{shown(target)} ({listed(given)})" if given else shown(target)
