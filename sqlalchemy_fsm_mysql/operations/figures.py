"""Figures of a machine at work: how often each edge was taken, and how many rows are in each state.

Both are what :mod:`.diagram` draws.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Any, overload

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ..errors.texts import shown, stored_form
from ..orm.awaited import Later
from ..orm.history import history_of
from ..orm.mapped import MappedState, attribute_state
from ..orm.sessions import AnySession, within

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

__all__ = ["count_rows", "count_transitions"]


@overload
def count_transitions(
    column: object, session: AnySession, /, *, since: datetime | None = ..., until: datetime | None = ...
) -> dict[tuple[str, str, str], int]: ...
@overload
def count_transitions(
    column: object, session: AsyncSession, /, *, since: datetime | None = ..., until: datetime | None = ...
) -> Later[dict[tuple[str, str, str], int]]: ...
def count_transitions(
    column: Any, session: Any, /, *, since: datetime | None = None, until: datetime | None = None
) -> Any:
    """How often each edge was taken, by the history of *column*, ``Order.state``: ``{(event, source, target): times}``.

    The states are as they are stored now; a forced state is the event ``force_state``. *since* (included) and *until*
    (not included) limit the time, in UTC without a time zone, as the history has it. It reads the whole history, or
    what of it is within the limits: on a large one, ask a replica. Given an ``AsyncSession``, await it.

    Raises: TypeError when the column has no history.
    """
    for name, limit in (("since", since), ("until", until)):
        if limit is not None and not isinstance(limit, datetime):
            raise TypeError(f"{name}={shown(limit)}; it must be a datetime")
    return within(session, _count_transitions)(column, since, until)


@overload
def count_rows(column: object, session: AnySession, /) -> dict[str, int]: ...
@overload
def count_rows(column: object, session: AsyncSession, /) -> Later[dict[str, int]]: ...
def count_rows(column: Any, session: Any, /) -> Any:
    """How many rows are in each state of *column* (``Order.state``) now: ``{state: rows}``, by the names stored.

    A state without rows is there with 0; so is a state that rows hold and the machine does not declare, with their
    number. Given an ``AsyncSession``, await it.

    Raises: TypeError when *column* is no state column.
    """
    return within(session, _count_rows)(column)


def _count_transitions(
    session: Session, column: Any, since: datetime | None, until: datetime | None
) -> dict[tuple[str, str, str], int]:
    mapped = attribute_state(column)
    history: Any = history_of(column.class_, column).model
    query = select(history.event, history.source, history.target, func.count())
    query = query.group_by(history.event, history.source, history.target)
    if since is not None:
        query = query.where(history.at >= since)
    if until is not None:
        query = query.where(history.at < until)
    counts: Counter[tuple[str, str, str]] = Counter()
    for event, source, target, times in session.execute(query):
        counts[event, _current_name(mapped, source), _current_name(mapped, target)] += times
    return dict(sorted(counts.items()))


def _current_name(mapped: MappedState, state: Any) -> str:
    """*state* as it is stored today: an alias of an earlier release counts as its state."""
    return mapped.machine.stored(state) if mapped.machine.declares(state) else stored_form(state)


def _count_rows(session: Session, column: Any) -> dict[str, int]:
    mapped = attribute_state(column)
    machine, attribute = mapped.machine, getattr(mapped.model, mapped.attribute)
    rows: Counter[str] = Counter({machine.stored(state): 0 for state in machine.states})
    for state, number in session.execute(select(attribute, func.count()).group_by(attribute)):
        rows[_current_name(mapped, state)] += number
    return dict(rows)
