"""The machine of the README, and the orders that have it."""

from __future__ import annotations

from sqlalchemy import String, literal_column
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ..machine import Event, Machine
from ..orm.column import StateMachineColumn
from ..orm.stateful import Stateful

machine: Machine = Machine(
    initial="Initializing",
    events=[
        Event("NotReady", {"Initializing": "Initializing", "Running": "Error", "Error": "Error"}),
        Event("Ready", {("Initializing", "Running", "Error"): "Running"}),
        Event("Stop", {("Initializing", "Running", "Error", "Stopped"): "Stopped"}),
        Event("Delete", {("Stopped", "Deleted"): "Deleted"}),
    ],
)

TABLE = "fsm_demo_orders"
# A killed demo leaves its table behind. By this the next one knows that it may drop it.
COMMENT = "demo of sqlalchemy_fsm_mysql; may be dropped"


class Base(DeclarativeBase):
    pass


class Order(Stateful, Base):
    """An order. Each UPDATE adds one to its `steps`, so the row itself counts its moves.

    The read-decide-write code of :mod:`.naive` moves the same rows in two columns of its own.
    """

    __tablename__ = TABLE
    __table_args__ = {"comment": COMMENT}  # noqa: RUF012 - SQLAlchemy reads a plain dict

    id: Mapped[int] = mapped_column(primary_key=True)
    steps: Mapped[int] = mapped_column(default=0, onupdate=literal_column("steps + 1"))
    state: Mapped[str] = StateMachineColumn(machine)
    naive_state: Mapped[str] = mapped_column(String(20), default="Initializing")
    naive_steps: Mapped[int] = mapped_column(default=0)
