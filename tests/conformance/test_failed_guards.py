"""Which guards refused, learned in the statement that refused; guards of an event, optional payload."""

from __future__ import annotations

import pytest
from sqlalchemy import String, null, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    Guard,
    GuardNotSatisfied,
    Machine,
    StateMachineColumn,
    Transition,
    TransitionNotAllowed,
    fire_key,
    fire_where,
    try_fire_key,
)
from tests.conformance.support import stored


class Base(DeclarativeBase):
    """The tables of this module."""


def is_owner(order, user):
    return order.owner == user


def is_small(order):
    return order.total < 10


machine = Machine(
    initial="new",
    events=[
        Event(
            "Pay",
            {"new": "paid"},
            guard={
                "owner": Guard(is_owner, "only the owner may pay"),
                "in stock": lambda order: order.stock > 0,
                "priced": lambda order: order.total > 0,
            },
        ),
        Event(
            "Refund",
            [
                Transition("paid", "refunded", guard={"whole": lambda order, amount: order.total == amount}),
                Transition(
                    "paid",
                    "paid",
                    guard={
                        "part": lambda order, amount: order.total > amount,
                        "large": lambda order: order.total >= 50,
                    },
                ),
            ],
            guard=is_owner,
        ),
        Event("Drop", [Transition("new", "dropped", guard=is_small), Transition("paid", "dropped")]),
        Event("Note", {"new": "new"}, effect=lambda order, text="none": {"note": text}),
    ],
)


class Order(Base):
    __tablename__ = "failed_orders"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine)
    owner: Mapped[str | None] = mapped_column(String(20), default="ann")
    stock: Mapped[int | None] = mapped_column(default=1)
    total: Mapped[int] = mapped_column(default=100)
    note: Mapped[str | None] = mapped_column(String(20))


def order(session: Session, **values: object) -> Order:
    made = Order(id=1, **values)
    session.add(made)
    session.flush()
    return made


@pytest.mark.parametrize(
    ("values", "user", "failed"),
    [
        ({}, "bob", ("owner",)),
        ({"stock": 0}, "ann", ("in stock",)),
        ({"stock": null()}, "ann", ("in stock",)),
        ({"stock": 0, "total": 0}, "bob", ("owner", "in stock", "priced")),
        ({"owner": null(), "total": 0}, "ann", ("owner", "priced")),
    ],
)
def test_refusal_names_every_guard_that_is_not_true(session, values, user, failed):
    order(session, **values)

    refused = try_fire_key(Order, 1, "Pay", session, user=user)

    assert (refused.reason, refused.state, refused.failed) == ("guard", "new", failed)
    assert refused.sentences == (("only the owner may pay",) if "owner" in failed else ())
    assert refused.to_dict()["failed"] == list(failed)


def test_move_needs_them_all(session):
    order(session)
    assert fire_key(Order, 1, "Pay", session, user="ann").target == "paid"


def test_error_names_them(session):
    made = order(session, stock=0)

    with pytest.raises(GuardNotSatisfied) as refused:
        made.fire("Pay", session, user="bob")

    assert refused.value.failed == ("owner", "in stock")
    assert str(refused.value) == (
        "failed_orders 1 refused 'Pay': it is 'new', but 'owner', 'in stock' are not true of this row:"
        " only the owner may pay."
    )


@pytest.mark.parametrize(
    ("total", "user", "amount", "failed"),
    [
        (100, "bob", 100, ("is_owner", "part")),
        (100, "ann", 200, ("whole", "part")),
        (20, "ann", 10, ("whole", "large")),
        (20, "bob", 30, ("is_owner", "whole", "part", "large")),
    ],
)
def test_every_alternative_is_asked(session, total, user, amount, failed):
    """Guards of one transition may be true, and the transition not taken because of another."""
    order(session, state="paid", total=total)

    assert try_fire_key(Order, 1, "Refund", session, user=user, amount=amount).failed == failed


def test_function_is_called_by_its_name(session):
    order(session)
    assert try_fire_key(Order, 1, "Drop", session).failed == ("is_small",)


def test_refusal_by_state_names_none(session):
    made = order(session, state="refunded")

    refused = made.try_fire("Pay", session, user="bob")

    assert (refused.reason, refused.failed, refused.sentences) == ("state", (), ())
    with pytest.raises(TransitionNotAllowed, match="'Pay' leaves 'new'"):
        made.fire("Pay", session, user="bob")


def test_refusal_and_its_guards_are_one_statement(session, sent):
    order(session, stock=0)
    with sent() as guarded:
        try_fire_key(Order, 1, "Pay", session, user="bob")
    with sent() as by_state:
        try_fire_key(Order, 1, "Refund", session, user="bob", amount=1)
    assert guarded.number == by_state.number


def test_guard_of_the_event_holds_in_sets_and_queries(session):
    session.add_all(Order(id=key, owner=owner) for key, owner in enumerate(["ann", "bob", "ann"], start=1))
    session.flush()

    assert session.scalars(select(Order.id).where(Order.state.can("Pay", user="ann"))).all() == [1, 3]
    assert fire_where(Order, "Pay", session, Order.id < 3, user="ann").moved == 1


def test_optional_payload_has_its_default(session):
    made = order(session)

    made.fire("Note", session)
    assert stored(session, Order)[1,]["note"] == "none"
    made.fire("Note", session, text="given")
    assert stored(session, Order)[1,]["note"] == "given"
    fire_where(Order, "Note", session, Order.id == 1)
    assert stored(session, Order)[1,]["note"] == "none"


def test_unknown_payload_is_still_refused(session):
    made = order(session)
    with pytest.raises(TypeError, match="has no 'remark'; its payload is 'text'"):
        made.fire("Note", session, remark="x")
