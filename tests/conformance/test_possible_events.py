"""What would move a row now; groups in queries; events as an Enum."""

from __future__ import annotations

import enum
import gc
import tracemalloc

import pytest
from sqlalchemy import String, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    Machine,
    Stateful,
    StateMachineColumn,
    Transition,
    fire_key,
    fire_where,
    try_fire_key,
)
from sqlalchemy_fsm_mysql.errors import InstanceStateError, UnknownEvent
from sqlalchemy_fsm_mysql.orm.mapped import sole_state
from sqlalchemy_fsm_mysql.orm.possible import possible_events


class Base(DeclarativeBase):
    """The tables of this module."""


class Does(str, enum.Enum):
    PAY = "Pay"
    SHIP = "Ship"
    CANCEL = "Cancel"
    REMIND = "Remind"
    VOID = "Void"


def asking_for(bit):
    """An event whose guard needs the payload ``name_<bit>``."""
    guard = eval(f"lambda row, name_{bit}: row.id == name_{bit}")  # noqa: S307 - the name is a number's
    return Event(f"Event{bit}", [Transition("new", "new", guard=guard)])


def is_owner(order, user):
    return order.owner == user


machine = Machine(
    initial="new",
    groups={"open": ("new", "paid"), "over": ["shipped", "cancelled"], "none of these": ["cancelled"]},
    events=[
        Event(Does.PAY, [Transition("new", "paid", guard=lambda order: order.total > 0)]),
        Event(Does.SHIP, {"paid": "shipped"}),
        Event(Does.CANCEL, {"open": "cancelled"}, guard=is_owner),
        Event(
            Does.REMIND,
            {"new": "new"},
            guard=lambda order, user="nobody": order.owner != user,
        ),
        Event(Does.VOID, {"open": "cancelled"}, guard=lambda order, reason: order.owner != reason),
    ],
)


class Order(Stateful[Does], Base):
    __tablename__ = "possible_orders"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine)
    owner: Mapped[str] = mapped_column(String(20), default="ann")
    total: Mapped[int] = mapped_column(default=100)


class Wide(Base):
    __tablename__ = "possible_wide"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(Machine(initial="new", events=list(map(asking_for, range(8)))))


@pytest.fixture
def order(session: Session) -> Order:
    order = Order(id=1)
    session.add(order)
    session.flush()
    return order


def test_guards_are_asked(session, order):
    assert order.possible_events() == ["Pay", "Remind"]
    assert order.possible_events(session, user="ann") == ["Pay", "Cancel"]
    assert order.possible_events(user="bob", reason="x") == ["Pay", "Remind", "Void"]


def test_row_is_asked_and_not_memory(session, order):
    session.connection().execute(Order.__table__.update().values(total=0))
    assert order.possible_events(user="ann") == ["Cancel"]


def test_pending_changes_are_seen(session, order):
    order.total = 0
    assert order.possible_events(user="ann") == ["Cancel"]


def test_one_statement(session, order, sent):
    order.possible_events(user="ann")
    with sent() as statements:
        order.possible_events(user="bob")
    assert statements.number == 1


def test_payload_that_no_event_takes(session, order):
    with pytest.raises(TypeError, match="no event of Order takes 'users'; its events take 'reason', 'user'"):
        order.possible_events(users="ann")


def test_the_names_of_a_payload_fill_no_memory(session):
    """Eight names are 256 sets of events; a caller outside may choose the names."""

    wide = Wide(id=1)
    session.add(wide)
    session.flush()
    for names in range(256):
        given = {f"name_{bit}": 1 for bit in range(8) if names >> bit & 1}
        assert possible_events(wide, session, None, given) == [f"Event{bit}" for bit in range(8) if names >> bit & 1]

    assert len(sole_state(Wide).forced.cache["possible"]) <= 64


def test_an_unknown_event_is_kept_nowhere(session, order):
    """A caller outside may choose the names: 600 of 10,000 characters would be six million bytes."""

    def fire_unknown(number: int) -> None:
        name = f"{number:0>10000}"
        ways = (
            lambda: fire_key(Order, 1, name, session),
            lambda: try_fire_key(Order, 1, name, session),
            lambda: fire_where(Order, name, session, Order.id == 1),
            lambda: order.fire(name),
            lambda: order.can_fire(name),
            lambda: Order.state.can(name),
        )
        for way in ways:
            with pytest.raises(UnknownEvent):
                way()

    fire_unknown(0)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(1, 101):
            fire_unknown(number)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert after - before < 300_000


def test_object_that_is_not_stored(session):
    with pytest.raises(InstanceStateError):
        Order(id=7).possible_events(session)


def test_enum_names_an_event_everywhere(session, order):
    assert fire_key(Order, 1, Does.PAY, session).event == "Pay"
    assert order.can_fire(Does.SHIP)
    assert session.scalars(select(Order.id).where(Order.state.can(Does.SHIP))).all() == [1]
    assert fire_where(Order, Does.SHIP, session, Order.id == 1).event == "Ship"
    assert [type(name) for name in machine.events] == [str] * 5


def test_other_enum_is_no_event(session, order):
    class Other(str, enum.Enum):
        PAY = "Payed"

    with pytest.raises(UnknownEvent):
        order.fire(Other.PAY)


@pytest.mark.parametrize(("group", "found"), [("open", ["new", "paid"]), ("over", ["shipped"]), ("none of these", [])])
def test_groups_in_queries(session, group, found):
    session.add_all(Order(id=key, state=state) for key, state in enumerate(["new", "paid", "shipped"], start=1))
    session.flush()

    assert session.scalars(select(Order.state).where(Order.state.in_group(group)).order_by(Order.id)).all() == found
    assert session.scalars(select(Order.state).where(~Order.state.in_group(group)).order_by(Order.id)).all() == [
        state for state in ["new", "paid", "shipped"] if state not in found
    ]


def test_group_that_there_is_not():
    with pytest.raises(ValueError, match="'opne' is not a group of this machine; its groups are 'open', 'over'"):
        Order.state.in_group("opne")
