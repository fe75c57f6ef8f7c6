"""What the database's errors do to a session: after one that ended the transaction it has to roll back first.

The errors are real, each made by a second connection or by the server's own settings. SQLAlchemy's session would go on
after some of them, and commit only the second half of the work.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, inspect, text, update
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from sqlalchemy_fsm_mysql import (
    FireError,
    LockTimeout,
    Moved,
    NotWritable,
    StateMachineColumn,
    TransactionAborted,
    find_by_token,
    fire_key,
    on_committed,
    on_moved,
    remove_hook,
    run_transaction,
)
from sqlalchemy_fsm_mysql.core.failures import Meaning, error_code, meaning
from tests.conformance.history_models import Order as Recorded
from tests.conformance.session_models import Base, Order, machine
from tests.conformance.session_support import create, move, stored


def first_half(session: Session, engine: Engine) -> Order:
    """Work that the session has done before the error: an order whose note is written."""
    order = session.get_one(Order, create(engine, Order))
    order.note = "first half"
    session.flush()
    return order


def assert_must_roll_back(session: Session, engine: Engine, done: Order) -> None:
    """Nothing goes on, nothing of the first half is kept; after rollback() all works again."""
    (key,) = inspect(done).identity
    with pytest.raises(PendingRollbackError):
        session.execute(text("SELECT 1"))
    with pytest.raises(PendingRollbackError):
        fire_key(Order, key, "Ready", session)
    with pytest.raises(PendingRollbackError):
        session.commit()
    session.rollback()

    assert stored(engine, Order, key, "state", "note") == ("Initializing", "")
    fire_key(Order, key, "Stop", session)
    session.commit()
    assert stored(engine, Order, key) == "Stopped"


def assert_goes_on(session: Session, engine: Engine, done: Order) -> None:
    """The transaction is alive: it is committed as a whole."""
    done.fire("Ready", session)
    session.commit()

    assert stored(engine, Order, done.id, "state", "note") == ("Running", "first half")


# --- a deadlock


def fire_ready(key: int, session: Session) -> None:
    fire_key(Order, key, "Ready", session)


@contextmanager
def deadlock(
    session: Session, engine: Engine, *, own_half: Callable[[int, Session], None] = fire_ready
) -> Iterator[int]:
    """The key of a row: the session's next lock on it is a deadlock, and the session is its victim.

    The session locks another row by *own_half*.
    """
    held, wanted = create(engine, Order), create(engine, Order)
    own_half(held, session)
    with Session(engine) as other, ThreadPoolExecutor(1) as thread, patience(other, 10):
        other.add_all(Order() for _ in range(50))  # the server gives up whoever has changed less
        fire_key(Order, wanted, "Ready", other)
        waiting = thread.submit(fire_key, Order, held, "Ready", other)
        yield wanted
        waiting.result()


def edit_and_fire(session: Session, key: int) -> None:
    """An event whose own flush is the first to want the row."""
    order = session.get_one(Order, key)
    order.note = "flushed by the event"
    order.fire("Ready", session)


@contextmanager
def patience(session: Session, seconds: int) -> Iterator[None]:
    """How long the session waits for a lock."""
    connection = session.connection()
    connection.exec_driver_sql(f"SET SESSION innodb_lock_wait_timeout = {seconds}")
    yield
    connection.exec_driver_sql("SET SESSION innodb_lock_wait_timeout = DEFAULT")


@pytest.mark.servers_only
def test_after_a_deadlock_the_session_has_to_roll_back(
    mine: Session, database: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    order = first_half(mine, database)
    with deadlock(mine, database) as key, pytest.raises(TransactionAborted) as aborted:
        fire_key(Order, key, "Ready", mine)

    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []  # it is no surprise
    assert (aborted.value.code, aborted.value.retryable, aborted.value.event) == (1213, True, "Ready")
    assert_must_roll_back(mine, database, order)


@pytest.mark.servers_only
def test_a_deadlock_in_a_savepoint_ends_the_transaction_around_it(mine: Session, database: Engine) -> None:
    order = first_half(mine, database)
    with deadlock(mine, database) as key, pytest.raises(TransactionAborted) as aborted, mine.begin_nested():
        fire_key(Order, key, "Ready", mine)

    assert aborted.value.code == 1213
    assert_must_roll_back(mine, database, order)


@pytest.mark.servers_only
def test_a_deadlock_three_savepoints_deep_ends_the_transaction(mine: Session, database: Engine) -> None:
    order = first_half(mine, database)
    with (
        deadlock(mine, database) as key,
        pytest.raises(TransactionAborted),
        mine.begin_nested(),
        mine.begin_nested(),
        mine.begin_nested(),
    ):
        fire_key(Order, key, "Ready", mine)

    assert_must_roll_back(mine, database, order)


@pytest.mark.servers_only
def test_a_deadlock_of_the_flush_before_the_event_is_one_of_the_event(mine: Session, database: Engine) -> None:
    order = first_half(mine, database)
    with deadlock(mine, database) as key, pytest.raises(TransactionAborted) as aborted:
        edit_and_fire(mine, key)

    assert aborted.value.code == 1213
    assert_must_roll_back(mine, database, order)


@pytest.mark.servers_only
def test_a_deadlock_of_the_flush_in_a_savepoint_ends_the_transaction_around_it(mine: Session, database: Engine) -> None:
    """Rolling back to the savepoint, SQLAlchemy gets 1305: it went with the transaction."""
    order = first_half(mine, database)
    with deadlock(mine, database) as key, pytest.raises(TransactionAborted), mine.begin_nested():
        edit_and_fire(mine, key)

    assert_must_roll_back(mine, database, order)


@pytest.mark.servers_only
def test_a_savepoint_that_went_with_its_transaction_means_the_transactions_error(
    mine: Session, database: Engine
) -> None:
    """Where nothing was fired, SQLAlchemy rolls back to the savepoint, and the server does not know it any more."""
    first_half(mine, database)
    with (
        deadlock(mine, database, own_half=plain_update) as key,
        pytest.raises(DBAPIError) as error,
        mine.begin_nested(),
    ):
        mine.execute(update(Order).where(Order.id == key).values(note="without an event"))
    mine.rollback()

    assert (error_code(error.value), meaning(error.value)) == (1305, Meaning.ABORTED)


# --- a deadlock of a statement that is no fire


def plain_update(key: int, session: Session) -> None:
    session.execute(update(Order).where(Order.id == key).values(note="without an event"))


def flush(key: int, session: Session) -> None:
    with session.begin_nested():
        session.get_one(Order, key).note = "flushed"


def flush_of_an_expunged_row(key: int, session: Session) -> None:
    with session.begin_nested():
        session.get_one(Order, key).note = "flushed"
        session.flush()


def core_update(key: int, session: Session) -> None:
    session.connection().execute(update(Order.__table__).where(Order.__table__.c.id == key).values(note="by Core"))


def driver_sql(key: int, session: Session) -> None:
    session.connection().exec_driver_sql(f"UPDATE rules_order SET note = 'by hand' WHERE id = {int(key)}")


def locking_read(key: int, session: Session) -> None:
    session.get(Order, key, with_for_update=True)


def within_a_savepoint(key: int, session: Session) -> None:
    with session.begin_nested():
        plain_update(key, session)


def refresh(key: int, session: Session) -> None:
    session.refresh(session.get_one(Order, key), with_for_update=True)


OWN = [
    plain_update,
    flush,
    flush_of_an_expunged_row,
    core_update,
    driver_sql,
    locking_read,
    within_a_savepoint,
    refresh,
]


@pytest.mark.servers_only
@pytest.mark.parametrize("statement", OWN, ids=lambda statement: statement.__name__)
def test_after_a_deadlock_of_the_applications_own_statement_nothing_is_committed(
    mine: Session, database: Engine, statement: Callable[[int, Session], None]
) -> None:
    """The caller swallows it. The first half, of which fire_key() returned Moved, is gone with the transaction."""
    done = create(database, Order)
    fire_key(Order, done, "Ready", mine)
    with deadlock(mine, database) as key, suppress(DBAPIError):
        statement(key, mine)
    with pytest.raises(PendingRollbackError):
        fire_key(Order, key, "Ready", mine)
    with pytest.raises(PendingRollbackError):
        mine.commit()
    mine.rollback()

    assert stored(database, Order, done) == "Initializing"


@pytest.mark.servers_only
def test_each_transaction_of_a_connection_is_watched_from_its_first_fire(database: Engine) -> None:
    """The fire itself begins the second transaction, and a deadlock in that is swallowed."""
    with database.connect() as connection:
        fire_key(Order, create(database, Order), "Ready", connection)
        connection.commit()
        with deadlock(connection, database) as key, suppress(DBAPIError):  # type: ignore[arg-type]
            connection.execute(update(Order).where(Order.id == key).values(note="mine"))
        with pytest.raises(PendingRollbackError):
            connection.commit()
        connection.rollback()


@pytest.mark.servers_only
@pytest.mark.parametrize("statement", OWN, ids=lambda statement: statement.__name__)
def test_a_fire_after_a_deadlock_that_was_swallowed_is_refused(
    mine: Session, database: Engine, statement: Callable[[int, Session], None]
) -> None:
    """Nothing was fired before the deadlock; the fire would commit the half that follows it."""
    order = first_half(mine, database)
    with deadlock(mine, database, own_half=plain_update) as key, suppress(DBAPIError):
        statement(key, mine)
    with pytest.raises(TransactionAborted) as aborted:
        order.fire("Ready", mine)

    assert (aborted.value.code, aborted.value.event) == (1213, "Ready")
    assert_must_roll_back(mine, database, order)


@pytest.mark.servers_only
@pytest.mark.parametrize("place", [lambda session: session, Session.connection], ids=["session", "connection"])
def test_a_question_for_a_token_after_a_swallowed_deadlock_names_no_event(
    mine: Session, database: Engine, place: Callable[[Session], Session | Connection]
) -> None:
    with deadlock(mine, database, own_half=plain_update) as key, suppress(DBAPIError):
        plain_update(key, mine)
    with pytest.raises(TransactionAborted, match="^the server ended the whole transaction .error 1213") as aborted:
        find_by_token(Recorded.state, "nobody's", place(mine))

    assert aborted.value.event is None


@pytest.mark.servers_only
def test_a_session_that_fires_nothing_is_left_as_sqlalchemy_has_it(mine: Session, database: Engine) -> None:
    """A deadlock on an application's other connections is its own matter."""
    order = first_half(mine, database)
    with deadlock(mine, database, own_half=plain_update) as key, suppress(DBAPIError):
        plain_update(key, mine)
    mine.execute(update(Order).where(Order.id == order.id).values(note="second half"))
    mine.commit()

    assert stored(database, Order, order.id, "note") == "second half"


@pytest.mark.servers_only
def test_a_deadlock_that_a_hook_swallows_is_not_committed(mine: Session, database: Engine) -> None:
    done, mails = create(database, Order), []

    def swallow(moved: Moved[Order], session: Session) -> None:
        with suppress(DBAPIError):
            plain_update(waited_for[0], session)

    on_committed(Order.state)(mails.append)
    try:
        with deadlock(mine, database) as key:
            waited_for = [key]
            on_moved(Order.state)(swallow)
            try:
                fire_key(Order, done, "Ready", mine)
            finally:
                remove_hook(Order.state, swallow)
        with pytest.raises(PendingRollbackError):
            mine.commit()
        mine.rollback()
    finally:
        remove_hook(Order.state, mails.append)

    assert done not in [moved.key for moved in mails]
    assert stored(database, Order, done) == "Initializing"


@pytest.mark.servers_only
def test_a_unit_that_swallows_a_deadlock_is_run_again(database: Engine) -> None:
    first, third = create(database, Order), create(database, Order)
    runs: list[int] = []

    def work(session: Session) -> None:
        runs.append(1)
        fire_key(Order, first, "Ready", session)
        if len(runs) == 1:
            with deadlock(session, database) as key, suppress(DBAPIError):
                flush(key, session)
        fire_key(Order, third, "Ready", session)

    run_transaction(sessionmaker(database), work)

    assert (len(runs), stored(database, Order, first), stored(database, Order, third)) == (2, "Running", "Running")


@pytest.mark.servers_only
def test_a_unit_that_swallows_a_deadlock_and_does_no_more_is_run_again(database: Engine) -> None:
    """It fires nothing, and its COMMIT would be one of nothing."""
    order = create(database, Order)
    runs: list[int] = []

    def work(session: Session) -> None:
        runs.append(1)
        plain_update(order, session)
        if len(runs) == 1:
            with deadlock(session, database, own_half=plain_update) as key, suppress(DBAPIError):
                plain_update(key, session)

    run_transaction(sessionmaker(database), work)

    assert (len(runs), stored(database, Order, order, "note")) == (2, "without an event")


@pytest.mark.servers_only
@pytest.mark.parametrize("code", [1206, 1053, 4060, 1614])
def test_other_errors_that_end_a_transaction_are_known(mine: Session, database: Engine, code: int) -> None:
    order = first_half(mine, database)
    order.fire("Ready", mine)
    with pytest.raises(DBAPIError):
        mine.connection().exec_driver_sql(f"SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = {code}, MESSAGE_TEXT = 'ended'")

    assert_must_roll_back(mine, database, order)


# --- a flush that times out


@pytest.mark.servers_only
def test_a_lock_timeout_of_the_flush_before_the_event_says_that_it_was_rolled_back(
    database: Engine, seconds: int
) -> None:
    with locked(database) as key, database.connect() as connection:
        connection.exec_driver_sql(f"SET SESSION innodb_lock_wait_timeout = {seconds}")
        connection.commit()
        with Session(connection) as session:
            order = first_half(session, database)
            waiting = session.get_one(Order, key)
            waiting.note = "flushed by the event"
            with pytest.raises(LockTimeout, match="the flush before the event failed and was rolled back") as timeout:
                waiting.fire("Ready", session)
        connection.exec_driver_sql("SET SESSION innodb_lock_wait_timeout = DEFAULT")

    assert (timeout.value.code, timeout.value.rolled_back) == (1205, True)
    assert stored(database, Order, inspect(order).identity, "note") == ""


# --- a snapshot that is too old


@pytest.fixture
def strict(database: Engine) -> Iterator[Session]:
    """A session under REPEATABLE READ, on a server that refuses to look past the session's snapshot."""
    with database.connect() as connection:
        connection.execution_options(isolation_level="REPEATABLE READ")
        if not connection.exec_driver_sql("SHOW VARIABLES LIKE 'innodb_snapshot_isolation'").first():
            pytest.skip("MySQL has no innodb_snapshot_isolation: it looks past its snapshot")
        connection.exec_driver_sql("SET SESSION innodb_snapshot_isolation = ON")
        connection.commit()
        with Session(connection) as session:
            yield session
        connection.exec_driver_sql("SET SESSION innodb_snapshot_isolation = DEFAULT")


@pytest.mark.servers_only
@pytest.mark.parametrize("moves", [("Ready",), ("Stop", "Delete")], ids=["moved", "refused"])
def test_a_row_changed_since_the_snapshot_ends_the_transaction(
    strict: Session, database: Engine, moves: tuple[str, ...]
) -> None:
    changed = create(database, Order)
    order = first_half(strict, database)
    strict.get_one(Order, changed)
    move(database, Order, changed, *moves)
    with pytest.raises(TransactionAborted) as aborted:
        fire_key(Order, changed, "Ready", strict)

    assert (aborted.value.code, aborted.value.retryable) == (1020, True)
    assert_must_roll_back(strict, database, order)


@pytest.mark.servers_only
def test_a_row_changed_since_the_snapshot_ends_the_transaction_around_a_savepoint(
    strict: Session, database: Engine
) -> None:
    changed = create(database, Order)
    order = first_half(strict, database)
    strict.get_one(Order, changed)
    move(database, Order, changed, "Ready")
    with pytest.raises(TransactionAborted), strict.begin_nested():
        fire_key(Order, changed, "Ready", strict)

    assert_must_roll_back(strict, database, order)


# --- waiting for a lock


@contextmanager
def locked(engine: Engine) -> Iterator[int]:
    """The key of a row that another transaction holds."""
    key = create(engine, Order)
    with Session(engine) as other:
        fire_key(Order, key, "Ready", other)
        yield key
        other.rollback()


@pytest.fixture
def seconds(database: Engine) -> int:
    """As short as the server can: MariaDB need not wait at all."""
    return 0 if getattr(database.dialect, "is_mariadb", False) else 1


@pytest.mark.servers_only
def test_after_a_lock_timeout_the_transaction_is_alive(mine: Session, database: Engine, seconds: int) -> None:
    order = first_half(mine, database)
    with locked(database) as key, patience(mine, seconds), pytest.raises(LockTimeout) as timeout:
        fire_key(Order, key, "Ready", mine)

    assert (1205, key) == (timeout.value.code, timeout.value.key)
    assert_goes_on(mine, database, order)


@pytest.mark.servers_only
def test_after_a_lock_timeout_in_a_savepoint_the_transaction_is_alive(
    mine: Session, database: Engine, seconds: int
) -> None:
    order = first_half(mine, database)
    with locked(database) as key, patience(mine, seconds), pytest.raises(LockTimeout), mine.begin_nested():
        fire_key(Order, key, "Ready", mine)

    assert_goes_on(mine, database, order)


@pytest.mark.servers_only
def test_after_kill_query_the_transaction_is_alive(mine: Session, database: Engine) -> None:
    order = first_half(mine, database)
    number = mine.connection().exec_driver_sql("SELECT connection_id()").scalar_one()
    with locked(database) as key, ThreadPoolExecutor(1) as thread, database.connect() as admin:
        firing = thread.submit(fire_key, Order, key, "Ready", mine)
        while not firing.done():  # a connection that does not execute anything yet takes no notice
            admin.exec_driver_sql(f"KILL QUERY {number}")
            wait([firing], timeout=0.05)
        error = firing.exception()

    assert isinstance(error, LockTimeout)
    assert error.code == 1317
    assert_goes_on(mine, database, order)


# --- the connection


@pytest.mark.servers_only
@pytest.mark.parametrize("within", [nullcontext, Session.begin_nested], ids=["transaction", "savepoint"])
def test_after_kill_connection_the_session_has_to_roll_back(
    mine: Session, database: Engine, within: Callable[..., Any]
) -> None:
    order = first_half(mine, database)
    number = mine.connection().exec_driver_sql("SELECT connection_id()").scalar_one()
    with database.connect() as admin:
        admin.exec_driver_sql(f"KILL {number}")
    with pytest.raises(TransactionAborted) as aborted, within(mine):
        order.fire("Ready", mine)

    assert aborted.value.retryable
    assert_must_roll_back(mine, database, order)


# --- a place that takes no writes


@pytest.mark.servers_only
def test_after_a_read_only_transaction_the_session_has_to_roll_back(mine: Session, database: Engine) -> None:
    order = mine.get_one(Order, create(database, Order))
    mine.connection().exec_driver_sql("START TRANSACTION READ ONLY")
    with pytest.raises(NotWritable) as refused:
        order.fire("Ready", mine)

    assert refused.value.code == 1792
    assert_must_roll_back(mine, database, order)


# --- an error that says nothing of the transaction


class Nowhere(DeclarativeBase):
    pass


class Missing(Nowhere):
    """A model whose table nobody creates."""

    __tablename__ = "rules_missing"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)


def test_an_error_of_the_statement_itself_is_sqlalchemys(mine: Session, database: Engine) -> None:
    """It is raised as it is, and the transaction goes on."""
    order = mine.get_one(Order, create(database, Order))
    with pytest.raises(DBAPIError) as error:
        fire_key(Missing, 1, "Ready", mine)

    assert not isinstance(error.value, FireError)
    order.fire("Ready", mine)
    mine.commit()
    assert stored(database, Order, order.id) == "Running"


# --- SQLite


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Engine]:
    """A database that does not wait for its lock."""
    engine = create_engine(f"sqlite:///{tmp_path / 'fsm.db'}", connect_args={"timeout": 0})
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


def test_sqlites_lock_is_a_lock_timeout_and_the_transaction_is_alive(file: Engine) -> None:
    key, other_key = create(file, Order), create(file, Order)
    with Session(file) as session, Session(file) as other:
        fire_key(Order, other_key, "Ready", other)
        with pytest.raises(LockTimeout) as timeout:
            fire_key(Order, key, "Ready", session)
        other.rollback()

        assert "database is locked" in str(timeout.value.__cause__)
        assert fire_key(Order, key, "Ready", session).target == "Running"


def test_sqlites_lock_in_autocommit_is_a_lock_timeout(file: Engine) -> None:
    key = create(file, Order)
    with Session(file.execution_options(isolation_level="AUTOCOMMIT")) as session:
        with Session(file) as other:
            fire_key(Order, key, "Ready", other)
            with pytest.raises(LockTimeout):
                fire_key(Order, key, "Ready", session)

        fire_key(Order, key, "Stop", session)
    assert stored(file, Order, key) == "Stopped"


def test_a_read_only_file_is_not_writable(file: Engine) -> None:
    key = create(file, Order)
    engine = create_engine(f"sqlite:///file:{file.url.database}?mode=ro&uri=true")
    with Session(engine) as session:
        order = session.get_one(Order, key)
        with pytest.raises(NotWritable):
            order.fire("Ready", session)
        with pytest.raises(PendingRollbackError):
            session.commit()
        session.rollback()

        assert order.state == "Initializing"
    engine.dispose()


def test_sqlites_old_snapshot_ends_the_transaction(file: Engine) -> None:
    """In WAL mode a transaction that has read cannot write once somebody else has written."""
    key = create(file, Order)
    engine = file_with_real_transactions(file)
    with Session(engine) as session:
        order = session.get_one(Order, key)
        move(file, Order, key, "Ready")

        # sqlite3 of Python 3.10 does not say that it is the snapshot: it looks like a lock.
        with pytest.raises((TransactionAborted, LockTimeout)) as error:
            order.fire("Ready", session)
        assert (sys.version_info >= (3, 11)) == isinstance(error.value, TransactionAborted)
        session.rollback()

        assert (order.state, order.fire("Stop", session).target) == ("Running", "Stopped")
    engine.dispose()


def file_with_real_transactions(file: Engine) -> Engine:
    """The same file in WAL mode, with the BEGIN that pysqlite leaves out."""
    engine = create_engine(file.url, connect_args={"timeout": 0})

    @event.listens_for(engine, "connect")
    def connected(connection: Any, record: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode = WAL")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine
