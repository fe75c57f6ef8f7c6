"""Draws the pictures of this folder: ``python docs/images/draw.py``. The heat map is of 20,000 fires by the dice."""

from __future__ import annotations

import random
from pathlib import Path

from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    Machine,
    StateMachineColumn,
    TransitionHistory,
    count_rows,
    count_transitions,
    force_state,
)
from sqlalchemy_fsm_mysql.demo import machine
from sqlalchemy_fsm_mysql.demo.race import WEIGHTS
from sqlalchemy_fsm_mysql.diagram import svg

HERE = Path(__file__).parent


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)


class OrderTransition(TransitionHistory, Base):
    __tablename__ = "order_transitions"
    __records__ = "Order.state"


dice = random.Random(4)
engine = create_engine("sqlite://")
Base.metadata.create_all(engine)
with Session(engine) as session:
    orders = [Order(id=number) for number in range(1, 401)]
    session.add_all(orders)
    session.flush()
    for _ in range(20_000):
        (event,) = dice.choices(list(WEIGHTS), [40, 50, 1, 1])
        dice.choice(orders).try_fire(event, session)
    for order in [order for order in orders if order.state == "Deleted"][:3]:
        force_state(order, "Running", session)
    counts, rows = count_transitions(Order.state, session), count_rows(Order.state, session)

(HERE / "reference.svg").write_text(svg(machine), encoding="utf-8")
# The README's: wide, and not high.
(HERE / "orders.svg").write_text(svg(machine, direction="LR"), encoding="utf-8")
first = Machine(
    initial="new",
    events=[
        Event("Pay", {"new": "paid"}),
        Event("Ship", {"paid": "shipped"}),
        Event("Cancel", {("new", "paid"): "cancelled"}),
    ],
)
# The first page's.
(HERE / "first.svg").write_text(svg(first, direction="LR"), encoding="utf-8")
(HERE / "heat.svg").write_text(svg(machine, counts=counts, rows=rows), encoding="utf-8")
