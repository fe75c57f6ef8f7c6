"""The models on which the session's rules are tested, each for one thing that a session does with a row."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from itertools import count

from sqlalchemy import (
    DDL,
    Computed,
    FetchedValue,
    ForeignKey,
    Integer,
    String,
    Table,
    event,
    literal_column,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, column_property, declared_attr, mapped_column

from sqlalchemy_fsm_mysql import Event, Machine, Stateful, StateMachineColumn, Transition

machine = Machine(
    initial="Initializing",
    events=[
        Event("NotReady", {"Initializing": "Initializing", "Running": "Error", "Error": "Error"}),
        Event("Ready", {("Initializing", "Running", "Error"): "Running"}),
        Event("Stop", {("Initializing", "Running", "Error", "Stopped"): "Stopped"}),
        Event("Delete", {("Stopped", "Deleted"): "Deleted"}),
    ],
)


class Base(DeclarativeBase):
    """Their tables have names of their own: other suites use the same database."""

    @declared_attr.directive
    def __tablename__(cls) -> str:
        return f"rules_{cls.__name__.lower()}"


def id_column() -> Mapped[int]:
    return mapped_column(Integer, primary_key=True)


class Order(Stateful, Base):
    """A row with the reference machine, and a column that people edit."""

    id: Mapped[int] = id_column()
    state: Mapped[str] = StateMachineColumn(machine)
    note: Mapped[str] = mapped_column(String(40), default="")


Order.is_stopped = column_property(Order.__table__.c.state == "Stopped")


class Payment(Stateful, Base):
    """A guard and an effect that read what people edit."""

    id: Mapped[int] = id_column()
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="Open",
            events=[
                Event(
                    "Pay",
                    [Transition("Open", "Paid", guard=lambda payment, amount: payment.total >= amount)],
                    effect=lambda payment, amount: {"total": payment.total - amount},
                )
            ],
        )
    )
    total: Mapped[int] = mapped_column(default=0)
    note: Mapped[str] = mapped_column(String(40), default="")


ticks: Iterator[int] = count(1)


class Metered(Stateful, Base):
    """Columns that change with every UPDATE: by SQL, by Python, by being computed and by a trigger."""

    id: Mapped[int] = id_column()
    state: Mapped[str] = StateMachineColumn(machine)
    note: Mapped[str] = mapped_column(String(40), default="")
    by_sql: Mapped[int] = mapped_column(default=0, onupdate=literal_column("by_sql + 1"))
    was: Mapped[str] = mapped_column(String(20), default="", onupdate=literal_column("state"))
    by_python: Mapped[int] = mapped_column(default=0, onupdate=lambda: next(ticks))
    by_computation: Mapped[str] = mapped_column(
        String(40), Computed("CASE WHEN state = 'Stopped' THEN 'yes' ELSE 'no' END")
    )
    by_trigger: Mapped[int] = mapped_column(default=0, server_onupdate=FetchedValue())


def _counting_trigger(table: Table, column: str) -> None:
    """*column* of *table* counts the row's updates, by a trigger of the database."""
    name = f"{table.name}_{column}"
    mysql = f"CREATE TRIGGER {name} BEFORE UPDATE ON {table.name} FOR EACH ROW SET NEW.{column} = OLD.{column} + 1"
    sqlite = (
        f"CREATE TRIGGER {name} AFTER UPDATE ON {table.name} FOR EACH ROW WHEN NEW.{column} = OLD.{column} "
        f"BEGIN UPDATE {table.name} SET {column} = OLD.{column} + 1 WHERE id = NEW.id; END"
    )
    for text, dialects in ((mysql, ("mysql", "mariadb")), (sqlite, ("sqlite",))):
        event.listen(table, "after_create", DDL(text).execute_if(dialect=dialects))


class Counted(Stateful, Base):
    """A version that SQLAlchemy counts."""

    id: Mapped[int] = id_column()
    state: Mapped[str] = StateMachineColumn(machine)
    note: Mapped[str] = mapped_column(String(40), default="")
    version: Mapped[int] = mapped_column(default=1)
    __mapper_args__ = {"version_id_col": version}


class Stamped(Stateful, Base):
    """A version that Python makes, each unlike all before."""

    id: Mapped[int] = id_column()
    state: Mapped[str] = StateMachineColumn(machine)
    note: Mapped[str] = mapped_column(String(40), default="")
    version: Mapped[str] = mapped_column(String(32), default="first")
    __mapper_args__ = {"version_id_col": version, "version_id_generator": lambda known: uuid.uuid4().hex}


class Stepped(Stateful, Base):
    """A version that Python makes from the one before."""

    id: Mapped[int] = id_column()
    state: Mapped[str] = StateMachineColumn(machine)
    note: Mapped[str] = mapped_column(String(40), default="")
    version: Mapped[int] = mapped_column(default=10)
    __mapper_args__ = {"version_id_col": version, "version_id_generator": lambda known: (known or 0) + 10}


class Triggered(Stateful, Base):
    """A version that a trigger of the database makes."""

    id: Mapped[int] = id_column()
    state: Mapped[str] = StateMachineColumn(machine)
    note: Mapped[str] = mapped_column(String(40), default="")
    version: Mapped[int] = mapped_column(default=1, server_onupdate=FetchedValue())
    __mapper_args__ = {"version_id_col": version, "version_id_generator": False}


_counting_trigger(Metered.__table__, "by_trigger")
_counting_trigger(Triggered.__table__, "version")


class Job(Stateful, Base):
    """Two machines on one row, and a key of two parts."""

    tenant: Mapped[str] = mapped_column(String(20), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine)
    review: Mapped[str] = StateMachineColumn(
        Machine(initial="Asked", events=[Event("Approve", {"Asked": "Approved"}), Event("Stop", {"Asked": "Dropped"})])
    )


class Device(Stateful, Base):
    """The base of single-table and of joined inheritance; the state is in its table."""

    id: Mapped[int] = id_column()
    kind: Mapped[str] = mapped_column(String(20))
    state: Mapped[str] = StateMachineColumn(machine)
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "device"}


class Camera(Device):
    """In the same table, with a column that only its own class maps."""

    __tablename__ = None  # type: ignore[assignment]
    shots: Mapped[int | None] = mapped_column(default=0, onupdate=literal_column("coalesce(shots, 0) + 1"))
    __mapper_args__ = {"polymorphic_identity": "camera"}


class Printer(Device):
    """In two tables, with a machine in its own."""

    id: Mapped[int] = mapped_column(ForeignKey("rules_device.id"), primary_key=True)
    tray: Mapped[str] = StateMachineColumn(
        Machine(initial="Full", events=[Event("Print", {"Full": "Empty"}), Event("Refill", {"Empty": "Full"})])
    )
    __mapper_args__ = {"polymorphic_identity": "printer"}
