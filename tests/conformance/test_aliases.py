"""Rows that hold a state's older spelling, or a retired state, on every database and by both backends."""

from __future__ import annotations

import pytest
from sqlalchemy import select, true, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    Machine,
    StateMachineColumn,
    Transition,
    TransitionHistory,
    TransitionNotAllowed,
    fire_key,
    fire_where,
    replay,
)
from tests.conformance.support import stored

machine = Machine(
    initial="Running",
    events=[
        Event("Fail", {("Running", "Failed"): "Failed"}),
        Event("Repair", {("Failed", "Broken"): "Running"}),
        Event("Forgive", [Transition("Failed", "Running", guard=lambda order: order.errors < 3)]),
        Event("Stop", {"Running": "Running"}),
    ],
    aliases={"Error": "Failed"},
    retired=["Broken"],
)


class Base(DeclarativeBase):
    """The tables of this module."""


class Order(Base):
    __tablename__ = "aliased_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)
    errors: Mapped[int] = mapped_column(default=0)


class OrderTransition(TransitionHistory, Base):
    __tablename__ = "aliased_order_transitions"
    __records__ = "Order.state"


@pytest.fixture
def order(session: Session) -> Order:
    """A row that an older release wrote: it holds 'Error'."""
    session.add(Order(id=1))
    session.flush()
    write(session, "Error")
    session.expire_all()
    return session.get_one(Order, 1)


def write(session: Session, text: str) -> None:
    """Write *text* as it stands, as a release that spells it so would."""
    table = Order.__table__
    session.connection().exec_driver_sql(f"UPDATE {table.name} SET state = '{text}'")


def raw(session: Session) -> list[str]:
    table = Order.__table__
    return [row[0] for row in session.connection().exec_driver_sql(f"SELECT state FROM {table.name} ORDER BY id")]


def test_alias_is_loaded_as_its_state(session, order):
    assert (order.state, raw(session)) == ("Failed", ["Error"])


def test_event_leaves_an_alias_as_it_leaves_the_state(session, order):
    moved = order.fire("Repair", session)

    assert (moved.source, moved.target, raw(session)) == ("Failed", "Running", ["Running"])


def test_staying_event_writes_the_states_own_spelling(session, order):
    moved = order.fire("Fail", session)

    assert (moved.changed, raw(session)) == (False, ["Failed"])


def test_guard_is_judged_on_an_alias_too(session, order):
    assert order.fire("Forgive", session).target == "Running"


def test_refusal_names_the_state_and_leaves_the_alias(session, order):
    before = stored(session, Order)

    with pytest.raises(TransitionNotAllowed) as refused:
        order.fire("Stop", session)

    assert refused.value.state == "Failed"
    assert (before, ["Error"]) == (stored(session, Order), raw(session))


def test_retired_state_is_left(session, order):
    write(session, "Broken")

    assert ((moved := fire_key(Order, 1, "Repair", session)).source, moved.target) == ("Broken", "Running")


@pytest.mark.parametrize("spelling", ["Failed", "Error"])
def test_query_by_either_spelling_finds_both(session, order, spelling):
    session.add(Order(id=2, state="Failed"))
    session.add(Order(id=3))
    session.flush()

    def found(criterion):
        return session.scalars(select(Order.id).where(criterion).order_by(Order.id)).all()

    assert found(Order.state == spelling) == [1, 2]
    assert found(Order.state != spelling) == [3]
    assert found(Order.state.in_([spelling, "Running"])) == [1, 2, 3]
    assert found(Order.state.can("Repair")) == [1, 2]
    assert found(Order.state.can("Forgive")) == [1, 2]
    assert session.scalars(select(Order.state.after("Repair")).where(Order.id < 3)).all() == ["Running"] * 2


def test_set_of_rows_counts_both_spellings_as_one(session, order):
    session.add(Order(id=2, state="Failed"))
    session.flush()

    moved = fire_where(Order, "Repair", session, true())

    assert (dict(moved.by_transition), raw(session)) == ({("Failed", "Running"): 2}, ["Running"] * 2)


def test_new_row_by_an_alias_is_written_as_the_state(session, order):
    session.add(Order(id=2, state="Error"))
    session.flush()

    assert raw(session) == ["Error", "Failed"]


def test_history_over_a_change_of_spelling_replays(session, order):
    order.fire("Repair", session)
    order.fire("Fail", session)
    write(session, "Error")
    order.fire("Repair", session)

    assert replay(order.history(session)) == "Running"


def test_alias_can_be_stored_by_the_columns_own_type(session, order):
    """ENUM and CHECK take it: an older server goes on writing it."""
    session.execute(update(Order).values(errors=1))

    assert raw(session) == ["Error"]
