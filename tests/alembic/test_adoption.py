"""A machine takes over a column of each kind: what is mapped, what is kept in step, what is refused, what is left."""

from __future__ import annotations

import os
import time
from collections import Counter

import pytest
from sqlalchemy import TIMESTAMP, Column, Integer, Table, text
from sqlalchemy.exc import DBAPIError

from sqlalchemy_fsm_mysql import Event, Machine
from sqlalchemy_fsm_mysql.alembic import adopting
from sqlalchemy_fsm_mysql.errors import MigrationRefused, RefusedByDatabase
from tests.alembic import adopters
from tests.alembic.support import Project, drop_all, migrating, orders, shown_table, told

pytestmark = pytest.mark.servers_only

STATES = ("new", "paid", "cancelled")
FOLDED = "CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"
WORDS = {"New": "new", "Paid": "paid", "PAID": "paid", "paid ": "paid", "": "new", "x'\\é": "cancelled"}
# The column, what surrounds it, and the mapping; the rows hold each value once.
KINDS = {
    "varchar": (f"VARCHAR(20) {FOLDED} NULL DEFAULT 'New'", {**WORDS, None: "new"}),
    "latin1": ("VARCHAR(20) CHARACTER SET latin1 NOT NULL", WORDS),
    "text": (f"TEXT {FOLDED} NULL", {**WORDS, None: "new"}),
    "char": (f"CHAR(10) {FOLDED} NOT NULL DEFAULT 'New'", {k: v for k, v in WORDS.items() if k != "paid "}),
    "enum": (
        f"ENUM('Cancelled','Paid','New') {FOLDED} NULL",
        {"New": "new", "Paid": "paid", "Cancelled": "cancelled", None: "new"},
    ),
    "tinyint": ("TINYINT NOT NULL DEFAULT 1", {1: "new", 2: "paid", 3: "cancelled", 0: "cancelled"}),
    "decimal": ("DECIMAL(4,0) NULL", {1: "new", 2: "paid", 3: "cancelled", None: "cancelled"}),
    "by name": (f"VARCHAR(20) {FOLDED} NOT NULL", {"New": "new", "Paid": "paid", "Void": "cancelled"}),
    "by id": ("INT NULL", {10: "new", 20: "paid", 30: "cancelled", None: "cancelled"}),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def mapping(kind):
    return KINDS[kind][1]


@pytest.fixture
def table(project, engine, kind, mapping):
    """Somebody else's table: a row for each value, an index on it, and a timestamp that the server sets."""
    key = {
        "by name": ", FOREIGN KEY (status) REFERENCES order_states (name)",
        "by id": ", FOREIGN KEY (status) REFERENCES order_states (id)",
    }.get(kind, "" if kind == "text" else ", KEY by_status (status)")
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"CREATE TABLE order_states (id INT PRIMARY KEY, name VARCHAR(20) {FOLDED} NOT NULL UNIQUE)"
        )
        connection.exec_driver_sql("INSERT INTO order_states VALUES (10, 'New'), (20, 'Paid'), (30, 'Void')")
        connection.exec_driver_sql(
            f"CREATE TABLE orders (id INT PRIMARY KEY AUTO_INCREMENT, status {KINDS[kind][0]} COMMENT 'it''s ü',"
            f" updated_at TIMESTAMP NOT NULL DEFAULT '2020-01-01 00:00:00' ON UPDATE CURRENT_TIMESTAMP{key})"
        )
        rows = [{"status": value} for value in mapping]
        connection.execute(text("INSERT INTO orders (status) VALUES (:status)"), rows)
    yield shown_table(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS orders")
    drop_all(engine)


def pairs(engine):
    """What both columns of each row hold, exactly; numbers as numbers."""
    query = "SELECT status, CAST(CONVERT(status USING utf8mb4) AS BINARY), state FROM orders ORDER BY id"
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(query).all()
    return [
        (old if old is None else bytes(exact).decode() if isinstance(old, (str, bytes)) else int(old), new)
        for old, exact, new in rows
    ]


def execute(engine, statement, **values):
    with engine.begin() as connection:
        connection.execute(text(statement), values)


def adopt(engine, mapping, **options):
    with migrating(engine) as op:
        op.adopt_column("orders", "status", "state", states=STATES, mapping=mapping, **options)


def first(mapping, state, *, nullable=False):
    return next(value for value, one in mapping.items() if one == state and (value is not None or nullable))


def test_every_value_becomes_its_state(engine, table, mapping):
    adopt(engine, mapping, batch_size=2)

    assert pairs(engine) == list(mapping.items())
    with engine.connect() as connection:
        kept = connection.exec_driver_sql("SELECT COUNT(*) FROM orders WHERE updated_at = '2020-01-01 00:00:00'")
        assert kept.scalar() == len(mapping)


def test_both_columns_are_in_step_whoever_writes(engine, table, mapping, kind):
    adopt(engine, mapping)
    old_paid, old_cancelled = first(mapping, "paid"), first(mapping, "cancelled")

    execute(engine, "UPDATE orders SET status = :value WHERE id = 1", value=old_paid)
    execute(engine, "UPDATE orders SET state = 'cancelled' WHERE id = 2")
    execute(engine, "UPDATE orders SET updated_at = NOW() WHERE id = 3")
    execute(engine, "INSERT INTO orders (id, status) VALUES (101, :value)", value=old_cancelled)
    execute(engine, "INSERT INTO orders (id, state) VALUES (102, 'paid')")
    execute(
        engine,
        "INSERT INTO orders (id, status) VALUES (101, :value) ON DUPLICATE KEY UPDATE status = :value",
        value=old_paid,
    )

    found = pairs(engine)
    items = list(mapping.items())
    assert found[:3] == [(old_paid, "paid"), (old_cancelled, "cancelled"), items[2]]
    assert found[-2:] == [(old_paid, "paid"), (old_paid, "paid")]


def test_it_can_be_run_again_and_taken_back(engine, table, mapping):
    adopt(engine, mapping)
    once = shown_table(engine), triggers(engine)
    adopt(engine, mapping)
    assert (shown_table(engine), triggers(engine)) == once

    for _ in range(2):
        with migrating(engine) as op:
            op.abandon_adoption("orders", "status", "state")

    assert (shown_table(engine), triggers(engine)) == (table, [])


@pytest.mark.parametrize("drop", [False, True], ids=["generated", "dropped"])
def test_the_state_column_stands_alone_in_the_end(engine, table, mapping, kind, drop):
    adopt(engine, mapping)
    before = pairs(engine)

    for _ in range(2):
        with migrating(engine) as op:
            op.finish_adoption("orders", "status", "state", drop=drop)

    assert triggers(engine) == []
    shown = shown_table(engine)
    assert "NOT NULL" in shown.partition("`state`")[2].partition("\n")[0]
    assert "FOREIGN KEY" not in shown
    assert "fsm_" not in shown
    if drop:
        assert "`status`" not in shown
        return
    nullable = " NULL" in KINDS[kind][0].replace("NOT NULL", "") and kind != "enum"
    spelled = {state: first(mapping, state, nullable=nullable) for state in STATES if state in mapping.values()}
    assert pairs(engine) == [(spelled[state], state) for _, state in before]
    execute(engine, "UPDATE orders SET state = 'paid' WHERE id = 1")
    assert pairs(engine)[0] == (spelled["paid"], "paid")
    with pytest.raises(DBAPIError):
        execute(engine, "UPDATE orders SET status = :value WHERE id = 1", value=spelled["new"])


def triggers(engine):
    with engine.connect() as connection:
        return [row[0] for row in connection.exec_driver_sql("SHOW TRIGGERS LIKE 'orders'")]


@pytest.fixture
def words(project, engine):
    """The commonest of these tables, with two values of one state and one that stands for none."""
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"CREATE TABLE orders (id INT PRIMARY KEY AUTO_INCREMENT, status VARCHAR(20) {FOLDED} NULL, KEY (status))"
        )
        connection.exec_driver_sql("INSERT INTO orders (status) VALUES ('New'), ('Paid'), ('on hold'), (NULL), ('')")
    return shown_table(engine)


MAPPED = {"New": "new", "Paid": "paid", "Void": "cancelled"}


def test_a_value_that_the_mapping_lacks_stops_it_with_its_rows(words, engine):
    with pytest.raises(MigrationRefused, match="the mapping lacks values that rows contain") as refused:
        adopt(engine, MAPPED)

    assert refused.value.rows == {"NULL (no value)": 1, "": 1, "on hold": 1}
    assert (shown_table(engine), triggers(engine)) == (words, [])


def test_a_value_that_the_mapping_lacks_is_refused_from_then_on(words, engine):
    adopt(engine, {**MAPPED, "on hold": "new", None: "new", "": "new"})

    for statement in (
        "UPDATE orders SET status = 'paid' WHERE id = 1",
        "UPDATE orders SET status = 'Paid ' WHERE id = 1",
        "INSERT INTO orders (status) VALUES ('Pàid')",
        "REPLACE INTO orders (id, status) VALUES (1, 'gone')",
    ):
        with pytest.raises(DBAPIError, match="has no counterpart in state"):
            execute(engine, statement)
    assert pairs(engine)[0] == ("New", "new")


def test_unknown_names_the_state_of_every_other_value_and_lists_them(words, engine):
    with told("alembic.sqlalchemy_fsm_mysql") as messages:
        adopt(engine, MAPPED, unknown="cancelled")
    execute(engine, "INSERT INTO orders (status) VALUES ('whatever')")

    assert pairs(engine)[2:] == [(one, "cancelled") for one in ("on hold", None, "", "whatever")]
    assert "orders.status: 1 rows contain 'on hold', which stands for 'cancelled'" in messages


def test_each_state_needs_a_value_that_the_old_column_can_hold(words, engine):
    with pytest.raises(MigrationRefused, match="no value that the column could store for 'cancelled'"):
        adopt(engine, {"New": "new", "Paid": "paid", "a text of more than twenty": "cancelled"}, unknown="new")
    with pytest.raises(MigrationRefused, match="names the state 'lost'; the machine's states are"):
        adopt(engine, {"New": "lost"})
    with pytest.raises(MigrationRefused, match="the key 1, and the column contains texts"):
        adopt(engine, {1: "new"})
    assert (shown_table(engine), triggers(engine)) == (words, [])


def test_another_mapping_takes_the_place_of_the_first(words, engine):
    adopt(engine, MAPPED, unknown="new")
    adopt(engine, {**MAPPED, "on hold": "paid"}, unknown="cancelled")

    assert [state for _, state in pairs(engine)] == ["new", "paid", "paid", "cancelled", "cancelled"]
    assert len(triggers(engine)) == 2


def test_two_tables_of_one_schema_have_triggers_of_their_own(words, engine):
    """Also where one has the other's old name: a renamed table keeps its triggers' names."""
    adopt(engine, MAPPED, unknown="new")
    execute(engine, "RENAME TABLE orders TO orders_2025")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE orders (id INT PRIMARY KEY, status VARCHAR(20) NULL)")
        connection.exec_driver_sql("INSERT INTO orders VALUES (1, 'Paid')")

    adopt(engine, MAPPED, unknown="new")
    execute(engine, "UPDATE orders SET state = 'cancelled'")
    execute(engine, "UPDATE orders_2025 SET status = 'Void' WHERE id = 1")

    assert pairs(engine) == [("Void", "cancelled")]
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT state FROM orders_2025 WHERE id = 1").scalar() == "cancelled"
    assert len(triggers(engine)) == 2


def test_a_fill_that_stopped_in_the_middle_is_gone_on_with(words, engine, monkeypatch):
    """Meanwhile old code goes on, and new code reads NULL in a row that is not filled yet."""
    execute(engine, "UPDATE orders SET status = 'New'")
    transaction, batches = adopting._FillWalk._transaction, []

    def stop_at_the_second(walk, criteria):
        batches.append(criteria)
        if len(batches) > 1:
            raise KeyboardInterrupt
        return transaction(walk, criteria)

    monkeypatch.setattr(adopting._FillWalk, "_transaction", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        adopt(engine, MAPPED, batch_size=2)
    monkeypatch.undo()

    execute(engine, "UPDATE orders SET status = 'Paid' WHERE id = 4")
    assert [state for _, state in pairs(engine)] == ["new", "new", None, "paid", None]
    adopt(engine, MAPPED, batch_size=2)
    assert [state for _, state in pairs(engine)] == ["new", "new", "new", "paid", "new"]


@pytest.mark.parametrize("done", [2, 3, 4], ids=["triggers dropped", "default set", "old column dropped"])
def test_a_finish_that_stopped_in_the_middle_is_gone_on_with(words, engine, monkeypatch, done):
    adopt(engine, {**MAPPED, "on hold": "new", None: "new", "": "new"})
    locked = adopting.AdoptedTable.locked

    def stop(table, statements, undo=()):
        locked(table, statements[:done])
        raise KeyboardInterrupt

    monkeypatch.setattr(adopting.AdoptedTable, "locked", stop)
    with pytest.raises(KeyboardInterrupt), migrating(engine) as op:
        op.finish_adoption("orders", "status", "state")
    monkeypatch.undo()
    execute(engine, "UPDATE orders SET state = 'cancelled' WHERE id = 1")  # new code goes on

    with migrating(engine) as op:
        op.finish_adoption("orders", "status", "state")
    assert pairs(engine) == [("Void", "cancelled"), ("Paid", "paid")] + 3 * [("New", "new")]
    assert "fsm_" not in shown_table(engine)


def test_finish_is_refused_while_something_hangs_on_the_old_column(words, engine):
    adopt(engine, MAPPED, unknown="new")
    execute(engine, "CREATE INDEX by_both ON orders (status, id)")
    before = shown_table(engine)

    with migrating(engine) as op, pytest.raises(MigrationRefused, match="still used by the index by_both"):
        op.finish_adoption("orders", "status", "state")
    with migrating(engine) as op, pytest.raises(MigrationRefused, match="no triggers keep it in step"):
        op.finish_adoption("orders", "id", "state")

    assert shown_table(engine) == before


def test_the_column_for_readers_keeps_the_index(words, engine):
    adopt(engine, {**MAPPED, "on hold": "new", None: "new", "": "new"})

    with migrating(engine) as op:
        op.finish_adoption("orders", "status", "state")

    assert "KEY `status` (`status`)" in shown_table(engine)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT COUNT(*) FROM orders WHERE status = 'new'").scalar() == 4


def test_a_finished_adoption_is_neither_abandoned_nor_begun_again(words, engine):
    mapping = {**MAPPED, "on hold": "new", None: "new", "": "new"}
    adopt(engine, mapping)
    with migrating(engine) as op:
        op.finish_adoption("orders", "status", "state")
    before = shown_table(engine)

    with migrating(engine) as op, pytest.raises(MigrationRefused, match="is finished"):
        op.abandon_adoption("orders", "status", "state")
    with pytest.raises(MigrationRefused, match="the column is generated"):
        adopt(engine, mapping)

    assert shown_table(engine) == before


def test_an_enforced_machine_holds_old_code_too(words, engine):
    """The triggers of enforcement come later, so they judge the state that the old column's value stands for."""
    machine = Machine(
        initial="new", events=[Event("Pay", {"new": "paid"}), Event("Cancel", {("new", "paid"): "cancelled"})]
    )
    adopt(engine, {**MAPPED, "on hold": "new", None: "new", "": "new"})
    with migrating(engine) as op:
        op.enforce_machine("orders", "state", machine)

    execute(engine, "UPDATE orders SET status = 'Paid' WHERE id = 1")
    with pytest.raises((DBAPIError, RefusedByDatabase), match="no (such )?transition"):
        execute(engine, "UPDATE orders SET status = 'New' WHERE id = 1")
    assert pairs(engine)[0] == ("Paid", "paid")

    with migrating(engine) as op:
        op.finish_adoption("orders", "status", "state")
    with pytest.raises((DBAPIError, RefusedByDatabase), match="no (such )?transition"):
        execute(engine, "UPDATE orders SET state = 'new' WHERE id = 1")
    assert pairs(engine)[0] == ("Paid", "paid")


@pytest.mark.parametrize("storage", ["enum", "varchar"])
def test_states_of_any_script_in_either_storage(words, engine, storage):
    states = ("neu", "bezahlt", "überfällig", "已支付")
    mapping = {"New": "neu", None: "neu", "": "neu", "Paid": "bezahlt", "on hold": "überfällig", "支付": "已支付"}
    with migrating(engine) as op:
        op.adopt_column("orders", "status", "state", states=states, mapping=mapping, storage=storage)

    execute(engine, "UPDATE orders SET status = '支付' WHERE id = 1")
    execute(engine, "UPDATE orders SET state = 'überfällig' WHERE id = 2")
    for state in ("uberfallig", "ÜBERFÄLLIG", "other"):
        with pytest.raises(DBAPIError):
            execute(engine, "UPDATE orders SET state = :state WHERE id = 3", state=state)
    assert pairs(engine)[:3] == [("支付", "已支付"), ("on hold", "überfällig"), ("on hold", "überfällig")]

    with migrating(engine) as op:
        op.finish_adoption("orders", "status", "state")
    execute(engine, "UPDATE orders SET state = '已支付' WHERE id = 2")
    assert pairs(engine)[1] == ("支付", "已支付")


@pytest.mark.parametrize("kind", ["tinyint", "by id"])
def test_autogenerate_leaves_both_columns_until_it_is_finished(project, engine, table, mapping, kind, tmp_path):
    metadata = orders(STATES)
    model = metadata.tables["orders"]
    model.c.state.comment = None
    metadata.remove(model)
    new = Table(
        "orders",
        metadata,
        Column("id", Integer(), primary_key=True),
        Column("state", model.c.state.type, nullable=False, server_default="new"),
        Column("updated_at", TIMESTAMP(), nullable=False),
    )
    assert new is not model
    options = {
        "compare_server_default": True,
        "include_name": lambda name, kind, _: kind != "table" or name == "orders",
    }
    adopt(engine, mapping)

    project.config.attributes["options"] = options
    written = project.autogenerate(metadata)

    for word in ("status", "state'", "drop_", "convert_states", "add_column"):
        assert word not in written.replace("updated_at", "")
    with migrating(engine) as op:
        op.finish_adoption("orders", "status", "state", drop=True)
    del options["compare_server_default"]  # that of the old column has taken the place of none
    again = Project(tmp_path / "again", engine, **options)
    assert "'state'" not in again.autogenerate(metadata)


def test_kinds_that_hold_no_states_are_refused(project, engine):
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE orders (id INT PRIMARY KEY, made DATE, size FLOAT, twice INT AS (id * 2) VIRTUAL)"
        )

    for column, what in [
        ("made", "type"),
        ("size", "type"),
        ("twice", "generated"),
        ("no", "no column"),
    ]:
        with migrating(engine) as op, pytest.raises(MigrationRefused, match=what):
            op.adopt_column("orders", column, "state", states=STATES, mapping=MAPPED)


# --- while old and new code write

ROWS = int(os.environ.get("FSM_ADOPTION_ROWS", "3000"))
SECONDS = float(os.environ.get("FSM_ADOPTION_SECONDS", "0.5"))
SLOWEST = 0.15  # seconds, of one write of the old code; asked of a run with many rows on a quiet machine only
IS_BIG, BUSY = ROWS >= 100_000, 8.0  # the load of two cores with seven writers alone is about 5


def wait_for(condition, seconds=300, *, pause=0.002):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(pause)


def scalar(engine, query):
    with engine.connect() as connection:
        return connection.exec_driver_sql(query).scalar()


def assert_no_row_has_lost_its_meaning(engine, crowd, kind, *, columns=("status", "state")):
    """Each row says what its process wrote last; those that no process has written are as they were."""
    mapping = adopters.KINDS[kind][1]
    written = {key: state for known in crowd.known.values() for key, state in known.items()}
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(f"SELECT id, {', '.join(columns)} FROM orders ORDER BY id").all()
    assert len(rows) >= ROWS
    for key, *values in rows:
        meanings = {mapping[value] if name == "status" else value for name, value in zip(columns, values, strict=True)}
        is_shared = key % adopters.PARTS == adopters.SHARED or key > ROWS
        expected = written.get(key, next(iter(meanings)) if is_shared else adopters.original(key))
        assert meanings == {expected}, (key, values, expected)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", adopters.KINDS)
def test_an_adoption_disturbs_nobody(project, engine, kind):
    """2 processes of old code and 4 of new code write through every phase, up, down and up; the fill is killed once."""
    adopters.create(engine, kind, ROWS)
    crowd = adopters.Crowd(engine.url, kind, ROWS)
    try:
        # 1: old code alone.
        crowd.phase.value = 1
        crowd.start(adopters.old_code)
        time.sleep(2 * SECONDS)
        # 2: the operation, killed in the middle of the fill; new code begins once the triggers are there.
        crowd.phase.value = 2
        first = crowd.adopting()
        wait_for(lambda: len(triggers(engine)) == 2)
        with engine.begin() as connection:
            # On a busy machine the fill could end before it is killed, so a row that nobody writes is kept from it.
            connection.execute(text("SELECT id FROM orders WHERE id = :last FOR UPDATE"), {"last": ROWS - 1})
            crowd.start(adopters.new_code)
            wait_for(
                lambda: (
                    scalar(engine, "SELECT COUNT(*) FROM orders WHERE state IS NOT NULL AND MOD(id, 60) > 10")
                    > ROWS // 4
                ),
                pause=0.5
                if IS_BIG
                else 0.002,  # the count reads the whole table, for which the writers would wait, too
            )
            first.kill()
            first.join()
        left = scalar(engine, "SELECT COUNT(*) FROM orders WHERE state IS NULL")
        # 3: the operation again, to its end.
        crowd.phase.value = 3
        begin = time.monotonic()
        adopters.adopt(crowd.url, kind)
        filled = time.monotonic() - begin
        # 4: both work side by side.
        crowd.phase.value = 4
        time.sleep(4 * SECONDS)
        # 5: new code is stopped, and the adoption abandoned.
        crowd.stop(adopters.new_code)
        crowd.phase.value = 5
        with migrating(engine) as op:
            op.abandon_adoption("orders", "status", "state", attempts=30)
        time.sleep(SECONDS)
        crowd.stop(adopters.old_code)
        assert_no_row_has_lost_its_meaning(engine, crowd, kind, columns=("status",))
        # 6: up again, and both work side by side.
        crowd.phase.value = 6
        crowd.start(adopters.old_code)
        adopters.adopt(crowd.url, kind)
        crowd.start(adopters.new_code)
        crowd.phase.value = 7
        time.sleep(2 * SECONDS)
        # 8: old code has stopped writing; the old column becomes a generated one, beside new code.
        crowd.stop(adopters.old_code)
        crowd.phase.value = 8
        begin = time.monotonic()
        with migrating(engine) as op:
            op.finish_adoption("orders", "status", "state", attempts=30)
        finished = time.monotonic() - begin
        crowd.phase.value = 9
        time.sleep(2 * SECONDS)
    finally:
        for code in (adopters.new_code, adopters.old_code):
            crowd.stop(code)

    old, new = range(adopters.OLD), range(adopters.OLD, adopters.OLD + adopters.NEW)
    print(
        f"\n{kind}, {ROWS} rows: left when killed {left}, then filled in {filled:.1f} s, finished in {finished:.1f} s;"
        f" old {crowd.written(old)} writes, slowest {crowd.slowest(old)};"
        f" new {crowd.written(new)}, slowest {crowd.slowest(new)};"
        f" announced {sum((report.refused for report in crowd.reports), Counter())}"
    )
    assert crowd.errors == []
    assert (left > 0, triggers(engine)) == (True, [])
    assert_no_row_has_lost_its_meaning(engine, crowd, kind)
    slowest = crowd.slowest(old)
    if IS_BIG and os.getloadavg()[0] < BUSY:
        waits = 0.1 if "MariaDB" not in scalar(engine, "SELECT VERSION()") else 0.0  # MySQL's own, at COMMIT
        assert max(slowest.values()) <= SLOWEST + waits
