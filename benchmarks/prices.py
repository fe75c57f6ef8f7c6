"""Prices of single calls beside the same work by hand: without a session, for sets and claims, units, upserts, histories.

Each work is timed in turns with its base, in one process. :func:`measured` returns the ratios of CPU and wall time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, String, case, func, insert, select, text, update
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from sqlalchemy_fsm_mysql import (
    Event,
    Machine,
    StateMachineColumn,
    claim,
    fire_key,
    fire_keys,
    fire_or_create,
    fire_where,
    run_transaction,
)

from . import tables
from .contestants import CONTESTANTS
from .rounds import compared, interleaved
from .tables import EVENTS

KEYS = 1000  # of one fire_keys
BATCH = 10  # rows of a claim, and of a set


class Base(DeclarativeBase):
    """The job table of the claims."""


class Job(Base):
    """A job table of 15 columns, as queues have it."""

    __tablename__ = "bench_jobs"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="available",
            events=[
                Event(
                    "Take",
                    {"available": "running"},
                    effect=lambda job, worker: {
                        "attempt": job.attempt + 1,
                        "attempted_at": func.now(),
                        "attempted_by": worker,
                        "heartbeat_at": func.now(),
                    },
                ),
                Event(
                    "Complete",
                    {"running": "completed"},
                    guard=lambda job, worker: job.attempted_by == worker,
                    effect=lambda job: {"finalized_at": func.now()},
                ),
            ],
        )
    )
    queue: Mapped[str] = mapped_column(String(20), default="default")
    priority: Mapped[int] = mapped_column(default=1)
    scheduled_at: Mapped[datetime] = mapped_column(default=datetime(2024, 1, 1))  # noqa: DTZ001 - as the column stores it
    attempt: Mapped[int] = mapped_column(default=0)
    max_attempts: Mapped[int] = mapped_column(default=5)
    attempted_at: Mapped[datetime | None]
    attempted_by: Mapped[str | None] = mapped_column(String(20))
    heartbeat_at: Mapped[datetime | None]
    finalized_at: Mapped[datetime | None]
    args: Mapped[str] = mapped_column(String(100), default="{}")
    meta: Mapped[str] = mapped_column(String(100), default="{}")
    kind: Mapped[str] = mapped_column(String(20), default="kind")
    errors: Mapped[str | None] = mapped_column(String(100))


JOBS: Any = Job.__table__


# --- one row


Ways = dict[str, Callable[[], Any]]


@contextmanager
def one_row(url: str) -> Iterator[tuple[Ways, dict[str, str]]]:
    """One fire and commit: on a Connection, in AUTOCOMMIT, in a session, with a history; each with its base by hand."""
    engine = tables.engine_of(url)
    tables.fill(engine, 100)
    bases = {
        "driver": "driver",
        "by_hand": "by_hand",
        "by_hand_connection": "by_hand",
        "fire_key": "by_hand",
        "fire_key_connection": "by_hand",
        "fire_key_connection_autocommit": "driver",
        "by_hand_history": "by_hand_history",
        "fire_key_history": "by_hand_history",
    }
    made = {name: CONTESTANTS[name](url) for name in bases}
    events = itertools.cycle(EVENTS)

    def firing(number: int, contestant: Any) -> Callable[[], None]:
        return lambda: contestant.fire(next(events), number)

    yield {name: firing(number, contestant) for number, (name, contestant) in enumerate(made.items(), start=1)}, bases
    for contestant in made.values():
        contestant.close()
    engine.dispose()


# --- many keys


def many_keys(url: str, *, rounds: int) -> dict[str, Any]:
    """`fire_keys` of 1,000 keys beside as many `fire_key` in one transaction; CPU of a row, without building instances."""
    engine = tables.engine_of(url)
    tables.fill(engine, KEYS)
    order = tables.model()
    events = itertools.cycle(EVENTS)

    def at_once() -> None:
        with engine.begin() as connection:
            fire_keys(order, range(1, KEYS + 1), next(events), connection)

    def in_a_session() -> None:
        with Session(engine) as session:
            fire_keys(order, range(1, KEYS + 1), next(events), session)
            session.commit()

    def one_by_one() -> None:
        event = next(events)
        with Session(engine) as session:
            for key in range(1, KEYS + 1):
                fire_key(order, key, event, session)
            session.commit()

    ways = {"one_by_one": one_by_one, "fire_keys": in_a_session, "fire_keys_connection": at_once}
    told = compared(interleaved(ways, rounds=rounds, calls=1), "one_by_one")
    engine.dispose()
    for each in told.values():
        each["cpu_of_a_row"] = each["cpu"] / KEYS
    return told


# --- sets and claims


def take_by_hand(session: Session) -> list[int]:
    free = (
        select(Job)
        .where(JOBS.c.state == "available", Job.queue == "default", Job.scheduled_at <= func.now())
        .order_by(Job.priority, Job.scheduled_at, Job.id)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    )
    ids = [job.id for job in session.scalars(free)]
    taken = {"state": "running", "attempt": JOBS.c.attempt + 1, "attempted_by": "worker"}
    times = {"attempted_at": func.now(), "heartbeat_at": func.now()}
    session.execute(update(JOBS).where(JOBS.c.id.in_(ids)).values(**taken, **times))
    return ids


def take_by_library(session: Session) -> list[int]:
    criteria = (Job.queue == "default", Job.scheduled_at <= func.now())
    order = [Job.priority, Job.scheduled_at, Job.id]
    return [job.id for job in claim(Job, "Take", session, *criteria, limit=BATCH, order_by=order, worker="worker")]


def finish_by_hand(session: Session, ids: list[int]) -> None:
    is_ours = JOBS.c.id.in_(ids), JOBS.c.state == "running", JOBS.c.attempted_by == "worker"
    session.execute(update(JOBS).where(*is_ours).values(state="completed", finalized_at=func.now()))


def finish_by_library(session: Session, ids: list[int]) -> None:
    fire_where(Job, "Complete", session, Job.id.in_(ids), worker="worker")


def fill_jobs(engine: Engine, rows: int) -> None:
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE INDEX bench_due ON bench_jobs (state, queue, priority, scheduled_at, id)"))
        connection.execute(insert(JOBS), [{"id": key} for key in range(1, rows + 1)])


@contextmanager
def small_sets(url: str, rows: int) -> Iterator[tuple[Ways, dict[str, str]]]:
    """`claim` of 10 with effects, and `fire_where` of the keys that it took, on a table of 15 columns."""
    engine = tables.engine_of(url)
    fill_jobs(engine, rows)
    taken: list[list[int]] = []

    def unit(work: Callable[[Session], Any]) -> Callable[[], None]:
        def run() -> None:
            with Session(engine, expire_on_commit=False) as session:
                ids = work(session)
                session.commit()
            if ids:
                taken.append(ids)

        return run

    yield (
        {
            "claim_by_hand": unit(take_by_hand),
            "claim": unit(take_by_library),
            "update_by_hand": unit(lambda session: finish_by_hand(session, taken.pop())),
            "fire_where": unit(lambda session: finish_by_library(session, taken.pop())),
        },
        {"claim": "claim_by_hand", "fire_where": "update_by_hand"},
    )
    Base.metadata.drop_all(engine)
    engine.dispose()


# --- units and upserts


@contextmanager
def units(url: str) -> Iterator[tuple[Ways, dict[str, str]]]:
    """`run_transaction` beside `with factory.begin()`, and `fire_or_create` beside Core's upsert; each with its COMMIT."""
    engine = tables.engine_of(url)
    tables.fill(engine, 10)
    order = tables.model()
    table: Any = order.__table__
    factory = sessionmaker(engine)
    events = itertools.cycle(EVENTS)

    def begin() -> None:
        with factory.begin() as session:
            fire_key(order, 1, next(events), session)

    def unit() -> None:
        run_transaction(factory, lambda session: fire_key(order, 2, next(events), session))

    def upsert() -> None:
        next(events)
        with factory.begin() as session:
            new = mysql.insert(table).values(id=3, state="Running", note="")
            state = case((table.c.state == "Error", "Running"), else_=table.c.state)
            session.execute(new.on_duplicate_key_update(state=state))

    def create() -> None:
        next(events)
        with factory.begin() as session:
            fire_or_create(order(id=4, note=""), "Ready", session)

    def create_by_values() -> None:
        next(events)
        with engine.begin() as connection:
            fire_or_create(order, {"id": 5, "note": ""}, "Ready", connection)

    ways = {
        "begin": begin,
        "run_transaction": unit,
        "upsert": upsert,
        "fire_or_create": create,
        "fire_or_create_connection": create_by_values,
    }
    bases = {"run_transaction": "begin", "fire_or_create": "upsert", "fire_or_create_connection": "upsert"}
    yield ways, bases
    engine.dispose()


def measured(url: str, *, rounds: int, calls: int) -> dict[str, Any]:
    """All prices on one server: of each way the figures, and its ratios to its base."""
    told: dict[str, Any] = {"many_keys": many_keys(url, rounds=max(3, rounds // 10))}
    with one_row(url) as (ways, bases):
        taken = interleaved(ways, rounds=rounds, calls=calls)
        told["one_row"] = compared(taken, bases)
        told["on_connections"] = compared(taken, "by_hand_connection")
    with units(url) as (ways, bases):
        told["units"] = compared(interleaved(ways, rounds=rounds, calls=calls), bases)
    with small_sets(url, 4 * BATCH * (rounds + 2)) as (ways, bases):
        pairs = [
            {name: ways[name] for name in pair}
            for pair in (("claim_by_hand", "claim"), ("update_by_hand", "fire_where"))
        ]
        told["small_sets"] = {}
        for pair in pairs:  # the claims first: they leave the rows for the others
            told["small_sets"] |= compared(interleaved(pair, rounds=rounds, calls=1), bases)
    return told
