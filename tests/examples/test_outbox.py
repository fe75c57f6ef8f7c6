"""The outbox of the documentation: each transition is published, in its order's order, by however many readers."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session, sessionmaker

from examples.outbox import Base, Order, OrderTransition, publish_all, publish_next
from sqlalchemy_fsm_mysql import fire_where

ORDERS = 12


@pytest.fixture
def factory(engine: Engine) -> Iterator[sessionmaker[Session]]:
    """Orders that were paid and shipped one by one, and cancelled as a set."""
    Base.metadata.create_all(engine)
    factory = sessionmaker(engine)
    with factory.begin() as session:
        session.add_all(Order(id=key) for key in range(1, ORDERS + 1))
    for key in range(1, ORDERS + 1):
        with factory.begin() as session:
            order = session.get_one(Order, key)
            order.fire("Pay", session)
            if key % 2:
                order.fire("Ship", session)
    with factory.begin() as session:
        fire_where(Order, "Cancel", session, Order.state == "paid")
    yield factory
    Base.metadata.drop_all(engine)


class Receiver:
    """Notes what it gets, by order."""

    def __init__(self) -> None:
        self.got: defaultdict[int, list[int]] = defaultdict(list)
        self.lock = threading.Lock()

    def publish(self, transition: OrderTransition) -> None:
        with self.lock:
            self.got[transition.record_id].append(transition.sequence)


ALL = {key: [1, 2] for key in range(1, ORDERS + 1)}


def test_one_reader_publishes_everything_in_order(factory: sessionmaker[Session]) -> None:
    receiver = Receiver()

    assert publish_all(factory, receiver.publish) == 2 * ORDERS
    assert receiver.got == ALL
    assert publish_all(factory, receiver.publish) == 0


@pytest.mark.servers_only
def test_many_readers_publish_each_transition_once_and_in_its_orders_order(factory: sessionmaker[Session]) -> None:
    receiver, start = Receiver(), threading.Barrier(4)

    def read(_: int) -> int:
        start.wait(10)
        return publish_all(factory, receiver.publish)

    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(read, range(4)))
    # A reader leaves when all that is left is in others' hands; a last one finds what they left.
    numbers.append(publish_all(factory, receiver.publish))

    assert sum(numbers) == 2 * ORDERS
    assert receiver.got == ALL


@pytest.mark.servers_only
def test_what_follows_a_transition_that_is_being_published_waits(factory: sessionmaker[Session]) -> None:
    """The second reader gets another order's first, and not this order's second."""
    seen: list[tuple[int, int]] = []

    def note(transition: OrderTransition) -> None:
        seen.append((transition.record_id, transition.sequence))

    with factory() as one, factory() as other:
        publish_next(one, note)
        publish_next(other, note)

    assert seen == [(1, 1), (2, 1)]


def test_a_reader_that_fails_publishes_again(factory: sessionmaker[Session]) -> None:
    receiver = Receiver()

    def fail(transition: OrderTransition) -> None:
        raise OSError("the queue is away")

    with pytest.raises(OSError, match="the queue is away"):
        publish_all(factory, fail)
    publish_all(factory, receiver.publish)

    assert receiver.got == ALL


def test_what_was_rolled_back_is_never_published(factory: sessionmaker[Session]) -> None:
    receiver = Receiver()
    with factory() as session:
        order = Order(id=1000)
        session.add(order)
        order.fire("Pay", session)
        session.rollback()
    publish_all(factory, receiver.publish)

    assert receiver.got == ALL
    with factory() as session:
        assert session.scalar(select(func.count()).where(OrderTransition.published_at.is_(None))) == 0
