"""The doctor: on a database that fits it finds nothing, and each thing that does not fit by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import URL, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    DatabaseUnfit,
    Event,
    FSMError,
    Machine,
    RefusedByDatabase,
    StateMachineColumn,
    TransitionHistory,
    check_database,
    enforce_machine,
    release_machine,
    require_database,
)
from sqlalchemy_fsm_mysql.databases.catalogue import Settings
from sqlalchemy_fsm_mysql.databases.identifiers import check_name
from sqlalchemy_fsm_mysql.databases.triggers import trigger_name
from sqlalchemy_fsm_mysql.operations.checks.server import SETTINGS
from sqlalchemy_fsm_mysql.operations.doctor import Finding
from tests.conformance.models import odd_machine
from tests.servers import make_engine

pytestmark = pytest.mark.one_driver

STATES = ["new", "paid", "Failed", "void"]
machine = Machine(
    initial="new",
    states=STATES,
    events=[Event("Pay", {"new": "paid"}), Event("Fail", {"new": "Failed"}), Event("Close", {"void": "paid"})],
    aliases={"Error": "Failed"},
    retired=["void"],
)
# What a server is set to is not what these tests are about.
OF_SERVERS = {"durability", "isolation level"}

CHECK = check_name("doctor_varchar", "state")


class Base(DeclarativeBase):
    """Created and dropped for each test, which breaks its tables."""


class Order(Base):
    __tablename__ = "doctor_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine, enforced=True, initial_states=STATES)


class OrderTransition(TransitionHistory, Base):
    __tablename__ = "doctor_transitions"
    __records__ = Order.state


class Varchar(Base):
    __tablename__ = "doctor_varchar"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine, storage="varchar")


class Odd(Base):
    __tablename__ = "doctor_odd"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(odd_machine)
    other: Mapped[str] = StateMachineColumn(odd_machine, storage="varchar")


class Quoted(Base):
    __tablename__ = 'doctor\'s "odd" `name`'

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine, storage="varchar")


@pytest.fixture
def patient(url: URL) -> Iterator[Engine]:
    engine = make_engine(url)
    Base.metadata.create_all(engine)
    yield engine
    Base.metadata.drop_all(engine)
    engine.dispose()


def do(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def found(engine: Engine, column: Any = Order.state, **options: Any) -> dict[str, Finding]:
    findings = check_database(column, engine, **options)
    return {one.kind: one for one in findings if one.kind not in OF_SERVERS}


@pytest.mark.parametrize("column", [Order.state, Varchar.state, Odd.state, Odd.other, Quoted.state], ids=str)
def test_nothing_is_found_where_all_is_well(patient: Engine, column: Any) -> None:
    assert found(patient, column) == {}


def test_a_table_that_is_not_there(patient: Engine) -> None:
    do(patient, "DROP TABLE doctor_orders")

    assert found(patient).keys() == {"no table"}


def test_a_column_that_is_not_there(patient: Engine) -> None:
    do(patient, "DROP TABLE doctor_varchar", "CREATE TABLE doctor_varchar (id INT)")

    assert found(patient, Varchar.state).keys() == {"no column"}


# --- the column


@pytest.mark.servers_only
def test_states_that_the_column_does_not_take_and_those_that_it_need_not(patient: Engine) -> None:
    do(
        patient,
        "ALTER TABLE doctor_orders MODIFY state ENUM('new','paid','lost') COLLATE ascii_bin NOT NULL DEFAULT 'new'",
    )
    findings = found(patient)

    assert {kind: one.severity for kind, one in findings.items()} == {"states missing": "error", "more states": "note"}
    assert "'Failed', 'void', 'Error'" in findings["states missing"].what
    assert "'lost'" in findings["more states"].what


@pytest.mark.servers_only
def test_a_check_that_lacks_a_state(patient: Engine) -> None:
    do(
        patient,
        f"ALTER TABLE doctor_varchar DROP CONSTRAINT {CHECK}",
        f"ALTER TABLE doctor_varchar ADD CONSTRAINT {CHECK} CHECK (state IN ('new', 'paid'))",
    )

    assert found(patient, Varchar.state).keys() == {"states missing"}


@pytest.mark.servers_only
def test_a_column_that_takes_anything(patient: Engine) -> None:
    do(patient, f"ALTER TABLE doctor_varchar DROP CONSTRAINT {CHECK}")

    assert found(patient, Varchar.state)["any state"].severity == "warning"


@pytest.mark.servers_only
def test_a_column_with_another_shape(patient: Engine) -> None:
    """Too short, nullable, beginning elsewhere, and in a collation that tells no case apart."""
    do(
        patient,
        f"ALTER TABLE doctor_varchar DROP CONSTRAINT {CHECK}",
        "ALTER TABLE doctor_varchar MODIFY state VARCHAR(5) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci DEFAULT 'paid'",
    )
    findings = found(patient, Varchar.state)

    assert findings.keys() == {"any state", "too short", "nullable", "default", "collation"}
    assert "utf8mb4_general_ci" in findings["collation"].what


@pytest.mark.servers_only
def test_a_collation_that_pads_is_not_exact(patient: Engine) -> None:
    do(
        patient,
        "ALTER TABLE doctor_varchar MODIFY state VARCHAR(9) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT 'new'",
    )

    assert found(patient, Varchar.state).keys() == {"collation"}


@pytest.mark.servers_only
def test_another_storage_engine(patient: Engine) -> None:
    do(patient, "ALTER TABLE doctor_varchar ENGINE = MyISAM")

    assert found(patient, Varchar.state)["storage engine"].severity == "error"


# --- triggers


def test_triggers_that_are_missing(patient: Engine) -> None:
    release_machine(Order.state, patient)
    (kind, finding), *_ = found(patient).items()

    assert (kind, finding.severity) == ("triggers missing", "error")
    assert "INSERT" in finding.what


def test_one_of_two_triggers_is_missing(patient: Engine) -> None:
    do(patient, f"DROP TRIGGER {trigger_name(Order.__table__.c.state, Order.state.type.rules, 'update')}")
    finding = found(patient)["triggers missing"]

    assert "UPDATE" in finding.what
    assert "INSERT" not in finding.what


def test_triggers_of_an_older_machine(patient: Engine) -> None:
    class Older(DeclarativeBase):
        pass

    class OlderOrder(Older):
        __tablename__ = "doctor_orders"
        id: Mapped[int] = mapped_column(primary_key=True)
        state: Mapped[str] = StateMachineColumn(Machine(initial="new", events=[Event("Pay", {"new": "paid"})]))

    enforce_machine(OlderOrder.state, patient)
    assert found(patient).keys() == {"other triggers"}
    enforce_machine(Order.state, patient)
    assert found(patient) == {}


def test_a_column_that_shall_not_be_enforced_needs_none(patient: Engine) -> None:
    assert found(patient, Varchar.state) == {}
    enforce_machine(Varchar.state, patient)
    assert found(patient, Varchar.state) == {}


@pytest.mark.servers_only
@pytest.mark.parametrize("privileges", ["SELECT", "SELECT, INSERT, UPDATE"])
@pytest.mark.parametrize("are_there", [False, True])
def test_an_account_that_may_not_see_triggers(patient: Engine, privileges: str, *, are_there: bool) -> None:
    """Of a trigger that is there, MariaDB shows one who may write the table the name, and not the text."""
    name = f"doctor_{patient.url.database}"[:30]
    if not are_there:
        release_machine(Order.state, patient)
    do(patient, f"CREATE USER {name}@'%%'", f"GRANT {privileges} ON `{patient.url.database}`.* TO {name}@'%%'")
    other = create_engine(patient.url.set(username=name, password=None))
    try:
        findings = found(other)
        assert findings["triggers unseen"].severity == "warning"
        with pytest.raises(FSMError, match="no privilege TRIGGER"):
            release_machine(Order.state, other)
        with pytest.raises(DBAPIError, match="1142"):
            enforce_machine(Order.state, other)
    finally:
        other.dispose()
        do(patient, f"DROP USER {name}@'%%'")


# --- rows


@pytest.mark.servers_only
def test_rows_in_undeclared_and_retired_states_are_counted(patient: Engine) -> None:
    do(
        patient,
        f"ALTER TABLE doctor_varchar DROP CONSTRAINT {CHECK}",
        "ALTER TABLE doctor_varchar MODIFY state VARCHAR(9) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NOT NULL",
        "INSERT INTO doctor_varchar (id, state) VALUES (1,'new'),(2,'NEW'),(3,'lost'),(4,'lost'),(5,'void'),(6,'Error')",
    )
    findings = found(patient, Varchar.state)

    assert findings["undeclared rows"].rows == {"NEW": 1, "lost": 2}
    assert findings["retired rows"].rows == {"void": 1}
    assert findings["alias rows"].rows == {"Error": 1}
    assert "undeclared rows" not in found(patient, Varchar.state, count_rows=False)


def test_retired_rows_are_a_note(patient: Engine) -> None:
    do(patient, "INSERT INTO doctor_orders (id, state) VALUES (1, 'void'), (2, 'new'), (3, 'void')")
    findings = found(patient)

    assert [(one.severity, dict(one.rows)) for one in findings.values()] == [("note", {"void": 2})]


# --- the history


def test_a_history_that_is_not_there(patient: Engine) -> None:
    do(patient, "DROP TABLE doctor_transitions")

    assert found(patient).keys() == {"no history"}


@pytest.mark.servers_only
def test_a_history_without_its_indexes_and_a_column(patient: Engine) -> None:
    do(patient, "ALTER TABLE doctor_transitions DROP PRIMARY KEY, DROP COLUMN actor, MODIFY target VARCHAR(3) NOT NULL")
    index = "SELECT INDEX_NAME FROM information_schema.STATISTICS WHERE TABLE_NAME = 'doctor_transitions' AND TABLE_SCHEMA = DATABASE()"
    with patient.connect() as connection:
        name = connection.scalar(text(index))
    do(patient, f"ALTER TABLE doctor_transitions DROP INDEX `{name}`")
    findings = check_database(Order.state, patient)
    of_history = sorted(one.kind for one in findings if one.severity == "error")

    assert of_history == ["history columns", "history index", "history index", "too short"]


def test_a_history_in_autocommit(patient: Engine) -> None:
    with patient.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        assert found(connection).keys() == {"autocommit"}  # type: ignore[arg-type]


# --- the server and the connection


@pytest.mark.servers_only
@pytest.mark.parametrize(
    ("setting", "kind"),
    [
        ("SET SESSION sql_mode = ''", "strict mode"),
        ("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ", "isolation level"),
        ("SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE", "isolation level"),
        ("SET SESSION TRANSACTION READ ONLY", "read only"),
        ("SET SESSION sql_safe_updates = 1", None),
    ],
)
def test_a_connections_settings(patient: Engine, setting: str, kind: str | None) -> None:
    engine = create_engine(patient.url)

    @event.listens_for(engine, "connect")
    def set_it(connection: Any, record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(setting)

    try:
        kinds = {one.kind for one in check_database(Order.state, engine)}

        assert kind is None or kind in kinds
        assert "found rows" not in kinds
    finally:
        engine.dispose()


@pytest.mark.servers_only
@pytest.mark.parametrize("is_set", [True, False])
def test_the_flag_that_counts_found_rows(patient: Engine, is_set: bool) -> None:
    engine = make_engine(patient.url)

    @event.listens_for(engine, "do_connect")
    def without(dialect: Any, record: Any, arguments: Any, options: dict[str, Any]) -> None:
        if not is_set:
            options["client_flag"] &= ~2

    try:
        assert ("found rows" in found(engine)) is not is_set
    finally:
        engine.dispose()


# Of a member of a group with several primaries.
GROUP = {"group_replication_group_name": "a0e2", "group_replication_single_primary_mode": "OFF"}


@pytest.mark.parametrize(
    ("variables", "severity", "kind"),
    [
        ({"wsrep_on": "ON", "wsrep_sync_wait": "1"}, "warning", "stale refusals"),
        ({"wsrep_on": "ON", "wsrep_sync_wait": "7"}, None, None),
        ({"wsrep_on": "OFF", "wsrep_sync_wait": "0"}, None, None),
        ({**GROUP, "group_replication_consistency": "EVENTUAL"}, "warning", "stale refusals, savepoints"),
        ({**GROUP, "group_replication_consistency": "BEFORE"}, "warning", "savepoints"),
        (
            {**GROUP, "group_replication_single_primary_mode": "ON", "group_replication_consistency": "EVENTUAL"},
            None,
            None,
        ),
        ({**GROUP, "group_replication_group_name": "", "group_replication_consistency": "EVENTUAL"}, None, None),
        ({"read_only": "ON"}, "error", "read only"),
        ({"read_only": "NO_LOCK_NO_ADMIN"}, "error", "read only"),
        ({"sync_binlog": "0", "log_bin": "ON"}, "note", "durability"),
        ({"character_set_client": "sjis"}, "note", "character set"),
        ({"sync_binlog": "0", "log_bin": "OFF"}, None, None),
        ({"transaction_isolation": "REPEATABLE-READ", "innodb_snapshot_isolation": "ON"}, "warning", "isolation level"),
        ({"transaction_isolation": "READ-UNCOMMITTED"}, "warning", "isolation level"),
        ({"tx_isolation": "READ-COMMITTED"}, None, None),
        ({"tx_isolation": "READ-COMMITTED", "log_bin": "ON", "binlog_format": "STATEMENT"}, "error", "binary log"),
        ({"tx_isolation": "READ-COMMITTED", "log_bin": "ON", "binlog_format": "MIXED"}, None, None),
        ({"tx_isolation": "READ-COMMITTED", "log_bin": "OFF", "binlog_format": "STATEMENT"}, None, None),
        ({"tx_isolation": "REPEATABLE-READ", "log_bin": "ON", "binlog_format": "STATEMENT"}, "note", "isolation level"),
    ],
)
def test_what_a_servers_variables_mean(variables: dict[str, str], severity: str | None, kind: str | None) -> None:
    findings = [one for ask in SETTINGS for one in ask(Settings("10", variables))]

    expected = [(severity, each) for each in kind.split(", ")] if kind else []
    assert [(one.severity, one.kind) for one in findings] == expected


# --- for a program that starts


def test_a_program_starts_where_all_is_well(patient: Engine) -> None:
    assert all(one.severity != "error" for one in require_database(Order.state, patient))


def test_a_program_does_not_start_where_something_is_wrong(patient: Engine) -> None:
    release_machine(Order.state, patient)
    with pytest.raises(DatabaseUnfit, match="triggers? for") as unfit:
        require_database(Order.state, patient)

    assert unfit.value.findings[0].kind == "triggers missing"


def test_nothing_is_changed_and_the_connection_is_as_before(patient: Engine) -> None:
    """Reflection would leave a mark on the connection, and a refusal would not be known as one."""
    with patient.connect() as connection:
        check_database(Order.state, connection)
        connection.execute(text("INSERT INTO doctor_orders (id) VALUES (1)"))
        with pytest.raises(RefusedByDatabase):
            connection.execute(text("UPDATE doctor_orders SET state = 'void'"))
    with Session(patient) as session:
        assert session.get(Order, 1) is None


@pytest.mark.parametrize("column", [None, Order, "state", Order.id])
def test_what_is_no_state_cannot_be_checked(patient: Engine, column: Any) -> None:
    with pytest.raises(TypeError):
        check_database(column, patient)
