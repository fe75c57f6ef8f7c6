"""Wrong databases, and what the doctor says of each; right ones, and that it says nothing."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from sqlalchemy import URL, Engine, String, func, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_fsm_mysql import (
    DatabaseUnfit,
    Event,
    Machine,
    StateMachineColumn,
    StateSinceColumn,
    TransitionHistory,
    check_database,
    enforce_machine,
    require_database,
)
from tests.conftest import database_of
from tests.faults.pooling import pooling_proxy
from tests.faults.proxy import unencrypted
from tests.servers import make_engine

pytestmark = pytest.mark.servers_only

machine = Machine(initial="new", states=["new", "paid"], events=[Event("Pay", {"new": "paid"})])
EXPECTED = {"durability", "isolation level", "binary log"}  # of the server, and not of the table


def model(**options: object) -> type[DeclarativeBase]:
    class Base(DeclarativeBase):
        pass

    class Order(Base):
        __tablename__ = "orders"

        id: Mapped[int] = mapped_column(primary_key=True)
        status: Mapped[str] = StateMachineColumn(machine, **options)  # type: ignore[arg-type]

    class OrderTransition(TransitionHistory, Base):
        __tablename__ = "order_transitions"
        __records__ = "Order.status"

    return Order


@pytest.fixture
def patient(url: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine on a database of the test's own."""
    with database_of(url, tmp_path_factory) as own:
        engine = make_engine(own)
        yield engine
        engine.dispose()


def kinds(order: type[DeclarativeBase], engine: Engine) -> set[tuple[str, str]]:
    """The severity and kind of each finding that is about the table."""
    found = check_database(order.status, engine)  # type: ignore[attr-defined]
    return {(one.severity, one.kind) for one in found if one.kind not in EXPECTED}


def do(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


@pytest.mark.parametrize("options", [{}, {"storage": "varchar"}, {"enforced": True}])
def test_a_table_of_create_all_is_healthy(patient: Engine, options: dict[str, object]) -> None:
    order = model(**options)
    order.metadata.create_all(patient)

    assert kinds(order, patient) == set()


ENUM = "ENUM('new','paid') CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT 'new'"
HISTORY = "ALTER TABLE order_transitions "
WRONG = {
    "a number": (
        ["ALTER TABLE orders DROP COLUMN status", "ALTER TABLE orders ADD status TINYINT NOT NULL"],
        "wrong type",
    ),
    "a generated column": (
        [
            "ALTER TABLE orders DROP COLUMN status",
            "ALTER TABLE orders ADD status VARCHAR(10) AS (CONCAT('n', 'ew')) STORED",
        ],
        "generated column",
    ),
    "a view": (["RENAME TABLE orders TO real_orders", "CREATE VIEW orders AS SELECT * FROM real_orders"], "view"),
    "no key": (["ALTER TABLE orders MODIFY id INT NOT NULL", "ALTER TABLE orders DROP PRIMARY KEY"], "no key"),
    "another CHECK": (["ALTER TABLE orders ADD CONSTRAINT status_ok CHECK (status IN ('new'))"], "other check"),
    "a history of short events": ([HISTORY + "MODIFY event VARCHAR(2) NOT NULL"], "too short"),
    "a history of short tokens": ([HISTORY + "MODIFY token VARCHAR(9) COLLATE utf8mb4_bin"], "too short"),
    "a history of actors in latin1": ([HISTORY + "MODIFY actor VARCHAR(255) CHARACTER SET latin1"], "actor charset"),
    "a history of folding tokens": (
        [HISTORY + "MODIFY token VARCHAR(64) COLLATE utf8mb4_general_ci"],
        "token collation",
    ),
    "a history that lacks a state": ([HISTORY + "MODIFY target ENUM('new') NOT NULL"], "states missing"),
    "a history with a column more": ([HISTORY + "ADD tenant INT NOT NULL"], "history columns"),
    "a history of small keys": ([HISTORY + "MODIFY record_id TINYINT NOT NULL"], "history key"),
    "tokens unique by their beginning": (
        [HISTORY + "DROP INDEX token", HISTORY + "ADD UNIQUE (token(5))"],
        "history index",
    ),
    "a trigger that sets the state": (
        ["CREATE TRIGGER zz BEFORE UPDATE ON orders FOR EACH ROW SET NEW.status = 'new'"],
        "foreign trigger",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_table_is_found_out(patient: Engine, case: str) -> None:
    order = model()
    order.metadata.create_all(patient)
    statements, kind = WRONG[case]
    do(patient, *statements)
    found = kinds(order, patient)

    assert kind in {name for _, name in found}


def test_other_checks_and_triggers_are_left_alone(patient: Engine) -> None:
    """A CHECK of other columns, one that every state passes, a trigger that reads the state, a column in upper case."""
    order = model()
    order.metadata.create_all(patient)
    do(
        patient,
        "ALTER TABLE orders ADD total INT NOT NULL DEFAULT 0",
        "ALTER TABLE orders ADD CONSTRAINT other CHECK (total > 0 OR status = 'new')",
        "ALTER TABLE orders ADD CONSTRAINT any_state CHECK (status <> 'Gone')",
        "CREATE TRIGGER zz BEFORE UPDATE ON orders FOR EACH ROW SET @status = NEW.status",
        "ALTER TABLE orders RENAME COLUMN status TO STATUS",
    )

    assert kinds(order, patient) == set()


def test_a_check_that_is_not_enforced(patient: Engine) -> None:
    order = model(storage="varchar")
    order.metadata.create_all(patient)
    with patient.connect() as connection:
        if "MariaDB" in str(connection.scalar(text("SELECT VERSION()"))):
            pytest.skip("MariaDB enforces every CHECK")
    do(patient, "ALTER TABLE orders ALTER CHECK ck_orders_status_states NOT ENFORCED")

    assert kinds(order, patient) == {("warning", "check not enforced")}


def test_rows_without_a_state_are_named_without_quotes(patient: Engine) -> None:
    order = model()
    order.metadata.create_all(patient)
    do(patient, "ALTER TABLE orders MODIFY status VARCHAR(9) NULL", "INSERT INTO orders (id, status) VALUES (1, NULL)")
    (finding,) = [one for one in check_database(order.status, patient) if one.kind == "undeclared rows"]  # type: ignore[attr-defined]

    assert " NULL (1)" in finding.what


@pytest.fixture
def account(patient: Engine) -> Iterator[tuple[str, Engine]]:
    """A new account, without any right, and an engine that logs in by it."""
    name = f"fsm_{uuid.uuid4().hex[:8]}"
    do(patient, f"CREATE USER {name}@'%'")
    engine = make_engine(patient.url.set(username=name, password=""))
    yield name, engine
    engine.dispose()
    do(patient, f"DROP USER IF EXISTS {name}@'%'")


def test_missing_rights_are_found_out(patient: Engine, account: tuple[str, Engine]) -> None:
    """None at all on the table, SELECT only, and then the least that a fire needs."""
    order, (name, engine), schema = model(), account, patient.url.database
    order.metadata.create_all(patient)
    do(patient, f"GRANT SELECT ON `{schema}`.order_transitions TO {name}@'%'")
    none = kinds(order, engine)
    do(patient, f"GRANT SELECT ON `{schema}`.orders TO {name}@'%'")
    reading = kinds(order, engine)
    do(patient, f"GRANT UPDATE (status) ON `{schema}`.orders TO {name}@'%'")
    do(patient, f"GRANT INSERT ON `{schema}`.order_transitions TO {name}@'%'")

    assert none == reading == {("error", "rights")}
    assert ("error", "rights") not in kinds(order, engine)


@pytest.mark.parametrize("loss", ["dropped", "revoked"])
def test_a_definer_that_was_lost_is_found_out(patient: Engine, account: tuple[str, Engine], loss: str) -> None:
    """Triggers run with the rights of the account that made them; without it every write of the table fails."""
    order, (name, engine) = model(), account
    order.metadata.create_all(patient)
    do(patient, f"GRANT ALL ON *.* TO {name}@'%'")
    enforce_machine(order.status, engine)  # type: ignore[attr-defined]
    before = kinds(order, patient)
    statement = "DROP USER {0}@'%'" if loss == "dropped" else "REVOKE ALL PRIVILEGES, GRANT OPTION FROM {0}@'%'"
    do(patient, statement.format(name))

    assert (before, kinds(order, patient)) == (set(), {("error", "definer")})


def test_triggers_unseen_by_an_account_with_a_right_elsewhere(patient: Engine, account: tuple[str, Engine]) -> None:
    """TRIGGER on another database is not TRIGGER here: what is not seen is not missing."""
    order, (name, engine), schema = model(enforced=True), account, patient.url.database
    order.metadata.create_all(patient)
    do(patient, f"GRANT SELECT, INSERT, UPDATE, DELETE ON `{schema}`.* TO {name}@'%'")
    do(patient, f"GRANT TRIGGER ON mysql.* TO {name}@'%'")

    assert kinds(order, engine) == {("warning", "triggers unseen")}


def test_wider_triggers_let_programs_of_both_releases_start(patient: Engine) -> None:
    """The recipe of a rolling deploy: triggers first, and require_database() in every program."""
    later = Machine(
        initial="new", states=["new", "paid"], events=[Event("Pay", {"new": "paid"}), Event("Back", {"paid": "new"})]
    )
    order = model()
    order.metadata.create_all(patient)
    enforce_machine(order.status, patient, also=[later])  # type: ignore[attr-defined]
    (wider,) = [one for one in require_database(order.status, patient) if one.kind == "wider triggers"]  # type: ignore[attr-defined]

    assert wider.severity == "note"
    assert "'paid' to 'new'" in wider.what


def test_triggers_that_refuse_an_edge_are_an_error(patient: Engine) -> None:
    narrow = Machine(initial="new", states=["new", "paid"], events=[Event("Begin", {"new": "paid"})])
    order = model()
    order.metadata.create_all(patient)
    enforce_machine(order.status, patient)  # type: ignore[attr-defined]
    wide = Machine(initial="new", events=[*narrow.events.values(), Event("Close", {"paid": "closed"})])

    class Base(DeclarativeBase):
        pass

    class Later(Base):
        __tablename__ = "orders"

        id: Mapped[int] = mapped_column(primary_key=True)
        status: Mapped[str] = StateMachineColumn(wide)

    with pytest.raises(DatabaseUnfit, match="which refuse 'paid' to 'closed'"):
        require_database(Later.status, patient)


def test_watching_triggers_are_a_note(patient: Engine) -> None:
    order = model(enforced=True)
    order.metadata.create_all(patient)
    enforce_machine(order.status, patient, mode="watch")  # type: ignore[attr-defined]

    assert kinds(order, patient) == {("note", "triggers watch")}


def test_triggers_of_a_column_that_is_gone_are_an_error(patient: Engine) -> None:
    order = model(enforced=True)
    order.metadata.create_all(patient)
    do(patient, "ALTER TABLE orders RENAME COLUMN status TO state", f"ALTER TABLE orders ADD status {ENUM}")

    assert ("error", "broken triggers") not in kinds(order, patient)  # the column is there again
    do(patient, "ALTER TABLE orders RENAME COLUMN status TO again", "ALTER TABLE orders RENAME COLUMN state TO other")
    assert ("error", "no column") in kinds(order, patient)


def test_triggers_of_a_renamed_table_are_a_warning(patient: Engine) -> None:
    order = model(enforced=True)
    order.metadata.create_all(patient)
    do(patient, "RENAME TABLE orders TO elsewhere", "RENAME TABLE elsewhere TO orders")
    before = kinds(order, patient)

    class Base(DeclarativeBase):
        pass

    class Moved(Base):
        __tablename__ = "orders_2025"

        id: Mapped[int] = mapped_column(primary_key=True)
        status: Mapped[str] = StateMachineColumn(machine, enforced=True)

    do(patient, "RENAME TABLE orders TO orders_2025")

    assert (before, kinds(Moved, patient)) == (set(), {("warning", "triggers renamed")})


def test_a_proxy_that_shares_server_connections_is_noticed(patient: Engine) -> None:
    """The server connection has another number than the driver was given."""
    order = model()
    order.metadata.create_all(patient)
    with pooling_proxy(patient.url) as proxy:
        behind = make_engine(proxy.url, connect_args=unencrypted(proxy.url))
        found = kinds(order, behind)
        behind.dispose()

    assert found == {("warning", "proxy")}


# utf8mb4_bin pads: 'abc' and 'abc ' are one key.
@pytest.mark.parametrize("collation", ["utf8mb4_general_ci", "utf8mb4_bin"])
def test_a_text_key_that_folds_differences_is_a_note(patient: Engine, collation: str) -> None:
    class Base(DeclarativeBase):
        pass

    class Order(Base):
        __tablename__ = "orders"

        id: Mapped[str] = mapped_column(String(20), primary_key=True)
        status: Mapped[str] = StateMachineColumn(machine)

    Base.metadata.create_all(patient)
    do(patient, f"ALTER TABLE orders MODIFY id VARCHAR(20) CHARACTER SET utf8mb4 COLLATE {collation} NOT NULL")

    assert kinds(Order, patient) == {("note", "text key")}


def test_an_event_that_cannot_be_built_is_an_error(patient: Engine) -> None:
    class Base(DeclarativeBase):
        pass

    class Order(Base):
        __tablename__ = "orders"

        id: Mapped[int] = mapped_column(primary_key=True)
        status: Mapped[str] = StateMachineColumn(
            Machine(initial="new", events=[Event("Pay", {"new": "paid"}, guard=lambda order: func.sum(order.id) > 1)])
        )

    Base.metadata.create_all(patient)

    assert kinds(Order, patient) == {("error", "event")}


def test_the_index_of_timed_events_is_asked_for(patient):
    class Base(DeclarativeBase):
        pass

    timed = Machine(
        initial="new",
        events=[
            Event("Expire", {"new": "gone"}, after=timedelta(hours=1)),
            Event("Remind", {"new": "new"}, after=lambda order: order.due_at),
        ],
    )

    class Order(Base):
        __tablename__ = "orders"
        id: Mapped[int] = mapped_column(primary_key=True)
        status: Mapped[str] = StateMachineColumn(timed)
        since: Mapped[datetime] = StateSinceColumn()
        due_at: Mapped[datetime | None]

    Base.metadata.create_all(patient)
    found = [one for one in check_database(Order.status, patient) if one.kind == "no due index"]
    assert [one.advice for one in found] == [
        "CREATE INDEX ix_orders_since ON orders (status, since)",
        "CREATE INDEX ix_orders_due_at ON orders (status, due_at)",
    ]
    assert found[0].what == (
        "no index on orders begins with (status, since), so looking for the rows on which 'Expire' is due reads every"
        " row in the state"
    )
    do(patient, *(one.advice for one in found))
    assert kinds(Order, patient) == {("note", "no history")} or kinds(Order, patient) == set()

    do(patient, "ALTER TABLE orders DROP COLUMN since")
    assert ("error", "no since column") in {(one.severity, one.kind) for one in check_database(Order.status, patient)}


@pytest.mark.parametrize("charset", ["gbk", "latin1", "utf8mb4"])
def test_a_character_set_that_the_driver_does_not_know_is_an_error(patient: Engine, charset: str) -> None:
    """A driver escapes texts for the character set that it was given; SET NAMES changes it behind the driver's back."""
    order = model()
    order.metadata.create_all(patient)
    with patient.connect() as connection:
        connection.execute(text(f"SET NAMES {charset}"))
        found = check_database(order.status, connection)  # type: ignore[attr-defined]
        connection.invalidate()  # else the pool would give it to the next one

    is_told = [one.severity for one in found if one.kind == "client charset"]
    is_unknown = charset != "utf8mb4" and patient.dialect.driver != "mysqldb"  # the server tells mysqlclient's library
    assert is_told == (["error"] if is_unknown else [])
    with patient.connect() as connection:
        assert "client charset" not in {one.kind for one in check_database(order.status, connection)}  # type: ignore[attr-defined]
