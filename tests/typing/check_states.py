"""The states in outcomes and histories, and the methods of Order.state, with the model's own types."""

from __future__ import annotations

import enum
from typing import Any, Literal

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from typing_extensions import assert_type

from sqlalchemy_fsm_mysql import (
    Event,
    Machine,
    Moved,
    Refused,
    Stateful,
    StateMachineColumn,
    StateMapped,
    TransitionHistory,
    fire_key,
    force_state,
    on_committed,
    on_moved,
    try_fire_key,
)


class Status(enum.Enum):
    NEW = "new"
    PAID = "paid"


machine = Machine(initial=Status.NEW, states=Status, events=[Event("Pay", {Status.NEW: Status.PAID})])


class Base(DeclarativeBase):
    pass


class Order(Stateful, Base):
    """Its attribute is named state, so the states of its outcomes are known."""

    __tablename__ = "typed_orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[Status] = StateMachineColumn(machine)


class Text(Stateful, Base):
    __tablename__ = "typed_texts"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)


class Invoice(Stateful[Literal["Pay"], Status, "InvoiceTransition"], Base):
    __tablename__ = "typed_invoices"
    id: Mapped[int] = mapped_column(primary_key=True)
    status: StateMapped[Status] = StateMachineColumn(machine)


class InvoiceTransition(TransitionHistory[Status], Base):
    __tablename__ = "typed_invoice_transitions"
    __records__ = Invoice.status
    record_id: Mapped[int]


class Other(Stateful, Base):
    """Of another name, and not given to Stateful: any state."""

    __tablename__ = "typed_others"
    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[Status] = StateMachineColumn(machine)


class Plain(Base):
    """Without Stateful, for the functions that take a key."""

    __tablename__ = "typed_plain"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[Status] = StateMachineColumn(machine)


class Two(Stateful[str, "str | Status"], Base):
    __tablename__ = "typed_two"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)
    other: Mapped[Status] = StateMachineColumn(machine)


def of_the_attribute_state(order: Order, text: Text) -> None:
    assert_type(order.fire("Pay"), Moved[Order])
    assert_type(order.fire("Pay").source, Status)
    assert_type(order.fire("Pay").target, Status)
    assert_type(text.fire("Pay").target, str)


def of_the_parameter(invoice: Invoice, two: Two) -> None:
    assert_type(invoice.fire("Pay").target, Status)
    assert_type(two.fire("Pay").target, str | Status)
    invoice.fire("Pai")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


def of_neither(other: Other) -> None:
    assert_type(other.fire("Pay").target, str | enum.Enum)


def of_keys(order: Order, session: Session) -> None:
    assert_type(fire_key(Order, 1, "Pay", session).target, Status)
    assert_type(fire_key(Plain, 1, "Pay", session).target, Status)
    assert_type(force_state(order, Status.PAID, session).source, Status)


def of_a_refusal(order: Order, session: Session) -> None:
    outcome = order.try_fire("Pay", session)
    if outcome:
        assert_type(outcome.target, Status)
    else:
        assert_type(outcome.state, Status)
    by_key = try_fire_key(Order, 1, "Pay", session)
    match by_key:
        case Moved():
            assert_type(by_key.target, Status)
        case Refused():
            assert_type(by_key.state, Status)


def of_a_history(order: Order, invoice: Invoice) -> None:
    assert_type(invoice.history(), list[InvoiceTransition])
    assert_type(invoice.history()[0].source, Status)
    assert_type(invoice.history()[0].record_id, int)
    assert_type(order.history(), list[TransitionHistory])
    assert_type(order.history()[0].actor, str | None)


def in_statements(session: Session, invoice: Invoice) -> None:
    assert_type(invoice.status, Status)
    assert_type(Invoice.status.can("Pay"), ColumnElement[bool])
    assert_type(Invoice.status.can("Pay", amount=3), ColumnElement[bool])
    assert_type(Invoice.status.after("Pay"), ColumnElement[Status])
    assert_type(Invoice.status.due("Pay"), ColumnElement[bool])
    assert_type(Invoice.status.in_group("open"), ColumnElement[bool])
    assert_type(session.scalars(select(Invoice).where(Invoice.status == Status.NEW)).all()[0], Invoice)


@on_moved(Order.state, event="Pay")
def mail(moved: Moved[Order], session: Session) -> None:
    assert_type(moved.target, Status)


@on_committed(Order.state)
def announce(moved: Moved[Any]) -> int:
    return 1


@on_moved(Order.state)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
def wrong(moved: int) -> None: ...


@on_committed(Order.state)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
def wrong_committed(moved: Moved[Order], session: Session) -> None: ...


def as_data(moved: Moved[Order], refused: Refused[Order]) -> None:
    assert_type(moved.to_dict()["target"], str)
    assert_type(moved.to_dict()["sequence"], int | None)
    assert_type(refused.to_dict()["reason"], Literal["state", "guard"])
