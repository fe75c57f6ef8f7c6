"""A shop: an order, its payments and its shipments. Three machines on related rows, as in Solidus.

A guard of one machine looks at rows of another: an order is complete when a payment is, and closed when its last
shipment has left. The library reads these rows FOR SHARE, so what a guard has seen stays true until COMMIT, and two
transactions that look at each other's rows wait for one another. A hook carries a move on to the related rows, in the
same transaction. A webhook comes with its event's id as the token: the second delivery gets the first outcome.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ColumnElement, ForeignKey, Select, case, exists, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from sqlalchemy_fsm_mysql import (
    Event,
    Guard,
    Machine,
    Moved,
    Stateful,
    StateMachineColumn,
    Transition,
    TransitionHistory,
    fire_key,
    fire_where,
    on_moved,
    run_transaction,
)


def is_paid(order: type[Order]) -> ColumnElement[bool]:
    return (order.total == 0) | exists().where(Payment.order_id == order.id, Payment.state == "completed")


def has_shipped(order: type[Order]) -> ColumnElement[bool]:
    return exists().where(Shipment.order_id == order.id, Shipment.state == "shipped")


def has_open_shipments(order: type[Order]) -> ColumnElement[bool]:
    return exists().where(Shipment.order_id == order.id, Shipment.state.in_group("open"))


def is_sold(shipment: type[Shipment]) -> ColumnElement[bool]:
    return exists().where(Order.id == shipment.order_id, Order.state.in_group("sold"))


orders = Machine(
    initial="cart",
    groups={"sold": ("complete", "resumed")},
    events=[
        Event(
            "next",
            [
                Transition("cart", "address", guard={"has items": lambda order: order.item_count > 0}),
                Transition("address", "delivery", guard={"has an address": lambda order: order.has_address}),
                Transition("delivery", "payment", guard=lambda order: order.total > 0),
                Transition(("delivery", "payment"), "confirm"),
            ],
        ),
        Event("complete", {"confirm": "complete"}, guard={"paid": Guard(is_paid, "the payment has not come in")}),
        Event("payment_failed", {"confirm": "payment"}),
        Event(
            "cancel",
            {"complete": "canceled"},
            guard={"nothing shipped": Guard(lambda order: ~has_shipped(order), "a shipped order is returned instead")},
        ),
        Event("resume", {"canceled": "resumed"}),
        Event("authorize_return", {"complete": "awaiting_return"}),
        Event("return", {("complete", "awaiting_return"): "returned"}),
        Event("close", {"sold": "closed"}, guard={"all shipped": lambda order: ~has_open_shipments(order)}),
    ],
    on_enter={"complete": lambda order: {"completed_at": func.utc_timestamp()}},
)

payments = Machine(
    initial="checkout",
    groups={"waiting": ("checkout", "pending", "processing")},
    events=[
        Event("started_processing", {("waiting", "completed"): "processing"}),
        Event("failure", {("pending", "processing"): "failed"}),
        Event("pend", {("checkout", "processing"): "pending"}),
        Event("complete", {"waiting": "completed"}),
        Event("void", {("waiting", "completed"): "void"}),
        Event("invalidate", {"checkout": "invalid"}),
    ],
)

shipments = Machine(
    initial="pending",
    groups={"open": ("pending", "ready")},
    events=[
        Event("ready", {"pending": "ready"}, guard=is_sold),
        Event("pend", {"ready": "pending"}),
        Event("ship", {("ready", "canceled"): "shipped"}, guard=is_sold),
        Event("cancel", {"open": "canceled"}),
        Event("resume", [Transition("canceled", "ready", guard=is_sold), Transition("canceled", "pending")]),
    ],
    on_enter={"shipped": lambda shipment: {"shipped_at": func.utc_timestamp()}},
)


class Base(DeclarativeBase):
    pass


class Order(Stateful, Base):
    __tablename__ = "shop_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(orders)
    item_count: Mapped[int] = mapped_column(default=1)
    has_address: Mapped[bool] = mapped_column(default=True)
    total: Mapped[int] = mapped_column(default=100)
    completed_at: Mapped[datetime | None]


class Payment(Stateful, Base):
    __tablename__ = "shop_payments"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey(Order.id))
    state: Mapped[str] = StateMachineColumn(payments)


class Shipment(Stateful, Base):
    __tablename__ = "shop_shipments"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey(Order.id))
    state: Mapped[str] = StateMachineColumn(shipments)
    shipped_at: Mapped[datetime | None]


class OrderTransition(TransitionHistory, Base):
    __tablename__ = "shop_order_transitions"
    __records__ = "Order.state"


class PaymentTransition(TransitionHistory, Base):
    __tablename__ = "shop_payment_transitions"
    __records__ = "Payment.state"


@on_moved(Order.state, target="canceled")
def cancel_the_rest(moved: Moved[Order], session: Session) -> None:
    """What belongs to a cancelled order is cancelled with it."""
    fire_where(Shipment, "cancel", session, Shipment.order_id == moved.key)
    fire_where(Payment, "void", session, Payment.order_id == moved.key)


@on_moved(Shipment.state, target="shipped")
def close_the_order(moved: Moved[Shipment], session: Session) -> None:
    """The last shipment closes the order; before that the guard refuses."""
    order_id = select(Shipment.order_id).where(Shipment.id == moved.key).scalar_subquery()
    fire_where(Order, "close", session, Order.id == order_id)


def payment_webhook(factory: sessionmaker[Session], event_id: str, payment_id: int) -> Moved[Payment]:
    """A payment provider tells that a payment is complete, as often as it likes."""
    return run_transaction(
        factory, lambda session: fire_key(Payment, payment_id, "complete", session, token=event_id), idempotent=True
    )


def shipment_state() -> Select[tuple[int, str]]:
    """The state of each order's shipments: the one that all have, or ``partial``."""
    state = case((func.count(Shipment.state.distinct()) > 1, "partial"), else_=func.min(Shipment.state))
    return select(Shipment.order_id, state).group_by(Shipment.order_id)
