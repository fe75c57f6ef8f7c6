"""``fsm_backend="locking"`` on PostgreSQL, a database that the library does not support: what docs/databases.md says of it.

Needs PostgreSQL's programs, which are started privately, and psycopg. As root, on Debian: apt-get install postgresql.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack

import pytest
from sqlalchemy import URL, Engine, exists, func, select
from sqlalchemy.exc import IntegrityError, PendingRollbackError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    FSMError,
    Machine,
    RowNotFound,
    StateMachineColumn,
    TransitionHistory,
    claim,
    fire_key,
    fire_keys,
    fire_or_create,
    fire_where,
    force_state,
    replay,
    try_fire_key,
    unlocked,
)
from tests.kinds import POSTGRESQL
from tests.servers import Unavailable, make_engine, own_database, private_server

LOCKING = {"fsm_backend": "locking"}
RACERS, FIRES = 4, 25


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "items"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int]


def items_of(order):
    return select(func.count()).where(Item.order_id == order.id).scalar_subquery()


machine = Machine(
    initial="new",
    events=[
        Event(
            "pay",
            {"new": "paid"},
            guard=lambda order, amount: order.total <= amount,
            effect=lambda order, amount: {"total": order.total - amount},
        ),
        Event("take", {"new": "taken"}),
        Event("touch", {("new", "taken"): "taken"}, effect=lambda order: {"touched": order.touched + 1}),
        Event("name", {"new": "named"}, effect=lambda order: {"name": "the same"}),
        Event("ship", {"paid": "shipped"}, guard=lambda order: exists().where(Item.order_id == order.id)),
        Event("count", {"paid": "shipped"}, guard=lambda order: items_of(order) > 0),
        Event("count loosely", {"paid": "shipped"}, guard=lambda order: unlocked(items_of(order)) > 0),
    ],
)


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    total: Mapped[int] = mapped_column(default=10)
    touched: Mapped[int] = mapped_column(default=0)
    name: Mapped[str | None] = mapped_column(unique=True)
    state: Mapped[str] = StateMachineColumn(machine)


class OrderTransition(TransitionHistory, Base):
    __tablename__ = "order_transitions"
    __records__ = "Order.state"


@pytest.fixture(scope="module")
def postgresql() -> Iterator[URL]:
    """The URL of a database with the tables, on a server of this module's own."""
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed")
    with ExitStack() as stack:
        try:
            url = private_server(POSTGRESQL, stack)
        except Unavailable as reason:
            pytest.skip(f"no PostgreSQL: {reason}")
        own = stack.enter_context(own_database(url))
        engine = make_engine(own, execution_options=LOCKING)
        Base.metadata.create_all(engine)
        yield own
        engine.dispose()


@pytest.fixture
def engine(postgresql: URL) -> Iterator[Engine]:
    """The database with a few orders, of which the first has an item."""
    engine = make_engine(postgresql, execution_options=LOCKING)
    with Session(engine) as session:
        for table in reversed(Base.metadata.sorted_tables):
            session.execute(table.delete())
        session.add_all([*(Order(id=key) for key in range(1, 10)), Item(id=1, order_id=1)])
        session.commit()
    yield engine
    engine.dispose()


def state_of(engine: Engine, key: int) -> str | None:
    with Session(engine) as session:
        return session.scalar(select(Order.state).where(Order.id == key))


def test_a_fire_moves_refuses_and_records(engine):
    with Session(engine) as session:
        refused = try_fire_key(Order, 1, "pay", session, amount=5)
        moved = fire_key(Order, 1, "pay", session, amount=10, actor="ada", details={"by": "card"})
        again = try_fire_key(Order, 1, "pay", session, amount=10)
        with pytest.raises(RowNotFound):
            fire_key(Order, 99, "take", session)
        shipped = fire_key(Order, 1, "ship", session)
        forced = force_state(session.get_one(Order, 2), "paid", session)
        session.commit()
        history = session.get_one(Order, 1).history(session)

    assert (refused.reason, again.reason, again.state) == ("guard", "state", "paid")
    assert (moved.sequence, shipped.sequence, forced.sequence) == (1, 2, 1)
    assert [(row.source, row.target, row.actor) for row in history] == [
        ("new", "paid", "ada"),
        ("paid", "shipped", None),
    ]
    assert replay(history) == state_of(engine, 1) == "shipped"


def test_sets_claims_and_missing_rows(engine):
    with Session(engine) as session, Session(engine) as other:
        assert fire_where(Order, "take", session, Order.id <= 3).moved == 3
        mine = [order.id for order in claim(Order, "take", session, limit=2)]
        theirs = [order.id for order in claim(Order, "take", other, limit=2)]
        other.rollback()
        created = fire_or_create(Order(id=50), "take", session)
        found = fire_or_create(Order(id=9), "take", session)
        session.commit()

    assert len({*mine, *theirs}) == 4
    assert (created.created, found.created, state_of(engine, 50)) == (True, False, "taken")


def test_a_token_moves_once(engine):
    with Session(engine) as session:
        first = fire_key(Order, 1, "take", session, token="once")
        second = fire_key(Order, 1, "take", session, token="once")
        third = fire_key(Order, 2, "take", session)  # the transaction goes on
        session.commit()

    assert (first.replayed, second.replayed, second.sequence, third.sequence) == (False, True, 1, 1)
    assert state_of(engine, 2) == "taken"


def test_fire_keys_that_waited_reports_an_old_number_and_records_the_right_one(engine):
    """A limit that docs/databases.md names: the number is read in the SELECT that waits for the lock."""
    with Session(engine) as first, Session(engine) as second, ThreadPoolExecutor(1) as pool:
        fire_keys(Order, [1], "touch", first)
        waiting = pool.submit(fire_keys, Order, [1], "touch", second)
        assert wait([waiting], timeout=1).not_done
        first.commit()
        (moved,) = waiting.result(timeout=30)
        second.commit()
        numbers = [row.sequence for row in second.get_one(Order, 1).history(second)]

    assert (moved.sequence, numbers) == (1, [1, 2])


def test_an_aggregate_in_a_guard_is_refused_with_a_remedy(engine):
    """PostgreSQL has no lock on the rows of an aggregate; without one they could change before COMMIT."""
    with Session(engine) as session:
        fire_key(Order, 1, "pay", session, amount=10)
        with pytest.raises(FSMError, match=r"'count' from 'paid' decides by an aggregate .* unlocked\(\)"):
            fire_key(Order, 1, "count", session)
        assert fire_key(Order, 1, "count loosely", session).target == "shipped"


def test_after_an_error_the_session_demands_a_rollback(engine):
    """A COMMIT after it would roll back the first fire, and report nothing."""
    with Session(engine) as session:
        fire_key(Order, 1, "name", session)
        session.commit()
        assert fire_key(Order, 2, "take", session)
        with pytest.raises(IntegrityError):
            fire_key(Order, 3, "name", session)
        with pytest.raises(PendingRollbackError):
            session.commit()
        session.rollback()
        assert state_of(engine, 2) == "new"
        fire_key(Order, 2, "take", session)
        session.commit()
    assert state_of(engine, 2) == "taken"


def test_the_same_after_an_error_of_the_applications_own_statement(engine):
    with Session(engine) as session:
        assert fire_key(Order, 2, "take", session)
        with pytest.raises(IntegrityError):
            session.execute(Order.__table__.insert().values(id=1, state="new", total=1, touched=0))
        with pytest.raises(PendingRollbackError):
            session.commit()
    assert state_of(engine, 2) == "new"


def test_a_savepoint_keeps_what_was_done_before_it(engine):
    with Session(engine) as session:
        fire_key(Order, 1, "name", session)
        session.commit()
        assert fire_key(Order, 2, "take", session)
        with pytest.raises(IntegrityError), session.begin_nested():
            fire_key(Order, 3, "name", session)
        session.commit()
    assert (state_of(engine, 2), state_of(engine, 3)) == ("taken", "new")


def race(url: URL, seed: int) -> Counter[str]:
    engine, counts = make_engine(url, execution_options=LOCKING), Counter[str]()
    for fire in range(FIRES):
        with Session(engine) as session:
            counts["touched"] += bool(fire_key(Order, 1, "touch", session))
            counts["taken"] += bool(try_fire_key(Order, 2 + fire % 5, "take", session))
            session.commit()
    engine.dispose()
    return counts


def test_processes_race(engine, postgresql):
    """Each touch is counted once, each row is taken once, and the history numbers every move."""
    with multiprocessing.get_context("spawn").Pool(RACERS) as pool:
        counts = sum(pool.starmap_async(race, [(postgresql, seed) for seed in range(RACERS)]).get(90), Counter())

    with Session(engine) as session:
        assert session.get_one(Order, 1).touched == counts["touched"] == RACERS * FIRES
        assert counts["taken"] == 5
        numbers = session.scalars(select(OrderTransition.sequence).where(OrderTransition.record_id == 1)).all()
        assert sorted(numbers) == list(range(1, RACERS * FIRES + 1))
