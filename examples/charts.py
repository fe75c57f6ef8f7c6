"""Statecharts: nested states, parallel regions, a history state, and a timeout.

A nested state is a group: `on_enter` and `on_exit` of the group are those of the outer state, and its name as a source
is a transition of the outer state. A parallel region is a machine of its own on the same row; a hook carries a move on
to the other region. A history state is a column that leaving the group fills in.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import String, func, literal_column, null
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    Machine,
    Moved,
    Stateful,
    StateMachineColumn,
    Transition,
    fire_where,
    on_moved,
    try_fire_key,
)


class Base(DeclarativeBase):
    pass


# Nested states, from the README of `transitions`: whoever drinks is caffeinated, and first of all dithering.
people = Machine(
    initial="standing",
    groups={"caffeinated": ("dithering", "running")},
    events=[
        Event("walk", {"standing": "walking", "dithering": "running", "running": "walking"}),
        Event("stop", {"walking": "standing"}),
        Event("drink", {("standing", "walking", "caffeinated"): "dithering"}),
        Event("relax", {"caffeinated": "standing"}),
        # The history state: back to where the group was left, by the column that says so.
        Event(
            "again",
            [
                Transition("standing", "running", guard=lambda person: person.last_caffeinated == "running"),
                Transition("standing", "dithering"),
            ],
        ),
    ],
    on_enter={
        "walking": lambda person: {"walks": person.walks + 1},
        "running": lambda person: {"runs": person.runs + 1},
        "caffeinated": lambda person: {"cups": person.cups + 1},
    },
    on_exit={"caffeinated": lambda person: {"last_caffeinated": person.state}},
)


class Person(Stateful, Base):
    __tablename__ = "chart_people"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(people)
    walks: Mapped[int] = mapped_column(default=0)
    runs: Mapped[int] = mapped_column(default=0)
    cups: Mapped[int] = mapped_column(default=0)
    last_caffeinated: Mapped[str | None] = mapped_column(String(20))


SECONDS = 5


# Parallel regions, from the SCXML recommendation's microwave: it cooks only while its door is closed.
engine = Machine(
    initial="off",
    groups={"on": ("idle", "cooking")},
    events=[
        Event(
            "TurnOn",
            [
                Transition("off", "cooking", guard=lambda microwave: microwave.door == "closed"),
                Transition("off", "idle"),
            ],
        ),
        Event("TurnOff", {"on": "off"}),
        Event(
            "Tick",
            [
                Transition("cooking", "off", guard=lambda microwave: microwave.timer + 1 >= SECONDS),
                Transition("cooking", "cooking"),
            ],
            effect=lambda microwave: {"timer": microwave.timer + 1},
        ),
        Event("Pause", {"cooking": "idle"}),
        Event("Resume", {"idle": "cooking"}, guard={"closed": lambda microwave: microwave.door == "closed"}),
    ],
    on_enter={"on": lambda microwave: {"timer": 0}},
)
door = Machine(initial="closed", events=[Event("Open", {"closed": "open"}), Event("Close", {"open": "closed"})])


class Microwave(Stateful, Base):
    __tablename__ = "chart_microwaves"

    id: Mapped[int] = mapped_column(primary_key=True)
    engine: Mapped[str] = StateMachineColumn(engine)
    door: Mapped[str] = StateMachineColumn(door)
    timer: Mapped[int] = mapped_column(default=0)


@on_moved(Microwave.door)
def pause_or_resume(moved: Moved[Microwave], session: Session) -> None:
    try_fire_key(Microwave, moved.key, "Pause" if moved.target == "open" else "Resume", session)


# A timeout: entering "pending" sets the moment when the order expires, leaving it takes that away.
orders = Machine(
    initial="draft",
    events=[
        Event("submit", {"draft": "pending"}),
        Event("edit", {"pending": "draft"}),
        Event("pay", {"pending": "paid"}),
        Event("expire", {"pending": "expired"}, guard={"due": lambda order: order.expires_at <= func.utc_timestamp()}),
    ],
    on_enter={
        "pending": lambda order: {
            "expires_at": func.timestampadd(literal_column("MINUTE"), 15, func.utc_timestamp()),
        }
    },
    on_exit={"pending": lambda order: {"expires_at": null()}},
)


class Order(Stateful, Base):
    __tablename__ = "chart_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(orders)
    expires_at: Mapped[datetime | None] = mapped_column(index=True)


def expire(session: Session) -> int:
    """Expire the orders whose time has come; how many."""
    return fire_where(Order, "expire", session, Order.expires_at <= func.utc_timestamp()).moved
