"""What each driver error means for the transaction: the whole table, with the drivers' own exceptions, no database."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import pymysql
import pytest
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, PendingRollbackError

from sqlalchemy_fsm_mysql import FireError, LockTimeout, NotWritable, OutcomeUnknown, TransactionAborted
from sqlalchemy_fsm_mysql.core.failures import Meaning, error_code, meaning, raise_explained
from sqlalchemy_fsm_mysql.orm.units import raise_of_commit, raise_of_unit

try:  # it is built from source, which not every machine can
    from MySQLdb import OperationalError as OfMySQLdb
except ImportError:
    OfMySQLdb = pymysql.err.OperationalError

ABORTED = (1213, 1020, 1053, 1206, 1402, 1613, 1614, 3101, 4060, 6002, 6235, 8002, 8005, 8022, 8028, 9007)
LOCK_TIMEOUT = (1205, 1317, 1969, 3024, 3572)
NOT_WRITABLE = (1290, 1665, 1836, 1792, 1874, 1047, 3100, 3796, 3797, 3798, 3799)
LOST = (2006, 2013, 2026, 2027, 2055, 1158, 1159, 1160, 1161, 1927, 3032, 3168, 3169, 4031, 8501)
DUPLICATE = (1022, 1062, 1169, 1586)
VALUE = (1048, 1264, 1265, 1267, 1292, 1300, 1364, 1366, 1406, 1525, 1690, 3140, 3854, 3988, 4078, 4079)
UNRELATED = (1064, 1146, 1305, 3819, 4025)

TABLE = [
    *((code, Meaning.ABORTED) for code in ABORTED),
    *((code, Meaning.LOCK_TIMEOUT) for code in LOCK_TIMEOUT),
    *((code, Meaning.NOT_WRITABLE) for code in NOT_WRITABLE),
    *((code, Meaning.LOST) for code in LOST),
    *((code, Meaning.DUPLICATE) for code in DUPLICATE),
    *((code, Meaning.VALUE) for code in VALUE),
    *((code, Meaning.UNRELATED) for code in UNRELATED),
]
DRIVERS: dict[str, Callable[..., Exception]] = {
    "MySQLdb": OfMySQLdb,
    "pymysql": pymysql.err.OperationalError,
}
each_driver = pytest.mark.parametrize("driver", DRIVERS.values(), ids=DRIVERS)


def wrapped(error: Exception, *, lost: bool = False) -> DBAPIError:
    """*error* as SQLAlchemy raises it."""
    return OperationalError("UPDATE orders", {}, error, connection_invalidated=lost)


def raised_after(first: BaseException, then: DBAPIError) -> DBAPIError:
    """*then*, raised while *first* was being handled."""
    try:
        try:
            raise first
        except type(first):
            raise then  # noqa: B904 - as SQLAlchemy does: what was being handled is __context__ alone
    except DBAPIError as error:
        return error


# --- MySQL and MariaDB


@pytest.mark.parametrize(
    ("constraint", "expected"), [("orders.details", Meaning.VALUE), ("balance_positive", Meaning.UNRELATED)]
)
def test_a_check_that_mariadb_named_by_its_column_is_about_a_value(constraint: str, expected: Meaning) -> None:
    error = wrapped(pymysql.err.OperationalError(4025, f"CONSTRAINT `{constraint}` failed for `shop`.`orders`"))

    assert meaning(error) is expected


@each_driver
@pytest.mark.parametrize(("code", "expected"), TABLE)
def test_each_code_has_its_meaning(driver: Callable[..., Exception], code: int, expected: Meaning) -> None:
    error = wrapped(driver(code, "what the server says"))

    assert (code, expected) == (error_code(error), meaning(error))


@each_driver
def test_an_invalidated_connection_is_lost_whatever_the_code(driver: Callable[..., Exception]) -> None:
    """PyMySQL has (0, '') for a connection that was closed before."""
    assert Meaning.LOST is meaning(wrapped(driver(0, ""), lost=True))


@each_driver
@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Got error 149 - 'Lock deadlock; Retry transaction' during COMMIT", Meaning.ABORTED),
        ('Got error 107 "Not connected to Primary" during COMMIT', Meaning.NOT_WRITABLE),
    ],
)
def test_a_failed_commit_says_in_its_text_why(
    driver: Callable[..., Exception], message: str, expected: Meaning
) -> None:
    assert expected is meaning(wrapped(driver(1180, message)))


@pytest.mark.parametrize("error", [pymysql.err.OperationalError(), OfMySQLdb("no number"), ValueError("x")])
def test_an_error_without_a_number_says_nothing(error: Exception) -> None:
    assert (error_code(error), meaning(error)) == (None, Meaning.UNRELATED)


def test_true_is_no_error_number() -> None:
    assert error_code(OfMySQLdb(True)) is None


def test_no_error_has_no_number() -> None:
    assert error_code(None) is None


# --- the savepoint that went with its transaction


SAVEPOINT_GONE = (1305, "SAVEPOINT sa_savepoint_1 does not exist")


@each_driver
@pytest.mark.parametrize("code", ABORTED)
def test_a_lost_savepoint_means_what_was_being_handled(driver: Callable[..., Exception], code: int) -> None:
    error = raised_after(wrapped(driver(code, "first")), wrapped(driver(*SAVEPOINT_GONE)))

    assert Meaning.ABORTED is meaning(error)


@each_driver
def test_a_lost_savepoint_means_the_first_error_through_several_savepoints(driver: Callable[..., Exception]) -> None:
    inner = raised_after(wrapped(driver(1213, "first")), wrapped(driver(*SAVEPOINT_GONE)))
    outer = raised_after(inner, wrapped(driver(*SAVEPOINT_GONE)))

    assert Meaning.ABORTED is meaning(outer)


@each_driver
def test_a_lost_savepoint_means_the_cause_of_our_own_error(driver: Callable[..., Exception]) -> None:
    ours = TransactionAborted(code=1213, retryable=True)
    ours.__cause__ = wrapped(driver(1213, "first"))

    assert Meaning.ABORTED is meaning(raised_after(ours, wrapped(driver(*SAVEPOINT_GONE))))


@each_driver
def test_a_savepoint_lost_to_a_lock_timeout_means_that_the_transaction_is_gone(
    driver: Callable[..., Exception],
) -> None:
    """As with innodb_rollback_on_timeout; a lock timeout alone would have kept the savepoint."""
    error = raised_after(wrapped(driver(1205, "first")), wrapped(driver(*SAVEPOINT_GONE)))

    assert Meaning.ABORTED is meaning(error)


@each_driver
@pytest.mark.parametrize("first", [None, ValueError("of the caller's"), IntegrityError("INSERT", {}, Exception(1062))])
def test_a_lost_savepoint_without_such_an_error_says_nothing(
    driver: Callable[..., Exception], first: Exception | None
) -> None:
    gone = wrapped(driver(*SAVEPOINT_GONE))

    assert Meaning.UNRELATED is meaning(gone if first is None else raised_after(first, gone))


@each_driver
def test_errors_that_refer_to_each_other_end(driver: Callable[..., Exception]) -> None:
    one, other = wrapped(driver(*SAVEPOINT_GONE)), wrapped(driver(*SAVEPOINT_GONE))
    one.__cause__, other.__cause__ = other, one

    assert Meaning.UNRELATED is meaning(one)


# --- SQLite


def sqlites(name: str | None, message: str) -> DBAPIError:
    """sqlite3's error; before Python 3.11 it has no name."""
    error: Any = sqlite3.OperationalError(message)
    if name is not None:
        error.sqlite_errorname = name
    return wrapped(error)


@pytest.mark.parametrize(
    ("name", "message", "expected"),
    [
        ("SQLITE_BUSY_SNAPSHOT", "database is locked", Meaning.ABORTED),
        ("SQLITE_BUSY", "database is locked", Meaning.LOCK_TIMEOUT),
        ("SQLITE_BUSY_RECOVERY", "database is locked", Meaning.LOCK_TIMEOUT),
        ("SQLITE_BUSY_TIMEOUT", "database is locked", Meaning.LOCK_TIMEOUT),
        ("SQLITE_LOCKED", "database table is locked", Meaning.LOCK_TIMEOUT),
        ("SQLITE_LOCKED_SHAREDCACHE", "database table is locked", Meaning.LOCK_TIMEOUT),
        ("SQLITE_READONLY", "attempt to write a readonly database", Meaning.NOT_WRITABLE),
        ("SQLITE_READONLY_DBMOVED", "attempt to write a readonly database", Meaning.NOT_WRITABLE),
        ("SQLITE_READONLY_DIRECTORY", "attempt to write a readonly database", Meaning.NOT_WRITABLE),
        ("SQLITE_CONSTRAINT_UNIQUE", "UNIQUE constraint failed: t.c", Meaning.DUPLICATE),
        ("SQLITE_CONSTRAINT_PRIMARYKEY", "UNIQUE constraint failed: t.id", Meaning.DUPLICATE),
        ("SQLITE_CONSTRAINT_ROWID", "UNIQUE constraint failed: t.rowid", Meaning.DUPLICATE),
        ("SQLITE_CONSTRAINT_NOTNULL", "NOT NULL constraint failed: t.c", Meaning.VALUE),
        ("SQLITE_CONSTRAINT_FOREIGNKEY", "FOREIGN KEY constraint failed", Meaning.UNRELATED),
        (None, "UNIQUE constraint failed: t.c", Meaning.DUPLICATE),
        (None, "NOT NULL constraint failed: t.c", Meaning.VALUE),
        (None, "FOREIGN KEY constraint failed", Meaning.UNRELATED),
        (None, "database is locked", Meaning.LOCK_TIMEOUT),
        (None, "database table is locked", Meaning.LOCK_TIMEOUT),
        (None, "attempt to write a readonly database", Meaning.NOT_WRITABLE),
        (None, "no such table: orders", Meaning.UNRELATED),
    ],
)
def test_sqlites_errors_mean_what_they_are_named(name: str | None, message: str, expected: Meaning) -> None:
    assert expected is meaning(sqlites(name, message))


# --- what follows


@pytest.fixture
def connection() -> Any:
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")
        yield connection
    engine.dispose()


ROW = {"table": "orders", "key": 42, "event": "Stop"}


def explained(error: DBAPIError, connection: Connection | Engine) -> Exception:
    with pytest.raises((FireError, DBAPIError)) as raised:
        raise_explained(error, connection, **ROW)
    return raised.value


@pytest.mark.parametrize(
    ("code", "kind", "is_usable"),
    [
        (1213, TransactionAborted, False),
        (1317, LockTimeout, True),
        (1792, NotWritable, False),
        (2013, TransactionAborted, False),
    ],
)
def test_the_connection_is_unusable_once_the_transaction_is_gone(
    connection: Connection, code: int, kind: type[FireError], is_usable: bool
) -> None:
    error = wrapped(pymysql.err.OperationalError(code, "what the server says"))
    ours = explained(error, connection)

    assert (kind, error, code) == (type(ours), ours.__cause__, ours.code)  # type: ignore[attr-defined]
    assert is_usable == (not connection.invalidated)
    if not is_usable:
        with pytest.raises(PendingRollbackError):
            connection.exec_driver_sql("SELECT 1")


def test_an_unrelated_error_is_raised_as_it_is(connection: Connection) -> None:
    error = wrapped(pymysql.err.OperationalError(1146, "no such table"))

    assert error is explained(error, connection)
    assert not connection.invalidated


def test_an_engine_stands_for_a_connection_rolled_back_already() -> None:
    engine = create_engine("sqlite://")

    assert isinstance(explained(wrapped(pymysql.err.OperationalError(1213, "")), engine), TransactionAborted)
    assert isinstance(explained(wrapped(pymysql.err.OperationalError(1205, "")), engine), LockTimeout)


def test_a_connection_lost_in_autocommit_leaves_the_outcome_unknown() -> None:
    """The statement was its own COMMIT."""
    engine = create_engine("sqlite://", isolation_level="AUTOCOMMIT")

    assert isinstance(explained(wrapped(pymysql.err.OperationalError(2013, ""), lost=True), engine), OutcomeUnknown)


def test_no_text_of_the_drivers_is_in_ours(connection: Connection) -> None:
    error = OperationalError(
        "UPDATE orders SET secret = %s", {"secret": "hunter2"}, pymysql.err.OperationalError(1213, "x")
    )

    assert str(explained(error, connection)) == (
        "orders 42: the server ended the whole transaction while 'Stop' was fired (error 1213); "
        "roll back and run the whole unit of work again."
    )


@pytest.mark.parametrize("code", [1047, 3100, 1180])
def test_a_node_that_lost_the_others_may_have_committed_in_autocommit(code: int) -> None:
    engine = create_engine("sqlite://", isolation_level="AUTOCOMMIT")
    ours = explained(wrapped(pymysql.err.OperationalError(code, "what the server says")), engine)
    engine.dispose()

    assert isinstance(ours, OutcomeUnknown)


@pytest.mark.parametrize("code", [1047, 3100, 1180])
def test_a_node_that_lost_the_others_may_have_committed(code: int) -> None:
    error = wrapped(pymysql.err.OperationalError(code, "what the server says"))

    with pytest.raises(OutcomeUnknown) as unknown:
        raise_of_commit(error, ["a token"])
    with pytest.raises(NotWritable):
        raise_of_unit(error)
    assert (unknown.value.code, unknown.value.tokens) == (code, ["a token"])


def test_connector_pythons_words_for_a_lost_connection_are_understood() -> None:
    """It gives no number, and SQLAlchemy waits for a full stop that is not there."""

    class ConnectorError(Exception):
        errno = -1

    assert meaning(wrapped(ConnectorError("MySQL Connection not available"))) is Meaning.LOST
    assert meaning(wrapped(ConnectorError("something else"))) is Meaning.UNRELATED


# --- COMMIT, and proxies


@pytest.mark.parametrize("code", [1205, 1317, 1969])
def test_a_commit_that_was_interrupted_has_been_rolled_back(code: int) -> None:
    with pytest.raises(TransactionAborted) as aborted:
        raise_of_commit(wrapped(pymysql.err.OperationalError(code, "what the server says")), [])

    assert (aborted.value.code, aborted.value.retryable) == (code, True)


VITESS = "target: shop.0.primary: vttablet: rpc error: code = {} desc = transaction 1: {}"


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        (1105, VITESS.format("Aborted", "ended at 12:00 (exceeded timeout: 20s)"), TransactionAborted),
        (1105, VITESS.format("Unavailable", "connection reset"), OutcomeUnknown),
        (1317, VITESS.format("DeadlineExceeded", "context deadline exceeded"), OutcomeUnknown),
        (1105, "VT15001: transaction error, issue ROLLBACK", TransactionAborted),
        (1105, "something else", DBAPIError),
    ],
)
def test_a_commit_through_vitess_is_known_by_its_words(code: int, message: str, expected: type[Exception]) -> None:
    with pytest.raises(expected):
        raise_of_commit(wrapped(pymysql.err.OperationalError(code, message)), ["a token"])
