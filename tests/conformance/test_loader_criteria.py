"""Sessions that hide rows, by ``with_loader_criteria`` in a listener of ``do_orm_execute``: tenants, soft deletes.

What a session does not show is not there for an event either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, ForeignKey, String, event, select, true
from sqlalchemy.orm import DeclarativeBase, Mapped, ORMExecuteState, Session, mapped_column, with_loader_criteria

from sqlalchemy_fsm_mysql import (
    KeyConflict,
    RowNotFound,
    StateMachineColumn,
    TooManyRows,
    TransitionHistory,
    claim,
    fire_key,
    fire_or_create,
    fire_where,
    force_state,
    try_fire_key,
)
from tests.conformance.support import counting
from tests.reference import machine


class Base(DeclarativeBase):
    """Their tables have names of their own: other suites use the same database."""


class OfTenant:
    """A mixin, as multi-tenant applications have it."""

    tenant: Mapped[str] = mapped_column(String(20))


class Order(OfTenant, Base):
    __tablename__ = "hidden_orders"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(20), default="order")
    state: Mapped[str] = StateMachineColumn(machine)
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "order"}


class Subscription(Order):
    """In two tables."""

    __tablename__ = "hidden_subscriptions"
    id: Mapped[int] = mapped_column(ForeignKey("hidden_orders.id"), primary_key=True)
    __mapper_args__ = {"polymorphic_identity": "subscription"}


class Ticket(OfTenant, Base):
    """With a history."""

    __tablename__ = "hidden_tickets"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine)


class TicketTransition(TransitionHistory, Base):
    __tablename__ = "hidden_ticket_transitions"
    __records__ = Ticket.state


class TenantSession(Session):
    """Shows the rows of acme, and no others."""


@event.listens_for(TenantSession, "do_orm_execute")
def of_tenant(state: ORMExecuteState) -> None:
    if state.is_select and not state.is_column_load and not state.is_relationship_load:
        state.statement = state.statement.options(
            with_loader_criteria(OfTenant, lambda cls: cls.tenant == "acme", include_aliases=True)
        )


@pytest.fixture(scope="module")
def hiding_tables(engine: Engine) -> Iterator[None]:
    Base.metadata.create_all(engine)
    yield
    Base.metadata.drop_all(engine)


@pytest.fixture
def database(backend_engine: Engine, hiding_tables: None) -> Iterator[Engine]:
    """Orders, tickets and a subscription: 1, 2 (and 9) are acme's, 3, 4 (and 8) are another's."""
    with Session(backend_engine) as session:
        for key, tenant in ((1, "acme"), (2, "acme"), (3, "other"), (4, "other")):
            session.add_all([Order(id=key, tenant=tenant), Ticket(id=key, tenant=tenant)])
        session.add_all([Subscription(id=9, tenant="acme"), Subscription(id=8, tenant="other")])
        session.commit()
    yield backend_engine
    with backend_engine.begin() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(table.delete())


@pytest.fixture
def session(database: Engine) -> Iterator[TenantSession]:
    with TenantSession(database) as session:
        yield session


def moved(database: Engine, model: Any = Order) -> list[int]:
    """The keys of the rows that are not in their initial state any more."""
    with Session(database) as session:
        query = select(model.id).where(model.state != "Initializing").order_by(model.id)
        return list(session.scalars(query))


WAYS: dict[str, Callable[[Any, int, Session], Any]] = {
    "fire_key": lambda model, key, session: fire_key(model, key, "Ready", session),
    "try_fire_key": lambda model, key, session: try_fire_key(model, key, "Ready", session),
}


@pytest.mark.parametrize("model", [Order, Ticket])
@pytest.mark.parametrize("way", WAYS)
def test_a_key_that_is_shown_is_fired(session, database, model, way):
    WAYS[way](model, 1, session)
    session.commit()

    assert moved(database, model) == [1]


@pytest.mark.parametrize("model", [Order, Ticket])
@pytest.mark.parametrize("way", WAYS)
def test_a_key_that_is_hidden_is_not_found(session, database, model, way):
    with pytest.raises(RowNotFound):
        WAYS[way](model, 3, session)
    session.commit()

    assert moved(database, model) == []


def test_a_key_of_a_subclass_is_found_or_not_by_a_column_of_its_base(session, database):
    fire_key(Subscription, 9, "Ready", session)
    with pytest.raises(RowNotFound):
        fire_key(Subscription, 8, "Ready", session)
    session.commit()

    assert moved(database) == [9]


@pytest.mark.parametrize("model", [Order, Ticket])
def test_an_instance_whose_row_has_been_hidden_since_is_not_found(session, database, model):
    row = session.get_one(model, 1)
    session.commit()
    with Session(database) as other:
        other.get_one(model, 1).tenant = "other"
        other.commit()
    with pytest.raises(RowNotFound):
        row.fire("Ready", session)
    with pytest.raises(RowNotFound):
        force_state(row, "Deleted", session)
    session.commit()

    assert moved(database, model) == []


def test_a_shown_instance_is_fired_and_forced(session, database):
    session.get_one(Order, 1).fire("Ready", session)
    force_state(session.get_one(Order, 2), "Deleted", session)
    session.commit()

    assert moved(database) == [1, 2]


@pytest.mark.parametrize("options", [{}, {"batch_size": 2}, {"max_rows": 3}], ids=str)
def test_a_set_holds_only_what_is_shown(session, database, options):
    result = fire_where(Order, "Ready", session, true(), **options)
    session.commit()

    assert (result.moved, moved(database)) == (3, [1, 2, 9])


def test_a_recorded_set_holds_only_what_is_shown(session, database):
    result = fire_where(Ticket, "Ready", session, true())
    session.commit()

    assert (result.moved, moved(database, Ticket)) == (2, [1, 2])
    with Session(database) as plain:
        assert plain.scalars(select(TicketTransition.record_id).order_by(TicketTransition.record_id)).all() == [1, 2]


def test_max_rows_counts_only_what_is_shown(session, database):
    with pytest.raises(TooManyRows):
        fire_where(Order, "Ready", session, true(), max_rows=2)

    assert moved(database) == []


def test_only_what_is_shown_is_claimed(session, database):
    claimed = claim(Order, "Ready", session, limit=9)
    keys = [order.id for order in claimed]
    session.commit()

    assert (keys, moved(database)) == ([1, 2, 9], [1, 2, 9])


def test_a_hidden_row_is_in_the_way_of_a_new_one_and_is_left_alone(session, database):
    with pytest.raises(KeyConflict):
        fire_or_create(Order(id=3, tenant="acme"), "Ready", session)
    session.rollback()

    assert moved(database) == []


def test_a_row_is_created_or_moved_where_it_is_shown(session, database):
    outcomes = [fire_or_create(Order(id=key, tenant="acme"), "Ready", session).created for key in (1, 5)]
    session.commit()

    assert (outcomes, moved(database)) == ([False, True], [1, 5])


def test_a_session_without_listeners_hides_nothing(database):
    with Session(database) as session:
        fire_key(Order, 3, "Ready", session)
        session.commit()

    assert moved(database) == [3]


@pytest.mark.servers_only
def test_to_ask_the_session_costs_one_statement_more(database, backend):
    numbers = []
    for kind in (Session, TenantSession):
        with kind(database) as session, counting(session.connection()) as sent:
            fire_key(Order, 1, "Ready", session)
        numbers.append(sent.number)

    assert numbers == ([1, 2] if backend == "own" else [2, 3])


@pytest.mark.servers_only
def test_what_was_shown_stays_locked_until_it_has_moved(session, database):
    """Nobody can give the row to another tenant between the question and the event."""
    asked: list[bool] = []

    def look(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "FOR UPDATE" in statement and "NOWAIT" not in statement and not asked:
            asked.append(True)
            with Session(database) as other, pytest.raises(Exception, match="3572|1205|NOWAIT"):
                other.execute(select(Order.id).where(Order.id == 1).with_for_update(nowait=True))

    event.listen(database, "after_cursor_execute", look)
    try:
        fire_key(Order, 1, "Ready", session)
    finally:
        event.remove(database, "after_cursor_execute", look)

    assert asked == [True]
