"""The end of an adoption, on tables that use the old column elsewhere, or of which the server copies any column."""

from __future__ import annotations

import uuid

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from sqlalchemy_fsm_mysql import Event, Machine
from sqlalchemy_fsm_mysql.alembic import finishing
from sqlalchemy_fsm_mysql.errors import MigrationRefused
from tests.alembic.support import migrating, shown_table
from tests.servers import make_engine

pytestmark = pytest.mark.servers_only

STATES = ("new", "paid")
MAPPING = {"New": "new", "Paid": "paid"}
MACHINE = Machine(initial="New", events=[Event("Pay", {"New": "Paid"})])


def execute(engine, *statements):
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def create(engine, more="", type_="VARCHAR(20)"):
    execute(
        engine,
        f"CREATE TABLE orders (id INT PRIMARY KEY, status {type_} NOT NULL, note VARCHAR(20) DEFAULT 'n' {more})",
        "INSERT INTO orders (id, status) VALUES (1, 'New'), (2, 'Paid')",
    )


def adopt(engine, **options):
    with migrating(engine) as op:
        op.adopt_column("orders", "status", "state", states=STATES, mapping=MAPPING, **options)


def finish(engine, **options):
    with migrating(engine) as op:
        op.finish_adoption("orders", "status", "state", **options)


def pairs(engine):
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text("SELECT status, state FROM orders ORDER BY id"))]


def require_in_step(engine):
    execute(engine, "UPDATE orders SET status = 'Paid' WHERE id = 1", "UPDATE orders SET state = 'new' WHERE id = 2")
    assert pairs(engine) == [("Paid", "paid"), ("New", "new")]


# How another part of the table uses the column, and how the refusal names it.
USERS = {
    "the CHECK paid_note": ", CONSTRAINT paid_note CHECK (status <> 'Paid' OR note IS NOT NULL)",
    "the column is_paid": ", is_paid INT AS (status = 'Paid') VIRTUAL",
    "the index by_both": ", KEY by_both (note, status)",
    "the index by_upper": ", KEY by_upper ((UPPER(status)))",
    "the foreign key of_child": ", UNIQUE KEY (status)",
    "the trigger audit": "",
    "the partitions": None,
}


@pytest.mark.parametrize("user", USERS)
def test_it_is_refused_while_anything_uses_the_old_column(project, engine, user):
    if user == "the index by_upper" and engine.dialect.is_mariadb:
        pytest.skip("MariaDB has no index of an expression")
    if USERS[user] is None:
        execute(
            engine,
            "CREATE TABLE orders (id INT, status VARCHAR(20) NOT NULL, PRIMARY KEY (id, status))"
            " PARTITION BY LIST COLUMNS (status) (PARTITION a VALUES IN ('New'), PARTITION b VALUES IN ('Paid'))",
            "INSERT INTO orders VALUES (1, 'New'), (2, 'Paid')",
        )
    else:
        create(engine, USERS[user])
    if "foreign key" in user:
        execute(
            engine,
            "CREATE TABLE child (status VARCHAR(20), CONSTRAINT of_child FOREIGN KEY (status) REFERENCES orders (status))",
        )
    if "trigger" in user:
        execute(engine, "CREATE TRIGGER audit BEFORE UPDATE ON orders FOR EACH ROW SET NEW.note = LEFT(NEW.status, 3)")
    adopt(engine)
    before = shown_table(engine)

    with pytest.raises(MigrationRefused, match=f"still used by .*{user}.*nothing was changed"):
        finish(engine)

    assert shown_table(engine) == before
    if "foreign key" not in user:  # whose unique key keeps both rows from one value
        require_in_step(engine)
    execute(engine, "DROP TABLE IF EXISTS child")


def test_a_trigger_that_reads_goes_on_with_the_generated_column(project, engine):
    create(engine)
    execute(
        engine,
        "CREATE TABLE audit (status VARCHAR(20))",
        "CREATE TRIGGER audit AFTER UPDATE ON orders FOR EACH ROW INSERT INTO audit VALUES (NEW.status)",
    )
    adopt(engine)
    with pytest.raises(MigrationRefused, match="the trigger audit"):
        finish(engine, drop=True)

    finish(engine)
    execute(engine, "DELETE FROM audit", "UPDATE orders SET state = 'paid' WHERE id = 1")

    with engine.connect() as connection:
        assert connection.scalars(text("SELECT status FROM audit")).all() == ["Paid"]


def test_a_machine_that_is_enforced_on_the_old_column_is_released_first(project, engine):
    create(engine)
    with migrating(engine) as op:
        op.enforce_machine("orders", "status", MACHINE.to_json())
    adopt(engine)
    with pytest.raises(MigrationRefused, match=r"the trigger fsm_orders_status.*op.release_machine\(\)"):
        finish(engine, drop=True)

    with migrating(engine) as op:
        op.release_machine("orders", "status")
    finish(engine, drop=True)

    execute(engine, "UPDATE orders SET state = 'new'", "INSERT INTO orders (id, state) VALUES (3, 'paid')")


@pytest.mark.parametrize("drop", [True, False], ids=["dropped", "generated"])
def test_a_check_of_the_old_column_alone_goes_with_it(project, engine, drop):
    create(engine, ", CONSTRAINT ck_orders_status_states CHECK (status IN ('New', 'Paid'))")
    adopt(engine)

    finish(engine, drop=drop)

    assert "CHECK" not in shown_table(engine)
    execute(engine, "UPDATE orders SET state = 'paid'")


def test_a_refusal_at_the_switch_leaves_the_triggers(project, engine, monkeypatch):
    """Some other part of the table that nobody has thought of: the server refuses when the triggers are dropped."""
    create(engine, USERS["the CHECK paid_note"])
    adopt(engine)
    monkeypatch.setattr(finishing, "dependents", lambda *_, **__: [])

    with pytest.raises(DBAPIError, match="paid_note|status"):
        finish(engine, drop=True)

    require_in_step(engine)
    execute(
        engine, "INSERT INTO orders (id, status) VALUES (3, 'Paid')", "ALTER TABLE orders DROP CONSTRAINT paid_note"
    )
    finish(engine, drop=True)
    execute(engine, "UPDATE orders SET state = 'paid' WHERE id = 1")


@pytest.mark.parametrize("drop", [True, False], ids=["dropped", "generated"])
def test_a_table_that_the_server_only_copies_needs_consent(project, engine, drop):
    """Because of an index FULLTEXT."""
    create(engine, ", FULLTEXT KEY of_note (note)")
    before = shown_table(engine)
    for options in ({}, {"copies_table": True}):
        if not options:
            with pytest.raises(MigrationRefused, match="cannot add state by ALGORITHM=INSTANT.*copies_table=True"):
                adopt(engine)
            assert shown_table(engine) == before
            continue
        adopt(engine, **options)
    with migrating(engine) as op:
        op.abandon_adoption("orders", "status", "state", copies_table=True)
    assert shown_table(engine) == before

    adopt(engine, copies_table=True)
    with pytest.raises(MigrationRefused, match=r"the server cannot .* by ALGORITHM=.*copies_table=True"):
        finish(engine, drop=drop)
    require_in_step(engine)
    finish(engine, drop=drop, copies_table=True)

    execute(engine, "UPDATE orders SET state = 'paid'")
    assert "of_note" in shown_table(engine)


def test_the_index_on_the_beginning_of_a_text_is_kept(project, engine):
    create(engine, ", KEY by_status (status(5))", "TEXT")
    adopt(engine)

    finish(engine)

    assert "KEY `by_status` (`status`(5))" in shown_table(engine)


def test_an_account_that_cannot_make_triggers_adds_no_column(project, engine):
    create(engine)
    before = shown_table(engine)
    name = f"fsm_{uuid.uuid4().hex[:8]}"
    execute(
        engine,
        f"CREATE USER {name}@'%'",
        f"GRANT SELECT, INSERT, UPDATE, ALTER, CREATE ON `{engine.url.database}`.* TO {name}@'%'",
    )
    other = make_engine(engine.url.set(username=name, password=""))
    try:
        with pytest.raises(MigrationRefused, match="no privilege TRIGGER.*nothing was changed"):
            adopt(other)
    finally:
        other.dispose()
        execute(engine, f"DROP USER {name}@'%'")

    assert shown_table(engine) == before
