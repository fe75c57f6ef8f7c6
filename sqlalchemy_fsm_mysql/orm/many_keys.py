"""One event on many rows by their keys: :func:`fire_keys` gives an outcome for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, TypeAlias, TypeVar, overload

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from ..core import many_keys
from ..core.attribution import Attribution
from ..errors.texts import shown
from ..observation import Attempt, watching
from ..outcomes import Missing, Moved, MovedRows, Refused
from .awaited import Later
from .mapped import mapped_event
from .sessions import AsyncPlace, SyncPlace, within
from .sets import sweep_of

__all__ = ["fire_keys"]

M = TypeVar("M")

_Outcomes: TypeAlias = "list[Moved[M] | Refused[M] | Missing[M]]"


@overload
def fire_keys(
    model: type[M],
    keys: Iterable[object],
    event: str,
    session: SyncPlace,
    /,
    *,
    column: object = ...,
    actor: str | None = ...,
    details: object = ...,
    **payload: object,
) -> _Outcomes[M]: ...
@overload
def fire_keys(
    model: type[M],
    keys: Iterable[object],
    event: str,
    session: AsyncPlace,
    /,
    *,
    column: object = ...,
    actor: str | None = ...,
    details: object = ...,
    **payload: object,
) -> Later[_Outcomes[M]]: ...
def fire_keys(
    model: type[M],
    keys: Iterable[Any],
    event: str,
    session: Any,
    /,
    *,
    column: Any = None,
    actor: str | None = None,
    details: Any = None,
    **payload: Any,
) -> Any:
    """Fire *event* on the rows of *model* with the primary keys *keys*, with an outcome for each key.

    Returns: a list in the order of *keys*. Each item is a :class:`Moved`, a :class:`Refused`, or a :class:`Missing`
    where there is no row.

    On MySQL and MariaDB, up to 1,000 keys take two statements, and three with a history: a SELECT that locks the rows
    and reads what the event does to each, an UPDATE, and an INSERT of the history rows. More keys are processed in
    parts of 1,000, and either all parts succeed or none. A key that is passed twice is fired on twice, one after the
    other.

    Rows that refuse the event also stay locked until the transaction ends. Functions of ``on_moved`` are called for
    each move when all rows have moved. *actor* and *details* are written to each history row. There is no token,
    because a token belongs to one fire. No instance is loaded; instances that the session has show the new states.
    *session* can be a Core ``Connection``.

    Raises: TypeError for *keys* that are not keys; UnknownState when a row is in a state that the machine does not
    declare, and then no row has moved; else as :func:`fire_key`, except for refusals and missing rows.
    """
    if isinstance(keys, (str, bytes, bytearray, memoryview, Mapping)) or not isinstance(keys, Iterable):
        raise TypeError(f"fire_keys() takes several keys, such as a list, and not {shown(keys)}")
    attribution = Attribution(actor, details)
    work = within(session, _fire_keys, "fire_keys", on_connection=_fire_keys)
    return work(model, list(keys), event, column, payload, attribution)


def _fire_keys(
    place: Session | Connection,
    model: type[Any],
    keys: Sequence[Any],
    event: str,
    column: Any,
    payload: Mapping[str, Any],
    attribution: Attribution,
) -> list[Any]:
    mapped, _ = mapped_event(model, event, column)
    plain = mapped.plain_keys
    parts = [(key,) if type(key) in plain else mapped.key_parts(key) for key in keys]
    sweep = sweep_of(place, model, event, column, (), payload, attribution)
    with watching(Attempt("fire_keys", model, mapped.table_name, sweep.event.name)) as attempt:
        outcomes: list[Any] = []
        if parts:
            connection = sweep.connection()
            with sweep.explaining(connection):
                outcomes = many_keys.fire_keys(sweep, connection, parts)
        moves = [one for one in outcomes if isinstance(one, Moved)]
        edges = Counter(map(attrgetter("source", "target"), moves))
        attempt.result = MovedRows(mapped.model, sweep.event.name, len(moves), edges)
        if moves and mapped.extras.hooks:
            sweep.announce(moves, connection)
    return outcomes
