"""The parameters of guards and effects: the mapped class first, then the event's payload by name.

A name without a default is required at every fire. A name with a default is optional, and the default is used. A
keyword-only parameter is the function's own, such as what a lambda in a loop closes over, and no payload.

>>> takes = Takes.of(lambda order, amount, note="", *, limit=100: order.total >= amount)
>>> takes.required, takes.optional
(('amount',), {'note': ''})
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from ..errors.texts import shown

# fire, fire_where, claim and force_state take these keywords for themselves.
RESERVED_NAMES: Final = frozenset({
    "actor", "batch_size", "column", "criteria", "details", "event", "key", "limit", "max_rows", "model",
    "order_by", "progress", "session", "token",
})  # fmt: skip
RESERVED_PREFIX: Final = "fsm_"

POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_REFUSED_KINDS: Final = {
    inspect.Parameter.POSITIONAL_ONLY: "takes {!r} by position only: the payload comes by name",
    inspect.Parameter.VAR_POSITIONAL: "takes *{}: name each value of the payload",
    inspect.Parameter.VAR_KEYWORD: "takes **{}: name each value of the payload",
}


class Takes(NamedTuple):
    """The payload of one function, or of all functions of an event.

    `names` are in the order of their first appearance. `optional` are those that every function gives a default, with
    the first default.
    """

    names: tuple[str, ...] = ()
    optional: Mapping[str, Any] = MappingProxyType({})  # Any: a default is whatever a column takes

    @property
    def required(self) -> tuple[str, ...]:
        """The names that a fire must give."""
        return tuple(name for name in self.names if name not in self.optional)

    @classmethod
    def of(cls, *functions: Callable[..., object]) -> Takes:
        """The payload of *functions* together: a name that one of them requires is required.

        Raises: ValueError, TypeError for a function without a signature that could be read.
        """
        names: dict[str, None] = {}
        required: set[str] = set()
        optional: dict[str, Any] = {}
        for function in functions:
            for parameter in payload_parameters(function):
                names[parameter.name] = None
                if parameter.default is inspect.Parameter.empty:
                    required.add(parameter.name)
                else:
                    optional.setdefault(parameter.name, parameter.default)
        return cls(tuple(names), {name: value for name, value in optional.items() if name not in required})


class Absent:
    """A guard or an effect of a machine that came from JSON: it stands for the function, and tells its payload.

    `takes` are the payload's names; one that ends in ``?`` is optional.
    """

    takes: tuple[str, ...]

    __slots__ = ("takes",)

    def __init__(self, takes: tuple[str, ...] = ()) -> None:
        self.takes = takes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Absent) and self.takes == other.takes

    def __hash__(self) -> int:
        return hash(self.takes)

    def __repr__(self) -> str:
        return f"Absent(takes={self.takes!r})"

    @property
    def __signature__(self) -> inspect.Signature:
        model = inspect.Parameter("model", inspect.Parameter.POSITIONAL_ONLY)
        named = [
            inspect.Parameter(
                name.removesuffix("?"),
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=None if name.endswith("?") else inspect.Parameter.empty,
            )
            for name in sorted(self.takes, key=lambda name: name.endswith("?"))
        ]
        return inspect.Signature([model, *named])

    def __call__(self, *_: object, **__: object) -> Any:
        """Raises: TypeError, always."""
        raise TypeError("this machine was read from JSON, which contains no guards and effects: it cannot be fired")


def written_payload(function: Callable[..., object]) -> list[str]:
    """The payload of *function* as :class:`Absent` takes it.

    >>> written_payload(lambda order, amount, note="": {})
    ['amount', 'note?']
    """
    takes = Takes.of(function)
    return [f"{name}?" if name in takes.optional else name for name in takes.names]


def parameters(function: Callable[..., object]) -> list[inspect.Parameter]:
    """The parameters of a guard or an effect: the mapped class first, then the payload and the function's own.

    Raises: ValueError, TypeError when it has no signature that could be read, as some built-in functions.
    """
    return list(inspect.signature(function).parameters.values())


def payload_parameters(function: Callable[..., object]) -> list[inspect.Parameter]:
    """The parameters of *function* that are payload."""
    return [given for given in parameters(function)[1:] if given.kind is not inspect.Parameter.KEYWORD_ONLY]


def parameter_problems(function: Callable[..., object]) -> Iterator[str]:
    """The reasons why *function* cannot be called with the mapped class and a payload by name.

    >>> list(parameter_problems(lambda order, *amounts: order.total))
    ['takes *amounts: name each value of the payload']
    """
    try:
        model, *others = parameters(function)
    except (TypeError, ValueError):
        yield "has no first parameter for the mapped class, or no signature to read: wrap it in a lambda"
        return
    if model.kind not in POSITIONAL:
        yield f"does not take the mapped class by position: {model} comes first"
    for parameter in others:
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            if parameter.default is inspect.Parameter.empty:
                yield (
                    f"takes {parameter.name!r} by keyword only, which makes it the function's own: give it a default,"
                    " or write it before the * to make it payload"
                )
        else:
            yield from _payload_problems(parameter)


def default_problems(functions: Iterable[Callable[..., object]]) -> Iterator[str]:
    """The names that two functions of one event give different defaults, where none of them requires a value."""
    functions = list(functions)
    try:
        together = Takes.of(*functions)
        each = [parameter for function in functions for parameter in payload_parameters(function)]
    except (TypeError, ValueError):
        return  # told by `parameter_problems`
    for name, default in together.optional.items():
        others = [given.default for given in each if given.name == name and not _is_same(given.default, default)]
        if others:
            yield f"payload {name!r} has two defaults, {shown(default)} and {shown(others[0])}: leave one"


def _payload_problems(parameter: inspect.Parameter) -> Iterator[str]:
    """The reasons why *parameter* cannot be a name of the payload."""
    name = parameter.name
    if parameter.kind in _REFUSED_KINDS:
        yield _REFUSED_KINDS[parameter.kind].format(name)
    elif name in RESERVED_NAMES:
        yield f"takes {name!r}, which is an option of fire: rename it"
    elif name.startswith(RESERVED_PREFIX):
        yield f"takes {name!r}: names that begin with {RESERVED_PREFIX!r} are the library's own; rename it"


def _is_same(one: object, other: object) -> bool:
    """Whether two defaults are one value; a default that compares to something else than a bool is only itself."""
    if one is other:
        return True
    return type(one) is type(other) and (one == other) is True
