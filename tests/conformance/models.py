"""The reference machine in every shape that a mapping can take."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sqlalchemy import Column, ForeignKey, Integer, LargeBinary, Numeric, String, Table, Uuid
from sqlalchemy.dialects.mysql import VARBINARY
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column

from sqlalchemy_fsm_mysql import ANY, Event, Machine, Stateful, StateMachineColumn, StateType, Transition
from tests.reference import machine


class Base(DeclarativeBase):
    """The tables of this module."""


# --- names


class Renamed(Base):
    """Attribute and column have names of their own."""

    __tablename__ = "renamed_orders"

    number: Mapped[int] = mapped_column("order_no", primary_key=True)
    phase: Mapped[str] = StateMachineColumn(machine, name="order_phase")
    total: Mapped[int] = mapped_column("sum", default=0)


class Reserved(Base):
    """A table and columns that have to be quoted."""

    __tablename__ = "order"

    id: Mapped[int] = mapped_column("select", primary_key=True)
    group: Mapped[str] = StateMachineColumn(machine, name="group")
    note: Mapped[str] = mapped_column("key", String(20), default="")


class Quoted(Base):
    """Names that no identifier without quotes can have."""

    __tablename__ = "an order's 100% `table`"

    id: Mapped[int] = mapped_column("the id", primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine, name='it\'s 50% "state": new')


class Varchar(Base):
    """The state as VARCHAR with a CHECK."""

    __tablename__ = "varchar_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine, storage="varchar")


# --- mixins, inheritance, mappings


class HasPhase:
    """The column comes from a mixin, the methods for type checkers from another."""

    phase: Mapped[str] = StateMachineColumn(machine)


class Mixed(HasPhase, Stateful, Base):
    __tablename__ = "mixed_orders"

    id: Mapped[int] = mapped_column(primary_key=True)


class MixedToo(HasPhase, Base):
    __tablename__ = "mixed_orders_too"

    id: Mapped[int] = mapped_column(primary_key=True)


class Task(Base):
    """Single-table inheritance."""

    __tablename__ = "tasks"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(10))
    state: Mapped[str] = StateMachineColumn(machine)

    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "task"}


class Print(Task):
    __mapper_args__ = {"polymorphic_identity": "print"}


class Scan(Task):
    __mapper_args__ = {"polymorphic_identity": "scan"}


class ColourScan(Scan):
    __mapper_args__ = {"polymorphic_identity": "colour"}


class Vehicle(Base):
    """Joined inheritance, the state in the base's table."""

    __tablename__ = "vehicles"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(10))
    state: Mapped[str] = StateMachineColumn(machine)

    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "vehicle"}


class Car(Vehicle):
    __tablename__ = "cars"

    id: Mapped[int] = mapped_column(ForeignKey("vehicles.id"), primary_key=True)
    doors: Mapped[int] = mapped_column(default=4)

    __mapper_args__ = {"polymorphic_identity": "car"}


class Tram(Vehicle):
    __tablename__ = "trams"

    id: Mapped[int] = mapped_column(ForeignKey("vehicles.id"), primary_key=True)

    __mapper_args__ = {"polymorphic_identity": "tram"}


class Document(Base):
    """Joined inheritance, the state in a child's table."""

    __tablename__ = "documents"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(10))

    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "document"}


class Invoice(Document):
    __tablename__ = "invoices"

    invoice_id: Mapped[int] = mapped_column(ForeignKey("documents.id"), primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)

    __mapper_args__ = {"polymorphic_identity": "invoice"}


class Reminder(Invoice):
    """A subclass without a table, of one that owns the state's table but not the discriminator."""

    __mapper_args__ = {"polymorphic_identity": "reminder"}


class DataBase(MappedAsDataclass, DeclarativeBase):
    metadata = Base.metadata


class Data(DataBase):
    __tablename__ = "data_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str] = mapped_column(String(20), default="Ada")
    state: Mapped[str] = StateMachineColumn(machine)


class Imperative:
    """Mapped without a declarative base."""

    def __init__(self, **values: Any) -> None:
        for name, value in values.items():
            setattr(self, name, value)


Base.registry.map_imperatively(
    Imperative,
    Table(
        "imperative_orders",
        Base.metadata,
        Column("id", Integer, primary_key=True),
        Column("status", StateType(machine), nullable=False, default="Initializing"),
    ),
    properties={"state": Base.metadata.tables["imperative_orders"].c.status},
)


# --- keys


class Composite(Base):
    __tablename__ = "composite_orders"

    tenant: Mapped[str] = mapped_column("tenant_name", String(20), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine)


class Named(Base):
    __tablename__ = "named_orders"

    name: Mapped[str] = mapped_column(String(20), primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)


class Unique(Base):
    __tablename__ = "unique_orders"

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)


class Binary(Base):
    __tablename__ = "binary_orders"

    id: Mapped[bytes] = mapped_column(LargeBinary().with_variant(VARBINARY(16), "mysql", "mariadb"), primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)


class Exact(Base):
    __tablename__ = "exact_orders"

    id: Mapped[Any] = mapped_column(Numeric(10, 2), primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine)


@dataclass(frozen=True)
class Shape:
    """A model, the name of its state's attribute, a key, and a new instance of that key."""

    model: Any
    attribute: str
    key: Any
    new: Callable[..., Any]

    def make(self, **state: str) -> Any:
        return self.new(**({self.attribute: state["state"]} if state else {}))

    @property
    def column(self) -> Any:
        return getattr(self.model, self.attribute)


def shape(model: Any, attribute: str = "state", **key: Any) -> Shape:
    parts = tuple(key.values()) if len(key) > 1 else next(iter(key.values()))
    return Shape(model, attribute, parts, lambda **state: model(**key, **state))


RANDOM = uuid.UUID("12345678-9abc-4def-8123-456789abcdef")

SHAPES = {
    "renamed": shape(Renamed, "phase", number=7),
    "reserved": shape(Reserved, "group", id=7),
    "quoted": shape(Quoted, id=7),
    "varchar": shape(Varchar, id=7),
    "mixin": shape(Mixed, "phase", id=7),
    "second use of a mixin": shape(MixedToo, "phase", id=7),
    "single base": shape(Task, id=7),
    "single child": shape(Print, id=7),
    "single grandchild": shape(ColourScan, id=7),
    "joined base": shape(Vehicle, id=7),
    "joined child": shape(Car, id=7),
    "state in child": shape(Invoice, id=7),
    "state in parent's table": shape(Reminder, id=7),
    "dataclass": Shape(Data, "state", 7, lambda **state: Data(id=7, **state)),
    "imperative": shape(Imperative, id=7),
    "composite key": shape(Composite, tenant="o'hara", number=7),
    "string key": shape(Named, name="7 o'clock 100%"),
    "UUID key": shape(Unique, id=RANDOM),
    "binary key": shape(Binary, id=b"\x00\xff'\\%7"),
}


# --- machines


class Light(enum.Enum):
    """Stored by name."""

    RED = 1
    GREEN = 2


class Job(str, enum.Enum):
    """Stored by value."""

    NEW = "brand new"
    DONE = "all done"


light_machine = Machine(
    initial=Light.RED,
    states=Light,
    events=[Event("Turn", {Light.RED: Light.GREEN, Light.GREEN: Light.RED}), Event("Stay", {Light.RED: Light.RED})],
)
job_machine = Machine(initial=Job.NEW, states=Job, events=[Event("Finish", {Job.NEW: Job.DONE})])


class Crossing(Base):
    """Three machines in a row, one event name in common to two of them."""

    __tablename__ = "crossings"

    id: Mapped[int] = mapped_column(primary_key=True)
    cars: Mapped[Light] = StateMachineColumn(light_machine)
    walkers: Mapped[Light] = StateMachineColumn(light_machine, storage="varchar")
    repair: Mapped[Job] = StateMachineColumn(job_machine)


# Each state would break a statement that spells it carelessly.
ODD_STATES = (
    "it's",
    'say "yes"',
    "back\\slash",
    "\\",
    "100%",
    "%s",
    "%(name)s",
    ":name",
    "a,b",
    "a;b -- c",
    "{x}",
    "`tick`",
    "x'",
    "''",
    "?",
    "\\'",
    "end\\",
)


def chain(states: tuple[str, ...], event: str = "Next") -> Machine:
    """A machine that goes through *states* one by one, and from the last nowhere."""
    return Machine(
        initial=states[0],
        states=states,
        events=[
            Event(event, dict(pairwise(states))),
            Event("Ban'%s:x\\", [Transition(ANY, states[0])]),
        ],
    )


odd_machine = chain(ODD_STATES)
long_machines = {n: chain(tuple(f"state {i:03}" for i in range(n))) for n in (255, 300)}
