"""Timed events on the rows that are due: :func:`fire_due`.

The rows of one event in one state are a *lane*: an index on the state and the time has them in the order in which they
became due, so a batch of a lane reads, and locks, about as many rows as it moves. The lanes take turns, so that no
event waits for the end of another, and the lane with the row that is overdue longest goes first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar, overload

from sqlalchemy import ColumnElement, Connection, select, type_coerce
from sqlalchemy.orm import Session

from ..core.attribution import Attribution
from ..core.sets import Locked, Sweep, all_or_none, moved_rows, take
from ..databases import database_of, is_autocommit
from ..errors import TransactionRequired
from ..errors.texts import listed, shown
from ..observation import Attempt, watching
from ..outcomes import MovedRows
from ..sql.events import Due
from ..sql.keys import is_beyond
from .mapped import MappedState, mapped_state, mapped_states, named_state
from .sessions import AsyncPlace, SyncPlace, within
from .sets import is_number_of_rows, sweep_of
from .since import Timestamp

__all__ = ["fire_due"]

M = TypeVar("M")

_BATCH = 500  # rows that one statement locks


@overload
def fire_due(
    model: type[M],
    session: SyncPlace,
    /,
    *criteria: Any,
    event: str | None = ...,
    column: Any = ...,
    limit: int | None = ...,
    actor: str | None = ...,
    details: Any = ...,
) -> MovedRows[M]: ...
@overload
def fire_due(
    model: type[M],
    session: AsyncPlace,
    /,
    *criteria: Any,
    event: str | None = ...,
    column: Any = ...,
    limit: int | None = ...,
    actor: str | None = ...,
    details: Any = ...,
) -> Coroutine[Any, Any, MovedRows[M]]: ...
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
    """Fire every timed event of *model* on the rows that are due, oldest first; at most *limit* moves.

    Any number of servers may call it at once: rows that another transaction has locked are passed over (``FOR UPDATE
    SKIP LOCKED``), and no row is fired twice for one time. Of one event, a call fires each row once, even if it stays
    due. *event* is the only one to fire, *criteria* narrow the rows, *column* names the machine when several have timed
    events. Rows that another guard of the event refuses are left alone. Hooks are called, and the history is written.

    The locks last until COMMIT, and nothing is committed here, so give a *limit* and commit between calls. A row on
    which an effect or a hook fails raises its error; the batches before are not taken back until the caller rolls back.

    *session* may be a Core ``Connection``; hooks get the connection then.

    The outcome's `.event` is the event's name, or the names of all timed events with commas between them.

    Raises: TypeError when there is no timed event, or *column* is needed; ValueError for an *event* that is not timed
    and a *limit* below 1; TransactionRequired in AUTOCOMMIT; else as :func:`fire_where`.
    """
    if limit is not None and not is_number_of_rows(limit):
        raise ValueError(f"limit={shown(limit)}; it is a number of rows, at least 1")
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
    mapped, names = _timed(model, event, column)
    name = ", ".join(names)
    sweeps = [sweep_of(place, model, one, mapped.attribute, criteria, {}, attribution) for one in names]
    with watching(Attempt("fire_due", model, mapped.table_name, name)) as attempt:
        lanes = [_Lane(sweep, source) for sweep in sweeps for source in sweep.event.from_source()]
        by_transition: Counter[tuple[Any, Any]] = Counter()
        for lane, moved in _turns(lanes, limit):
            by_transition.update(moved_rows(lane.sweep, moved).by_transition)
        attempt.result = rows = MovedRows(mapped.model, name, by_transition.total(), dict(by_transition))
    return rows


def _timed(model: type[Any], event: str | None, column: Any) -> tuple[MappedState, list[str]]:
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


@dataclass
class _Lane:
    """The rows of one event in one state, in the order in which they became due."""

    sweep: Sweep
    source: str
    beyond: tuple[Any, ...] | None = None  # the time and the key of the last row that was locked
    seen: set[tuple[Any, ...]] = field(default_factory=set)

    @property
    def due(self) -> Due:
        due = self.sweep.event.due
        assert due is not None
        return due

    @property
    def moment(self) -> ColumnElement[Any]:
        return type_coerce(self.due.moment, Timestamp())

    def criteria(self) -> list[ColumnElement[bool]]:
        """The rows of this lane that have not been locked yet."""
        here = [self.sweep.event.is_due(self.source)]
        if self.beyond is not None:
            here.append(is_beyond((self.moment, *self.sweep.event.row.key), self.beyond))
        return here

    def oldest(self, connection: Connection) -> datetime | None:
        """The time at which the first free row became due; None when no row is.

        The row is locked, because a plain read would make a snapshot, and MariaDB then refuses to lock what has changed
        since (error 1020).
        """
        first = self.sweep.narrowed(*self.criteria())
        query = select(self.moment).where(first.criterion).order_by(self.due.moment, *first.event.row.key).limit(1)
        row = connection.execute(query.with_for_update(skip_locked=True), self.sweep.parameters).one_or_none()
        return None if row is None else row[0] + self.due.interval

    def lock(self, connection: Connection, limit: int) -> tuple[int, list[Locked]]:
        """Lock up to *limit* free rows: how many there were, and those that this call has not fired on before.

        A row that its event has not moved to another time is due again at once: it lies behind, or it has been seen.
        """
        here, key = self.sweep.narrowed(*self.criteria()), self.sweep.event.row.key
        query = select(self.moment, *here.columns()).where(here.criterion).order_by(self.due.moment, *key).limit(limit)
        found = here.read(connection, query.with_for_update(skip_locked=True))
        rows = [self.sweep.locked(values[1:]) for values in found]
        if rows:
            self.beyond = (found[-1][0], *rows[-1].key)
        new = [row for row in rows if row.key not in self.seen]
        self.seen.update(row.key for row in new)
        return len(found), new


def _turns(lanes: Sequence[_Lane], limit: int | None) -> Iterator[tuple[_Lane, Counter[int]]]:
    """Move batch after batch, lane after lane, until no row is due or *limit* rows have moved."""
    waiting = _by_age(lanes)
    left = limit
    while waiting and left != 0:
        turn = list(waiting)
        for number, lane in enumerate(turn):
            share = _BATCH if left is None else min(_BATCH, -(-left // (len(turn) - number)))
            if share == 0:
                return
            found, moved = _move(lane, share)
            if found < share:
                waiting.remove(lane)
            left = None if left is None else left - moved.total()
            if moved:
                yield lane, moved


def _by_age(lanes: Sequence[_Lane]) -> list[_Lane]:
    """The lanes that have due rows, the one first whose row is overdue longest."""
    if len(lanes) == 1:
        return list(lanes)
    ages: list[tuple[datetime, int]] = []
    for number, lane in enumerate(lanes):
        connection = _connection(lane.sweep)
        with lane.sweep.explaining(connection):
            database_of(connection).rows.lock(connection, lane.sweep.event)
            oldest = lane.oldest(connection)
        if oldest is not None:
            ages.append((oldest, number))
    return [lanes[number] for _, number in sorted(ages)]


def _move(lane: _Lane, limit: int) -> tuple[int, Counter[int]]:
    """Lock a batch of *lane* and move it, all or none: how many rows were locked, and how many took which branch."""
    sweep, connection = lane.sweep, _connection(lane.sweep)
    with sweep.explaining(connection):
        database_of(connection).rows.lock(connection, sweep.event)
        found, rows = lane.lock(connection, limit)
        if not rows:
            return found, Counter()
        with all_or_none(sweep, connection, is_locked=True):
            moved = take(sweep, connection, rows)
    sweep.announce(rows, connection)
    return found, moved


def _connection(sweep: Sweep) -> Connection:
    """The connection that the rows are written on, which a hook may have changed by a COMMIT.

    Raises: TransactionRequired in AUTOCOMMIT.
    """
    connection = sweep.connection()
    if is_autocommit(connection):
        raise TransactionRequired(
            "fire_due() locks rows and then moves them, and this connection is in AUTOCOMMIT, which keeps no lock"
        )
    return connection
