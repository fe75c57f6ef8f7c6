"""Guards and their names: a refusal says which of them were not true.

>>> def is_owner(order, user):
...     return order.owner == user
>>> [guard.name for guard in guards_of({"in stock": lambda order: order.stock > 0})]
['in stock']
>>> guards_of(Guard(is_owner, "only the owner may cancel"))[0].name
'is_owner'
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from types import NoneType
from typing import Any, Final, TypeAlias

from ..errors.texts import shown

# A refusal's code has a bit for each: sql/code.py.
MAX_GUARDS: Final = 38
MAX_SENTENCE_CHARACTERS: Final = 255
UNNAMED: Final = "guard"
AFTER: Final = "after"
"""The guard of a timed event that is not due yet."""


@dataclass(frozen=True, slots=True)
class Guard:
    """A guard with a name and with a sentence for people, which an error about a refusal shows.

    *function* gets the mapped class and the payload by name, and returns a SQL condition. *sentence* is the refusal in
    words for people; None without one. *name* defaults to the key of the guard in a dict, or to the function's name; a
    lambda is called ``guard``.

    Raises: TypeError when *function* cannot be called, or *sentence* or *name* is not a str.
    """

    function: Callable[..., Any]  # Any: a SQL expression, and SQLAlchemy is not imported here
    sentence: str | None = None
    _: KW_ONLY
    name: str | None = None

    def __post_init__(self) -> None:
        function: object = self.function
        if isinstance(function, Guard) or not callable(function):
            raise TypeError(f"a Guard is made of a function that takes the mapped class, not of {shown(self.function)}")
        for part, value in (("sentence", self.sentence), ("name", self.name)):
            if value is not None and not isinstance(value, str):
                raise TypeError(f"the {part} of a Guard is a str or None, not {shown(value)}")


class AllOf(tuple[Guard, ...]):
    """The guards of an event and of one of its transitions, all of which must be true."""

    __slots__ = ()


GuardFunction: TypeAlias = Callable[..., Any]  # Any: as above
GivenGuard: TypeAlias = GuardFunction | Guard | AllOf | Mapping[str, GuardFunction | Guard]


def checked_guard(given: object) -> GivenGuard | None:
    """*given* as a transition or an event keeps it: hashable, and never changed from outside.

    Raises: TypeError when it is not a function, a Guard, or a dict of names to these.
    """
    if isinstance(given, (Guard, AllOf, NoneType)):
        return given
    if isinstance(given, Mapping):
        from ..outcomes import ReadOnlyMapping  # few guards come in a dict, and a declaration needs no other outcome

        if isinstance(given, ReadOnlyMapping):
            return given
        for name, function in given.items():
            if not isinstance(name, str):
                raise TypeError(f"guards are named by str, not by {shown(name)}")
            _require_function(function, f"the guard {shown(name)}")
        if not given:
            raise TypeError("the guard is an empty dict: name a function at least, or give None")
        return ReadOnlyMapping({str.__str__(name): function for name, function in given.items()})
    _require_function(given, "the guard")
    return given  # type: ignore[return-value]  # callable, as was just checked


def guards_of(given: GivenGuard | None) -> tuple[Guard, ...]:
    """Each function of *given*, with its name."""
    if given is None:
        return ()
    if isinstance(given, AllOf):
        return given
    if isinstance(given, Mapping):
        return tuple(_named(function, name) for name, function in given.items())
    return (_named(given, None),)


def is_named(given: GivenGuard | None) -> bool:
    """Whether its author gave the guards their names."""
    return isinstance(given, Mapping) or (isinstance(given, Guard) and given.name is not None)


def function_name(function: Callable[..., object], otherwise: str) -> str:
    """The name of *function*; *otherwise* where it is a lambda or an object without a name."""
    while isinstance(function, partial):
        function = function.func
    name = getattr(function, "__name__", otherwise)
    return otherwise if name == "<lambda>" or not isinstance(name, str) else name


def _named(given: GuardFunction | Guard, name: str | None) -> Guard:
    guard = given if isinstance(given, Guard) else Guard(given)
    if name is None:
        name = guard.name if guard.name is not None else function_name(guard.function, UNNAMED)
    return replace(guard, name=name)


def _require_function(value: object, what: str) -> None:
    if not isinstance(value, Guard) and not callable(value):
        raise TypeError(f"{what} is {shown(value)}: give a function that takes the mapped class, a Guard, or None")
