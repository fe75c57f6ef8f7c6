"""Declarations that a user writes, as a type checker sees them."""

# A guard takes whatever payload the event has, so the parameters of a lambda have no types of their own.
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import enum
from typing import Any

from sqlalchemy import func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_fsm_mysql import ANY, Event, Machine, Stateful, StateMachineColumn, StateType, Transition

machine = Machine(
    initial="Initializing",
    events=[
        Event("NotReady", {"Initializing": "Initializing", "Running": "Error", "Error": "Error"}),
        Event("Ready", {("Initializing", "Running", "Error"): "Running"}),
        Event("Stop", {("Initializing", "Running", "Error", "Stopped"): "Stopped"}),
        Event("Delete", {("Stopped", "Deleted"): "Deleted"}),
    ],
)

refunds = Machine(
    initial="Paid",
    states=["Paid", "Refunded", "Lost"],
    name="refunds",
    events=[
        Event(
            "Refund",
            [
                Transition("Paid", "Refunded", guard=lambda order, amount: order.total == amount),
                Transition(
                    "Paid",
                    "Paid",
                    guard=lambda order, amount: order.total > amount,
                    effect=lambda order, amount: {"refunds": order.refunds + 1},
                ),
            ],
            effect=lambda order, amount: {"total": order.total - amount, "refunded_at": func.now()},
        ),
        Event("Lose", {ANY: "Lost"}),
    ],
)


class Light(enum.Enum):
    RED = "red"
    GREEN = "green"


lights = Machine(
    initial=Light.RED,
    states=Light,
    events=[Event("Go", {Light.RED: Light.GREEN}), Event("Halt", {ANY: Light.RED})],
)


def is_due(order: Any, amount: Any) -> Any:
    return order.total > amount


dues = Machine(initial="Open", events=[Event("Call", [Transition("Open", "Called", guard=is_due)])])


class Base(DeclarativeBase):
    pass


class Order(Stateful, Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)
    refund: Mapped[str] = StateMachineColumn(
        refunds, storage="varchar", protected=False, name="refund_state", index=True
    )
    light: Mapped[Light] = StateMachineColumn(lights)


class Special(Order):
    """A subclass, whose outcomes are of its own class."""


def core_type() -> StateType:
    return StateType(machine, storage="enum")
