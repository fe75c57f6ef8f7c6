"""A foreign key to a table of states, whose ids are the numbers of an Enum: a machine takes the column as it is."""

from __future__ import annotations

import enum

import pytest
from sqlalchemy import ForeignKeyConstraint, String, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    Machine,
    RefusedByDatabase,
    Stateful,
    StateMachineColumn,
    TransitionHistory,
    UnknownState,
    check_database,
    fire_key,
    fire_where,
    force_state,
)
from sqlalchemy_fsm_mysql.errors import MigrationRefused
from tests.alembic.support import drop_all, migrating, shown_table, stored

pytestmark = pytest.mark.servers_only


class Status(enum.IntEnum):
    NEW = 10
    PAID = 20
    VOID = 30


EVENTS = [Event("Pay", {Status.NEW: Status.PAID}), Event("Void", {(Status.NEW, Status.PAID): Status.VOID})]


class Base(DeclarativeBase):
    pass


class OrderState(Base):
    __tablename__ = "order_states"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(20))


class Order(Stateful, Base):
    __tablename__ = "orders"
    __table_args__ = (ForeignKeyConstraint(["state"], ["order_states.id"], name="fk_orders_state"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[Status] = StateMachineColumn(
        Machine(initial=Status.NEW, states=Status, events=EVENTS), storage="integer", protected=False
    )


class OrderTransition(TransitionHistory, Base):
    __tablename__ = "order_transitions"
    __records__ = Order.state


@pytest.fixture
def table(project, engine):
    """Somebody else's tables: NULL is allowed, and a fourth state is in the table of states."""
    with engine.begin() as connection:
        for statement in (
            "CREATE TABLE order_states (id INT PRIMARY KEY, name VARCHAR(20) NOT NULL)",
            "INSERT INTO order_states VALUES (10, 'new'), (20, 'paid'), (30, 'void'), (40, 'lost')",
            (
                "CREATE TABLE orders (id INT PRIMARY KEY AUTO_INCREMENT, state INT NULL DEFAULT 10,"
                " CONSTRAINT fk_orders_state FOREIGN KEY (state) REFERENCES order_states (id))"
            ),
            "INSERT INTO orders (id, state) VALUES (1, 10), (2, 20), (3, 10)",
        ):
            connection.execute(text(statement))
    Base.metadata.tables["order_transitions"].create(engine)
    yield
    drop_all(engine)


def execute(engine, statement):
    with engine.begin() as connection:
        return connection.execute(text(statement)).rowcount


def test_events_move_rows_beside_old_code(table, engine):
    with Session(engine) as session:
        assert fire_key(Order, 1, "Pay", session).target is Status.PAID
        assert fire_where(Order, "Void", session, Order.state == Status.PAID).moved == 2
        session.commit()
    old_code = "SELECT o.id, s.name FROM orders o JOIN order_states s ON s.id = o.state ORDER BY o.id"
    with engine.connect() as connection:
        assert [tuple(row) for row in connection.execute(text(old_code))] == [(1, "void"), (2, "void"), (3, "new")]
        names = connection.scalars(text("SELECT target FROM order_transitions WHERE record_id = 1 ORDER BY sequence"))
        assert names.all() == ["PAID", "VOID"]

    execute(engine, "UPDATE orders SET state = 40 WHERE id = 3")  # the foreign key lets it in, the machine has it not
    with Session(engine) as session:
        with pytest.raises(UnknownState, match="40"):
            fire_key(Order, 3, "Pay", session)
        force_state(session.get_one(Order, 3), Status.NEW, session)
        session.commit()
    assert stored(engine) == {1: 30, 2: 30, 3: 10}
    with pytest.raises(DBAPIError, match="fk_orders_state"):
        execute(engine, "UPDATE orders SET state = 50 WHERE id = 3")


def test_triggers_and_the_check_keep_other_ids_out(table, engine):
    """Triggers at once; the CHECK of convert_states for a copy of the table. The key stays."""
    found = {one.kind for one in check_database(Order.state, engine)}
    assert {"any state", "nullable"} <= found

    with migrating(engine) as op:
        op.enforce_machine("orders", "state", {None: ["10", "20", "30"], "10": ["20", "30"], "20": ["30"]})
    with pytest.raises(RefusedByDatabase):
        execute(engine, "UPDATE orders SET state = 40 WHERE id = 3")
    with migrating(engine) as op:
        op.release_machine("orders", "state")
    execute(engine, "UPDATE orders SET state = 40 WHERE id = 3")  # neither triggers nor a CHECK
    execute(engine, "UPDATE orders SET state = 10 WHERE id = 3")

    with migrating(engine) as op:
        op.convert_states("orders", "state", [10, 20, 30], storage="integer", copies_table=True)

    shown = shown_table(engine)
    assert "fk_orders_state" in shown
    assert "ck_orders_state_states" in shown
    assert not {"any state", "nullable"} & {one.kind for one in check_database(Order.state, engine)}
    with pytest.raises(DBAPIError, match="ck_orders_state_states"):
        execute(engine, "UPDATE orders SET state = 40 WHERE id = 3")


def test_a_type_that_the_key_does_not_let_change_is_refused(project, engine):
    """A key by name: a VARCHAR beside a VARCHAR, which cannot become an ENUM."""
    execute(engine, "CREATE TABLE names (name VARCHAR(20) PRIMARY KEY)")
    execute(engine, "INSERT INTO names VALUES ('new'), ('paid')")
    execute(
        engine,
        "CREATE TABLE orders (id INT PRIMARY KEY, state VARCHAR(20) NOT NULL, FOREIGN KEY (state) REFERENCES names (name))",
    )
    before = shown_table(engine)

    with (
        migrating(engine) as op,
        pytest.raises(MigrationRefused, match=r"a foreign key prevents.*op\.adopt_column"),
    ):
        op.convert_states("orders", "state", ["new", "paid"], storage="enum", copies_table=True)

    assert shown_table(engine) == before


def test_autogenerate_keeps_the_key_and_gives_the_check(project, table, engine):
    """Where the model declares the key, as a ForeignKeyConstraint of its table."""
    revision = project.autogenerate(Base.metadata)

    assert "op.convert_states('orders', 'state', [10, 20, 30], storage='integer'" in revision
    assert "constraint" not in revision
    project.upgrade()
    project.check(Base.metadata)
    assert stored(engine) == {1: 10, 2: 20, 3: 10}
    assert "fk_orders_state" in shown_table(engine)
