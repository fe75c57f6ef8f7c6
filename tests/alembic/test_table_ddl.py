"""What an operation leaves alone: everything a server's DDL says besides the states, and the writers who wait."""

from __future__ import annotations

import re
import threading
import time

import pytest
from sqlalchemy import text

from sqlalchemy_fsm_mysql.errors import MigrationRefused
from tests.alembic.support import fill, migrating, orders, run_script, shown_table
from tests.servers import execute

pytestmark = pytest.mark.servers_only

# Columns as people write them; `{}` is where the states go on being listed.
COLUMNS = {
    "nullable": "enum('new','Error') NULL",
    "without a default": "enum('new','Error') NOT NULL",
    "in another collation": "enum('new','Error') CHARACTER SET latin1 COLLATE latin1_german2_ci NOT NULL DEFAULT 'Error'",
    "invisible": "enum('new','Error') NOT NULL DEFAULT 'new' INVISIBLE",
    "commented": r"enum('new','Error') NOT NULL DEFAULT 'new' COMMENT 'it''s 100% DEFAULT \'x\' \\ `state` enum(\'a\'), :p %s'",
    "with a default that is computed": "enum('new','Error') NOT NULL DEFAULT (concat('ne','w'))",
    "varchar": "varchar(40) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT 'new' COMMENT 'a, b'",
}
CHECK = ", CONSTRAINT ck_orders_state_states CHECK (state IN ('new','Error'))"
OTHERS = """
    `from` INT NOT NULL CHECK (`from` > 0), note VARCHAR(20) DEFAULT 'a\\'b' COMMENT 'enum(''x'')',
    other ENUM('new','Error') NOT NULL DEFAULT 'new', KEY by_state (state), CONSTRAINT ck_note CHECK (note <> 'state')
"""


def create(engine, kind):
    check = CHECK if kind == "varchar" else ""
    with engine.begin() as connection:
        statement = f"CREATE TABLE orders (id INT PRIMARY KEY AUTO_INCREMENT, state {COLUMNS[kind]}, {OTHERS}{check})"
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
        connection.execute(text("INSERT INTO orders (id, state, `from`) VALUES (1, 'new', 1), (2, 'Error', 2)"))
    return shown_table(engine)


@pytest.mark.parametrize("kind", COLUMNS)
def test_all_else_survives(project, engine, kind):
    before = create(engine, kind)
    algorithm = "COPY" if kind == "varchar" else "INSTANT"

    with migrating(engine) as op:
        op.add_states("orders", "state", ["Failed"], algorithm=algorithm, copies_table=True)
    wider = shown_table(engine)
    with migrating(engine) as op:
        op.migrate_states("orders", "state", {"Error": "Failed"})
        op.migrate_states("orders", "state", {"Failed": "Error"})
        op.drop_states("orders", "state", ["Failed"], copies_table=True)

    assert "'Failed'" in wider
    assert re.sub(r",(_\w+)?'Failed'", "", wider, count=1) == before
    assert shown_table(engine) == before


@pytest.mark.parametrize("kind", [kind for kind in COLUMNS if kind != "varchar"])
def test_all_else_survives_a_script(project, engine, kind):
    before = create(engine, kind)
    project.config.attributes["metadata"] = orders(("new",))
    project.write(
        "op.add_states('orders', 'state', ['Failed'])",
        "op.drop_states('orders', 'state', ['Failed'], copies_table=True)",
    )

    run_script(engine, project.sql("head"))
    wider = shown_table(engine)
    run_script(engine, project.sql("0001:base", "downgrade"))

    assert re.sub(r",(_\w+)?'Failed'", "", wider, count=1) == before
    assert shown_table(engine) == before


def test_a_table_of_another_schema(project, engine):
    other = f"{engine.url.database}_other"
    execute(engine.url, f"CREATE DATABASE {other}")
    try:
        orders(("new", "Error"), schema=other).create_all(engine)
        fill(engine, {1: "Error"}, f"{other}.orders")
        project.config.attributes["options"] = {
            "include_schemas": True,
            "include_name": lambda n, t, p: t != "schema" or n == other,
        }
        changed = orders(("new", "Failed"), schema=other, aliases={"Error": "Failed"})

        written = project.autogenerate(changed)
        project.upgrade()
        project.check(changed)
        project.sql("head")

        assert f"schema='{other}'" in written
        assert "'Failed'" in shown_table(engine, f"{other}.orders")
        with engine.connect() as connection:
            assert connection.execute(text(f"SELECT state FROM {other}.orders")).scalars().all() == ["Failed"]
    finally:
        execute(engine.url, f"DROP DATABASE {other}")


def table_id(engine):
    """What InnoDB gives a table anew whenever it is copied."""
    view = "INNODB_SYS_TABLES" if getattr(engine.dialect, "is_mariadb", False) else "INNODB_TABLES"
    query = text(f"SELECT TABLE_ID FROM information_schema.{view} WHERE NAME = :name")
    with engine.connect() as connection:
        return connection.execute(query, {"name": f"{engine.url.database}/orders"}).scalar_one()


def test_the_255th_state_copies_nothing_and_the_256th_is_refused(project, engine):
    orders([f"s{i}" for i in range(254)]).create_all(engine)
    before = table_id(engine)

    with migrating(engine) as op:
        op.add_states("orders", "state", ["s254"])
        assert table_id(engine) == before
        with pytest.raises(MigrationRefused, match='ALGORITHM=INSTANT; algorithm="COPY" copies the table'):
            op.add_states("orders", "state", ["s255"])
        assert table_id(engine) == before
        op.add_states("orders", "state", ["s255"], algorithm="COPY", copies_table=True)

    assert table_id(engine) != before


def test_a_varchar_is_not_copied_unless_it_is_said(project, engine):
    orders(("new", "Error"), "varchar").create_all(engine)

    with migrating(engine) as op, pytest.raises(MigrationRefused, match="copies the table"):
        op.add_states("orders", "state", ["Failed"])


def test_an_append_does_not_queue_for_long(project, engine):
    """An open transaction holds the table: writers wait for a second, not for as long as it is open."""
    orders(("new", "Error")).create_all(engine)
    fill(engine, {1: "new"})
    waited = []

    def write():
        time.sleep(0.3)
        start = time.monotonic()
        fill(engine, {2: "new"})
        waited.append(time.monotonic() - start)

    with engine.connect() as holder:
        holder.execute(text("SELECT * FROM orders")).all()
        writer = threading.Thread(target=write)
        writer.start()
        with migrating(engine) as op, pytest.raises(MigrationRefused, match="locked the table for 1 times 1 s"):
            op.add_states("orders", "state", ["Failed"], attempts=1)
        writer.join()
        holder.rollback()

    assert waited[0] < 2.5
    assert "'Failed'" not in shown_table(engine)


def test_an_append_gets_through_between_two_transactions(project, engine):
    orders(("new", "Error")).create_all(engine)
    holder = engine.connect()
    holder.execute(text("SELECT * FROM orders")).all()
    threading.Timer(1.5, holder.close).start()

    with migrating(engine) as op:
        op.add_states("orders", "state", ["Failed"])

    assert "'Failed'" in shown_table(engine)


@pytest.mark.parametrize("mode", ["ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT", ""])
def test_the_sessions_own_mode_does_not_matter_and_is_left(project, engine, mode):
    before = create(engine, "commented")
    with engine.connect() as connection:
        from alembic.migration import MigrationContext
        from alembic.operations import Operations

        connection.execute(text("SET SESSION sql_mode = :mode"), {"mode": mode})
        connection.execute(text("SET SESSION lock_wait_timeout = 77"))
        context = MigrationContext.configure(connection)
        connection.commit()
        with context.begin_transaction(_per_migration=True):
            op = Operations(context)
            op.add_states("orders", "state", ["Failed", "a\\b'"])
            with pytest.raises(MigrationRefused, match="1 row in 'Error'"):
                op.drop_states("orders", "state", ["Error"], copies_table=True)
            op.drop_states("orders", "state", ["Failed", "a\\b'"], copies_table=True)
        left = connection.execute(text("SELECT @@SESSION.sql_mode, @@SESSION.lock_wait_timeout")).one()
        connection.execute(text("SET SESSION sql_mode = DEFAULT"))

    assert shown_table(engine) == before
    assert (set(mode.split(",")) <= set(left[0].split(",")), left[1]) == (True, 77)
