"""Changing a state column of two million rows under a writer: how long an append takes, and what stalls the writer.

    python benchmarks/changing_states.py mysql+mysqldb://root@127.0.0.1:3306/test [--rows 2000000] [--move 300000]
                                         [--rounds 3]

The database of the URL is written to: tables bench_… are dropped and created. Another process fires events on random
rows, one after the other, and notes how long each took. Printed are its slowest fires while states are appended, then in
turns alone and while rows are migrated in batches without and with a history, and last while one UPDATE does the same.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import random
import statistics
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event as Flag
from typing import Any

from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Engine, String, create_engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import sqlalchemy_fsm_mysql.alembic  # noqa: F401 - brings the operations
from sqlalchemy_fsm_mysql import Event, Machine, StateMachineColumn, TransitionHistory, fire_key

machine = Machine(
    initial="Running",
    events=[
        Event("Turn", {"Running": "Stopped", "Stopped": "Running", "Error": "Error", "Failed": "Failed"}),
        Event("Fail", {"Running": "Error"}),
    ],
    states=["Running", "Stopped", "Error", "Failed"],
    retired=["Failed"],
)


class Base(DeclarativeBase):
    """The tables of the benchmark."""


class Job(Base):
    __tablename__ = "bench_jobs"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)
    note: Mapped[str] = mapped_column(String(40))


class JobTransition(TransitionHistory, Base):
    """Written by the migration alone: the writer's model is Plain."""

    __tablename__ = "bench_job_transitions"
    __records__ = "Job.state"


class PlainBase(DeclarativeBase):
    """The same table without a history, so that the writer is as fast as can be."""


class Plain(PlainBase):
    __tablename__ = "bench_jobs"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)


def fill(engine: Engine, rows: int) -> None:
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO bench_jobs (id, state, note) VALUES (1, 'Running', REPEAT('x', 30))"))
    done = 1
    while done < rows:
        step = min(done, rows - done, 200_000)
        with engine.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO bench_jobs (id, state, note) "
                    "SELECT id + :done, 'Running', note FROM bench_jobs WHERE id <= :step"
                ),
                {"done": done, "step": step},
            )
        done += step


def set_error(engine: Engine, rows: int, move: int) -> None:
    """Spread *move* rows in 'Error' over the table, and none in 'Failed'."""
    every = rows // move
    for start in range(0, rows, 100_000):
        with engine.begin() as connection:
            connection.execute(
                text(
                    "UPDATE bench_jobs SET state = IF(id % :every = 0, 'Error', 'Running') WHERE id > :a AND id <= :b"
                ),
                {"every": every, "a": start, "b": start + 100_000},
            )


def write(url: str, rows: int, ready: Flag, stop: Flag, latencies: Any) -> None:
    """Fire on random rows until told to stop; send the time of each fire, in seconds."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    found = []
    rng = random.Random(1)
    with Session(engine) as session:
        fire_key(Plain, 1, "Turn", session)
        ready.set()
        while not stop.is_set():
            key = rng.randint(1, rows)
            start = time.perf_counter()
            fire_key(Plain, key, "Turn", session)
            found.append(time.perf_counter() - start)
    latencies.put(found)
    engine.dispose()


def beside(url: str, rows: int, work: Callable[[], Any]) -> tuple[float, list[float]]:
    """How long *work* took, and each fire of the writer meanwhile."""
    context = multiprocessing.get_context("spawn")
    ready, stop, latencies = context.Event(), context.Event(), context.Queue()
    writer = context.Process(target=write, args=(url, rows, ready, stop, latencies))
    writer.start()
    ready.wait()
    time.sleep(0.2)
    start = time.perf_counter()
    work()
    took = time.perf_counter() - start
    stop.set()
    found = latencies.get()
    writer.join()
    return took, found


def told(what: str, took: float, found: list[float]) -> None:
    ordered = sorted(found)
    p999 = ordered[int(len(ordered) * 0.999)]
    slowest = ", ".join(f"{value * 1000:.0f}" for value in reversed(ordered[-3:]))
    print(
        f"{what:45} {took:7.2f} s   fires {len(found):7}   median {statistics.median(found) * 1000:.2f} ms   "
        f"99.9 % {p999 * 1000:.1f} ms   slowest {slowest} ms",
        flush=True,
    )


def migrating(engine: Engine, work: Callable[[Operations], None]) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        with context.begin_transaction(_per_migration=True):
            work(Operations(context))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--move", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=5000)
    options = parser.parse_args()
    logging.getLogger("alembic").setLevel(logging.ERROR)
    engine = create_engine(options.url, isolation_level="READ COMMITTED")
    with engine.connect() as connection:
        print(connection.execute(text("SELECT VERSION()")).scalar(), f"{options.rows} rows, {options.move} to move")
    fill(engine, options.rows)

    def measured(what: str, work: Callable[[], Any]) -> None:
        told(what, *beside(options.url, options.rows, work))

    def migrate(history: str | None) -> None:
        migrating(
            engine,
            lambda op: op.migrate_states(
                "bench_jobs", "state", {"Error": "Failed"}, batch_size=options.batch_size, history=history
            ),
        )

    for i in range(5):
        migrating_one = lambda op, i=i: op.add_states("bench_jobs", "state", [f"Added{i}"])  # noqa: E731
        measured(f"add_states, {i + 1}", lambda work=migrating_one: migrating(engine, work))
    for i in range(1, options.rounds + 1):
        measured(f"the writer alone, {i}", lambda: time.sleep(5))
        set_error(engine, options.rows, options.move)
        measured(f"migrate_states, {i}", lambda: migrate(None))
        set_error(engine, options.rows, options.move)
        measured(f"migrate_states with a history, {i}", lambda: migrate("bench_job_transitions"))
    set_error(engine, options.rows, options.move)

    def one_update() -> None:
        with engine.begin() as connection:
            connection.execute(text("UPDATE bench_jobs SET state = 'Failed' WHERE state = 'Error'"))

    measured("one UPDATE", one_update)
    Base.metadata.drop_all(engine)
    engine.dispose()


if __name__ == "__main__":
    main()
