"""A load of processes, not threads: each logs every attempt with its times and what it was told.

A `Team` is started once, because starting a process costs more than most races, and races as often as it is
asked to. The rows are the demo's orders: they count their own UPDATEs.
"""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event, select, update
from sqlalchemy.orm import Session

from sqlalchemy_fsm_mysql import LockTimeout, Moved, Refused, TransactionAborted, try_fire_key
from sqlalchemy_fsm_mysql.demo import Base, Order, machine
from tests.race.checker import Call, Evidence, Row

Unit = Callable[[Session, int, str, random.Random], "Moved[Order] | Refused[Order]"]

# For the whole race: the row goes to and fro, and 'Delete' is refused. In the last tenth it may be stopped
# for good.
TO_AND_FRO = {"NotReady": 9, "Ready": 9, "Delete": 2}
TO_THE_END = {"NotReady": 8, "Ready": 8, "Delete": 2, "Stop": 1}

START_WITHIN = 60.0  # seconds


@dataclass(frozen=True)
class Job:
    """What each process has to do: *fires* units of work on *keys*, however many attempts they take."""

    url: URL
    fires: int
    keys: Sequence[int]
    unit: Unit
    isolation_level: str | None = None


# --- units of work: each fires once and commits


def fire(session: Session, key: int, name: str, dice: random.Random) -> Moved[Order] | Refused[Order]:
    """By key, or on an instance that was read before and may be out of date by now."""
    if dice.random() < 0.5:
        outcome = try_fire_key(Order, key, name, session)
    else:
        order = session.get_one(Order, key)
        outcome = order.try_fire(name, session)
    session.commit()
    return outcome


def read_then_write(session: Session, key: int, name: str, dice: random.Random) -> Moved[Order] | Refused[Order]:
    """What people write without this library. It is wrong, so the checker must say so."""
    state = session.scalars(select(Order.state).where(Order.id == key)).one()
    target = machine.targets(name).get(state)
    if target is None:
        session.commit()
        return Refused(Order, key, name, state, "state")
    time.sleep(0.001)
    session.execute(update(Order).where(Order.id == key).values(state=target))
    session.commit()
    return Moved(Order, key, name, state, target)


# --- the team


class Team:
    """Processes that wait for jobs."""

    def __init__(self, members: dict[Connection, BaseProcess], barrier: Barrier) -> None:
        self.members, self.barrier = members, barrier

    def race(self, job: Job) -> list[Call]:
        """Have every process do *job*, all at once; everything they logged, by time.

        Raises: RuntimeError when a process ends, or fails with an error that is not the row's.
        """
        for connection in self.members:
            connection.send(job)
        answers = [self._answer(connection, process) for connection, process in self.members.items()]
        problems = [answer for answer in answers if isinstance(answer, str)]
        if problems:
            self.barrier.reset()
            raise RuntimeError("; ".join(problems))
        calls = [call for answer in answers if isinstance(answer, list) for call in answer]
        return sorted(calls, key=lambda call: call.begin)

    @staticmethod
    def _answer(connection: Connection, process: BaseProcess) -> list[Call] | str:
        try:
            answer: list[Call] | str = connection.recv()
        except (EOFError, ConnectionResetError):
            return f"{process.name} has died"
        return answer


@contextmanager
def team(size: int) -> Iterator[Team]:
    """*size* processes, ended with the block."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(size)
    members: dict[Connection, BaseProcess] = {}
    for number in range(size):
        here, there = context.Pipe()
        process = context.Process(target=work, args=(number, there, barrier), name=f"process {number}", daemon=True)
        process.start()
        there.close()
        members[here] = process
    try:
        yield Team(members, barrier)
    finally:
        for connection in members:
            connection.close()
        for member in members.values():
            member.join(10)
            if member.is_alive():
                member.kill()
                member.join()


def work(number: int, jobs: Connection, barrier: Barrier) -> None:
    """What a process of the team does: job after job, until nobody is there to give one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            job = jobs.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            answer: list[Call] | str = _do(number, job, barrier)
        except Exception as error:  # noqa: BLE001 - whatever it is, it has to be told
            answer = f"process {number}: {type(error).__name__}: {error}"
            barrier.abort()
        jobs.send(answer)


def _do(number: int, job: Job, barrier: Barrier) -> list[Call]:
    dice = random.Random(number)
    engine = make_engine(job.url, job.isolation_level)
    calls: list[Call] = []
    with Session(engine) as session:
        session.connection()
        session.rollback()
        barrier.wait(START_WITHIN)
        for i in range(job.fires):
            weights = TO_AND_FRO if i < job.fires * 0.9 else TO_THE_END
            (name,) = dice.choices(list(weights), list(weights.values()))
            key = dice.choice(job.keys)
            pause = 0.002
            while _attempt(number, job.unit, session, key, name, dice, calls):
                time.sleep(dice.uniform(0, pause))
                pause = min(2 * pause, 0.1)
    engine.dispose()
    return calls


def _attempt(
    number: int, unit: Unit, session: Session, key: int, name: str, dice: random.Random, calls: list[Call]
) -> bool:
    """Do *unit* once and log it; whether it has to be done again."""
    said: dict[str, Any] = {}
    begin = time.monotonic_ns()
    try:
        outcome = unit(session, key, name, dice)
    except (TransactionAborted, LockTimeout) as error:
        session.rollback()
        if not getattr(error, "retryable", True):
            raise
        said = {"outcome": "failed", "code": error.code}
    else:
        if isinstance(outcome, Moved):
            said = {
                "outcome": "moved",
                "source": outcome.source,
                "target": outcome.target,
                "sequence": outcome.sequence,
            }
        else:
            said = {"outcome": "refused", "state": outcome.state}
    calls.append(Call(number, begin, time.monotonic_ns(), key, name, **said))
    return calls[-1].outcome == "failed"


# --- the rows


def make_engine(url: URL, isolation_level: str | None = None) -> Engine:
    if url.get_backend_name() != "sqlite":
        return create_engine(url, isolation_level=isolation_level)
    # Eight writers take turns on the one lock that SQLite has, and the unlucky one waits long.
    engine = create_engine(url, connect_args={"timeout": 60})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")

    return engine


@contextmanager
def orders(url: URL, number: int) -> Iterator[list[int]]:
    """The keys of *number* new orders, in a table that goes with the block."""
    engine = make_engine(url)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    try:
        with Session(engine) as session:
            made = [Order() for _ in range(number)]
            session.add_all(made)
            session.flush()
            keys = [order.id for order in made]
            session.commit()
        yield keys
    finally:
        Base.metadata.drop_all(engine)
        engine.dispose()


def evidence(url: URL, calls: Sequence[Call]) -> Evidence:
    """*calls* with what is stored now."""
    engine = make_engine(url)
    with Session(engine) as session:
        rows = session.execute(select(Order.id, Order.state, Order.steps))
        stored = {key: Row(state, steps) for key, state, steps in rows}
    engine.dispose()
    return Evidence(machine, calls, stored)
