"""Each operation is killed in the middle, and run again twice: the table is as after one run, and so is the session."""

from __future__ import annotations

import pytest
from sqlalchemy import event, text

from tests.alembic.support import migrating, orders, shown_table, stored

pytestmark = pytest.mark.servers_only

STATES = ("new", "paid", "late")
MACHINE = {None: ["new"], "new": ["paid", "late"], "paid": ["late"]}
WORDS = {"new": "new", "paid": "paid", "late": "late"}
# What is done, how the statements begin before which the connection is killed, and which of them that is.
KILLED = {
    "add_states": (lambda op: op.add_states("orders", "state", ["held"]), "ALTER TABLE", 1),
    "drop_states": (lambda op: op.drop_states("orders", "state", ["late"], copies_table=True), "ALTER TABLE", 1),
    "migrate_states": (
        lambda op: op.migrate_states("orders", "state", {"new": "late"}, batch_size=20),
        "UPDATE orders",
        2,
    ),
    "convert_states": (
        lambda op: op.convert_states("orders", "state", list(STATES), storage="varchar", copies_table=True),
        "ALTER TABLE",
        1,
    ),
    "enforce_machine": (lambda op: op.enforce_machine("orders", "state", MACHINE), "CREATE TRIGGER", 2),
    "adopt_column": (
        lambda op: op.adopt_column("orders", "state", "status", states=STATES, mapping=WORDS, batch_size=20),
        "UPDATE orders",
        2,
    ),
}


@pytest.mark.parametrize("operation", KILLED)
def test_an_operation_that_was_killed_is_run_again(project, engine, operation):
    run, beginning, number = KILLED[operation]
    expected = None
    for is_killed in (False, True):
        with engine.begin() as connection:
            connection.execute(text("DROP TABLE IF EXISTS orders"))
        orders(STATES).create_all(engine)
        with engine.begin() as connection:
            connection.execute(
                text("INSERT INTO orders (id, state) VALUES (:id, :state)"),
                [{"id": i, "state": STATES[i % 2]} for i in range(1, 61)],
            )
        if is_killed:
            _killed(engine, run, beginning, number)
        for _ in range(2):
            with migrating(engine) as op:
                run(op)
        found = (shown_table(engine), stored(engine), _triggers(engine))
        if expected is not None:
            assert found == expected
        expected = found
    with engine.connect() as connection:  # of the pool, as the operations have left it
        settings = connection.execute(text("SELECT @@sql_mode = @@GLOBAL.sql_mode, @@lock_wait_timeout > 5")).one()
    assert tuple(settings) == (1, 1)


def _killed(engine, run, beginning, number):
    seen = []

    def kill(connection, cursor, statement, *_):
        if statement.startswith(beginning):
            seen.append(statement)
            if len(seen) == number:
                victim = connection.connection.dbapi_connection.thread_id()
                with engine.connect() as other:
                    other.exec_driver_sql(f"KILL {victim}")

    event.listen(engine, "before_cursor_execute", kill)
    try:
        with pytest.raises(Exception, match="lost|2013|2006|1927|4031|gone away"), migrating(engine) as op:
            run(op)
    finally:
        event.remove(engine, "before_cursor_execute", kill)
    assert len(seen) == number


def _triggers(engine):
    with engine.connect() as connection:
        return sorted(row[0] for row in connection.exec_driver_sql("SHOW TRIGGERS LIKE 'orders'"))
