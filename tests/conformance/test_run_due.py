"""``run_due``: the worker's loop, which fires what is due and sleeps until the next row is."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from threading import Thread

import pytest
from sqlalchemy import Engine, Index, delete, insert, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from sqlalchemy_fsm_mysql import (
    Event,
    Machine,
    StateMachineColumn,
    StateSinceColumn,
    Transition,
    TransitionHistory,
    on_moved,
    remove_hook,
    run_due,
)
from sqlalchemy_fsm_mysql.orm import lanes
from sqlalchemy_fsm_mysql.sql.clock import utc_ago

HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)


class Base(DeclarativeBase):
    """The tables of this module."""


machine = Machine(
    initial="pending",
    events=[
        Event("Pay", {"pending": "paid"}),
        Event("Expire", {("pending", "paid"): "expired"}, after=HOUR),
        Event(
            "Remind",
            [Transition("expired", "expired", guard=lambda order: order.reminders < 3)],
            effect=lambda order: {"reminders": order.reminders + 1, "slot": order.wanted},
            after=HOUR,
        ),
    ],
)


class Order(Base):
    __tablename__ = "run_orders"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine)
    state_since: Mapped[datetime] = StateSinceColumn()
    reminders: Mapped[int] = mapped_column(default=0)
    wanted: Mapped[int | None]
    slot: Mapped[int | None] = mapped_column(unique=True)
    __table_args__ = (Index("ix_run_orders", "state", "state_since"),)


class OrderTransition(TransitionHistory, Base):
    __tablename__ = "run_order_transitions"
    __records__ = "Order.state"


@pytest.fixture(name="home")
def emptied(backend_engine: Engine, tables: None) -> Iterator[Engine]:
    """The database, whose tables are empty after the test."""
    yield backend_engine
    with backend_engine.begin() as connection:
        connection.execute(delete(OrderTransition.__table__))
        connection.execute(delete(Order.__table__))


def put(engine: Engine, *keys: int, state: str = "pending", ago: timedelta = 2 * HOUR, **values: object) -> None:
    with engine.begin() as connection:
        for key in keys:
            connection.execute(insert(Order.__table__).values(id=key, state=state, state_since=utc_ago(ago), **values))


def states(engine: Engine) -> dict[int, str]:
    with engine.connect() as connection:
        query = select(Order.__table__.c.id, Order.__table__.c.state)
        return {key: state for key, state in connection.execute(query)}  # noqa: C416 - no dict takes Rows


def test_one_round_moves_everything_that_is_due(home, caplog):
    put(home, *range(1, 8))
    put(home, 9, ago=HOUR - MINUTE)
    caplog.set_level(logging.INFO, "sqlalchemy_fsm_mysql.due")

    moved = run_due(sessionmaker(home), Order, every=None, limit=3, actor="worker")

    assert (moved.moved, moved.by_transition, moved.errors) == (7, {("pending", "expired"): 7}, ())
    assert states(home) == dict.fromkeys(range(1, 8), "expired") | {9: "pending"}
    with home.connect() as connection:
        assert set(connection.scalars(select(OrderTransition.actor))) == {"worker"}
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(" moved")[0] for line in lines] == [f"run_orders: {n}" for n in ("3 rows", "3 rows", "1 row")]
    assert "(pending to expired: 3)" in lines[0]


def test_each_batch_is_committed(home):
    """A hook that sees the third batch finds the two before committed, on a connection of its own."""
    if home.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    put(home, *range(1, 7))
    seen: list[int] = []

    @on_moved(Order.state)
    def look(moved, session):
        seen.append(sum(state == "expired" for state in states(home).values()))

    try:
        run_due(sessionmaker(home), Order, every=None, limit=2)
    finally:
        remove_hook(Order.state, look)
    assert seen == [0, 0, 2, 2, 4, 4]


@pytest.mark.parametrize("limit", [2, 500])
def test_a_row_that_stays_due_is_fired_once_a_round(home, limit):
    put(home, *range(1, 6), state="expired")
    assert [run_due(sessionmaker(home), Order, every=None, limit=limit).moved for _ in range(4)] == [5, 5, 5, 0]


def test_it_sleeps_until_the_next_row_is_due(home):
    """Long before its period of a minute is over, and not before the row's time."""
    put(home, 1, ago=HOUR - SECOND)
    end = time.monotonic() + 30
    moved = run_due(
        sessionmaker(home),
        Order,
        event="Expire",
        every=MINUTE,
        stop=lambda: states(home)[1] == "expired" or time.monotonic() > end,
    )
    assert moved.moved == 1
    with home.connect() as connection:
        since = connection.scalar(select(Order.__table__.c.state_since))
        at = connection.scalar(select(OrderTransition.at))
    assert since is not None
    assert abs(since - at) < SECOND
    assert time.monotonic() < end - 10


def test_a_row_that_comes_meanwhile_is_fired_within_the_period(home):
    put(home, 1)
    begun = time.monotonic()

    def stop() -> bool:
        if time.monotonic() > begun + 0.3 and 2 not in states(home):
            put(home, 2)
        return states(home).get(2) == "expired" or time.monotonic() > begun + 20

    assert run_due(sessionmaker(home), Order, event="Expire", every=timedelta(seconds=0.5), stop=stop).moved == 2


def test_a_poisoned_row_and_a_failing_hook_do_not_stop_the_others(home, caplog):
    put(home, *range(1, 8))
    put(home, 20, state="expired", wanted=1)
    put(home, 21, state="expired", wanted=1, ago=HOUR + MINUTE)

    @on_moved(Order.state, event="Expire")
    def refuse(moved, session):
        if moved.key in (3, 5):
            raise LookupError("no such customer")

    try:
        moved = run_due(sessionmaker(home), Order, every=None, limit=4)
    finally:
        remove_hook(Order.state, refuse)

    assert {(error.key, error.event) for error in moved.errors} == {(3, "Expire"), (5, "Expire"), (21, "Remind")}
    assert Counter(states(home).values()) == {"expired": 5 + 2, "pending": 2}
    assert [key for key, state in sorted(states(home).items()) if state == "pending"] == [3, 5]
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert sum("LookupError" in line for line in warned) == 2
    assert not any("no such customer" in line for line in warned)


def test_an_error_that_is_no_rows_ends_it(home, monkeypatch):
    put(home, 1)
    monkeypatch.setattr(lanes, "BATCH", "no number")
    with pytest.raises(TypeError):
        run_due(sessionmaker(home), Order, every=None)
    assert states(home) == {1: "pending"}


@pytest.mark.parametrize(("options", "problem"), [({"every": timedelta(0)}, "every="), ({"limit": 0}, "limit=0")])
def test_wrong_arguments(home, options, problem):
    with pytest.raises(ValueError, match=problem):
        run_due(sessionmaker(home), Order, **options)


def test_a_signal_stops_it_after_its_batch(home, tmp_path):
    """And the handler of before is back; the ready file is there meanwhile, and gone at the end."""
    put(home, 1)
    ready = tmp_path / "ready"
    before = signal.getsignal(signal.SIGTERM)
    seen: list[bool] = []

    def kill() -> None:
        until = time.monotonic() + 30
        while not ready.exists():
            if time.monotonic() > until:
                return
            time.sleep(0.02)
        seen.append(True)
        os.kill(os.getpid(), signal.SIGTERM)

    killer = Thread(target=kill)
    killer.start()
    moved = run_due(sessionmaker(home), Order, event="Expire", every=MINUTE, ready_file=ready)
    killer.join()

    assert (moved.moved, seen) == (1, [True])
    assert not ready.exists()
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_engine_in_the_place_of_a_sessionmaker(home):
    put(home, 1, 2)
    assert run_due(home, Order, every=None).moved == 2


def test_async(home):
    if home.dialect.name == "sqlite":
        pytest.skip("asyncmy is a driver of servers")
    from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

    put(home, *range(1, 6))
    url = home.url.set(drivername=f"{home.dialect.name}+asyncmy")

    async def work() -> int:
        own = create_async_engine(url)
        try:
            return (await run_due(async_sessionmaker(own), Order, every=None, limit=2)).moved
        finally:
            await own.dispose()

    assert asyncio.run(work()) == 5
