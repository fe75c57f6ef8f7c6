"""An exception that is not the driver's own, in the middle of a statement: no later fire reads that statement's answer.

A signal handler raises one (Celery's SoftTimeLimitExceeded, RQ's JobTimeoutException), and so does asyncio. PyMySQL
leaves the answer unread, and the next statement of the connection would read it as its own.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from sqlalchemy import URL, Engine, create_engine, select, text
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from sqlalchemy_fsm_mysql import fire_key, run_transaction, try_fire_key
from tests.conformance.session_models import Order
from tests.conformance.session_support import create, stored
from tests.servers import is_async

pytestmark = pytest.mark.servers_only


class JobTimeout(Exception):
    """As ``rq.timeouts.JobTimeoutException`` and ``billiard.exceptions.SoftTimeLimitExceeded``."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise JobTimeout in the middle of what the block does, as a worker's time limit does."""

    def give_up(*_: Any) -> None:
        raise JobTimeout

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def locked_for(engine: Engine, seconds: float) -> Iterator[int]:
    """The key of a row that another transaction holds for so long; mysqlclient waits for it, whatever the signal."""
    key = create(engine, Order)
    with Session(engine) as other:
        fire_key(Order, key, "Ready", other)
        timer = threading.Timer(seconds, other.rollback)
        timer.start()
        try:
            yield key
        finally:
            timer.join()


@pytest.fixture
def one_connection(url: URL, schemas: None) -> Iterator[Engine]:
    """An engine whose next session has the connection of the one before."""
    if is_async(url):
        pytest.skip("a signal handler's exception would end the event loop")
    engine = create_engine(url, pool_size=1, max_overflow=0, isolation_level="READ COMMITTED")
    yield engine
    engine.dispose()


def test_a_session_whose_statement_was_interrupted_has_to_roll_back(one_connection: Engine, database: Engine) -> None:
    """The usual ``except JobTimeout: order.fire("Fail")`` on the same session."""
    other = create(database, Order)
    with Session(one_connection) as session:
        session.connection()
        with locked_for(database, 0.8) as key, pytest.raises(JobTimeout), time_limit(0.4):
            fire_key(Order, key, "Ready", session)
        with pytest.raises(PendingRollbackError):
            fire_key(Order, other, "Stop", session)
        session.rollback()
        moved = fire_key(Order, other, "Stop", session)
        session.commit()

    assert (moved.source, moved.target) == ("Initializing", "Stopped")
    assert (stored(database, Order, other), stored(database, Order, key)) == ("Stopped", "Initializing")


def test_an_exception_in_the_place_of_a_deadlock_ends_the_transaction_as_that_does(
    one_connection: Engine, database: Engine
) -> None:
    """mysqlclient runs a signal's handler once its call has ended, here by the deadlock, which nothing else reports."""
    first, second, third = (create(database, Order) for _ in range(3))
    with Session(database) as other, Session(one_connection) as session:
        other.add_all([Order(note="heavier: the other one is ended") for _ in range(10)])
        fire_key(Order, second, "Ready", other)
        fire_key(Order, first, "Ready", session)
        crossing = threading.Timer(0.3, fire_key, (Order, first, "Stop", other))
        crossing.start()
        with pytest.raises(JobTimeout), time_limit(0.1):
            fire_key(Order, second, "Ready", session)
        crossing.join()
        other.rollback()
        with pytest.raises(PendingRollbackError):
            fire_key(Order, third, "Ready", session)
        session.rollback()
    assert [stored(database, Order, key) for key in (first, third)] == ["Initializing"] * 2


def test_the_next_session_of_the_pool_gets_the_outcome_of_its_own_fire(
    one_connection: Engine, database: Engine
) -> None:
    other = create(database, Order)
    with locked_for(database, 0.8) as key:
        with pytest.raises(JobTimeout), Session(one_connection) as session:
            session.connection()
            with time_limit(0.4):
                fire_key(Order, key, "Ready", session)
        with Session(one_connection) as session:
            outcome = try_fire_key(Order, other, "Delete", session)

    assert (outcome.state, outcome.reason) == ("Initializing", "state")  # type: ignore[union-attr]


def test_an_interrupted_statement_of_the_applications_own_is_no_other(one_connection: Engine, database: Engine) -> None:
    """On an engine that has never fired anything: the connection goes back to the pool, and a fire gets it."""
    other = create(database, Order)
    with pytest.raises(JobTimeout), one_connection.connect() as connection, time_limit(0.4):
        connection.execute(text("SELECT SLEEP(0.8)"))
    with Session(one_connection) as session:
        moved = fire_key(Order, other, "Ready", session)

        assert (moved.source, moved.target) == ("Initializing", "Running")


@pytest.mark.parametrize("statement", ["SAVEPOINT", "COMMIT"])
def test_a_statement_that_sqlalchemy_sends_by_itself_is_no_other(
    one_connection: Engine, database: Engine, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    key, other = create(database, Order), create(database, Order)
    driver = type(pool_connection(one_connection))
    if "pymysql" not in driver.__module__:
        pytest.skip("its answers are read in C, which no signal interrupts")
    read = driver._read_ok_packet if statement == "COMMIT" else driver._read_query_result

    def interrupted(connection: Any, *arguments: Any, **options: Any) -> Any:
        monkeypatch.undo()
        raise JobTimeout

    with pytest.raises(JobTimeout), Session(one_connection) as session:
        fire_key(Order, key, "Ready", session)
        monkeypatch.setattr(driver, read.__name__, interrupted)
        if statement == "COMMIT":
            session.commit()
        with session.begin_nested():
            session.connection()
    with Session(one_connection) as session:
        moved = fire_key(Order, other, "Stop", session)

        assert (moved.source, moved.target) == ("Initializing", "Stopped")


def pool_connection(engine: Engine) -> Any:
    with engine.connect() as connection:
        return connection.connection.driver_connection


def test_a_unit_that_was_interrupted_and_swallows_it_commits_nothing(one_connection: Engine, database: Engine) -> None:
    first, last = create(database, Order), create(database, Order)

    def work(session: Session) -> None:
        fire_key(Order, first, "Ready", session)
        with locked_for(database, 0.8) as key:
            try:
                with time_limit(0.4):
                    fire_key(Order, key, "Ready", session)
            except JobTimeout:
                pass
        fire_key(Order, last, "Stop", session)

    with pytest.raises(PendingRollbackError):
        run_transaction(lambda: Session(one_connection), work)

    assert (stored(database, Order, first), stored(database, Order, last)) == ("Initializing", "Initializing")


def test_a_value_that_the_driver_cannot_send_leaves_the_transaction_alive(
    one_connection: Engine, database: Engine
) -> None:
    """PyMySQL's TypeError comes before anything was sent, so no answer is left; mysqlclient sends the value as text."""
    key = create(database, Order)
    with Session(one_connection) as session:
        fire_key(Order, key, "Ready", session)
        with suppress(TypeError, DBAPIError):
            session.execute(text("SELECT :value"), {"value": {"no": "value"}})
        session.execute(select(1))
        session.commit()

    assert stored(database, Order, key) == "Running"


async def fired_after_a_timeout(engine: Any, key: int, other: int) -> tuple[Any, Any]:
    async with AsyncSession(engine) as session:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(fire_key(Order, key, "Ready", session), 0.4)
        with pytest.raises(PendingRollbackError):
            await fire_key(Order, other, "Stop", session)
        await session.rollback()
        moved = await fire_key(Order, other, "Stop", session)
        return moved.source, moved.target


@pytest.mark.parametrize("driver", ["asyncmy", "aiomysql"])
def test_a_session_whose_statement_was_cancelled_has_to_roll_back(
    url: URL, schemas: None, database: Engine, driver: str
) -> None:
    if url.get_driver_name() != "pymysql":
        pytest.skip("once for each server")
    pytest.importorskip(driver)
    other = create(database, Order)

    async def work(key: int) -> tuple[Any, Any]:
        engine = create_async_engine(url.set(drivername=f"mysql+{driver}"), isolation_level="READ COMMITTED")
        try:
            return await fired_after_a_timeout(engine, key, other)
        finally:
            await engine.dispose()

    with locked_for(database, 0.8) as key:
        assert asyncio.run(work(key)) == ("Initializing", "Stopped")


def test_the_waiting_is_over_soon(one_connection: Engine, database: Engine) -> None:
    """The interrupted transaction's locks go with its connection, and do not wait for a lock timeout."""
    first = create(database, Order)
    with Session(one_connection) as session, locked_for(database, 0.8) as key:
        fire_key(Order, first, "Ready", session)
        with pytest.raises(JobTimeout), time_limit(0.4):
            fire_key(Order, key, "Ready", session)
    began = time.monotonic()
    with Session(database) as session:
        fire_key(Order, first, "Stop", session)
        session.commit()

    assert time.monotonic() - began < 5
