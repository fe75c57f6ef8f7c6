"""An event's payload, checked and turned into the bound parameters of its SQL."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from math import isfinite
from numbers import Real
from typing import Any

from ..errors.texts import shown
from ..sql.events import EventSQL, Takes
from .target import Target

# What drivers bind as one value without help from a column's type.
_BYTES = (bytes, bytearray, memoryview)
_SCALARS = (str, bytes, bytearray, Real, Decimal, date, time, timedelta)


def payload_parameters(target: Target, sql: EventSQL, payload: Mapping[str, Any]) -> dict[str, Any]:
    """The bound parameters of *sql* that *payload* gives.

    A name that is not given has its default.

    Raises: TypeError when a name without a default is missing, or a name is none of the event's, or for a value that
    cannot be bound as one value; ValueError for a number that is not finite.
    """
    names = sql.payload
    missing = [name for name in names if name not in payload and name not in sql.defaults]
    unexpected = [name for name in payload if name not in names]
    if missing or unexpected:
        parts = [f"needs {', '.join(map(repr, missing))}"] if missing else []
        parts += [f"has no {', '.join(map(shown, unexpected))}"] if unexpected else []
        parts += ["the session comes second, by position"] if "session" in unexpected else []
        takes = ", ".join(map(repr, names)) or "nothing"
        raise TypeError(f"{sql.name!r} of {target.model.__name__} {' and '.join(parts)}; its payload is {takes}")
    given = {**sql.defaults, **payload} if sql.defaults else payload
    for name in names:
        _check(f"{name!r} of {sql.name!r}", given[name], sql.takes.get(name, Takes.ONE_VALUE))
    return {parameter: given[name] for parameter, name in sql.parameters.items()}


def _check(what: str, value: Any, takes: Takes) -> None:
    """Refuse a value that a driver would spell as SQL (a list, ``Decimal("NaN")``), or by the value's own ``str``.

    Raises: TypeError, ValueError.
    """
    if value is None or takes is Takes.ANYTHING:
        return
    if not isinstance(value, _BYTES if takes is Takes.BYTES else _SCALARS):
        kind = "bytes" if takes is Takes.BYTES else "one value of a column's"
        raise TypeError(f"{what} is {kind}, not {type(value).__name__}")
    if isinstance(value, (float, Decimal)) and not isfinite(value):
        raise ValueError(f"{what} is a number, and {shown(value)} is none")
