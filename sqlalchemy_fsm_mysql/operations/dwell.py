"""How long rows stay in each state: :func:`dwell_times`, from the since column or from the history."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, overload

from sqlalchemy import Column, ColumnElement, Float, Integer, Select, case, cast, func, literal, select, type_coerce
from sqlalchemy.orm import Session

from ..errors.texts import shown, stored_form
from ..orm.awaited import Later
from ..orm.history import history_of
from ..orm.mapped import MappedState, attribute_state
from ..orm.sessions import AnySession, within
from ..sql.clock import seconds_between, utc_now
from ..sql.events import after
from ..sql.exact import storable

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

__all__ = ["Dwell", "dwell_times"]

Origin = Literal["column", "history"]


@dataclass(frozen=True, slots=True)
class Dwell:
    """How long rows stay in one state.

    `count` is the number of stays. `median`, `p95` (19 of 20 stays are not longer) and `oldest` (the longest stay) are
    timedeltas, None without a stay.
    """

    count: int
    median: timedelta | None = None
    p95: timedelta | None = None
    oldest: timedelta | None = None

    def to_dict(self) -> dict[str, float | int | None]:
        """These figures for JSON, with times in seconds."""
        times = {"median": self.median, "p95": self.p95, "oldest": self.oldest}
        seconds = {name: None if time is None else time.total_seconds() for name, time in times.items()}
        return {"count": self.count, **seconds}


@overload
def dwell_times(
    column: object,
    session: AnySession,
    /,
    *,
    origin: Origin | None = ...,
    since: datetime | None = ...,
    until: datetime | None = ...,
) -> dict[str, Dwell]: ...
@overload
def dwell_times(
    column: object,
    session: AsyncSession,
    /,
    *,
    origin: Origin | None = ...,
    since: datetime | None = ...,
    until: datetime | None = ...,
) -> Later[dict[str, Dwell]]: ...
def dwell_times(
    column: Any,
    session: Any,
    /,
    *,
    origin: Origin | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Any:
    """Measure how long rows stay in each state of *column* (``Order.state``).

    Returns: a dict ``{state: Dwell}`` of stored values. Every declared state is included, and so is a state that rows
    have and the machine does not declare. An alias counts as its state.

    *origin* chooses the source of the times. None takes the column if there is one, and else the history.

    - ``"column"``: the rows that are in the state now, from the time in the ``StateSinceColumn`` until now.
    - ``"history"``: the stays that have ended, from the history row that entered the state to the one that left it. A
      transition from a state to itself ends no stay. The stay in the first state of a row is not counted, because the
      history has no row for the creation of a row. *since* (included) and *until* (not included) limit the time at
      which the stays ended, in UTC.

    The call is one statement, and the server sorts all stays: on a large table, use a replica. With an
    ``AsyncSession``, await the call.

    Raises: TypeError when *column* is not a state column or has neither, and for limits without a history; ValueError
    for another *origin*.
    """
    if origin not in (None, "column", "history"):
        raise ValueError(f"origin={shown(origin)}; it must be 'column' or 'history'")
    for name, limit in (("since", since), ("until", until)):
        if limit is not None and not isinstance(limit, datetime):
            raise TypeError(f"{name}={shown(limit)}; it must be a datetime")
    return within(session, _dwell_times)(column, origin, since, until)


def _dwell_times(
    session: Session, column: Any, origin: Origin | None, since: datetime | None, until: datetime | None
) -> dict[str, Dwell]:
    mapped = attribute_state(column)
    if origin is None:
        origin = "history" if mapped.extras.since is None and mapped.extras.history is not None else "column"
    if origin == "column" and mapped.extras.since is None:
        raise TypeError(
            f"{mapped.label} has no StateSinceColumn, and no history, so nothing records when a row came into its state"
        )
    if origin == "column" and (since is not None or until is not None):
        raise TypeError("since= and until= limit the stays of a history: give origin='history'")
    stays = _in_history(mapped, column, since, until) if origin == "history" else _by_column(mapped)
    found: dict[str, Dwell] = {mapped.machine.stored(state): Dwell(0) for state in mapped.machine.states}
    for state, count, *times in session.execute(_figures(stays), bind_arguments={"mapper": mapped.mapper}):
        name = mapped.machine.stored(state) if mapped.machine.declares(state) else stored_form(state)
        found[name] = Dwell(int(count), *(timedelta(seconds=float(time)) for time in times))
    return found


def _by_column(mapped: MappedState) -> Select[Any]:
    """The state and the seconds of each row, since it is in its state."""
    row = mapped.row
    seconds = seconds_between(row.since, utc_now()).label("seconds")
    visible = [] if row.visible is None else [row.visible]
    return select(_current(mapped, row.state).label("state"), seconds).where(row.since.is_not(None), *visible)  # type: ignore[union-attr]


def _in_history(mapped: MappedState, column: Any, since: datetime | None, until: datetime | None) -> Select[Any]:
    """The state and the seconds of each stay that has ended, by the history rows that change the state."""
    table = history_of(mapped.model, column).sql.table
    key = history_of(mapped.model, column).sql.row_key
    entered = func.lag(table.c.at).over(partition_by=key, order_by=table.c.sequence)
    source, target = _current(mapped, table.c.source), _current(mapped, table.c.target)
    changes = select(source.label("state"), table.c.at.label("ended"), entered.label("entered"))
    every = changes.where(source != target).subquery("fsm_changes")
    seconds = seconds_between(every.c.entered, every.c.ended).label("seconds")
    stays = select(every.c.state, seconds).where(every.c.entered.is_not(None))
    if since is not None:
        stays = stays.where(every.c.ended >= since)
    if until is not None:
        stays = stays.where(every.c.ended < until)
    return stays


def _current(mapped: MappedState, state: Column[Any]) -> ColumnElement[Any]:
    """The column *state* with each alias as its state, so that rows of both spellings are counted together."""
    aliases = mapped.machine.aliases
    current = {alias: mapped.machine.stored(aliases[alias]) for alias in storable(state, aliases)}
    return type_coerce(after(state, current), state.type) if current else state


def _figures(stays: Select[Any]) -> Select[Any]:
    """The state, the count, the median, the 95th percentile and the longest of *stays*."""
    each = stays.subquery("fsm_stays")
    place = func.row_number().over(partition_by=each.c.state, order_by=each.c.seconds)
    of = func.count().over(partition_by=each.c.state)
    placed = select(each.c.state, each.c.seconds, place.label("place"), of.label("of")).subquery("fsm_placed")

    def percentile(part: int) -> Any:
        reached = cast(placed.c.place, Integer) * literal(100) >= placed.c.of * literal(part)
        return cast(func.min(case((reached, placed.c.seconds))), Float)

    longest = cast(func.max(placed.c.seconds), Float)
    figures = (func.max(placed.c.of), percentile(50), percentile(95), longest)
    return select(placed.c.state, *figures).group_by(placed.c.state)
