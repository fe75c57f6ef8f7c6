"""A ``ShardedSession``: the rows of one class in two databases, on the servers in two that need not know each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, String, inspect, true
from sqlalchemy.ext.horizontal_shard import ShardedSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    Machine,
    StateMachineColumn,
    Transition,
    TransitionHistory,
    TransitionNotAllowed,
    claim,
    find_by_token,
    fire_key,
    fire_or_create,
    fire_where,
    force_state,
    try_fire_key,
)
from tests.reference import machine
from tests.servers import make_engine, own_database, servers


class Base(DeclarativeBase):
    """Their tables have names of their own: other suites use the same database."""


class Order(Base):
    """Even numbers are in the west, odd ones in the east."""

    __tablename__ = "sharded_orders"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine)
    version: Mapped[int] = mapped_column(default=1)
    __mapper_args__ = {"version_id_col": version}


class OrderTransition(TransitionHistory, Base):
    __tablename__ = "sharded_order_transitions"
    __records__ = Order.state


class Parcel(Base):
    """Its key says nothing of where it is."""

    __tablename__ = "sharded_parcels"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    depot: Mapped[str] = mapped_column(String(10), default="west")
    total: Mapped[int] = mapped_column(default=10)
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="Open",
            events=[
                Event(
                    "Pay",
                    [Transition("Open", "Paid", guard=lambda parcel, amount: parcel.total >= amount)],
                    effect=lambda parcel, amount: {"total": parcel.total - amount},
                )
            ],
        )
    )


SIDES = ("west", "east")


def side_of(key: int) -> str:
    return SIDES[key % 2]


@pytest.fixture(scope="module")
def shards(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Engine]]:
    """Two databases: the target's, and another one, on another server where there is one."""
    url = engine.url
    if url.get_backend_name() == "sqlite":
        other = make_engine(url.set(database=str(tmp_path_factory.mktemp("east") / "fsm.db")))
        yield from _created(engine, other)
        return
    elsewhere = [server.url for server in servers() if (server.url.host, server.url.port) != (url.host, url.port)]
    far = (elsewhere or [url])[0].set(drivername=url.drivername)
    with own_database(far) as own:
        yield from _created(engine, make_engine(own))


def _created(west: Engine, east: Engine) -> Iterator[dict[str, Engine]]:
    both = {"west": west, "east": east}
    for engine in both.values():
        Base.metadata.create_all(engine)
    yield both
    Base.metadata.drop_all(west)
    Base.metadata.drop_all(east)
    east.dispose()


@pytest.fixture
def rows(shards: dict[str, Engine]) -> Iterator[dict[str, Engine]]:
    """Orders 1 to 4, each on its side, and a parcel 1 in the east."""
    for side, engine in shards.items():
        with Session(engine) as session:
            session.add_all(Order(id=key) for key in range(1, 5) if side_of(key) == side)
            if side == "east":
                session.add(Parcel(id=1, depot="east"))
            session.commit()
    yield shards
    for engine in shards.values():
        with engine.begin() as connection:
            for table in reversed(Base.metadata.sorted_tables):
                connection.execute(table.delete())


@pytest.fixture
def session(rows: dict[str, Engine]) -> Iterator[ShardedSession]:
    """The session of both, with the choosers of SQLAlchemy's own example."""

    def shard_chooser(mapper: Any, instance: Any, clause: Any = None) -> str:
        return instance.depot if isinstance(instance, Parcel) else side_of(instance.id)

    def identity_chooser(mapper: Any, primary_key: Any, **_: Any) -> list[str]:
        return [side_of(primary_key[0])] if mapper.class_ is Order else list(SIDES)

    def execute_chooser(context: Any) -> list[str]:
        return list(SIDES)

    with ShardedSession(
        shards=rows,
        shard_chooser=shard_chooser,
        identity_chooser=identity_chooser,
        execute_chooser=execute_chooser,
    ) as session:
        yield session


def stored(engines: dict[str, Engine], model: Any = Order) -> dict[int, str]:
    """What both databases hold."""
    found: dict[int, str] = {}
    for engine in engines.values():
        with Session(engine) as session:
            found |= {row.id: row.state for row in session.query(model)}
    return found


UNMOVED = dict.fromkeys(range(1, 5), "Initializing")


@pytest.mark.parametrize("key", [1, 2])
def test_an_instance_is_fired_on_its_own_shard(session, rows, key):
    order = session.get_one(Order, key)
    assert order.fire("Ready", session).source == "Initializing"
    session.commit()

    assert stored(rows) == {**UNMOVED, key: "Running"}


@pytest.mark.parametrize("key", [1, 2])
def test_a_key_is_fired_where_the_identity_chooser_says(session, rows, key):
    fire_key(Order, key, "Ready", session)
    session.commit()

    assert stored(rows) == {**UNMOVED, key: "Running"}


def test_instances_of_both_shards_are_moved_in_one_unit(session, rows):
    for key in (1, 2):
        session.get_one(Order, key).fire("Ready", session)
    fire_key(Order, 3, "Stop", session)
    session.commit()

    assert stored(rows) == {1: "Running", 2: "Running", 3: "Stopped", 4: "Initializing"}


def test_a_fire_before_anything_else_in_the_transaction_belongs_to_the_session(session, rows):
    """An instance that outlives a commit: the fire is the first statement of the next transaction."""
    session.expire_on_commit = False
    order = session.get_one(Order, 1)
    session.commit()
    order.fire("Ready", session)
    session.rollback()

    assert stored(rows) == UNMOVED


def test_the_held_instance_shows_what_the_fire_of_its_key_did(session):
    order = session.get_one(Order, 1)
    fire_key(Order, 1, "Ready", session)

    assert (inspect(order).dict["state"], inspect(order).dict["version"]) == ("Running", 2)


def test_a_refusal_tells_the_state_of_the_rows_own_shard(session):
    fire_key(Order, 1, "Stop", session)

    assert try_fire_key(Order, 1, "Ready", session).state == "Stopped"
    with pytest.raises(TransitionNotAllowed):
        session.get_one(Order, 1).fire("Ready", session)


def test_a_key_that_may_be_on_several_shards_is_not_guessed(session, rows):
    with pytest.raises(
        TypeError, match=r"'Pay' on Parcel 1: .* names 2 shards \('west', 'east'\).* fire on its instance"
    ):
        fire_key(Parcel, 1, "Pay", session, amount=3)

    assert stored(rows, Parcel) == {1: "Open"}


def test_the_instance_of_such_a_key_is_fired(session, rows):
    parcel = session.get_one(Parcel, 1)
    parcel.fire("Pay", session, amount=3)
    total = parcel.total
    session.commit()

    assert (total, stored(rows, Parcel)) == (7, {1: "Paid"})


@pytest.mark.parametrize(
    "work",
    [
        lambda session: fire_where(Order, "Ready", session, true()),
        lambda session: claim(Order, "Ready", session, limit=2),
        lambda session: find_by_token(Order.state, "token", session),
    ],
    ids=["fire_where", "claim", "find_by_token"],
)
def test_what_names_no_row_is_refused_before_any_sql(session, rows, work):
    with pytest.raises(TypeError, match="the session has several shards, and no key names one"):
        work(session)

    assert stored(rows) == UNMOVED


def test_a_set_is_fired_in_a_session_of_each_shard(rows):
    moved = 0
    for engine in rows.values():
        with Session(engine) as session:
            moved += fire_where(Order, "Ready", session, true()).moved
            session.commit()

    assert (moved, set(stored(rows).values())) == (4, {"Running"})


def test_the_history_is_written_and_read_on_the_rows_shard(session, rows):
    order = session.get_one(Order, 1)
    order.fire("Ready", session, token="once")
    again = order.fire("Ready", session, token="once")
    session.commit()

    assert (again.replayed, [row.event for row in order.history(session)]) == (True, ["Ready"])
    with Session(rows["east"]) as east, Session(rows["west"]) as west:
        assert (east.query(OrderTransition).count(), west.query(OrderTransition).count()) == (1, 0)


def test_force_state_goes_to_the_rows_shard(session, rows):
    force_state(session.get_one(Order, 1), "Deleted", session)
    session.commit()

    assert stored(rows) == {**UNMOVED, 1: "Deleted"}


@pytest.mark.parametrize("key", [1, 7, 8])
def test_fire_or_create_creates_where_the_shard_chooser_says(session, rows, key):
    moved = fire_or_create(Order(id=key), "Ready", session)
    assert moved.instance is session.get_one(Order, key)
    session.commit()

    assert (moved.created, stored(rows)) == (key > 4, {**UNMOVED, key: "Running"})
    with Session(rows[side_of(key)]) as side:
        assert side.get_one(Order, key).state == "Running"


def test_a_savepoints_rollback_is_known_on_every_shard(session):
    order, other = session.get_one(Order, 1), session.get_one(Order, 2)
    nested = session.begin_nested()
    order.fire("Ready", session)
    other.fire("Stop", session)
    nested.rollback()

    assert (order.state, other.state) == ("Initializing", "Initializing")
