"""The rows that are due, batch by batch, oldest first: a :class:`Round` goes once over all of them.

The rows of one event in one state are a *lane*: an index on the state and the time has them in the order in which they
became due, so a batch of a lane reads, and locks, about as many rows as it moves. The lanes take turns, so that no
event waits for the end of another, and the lane with the row that is overdue longest goes first.

A row on which the server cannot compute a guard, or store an effect, is found by halving its batch. It is reported, and
the rows behind it move.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import ColumnElement, Connection, and_, select, type_coerce
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import Session

from ..core.attribution import Attribution
from ..core.failures import is_of_a_row, row_failed
from ..core.sets import Locked, Sweep, all_or_none, announce_rows, moved_rows, take
from ..core.target import plain_key
from ..databases import database_of, is_autocommit
from ..errors import FireError, RefusedByDatabase, TransactionRequired
from ..outcomes import MovedRows
from ..sql.clock import utc_now
from ..sql.events import Due
from ..sql.keys import is_among, is_beyond
from .criteria import on_row
from .mapped import MappedState
from .sets import sweep_of
from .since import Timestamp

__all__ = ["Lane", "Round", "given_rows"]

T = TypeVar("T")

BATCH = 500
"""The rows that one statement locks at most."""


@dataclass(slots=True)
class Lane:
    """The progress of a round in the rows of one event in one state.

    `beyond` are the time and the key of the last row that was locked, `seen` the keys of rows that have been fired on
    and may lie ahead, and `is_over` whether the last batch found fewer rows than it asked for.
    """

    event: str
    source: str
    beyond: tuple[Any, ...] | None = None
    seen: frozenset[tuple[Any, ...]] = frozenset()
    is_over: bool = False

    @property
    def name(self) -> tuple[str, str]:
        return self.event, self.source


class Batch(NamedTuple):
    """The rows that one batch has locked: how many, how many took which branch, and how late the latest one was."""

    found: int
    moved: Counter[int]
    lateness: timedelta


@dataclass
class _Look:
    """A lane in one transaction."""

    lane: Lane
    mapped: MappedState
    sweep: Sweep
    criteria: Sequence[Any]
    errors: list[FireError] = field(default_factory=list)

    @property
    def due(self) -> Due:
        due = self.sweep.event.due
        assert due is not None
        return due

    @cached_property
    def moment(self) -> ColumnElement[Any]:
        return type_coerce(self.due.moment, Timestamp())

    @property
    def connection(self) -> Connection:
        """The connection that the rows are written on, which a hook may have changed by a COMMIT.

        Raises: TransactionRequired in AUTOCOMMIT.
        """
        connection = self.sweep.connection()
        if is_autocommit(connection):
            raise TransactionRequired(
                "fire_due() locks rows and then moves them, and this connection is in AUTOCOMMIT, which keeps no lock: "
                "use another isolation level, such as READ COMMITTED"
            )
        return connection

    def rows_left(self) -> list[ColumnElement[bool]]:
        """The criteria of the rows that are due in this lane, and that have not been locked yet."""
        here = [self.sweep.event.is_due(self.lane.source)]
        if self.lane.beyond is not None:
            here.append(is_beyond((self.moment, *self.sweep.event.row.key), self.lane.beyond))
        return here

    def oldest(self) -> datetime | None:
        """The time at which the first free row became due; None when no row is.

        The row is locked, because a plain read would make a snapshot, and MariaDB then refuses to lock what has changed
        since (error 1020). Where a guard fails on a row, the time is that of the first row whatever its guards.
        """
        connection = self.connection
        for narrowed in (self.sweep.narrowed(*self.rows_left()), self.unguarded):
            key = narrowed.event.row.key
            query = select(self.moment).where(narrowed.criterion).order_by(self.due.moment, *key).limit(1)
            try:
                row = connection.execute(query.with_for_update(skip_locked=True), self.sweep.parameters).one_or_none()
            except StatementError as error:
                if not is_of_a_row(error):
                    raise
            else:
                return None if row is None else row[0] + self.due.interval
        return None

    @property
    def unguarded(self) -> Sweep:
        """The rows that are left, by their time alone: the event's other guards are not asked."""
        return replace(self.sweep, criterion=and_(*self.rows_left(), *given_rows(self.mapped, self.criteria)))

    def move(self, limit: int) -> Batch:
        """Lock up to *limit* free rows, and move those that can be moved."""
        sweep, connection = self.sweep, self.connection
        with sweep.explaining(connection):
            database_of(connection).rows.lock(connection, sweep.event)
            found, rows, lateness = self._lock(connection, limit)
            taken: list[Locked] = []
            moved: Counter[int] = Counter()

            def take_some(some: Sequence[Locked]) -> None:
                with all_or_none(sweep, connection, is_locked=True):
                    moved.update(take(sweep, connection, some))
                taken.extend(some)

            _by_halves(rows, take_some, lambda row, error: self._failed(row.key, error))
        if taken:
            announce_rows(sweep, taken, connection)
        self.lane.is_over = found < limit
        return Batch(found, moved, lateness)

    def _lock(self, connection: Connection, limit: int) -> tuple[int, list[Locked], timedelta]:
        """Lock up to *limit* free rows: how many there were, those to fire on, and how late the first of them is.

        A row that its event has not moved to another time is due again at once: it lies behind, or it has been seen.
        """
        here, key = self.sweep.narrowed(*self.rows_left()), self.sweep.event.row.key
        times = [self.moment, type_coerce(utc_now(), Timestamp())]
        try:
            query = select(*times, *here.columns()).where(here.criterion)
            found = here.read(connection, self._first(query, limit))
            rows = [self.sweep.locked(values[2:]) for values in found]
        except StatementError as error:
            if not is_of_a_row(error):
                raise
            # A guard fails on one of the rows. They are locked by their time alone, and judged by halves.
            here = self.unguarded
            found = here.read(connection, self._first(select(*times, *key).where(here.criterion), limit))
            rows = self._judged(connection, [tuple(values[2:]) for values in found])
        if not found:
            return 0, [], timedelta(0)
        first, now, last = found[0][0], found[0][1], found[-1]
        self.lane.beyond = (last[0], *last[2 : 2 + len(key)])
        # Only a function's moment can move forward and still have come.
        if not self.due.interval:
            rows = [row for row in rows if row.key not in self.lane.seen]
            self.lane.seen |= {row.key for row in rows}
        return len(found), rows, now - first - self.due.interval

    def _first(self, query: Any, limit: int) -> Any:
        ordered = query.order_by(self.due.moment, *self.sweep.event.row.key).limit(limit)
        return ordered.with_for_update(skip_locked=True)

    def _judged(self, connection: Connection, keys: Sequence[tuple[Any, ...]]) -> list[Locked]:
        """Those of the locked rows with *keys* that the event moves, in the same order."""
        judged: dict[tuple[Any, ...], Locked] = {}

        def judge(some: Sequence[tuple[Any, ...]]) -> None:
            here = self.sweep.narrowed(is_among(self.sweep.event.row.key, some))
            query = select(*here.columns()).where(here.criterion).with_for_update()
            judged.update((row.key, row) for row in map(here.locked, here.read(connection, query)))

        _by_halves(keys, judge, self._failed)
        return [judged[key] for key in keys if key in judged]

    def _failed(self, key: tuple[Any, ...], error: Exception) -> None:
        mapped = self.mapped
        self.errors.append(
            row_failed(
                error, model=mapped.model, table=mapped.table_name, key=plain_key(key), event=self.sweep.event.name
            )
        )


def given_rows(mapped: MappedState, criteria: Sequence[Any]) -> list[ColumnElement[bool]]:
    """The criteria of the rows of the mapped class that match *criteria*, whatever their state."""
    visible = [] if mapped.row.visible is None else [mapped.row.visible]
    return [*visible, *on_row(mapped, criteria)]


def _by_halves(items: Sequence[T], act: Callable[[Sequence[T]], None], failed: Callable[[T, Exception], None]) -> None:
    """Call *act* with all *items*; where the server fails on a row, with halves, down to the item that failed."""
    pending = [items] if items else []
    while pending:
        some = pending.pop()
        try:
            act(some)
        except (StatementError, RefusedByDatabase) as error:
            if not is_of_a_row(error):
                raise
            if len(some) == 1:
                failed(some[0], error)
            else:
                middle = len(some) // 2
                pending += [some[middle:], some[:middle]]


class Round:
    """One pass over all rows on which timed events are due, in one transaction or in several.

    `lateness` is how late the latest row of the last :meth:`fire` was.
    """

    attribution: Attribution
    criteria: Sequence[Any]
    is_sorted: bool
    lanes: list[Lane]
    lateness: timedelta
    mapped: MappedState
    names: Sequence[str]

    def __init__(
        self, mapped: MappedState, names: Sequence[str], criteria: Sequence[Any], attribution: Attribution
    ) -> None:
        self.mapped, self.names, self.criteria, self.attribution = mapped, names, criteria, attribution
        self.lanes = [Lane(name, source) for name in names for source in mapped.event(name).from_source()]
        self.is_sorted = len(self.lanes) == 1
        self.lateness = timedelta(0)

    @property
    def is_over(self) -> bool:
        """Whether every lane has come to its end."""
        return all(lane.is_over for lane in self.lanes)

    def saved(self) -> Callable[[], None]:
        """A function that puts the progress back to what it is now, for a transaction that was rolled back."""
        lanes, is_sorted = [replace(lane) for lane in self.lanes], self.is_sorted

        def restore() -> None:
            self.lanes, self.is_sorted = [replace(lane) for lane in lanes], is_sorted

        return restore

    def fire(self, place: Session | Connection, limit: int | None) -> MovedRows[Any]:
        """Move up to *limit* rows in the transaction of *place*, or all rows that are due."""
        looks = self._looks(place)
        if not self.is_sorted:
            looks = self._in_turn(looks, limit)
        by_transition: Counter[tuple[Any, Any]] = Counter()
        self.lateness = timedelta(0)
        for look, batch in _turns(looks, limit):
            self.lateness = max(self.lateness, batch.lateness)
            by_transition.update(moved_rows(look.sweep, batch.moved).by_transition)
        errors = tuple(error for look in looks for error in look.errors)
        name, total = ", ".join(self.names), by_transition.total()
        return MovedRows(self.mapped.model, name, total, dict(by_transition), errors)

    def _looks(self, place: Session | Connection) -> list[_Look]:
        model, column = self.mapped.model, self.mapped.attribute
        sweeps = {
            name: sweep_of(place, model, name, column, self.criteria, {}, self.attribution) for name in self.names
        }
        return [_Look(lane, self.mapped, sweeps[lane.event], self.criteria) for lane in self.lanes if not lane.is_over]

    def _in_turn(self, looks: Sequence[_Look], limit: int | None) -> list[_Look]:
        """The lanes that have due rows, the one first whose row is overdue longest.

        A row that stays due after its event would be the longest overdue for ever. So where *limit* is too small to
        give each lane a row, a lane whose oldest time is still the one that this process has served before goes behind.
        """
        ages: list[tuple[int, datetime, int]] = []
        served = self.mapped.served
        for number, look in enumerate(looks):
            connection = look.connection
            with look.sweep.explaining(connection):
                database_of(connection).rows.lock(connection, look.sweep.event)
                oldest = look.oldest()
            if oldest is None:
                look.lane.is_over = True
            else:
                before, turn = served.get(look.lane.name, (None, 0))
                ages.append((turn if before == oldest else 0, oldest, number))
        if limit is None or limit >= len(ages):
            ages = [(0, oldest, number) for _, oldest, number in ages]
        ages.sort()
        in_turn = [looks[number] for _, _, number in ages]
        if limit is not None and limit < len(ages):
            turn = 1 + max((turn for _, turn in served.values()), default=0)
            served.update({looks[number].lane.name: (oldest, turn) for _, oldest, number in ages[:limit]})
        order = {look.lane.name: place for place, look in enumerate(in_turn)}
        self.lanes.sort(key=lambda lane: order.get(lane.name, len(order)))
        self.is_sorted = True
        return in_turn


def _turns(looks: Sequence[_Look], limit: int | None) -> Iterator[tuple[_Look, Batch]]:
    """Move batch after batch, lane after lane, until no row is due or *limit* rows have moved."""
    waiting, left = list(looks), limit
    while waiting and left != 0:
        turn = list(waiting)
        for number, look in enumerate(turn):
            share = BATCH if left is None else min(BATCH, -(-left // (len(turn) - number)))
            if share == 0:
                return
            batch = look.move(share)
            if look.lane.is_over:
                waiting.remove(look)
            left = None if left is None else left - batch.moved.total()
            if batch.found:
                yield look, batch
