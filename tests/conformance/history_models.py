"""The models on which history, tokens, hooks and units of work are tested, and the histories that record them."""

from __future__ import annotations

import enum

from sqlalchemy import ForeignKey, Integer, String
from sqlalchemy.orm import DeclarativeBase, Mapped, declared_attr, mapped_column

from sqlalchemy_fsm_mysql import Event, Machine, Stateful, StateMachineColumn, Transition, TransitionHistory
from tests.reference import machine


class Base(DeclarativeBase):
    """Their tables have names of their own: other suites use the same database."""

    @declared_attr.directive
    def __tablename__(cls) -> str:
        return f"recorded_{cls.__name__.lower()}"


class Order(Stateful, Base):
    """The reference machine with a history, which names it by a string."""

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)
    note: Mapped[str] = mapped_column(String(40), default="")


class OrderTransition(TransitionHistory, Base):
    __records__ = "Order.state"


class Beacon(Stateful, Base):
    """A machine whose column asks for packets by itself."""

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine, one_packet=True)


class BeaconTransition(TransitionHistory, Base):
    __records__ = "Beacon.state"


class Parcel(Stateful, Base):
    """A composite key, part of it text."""

    depot: Mapped[str] = mapped_column(String(20), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine)


class ParcelTransition(TransitionHistory, Base):
    __records__ = Parcel.state


class Light(enum.Enum):
    RED = "red"
    GREEN = "green"


class Signal(Stateful, Base):
    """States that are members of an enum, and a key with a name of its own."""

    name: Mapped[str] = mapped_column("signal_name", String(30), primary_key=True)
    light: Mapped[Light] = StateMachineColumn(
        Machine(
            initial=Light.RED,
            states=Light,
            events=[Event("Go", {Light.RED: Light.GREEN}), Event("Halt", {Light.GREEN: Light.RED})],
        )
    )


class SignalTransition(TransitionHistory, Base):
    __records__ = "Signal.light"


class Vehicle(Stateful, Base):
    """Joined inheritance, the state in the parent's table."""

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    state: Mapped[str] = StateMachineColumn(machine)
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "vehicle"}


class Truck(Vehicle):
    id: Mapped[int] = mapped_column(ForeignKey(Vehicle.id), primary_key=True)
    axles: Mapped[int] = mapped_column(default=2)
    __mapper_args__ = {"polymorphic_identity": "truck"}


class VehicleTransition(TransitionHistory, Base):
    __records__ = Vehicle.state


class Device(Stateful, Base):
    """Two machines, each with a history of its own."""

    id: Mapped[int] = mapped_column(primary_key=True)
    power: Mapped[str] = StateMachineColumn(
        Machine(initial="off", events=[Event("Switch", {"off": "on", "on": "off"})])
    )
    link: Mapped[str] = StateMachineColumn(Machine(initial="down", events=[Event("Connect", {"down": "up"})]))


class PowerChange(TransitionHistory, Base):
    __records__ = Device.power


class LinkChange(TransitionHistory, Base):
    __records__ = Device.link


class Payment(Stateful, Base):
    """A guard and an effect, with a payload."""

    id: Mapped[int] = mapped_column(primary_key=True)
    total: Mapped[int] = mapped_column(Integer, default=100)
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="Paid",
            events=[
                Event(
                    "Refund",
                    [
                        Transition("Paid", "Refunded", guard=lambda payment, amount: payment.total == amount),
                        Transition("Paid", "Paid", guard=lambda payment, amount: payment.total > amount),
                    ],
                    effect=lambda payment, amount: {"total": payment.total - amount},
                )
            ],
        )
    )


class PaymentTransition(TransitionHistory, Base):
    __records__ = Payment.state


class Plain(Stateful, Base):
    """No history."""

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)
