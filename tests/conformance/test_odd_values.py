"""Rows whose state no machine would write: NULL, the empty text, another case or accent than a declared state."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    Machine,
    RowNotFound,
    Stateful,
    StateMachineColumn,
    TransitionHistory,
    UnknownState,
    claim,
    enforce_machine,
    fire_key,
    fire_where,
    force_state,
    release_machine,
    try_fire_key,
)

pytestmark = pytest.mark.servers_only

machine = Machine(
    initial="new",
    states=["new", "paid", "überfällig", "cancelled"],
    events=[
        Event("Pay", {"new": "paid"}),
        Event("Dun", {"new": "überfällig"}),
        Event("Cancel", {("new", "paid", "überfällig"): "cancelled"}),
    ],
)
ODD = ["Paid", "PAID", "paid ", "pàid", "New", "UBERFALLIG", "on hold"]
DECLARED = ["new", "paid", "überfällig"]


class Base(DeclarativeBase):
    pass


class Order(Stateful, Base):
    __tablename__ = "odd_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine, storage="varchar", protected=False)


class OrderTransition(TransitionHistory, Base):
    __tablename__ = "odd_transitions"
    __records__ = "Order.state"


@pytest.fixture
def orders(backend_engine: Engine) -> Iterator[Session]:
    """A table that was there before: VARCHAR in a collation that folds case and accents, no CHECK, NULL allowed."""
    Base.metadata.create_all(backend_engine)
    with backend_engine.begin() as connection:
        connection.execute(text("DROP TABLE odd_orders"))
        state = "VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NULL"
        connection.execute(text(f"CREATE TABLE odd_orders (id INT PRIMARY KEY AUTO_INCREMENT, state {state})"))
        put = text("INSERT INTO odd_orders (id, state) VALUES (:id, :state)")
        values: list[str | None] = [*DECLARED, *ODD, "", None]
        connection.execute(put, [{"id": n, "state": value} for n, value in enumerate(values, start=1)])
    with Session(backend_engine) as session:
        yield session
    Base.metadata.drop_all(backend_engine)


def key_of(value: str | None) -> int:
    return [*DECLARED, *ODD, "", None].index(value) + 1


@pytest.mark.parametrize("value", [*ODD, "", None])
def test_a_state_that_only_resembles_a_declared_one_is_unknown(orders: Session, value: str | None) -> None:
    key = key_of(value)
    with pytest.raises(UnknownState) as unknown:
        try_fire_key(Order, key, "Cancel", orders)
    can = orders.scalar(select(Order.state.can("Cancel")).where(Order.id == key))
    instance = orders.get(Order, key)

    assert unknown.value.state == value
    assert not can
    assert instance is not None
    assert not instance.can_fire("Cancel")


def test_a_row_that_is_missing_is_still_said_to_be(orders: Session) -> None:
    with pytest.raises(RowNotFound):
        fire_key(Order, 99, "Cancel", orders)


@pytest.mark.parametrize("value", DECLARED)
def test_declared_states_move(orders: Session, value: str) -> None:
    alias = aliased(Order)
    key = key_of(value)
    can = orders.scalar(select(alias.state.can("Cancel")).where(alias.id == key))
    after = orders.scalar(select(Order.state.after("Cancel")).where(Order.id == key))

    assert can
    assert (after, fire_key(Order, key, "Cancel", orders).target) == ("cancelled", "cancelled")


def test_sets_move_exactly_the_declared_states(orders: Session) -> None:

    moved = fire_where(Order, "Cancel", orders, Order.id > 0)
    orders.rollback()
    taken = claim(Order, "Cancel", orders, limit=99)

    assert (moved.moved, moved.by_transition) == (3, {(state, "cancelled"): 1 for state in DECLARED})
    assert sorted(order.id for order in taken) == [1, 2, 3]


@pytest.mark.parametrize("enforced", [False, True])
@pytest.mark.parametrize("value", ["Paid", "", None])
def test_force_state_repairs(orders: Session, value: str | None, enforced: bool) -> None:
    """The history, whose columns are NOT NULL, has the empty text in the place of NULL."""
    if enforced:
        enforce_machine(Order.state, orders.connection())
    order = orders.get(Order, key_of(value))
    assert order is not None
    moved = force_state(order, "new", orders)
    sources = [row.source for row in order.history(orders)]
    stored = orders.scalar(select(Order.state).where(Order.id == key_of(value)))
    orders.commit()
    if enforced:
        release_machine(Order.state, orders.connection())

    assert (moved.target, stored, sources) == ("new", "new", [value or ""])
