"""One packet and the Coalescer, beside the ways of a session, the lock pattern, and a queue in front of the database.

    python -m benchmarks.packets mysql+mysqldb://root@127.0.0.1:3306/test [--seconds 3] [--only far] [--charts docs/images]

The database of the URL is written to: tables bench_packet_… are dropped and created. A durable server gives the figures
that matter. The ways take turns in each round; printed are the median rates, the ratios within a round, and whether the
rows were moved as often as the callers were told. Parts: `far` (a hot row, 8 processes, 1 ms of round trip, with a
history), `rows` (10,000 rows), `hot` (one row), `open` (1,000 fires a second, whatever the answers take).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import multiprocessing
import random
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, literal_column, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Coalescer,
    Event,
    Machine,
    StateMachineColumn,
    TransitionHistory,
    commit_with_fire_key,
    fire_key,
)

from .delay import delayed
from .page import draw

PROCESSES, TASKS, ROWS, RATE, BATCH = 8, 512, 10_000, 1_000, 128
ASYNC_DRIVER = "asyncmy"
TARGETS = {"Ready": "Running", "NotReady": "Error"}


class Base(DeclarativeBase):
    """The tables of the benchmark; each UPDATE of a row adds one to its `steps`."""


def machine() -> Machine:
    return Machine(
        initial="Running",
        events=[Event(name, dict.fromkeys(("Running", "Error"), target)) for name, target in TARGETS.items()],
    )


class Plain(Base):
    __tablename__ = "bench_packet_plain"
    id: Mapped[int] = mapped_column(primary_key=True)
    steps: Mapped[int] = mapped_column(default=0, onupdate=literal_column("bench_packet_plain.steps + 1"))
    state: Mapped[str] = StateMachineColumn(machine())


class Recorded(Base):
    __tablename__ = "bench_packet_recorded"
    id: Mapped[int] = mapped_column(primary_key=True)
    steps: Mapped[int] = mapped_column(default=0, onupdate=literal_column("bench_packet_recorded.steps + 1"))
    state: Mapped[str] = StateMachineColumn(machine())


class RecordedStep(TransitionHistory, Base):
    __tablename__ = "bench_packet_steps"
    __records__ = "Recorded.state"


# The same row, without a machine: the lock pattern assigns the state, and adds a history row by itself.
class LockedBase(DeclarativeBase):
    """The lock pattern's own mapping of the same tables."""


class Locked(LockedBase):
    __tablename__ = "bench_packet_recorded"
    id: Mapped[int] = mapped_column(primary_key=True)
    steps: Mapped[int]
    state: Mapped[str]


NUMBERED = text(
    "INSERT INTO bench_packet_steps (record_id, sequence, event, source, target, at) "
    "SELECT :key, COALESCE(MAX(sequence), 0) + 1, :event, :source, :target, UTC_TIMESTAMP(6) "
    "FROM bench_packet_steps WHERE record_id = :key"
)


def engine_of(url: str, **options: Any) -> Engine:
    return create_engine(url, **{"isolation_level": "READ COMMITTED"} | options)


def autocommit(url: str, **options: Any) -> Engine:
    return create_engine(url, isolation_level="AUTOCOMMIT", skip_autocommit_rollback=True, **options)


Fire = Callable[[str, int], None]


def by_lock(url: str) -> Fire:
    """SELECT … FOR UPDATE, assign, add the history row, COMMIT: four round trips."""
    session = Session(engine_of(url))

    def fire(event: str, key: int) -> None:
        row = session.get_one(Locked, key, with_for_update=True)
        source, row.state = row.state, TARGETS[event]
        row.steps += 1
        session.flush()
        session.execute(NUMBERED, {"key": key, "event": event, "source": source, "target": row.state})
        session.commit()

    return fire


def by_session(url: str) -> Fire:
    """`fire_key` in a session, and COMMIT: three round trips with a history."""
    session = Session(engine_of(url))

    def fire(event: str, key: int) -> None:
        fire_key(Recorded, key, event, session)
        session.commit()

    return fire


def by_end(url: str) -> Fire:
    """`commit_with_fire_key` in a session, with `fsm_one_packet`: one round trip, and the pool's ROLLBACK after it."""
    session = Session(engine_of(url, execution_options={"fsm_one_packet": True}))
    return lambda event, key: commit_with_fire_key(Recorded, key, event, session) and None


def by_packet(url: str) -> Fire:
    """`fire_key` on a Connection in AUTOCOMMIT, with `fsm_one_packet`: one round trip."""
    connection = autocommit(url, execution_options={"fsm_one_packet": True}).connect()
    return lambda event, key: fire_key(Recorded, key, event, connection) and None


def by_autocommit(url: str) -> Fire:
    """`fire_key` on a Connection in AUTOCOMMIT, without a history: one statement."""
    connection = autocommit(url).connect()
    return lambda event, key: fire_key(Plain, key, event, connection) and None


# --- ways of several processes


def worker(way: Callable[[str], Fire], url: str, rows: int, begin: float, seconds: float, told: Any) -> None:
    fire, dice, moves = way(url), random.Random(), 0
    fire("Ready", dice.randint(1, rows))
    time.sleep(max(0.0, begin - time.time()))
    while time.time() < begin + seconds:
        fire(dice.choice(("Ready", "NotReady")), dice.randint(1, rows))
        moves += 1
    told.put((moves, moves + 1))


def crowd(way: Callable[[str], Fire], processes: int = PROCESSES) -> Callable[[str, int, float], tuple[float, int]]:
    """Moves a second of *processes* that fire by *way*, and all moves."""

    def run(url: str, rows: int, seconds: float) -> tuple[float, int]:
        context = multiprocessing.get_context("fork")
        told, begin = context.Queue(), time.time() + 1.5
        crew = [context.Process(target=worker, args=(way, url, rows, begin, seconds, told)) for _ in range(processes)]
        for process in crew:
            process.start()
        answers = [told.get() for _ in crew]
        for process in crew:
            process.join()
        return sum(moves for moves, _ in answers) / seconds, sum(every for _, every in answers)

    return run


def packets_by_hand(url: str, rows: int, seconds: float) -> tuple[float, int]:
    """128 UPDATEs and their COMMIT in one packet by mysqlclient, without outcomes, and all moves."""
    import MySQLdb
    from MySQLdb.constants import CLIENT

    at = make_url(url)
    driver = MySQLdb.connect(
        host=at.host or "", port=at.port or 3306, user=at.username or "", password=at.password or "",
        database=at.database or "", client_flag=CLIENT.MULTI_STATEMENTS,
    )  # fmt: skip
    cursor, dice, moves, begin = driver.cursor(), random.Random(), 0, time.perf_counter()
    update = f"UPDATE {Plain.__tablename__} SET steps = steps + 1, state = CASE state WHEN %s THEN %s ELSE %s END WHERE id = %s"
    while time.perf_counter() < begin + seconds:
        targets = [dice.choice(("Running", "Error")) for _ in range(BATCH)]
        keys = sorted(dice.randint(1, rows) for _ in range(BATCH))
        values = [value for pair in zip(targets, keys, strict=True) for value in (pair[0], pair[0], pair[0], pair[1])]
        cursor.execute("; ".join(["BEGIN", *[update] * BATCH, "COMMIT"]), values)
        while cursor.nextset():
            pass
        moves += BATCH
    took = time.perf_counter() - begin
    driver.close()
    return moves / took, moves


# --- ways of one asyncio process


def tasks(
    work: Callable[[str], Any], number: int = TASKS, model: type[Any] = Plain
) -> Callable[[str, int, float], tuple[float, int]]:
    """Moves a second of *number* tasks in one process, which fire by the coroutine function that *work* opens."""

    async def race(url: str, rows: int, seconds: float) -> tuple[float, int]:
        async with work(url) as fire:
            moves, end = 0, time.perf_counter() + seconds

            async def caller() -> None:
                nonlocal moves
                dice = random.Random()
                while time.perf_counter() < end:
                    await fire(model, dice.randint(1, rows), dice.choice(("Ready", "NotReady")))
                    moves += 1

            began = time.perf_counter()
            await asyncio.gather(*(caller() for _ in range(number)))
            return moves / (time.perf_counter() - began), moves

    return lambda url, rows, seconds: asyncio.run(race(url, rows, seconds))


def async_url(url: str) -> Any:
    return make_url(url).set(drivername=f"mysql+{ASYNC_DRIVER}")


class Coalescing:
    """A Coalescer, opened and closed with its engine."""

    def __init__(self, url: str) -> None:
        self.engine = create_async_engine(async_url(url))
        self.fires = Coalescer(self.engine)

    async def __aenter__(self) -> Any:
        return self.fires.fire_key

    async def __aexit__(self, *_: object) -> None:
        await self.fires.aclose()
        await self.engine.dispose()


class Queued:
    """A queue in front of the database: one worker takes a fire after the other, each with a COMMIT of its own."""

    def __init__(self, url: str) -> None:
        self.engine = create_async_engine(async_url(url))
        self.queue: asyncio.Queue[Any] = asyncio.Queue()

    async def __aenter__(self) -> Any:
        self.task = asyncio.create_task(self.work())
        return self.fire

    async def fire(self, model: Any, key: int, event: str) -> Any:
        future = asyncio.get_running_loop().create_future()
        self.queue.put_nowait((model, key, event, future))
        return await future

    async def work(self) -> None:
        async with AsyncSession(self.engine) as session:
            while True:
                model, key, event, future = await self.queue.get()
                moved = await fire_key(model, key, event, session)
                await session.commit()
                future.set_result(moved)

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.engine.dispose()


# --- the parts


def fill(engine: Engine, rows: int) -> None:
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        for model in (Plain, Recorded):
            values = [{"id": key, "state": "Running", "steps": 0} for key in range(1, rows + 1)]
            connection.execute(model.__table__.insert(), values)  # type: ignore[attr-defined]


def moved(engine: Engine) -> int:
    """How often rows were moved, by their own count."""
    with engine.connect() as connection:
        return sum(int(connection.scalar(select(literal_column(f"SUM(steps) FROM {t}"))) or 0) for t in TABLES)


TABLES = (Plain.__tablename__, Recorded.__tablename__)
Way = Callable[[str, int, float], tuple[float, int]]


def part(url: str, at: str, ways: Mapping[str, Way], rows: int, rounds: int, seconds: float) -> dict[str, float]:
    """Print the rates of *ways*, in turns, and the ratio of the last one to each; return the median rates."""
    engine, rates, order = engine_of(url), {name: [] for name in ways}, list(ways)  # type: ignore[var-annotated]
    wrong = 0
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            fill(engine, rows)
            rate, every = ways[name](at, rows, seconds)
            rates[name].append(rate)
            wrong += every != moved(engine)
    last = list(ways)[-1]
    for name, values in rates.items():
        ratios = [mine / other for mine, other in zip(rates[last], values, strict=True)]
        spread = f"({min(ratios):.2f}-{max(ratios):.2f})"
        print(
            f"  {name:58s} {statistics.median(values):7.0f}/s   {statistics.median(ratios):5.2f} × {spread}", flush=True
        )
    print(f"  runs in which the rows count other moves than the callers: {wrong}", flush=True)
    engine.dispose()
    return {name: statistics.median(values) for name, values in rates.items()}


def far(url: str, rounds: int, seconds: float) -> dict[str, float]:
    print(f"a hot row with a history, {PROCESSES} processes, 1 ms of round trip; the packet's rate of each")
    ways = {
        "lock pattern with a history": crowd(by_lock),
        "fire_key in a session": crowd(by_session),
        "commit_with_fire_key in a session": crowd(by_end),
    }
    with delayed(url, 0.001) as slow:
        return part(url, slow, ways | {"fire_key in one packet": crowd(by_packet)}, 1, rounds, seconds)


def some_rows(url: str, rows: int, rounds: int, seconds: float) -> dict[str, float]:
    print(f"{rows} row{'s' * (rows > 1)}; the Coalescer's rate of each")
    ways: dict[str, Way] = {
        f"fire_key in AUTOCOMMIT, {PROCESSES} processes": crowd(by_autocommit),
        "fire_key in AUTOCOMMIT, 1 process": crowd(by_autocommit, 1),
        "a queue and one worker, 1 asyncio process": tasks(Queued),
        f"packets of {BATCH} by mysqlclient, by hand, 1 process": packets_by_hand,
        "Coalescer with a history, 1 asyncio process": tasks(Coalescing, model=Recorded),
        "Coalescer, 1 asyncio process": tasks(Coalescing),
    }
    return part(url, url, ways, rows, rounds, seconds)


def open_loop(url: str, seconds: float) -> None:
    """Begin RATE fires a second on 10,000 rows, whatever the answers take; print how long a caller waits."""
    engine = engine_of(url)
    fill(engine, ROWS)
    engine.dispose()

    async def run() -> list[float]:
        took: list[float] = []
        async with Coalescing(url) as fire:
            started, dice = [], random.Random()

            async def caller(due: float) -> None:
                await fire(Plain, dice.randint(1, ROWS), dice.choice(("Ready", "NotReady")))
                took.append(time.perf_counter() - due)

            begin = time.perf_counter() + 0.1
            for number in itertools.count():
                due = begin + number / RATE
                if number >= RATE * seconds:
                    break
                pause = due - time.perf_counter()
                if pause > 0:
                    await asyncio.sleep(pause)
                started.append(asyncio.create_task(caller(due)))
            await asyncio.gather(*started)
        return sorted(took)

    took = asyncio.run(run())
    at = {share: took[min(len(took) - 1, int(len(took) * share))] * 1e3 for share in (0.5, 0.99, 0.999)}
    print(
        f"open loop, {RATE} fires/s, {len(took)} fires: p50 {at[0.5]:.1f} ms, p99 {at[0.99]:.1f} ms, p99.9 {at[0.999]:.1f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="far,rows,hot,open")
    parser.add_argument("--charts", type=Path, help="a folder for the charts of docs/performance.md")
    given = parser.parse_args()
    parts = given.only.split(",")
    with engine_of(given.url).connect() as connection:
        version = connection.scalar(
            text(
                "SELECT CONCAT(VERSION(), ' flush=', @@innodb_flush_log_at_trx_commit, ' sync_binlog=', @@sync_binlog)"
            )
        )
    print(f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} {version}")
    if "far" in parts:
        rates = far(given.url, given.rounds, given.seconds)
        if given.charts:
            draw(given.charts / "performance-packet.svg", rates, "moves a second on one row, 8 processes, 1 ms away")
    if "rows" in parts:
        rates = some_rows(given.url, ROWS, given.rounds, given.seconds)
        if given.charts:
            draw(given.charts / "performance-coalescer.svg", rates, f"moves a second on {ROWS:,} rows")
    if "hot" in parts:
        some_rows(given.url, 1, given.rounds, given.seconds)
    if "open" in parts:
        for _ in range(given.rounds):
            open_loop(given.url, given.seconds * 3)


if __name__ == "__main__":
    main()
