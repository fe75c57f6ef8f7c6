"""An event's payload, checked and turned into the bound parameters of its SQL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy.types import NULLTYPE

from ..errors.texts import shown
from ..sql.values import python_types, unfit
from .target import Target

if TYPE_CHECKING:
    from ..sql.events import EventSQL


def payload_parameters(target: Target, sql: EventSQL, payload: Mapping[str, Any]) -> dict[str, Any]:
    """The bound parameters of *sql* for *payload*. A name that is not in *payload* has its default.

    Raises: TypeError when a name without a default is missing, when the event has no such name, or when a value's type
    is not that of the column that it is compared with or assigned to; ValueError for a number that is not finite.
    """
    names = sql.payload
    missing = [name for name in names if name not in payload and name not in sql.defaults]
    unexpected = [name for name in payload if name not in names]
    if missing or unexpected:
        parts = [f"needs {', '.join(map(repr, missing))}"] if missing else []
        parts += [f"has no {', '.join(map(shown, unexpected))}"] if unexpected else []
        parts += ["the session comes second, by position"] if "session" in unexpected else []
        takes = f"its payload is {', '.join(map(repr, names))}" if names else "it takes no payload"
        raise TypeError(f"{sql.name!r} of {target.model.__name__} {' and '.join(parts)}; {takes}")
    given = {**sql.defaults, **payload} if sql.defaults else payload
    # A name may be compared with two columns of different types. Each use is a parameter and is checked by itself.
    for parameter, name in sql.parameters.items():
        check_value(sql, parameter, name, given[name])
    if len(sql.parameters) < len(names):  # a function may ignore a name: no SQL has it
        for name in names:
            problem = unfit(NULLTYPE, given[name]) if name not in sql.parameters.values() else None
            if problem is not None:
                raise type(problem)(f"{name!r} of {sql.name!r} {problem}")
    return {name: exact_value(sql, name, given[of]) for name, of in sql.parameters.items()}


def exact_value(sql: EventSQL, parameter: str, value: Any) -> Any:
    """*value*, of a subclass of int or str as a plain one: a driver sends others by their ``str()``, ``'Color.RED'``.

    MySQL would take that text for the number 0. A column's type that converts values, such as Enum, gets them as given.
    """
    if parameter in sql.lists and isinstance(value, (list, tuple, set, frozenset)):
        return [_exact_one(sql, parameter, one) for one in value]
    return _exact_one(sql, parameter, value)


def _exact_one(sql: EventSQL, parameter: str, value: Any) -> Any:
    kind = type(value)
    if kind in (int, str, bool) or not isinstance(value, (int, str)):
        return value
    if python_types(sql.types.get(parameter, NULLTYPE)) is None:
        return value
    return int(value) if isinstance(value, int) else str.__str__(value)


def check_value(sql: EventSQL, parameter: str, name: str, value: Any) -> None:
    """Refuse a *value* for the payload *name* that does not fit the type of its bound *parameter*.

    Raises: TypeError for a value of another type; ValueError for a number that is not finite.
    """
    problem = unfit(sql.types.get(parameter, NULLTYPE), value, is_list=parameter in sql.lists)
    if problem is not None:
        raise type(problem)(f"{name!r} of {sql.name!r} {problem}")
