"""Rows from state to state: every kind of key, a failure in the middle, rows that others hold, and the history."""

from __future__ import annotations

import datetime as dt
import signal
import subprocess
import sys
import threading
import time
import uuid

import pytest
from sqlalchemy import (
    BINARY,
    Column,
    DateTime,
    Enum,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Uuid,
    func,
    insert,
    select,
    text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import Event, Machine, StateMachineColumn, TransitionHistory, replay
from sqlalchemy_fsm_mysql.alembic import batches
from sqlalchemy_fsm_mysql.errors import MigrationRefused
from tests.alembic.support import fill, migrating, orders, shown_table, stored, told

LETTERS = ("a", "B", "c", "é", "d e", "100%", "it's", "\\", "z", "Z9")
MOMENT = dt.datetime(2024, 1, 1)  # noqa: DTZ001 - a DATETIME has no time zone
KEYS = {
    "integer": ({"id": Integer()}, [(i,) for i in range(-5, 20)]),
    "string": ({"id": String(40)}, [(a + b,) for a in LETTERS for b in "xyz"]),
    "composite": ({"tenant": SmallInteger(), "name": String(20)}, [(t, a) for t in (3, 1, 2) for a in LETTERS]),
    "uuid": ({"id": Uuid()}, [(uuid.uuid4(),) for _ in range(25)]),
    "binary": ({"id": BINARY(16)}, [(uuid.uuid4().bytes,) for _ in range(25)]),
    "moment": (
        {"id": DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")},
        [(MOMENT + dt.timedelta(microseconds=7 * i),) for i in range(25)],
    ),
    "enum": (
        {"kind": Enum("z", "m", "a", name="kind"), "number": Integer()},
        [(k, i) for k in "zma" for i in range(9)],
    ),
}


@pytest.mark.parametrize("kind", KEYS)
def test_every_key_is_gone_along(project, engine, kind):
    types, keys = KEYS[kind]
    metadata = MetaData()
    # A state in the middle that stays, and a key that is not the table's first columns.
    states = orders(("new", "Error", "Failed")).tables["orders"].c.state.type
    table = Table(
        "orders",
        metadata,
        Column("state", states, nullable=False),
        *(Column(name, type_, primary_key=True, autoincrement=False) for name, type_ in types.items()),
    )
    record = (Column(f"record_{name}", type_, primary_key=True, autoincrement=False) for name, type_ in types.items())
    history = Table(
        "order_transitions",
        metadata,
        *record,
        Column("sequence", Integer(), primary_key=True, autoincrement=False),
        *(Column(name, String(64)) for name in ("event", "source", "target", "actor", "details", "token", "at")),
    )
    metadata.create_all(engine)
    rows = [dict(zip(types, key, strict=True), state=("Error", "new")[i % 5 == 0]) for i, key in enumerate(keys)]
    with engine.begin() as connection:
        connection.execute(insert(table), rows)

    with migrating(engine) as op:
        op.migrate_states("orders", "state", {"Error": "Failed"}, batch_size=4, history="order_transitions")

    with engine.connect() as connection:
        found = {tuple(row): state for *row, state in connection.execute(select(*table.primary_key, table.c.state))}
        recorded = [tuple(row) for row in connection.execute(select(*history.primary_key, history.c.source))]
    expected = {key: ("Failed", "new")[i % 5 == 0] for i, key in enumerate(keys)}
    assert found == expected
    assert sorted(recorded, key=repr) == sorted(
        ((*key, 1, "Error") for key, state in expected.items() if state == "Failed"), key=repr
    )


def recorded_model():
    class Base(DeclarativeBase):
        pass

    class Order(Base):
        __tablename__ = "orders"
        id: Mapped[int] = mapped_column(primary_key=True)
        state: Mapped[str] = StateMachineColumn(
            Machine(
                initial="new",
                events=[Event("Fail", {"new": "Failed"}), Event("Repair", {"Failed": "new"})],
                aliases={"Error": "Failed"},
            )
        )

    class OrderTransition(TransitionHistory, Base):
        __tablename__ = "order_transitions"
        __records__ = Order.state

    return Base.metadata, Order, OrderTransition


REFUSE = {
    "sqlite": "CREATE TRIGGER no13 BEFORE UPDATE ON orders WHEN NEW.id = 13 BEGIN SELECT RAISE(ABORT, 'no'); END",
    "mysql": (
        "CREATE TRIGGER no13 BEFORE UPDATE ON orders FOR EACH ROW "
        "IF NEW.id = 13 THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'; END IF"
    ),
}


def test_it_is_taken_up_again_after_a_failure_in_the_middle(project, engine):
    metadata, Order, Transition = recorded_model()
    metadata.create_all(engine)
    fill(engine, dict.fromkeys(range(1, 21), "Error"))
    with engine.begin() as connection:
        connection.execute(text(REFUSE[engine.dialect.name]))
    project.config.attributes["metadata"] = metadata
    project.write(
        "op.migrate_states('orders', 'state', {'Error': 'Failed'}, batch_size=5, history='order_transitions')"
    )

    with pytest.raises(DBAPIError):
        project.upgrade()
    half = stored(engine)
    with engine.begin() as connection:
        connection.execute(text("DROP TRIGGER no13"))
    project.upgrade()

    assert [half[key] for key in (1, 10, 11, 20)] == ["Failed", "Failed", "Error", "Error"]
    assert set(stored(engine).values()) == {"Failed"}
    with Session(engine) as session:
        assert session.scalar(select(func.count()).select_from(Transition)) == 20
        assert session.scalar(select(func.max(Transition.sequence))) == 1
        assert replay(session.get_one(Order, 13).history()) == "Failed"


UPGRADE = """
import sys
from sqlalchemy import create_engine
from tests.alembic.support import migrating

with migrating(create_engine(sys.argv[1])) as op:
    op.migrate_states("orders", "state", {"Error": "Failed"}, batch_size=10, history="order_transitions")
"""


@pytest.mark.servers_only
def test_it_is_taken_up_again_after_its_process_was_killed(project, engine):
    metadata, Order, Transition = recorded_model()
    metadata.create_all(engine)
    fill(engine, dict.fromkeys(range(1, 2001), "Error"))
    url = engine.url.render_as_string(hide_password=False)

    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", UPGRADE, url])
    while list(stored(engine).values()).count("Failed") < 100:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    half = list(stored(engine).values()).count("Failed")
    with migrating(engine) as op:
        op.migrate_states("orders", "state", {"Error": "Failed"}, history="order_transitions")

    assert 100 <= half < 2000
    with Session(engine) as session:
        assert session.scalar(select(func.count()).select_from(Transition)) == 2000
        assert session.scalar(select(func.max(Transition.sequence))) == 1
        assert session.scalar(select(func.count()).where(Order.__table__.c.state == "Failed")) == 2000


@pytest.mark.servers_only
def test_a_row_that_somebody_holds_is_left_for_another_pass(project, engine):
    orders(("new", "Error", "Failed")).create_all(engine)
    fill(engine, dict.fromkeys(range(1, 21), "Error"))
    is_held, others_moved = threading.Event(), threading.Event()

    def hold():
        with engine.begin() as connection:
            connection.execute(text("SELECT id FROM orders WHERE id = 7 FOR UPDATE")).all()
            is_held.set()
            until = time.monotonic() + 30
            while list(stored(engine).values()).count("Failed") < 19:
                if time.monotonic() > until:
                    return
                time.sleep(0.01)
            others_moved.set()

    holder = threading.Thread(target=hold)
    holder.start()
    is_held.wait(10)
    with told("alembic.sqlalchemy_fsm_mysql") as messages, migrating(engine) as op:
        op.migrate_states("orders", "state", {"Error": "Failed"}, batch_size=5)
    holder.join()

    assert others_moved.is_set()
    assert set(stored(engine).values()) == {"Failed"}
    assert messages[0].startswith("orders.state: 1 rows are left; another pass in")
    assert messages[-1] == "orders.state: 20 rows moved ('Error' to 'Failed')"


@pytest.mark.servers_only
def test_rows_that_are_held_for_good_are_told(project, engine, monkeypatch):
    monkeypatch.setattr(batches, "PASSES", 2)
    orders(("new", "Error", "Failed")).create_all(engine)
    fill(engine, {1: "Error", 2: "Error", 3: "Error"})

    with engine.connect() as holder, migrating(engine) as op:
        holder.execute(text("SELECT id FROM orders WHERE id > 1 FOR UPDATE")).all()
        with pytest.raises(MigrationRefused, match="2 rows in 'Error'") as refused:
            op.migrate_states("orders", "state", {"Error": "Failed"})
        holder.rollback()

    assert refused.value.rows == {"Error": 2}
    assert stored(engine) == {1: "Failed", 2: "Error", 3: "Error"}


@pytest.mark.servers_only
def test_a_lock_wait_is_explained_and_a_second_run_goes_on(project, engine, monkeypatch):
    """Another transaction has locked the gap of the history into which a batch inserts: SKIP LOCKED does not help."""
    monkeypatch.setattr(batches, "_ATTEMPTS", 2)
    orders(("new", "Error", "Failed")).create_all(engine)
    fill(engine, {1: "Error", 2: "Error"})
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE TABLE moves (record_id INT, sequence INT, event VARCHAR(20), source VARCHAR(20), target VARCHAR(20),"
                " at DATETIME(6), actor VARCHAR(20), details JSON, token VARCHAR(64), PRIMARY KEY (record_id, sequence))"
            )
        )

    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as holder:
        holder.execute(text("SELECT * FROM moves WHERE record_id >= 0 FOR UPDATE")).all()
        explained = (
            r"another transaction locked rows for too long \(error 1205\); 0 rows are changed.*run the revision again"
        )
        with migrating(engine) as op, pytest.raises(MigrationRefused, match=explained):
            op.execute("SET SESSION innodb_lock_wait_timeout = 1")
            op.migrate_states("orders", "state", {"Error": "Failed"}, history="moves")
        holder.rollback()
    assert set(stored(engine).values()) == {"Error"}

    with migrating(engine) as op:
        op.execute("SET SESSION innodb_lock_wait_timeout = DEFAULT")
        op.migrate_states("orders", "state", {"Error": "Failed"}, history="moves")
    assert set(stored(engine).values()) == {"Failed"}


def test_progress_is_told(project, engine, monkeypatch):
    orders(("new", "Error", "Failed")).create_all(engine)
    fill(engine, dict.fromkeys(range(1, 21), "Error"))
    monkeypatch.setattr(batches, "TELL_EVERY", 0.0)

    with told("alembic.sqlalchemy_fsm_mysql") as messages, migrating(engine) as op:
        op.migrate_states("orders", "state", {"Error": "Failed"}, batch_size=10)

    assert messages == [
        "orders.state: 10 of 20 rows moved ('Error' to 'Failed'), at key 10",
        "orders.state: 20 of 20 rows moved ('Error' to 'Failed'), at key 20",
        "orders.state: 20 rows moved ('Error' to 'Failed')",
    ]


def test_a_transaction_around_all_migrations_is_refused(project, engine):
    orders(("new", "Error", "Failed")).create_all(engine)
    fill(engine, {1: "Error"})
    env = project.folder / "env.py"
    env.write_text(env.read_text().replace('["engine"].connect()', '["engine"].begin()'))
    project.write("op.migrate_states('orders', 'state', {'Error': 'Failed'})")

    with pytest.raises(MigrationRefused, match="env.py has begun a transaction"):
        project.upgrade()

    assert stored(engine) == {1: "Error"}


def test_a_table_without_a_key_is_refused(project, engine):
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE orders (id INT, state VARCHAR(10))"))

    with migrating(engine) as op, pytest.raises(MigrationRefused, match="no primary key"):
        op.migrate_states("orders", "state", {"Error": "Failed"})


def test_a_table_that_is_no_history_is_refused(project, engine):
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE orders (id INT PRIMARY KEY, state VARCHAR(10))"))

    with migrating(engine) as op, pytest.raises(MigrationRefused, match="'orders' is not a history"):
        op.migrate_states("orders", "state", {"Error": "Failed"}, history="orders")


@pytest.mark.parametrize(
    ("targets", "problem"),
    [
        ({}, "takes {source: target}"),
        ("Error", "takes {source: target}"),
        ({"a": "b", "b": "c"}, "both a source and a target"),
    ],
)
def test_targets_that_make_no_sense_are_refused(project, engine, targets, problem):
    with migrating(engine) as op, pytest.raises(ValueError, match=problem):
        op.migrate_states("orders", "state", targets)


@pytest.mark.parametrize("storage", ["enum", "varchar"])
def test_a_revision_that_failed_in_the_middle_is_run_again(project, engine, storage):
    """Up and down, with the DDL done, which no server rolls back, and half of the rows moved."""
    orders(("new", "Error"), storage).create_all(engine)
    fill(engine, dict.fromkeys(range(1, 21), "Error"))
    before = shown_table(engine)
    copy = ", algorithm='COPY', copies_table=True" if storage == "varchar" else ""
    project.write(
        f"op.add_states('orders', 'state', ['Failed']{copy}); "
        "op.migrate_states('orders', 'state', {'Error': 'Failed'}, batch_size=5)",
        "op.migrate_states('orders', 'state', {'Failed': 'Error'}, batch_size=5); "
        "op.drop_states('orders', 'state', ['Failed'], copies_table=True)",
    )

    for step, left in ((project.upgrade, "Error"), (lambda: project.downgrade("base"), "Failed")):
        with engine.begin() as connection:
            connection.execute(text(REFUSE[engine.dialect.name]))
        with pytest.raises(DBAPIError):
            step()
        assert list(stored(engine).values()).count(left) == 10
        with engine.begin() as connection:
            connection.execute(text("DROP TRIGGER no13"))
        step()

    assert shown_table(engine) == before
    assert set(stored(engine).values()) == {"Error"}
