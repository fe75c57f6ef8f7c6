"""The processes of the demo. Each has an engine and a connection of its own; they share only the table."""

from __future__ import annotations

import multiprocessing
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event as Signal
from typing import Any

from sqlalchemy import URL, Engine, Select, create_engine, event, select
from sqlalchemy.orm import Session

from ..databases import is_embedded
from ..errors import LockTimeout, TransactionAborted
from ..orm.calls import try_fire_key
from ..outcomes import Moved, Refused
from . import naive
from .check import Stored, Tally
from .orders import Order

# Mostly to and fro between Running and Error; now and then an order is stopped, and deleted a little later.
WEIGHTS = {"NotReady": 40, "Ready": 50, "Stop": 4, "Delete": 6}

REPORT_EVERY = 0.1  # seconds
START_WITHIN = 120.0  # seconds, for all processes to import and connect
END_WITHIN = 60.0  # seconds, for the last fire of each process: as long as a lock may take


@dataclass(frozen=True, slots=True)
class Task:
    """The orders of one process: the database and the time. It starts at `go`, and ends early at `enough`."""

    name: str
    url: URL
    seconds: float
    go: Signal
    enough: Signal


@dataclass(frozen=True, slots=True)
class Ready:
    """A process is connected and waits for the start."""


@dataclass(frozen=True, slots=True)
class Done:
    """A process has sent its last report."""


@dataclass(frozen=True, slots=True)
class Broken:
    """An error that a process does not expect has ended it."""

    problem: str


def make_engine(url: URL) -> Engine:
    """An engine as the demo's processes use it: READ COMMITTED on a server; WAL and patience on SQLite."""
    if not is_embedded(url):
        return create_engine(url, isolation_level="READ COMMITTED")
    # SQLite lets one process write at a time; the others wait for up to this many seconds.
    engine = create_engine(url, connect_args={"timeout": END_WITHIN / 2})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:  # Any: a driver's connection
        # With a write-ahead log the watching process reads without waiting for the writers, and they write
        # without waiting. The file is thrown away afterwards, so no fire need wait for the disk.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")

    return engine


def live_orders(since: int = 0) -> Select[Any]:
    """The keys of the orders that are not deleted, from the key *since* on."""
    return select(Order.id).where(Order.id >= since, Order.state != "Deleted").order_by(Order.id)


def stored_orders(engine: Engine) -> dict[int, Stored]:
    """Every order as it is stored."""
    with engine.connect() as connection:
        rows = connection.execute(select(Order.id, Order.state, Order.steps, Order.naive_steps))
        return {key: Stored(state, steps, naive_steps) for key, state, steps, naive_steps in rows}


@dataclass(slots=True)
class Race:
    """The running processes, and their reports so far."""

    workers: dict[Connection, BaseProcess]
    go: Signal
    enough: Signal
    tally: Tally = field(default_factory=Tally)
    ready: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        return not self.workers

    def receive(self, seconds: float) -> None:
        """Add the reports that arrive within *seconds*; return sooner when all processes have ended."""
        until = time.monotonic() + seconds
        while self.workers and (left := until - time.monotonic()) > 0:
            for connection in wait(list(self.workers), left):
                self._take(connection)  # type: ignore[arg-type]  # wait() gives back what it was given

    def _take(self, connection: Connection) -> None:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            process = self.workers[connection]
            process.join(5)
            message = Broken(f"{process.name} ended without a report (exit code {process.exitcode})")
        if isinstance(message, Tally):
            self.tally.add(message)
        elif isinstance(message, Ready):
            self.ready += 1
        else:
            if isinstance(message, Broken):
                self.problems.append(message.problem)
                self.enough.set()
            self.workers.pop(connection)


@contextmanager
def racing(url: URL, workers: int, seconds: float) -> Iterator[Race]:
    """Start the processes. They wait until `go` is set, then fire for *seconds*, or until `enough` is set."""
    context = multiprocessing.get_context("spawn")
    go, enough = context.Event(), context.Event()
    started: dict[Connection, BaseProcess] = {}
    processes = []
    for number in range(1, workers + 1):
        here, there = context.Pipe(duplex=False)
        task = Task(f"process {number}", url, seconds, go, enough)
        process = context.Process(target=run, args=(task, there), name=task.name, daemon=True)
        with _deaf_to_ctrl_c():
            process.start()
        there.close()
        started[here] = process
        processes.append((process, here))
    try:
        yield Race(started, go, enough)
    finally:
        enough.set()
        go.set()
        for process, here in processes:
            here.close()  # a process that still reports gets a BrokenPipeError, and ends
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Ignore SIGINT, and have a process that is started now ignore it: the watching process ends the race."""
    if (
        threading.current_thread() is not threading.main_thread()
    ):  # Python lets only the main thread set a signal's handler
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run(task: Task, reports: Connection) -> None:
    """The main function of a process."""
    with suppress(BrokenPipeError):
        try:
            _race(task, reports)
        except Exception as error:  # noqa: BLE001 - the report needs every error
            reports.send(Broken(f"{task.name} ended by {type(error).__name__}: {first_line(error)}"))
        else:
            reports.send(Done())


def _race(task: Task, reports: Connection) -> None:
    dice = random.Random()
    engine = make_engine(task.url)
    with Session(engine) as session:
        live = _live(session)
        reports.send(Ready())
        if not task.go.wait(START_WITHIN):
            return
        tally, end = Tally(), time.monotonic() + task.seconds
        report_at = time.monotonic() + dice.uniform(0, REPORT_EVERY)
        while (now := time.monotonic()) < end and not task.enough.is_set():
            (name,) = dice.choices(list(WEIGHTS), list(WEIGHTS.values()))
            key = dice.choice(live)
            tally.naive_moved += naive.fired(session, key, name)
            if _fired(session, key, name, tally):
                live = _live(session, since=live[0])
            if now >= report_at:
                reports.send(tally)
                tally, report_at = Tally(), now + REPORT_EVERY
        reports.send(tally)
    engine.dispose()


def _live(session: Session, since: int = 0) -> Sequence[int]:
    keys = session.scalars(live_orders(since)).all()
    session.commit()
    return keys


def _fired(session: Session, key: int, name: str, tally: Tally) -> bool:
    """Fire the event *name* on the order and count the outcome. Whether the order is deleted now."""
    outcome = _again_until_committed(session, lambda: _unit_of_work(session, key, name), tally)
    if isinstance(outcome, Refused):
        tally.refused[name, str(outcome.state)] += 1
        return outcome.state == "Deleted"
    tally.steps[key, (name, str(outcome.source), str(outcome.target))] += 1
    return outcome.target == "Deleted"


def _unit_of_work(session: Session, key: int, name: str) -> Moved[Order] | Refused[Order]:
    outcome = try_fire_key(Order, key, name, session)
    # Several processes may delete an order at once. Only one of them gets the outcome that moved it.
    if isinstance(outcome, Moved) and outcome.changed and outcome.target == "Deleted":
        session.add(Order())
    session.commit()
    return outcome


def _again_until_committed(
    session: Session, work: Callable[[], Moved[Order] | Refused[Order]], tally: Tally
) -> Moved[Order] | Refused[Order]:
    while True:
        try:
            return work()
        except (TransactionAborted, LockTimeout) as error:
            session.rollback()
            if not getattr(error, "retryable", True):
                raise
            tally.again += 1


def first_line(error: BaseException) -> str:
    """The first line of the message of *error*, before the SQL that SQLAlchemy adds."""
    return (str(error).splitlines() or [""])[0]
