"""The least privileges of docs/security.md, granted on real servers to users of their own."""

from __future__ import annotations

import re
import secrets
import traceback
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import URL, Engine, NullPool, create_engine, exists, select, text, true
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Coalescer,
    Event,
    Leased,
    Machine,
    Stateful,
    StateMachineColumn,
    StateSinceColumn,
    TransitionHistory,
    check_database,
    claim,
    commit_with_fire_key,
    dwell_times,
    enforce_machine,
    erase_actor,
    extend_lease,
    find_by_token,
    fire_due,
    fire_key,
    fire_keys,
    fire_or_create,
    fire_where,
    force_state,
    prune_history,
    release_machine,
    replay,
)
from sqlalchemy_fsm_mysql.operations.enforcement import own_triggers
from sqlalchemy_fsm_mysql.operations.figures import count_rows, count_transitions
from tests.reference import machine
from tests.servers import execute

pytestmark = pytest.mark.servers_only

SECRET = "a value that nobody should see"  # noqa: S105 - no password, a value


class Base(DeclarativeBase):
    pass


class Order(Stateful, Base):
    __tablename__ = "granted_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    total: Mapped[int] = mapped_column(default=100)
    state: Mapped[str] = StateMachineColumn(machine)


class OrderStep(TransitionHistory, Base):
    __tablename__ = "granted_steps"
    __records__ = "Order.state"


class Bare(Stateful, Base):
    """Without a history."""

    __tablename__ = "granted_bares"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)


class Job(Leased, Stateful, Base):
    """With a lease and a timed event."""

    __tablename__ = "granted_jobs"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    since: Mapped[datetime] = StateSinceColumn()
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="Initializing",
            events=[
                Event("Start", {"Initializing": "Running"}),
                Event("Expire", {"Initializing": "Deleted"}, after=timedelta(hours=1)),
            ],
        )
    )


class JobStep(TransitionHistory, Base):
    __tablename__ = "granted_job_steps"
    __records__ = "Job.state"


class Payment(Base):
    __tablename__ = "granted_payments"

    id: Mapped[int] = mapped_column(primary_key=True)


class Parcel(Base):
    """A guard that reads another table."""

    __tablename__ = "granted_parcels"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="new",
            events=[Event("Send", {"new": "sent"}, guard=lambda parcel: exists().where(Payment.id == parcel.id))],
        )
    )


Login = Callable[..., Engine]


@pytest.fixture
def login(url: URL, tables: None) -> Iterator[Login]:
    """``login("SELECT ON granted_orders")``: an engine of a new user with these privileges; three new orders are there."""
    if url.drivername != "mysql+pymysql":
        pytest.skip("one driver a server")
    users: list[str] = []
    engines: list[Engine] = []
    with Session(root := create_engine(url)) as session:
        session.execute(text("DELETE FROM granted_steps"))
        session.execute(text("DELETE FROM granted_orders"))
        session.add_all(Order(id=key) for key in (1, 2, 3))
        session.commit()
    root.dispose()

    def made(*grants: str) -> Engine:
        user, password = f"fsm_{secrets.token_hex(4)}", secrets.token_hex(8)
        users.append(user)
        execute(url, f"CREATE USER {user} IDENTIFIED BY '{password}'")
        for grant in grants:
            privileges, _, table = grant.rpartition(" ON ")
            execute(url, f"GRANT {privileges} ON {url.database}.{table} TO {user}")
        # PyMySQL needs no plugin file for MySQL's passwords.
        engine = create_engine(
            url.set(drivername="mysql+pymysql", username=user, password=password),
            poolclass=NullPool,
            isolation_level="READ COMMITTED",
        )
        engines.append(engine)
        return engine

    yield made
    for engine in engines:
        engine.dispose()
    for user in users:
        execute(url, f"DROP USER {user}")


LEAST = ("SELECT, UPDATE ON granted_orders", "SELECT, INSERT, UPDATE (details) ON granted_steps")


@pytest.fixture(scope="module", params=["own", "locking"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def chosen(engine: Engine, backend: str) -> Session:
    return Session(engine.execution_options(fsm_backend="locking") if backend == "locking" else engine)


def test_the_least_grants_fire_with_history_and_tokens(login: Login, backend: str) -> None:
    with chosen(login(*LEAST), backend) as session:
        fire_key(Order, 1, "Ready", session, token="once", actor="ada", details={"why": "test"})
        assert fire_key(Order, 1, "Ready", session, token="once").replayed
        session.get_one(Order, 1).fire("Stop", session)
        assert fire_where(Order, "Ready", session, Order.id == 2).moved == 1
        assert [order.id for order in claim(Order, "Ready", session, Order.id == 3, limit=1)] == [3]
        force_state(session.get_one(Order, 3), "Error", session)
        session.commit()
        assert find_by_token(Order.state, "once", session) is not None
        assert replay(session.get_one(Order, 1).history(session)) == "Stopped"


def test_without_tokens_no_update_of_the_history_is_needed(login: Login, backend: str) -> None:
    if backend == "locking":
        pytest.skip("it reads the history's last number with a lock")
    with Session(login("SELECT, UPDATE ON granted_orders", "SELECT, INSERT ON granted_steps")) as session:
        moved = fire_key(Order, 1, "Ready", session)
        session.commit()

        assert moved.sequence == 1


# --- the table of docs/security.md

PAGE = Path(__file__).parents[2] / "docs" / "security.md"


def coalesced(session: Session) -> object:
    with Coalescer(session.get_bind(), max_wait=timedelta()) as fires:
        return fires.fire_key(Job, 1, "Start")


# Each feature of the table, without its commit (a coalescer and commit_with_fire commit). Row 1 is 'Initializing', and has the token "used" in its history.
FEATURES: dict[str, Callable[[Session], object]] = {
    "`fire`": lambda session: session.get_one(Order, 1).fire("Ready"),
    "`fire_key`": lambda session: fire_key(Order, 1, "Ready", session),
    "`fire_key` with a new token": lambda session: fire_key(Order, 1, "Ready", session, token="new"),
    "`fire_key` with a used token": lambda session: fire_key(Order, 1, "NotReady", session, token="used"),
    "`fire_keys`": lambda session: fire_keys(Order, [1, 2], "Ready", session),
    "`fire_where`": lambda session: fire_where(Order, "Ready", session, true()),
    "`claim`": lambda session: claim(Order, "Ready", session, Order.id == 1, limit=1),
    "`fire_or_create`": lambda session: fire_or_create(Order(id=9), "Ready", session),
    "`force_state`": lambda session: force_state(session.get_one(Order, 1), "Error", session),
    "`fire_key` without a history": lambda session: fire_key(Bare, 1, "Ready", session),
    "`fire_keys` without a history": lambda session: fire_keys(Bare, [1, 2], "Ready", session),
    "`fire_where` without a history": lambda session: fire_where(Bare, "Ready", session, true()),
    "`claim` without a history": lambda session: claim(Bare, "Ready", session, Bare.id == 1, limit=1),
    "`fire_or_create` without a history": lambda session: fire_or_create(Bare(id=9), "Ready", session),
    '`fire_key` with a history, `fsm_backend="locking"`': lambda session: fire_key(Order, 1, "Ready", session),
    "`can`, `after`": lambda session: session.scalars(
        select(Bare.state.after("Ready")).where(Bare.state.can("Ready"))
    ).all(),
    "`possible_events`": lambda session: session.get_one(Bare, 1).possible_events(session),
    "`claim` with a lease": lambda session: claim(
        Job, "Start", session, limit=1, lease=timedelta(minutes=1), worker="w"
    ),
    "`extend_lease`": lambda session: extend_lease(
        session.get_one(Job, 1), session, lease=timedelta(minutes=1), worker="w"
    ),
    "`fire_due`, `run_due`": lambda session: fire_due(Job, session),
    "`fire_key` of a `Coalescer`": coalesced,
    "`commit_with_fire_key`": lambda session: commit_with_fire_key(Job, 1, "Start", session),
    "`find_by_token`": lambda session: find_by_token(Order.state, "used", session),
    "`history`, `replay`": lambda session: replay(session.get_one(Order, 1).history(session)),
    "`count_rows`": lambda session: count_rows(Bare.state, session),
    "`count_transitions`": lambda session: count_transitions(Order.state, session),
    "`dwell_times` of a history": lambda session: dwell_times(Order.state, session, origin="history"),
    "`prune_history`": lambda session: prune_history(Order.state, session, older_than=timedelta()),
    "`erase_actor`": lambda session: erase_actor(Order.state, "ann", session),
    "`check_database`": lambda session: check_database(Order.state, session.connection()),
    "`enforce_machine`, `release_machine`": lambda session: [
        enforce_machine(Bare.state, session.connection()),
        release_machine(Bare.state, session.connection()),
    ],
}


ROW = re.compile(r"^\| (.*`.+?) \| ([A-Z–][^|]*?) \| ([A-Z–][^|]*?) \|$", re.MULTILINE)
LOCKING = '`fsm_backend="locking"`'


def grants_of(feature: str) -> list[str]:
    """The grants of *feature*, as its row of the page has them: ``SELECT ON granted_orders``."""
    name = LOCKING if LOCKING in feature else feature.split("`")[1]
    ((of_model, of_history),) = [
        cells for names, *cells in ROW.findall(PAGE.read_text(encoding="utf-8")) if name.strip("`") in names.split("`")
    ]
    model, history = "granted_orders", "granted_steps"
    if "without" in feature:
        model, of_history = "granted_bares", "–"
    elif feature in OF_BARE:
        model = "granted_bares"
    elif feature in OF_JOBS:
        model, history = "granted_jobs", "granted_job_steps"
    pairs = [(of_model, model), (of_history, history)]
    return [f"{one} ON {table}" for words, table in pairs if words != "–" for one in words.split(", ")]


OF_BARE = ("`can`, `after`", "`possible_events`", "`count_rows`", "`enforce_machine`, `release_machine`")
OF_JOBS = (
    "`claim` with a lease",
    "`extend_lease`",
    "`fire_due`, `run_due`",
    "`fire_key` of a `Coalescer`",
    "`commit_with_fire_key`",
)
MODELS = (Order, Bare, Job)


@pytest.fixture
def stock(url: URL, login: Login) -> Engine:
    """The administrator's engine, on rows of which the first has a token."""
    root = create_engine(url, poolclass=NullPool)
    with Session(root) as session:
        session.merge(Bare(id=1))
        session.merge(Job(id=1, state="Initializing", since=datetime(2026, 1, 1)))  # noqa: DTZ001 - as it is stored
        fire_key(Order, 1, "NotReady", session, token="used")
        fire_key(Order, 1, "NotReady", session, actor="ann")
        fire_key(Order, 2, "NotReady", session)
        fire_key(Order, 2, "NotReady", session)
        session.commit()
    return root


def test_the_table_names_every_feature_that_is_tried() -> None:
    named = {name for names, *_ in ROW.findall(PAGE.read_text(encoding="utf-8")) for name in names.split("`")[1::2]}

    assert named == {name for feature in FEATURES for name in feature.split("`")[1::2]}


@pytest.mark.parametrize("feature", FEATURES)
def test_exactly_the_listed_grants_are_enough(login: Login, stock: Engine, feature: str) -> None:
    """And with one less the server refuses, in words that name the grant, and nothing is moved."""
    grants = grants_of(feature)
    locking = {"fsm_backend": "locking"} if "locking" in feature else {}
    with Session(login(*grants).execution_options(fsm_one_packet=True, **locking)) as session:
        done = FEATURES[feature](session)
        session.rollback()
    if feature in OF_JOBS:
        assert done is False if "extend" in feature else done
    with stock.begin() as connection:
        connection.execute(text("UPDATE granted_jobs SET state = 'Initializing'"))
    is_mariadb = stock.dialect.is_mariadb
    for missing in grants:
        if is_mariadb and "(details)" in missing:
            continue  # MariaDB locks rows for who may read them
        rest = [grant for grant in grants if grant != missing]
        with Session(login(*rest).execution_options(**locking)) as session:
            # The doctor reports that the model's table cannot be read, as it does all else.
            if feature == "`check_database`" and missing.endswith("granted_orders"):
                assert "rights" in {finding.kind for finding in FEATURES[feature](session)}
                continue
            with pytest.raises(DBAPIError, match="denied"):
                FEATURES[feature](session)
            session.rollback()
    with Session(stock) as session:
        assert {state for model in MODELS for state in session.scalars(select(model.state))} == {"Initializing"}


def test_a_guard_that_locks_other_rows_needs_select_on_them(login: Login, url: URL) -> None:
    """FOR SHARE, and MariaDB's LOCK IN SHARE MODE, need no privilege beyond SELECT."""
    with Session(root := create_engine(url)) as session:
        session.merge(Payment(id=1))
        session.merge(Parcel(id=1, state="new"))
        session.commit()
    root.dispose()
    reads = login("SELECT, UPDATE (state) ON granted_parcels", "SELECT ON granted_payments")

    with Session(reads) as session:
        assert fire_key(Parcel, 1, "Send", session).target == "sent"


def test_an_account_that_sees_no_columns_drops_no_triggers(login: Login, stock: Engine) -> None:
    """With TRIGGER alone, the server hides the columns, and each trigger looks as if its column was dropped."""
    with stock.connect() as connection:
        enforce_machine(Bare.state, connection)
        before = {one.name for one in own_triggers(connection, Bare.__table__.c.state)}
    with login("TRIGGER ON granted_bares").connect() as connection:
        enforce_machine(Bare.state, connection)
    with stock.connect() as connection:
        after = {one.name for one in own_triggers(connection, Bare.__table__.c.state)}
        release_machine(Bare.state, connection)

    assert before
    assert before == after


# The record that is there, written once more.
AGAIN = (
    "INSERT INTO granted_steps (record_id, sequence, event, source, target, at, token)"
    " VALUES (1, 1, 'Delete', 'Stopped', 'Deleted', NOW(), 'twice')"
)
REWRITES = [
    "UPDATE granted_steps SET target = 'Deleted'",
    "UPDATE granted_steps SET event = 'Delete', sequence = 9",
    "UPDATE granted_steps SET token = NULL",
    "UPDATE granted_steps SET at = NOW()",
    f"{AGAIN} ON DUPLICATE KEY UPDATE target = 'Deleted'",
    f"{AGAIN} ON DUPLICATE KEY UPDATE target = VALUES(target)",
    f"{AGAIN} ON DUPLICATE KEY UPDATE details = NULL, token = VALUES(token)",
    f"REPLACE{AGAIN.removeprefix('INSERT')}",
    "DELETE FROM granted_steps",
    "TRUNCATE granted_steps",
    "DROP TABLE granted_steps",
    "DELETE FROM granted_orders",
    "INSERT INTO granted_orders (id, total, state) VALUES (9, 1, 'Deleted')",
]


def test_the_least_grants_cannot_rewrite_or_delete_history(login: Login) -> None:
    with Session(login(*LEAST)) as session:
        fire_key(Order, 1, "Ready", session, token="once")
        session.commit()
        for statement in REWRITES:
            with pytest.raises(DBAPIError, match="denied"):
                session.execute(text(statement))
            session.rollback()

        assert [row.target for row in session.get_one(Order, 1).history(session)] == ["Running"]


def test_a_reader_lists_history_and_fires_nothing(login: Login) -> None:
    reader = login("SELECT ON granted_orders", "SELECT ON granted_steps")
    with Session(reader) as session:
        order = session.get_one(Order, 1)
        assert order.history(session) == []
        with pytest.raises(DBAPIError, match="denied"):
            order.fire("Ready", session)
        session.rollback()
        assert session.get_one(Order, 1).state == "Initializing"


@pytest.mark.parametrize("value", ["'Deleted'", "VALUES(state)"])
def test_an_upsert_writes_no_column_that_update_is_not_granted_for(login: Login, value: str) -> None:
    """Who may insert whole rows, and update one column."""
    upsert = "INSERT INTO granted_orders (id, total, state) VALUES (1, 1, 'Deleted') ON DUPLICATE KEY UPDATE"
    with Session(login("SELECT, INSERT, UPDATE (total) ON granted_orders")) as session:
        for assigned in (f"state = {value}", f"total = 2, state = {value}"):
            with pytest.raises(DBAPIError, match="denied"):
                session.execute(text(f"{upsert} {assigned}"))
            session.rollback()
        stored = session.execute(text("SELECT state FROM granted_orders WHERE id = 1")).scalar_one()

        assert stored == "Initializing"


def test_a_grant_on_the_state_column_is_open_to_any_state(login: Login) -> None:
    """Grants know columns, and no edges."""
    with Session(login("SELECT, UPDATE (state) ON granted_orders")) as session:
        session.execute(text("UPDATE granted_orders SET state = 'Deleted' WHERE id = 1"))

        assert session.get_one(Order, 1).state == "Deleted"


def test_with_hidden_parameters_a_traceback_has_no_value(login: Login) -> None:
    """Without, SQLAlchemy's error, which is the cause of ours, quotes them."""
    reader = login("SELECT ON granted_orders", "SELECT ON granted_steps")
    told = {}
    for is_hidden in (True, False):
        engine = create_engine(reader.url, poolclass=NullPool, hide_parameters=is_hidden)
        with Session(engine) as session:
            try:
                session.execute(text("INSERT INTO granted_steps (actor) VALUES (:actor)"), {"actor": SECRET})
            except DBAPIError:
                told[is_hidden] = traceback.format_exc()

    assert SECRET not in told[True]
    assert SECRET in told[False]
