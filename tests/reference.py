"""The reference machine of the README and the demo, its 20 cells, and a model that has it."""

from __future__ import annotations

from sqlalchemy import String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_fsm_mysql import Event, Machine, StateMachineColumn

EVENTS = ("NotReady", "Ready", "Stop", "Delete")
TABLE: dict[str, tuple[str | None, ...]] = {
    "Initializing": ("Initializing", "Running", "Stopped", None),
    "Running": ("Error", "Running", "Stopped", None),
    "Error": ("Error", "Running", "Stopped", None),
    "Stopped": (None, None, "Stopped", "Deleted"),
    "Deleted": (None, None, None, "Deleted"),
}
STATES = tuple(TABLE)
CELLS = {(state, event): target for state in TABLE for event, target in zip(EVENTS, TABLE[state], strict=True)}
MOVES = {cell: target for cell, target in CELLS.items() if target is not None}
REFUSALS = tuple(cell for cell, target in CELLS.items() if target is None)

machine = Machine(
    initial="Initializing",
    states=STATES,
    events=[
        Event("NotReady", {"Initializing": "Initializing", "Running": "Error", "Error": "Error"}),
        Event("Ready", {("Initializing", "Running", "Error"): "Running"}),
        Event("Stop", {("Initializing", "Running", "Error", "Stopped"): "Stopped"}),
        Event("Delete", {("Stopped", "Deleted"): "Deleted"}),
    ],
)


class Base(DeclarativeBase):
    """The tables of this module."""


class Order(Base):
    """A row with the machine, and with columns that no event may touch."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)
    customer: Mapped[str] = mapped_column(String(40), default="Ada")
    total: Mapped[int] = mapped_column(default=100)
