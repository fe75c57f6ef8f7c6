"""What the operations and autogenerate refuse, so that the server never converts a state column in its own way."""

from __future__ import annotations

import pytest
from sqlalchemy import event, text

from sqlalchemy_fsm_mysql.errors import MigrationRefused
from tests.alembic.support import migrating, orders, shown_table

pytestmark = pytest.mark.servers_only

STATES = ("new", "paid", "cancelled")
FOLDED = "CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"


@pytest.fixture
def lenient(project, engine):
    """A server whose sessions are not strict, as old ones are."""

    def set_mode(connection, _):
        connection.cursor().execute("SET SESSION sql_mode = ''")

    event.listen(engine, "connect", set_mode)
    engine.dispose()
    yield engine
    event.remove(engine, "connect", set_mode)
    engine.dispose()


def create(engine, definition, rows):
    """A table of somebody else's, with *rows* in its state column."""
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"CREATE TABLE orders (id INT PRIMARY KEY, state {definition}, note VARCHAR(20) DEFAULT 'n''o')"
        )
        values = [{"id": i, "state": value} for i, value in enumerate(rows, start=1)]
        connection.execute(text("INSERT INTO orders (id, state) VALUES (:id, :state)"), values)


def held(engine):
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT CAST(CONVERT(state USING utf8mb4) AS BINARY) FROM orders ORDER BY id")
        return [None if value is None else bytes(value).decode() for (value,) in rows]


@pytest.mark.parametrize(
    ("definition", "rows"),
    [
        ("TINYINT NOT NULL", [1, 2, 3]),
        ("INT NULL", [1, None]),
        ("TEXT NOT NULL", ["new", "on hold"]),
        ("CHAR(10) NOT NULL", ["new", "on hold"]),
        ("DATE NULL", ["2020-01-01"]),
        ("JSON NULL", ["1"]),
    ],
)
def test_a_column_of_another_kind_is_left_alone(project, lenient, definition, rows):
    create(lenient, definition, rows)
    before = shown_table(lenient), held(lenient)

    with pytest.raises(MigrationRefused, match="op.adopt_column"):
        project.autogenerate(orders(STATES))
    for operate in (
        lambda op: op.convert_states("orders", "state", STATES, storage="enum", copies_table=True),
        lambda op: op.add_states("orders", "state", ["late"]),
        lambda op: op.migrate_states("orders", "state", {"new": "paid"}),
        lambda op: op.drop_states("orders", "state", ["new"], copies_table=True),
    ):
        with migrating(lenient) as op, pytest.raises(MigrationRefused, match=r"op\.adopt_column"):
            operate(op)

    assert (shown_table(lenient), held(lenient)) == before


@pytest.mark.parametrize("storage", ["enum", "varchar"])
def test_every_value_counts_byte_by_byte(project, lenient, storage):
    create(lenient, f"VARCHAR(20) {FOLDED} NULL", ["new", "Paid", "PAID", "paid ", "pàid", None, "", "cancelled"])
    before = shown_table(lenient), held(lenient)

    with migrating(lenient) as op, pytest.raises(MigrationRefused) as refused:
        op.convert_states("orders", "state", STATES, storage=storage, copies_table=True)

    values = ["NULL (no value)", "", "PAID", "Paid", "paid ", "pàid"]
    assert refused.value.rows == dict.fromkeys(values, 1)
    assert (shown_table(lenient), held(lenient)) == before


def test_mixed_case_is_migrated_in_a_folding_collation(project, engine):
    create(engine, f"VARCHAR(20) {FOLDED} NULL", ["new", "Paid", "paid", "paid ", None, ""])

    with migrating(engine) as op:
        op.migrate_states("orders", "state", {"Paid": "paid", "paid ": "paid", None: "new", "": "new"})
        op.convert_states("orders", "state", STATES, storage="varchar", copies_table=True)

    assert held(engine) == ["new", "paid", "paid", "paid", "new", "new"]
    shown = shown_table(engine)
    assert "NOT NULL" in shown.partition("`state`")[2].partition("\n")[0]
    assert "general_ci" not in shown.partition("`state`")[2].partition("\n")[0]


def test_an_enum_in_other_spellings_is_refused(project, engine):
    create(engine, f"ENUM('Cancelled','Paid','New') {FOLDED} NOT NULL", ["New", "Paid"])

    with pytest.raises(MigrationRefused, match="takes 'new' for 'New'"):
        project.autogenerate(orders(STATES))
    with migrating(engine) as op, pytest.raises(MigrationRefused, match="takes 'paid' for 'Paid'"):
        op.add_states("orders", "state", ["paid"])


def test_a_nullable_column_is_converted_in_strict_mode(project, lenient):
    create(lenient, "ENUM('new','paid') CHARACTER SET ascii COLLATE ascii_bin NULL", ["new", None])

    written = project.autogenerate(orders(("new", "paid")))
    assert "nullable=False" not in written
    with pytest.raises(MigrationRefused, match="1 row in 'NULL"):
        project.upgrade()

    assert held(lenient) == ["new", None]
    with migrating(lenient) as op:
        op.migrate_states("orders", "state", {None: "new"})
    project.upgrade()
    assert held(lenient) == ["new", "new"]
    project.check(orders(("new", "paid")))


def test_a_copy_of_the_table_waits_for_consent(project, engine):
    orders(("new", "paid", "late")).create_all(engine)
    before = shown_table(engine)

    written = project.autogenerate(orders(("new", "paid")), copies_table=False)
    assert "# The server copies the table and blocks its writers: about 0 rows" in written
    with pytest.raises(MigrationRefused, match="give copies_table=True"):
        project.upgrade()

    assert shown_table(engine) == before


def test_a_view_a_missing_table_and_a_generated_column_are_named(project, engine):
    create(engine, "VARCHAR(10) NOT NULL", ["new"])
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE VIEW shown AS SELECT * FROM orders")
        connection.exec_driver_sql("ALTER TABLE orders ADD COLUMN upper_state VARCHAR(10) AS (UPPER(state)) VIRTUAL")
    try:
        for table, column, what in [
            ("shown", "state", "this is a view"),
            ("missing", "state", "there is no table"),
            ("orders", "missing", "no column of this name"),
            ("orders", "upper_state", "generated"),
        ]:
            with migrating(engine) as op, pytest.raises(MigrationRefused, match=what):
                op.add_states(table, column, ["late"])
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP VIEW shown")


def test_the_compare_type_of_env_py_leaves_a_column_as_it_is(project, engine):
    create(engine, "TINYINT NOT NULL", [1])
    project.config.attributes["options"] = {
        "compare_type": lambda context, stored, declared, *types: False if declared.name == "state" else None
    }

    written = project.autogenerate(orders(STATES))

    assert "convert_states" not in written
    assert "type_=" not in written


def test_timestamps_are_kept_when_that_is_asked_for(project, engine):
    create(engine, "ENUM('new','paid') CHARACTER SET ascii COLLATE ascii_bin NOT NULL", ["new", "new"])
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "ALTER TABLE orders ADD COLUMN updated_at TIMESTAMP NOT NULL DEFAULT '2020-01-01 00:00:00'"
            " ON UPDATE CURRENT_TIMESTAMP"
        )
    query = "SELECT COUNT(*) FROM orders WHERE updated_at = '2020-01-01 00:00:00'"

    with migrating(engine) as op:
        op.migrate_states("orders", "state", {"new": "paid"}, keeps_timestamps=True)
    with engine.connect() as connection:
        assert connection.exec_driver_sql(query).scalar() == 2

    with migrating(engine) as op:
        op.migrate_states("orders", "state", {"paid": "new"})
    with engine.connect() as connection:
        assert connection.exec_driver_sql(query).scalar() == 0


def test_a_state_is_split_by_a_condition(project, engine):
    create(engine, "ENUM('failed','soft','hard') CHARACTER SET ascii COLLATE ascii_bin NOT NULL", ["failed"] * 4)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE orders SET note = 'hard' WHERE id > 3")

    with migrating(engine) as op:
        op.migrate_states("orders", "state", {"failed": "hard"}, where="note = 'hard' OR note LIKE '100%:x'")
        op.migrate_states("orders", "state", {"failed": "soft"})

    assert held(engine) == ["soft", "soft", "soft", "hard"]


def test_the_state_may_be_part_of_the_key(project, engine):
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE orders (id INT, state ENUM('new','paid') CHARACTER SET ascii COLLATE ascii_bin NOT NULL"
            " DEFAULT 'new', PRIMARY KEY (id, state))"
        )
        connection.exec_driver_sql("INSERT INTO orders (id) VALUES (1), (2), (3)")

    with migrating(engine) as op:
        op.migrate_states("orders", "state", {"new": "paid"}, batch_size=2)

    assert held(engine) == ["paid"] * 3


def test_a_line_separator_in_a_comment_is_no_end_of_a_line(project, engine):
    create(
        engine,
        "ENUM('new','paid') CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'pasted\u2028from\x0ba wiki\x85'",
        ["new"],
    )
    before = shown_table(engine)

    with migrating(engine) as op:
        op.add_states("orders", "state", ["late"])

    assert shown_table(engine) == before.replace("'new','paid'", "'new','paid','late'")


def test_a_connection_that_was_killed_is_named_and_a_second_run_finishes(project, engine):
    create(engine, "ENUM('new','paid') CHARACTER SET ascii COLLATE ascii_bin NOT NULL", ["new"] * 50)
    killed = []

    def kill(connection, cursor, statement, *_):
        if statement.startswith("UPDATE orders") and not killed:
            killed.append(connection.connection.dbapi_connection.thread_id())
            with engine.connect() as other:
                other.exec_driver_sql(f"KILL {killed[0]}")

    event.listen(engine, "before_cursor_execute", kill)
    try:
        lost = r"the connection was lost \(\d+: .*run the revision again"
        with pytest.raises(MigrationRefused, match=lost), migrating(engine) as op:
            op.migrate_states("orders", "state", {"new": "paid"}, batch_size=10)
    finally:
        event.remove(engine, "before_cursor_execute", kill)

    with migrating(engine) as op:
        op.migrate_states("orders", "state", {"new": "paid"}, batch_size=10)
    assert held(engine) == ["paid"] * 50


def test_a_table_with_system_versioning_is_told_how(project, engine):
    if not engine.dialect.is_mariadb:
        pytest.skip("MySQL has no such tables")
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE orders (id INT PRIMARY KEY, state ENUM('new','paid') CHARACTER SET ascii COLLATE ascii_bin"
            " NOT NULL) WITH SYSTEM VERSIONING"
        )
        connection.exec_driver_sql("INSERT INTO orders VALUES (1, 'new')")

    with migrating(engine) as op, pytest.raises(MigrationRefused, match="system_versioning_alter_history = KEEP"):
        op.add_states("orders", "state", ["late"])
