"""The history as an outbox: one reader or many publish every committed transition, at least once.

``on_committed`` is best effort: a process that dies right after COMMIT has not called it. The history row is in the
database, so a reader finds it whenever it comes. It takes the oldest row that is not published of each order, does its
work, marks the row, and commits. A row that another reader holds is skipped, and so are the later rows of the same
order: its transitions are published in order, those of different orders side by side.

A reader that dies between its work and its COMMIT does that work again: *at least once*. The row's key and number tell
the receiver that it has had this one.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import DateTime, Index, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, mapped_column, sessionmaker

from sqlalchemy_fsm_mysql import Event, Machine, Stateful, StateMachineColumn, TransitionHistory, run_transaction


class Base(DeclarativeBase):
    pass


class Order(Stateful, Base):
    __tablename__ = "outbox_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="new",
            events=[
                Event("Pay", {"new": "paid"}),
                Event("Ship", {"paid": "shipped"}),
                Event("Cancel", {("new", "paid"): "cancelled"}),
            ],
        )
    )


class OrderTransition(TransitionHistory, Base):
    __tablename__ = "outbox_order_transitions"
    __records__ = "Order.state"

    published_at: Mapped[datetime | None] = mapped_column(DateTime)
    # The reader looks for what is not published: without an index, in the whole history.
    __table_args__ = (Index("ix_outbox_unpublished", "published_at", "at"),)


def publish_next(session: Session, publish: Callable[[OrderTransition], Any]) -> bool:
    """Publish one transition that no other reader has locked. Whether there was one. The caller commits."""
    earlier = aliased(OrderTransition)
    is_next = ~(
        select(earlier.sequence)
        .where(
            earlier.record_id == OrderTransition.record_id,
            earlier.sequence < OrderTransition.sequence,
            earlier.published_at.is_(None),
        )
        .exists()
    )
    transition = session.scalars(
        select(OrderTransition)
        .where(OrderTransition.published_at.is_(None), is_next)
        .order_by(OrderTransition.at, OrderTransition.record_id, OrderTransition.sequence)
        .limit(1)
        .with_for_update(skip_locked=True, of=OrderTransition)
    ).one_or_none()
    if transition is None:
        return False
    publish(transition)
    transition.published_at = func.now()
    return True


def publish_all(factory: sessionmaker[Session], publish: Callable[[OrderTransition], Any]) -> int:
    """Publish until no transition is left that another reader has not locked. Returns their number.

    Call it again and again, from as many processes as you like.
    """
    number = 0
    while run_transaction(factory, lambda session: publish_next(session, publish)):
        number += 1
    return number
