"""Since when a row is in its state: written by every way a state changes, by the database's clock, in the same UPDATE."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from sqlalchemy import ForeignKey, Integer, String, select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    InvalidMachine,
    Machine,
    StateMachineColumn,
    StateSinceColumn,
    claim,
    fire_key,
    fire_or_create,
    fire_where,
    force_state,
    try_fire_key,
)
from sqlalchemy_fsm_mysql.sql.clock import utc_ago, utc_now
from tests.conformance.support import stored

HOUR = timedelta(hours=1)


class Base(DeclarativeBase):
    """The tables of this module."""


machine = Machine(
    initial="new",
    events=[
        Event("Pay", {"new": "paid"}),
        Event("Touch", {"new": "new", "paid": "new"}),
        Event("Close", {("new", "paid"): "closed"}),
    ],
)
shipping = Machine(initial="waiting", events=[Event("Ship", {"waiting": "shipped"})])


class Order(Base):
    __tablename__ = "since_orders"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine)
    state_since: Mapped[datetime] = StateSinceColumn()


class Plain(Base):
    __tablename__ = "since_plain"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine)


class Timed:
    """A mixin with both columns."""

    state: Mapped[str] = StateMachineColumn(machine)
    since: Mapped[datetime] = StateSinceColumn("in_state_since", of="state")


class Parcel(Timed, Base):
    __tablename__ = "since_parcels"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(10), default="parcel")
    transport: Mapped[str] = StateMachineColumn(shipping)
    transport_since: Mapped[datetime] = StateSinceColumn(of="transport")
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "parcel"}


class Letter(Parcel):
    __mapper_args__ = {"polymorphic_identity": "letter"}


class Box(Parcel):
    __tablename__ = "since_boxes"
    id: Mapped[int] = mapped_column(ForeignKey("since_parcels.id"), primary_key=True)
    __mapper_args__ = {"polymorphic_identity": "box"}


class Task(MappedAsDataclass, Base):
    __tablename__ = "since_tasks"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine, init=False)
    state_since: Mapped[datetime] = StateSinceColumn(init=False)


def now(session: Session) -> datetime:
    return session.execute(select(utc_now())).scalar_one()


def age(session: Session, model: type = Order, column: str = "state_since") -> None:
    """Have every row of *model* be in its state for an hour."""
    session.flush()
    session.execute(update(model.__table__).values({column: utc_ago(HOUR)}))
    session.expire_all()


def is_fresh(session: Session, since: datetime) -> bool:
    return abs(now(session) - since) < timedelta(minutes=1)


@pytest.fixture
def order(session: Session) -> Order:
    order = Order(id=1)
    session.add(order)
    age(session)
    return order


def test_an_insert_writes_it_by_the_clock_of_the_database(session):
    session.add(Order(id=1))
    session.flush()
    session.execute(text("INSERT INTO since_orders (id) VALUES (2)"))

    assert all(is_fresh(session, since) for since in session.scalars(select(Order.state_since)))


def by_fire(session, order):
    order.fire("Pay", session)


def by_key(session, order):
    fire_key(Order, 1, "Pay", session)


def by_set(session, order):
    assert fire_where(Order, "Pay", session, Order.id == 1).moved == 1


def by_set_of_several_branches(session, order):
    assert fire_where(Order, "Close", session, Order.id == 1).moved == 1


def by_keys_of_a_set(session, order):
    assert fire_where(Order, "Pay", session, Order.id == 1, max_rows=5).moved == 1


def by_claim(session, order):
    assert claim(Order, "Pay", session, limit=1) == [order]


def by_upsert(session, order):
    session.expunge(order)
    assert not fire_or_create(Order(id=1), "Pay", session).created


def by_force(session, order):
    force_state(order, "closed", session)


WAYS = [by_fire, by_key, by_set, by_set_of_several_branches, by_keys_of_a_set, by_claim, by_upsert, by_force]


@pytest.mark.parametrize("way", WAYS)
def test_every_change_of_the_state_writes_it(session, order, way):
    way(session, order)

    row = stored(session, Order)[1,]
    assert row["state"] != "new"
    assert is_fresh(session, row["state_since"])
    (shown,) = session.scalars(select(Order))
    assert shown.state_since == row["state_since"]


def test_an_upsert_that_creates_writes_it(session, sent):
    """In as many statements as without the column: on MySQL and MariaDB the upsert stays one."""
    fire_or_create(Plain(id=6), "Pay", session)
    with sent() as with_since:
        made = fire_or_create(Order(id=7), "Pay", session)
    with sent() as without:
        fire_or_create(Plain(id=7), "Pay", session)

    assert with_since.number == without.number

    assert made.created
    assert is_fresh(session, made.instance.state_since)


def test_a_transition_to_itself_does_not(session, order):
    order.fire("Touch", session)
    assert not is_fresh(session, order.state_since)
    fire_where(Order, "Touch", session, Order.id == 1)
    force_state(order, "new", session)
    assert not is_fresh(session, order.state_since)

    force_state(order, "paid", session)
    age(session)
    order.fire("Touch", session)
    assert is_fresh(session, order.state_since)


def test_a_refusal_does_not(session, order):
    force_state(order, "closed", session)
    age(session)
    assert not try_fire_key(Order, 1, "Pay", session)
    assert not is_fresh(session, order.state_since)


def test_the_time_zone_of_the_session_changes_nothing(session, order):
    if session.get_bind().dialect.name == "sqlite":
        pytest.skip("SQLite has no time zone of a session")
    before = session.connection().exec_driver_sql("SELECT @@time_zone").scalar_one()
    utc = now(session)
    try:
        session.connection().exec_driver_sql("SET time_zone = '+09:30'")
        order.fire("Pay", session)
        session.add(Order(id=2))
        session.flush()
        session.expire_all()
        assert all(abs(since - utc) < timedelta(minutes=1) for since in session.scalars(select(Order.state_since)))
    finally:
        session.connection().exec_driver_sql(f"SET time_zone = '{before}'")


@pytest.mark.parametrize("model", [Parcel, Letter, Box])
def test_each_of_several_machines_has_its_own(session, model):
    parcel = model(id=1)
    session.add(parcel)
    session.flush()
    age(session, Parcel, "in_state_since")
    age(session, Parcel, "transport_since")

    parcel.fire("Ship", session)
    assert (is_fresh(session, parcel.since), is_fresh(session, parcel.transport_since)) == (False, True)
    fire_key(model, 1, "Pay", session)
    session.expire_all()
    assert is_fresh(session, parcel.since)


def test_a_dataclass_has_it(session):
    task = Task(id=1)
    session.add(task)
    age(session, Task)
    task.fire("Pay", session)
    assert is_fresh(session, task.state_since)


def declared(**columns):
    class Own(DeclarativeBase):
        pass

    body = {"__tablename__": "since_things", "id": mapped_column(Integer, primary_key=True)}
    return type("Thing", (Own,), body | columns)


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        (lambda: {"since": StateSinceColumn()}, "Thing.since is a StateSinceColumn, and the model has no StateMachine"),
        (
            lambda: {"a": StateMachineColumn(machine), "b": StateMachineColumn(shipping), "since": StateSinceColumn()},
            "Thing.since can belong to 'a', 'b': name one by of=",
        ),
        (
            lambda: {"a": StateMachineColumn(machine), "since": StateSinceColumn(of="x")},
            "Thing.since has of='x', which is not a state column of the model; it has 'a'",
        ),
        (
            lambda: {"a": StateMachineColumn(machine), "since": StateSinceColumn(), "other": StateSinceColumn()},
            "Thing.other belongs to 'a', which has the StateSinceColumn 'since'",
        ),
    ],
)
def test_a_column_that_belongs_to_no_state_is_refused(columns, problem):
    with pytest.raises(InvalidMachine, match=problem):
        declared(**columns())


def test_a_subclass_cannot_have_it_in_another_table():
    class Own(DeclarativeBase):
        pass

    class Thing(Own):
        __tablename__ = "since_bases"
        id: Mapped[int] = mapped_column(primary_key=True)
        state: Mapped[str] = StateMachineColumn(machine)

    with pytest.raises(InvalidMachine, match=r"Child.since is in table 'since_children' and 'state' in 'since_bases'"):

        class Child(Thing):
            __tablename__ = "since_children"
            id: Mapped[int] = mapped_column(ForeignKey("since_bases.id"), primary_key=True)
            since: Mapped[datetime] = StateSinceColumn()


@pytest.mark.parametrize("option", ["default", "insert_default", "onupdate", "primary_key", "type_"])
def test_what_the_column_decides_itself_is_refused(option):
    with pytest.raises(TypeError, match=f"StateSinceColumn takes no {option}="):
        StateSinceColumn(**{option: True})


def test_an_effect_cannot_set_it():
    own = Machine(initial="a", events=[Event("Go", {"a": "b"}, effect=lambda thing: {"since": None})])
    thing = declared(state=StateMachineColumn(own), since=StateSinceColumn())

    with pytest.raises(
        InvalidMachine, match="sets 'since', a StateSinceColumn, which every change of the state writes"
    ):
        vars(thing)["__state_machines__"]["state"].event("Go")


def test_an_effect_of_another_machine_cannot_go_past_it():
    own = Machine(initial="a", events=[Event("Go", {"a": "b"}, effect=lambda thing: {"other": "shipped"})])
    columns = {"state": StateMachineColumn(own), "other": StateMachineColumn(shipping)}
    thing = declared(**columns, since=StateSinceColumn(of="other"))

    with pytest.raises(InvalidMachine, match="without its StateSinceColumn"):
        vars(thing)["__state_machines__"]["state"].event("Go")
