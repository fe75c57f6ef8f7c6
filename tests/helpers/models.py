"""Machines as their users write them, good and broken, for the helpers of ``sqlalchemy_fsm_mysql.testing``."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import String, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, declared_attr, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    Machine,
    Moved,
    Refused,
    Stateful,
    StateMachineColumn,
    Transition,
    TransitionHistory,
)
from tests.reference import machine


class Base(DeclarativeBase):
    @declared_attr.directive
    def __tablename__(cls) -> str:
        return f"helped_{cls.__name__.lower()}"


class Order(Stateful, Base):
    id: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str | None] = mapped_column(String(40))
    state: Mapped[str] = StateMachineColumn(machine)


class OrderTransition(TransitionHistory, Base):
    __records__ = "Order.state"


class Plain(Stateful, Base):
    """No history."""

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)


class Unprotected(Stateful, Base):
    """Its state may be assigned, which goes past the machine."""

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine, protected=False)


payments = Machine(
    initial="Paid",
    events=[
        Event(
            "Refund",
            [
                Transition("Paid", "Refunded", guard=lambda payment, amount: payment.total == amount),
                Transition("Paid", "Paid", guard=lambda payment, amount: payment.total > amount),
            ],
            effect=lambda payment, amount: {"total": payment.total - amount},
        ),
        Event("Void", {"Paid": "Refunded"}),
    ],
)
# The second guard lets a refund through that is larger than what is left.
careless = Machine(
    initial="Paid",
    events=[
        Event(
            "Refund",
            [Transition("Paid", "Paid", guard=lambda payment, amount: payment.total > 0)],
            effect=lambda payment, amount: {"total": payment.total - amount},
        ),
        Event("Void", {"Paid": "Refunded"}),
    ],
)


class Payment(Stateful, Base):
    id: Mapped[int] = mapped_column(primary_key=True)
    total: Mapped[int] = mapped_column(default=100)
    state: Mapped[str] = StateMachineColumn(payments)


class Careless(Stateful, Base):
    id: Mapped[int] = mapped_column(primary_key=True)
    total: Mapped[int] = mapped_column(default=100)
    state: Mapped[str] = StateMachineColumn(careless)


def fire_by_hand(session: Session, key: int, event: str, payload: dict[str, Any]) -> Moved[Any] | Refused[Any]:
    """Read, decide, write: what loses updates."""
    state = session.scalars(select(Plain.state).where(Plain.id == key)).one()
    target = machine.targets(event).get(state)
    if target is None:
        return Refused(Plain, key, event, state, "state")
    time.sleep(0.002)
    session.execute(update(Plain).where(Plain.id == key).values(state=target))
    return Moved(Plain, key, event, state, target)


def fire_what_is_not_declared(session: Session, key: int, event: str, payload: dict[str, Any]) -> Moved[Any]:
    state = session.scalars(select(Plain.state).where(Plain.id == key).with_for_update()).one()
    session.execute(update(Plain).where(Plain.id == key).values(state="Error"))
    return Moved(Plain, key, event, state, "Error")


def fail(session: Session, key: int, event: str, payload: dict[str, Any]) -> Moved[Any]:
    raise LookupError("of the user's own")
