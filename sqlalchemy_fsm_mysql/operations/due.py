"""The worker's loop of timed events: :func:`run_due` fires what is due, batch after batch, and sleeps in between.

A :class:`.lanes.Round` goes over all rows that are due, each batch in a transaction of its own. Then the worker asks
the database when the next row will be due, by the database's clock, and sleeps until then, but not longer than its
period.
The loop is one generator of steps for sync and async sessions alike.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, overload

from sqlalchemy import ColumnExpressionArgument, Connection, Engine, literal, select, type_coerce
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from .. import observation
from ..core.attribution import Attribution
from ..core.failures import Meaning, is_unreachable, meaning
from ..core.target import plain_key
from ..errors import FireError, LockTimeout, NotWritable, OutcomeUnknown, RowFailed, TransactionAborted
from ..errors.texts import counted, escaped, shown, stored_form
from ..orm.awaited import Later
from ..orm.due import fire_round, timed_events
from ..orm.lanes import Lane, Round, given_rows
from ..orm.mapped import MappedState
from ..orm.sets import is_number_of_rows
from ..orm.since import Timestamp
from ..orm.units import is_async_factory, run_transaction
from ..outcomes import MovedRows
from ..sql.clock import utc_now
from ..sql.events import is_in
from ..sql.locks import without_locks
from .signals import Signals

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

__all__ = ["run_due"]

log: logging.Logger = logging.getLogger(f"{observation.log.name}.due")

M = TypeVar("M")

Place: TypeAlias = Session | Connection
Stop: TypeAlias = Callable[[], bool]
Step: TypeAlias = "Callable[[Place], object] | float"
"""A unit of work, to be run in a transaction, or the seconds to sleep."""

_GLANCE = 0.1  # seconds between two looks at whether to stop
_PAUSE = 0.05  # seconds between two rounds at least, so that rows due one after the other share a transaction
_ROUND = 100_000  # rows after which a new round begins, because a round remembers rows that may stay due
_REPORTED = 1000  # rows whose errors are remembered
_WAITS = {"wait_initial": 0.1, "wait_max": 2.0, "wait_jitter": 0.5}  # seconds, while the database cannot be used


@overload
def run_due(
    sessions: async_sessionmaker[AsyncSession] | AsyncEngine,
    model: type[M],
    /,
    *criteria: ColumnExpressionArgument[bool],
    event: str | None = ...,
    column: object = ...,
    every: timedelta | None = ...,
    limit: int = ...,
    actor: str | None = ...,
    details: object = ...,
    stop: Stop | None = ...,
    ready_file: Path | str | None = ...,
) -> Later[MovedRows[M]]: ...
@overload
def run_due(
    sessions: sessionmaker[Any] | Engine | Callable[[], Session],  # Any: a Session, or a class made of it
    model: type[M],
    /,
    *criteria: ColumnExpressionArgument[bool],
    event: str | None = ...,
    column: object = ...,
    every: timedelta | None = ...,
    limit: int = ...,
    actor: str | None = ...,
    details: object = ...,
    stop: Stop | None = ...,
    ready_file: Path | str | None = ...,
) -> MovedRows[M]: ...
def run_due(
    sessions: Any,
    model: type[Any],
    /,
    *criteria: Any,
    event: str | None = None,
    column: Any = None,
    every: timedelta | None = timedelta(seconds=10),
    limit: int = 500,
    actor: str | None = None,
    details: Any = None,
    stop: Stop | None = None,
    ready_file: Path | str | None = None,
) -> Any:
    """Run a worker that fires the timed events of *model* as they become due, until a signal stops it.

    Returns: a :class:`MovedRows` of everything that was moved.

    Each batch of up to *limit* rows is a transaction of its own, as by :func:`fire_due` and :func:`run_transaction`.
    When no row is due, the worker sleeps until the next row is due by the database's clock, or for *every*, if
    that is sooner. With ``every=None`` it processes the due rows once and returns. Any number of workers can run at
    once.

    The worker stops after its batch when ``stop()`` is true. Without *stop*, in the main thread, SIGTERM and SIGINT
    stop it; a second signal has its usual effect. *ready_file* is touched after each batch, and removed at the end and
    while the database cannot be used.

    The worker waits, by stamina's retries, while a connection is lost, a server is read-only or fails over, or a lock
    times out. A row on which the server or a hook fails is reported and tried again in the next round; the others move.
    The logger ``sqlalchemy_fsm_mysql.due`` has a line at INFO for each batch, and one at WARNING for each such row and
    each wait.

    *sessions* is a ``sessionmaker`` or an ``Engine``. With an ``async_sessionmaker`` or an ``AsyncEngine``, await the
    call.

    Raises: TypeError and ValueError as :func:`fire_due`, and for an *every* that is not a positive timedelta; and the
    errors that do not belong to one row, such as a missing table.
    """
    if not is_number_of_rows(limit):
        raise ValueError(f"limit={shown(limit)}; it must be a number of rows, at least 1")
    given: object = every
    if given is not None and (not isinstance(given, timedelta) or given <= timedelta(0)):
        raise ValueError(f"every={shown(every)}; it must be a timedelta above 0, or None for one round")
    mapped, names = timed_events(model, event, column)
    ready = None if ready_file is None else Path(ready_file)
    # The rounds check these, too; here a wrong call fails before it connects.
    attribution = Attribution(actor, details).checked(mapped)
    list(given_rows(mapped, criteria))
    worker = _Worker(mapped, names, criteria, attribution, every, limit, Signals() if stop is None else stop, ready)
    return _run_async(worker, sessions) if is_async_factory(sessions) else _run(worker, sessions)


@dataclass
class _Worker:
    """One call of :func:`run_due`: its arguments, and what it has done so far."""

    mapped: MappedState
    names: Sequence[str]
    criteria: Sequence[Any]
    attribution: Attribution
    every: timedelta | None
    limit: int
    stop: Stop
    ready: Path | None
    by_transition: Counter[tuple[Any, Any]] = field(default_factory=Counter)
    errors: dict[tuple[Any, Any], FireError] = field(default_factory=dict)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """The block of the whole run."""
        with self.stop.listening() if isinstance(self.stop, Signals) else _nothing():
            try:
                yield
            finally:
                self._unready()

    def steps(self) -> Generator[Step, Any, None]:
        """The steps of the run. The result of a step is sent back, and its error is thrown in."""
        while not self.stop():
            due = Round(self.mapped, self.names, self.criteria, self.attribution)
            began, moved = (yield _now), 0
            while not due.is_over and moved < _ROUND and not self.stop():
                moved += yield from self._batch(due)
                self._show_ready()
            if due.is_over and self.every is None:
                return
            if due.is_over and not self.stop():
                yield (yield partial(self._until_next, due=due, began=began))

    def _batch(self, due: Round) -> Generator[Step, Any, int]:
        """One batch; where something but the server fails on a row, such as a hook, the batch row by row."""
        progress = due.saved()
        try:
            rows = yield self._fire(due, self.limit)
        except Exception as error:  # a hook may raise anything
            progress()
            if is_outage(error):
                raise
        else:
            return self._note(rows)
        moved = 0
        for _ in range(self.limit):
            if due.is_over or self.stop():
                break
            before = {lane.name: lane.beyond for lane in due.lanes}
            try:
                moved += self._note((yield self._fire(due, 1)))
            except Exception as error:
                # Without an advance, no row was locked: the error is not of a row.
                at = next((lane for lane in due.lanes if lane.beyond not in (None, before[lane.name])), None)
                if at is None or is_outage(error):
                    raise
                self._report(self._failed(at, error))
        return moved

    def _fire(self, due: Round, limit: int) -> Callable[[Place], MovedRows[Any]]:
        restore = due.saved()

        def fire(place: Place) -> MovedRows[Any]:
            restore()  # of an attempt that was rolled back
            began = time.monotonic()
            rows = fire_round(due, place, limit)
            if rows.moved or rows.errors:
                _log_batch(self.mapped, rows, due.lateness, time.monotonic() - began)
            return rows

        return fire

    def _note(self, rows: MovedRows[Any]) -> int:
        self.by_transition.update(rows.by_transition)
        for error in rows.errors:
            self._report(error)
        return rows.moved

    def _failed(self, lane: Lane, error: Exception) -> FireError:
        key = plain_key((lane.beyond or ())[1:])
        row = {"model": self.mapped.model, "table": self.mapped.table_name, "key": key, "event": lane.event}
        failed = RowFailed(**row)
        failed.__cause__ = error
        return failed

    def _report(self, error: FireError) -> None:
        """Log the error of a row, once for each row."""
        at = (error.event, error.key)
        if at in self.errors:
            return
        cause = error.__cause__
        log.warning(
            "%s", escaped(f"{error} ({type(cause).__name__})"), exc_info=None if _is_of_a_driver(cause) else cause
        )
        if len(self.errors) < _REPORTED:
            self.errors[at] = error

    def _until_next(self, place: Place, due: Round, began: datetime) -> float:
        """The seconds until the next row is due: one that became due after *began*, when the round began, or later.

        Rows that were due before were moved, or failed, or another worker holds them: they wait for the next round.
        """
        now = _now(place)
        longest = (self.every or timedelta(0)).total_seconds()
        waits = [longest]
        for lane in due.lanes:
            event = self.mapped.event(lane.event)
            assert event.due is not None
            moment: Any = type_coerce(event.due.moment, Timestamp())
            later = moment > literal(began - event.due.interval, Timestamp())
            given = map(without_locks, given_rows(self.mapped, self.criteria))
            query = select(moment).where(is_in(event.row.state, lane.source), later, *given)
            first = place.execute(query.order_by(event.due.moment).limit(1)).scalar()
            if first is not None:
                waits.append((first + event.due.interval - now).total_seconds())
        return max(_PAUSE, min(waits))

    def waits_out(self, error: Exception) -> bool:
        """Whether to try the step again after *error*, which it logs."""
        if not is_outage(error) or self.stop():
            return False
        self._unready()
        log.warning("%s", escaped(f"{self.mapped.table_name}: waiting for the database ({_name(error)})"))
        return True

    def _show_ready(self) -> None:
        if self.ready is not None:
            self.ready.touch()

    def _unready(self) -> None:
        if self.ready is not None:
            self.ready.unlink(missing_ok=True)

    def result(self) -> MovedRows[Any]:
        """The moves of the whole run, and the errors of rows that it has met."""
        total = self.by_transition.total()
        errors = tuple(self.errors.values())
        return MovedRows(self.mapped.model, ", ".join(self.names), total, dict(self.by_transition), errors)


class _Course:
    """The steps of a worker, one at a time. Each step is given the result or the error of the one before."""

    def __init__(self, worker: _Worker) -> None:
        self._worker, self._steps = worker, worker.steps()
        self._go: Callable[[], Step] | None = partial(next, self._steps)

    def next(self) -> Step | None:
        """The next step; None at the end of the run."""
        try:
            return None if self._go is None else self._go()
        except StopIteration:
            return None

    def done(self, result: Any) -> None:
        self._go = partial(self._steps.send, result)

    def failed(self, error: Exception) -> None:
        # A worker that is to stop does not wait for a database that is away.
        is_over = self._worker.stop() and is_outage(error)
        self._go = None if is_over else partial(self._steps.throw, error)


def is_outage(error: BaseException) -> bool:
    """Whether *error* is due to a database that cannot be used now, and that may be back soon."""
    if isinstance(error, (TransactionAborted, LockTimeout, NotWritable, OutcomeUnknown, PoolTimeout)):
        return True
    passing = (Meaning.ABORTED, Meaning.LOCK_TIMEOUT, Meaning.NOT_WRITABLE, Meaning.LOST)
    return isinstance(error, DBAPIError) and (meaning(error) in passing or is_unreachable(error))


def _run(worker: _Worker, sessions: Any) -> MovedRows[Any]:
    import stamina  # as in orm.units

    def execute(step: Step) -> Any:
        if isinstance(step, (int, float)):
            end = time.monotonic() + step
            while not worker.stop() and (left := end - time.monotonic()) > 0:
                time.sleep(min(left, _GLANCE))
            return None
        for attempt in stamina.retry_context(on=worker.waits_out, attempts=None, timeout=None, **_WAITS):
            with attempt:
                return run_transaction(sessions, step, idempotent=True)
        return None

    with worker.at_work():
        course = _Course(worker)
        while (step := course.next()) is not None:
            try:
                course.done(execute(step))
            except Exception as error:  # noqa: BLE001 - the steps decide
                course.failed(error)
    return worker.result()


async def _run_async(worker: _Worker, sessions: Any) -> MovedRows[Any]:
    import stamina

    async def execute(step: Step) -> Any:
        if isinstance(step, (int, float)):
            end = time.monotonic() + step
            while not worker.stop() and (left := end - time.monotonic()) > 0:  # noqa: ASYNC110 - the stop is a flag
                await asyncio.sleep(min(left, _GLANCE))
            return None

        async def work(place: Any) -> Any:
            return await place.run_sync(step)

        async for attempt in stamina.retry_context(on=worker.waits_out, attempts=None, timeout=None, **_WAITS):
            with attempt:
                return await run_transaction(sessions, work, idempotent=True)
        return None

    with worker.at_work():
        course = _Course(worker)
        while (step := course.next()) is not None:
            try:
                course.done(await execute(step))
            except Exception as error:  # noqa: BLE001 - the steps decide
                course.failed(error)
    return worker.result()


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _now(place: Place) -> datetime:
    now: datetime = place.execute(select(type_coerce(utc_now(), Timestamp()))).scalar_one()
    return now


def _log_batch(mapped: MappedState, rows: MovedRows[Any], lateness: timedelta, took: float) -> None:
    edges = [
        f"{stored_form(source)} to {stored_form(target)}: {n}" for (source, target), n in rows.by_transition.items()
    ]
    failed = f", {counted(len(rows.errors), 'row')} failed" if rows.errors else ""
    text = (
        f"{mapped.table_name}: {counted(rows.moved, 'row')} moved{failed}, up to {lateness.total_seconds():.3f} s after"
    )
    text += f" they were due, in {took:.3f} s{f' ({chr(44).join(edges)})' if edges else ''}"
    fields = {"fsm_rows": rows.moved, "fsm_failed": len(rows.errors), "fsm_lateness": lateness.total_seconds()}
    log.info("%s", escaped(text), extra=fields)


def _is_of_a_driver(error: BaseException | None) -> bool:
    """Whether *error* comes from the database: its message can contain values, and its traceback tells nothing."""
    return error is None or isinstance(error, (DBAPIError, FireError))


def _name(error: Exception) -> str:
    code = getattr(error, "code", None)
    return f"{type(error).__name__}{f', error {code}' if isinstance(code, int) else ''}"
