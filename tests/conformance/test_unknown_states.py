"""NULL, an empty text, and a state of nobody's: the row is there, every function says what it holds, and it can be repaired."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Column, Engine, Integer, String, Table, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    Machine,
    Refused,
    RowNotFound,
    Stateful,
    StateMachineColumn,
    Transition,
    TransitionHistory,
    UnknownState,
    claim,
    enforce_machine,
    fire_key,
    fire_or_create,
    fire_where,
    force_state,
    release_machine,
    replay,
    try_fire_key,
)

HELD = [None, "", "Odd"]

machine = Machine(
    initial="new",
    events=[
        Event("Pay", {"new": "paid"}),
        Event("Check", [Transition("new", "paid", guard=lambda order: order.total > 0)]),
        Event("Count", {"new": "paid"}, effect=lambda order: {"total": order.total + 1}),
    ],
)


class Base(DeclarativeBase):
    """The tables: they let any state in, as a table does that was there before the machine."""


class Elsewhere(DeclarativeBase):
    """The classes that map them."""


loose = Table(
    "unknown_orders",
    Base.metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("total", Integer),
    Column("state", String(20)),
)


class Order(Stateful, Elsewhere):
    __tablename__ = "unknown_orders"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    total: Mapped[int | None]
    state: Mapped[str] = StateMachineColumn(machine, storage="varchar")


class OrderStep(TransitionHistory, Elsewhere):
    __tablename__ = "unknown_order_steps"
    __records__ = Order.state


OrderStep.__table__.to_metadata(Base.metadata)  # type: ignore[attr-defined]  # a Table, as it is declared


@pytest.fixture(params=HELD, ids=["NULL", "empty", "Odd"])
def held(request: pytest.FixtureRequest, session: Session) -> str | None:
    """What the row 1 holds."""
    session.execute(loose.insert().values(id=1, state=request.param))
    return request.param  # type: ignore[no-any-return]  # one of HELD


def state_of(session: Session) -> str | None:
    return session.execute(select(loose.c.state).where(loose.c.id == 1)).scalar_one()


ASKING: dict[str, Callable[[Session, str], Any]] = {
    "fire": lambda session, event: session.get_one(Order, 1).fire(event),
    "try_fire": lambda session, event: session.get_one(Order, 1).try_fire(event),
    "fire_key": lambda session, event: fire_key(Order, 1, event, session),
    "try_fire_key": lambda session, event: try_fire_key(Order, 1, event, session),
    "a token": lambda session, event: fire_key(Order, 1, event, session, token="unknown"),
    "fire_or_create": lambda session, event: fire_or_create(Order(id=1), event, session),
}


@pytest.mark.parametrize("event", machine.events)
@pytest.mark.parametrize("way", ASKING)
def test_a_row_in_a_state_of_nobodys_is_an_unknown_state(
    session: Session, held: str | None, way: str, event: str
) -> None:
    with pytest.raises(UnknownState) as unknown:
        ASKING[way](session, event)

    assert (unknown.value.state, unknown.value.declared) == (held, ["new", "paid"])
    assert state_of(session) == held


def test_a_set_passes_over_such_a_row(session: Session, held: str | None) -> None:
    session.execute(loose.insert().values(id=2, state="new"))

    assert claim(Order, "Pay", session, Order.id == 1, limit=5) == []
    assert fire_where(Order, "Pay", session, Order.id < 5).moved == 1
    assert state_of(session) == held


def test_hints_from_memory_know_no_event_of_it(session: Session, held: str | None) -> None:
    order = session.get_one(Order, 1)

    assert (order.state, order.can_fire("Pay"), order.available_events()) == (held, False, [])


def test_force_state_repairs_it(session: Session, held: str | None) -> None:
    """The history and the outcome have an empty source where the row held NULL."""
    order = session.get_one(Order, 1)
    moved = force_state(order, "new", session, actor="Ada")

    assert (moved.source, moved.target, order.state, state_of(session)) == (held or "", "new", "new", "new")
    assert order.fire("Pay").target == "paid"
    assert replay(order.history(session)) == "paid"


def test_a_missing_row_is_no_unknown_state(session: Session, held: str | None) -> None:
    order = session.get_one(Order, 1)
    session.execute(loose.delete())

    for fire in (lambda: fire_key(Order, 1, "Pay", session), lambda: force_state(order, "new", session)):
        with pytest.raises(RowNotFound):
            fire()


def test_a_replay_shows_what_the_row_holds_by_now(session: Session) -> None:
    session.execute(loose.insert().values(id=1, state="new"))
    fire_key(Order, 1, "Pay", session, token="unknown")
    order = session.get_one(Order, 1)
    session.execute(loose.update().values(state=None))

    assert fire_key(Order, 1, "Pay", session, token="unknown").replayed
    assert order.state is None
    session.expunge(order)
    assert fire_or_create(Order(id=1), "Pay", session, token="unknown").instance.state is None


@pytest.fixture
def enforced(backend_engine: Engine, tables: None) -> Iterator[Engine]:
    """Triggers on the table, and one row of each kind from before; what the tests commit is taken away again."""
    with backend_engine.begin() as connection:
        connection.execute(loose.insert(), [{"id": i, "state": state} for i, state in enumerate(HELD)])
    enforce_machine(Order.state, backend_engine)
    yield backend_engine
    release_machine(Order.state, backend_engine)
    with backend_engine.begin() as connection:
        connection.execute(loose.delete())


def test_force_state_repairs_it_through_the_triggers(enforced: Engine) -> None:
    with Session(enforced) as session:
        moves = [force_state(session.get_one(Order, i), "paid", session) for i in range(len(HELD))]
        assert [moved.source for moved in moves] == ["", "", "Odd"]
        assert session.execute(select(loose.c.state).distinct()).scalars().all() == ["paid"]
        outcome = try_fire_key(Order, 0, "Pay", session)
        assert isinstance(outcome, Refused)
