"""What changed between two releases of a machine, and in which order N servers take each change. Pure Python.

>>> from sqlalchemy_fsm_mysql import Event, Machine
>>> last = Machine(initial="Running", events=[Event("Fail", {"Running": "Error"})])
>>> next_ = Machine(initial="Running", events=[Event("Fail", {"Running": "Failed"})], aliases={"Error": "Failed"})
>>> for change in diff_machines(last, next_):
...     print(change)
state 'Error' is renamed to 'Failed'
  1. expand: append 'Failed' to the column's states (last in the ENUM: no copy of the table)
  2. deploy: a release with aliases={"Failed": "Error"}: it understands both, and writes 'Error'; on all servers
  3. deploy: a release with aliases={"Error": "Failed"}: it understands both, and writes 'Failed'; on all servers
  4. data: set the rows that hold 'Error' to 'Failed', in batches by key
  5. deploy: a release without the alias, on all servers
  6. contract: take 'Error' out of the column's states, once no row holds it

A phase begins when the one before it has ended on every server. While a deploy runs, servers of both releases
write the same rows; the order is such that neither meets a state that it does not know. Where the database
checks the edges by triggers, these change before the first release that needs a new edge, and once more after the
last release that needed an old one (phases named ``enforce``).

What guards and effects *say* cannot be compared; whether they are there, and what payload they take, is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from ..errors.texts import State, listed, shown
from .machine import Machine

__all__ = ["Change", "Phase", "diff_machines"]


@dataclass(frozen=True, slots=True)
class Phase:
    """One step of a change: `kind` is expand, enforce, deploy, data or contract; `what` is what to do."""

    kind: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"


@dataclass(frozen=True, slots=True)
class Change:
    """One change: its `kind` (a key of `RECIPES`), a sentence, and the phases that make it safe, in their order."""

    kind: str
    what: str
    phases: tuple[Phase, ...]

    def __str__(self) -> str:
        return "\n".join([self.what, *(f"  {number}. {phase}" for number, phase in enumerate(self.phases, start=1))])


_OPEN = Phase("enforce", "where triggers enforce the machine: allow those of both releases")
_CLOSE = Phase("enforce", "where triggers enforce the machine: allow the new ones only")
_EXPAND = Phase("expand", "append '{after}' to the column's states (last in the ENUM: no copy of the table)")
_WRITE_AFTER = Phase(
    "deploy",
    'a release with aliases={{"{before}": "{after}"}}: it understands both, and writes \'{after}\'; on all servers',
)
_DATA = Phase("data", "set the rows that hold '{before}' to '{after}', in batches by key")
_FORGET = Phase("deploy", "a release without the alias, on all servers")
_CONTRACT = Phase("contract", "take '{before}' out of the column's states, once no row holds it")
_ALL = Phase("deploy", "the release, on all servers")
_EMPTY = Phase("data", "wait until no row is in '{before}', or set those rows to another state, in batches by key")
_DROP = Phase("deploy", "the release without '{before}', on all servers")

# A change's kind -> the sentence about it, and its phases. {before} and {after} are stored names.
RECIPES: dict[str, tuple[str, tuple[Phase, ...]]] = {
    "state renamed": (
        "state '{before}' is renamed to '{after}'",
        (
            _EXPAND,
            Phase(
                "deploy",
                'a release with aliases={{"{after}": "{before}"}}: it understands both, and writes \'{before}\';'
                " on all servers",
            ),
            _WRITE_AFTER,
            _DATA,
            _FORGET,
            _CONTRACT,
        ),
    ),
    # The release before understands both spellings already.
    "spelling switched": (
        "state '{before}' is written as '{after}'",
        (_WRITE_AFTER, _DATA, _FORGET, _CONTRACT),
    ),
    "states merged": (
        "state '{before}' is merged into '{after}'",
        (
            Phase("deploy", "a release in which nothing leads to '{before}' (retired), on all servers"),
            _WRITE_AFTER,
            _DATA,
            _FORGET,
            _CONTRACT,
        ),
    ),
    "state added": (
        "state '{after}' is added",
        (
            _EXPAND,
            Phase("deploy", "a release that knows '{after}' and leads nowhere to it (retired), on all servers"),
            _OPEN,
            Phase("deploy", "the release that leads to '{after}', on all servers"),
        ),
    ),
    "state announced": (
        "state '{after}' is added, and nothing leads to it yet",
        (_EXPAND, _ALL),
    ),
    "state brought into use": (
        "state '{after}' is no longer retired",
        (_OPEN, Phase("deploy", "the release that leads to '{after}'; all servers have to know the state already")),
    ),
    "state retired": (
        "state '{before}' is retired",
        (_ALL, Phase("enforce", "where triggers enforce the machine: allow the new ones only")),
    ),
    "state removed": (
        "state '{before}' is removed, and was not retired before",
        (
            Phase("deploy", "a release in which nothing leads to '{before}' (retired), on all servers"),
            _EMPTY,
            _DROP,
            _CLOSE,
            _CONTRACT,
        ),
    ),
    "retired state removed": (
        "the retired state '{before}' is removed",
        (_EMPTY, _DROP, _CLOSE, _CONTRACT),
    ),
    "alias added": (
        "'{after}' is understood as '{before}'",
        (_EXPAND, _ALL),
    ),
    "alias removed": (
        "'{before}' is no longer understood as '{after}'",
        (_DATA, _ALL, _CONTRACT),
    ),
    "initial changed": (
        "rows begin in '{after}', no longer in '{before}'",
        (_OPEN, _ALL, _CLOSE),
    ),
    "event added": (
        "event '{after}' is added",
        (_OPEN, _ALL, Phase("deploy", "what fires '{after}': an older server raises UnknownEvent and sends nothing")),
    ),
    "event removed": (
        "event '{before}' is removed",
        (Phase("deploy", "what fired '{before}' no longer does, everywhere"), _ALL, _CLOSE),
    ),
    "transition added": ("{after}", (_OPEN, _ALL)),
    "transition removed": ("{before}", (_ALL, _CLOSE)),
    "target changed": (
        "{before}; {after}",
        (
            _OPEN,
            Phase("deploy", "the release, on all servers; until then, where the row goes depends on the server"),
            _CLOSE,
        ),
    ),
    "guards changed": (
        "{before}; {after}",
        (Phase("deploy", "the release, on all servers; until then, whether the row moves depends on the server"),),
    ),
    "effects changed": (
        "{before}; {after}",
        (Phase("deploy", "the release, on all servers; until then, what is written along depends on the server"),),
    ),
    "payload changed": (
        "{before}; {after}",
        (
            Phase(
                "deploy",
                "the release with what fires the event: a fire with another payload raises TypeError before any SQL",
            ),
        ),
    ),
}


def diff_machines(old: Machine, new: Machine) -> list[Change]:
    """The changes from *old* to *new*, each with its deploy phases; empty when the two do the same.

    A rename is told by the alias that *new* keeps for it; without one it is a removal and an addition. Order and
    the machines' names do not count. Either machine may come from `Machine.from_json`.

    Raises:
        TypeError: one of the two is no Machine.
    """
    for machine in (old, new):
        if not isinstance(machine, Machine):
            raise TypeError(f"diff_machines() compares two Machines, not {shown(machine)}")
    return [*_states(old, new), *_initial(old, new), *_events(old, new)]


def _change(kind: str, before: str = "", after: str = "") -> Change:
    what, phases = RECIPES[kind]
    names = {"before": before, "after": after}
    return Change(kind, what.format(**names), tuple(Phase(phase.kind, phase.what.format(**names)) for phase in phases))


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
            yield _change("states merged" if target in before else is_known, text, target)
        else:
            yield _change("retired state removed" if text in _stored(old, old.retired) else "state removed", text)
    for text in after:
        if text not in before and text not in new_names:
            yield _change("state announced" if text in _stored(new, new.retired) else "state added", after=text)
    for alias in new.aliases:
        if alias not in old.stored_states:
            yield _change("alias added", new.stored(alias), alias)
    for alias in old.aliases:
        if alias not in new.stored_states:
            yield _change("alias removed", alias, old.stored(alias))


def _kept_state(old: Machine, new: Machine, text: str) -> Iterator[Change]:
    was, is_ = text in _stored(old, old.retired), text in _stored(new, new.retired)
    if is_ and not was:
        yield _change("state retired", text)
    if was and not is_:
        yield _change("state brought into use", after=text)


def _initial(old: Machine, new: Machine) -> Iterator[Change]:
    before, after = _in_terms_of(new, old.stored(old.initial)), new.stored(new.initial)
    if before != after:
        yield _change("initial changed", before, after)


def _in_terms_of(new: Machine, text: str) -> str:
    """What *new* calls the state that an older machine stores as *text*."""
    return new.stored(text) if new.declares(text) else text


def _events(old: Machine, new: Machine) -> Iterator[Change]:
    for name in old.events:
        if name not in new.events:
            yield _change("event removed", name)
    for name in new.events:
        if name not in old.events:
            yield _change("event added", after=name)
            continue
        yield from _ways(old, new, name)
        before, after = old.payload(name), new.payload(name)
        if set(before) != set(after):
            was, is_ = listed(map(shown, before)) or "nothing", listed(map(shown, after)) or "nothing"
            yield _change("payload changed", f"event {shown(name)} took {was}", f"now it takes {is_}")


def _ways(old: Machine, new: Machine, name: str) -> Iterator[Change]:
    """How the transitions of one event changed, by source; a source that came or went is told by `_states`."""
    before, after = _by_source(old, new, name), _by_source(new, new, name)
    for source in dict.fromkeys([*before, *after]):
        where = f"event {shown(name)} from {shown(source)}"
        was, is_ = before.get(source, []), after.get(source, [])
        if not is_ and new.declares(source):
            yield _change("transition removed", f"{where} no longer leads to {_targets(was)}")
        elif not was and source in {_in_terms_of(new, old.stored(state)) for state in old.states}:
            yield _change("transition added", after=f"{where} now leads to {_targets(is_)}")
        elif was and is_:
            yield from _changed_way(where, was, is_)


Way = tuple[str, bool, bool]  # the target, whether there is a guard, and an effect


def _by_source(machine: Machine, new: Machine, name: str) -> dict[str, list[Way]]:
    ways: dict[str, list[Way]] = {}
    has_effect = machine.events[name].effect is not None
    for transition in machine.transitions(name):
        source = _in_terms_of(new, machine.stored(cast(State, transition.source)))
        target = _in_terms_of(new, machine.stored(transition.target))
        way = (target, transition.guard is not None, has_effect or transition.effect is not None)
        ways.setdefault(source, []).append(way)
    return ways


def _targets(ways: list[Way]) -> str:
    return listed(shown(target) for target in dict.fromkeys(target for target, _, _ in ways))


def _changed_way(where: str, was: list[Way], is_: list[Way]) -> Iterator[Change]:
    if [target for target, _, _ in was] != [target for target, _, _ in is_]:
        yield _change("target changed", f"{where} led to {_targets(was)}", f"now it leads to {_targets(is_)}")
        return
    for kind, position in (("guards changed", 1), ("effects changed", 2)):
        before, after = ([way[0] for way in ways if way[position]] for ways in (was, is_))
        if before != after:
            role = kind.partition(" ")[0]
            had, has = (listed(map(shown, targets)) or "none" for targets in (before, after))
            yield _change(kind, f"{where} had {role} on the way to {had}", f"now it has them on the way to {has}")
