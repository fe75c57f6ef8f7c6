"""``schema_translate_map``: one set of models, and a schema for each tenant."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, event, true
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    Machine,
    Refused,
    StateMachineColumn,
    Transition,
    TransitionHistory,
    claim,
    find_by_token,
    fire_key,
    fire_or_create,
    fire_where,
    force_state,
    try_fire_key,
)
from tests.conformance.conftest import BACKENDS
from tests.reference import machine
from tests.servers import make_engine


class Base(DeclarativeBase):
    """Their schema is the tenant's."""


class Order(Base):
    __tablename__ = "orders"
    __table_args__ = {"schema": "tenant"}
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine)
    version: Mapped[int] = mapped_column(default=1)
    __mapper_args__ = {"version_id_col": version}


class OrderTransition(TransitionHistory, Base):
    __tablename__ = "order_transitions"
    __table_args__ = {"schema": "tenant"}
    __records__ = Order.state


class Payment(Base):
    """Without a history, with a guard and an effect."""

    __tablename__ = "payments"
    __table_args__ = {"schema": "tenant"}
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    total: Mapped[int] = mapped_column(default=10)
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="Open",
            events=[
                Event("Drop", {"Open": "Dropped"}),
                Event(
                    "Pay",
                    [Transition("Open", "Paid", guard=lambda payment, amount: payment.total >= amount)],
                    effect=lambda payment, amount: {"total": payment.total - amount},
                ),
            ],
        )
    )


@pytest.fixture(scope="module")
def tenants(engine: Engine, backend: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Engine]]:
    """The same tables in two schemas, by the same engine."""
    names = [f"fsm_{side}_{secrets.token_hex(4)}" for side in ("ours", "theirs")]
    whole = make_engine(engine.url, execution_options=BACKENDS[backend])
    is_sqlite = engine.dialect.name == "sqlite"
    if is_sqlite:
        folder = tmp_path_factory.mktemp("tenants")

        @event.listens_for(whole, "connect")
        def attach(connection, _):
            cursor = connection.cursor()
            for name in names:
                cursor.execute(f"ATTACH DATABASE '{folder / name}' AS {name}")
            cursor.close()

    else:
        with whole.begin() as connection:
            for name in names:
                connection.exec_driver_sql(f"CREATE DATABASE {name}")
    ours, theirs = (whole.execution_options(schema_translate_map={"tenant": name}) for name in names)
    for tenant in (ours, theirs):
        Base.metadata.create_all(tenant)
    yield ours, theirs
    if not is_sqlite:
        with whole.begin() as connection:
            for name in names:
                connection.exec_driver_sql(f"DROP DATABASE {name}")
    whole.dispose()


@pytest.fixture
def rows(tenants: tuple[Engine, Engine]) -> Iterator[tuple[Engine, Engine]]:
    """Order and payment 1 and 2 of each tenant."""
    for tenant in tenants:
        with Session(tenant) as session:
            session.add_all(model(id=key) for model in (Order, Payment) for key in (1, 2))
            session.commit()
    yield tenants
    for tenant in tenants:
        with tenant.begin() as connection:
            for table in reversed(Base.metadata.sorted_tables):
                connection.execute(table.delete())


@pytest.fixture
def session(rows: tuple[Engine, Engine]) -> Iterator[Session]:
    """A session of the first tenant."""
    with Session(rows[0]) as session:
        yield session


def stored(tenant: Engine, model=Order) -> list[str]:
    with Session(tenant) as session:
        return [row.state for row in session.query(model).order_by(model.id)]


WAYS = {
    "fire": lambda session: session.get_one(Order, 1).fire("Ready", session),
    "fire_key": lambda session: fire_key(Order, 1, "Ready", session),
    "try_fire_key": lambda session: try_fire_key(Order, 1, "Ready", session),
    "force_state": lambda session: force_state(session.get_one(Order, 1), "Running", session),
    "fire_where": lambda session: fire_where(Order, "Ready", session, Order.id == 1),
    "claim": lambda session: claim(Order, "Ready", session, limit=1),
    "fire_or_create": lambda session: fire_or_create(Order(id=1), "Ready", session),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_firing_moves_the_row_of_the_tenant(session, rows, way):
    WAYS[way](session)
    session.commit()

    assert [stored(tenant) for tenant in rows] == [["Running", "Initializing"], ["Initializing", "Initializing"]]


@pytest.mark.parametrize("way", WAYS)
def test_the_history_is_in_the_tenants_schema(session, rows, way):
    WAYS[way](session)
    session.commit()

    assert [row.target for row in session.get_one(Order, 1).history(session)] == ["Running"]
    with Session(rows[1]) as theirs:
        assert theirs.query(OrderTransition).count() == 0


def test_one_statement_serves_both_tenants(rows):
    """What is built once must not remember the schema that it was first sent to."""
    for tenant, name in ((rows[0], "Ready"), (rows[1], "Stop"), (rows[0], "NotReady")):
        with Session(tenant) as session:
            fire_key(Order, 1, name, session)
            session.commit()

    assert [stored(tenant)[0] for tenant in rows] == ["Error", "Stopped"]


def test_guard_effect_and_set_read_the_tenants_rows(session, rows):
    fire_key(Payment, 1, "Pay", session, amount=3)
    dropped = fire_where(Payment, "Drop", session, true())
    session.commit()

    assert (dropped.moved, stored(rows[0], Payment), stored(rows[1], Payment)) == (
        1,
        ["Paid", "Dropped"],
        ["Open", "Open"],
    )


def test_a_refusal_names_the_tenants_state(session, rows):
    with Session(rows[1]) as theirs:
        fire_key(Order, 1, "Stop", theirs)
        theirs.commit()
    fire_key(Order, 1, "Ready", session)
    refused = try_fire_key(Order, 1, "Delete", session)

    assert isinstance(refused, Refused)
    assert refused.state == "Running"


def test_a_token_is_the_tenants_own(session, rows):
    fire_key(Order, 1, "Ready", session, token="once")
    session.commit()

    with Session(rows[1]) as theirs:
        assert find_by_token(Order.state, "once", theirs) is None
        assert not fire_key(Order, 1, "Ready", theirs, token="once").replayed


def test_a_missing_row_is_created_in_the_tenants_schema(session, rows):
    fire_or_create(Order(id=3), "Ready", session)
    session.commit()

    assert [len(stored(tenant)) for tenant in rows] == [3, 2]
