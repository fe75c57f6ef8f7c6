"""Triggers that hold a table to its machine, made on one node: every node has them, and lets through what it should."""

from __future__ import annotations

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    Machine,
    RefusedByDatabase,
    StateMachineColumn,
    TransitionHistory,
    fire_key,
    force_state,
    release_machine,
    replay,
)
from sqlalchemy_fsm_mysql.operations.enforcement import own_triggers, permitted
from tests.alembic.support import migrating
from tests.alembic.support import stored as states
from tests.cluster.nodes import CURRENT


class Base(DeclarativeBase):
    """The tables of this module."""


class Order(Base):
    __tablename__ = "cluster_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="new",
            events=[
                Event("Pay", {"new": "paid"}),
                Event("Ship", {"paid": "shipped"}),
                Event("Return", {"shipped": "new"}),
            ],
            retired=["lost"],
        ),
        enforced=True,
    )


class OrderTransition(TransitionHistory, Base):
    __tablename__ = "cluster_order_transitions"
    __records__ = Order.state


@pytest.fixture
def nodes(cluster):
    """An engine of each node. The table and its triggers were made on the first, with orders 1 to 6, all new."""
    engines = [cluster.engine(node, CURRENT[cluster.kind]) for node in range(3)]
    Base.metadata.drop_all(engines[0])
    Base.metadata.create_all(engines[0])
    with Session(engines[0]) as session:
        session.add_all(Order(id=key) for key in range(1, 7))
        session.commit()
    yield engines
    Base.metadata.drop_all(engines[0])
    for engine in engines:
        engine.dispose()


def stored(node):
    return states(node, "cluster_orders")


def breach(engine, statement):
    """The error of the node for *statement*, which is to be refused."""
    with engine.connect() as connection, pytest.raises(RefusedByDatabase) as refused:
        connection.execute(text(statement))
    return refused.value


def test_each_node_refuses_what_the_machine_does_not_allow(nodes):
    update = "UPDATE cluster_orders SET state = 'shipped' WHERE id = 1"
    insert = "INSERT INTO cluster_orders (id, state) VALUES (9, 'paid'), (10, 'shipped')"
    refused = [(breach(node, update), breach(node, insert)) for node in nodes]

    assert [(one.source, one.target, other.target) for one, other in refused] == [("new", "shipped", "shipped")] * 3
    assert [stored(node) for node in nodes] == [dict.fromkeys(range(1, 7), "new")] * 3


def test_fires_pass_on_each_node_and_reach_the_others(nodes):
    for key, node in enumerate(nodes, start=1):
        for name in ("Pay", "Ship", "Return", "Pay"):
            with Session(node) as session:
                fire_key(Order, key, name, session)
                session.commit()

    assert [stored(node) for node in nodes] == [
        dict.fromkeys(range(1, 4), "paid") | dict.fromkeys(range(4, 7), "new")
    ] * 3
    with Session(nodes[0]) as session:
        assert [replay(session.get_one(Order, key).history()) for key in range(1, 4)] == ["paid"] * 3


def test_one_order_goes_from_node_to_node(nodes):
    for node, name in zip(nodes, ("Pay", "Ship", "Return"), strict=True):
        with Session(node) as session:
            fire_key(Order, 1, name, session)
            session.commit()

    assert [stored(node)[1] for node in nodes] == ["new"] * 3


def test_the_way_through_is_as_narrow_on_each_node(nodes):
    for key, node in enumerate(nodes, start=1):
        with Session(node) as session:
            force_state(session.get_one(Order, key), "lost", session, actor="test")
            session.commit()
        with node.begin() as connection, permitted(Order.state, connection, "new", "shipped", rows=1):
            connection.execute(text("UPDATE cluster_orders SET state = 'shipped' WHERE id = :key"), {"key": key + 3})
        breach(node, f"UPDATE cluster_orders SET state = 'new' WHERE id = {key}")

    assert [stored(node) for node in nodes] == [
        {1: "lost", 2: "lost", 3: "lost", 4: "shipped", 5: "shipped", 6: "shipped"}
    ] * 3


def test_rows_are_migrated_through_the_triggers(nodes):
    """On a node that did not make them; and the other nodes' triggers, which are not asked, do not refuse the rows."""
    with migrating(nodes[1]) as op:
        op.migrate_states("cluster_orders", "state", {"new": "lost"}, batch_size=4, history="cluster_order_transitions")

    assert [stored(node) for node in nodes] == [dict.fromkeys(range(1, 7), "lost")] * 3
    with Session(nodes[2]) as session:
        assert [replay(order.history()) for order in session.scalars(select(Order))] == ["lost"] * 6


def test_a_machine_is_released_on_all_nodes_at_once(nodes):
    release_machine(Order.state, nodes[2])

    for node in nodes:
        with node.connect() as connection:
            assert own_triggers(connection, Order.__table__.c.state) == []
