"""Timed events on the rows that are due: :func:`fire_due`.

One call is one :class:`.lanes.Round` in the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, overload

from sqlalchemy import ColumnExpressionArgument, Connection
from sqlalchemy.orm import Session

from ..core.attribution import Attribution
from ..errors.texts import listed, shown
from ..observation import Attempt, watching
from ..outcomes import MovedRows
from .awaited import Later
from .lanes import Round
from .mapped import MappedState, mapped_state, mapped_states, named_state
from .sessions import AsyncPlace, SyncPlace, within
from .sets import is_number_of_rows

__all__ = ["fire_due", "fire_round", "timed_events"]

M = TypeVar("M")


@overload
def fire_due(
    model: type[M],
    session: SyncPlace,
    /,
    *criteria: ColumnExpressionArgument[bool],
    event: str | None = ...,
    column: object = ...,
    limit: int | None = ...,
    actor: str | None = ...,
    details: object = ...,
) -> MovedRows[M]: ...
@overload
def fire_due(
    model: type[M],
    session: AsyncPlace,
    /,
    *criteria: ColumnExpressionArgument[bool],
    event: str | None = ...,
    column: object = ...,
    limit: int | None = ...,
    actor: str | None = ...,
    details: object = ...,
) -> Later[MovedRows[M]]: ...
def fire_due(
    model: type[M],
    session: Any,
    /,
    *criteria: Any,
    event: str | None = None,
    column: Any = None,
    limit: int | None = None,
    actor: str | None = None,
    details: Any = None,
) -> Any:
    """Fire the timed events of *model* on the rows that are due, the oldest first, with at most *limit* moves.

    Returns: a :class:`MovedRows`. Its ``.event`` is the event's name, or the names of all timed events with commas
    between them. Its ``.errors`` has a ``RowFailed`` for each row on which the server could not compute a guard or
    store an effect. Such a row stays as it is, and the others move.

    Any number of servers can call it at once. Rows that another transaction has locked are skipped (``FOR UPDATE SKIP
    LOCKED``), and no row is fired twice for one time. One call fires an event on each row once, even if the row stays
    due. Rows that another guard of the event refuses are left alone. Hooks are called, and the history is written. A
    hook that raises ends the call.

    The locks last until COMMIT, and nothing is committed here. So pass a *limit* and commit between calls. *column*
    names the machine when several have timed events. *session* can be a Core ``Connection``; hooks then get the
    connection.

    Raises: TypeError when there is no timed event, or *column* is needed; ValueError for an *event* that is not timed
    and a *limit* below 1; TransactionRequired in AUTOCOMMIT; else as :func:`fire_where`.
    """
    if limit is not None and not is_number_of_rows(limit):
        raise ValueError(f"limit={shown(limit)}; it must be a number of rows, at least 1")
    work = within(session, _fire_due, on_connection=_fire_due)
    return work(model, event, column, criteria, limit, Attribution(actor, details))


def _fire_due(
    place: Session | Connection,
    model: type[Any],
    event: str | None,
    column: Any,
    criteria: Sequence[Any],
    limit: int | None,
    attribution: Attribution,
) -> MovedRows[Any]:
    mapped, names = timed_events(model, event, column)
    return fire_round(Round(mapped, names, criteria, attribution), place, limit)


def fire_round(due: Round, place: Session | Connection, limit: int | None) -> MovedRows[Any]:
    """Move up to *limit* rows of *due* in the transaction of *place*, reported to the log and the observers."""
    with watching(Attempt("fire_due", due.mapped.model, due.mapped.table_name, ", ".join(due.names))) as attempt:
        attempt.result = rows = due.fire(place, limit)
    return rows


def timed_events(model: type[Any], event: str | None, column: Any) -> tuple[MappedState, list[str]]:
    """The machine of *model* that has timed events, and the names of those to fire.

    Raises: UnknownEvent, TypeError, ValueError.
    """
    if event is not None:
        mapped = mapped_state(model, event, column)
        name = mapped.machine.event_name(event)
        if not mapped.machine.events[name].is_timed:
            raise ValueError(
                f"event {shown(name)} of {mapped.label} has no after=, so it is never due: use fire_where()"
            )
        return mapped, [name]
    states = [named_state(model, column)] if column is not None else list(mapped_states(model).values())
    timed = {mapped: [one.name for one in mapped.machine.events.values() if one.is_timed] for mapped in states}
    having = [mapped for mapped, names in timed.items() if names]
    if not having:
        raise TypeError(f"{model.__name__} has no timed event: declare one by Event(…, after=…)")
    if len(having) > 1:
        names = listed(f"column={mapped.attribute!r}" for mapped in having)
        raise TypeError(f"{len(having)} machines of {model.__name__} have timed events: name one by {names}")
    return having[0], timed[having[0]]
