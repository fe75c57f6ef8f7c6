"""A machine as a JSON document, to be compared with another release's; written and read here."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from ..errors.texts import State, shown
from .events import Event, Transition
from .states import callable_payload

if TYPE_CHECKING:
    from .machine import Machine

JSON_FORMAT: Final = 1


def to_json(machine: Machine) -> str:
    """*machine* as JSON text; the same machine gives the same text."""
    document = {
        "format": JSON_FORMAT,
        "name": machine.name,
        "initial": machine.stored(machine.initial),
        "states": [machine.stored(state) for state in machine.states],
        "retired": [machine.stored(state) for state in machine.retired],
        "aliases": {alias: machine.stored(state) for alias, state in machine.aliases.items()},
        "events": [
            {
                "name": event.name,
                "effect": _names_taken(event.effect),
                "transitions": [_transition(machine, t) for t in machine.transitions(event.name)],
            }
            for event in machine.events.values()
        ],
    }
    return json.dumps(document, indent=2)


def from_json(kind: type[Machine], text: str) -> Machine:
    """The machine of class *kind* that :func:`to_json` wrote.

    Raises: ValueError when *text* is not what ``to_json`` writes; InvalidMachine, which is one, when its machine is
    wrong.
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
        return kind(events=events, **arguments)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"this is no machine's JSON: {type(error).__name__}: {error}") from error


def _transition(machine: Machine, transition: Transition) -> dict[str, object]:
    document: dict[str, object] = {
        "source": machine.stored(cast(State, transition.source)),
        "target": machine.stored(transition.target),
    }
    present = {"guard": transition.guard, "effect": transition.effect}
    return document | {role: _names_taken(given) for role, given in present.items() if given is not None}


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
    return None if function is None else list(callable_payload(function))
