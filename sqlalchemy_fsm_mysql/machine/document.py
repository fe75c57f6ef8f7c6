"""A machine as a JSON document, to be compared with another release's; written and read here.

Limits of what is read: :data:`MAX_CHARACTERS`; no key twice in one object; no NaN, no Infinity; nothing but the shape
that `to_json` writes, so nothing nested deeper than that.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

from ..errors.texts import State, shown
from .events import After, Event, Transition
from .guards import Guard
from .payload import Absent, written_payload
from .states import ANY, AnyState

if TYPE_CHECKING:
    from .machine import Machine

JSON_FORMAT: Final = 1
MAX_CHARACTERS: Final = 64 * 1024 * 1024
"""The longest text that `from_json` reads; a machine of 2,000 states and 5,000 events has about a million."""
MAX_DIGITS: Final = 20


def to_json(machine: Machine) -> str:
    """*machine* as JSON text; the same machine gives the same text."""
    document = {
        "format": JSON_FORMAT,
        "name": machine.name,
        "initial": machine.stored(machine.initial),
        "initial_states": [machine.stored(state) for state in machine.initial_states],
        "states": [machine.stored(state) for state in machine.states],
        "retired": [machine.stored(state) for state in machine.retired],
        "aliases": {alias: machine.stored(state) for alias, state in machine.aliases.items()},
        "groups": {
            name: [_member(machine, member) for member in members] for name, members in machine.grouping.written.items()
        },
        "on_enter": list(_borders(machine, "enter")),
        "on_exit": list(_borders(machine, "exit")),
        "events": [_event(machine, event) for event in machine.events.values()],
    }
    return json.dumps(document, indent=2)


def from_json(kind: type[Machine], text: str) -> Machine:
    """The machine of class *kind* that :func:`to_json` wrote.

    Raises: ValueError when *text* is not what ``to_json`` writes; InvalidMachine, which is one, when its machine is
    wrong.
    """
    if not isinstance(text, str):
        raise ValueError(f"this is not the JSON of a machine: it is of type {type(text).__name__}, not str")  # noqa: TRY004 - as documented
    if len(text) > MAX_CHARACTERS:
        raise ValueError(
            f"this is not the JSON of a machine: it has {len(text):,} characters, {MAX_CHARACTERS:,} is the most"
        )
    try:
        document = json.loads(text, object_pairs_hook=_once_each, parse_constant=_no_number, parse_int=_short)
    except RecursionError as error:
        raise ValueError("this is not the JSON of a machine: it is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"this is not the JSON of a machine: {error}") from error
    try:
        return kind(**_arguments(_object(document, "the document")))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"this is not the JSON of a machine: {type(error).__name__}: {error}") from error


# --- written


def _member(machine: Machine, member: object) -> str:
    group = machine.grouping.named(member)
    return group if group is not None else machine.stored(cast(State, member))


def _borders(machine: Machine, role: str) -> Iterator[dict[str, object]]:
    """The effects of entering or leaving; `of` is null for ANY."""
    for border in machine.borders.effects:
        if border.role != role:
            continue
        of = border.of
        name = None if isinstance(of, AnyState) else str(of) if border.is_group else machine.stored(of)
        yield {"of": name, "effect": written_payload(border.function)}


def _event(machine: Machine, event: Event) -> dict[str, object]:
    document: dict[str, object] = {
        "name": event.name,
        "guards": _guards(event.guards),
        "effect": _names_taken(event.effect),
        "transitions": [_transition(machine, event, t) for t in machine.transitions(event.name)],
    }
    if event.after is not None:
        after = event.after
        document["after"] = after.total_seconds() if isinstance(after, timedelta) else written_payload(after)
    if not event.recorded:
        document["recorded"] = False
    if event.description is not None:
        document["description"] = event.description
    return document


def _transition(machine: Machine, event: Event, transition: Transition) -> dict[str, object]:
    document: dict[str, object] = {
        "source": machine.stored(cast(State, transition.source)),
        "target": machine.stored(transition.target),
    }
    own = transition.guards[len(event.guards) :]
    if own:
        document["guards"] = _guards(own)
    if transition.effect is not None:
        document["effect"] = written_payload(transition.effect)
    return document


def _guards(guards: Iterable[Guard]) -> dict[str, object]:
    return {
        str(guard.name): {"takes": written_payload(guard.function)}
        | ({} if guard.sentence is None else {"sentence": guard.sentence})
        for guard in guards
    }


def _names_taken(function: Callable[..., object] | None) -> list[str] | None:
    return None if function is None else written_payload(function)


# --- read


def _arguments(document: Mapping[str, Any]) -> dict[str, Any]:
    version = document["format"]
    if type(version) is not int or version != JSON_FORMAT:
        raise ValueError(f"format {shown(version)} is not known here, {JSON_FORMAT} is")
    groups = _object(document.get("groups", {}), "groups")
    aliases = _object(document["aliases"], "aliases")
    return {
        "initial": _text(document["initial"], "initial"),
        "initial_states": _texts(document.get("initial_states", []), "initial_states"),
        "states": _texts(document["states"], "states"),
        "name": document["name"],
        "retired": _texts(document["retired"], "retired"),
        "aliases": {alias: _text(state, "an alias") for alias, state in aliases.items()},
        "groups": {name: _texts(members, "a group") for name, members in groups.items()},
        "on_enter": _read_borders(document, "on_enter"),
        "on_exit": _read_borders(document, "on_exit"),
        "events": [_read_event(_object(event, "an event")) for event in _list(document["events"], "events")],
    }


def _read_borders(document: Mapping[str, Any], role: str) -> dict[Any, Absent]:
    found: dict[Any, Absent] = {}
    for written in _list(document.get(role, []), role):
        border = _object(written, role)
        of = ANY if border["of"] is None else _text(border["of"], role)
        if of in found:
            raise ValueError(f"this is not the JSON of a machine: {role} has {shown(of)} twice")
        found[of] = _absent(border["effect"])
    return found


def _read_event(written: Mapping[str, Any]) -> Event:
    transitions = [_read_transition(_object(t, "a transition")) for t in _list(written["transitions"], "transitions")]
    return Event(
        _text(written["name"], "the name of an event"),
        transitions,
        guard=_read_guards(written.get("guards", {})),
        effect=None if written["effect"] is None else _absent(written["effect"]),
        after=_read_after(written.get("after")),
        recorded=written.get("recorded", True),
        description=written.get("description"),
    )


def _read_transition(written: Mapping[str, Any]) -> Transition:
    effect = written.get("effect")
    return Transition(
        _text(written["source"], "a source"),
        _text(written["target"], "a target"),
        guard=_read_guards(written.get("guards", {})),
        effect=None if effect is None else _absent(effect),
    )


def _read_guards(written: object) -> dict[str, Guard] | None:
    guards = {name: _object(guard, "a guard") for name, guard in _object(written, "guards").items()}
    return {name: Guard(_absent(guard["takes"]), guard.get("sentence")) for name, guard in guards.items()} or None


def _read_after(written: object) -> After | None:
    if written is None or isinstance(written, list):
        return None if written is None else _absent(written)
    if isinstance(written, bool) or not isinstance(written, (int, float)):
        raise TypeError(f"after is {shown(written)}, not seconds")
    try:
        return timedelta(seconds=written)
    except OverflowError as error:
        raise TypeError(f"after is {shown(written)} seconds, which no clock counts") from error


def _absent(names: object) -> Absent:
    """A function that takes the payload *names*; one that ends in ``?`` is optional."""
    takes = _texts(names, "a payload")
    for name in takes:
        if not name.removesuffix("?").isidentifier():
            raise TypeError(f"the payload's name {shown(name)} is not an identifier")
    if len({name.removesuffix("?") for name in takes}) < len(takes):
        raise TypeError("a payload has a name twice")
    return Absent(tuple(takes))


def _object(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{what} is {shown(value)}, not an object")
    return value


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{what} is {shown(value)}, not a list")
    return value


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what} is {shown(value)}, not a string")
    return value


def _texts(value: object, what: str) -> list[str]:
    return [_text(entry, what) for entry in _list(value, what)]


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("this is not the JSON of a machine: an object has one key twice")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"this is not the JSON of a machine: {name} is not a number")


def _short(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"this is not the JSON of a machine: it contains a number of more than {MAX_DIGITS} digits")
    return int(digits)
