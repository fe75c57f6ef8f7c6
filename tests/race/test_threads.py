"""Threads of one process: what they use for the first time at once, and what each is told on one row.

Statements, machines and dialects are shared by all threads, and built at their first use. The models are declared anew
for each test, so that the threads meet there. On a Python without the GIL (3.13t, 3.14t) they run at the same time; with
it, they are switched as often as Python can. ``./dev free_threaded`` runs this on each such interpreter that is found.
"""

from __future__ import annotations

import secrets
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import pytest
from sqlalchemy import URL, Engine, QueuePool, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from sqlalchemy_fsm_mysql import (
    Coalescer,
    Event,
    Machine,
    Moved,
    Refused,
    Stateful,
    StateMachineColumn,
    Transition,
    TransitionHistory,
    fire_key,
    fire_or_create,
    fire_where,
    replay,
    run_transaction,
    try_fire_key,
)
from tests.servers import make_engine

pytestmark = pytest.mark.servers_only

THREADS = 8
FIRES = 40  # of each thread

T = TypeVar("T")


class Models(NamedTuple):
    base: Any
    order: Any
    transition: Any


def declared() -> Models:
    """Models that no thread has used: a row counts its moves, and a guard decides between two branches."""
    suffix = secrets.token_hex(4)

    class Base(DeclarativeBase):
        pass

    class Order(Stateful, Base):
        __tablename__ = f"thread_orders_{suffix}"
        id: Mapped[int] = mapped_column(primary_key=True)
        steps: Mapped[int] = mapped_column(default=0)
        state: Mapped[str] = StateMachineColumn(
            Machine(
                initial="new",
                events=[
                    Event(
                        "Pay",
                        [
                            Transition("new", "large", guard=lambda order, amount: order.steps + amount >= 100),
                            Transition("new", "paid", guard=lambda order, amount: order.steps + amount < 100),
                        ],
                        effect=lambda order, amount: {"steps": order.steps + 1},
                    ),
                    Event("Back", {("paid", "large"): "new"}, effect=lambda order: {"steps": order.steps + 1}),
                ],
            )
        )

    class OrderTransition(TransitionHistory, Base):
        __tablename__ = f"thread_transitions_{suffix}"
        __records__ = "Order.state"

    return Models(Base, Order, OrderTransition)


@contextmanager
def tables(url: URL, models: Models, rows: int) -> Iterator[Engine]:
    """An engine for all threads, with the tables of *models* and so many orders."""
    engine = make_engine(url, poolclass=QueuePool, pool_size=THREADS)
    models.base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([models.order(id=number) for number in range(1, rows + 1)])
        session.commit()
    try:
        yield engine
    finally:
        models.base.metadata.drop_all(engine)
        engine.dispose()


@pytest.fixture(autouse=True)
def switched_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def at_once(work: Callable[[int], T]) -> list[T]:
    """The results of *work*, which each of the threads begins at the same moment with its number, from 1."""
    ready = threading.Barrier(THREADS)

    def begun(number: int) -> T:
        ready.wait()
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(begun, range(1, THREADS + 1)))


def check_row(engine: Engine, models: Models, key: int, told: list[Moved[Any]]) -> None:
    """What the threads were told is the row's history: each move once, numbered without a gap, one chain to the state."""
    with Session(engine) as session:
        order = session.get_one(models.order, key)
        history = order.history()
        assert [row.sequence for row in history] == list(range(1, len(told) + 1))
        recorded = [(row.sequence, row.event, row.source, row.target) for row in history]
        assert recorded == sorted((moved.sequence, moved.event, moved.source, moved.target) for moved in told)
        assert replay(history) == order.state if history else order.state == "new"
        assert order.steps == len(told)


def test_threads_on_one_row_are_told_its_one_history(url: URL) -> None:
    """They fire, are refused, and roll back, each with a session of its own."""
    models = declared()
    with tables(url, models, rows=1) as engine:
        sessions = sessionmaker(engine)

        def work(number: int) -> tuple[list[Moved[Any]], int]:
            told, refused = [], 0
            for turn in range(FIRES):
                event, payload = ("Pay", {"amount": number}) if turn % 2 else ("Back", {})
                outcome = run_transaction(
                    sessions, lambda each: try_fire_key(models.order, 1, event, each, **payload), attempts=20
                )
                if isinstance(outcome, Moved):
                    told.append(outcome)
                else:
                    refused += 1
                    assert isinstance(outcome, Refused)
                    assert outcome.state in ({"paid", "large"} if event == "Pay" else {"new"})
            return told, refused

        results = at_once(work)
        told = [moved for moves, _ in results for moved in moves]

        assert sum(len(moves) + refused for moves, refused in results) == THREADS * FIRES
        assert len(told) > FIRES / 2
        check_row(engine, models, 1, told)


def test_threads_that_are_the_first_to_use_a_machine_meet_no_half_of_it(url: URL) -> None:
    """Each kind of call is made by all threads at once on models and an engine that nobody has used yet."""
    for _ in range(5):
        models = declared()
        order = models.order
        with tables(url, models, rows=THREADS) as engine:

            def work(number: int) -> list[Moved[Any]]:
                with Session(engine) as session:
                    told = [fire_key(order, number, "Pay", session, amount=number)]
                    session.commit()
                    told.append(session.get_one(order, number).fire("Back", session))
                    assert session.get_one(order, number).possible_events(amount=1) == ["Pay"]
                    session.commit()
                    told.append(fire_or_create(order(id=number), "Pay", session, amount=100))
                    session.commit()
                    mine = fire_where(order, "Back", session, order.id == number)
                    assert mine.by_transition == {("large", "new"): 1}
                    session.commit()
                return told

            for number, told in enumerate(at_once(work), start=1):
                assert [(one.source, one.target, one.sequence) for one in told] == [
                    ("new", "paid", 1),
                    ("paid", "new", 2),
                    ("new", "large", 3),
                ]
                with Session(engine) as session:
                    row = session.get_one(order, number)
                    assert (row.state, row.steps, len(row.history())) == ("new", 4, 4)


def test_threads_with_engines_of_their_own_share_the_statements(url: URL) -> None:
    """A statement keeps a text for each dialect; threads add dialects to it and drop them at the same time."""
    models = declared()
    with tables(url, models, rows=THREADS) as engine:

        def work(number: int) -> list[Moved[Any]]:
            told = []
            for turn in range(6):
                own = make_engine(url)
                with Session(own) as session:
                    event, payload = ("Back", {}) if turn % 2 else ("Pay", {"amount": 0})
                    told.append(fire_key(models.order, number, event, session, **payload))
                    session.commit()
                own.dispose()
            return told

        for number, told in enumerate(at_once(work), start=1):
            check_row(engine, models, number, told)


def test_threads_share_a_coalescer(url: URL) -> None:
    """Every outcome reaches the thread that has asked for it."""
    models = declared()
    with tables(url, models, rows=THREADS) as engine, Coalescer(engine) as fires:

        def work(number: int) -> list[Moved[Any]]:
            told = []
            for turn in range(FIRES):
                event, payload = ("Back", {}) if turn % 2 else ("Pay", {"amount": 0})
                # The row of the thread, which moves each time, and one that all of them want.
                told.append(fires.fire_key(models.order, number, event, actor=str(number), **payload))
                assert (told[-1].key, told[-1].actor) == (number, str(number))
            return told

        for number, told in enumerate(at_once(work), start=1):
            check_row(engine, models, number, told)


def test_the_run_says_whether_threads_ran_at_once(record_property: Callable[[str, object], None]) -> None:
    """For the evidence: without the GIL, an import that needs it would turn it on for the whole process."""
    is_enabled = getattr(sys, "_is_gil_enabled", lambda: True)()
    record_property("gil", is_enabled)
    if "free-threading" in sys.version:
        assert not is_enabled, "a module that was imported has turned the GIL on"


def test_states_are_read_in_a_select_by_all_threads(url: URL) -> None:
    """can() and after() of a machine that nobody has used, compiled by all threads at once."""
    models = declared()
    state = models.order.state
    with tables(url, models, rows=1) as engine:

        def work(number: int) -> Any:
            with Session(engine) as session:
                return session.execute(select(state.can("Back"), state.after("Back")).where(models.order.id == 1)).one()

        assert [tuple(one) for one in at_once(work)] == [(False, "new")] * THREADS
