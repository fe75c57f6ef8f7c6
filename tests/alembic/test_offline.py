"""What --sql writes, run on the server by itself: it does what the operations do online."""

from __future__ import annotations

import re
import shlex

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from sqlalchemy_fsm_mysql.databases.identifiers import check_name
from sqlalchemy_fsm_mysql.errors import MigrationRefused
from tests.alembic.support import fill, orders, run_script, shown_table, stored

pytestmark = pytest.mark.servers_only

STATES = ("new", "it's", "a\\b", "100%", "x,y")
LISTED = ["sent", "IT'S"]


@pytest.fixture(params=["enum", "varchar"])
def storage(request):
    return request.param


@pytest.fixture
def more(storage):
    """What a revision says of a VARCHAR column besides."""
    return "" if storage == "enum" else f", storage='varchar', existing={list(STATES)!r}"


@pytest.fixture
def created(project, storage, engine):
    orders(STATES, storage).create_all(engine)
    fill(engine, dict(enumerate(STATES, start=1)))
    return shown_table(engine)


def test_add_and_drop(project, engine, storage, created, more):
    """What is written for the downgrade takes back what was written for the upgrade, to the letter."""
    copy = ", algorithm='COPY', copies_table=True" if storage == "varchar" else ""
    wider = more.replace("'x,y']", '\'x,y\', "sent", "IT\'S"]')
    project.write(
        f"op.add_states('orders', 'state', {LISTED!r}{more}{copy})",
        f"op.drop_states('orders', 'state', {LISTED!r}{wider}, copies_table=True)",
    )
    project.config.attributes["metadata"] = orders(STATES, storage)

    upgrade, downgrade = project.sql("head"), project.sql("0001:base", "downgrade")
    run_script(engine, upgrade)
    by_script = shown_table(engine)
    fill(engine, {8: "IT'S"})

    with pytest.raises(DBAPIError):
        run_script(engine, downgrade)
    assert shown_table(engine) == by_script
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM orders WHERE id = 8"))
    run_script(engine, downgrade)
    assert shown_table(engine) == created

    project.upgrade()
    assert shown_table(engine) == by_script


def test_an_append_is_run_twice(project, engine, created, storage):
    if storage == "varchar":
        pytest.skip("what it writes of a CHECK does not depend on what is there")
    project.config.attributes["metadata"] = orders(STATES)
    project.write("op.add_states('orders', 'state', ['sent', \"it's\"])")
    script = project.sql("head").partition("INSERT INTO alembic_version")[0].partition("CREATE TABLE")
    script = script[2].partition(";")[2]

    run_script(engine, script)
    once = shown_table(engine)
    run_script(engine, script)

    assert shown_table(engine) == once
    fill(engine, {10: "sent"})


def test_rows_are_migrated(project, engine, created, more, storage):
    copy = ", algorithm='COPY', copies_table=True" if storage == "varchar" else ""
    project.config.attributes["metadata"] = orders(STATES, storage)
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE TABLE order_transitions (record_id INT, sequence INT, event VARCHAR(64), source VARCHAR(64), "
                "target VARCHAR(64), at DATETIME(6), actor VARCHAR(20), PRIMARY KEY (record_id, sequence))"
            )
        )
        connection.execute(
            text("INSERT INTO order_transitions VALUES (2, 1, 'go', 'new', :state, UTC_TIMESTAMP(6), NULL)"),
            {"state": "it's"},
        )
    project.write(
        f"op.add_states('orders', 'state', ['fresh']{more}{copy}); "
        "op.migrate_states('orders', 'state', {'new': 'fresh', \"it's\": 'x,y'}, "
        "history='order_transitions', record={'record_id': 'id'})"
    )

    run_script(engine, project.sql("head"))

    assert stored(engine) == {1: "fresh", 2: "x,y", 3: "a\\b", 4: "100%", 5: "x,y"}
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO orders (id) VALUES (100)"))
        rows = connection.execute(
            text("SELECT record_id, sequence, event, source, target, actor FROM order_transitions ORDER BY 1, 2")
        ).all()
    assert stored(engine)[100] == "fresh"
    assert [tuple(row) for row in rows] == [
        (1, 1, "force_state", "new", "fresh", "alembic"),
        (2, 1, "go", "new", "it's", None),
        (2, 2, "force_state", "it's", "x,y", "alembic"),
    ]


def test_the_storage(project, engine, storage, created):
    other = "varchar" if storage == "enum" else "enum"
    project.config.attributes["metadata"] = orders(STATES, storage)
    project.write(
        f"op.convert_states('orders', 'state', {list(STATES)!r}, storage={other!r}, existing_storage={storage!r}, copies_table=True)",
        f"op.convert_states('orders', 'state', {list(STATES)!r}, storage={storage!r}, existing_storage={other!r}, copies_table=True)",
    )

    run_script(engine, project.sql("head"))
    assert shown_table(engine) != created
    run_script(engine, project.sql("0001:base", "downgrade"))

    assert shown_table(engine) == created


def test_a_varchar_needs_to_be_told_what_is_there(project):
    project.config.attributes["metadata"] = orders(STATES)
    project.write("op.add_states('orders', 'state', ['sent'], storage='varchar', algorithm='COPY', copies_table=True)")

    with pytest.raises(MigrationRefused, match="pass existing="):
        project.sql("head")


@pytest.mark.parametrize("operation", ["drop_states", "convert_states", "missing"])
def test_what_was_read_of_one_table_is_not_written_to_another(project, engine, operation):
    """The second operation names a column that is not stored as it says: the server refuses, and tells which."""
    orders(STATES).create_all(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE jobs (id INT PRIMARY KEY, state VARCHAR(20) NOT NULL DEFAULT 'idle')"))
    before = shown_table(engine, "jobs")
    second = {
        "drop_states": "op.drop_states('jobs', 'state', ['new'], copies_table=True)",
        "convert_states": "op.convert_states('jobs', 'stat', ['idle'], storage='enum', copies_table=True)",
        "missing": "op.drop_states('nosuch', 'state', ['new'], copies_table=True)",
    }[operation]
    project.config.attributes["metadata"] = orders(STATES)
    project.write(f"op.drop_states('orders', 'state', ['100%'], copies_table=True); {second}")

    with pytest.raises(DBAPIError, match="no column of this name that is stored like that"):
        run_script(engine, project.sql("head"))

    assert shown_table(engine, "jobs") == before
    assert "'100%'" not in shown_table(engine)


FOLDED = "CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"
OF_VARCHAR = "storage='varchar', existing=['new', 'paid'], algorithm='COPY', copies_table=True"
ADD = f"op.add_states('orders', 'state', {{}}, {OF_VARCHAR})"
STEPS = {
    "a text that anything fits": (
        f"VARCHAR(20) {FOLDED} NULL DEFAULT 'new' COMMENT 'it''s'",
        "op.convert_states('orders', 'state', ['new', 'paid'], storage='varchar', copies_table=True)",
    ),
    "a text without a default": (
        f"VARCHAR(3) {FOLDED} NULL",
        "op.convert_states('orders', 'state', ['new', 'paid'], storage='varchar', copies_table=True)",
    ),
    "a text to an ENUM": (
        f"VARCHAR(20) {FOLDED} NULL",
        "op.convert_states('orders', 'state', ['new', 'paid'], storage='enum', copies_table=True)",
    ),
    "a VARCHAR of a chosen length": (
        f"VARCHAR(30) {FOLDED} NOT NULL DEFAULT 'new', CONSTRAINT {{check}} CHECK (state IN ('new', 'paid'))",
        ADD.format(["late"]),
    ),
    "a VARCHAR that fits its states": (
        "VARCHAR(4) NOT NULL, CONSTRAINT {check} CHECK (state IN ('new', 'paid'))",
        ADD.format(["longer"]),
    ),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_script_makes_the_table_that_the_operation_makes(project, engine, step):
    definition, operation = STEPS[step]
    project.config.attributes["metadata"] = orders(("new",))
    project.write(operation)
    create = f"CREATE TABLE orders (id INT PRIMARY KEY, state {definition.format(check=check_name('orders', 'state'))})"
    with engine.begin() as connection:
        connection.exec_driver_sql(create)
    project.upgrade()
    online = shown_table(engine)

    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE orders, alembic_version")
        connection.exec_driver_sql(create)
    script = project.sql("head")
    run_script(engine, script)

    assert shown_table(engine) == online
    assert "SELECT @fsm_alter" in script


BARE = {
    "drop": (
        "ENUM('new','it''s','a\\\\b','gone') NOT NULL DEFAULT 'new' COMMENT '100% of it''s'",
        "op.drop_states('orders', 'state', ['gone'], copies_table=True, definition={line!r})",
    ),
    "text to ENUM": (
        f"VARCHAR(20) {FOLDED} NULL COMMENT 'x'",
        "op.convert_states('orders', 'state', ['new', 'paid'], storage='enum', copies_table=True, definition={line!r})",
    ),
    "ENUM to VARCHAR": (
        "ENUM('new','paid') NOT NULL",
        (
            "op.convert_states('orders', 'state', ['new', 'paid'], storage='varchar', existing_storage='enum',"
            " copies_table=True, definition={line!r})"
        ),
    ),
    "number": (
        "TINYINT NULL DEFAULT 1",
        "op.convert_states('orders', 'state', [1, 2], storage='integer', copies_table=True, definition={line!r})",
    ),
}


@pytest.mark.parametrize("step", BARE)
def test_a_script_prints_the_bare_alter_of_a_copying_step(project, engine, step):
    """Run on an empty copy of the table, as gh-ost and pt-online-schema-change do, it makes what the operation makes."""
    definition, operation = BARE[step]
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE orders (id INT PRIMARY KEY, state {definition})".replace("%", "%%"))
        connection.exec_driver_sql("CREATE TABLE _orders_gho LIKE orders")
    line = next(one.strip().rstrip(",") for one in shown_table(engine).split("\n") if "`state`" in one)
    project.config.attributes["metadata"] = orders(("new",))
    project.write(operation.format(line=line))

    comments = [one for one in project.sql("head").split("\n") if one.startswith("--")]
    project.upgrade()

    server = "MariaDB" if engine.dialect.is_mariadb else "MySQL"
    ours = ("-- The bare ALTER: ", f"-- The bare ALTER for {server}: ")
    tool = next(i for i, one in enumerate(comments) if one.startswith(ours)) + 1
    flags = dict(word.partition("=")[::2] for word in shlex.split(comments[tool].removeprefix("--   gh-ost ")))
    assert flags["--table"] == "orders"
    assert shlex.split(comments[tool + 1])[2] == f"--alter={flags['--alter']}"
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(
            f"ALTER TABLE _orders_gho {flags['--alter'].replace('ck_orders_state_states', 'ck_of_the_copy')}",
            execution_options={"no_parameters": True},
        )
        counted = next(one.removeprefix("--   ") for one in comments if "SELECT COUNT" in one)
        value = "1" if step == "number" else "'new'"
        connection.exec_driver_sql(f"INSERT INTO orders (id, state) VALUES (1, {value})")
        assert connection.exec_driver_sql(counted, execution_options={"no_parameters": True}).scalar_one() == 0
    copy = shown_table(engine, "_orders_gho").replace("_orders_gho", "orders")
    assert copy.replace("ck_of_the_copy", "ck_orders_state_states") == shown_table(engine)


def test_a_script_says_that_a_check_has_no_bare_alter(project, engine):
    project.config.attributes["metadata"] = orders(("new",))
    project.write(
        "op.add_states('orders', 'state', ['b'], storage='varchar', existing=['a'], algorithm='COPY', copies_table=True,"
        " definition='`state` varchar(1) NOT NULL')"
    )

    assert "-- No bare ALTER: in the copy that gh-ost" in project.sql("head")


def test_autogenerate_writes_the_definition_of_a_copying_step(project, engine):
    orders(("new", "paid", "gone")).create_all(engine)

    revision = project.autogenerate(orders(("new", "paid")))

    assert "definition=\"`state` enum('new','paid','gone')" in revision
    assert "-- The bare ALTER: ALTER TABLE orders MODIFY COLUMN `state` enum('new','paid')" in (
        project.sql("head").replace("ENUM(", "enum(")
    )


def test_a_script_moves_rows_byte_by_byte_and_under_a_condition(project, engine):
    project.config.attributes["metadata"] = orders(("new",))
    project.write(
        "op.migrate_states('orders', 'state', {'Paid': 'late'}, where=\"id > 2 AND note <> ':x'\");"
        " op.migrate_states('orders', 'state', {'Paid': 'paid', None: 'new', '': 'new'})"
    )
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"CREATE TABLE orders (id INT PRIMARY KEY, state VARCHAR(20) {FOLDED} NULL, note VARCHAR(9) DEFAULT 'n')"
        )
        connection.exec_driver_sql(
            "INSERT INTO orders (id, state) VALUES (1, 'Paid'), (2, 'PAID'), (3, 'Paid'), (4, NULL), (5, '')"
        )

    run_script(engine, project.sql("head"))

    assert list(stored(engine).values()) == ["paid", "PAID", "late", "new", "new"]


def test_a_script_copies_no_table_without_consent(project, engine):
    project.config.attributes["metadata"] = orders(("new",))
    project.write("op.drop_states('orders', 'state', ['new'])")

    with pytest.raises(MigrationRefused, match="copies_table=True"):
        project.sql("head")


@pytest.mark.parametrize("part", ["table", "column", "schema"])
@pytest.mark.parametrize(
    "operation",
    [
        "op.add_states({table!r}, {column!r}, ['z'], schema={schema!r})",
        "op.drop_states({table!r}, {column!r}, ['z'], schema={schema!r}, copies_table=True)",
        "op.migrate_states({table!r}, {column!r}, {{'z': 'y'}}, schema={schema!r})",
        "op.enforce_machine({table!r}, {column!r}, {{None: ['z'], 'z': ['y']}}, schema={schema!r})",
        "op.release_machine({table!r}, {column!r}, {{None: ['z'], 'z': ['y']}}, schema={schema!r})",
    ],
)
def test_a_line_end_in_a_name_ends_no_comment_of_a_script(project, operation, part):
    """The rest of the name would be a statement of its own."""
    names = {"table": "orders", "column": "state", "schema": None, part: "x\nDROP TABLE victim;\n-- "}
    project.write(operation.format(**names))
    project.config.attributes["metadata"] = orders(STATES, "enum")

    script = project.sql("head")

    comments_and_texts = r"--[^\n]*|`(?:[^`]|``)*`|'(?:[^'\\]|\\.|'')*'"
    assert "victim" in script
    assert "victim" not in re.sub(comments_and_texts, "", script)
