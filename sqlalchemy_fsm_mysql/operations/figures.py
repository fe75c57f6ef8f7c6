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
    """Count how often each transition of *column* (``Order.state``) was taken, from its history.

    Returns: a dict ``{(event, source, target): times}`` of stored values. A forced state is the event ``force_state``.

    *since* (included) and *until* (not included) limit the time, as naive datetimes in UTC. The call reads the whole
    history within these limits: on a large history, use a replica. With an ``AsyncSession``, await the call.

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
    """Count how many rows are in each state of *column* (``Order.state``) now.

    Returns: a dict ``{state: rows}`` of stored values. A state without rows has 0. A state that rows have and the
    machine does not declare is included. With an ``AsyncSession``, await the call.

    Raises: TypeError when *column* is not a state column.
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
