"""Orders of a shop and their machine, for the board: what stands in which state, and what may happen next."""

from __future__ import annotations

from sqlalchemy import Engine, String, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import Event, Guard, Machine, Stateful, StateMachineColumn, TransitionHistory

machine = Machine(
    name="Orders",
    initial="new",
    groups={"open": ("new", "paid", "packed")},
    events=[
        Event("Pay", {"new": "paid"}),
        Event(
            "Pack",
            {"paid": "packed"},
            guard={"in stock": Guard(lambda order: order.stock > 0, "the item is out of stock")},
            effect=lambda order: {"stock": order.stock - 1},
        ),
        Event(
            "Ship",
            {"packed": "shipped"},
            guard={"has address": Guard(lambda order: order.address != "", "the order has no address")},
        ),
        Event("Deliver", {"shipped": "delivered"}),
        Event("Cancel", {"open": "cancelled"}),
    ],
)


class Base(DeclarativeBase):
    pass


class Order(Stateful, Base):
    __tablename__ = "board_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str] = mapped_column(String(40))
    item: Mapped[str] = mapped_column(String(40))
    address: Mapped[str] = mapped_column(String(80), default="")
    stock: Mapped[int] = mapped_column(default=1)
    state: Mapped[str] = StateMachineColumn(machine)


class OrderTransition(TransitionHistory, Base):
    __tablename__ = "board_order_transitions"
    __records__ = "Order.state"


def open_engine(url: str) -> Engine:
    """The engine for *url*, with the tables, and some orders where there are none."""
    engine = create_engine(url, isolation_level="READ COMMITTED", pool_pre_ping=True)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        if session.scalar(select(Order.id).limit(1)) is None:
            session.add_all(
                [
                    Order(id=1, customer="Ada", item="Lamp", address="1 Mill Lane", stock=3),
                    Order(id=2, customer="Grace", item="Chair", address="2 Dock Road", stock=0),
                    Order(id=3, customer="Edsger", item="Desk", address="", stock=1),
                    Order(id=4, customer="Barbara", item="Shelf", address="4 Hill Street", stock=2),
                    Order(id=5, customer="Tony", item="Clock", address="5 Park Row", stock=9),
                ]
            )
            session.commit()
    return engine
