"""What an error of the server means for the transaction, in one table, and what follows from it.

SQLAlchemy's session goes on after an error that has ended the transaction on the server (a deadlock, a snapshot
conflict): the next write starts another transaction, and ``commit()`` keeps only the second half of the work. So
:func:`raise_explained` makes the session's connection unusable until ``rollback()``, before the error is raised.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from enum import Enum, auto
from typing import Any, NoReturn

from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, StatementError

from ..databases import has_server
from ..databases.messages import REFUSED, read_message, refusal_in
from ..databases.sqlite.errors import is_sqlite_error
from ..databases.transactions import is_autocommit
from ..errors import FireError, LockTimeout, NotWritable, OutcomeUnknown, RefusedByDatabase, TransactionAborted
from ..errors.texts import row_label, shown
from .notes import current_notes, notes_of

__all__ = [
    "Meaning",
    "ended_by",
    "error_code",
    "is_unsure_at_commit",
    "meaning",
    "note_fire",
    "raise_explained",
]


class Meaning(Enum):
    """What an error says of the transaction it happened in."""

    ABORTED = auto()  # the server has rolled the whole transaction back; the same work may succeed
    LOCK_TIMEOUT = auto()  # this statement failed, the transaction is alive
    NOT_WRITABLE = auto()  # nothing can be committed here
    REFUSED = auto()  # a trigger of ours refused this statement, the transaction is alive
    LOST = auto()  # the connection is gone, and the transaction with it, unless COMMIT was sent
    VALUE = auto()  # a value that was given does not fit its column; the transaction is alive
    UNRELATED = auto()  # a statement's own fault (a constraint, a missing table): SQLAlchemy's error tells


# MySQL: https://dev.mysql.com/doc/mysql-errors/9.4/en/server-error-reference.html
# MariaDB: https://mariadb.com/kb/en/mariadb-error-code-reference/
_CODES: dict[int, Meaning] = {
    1213: Meaning.ABORTED,  # deadlock; at COMMIT on Galera: certification failed
    1020: Meaning.ABORTED,  # MariaDB: record has changed since the snapshot
    1053: Meaning.ABORTED,  # MySQL: server shutdown in progress; COMMIT included, which has then done nothing
    1206: Meaning.ABORTED,  # the lock table is full: InnoDB rolls back all of the transaction, as for a deadlock
    1402: Meaning.ABORTED,  # XA: branch was rolled back
    1613: Meaning.ABORTED,  # XA: branch was rolled back, it took too long
    1614: Meaning.ABORTED,  # XA: branch was rolled back, deadlock
    4060: Meaning.ABORTED,  # MariaDB: the transaction was rolled back and cannot be committed
    3101: Meaning.ABORTED,  # Group Replication: certification failed
    8002: Meaning.ABORTED,  # TiDB: SELECT FOR UPDATE conflict
    8005: Meaning.ABORTED,  # TiDB: write conflict
    8022: Meaning.ABORTED,  # TiDB: commit failed, retry
    8028: Meaning.ABORTED,  # TiDB: the table was altered meanwhile
    9007: Meaning.ABORTED,  # TiDB: write conflict
    6002: Meaning.ABORTED,  # OceanBase: transaction was killed, or needs to be rolled back
    6235: Meaning.ABORTED,  # OceanBase: transaction needs to be rolled back
    1205: Meaning.LOCK_TIMEOUT,  # lock wait; see _ends_transaction_on_timeout
    1317: Meaning.LOCK_TIMEOUT,  # KILL QUERY
    1969: Meaning.LOCK_TIMEOUT,  # MariaDB: max_statement_time
    3024: Meaning.LOCK_TIMEOUT,  # MySQL: max_execution_time
    3572: Meaning.LOCK_TIMEOUT,  # NOWAIT
    1290: Meaning.NOT_WRITABLE,  # --read-only
    1836: Meaning.NOT_WRITABLE,  # read-only mode
    1792: Meaning.NOT_WRITABLE,  # READ ONLY transaction
    1874: Meaning.NOT_WRITABLE,  # --innodb-read-only
    1665: Meaning.NOT_WRITABLE,  # binlog_format=STATEMENT under READ COMMITTED
    1047: Meaning.NOT_WRITABLE,  # Galera: node without quorum
    3100: Meaning.NOT_WRITABLE,  # Group Replication, at COMMIT: member without majority
    3796: Meaning.NOT_WRITABLE,  # Group Replication: a member that is not in the group
    3797: Meaning.NOT_WRITABLE,  # Group Replication: waiting for the others' transactions, before any of our own
    3798: Meaning.NOT_WRITABLE,  # Group Replication: the same, with 'AFTER'
    3799: Meaning.NOT_WRITABLE,  # Group Replication: the plugin is stopping
    REFUSED: Meaning.REFUSED,  # our own number, of SIGNAL
    1048: Meaning.VALUE,  # cannot be NULL
    1264: Meaning.VALUE,  # out of range
    1265: Meaning.VALUE,  # truncated
    1267: Meaning.VALUE,  # illegal mix of collations: a character that the column's set does not have
    1292: Meaning.VALUE,  # incorrect value of its type
    1300: Meaning.VALUE,  # invalid character string
    1366: Meaning.VALUE,  # incorrect value of its type
    1406: Meaning.VALUE,  # too long
    1690: Meaning.VALUE,  # out of range within an expression
    3140: Meaning.VALUE,  # MySQL: invalid JSON
    3854: Meaning.VALUE,  # MySQL: cannot be converted to the column's character set
    3988: Meaning.VALUE,  # MySQL: cannot be converted to the column's character set
    4078: Meaning.VALUE,  # MariaDB: parameter types that the operation does not take, as text for a UUID
    4079: Meaning.VALUE,  # MariaDB: the same of one parameter
    2006: Meaning.LOST,
    2013: Meaning.LOST,
    2026: Meaning.LOST,  # TLS, as MariaDB's client library says of a connection that was cut
    2027: Meaning.LOST,  # an answer that the client cannot read: the next one would be read in its place
    2055: Meaning.LOST,
    1158: Meaning.LOST,  # the server could not read from, or write to, the connection, and closes it
    1159: Meaning.LOST,
    1160: Meaning.LOST,
    1161: Meaning.LOST,
    3032: Meaning.LOST,  # MySQL: offline mode
    3168: Meaning.LOST,  # MySQL: the server is not available
    1927: Meaning.LOST,  # MariaDB: connection was killed
    3169: Meaning.LOST,  # MySQL: session was killed
    4031: Meaning.LOST,  # MySQL: disconnected because of inactivity
    8501: Meaning.LOST,  # TiDB: result undetermined
}

# SQLite's extended result codes: https://www.sqlite.org/rescode.html
_SQLITE_NAMES: dict[str, Meaning] = {
    "SQLITE_BUSY_SNAPSHOT": Meaning.ABORTED,
    "SQLITE_BUSY": Meaning.LOCK_TIMEOUT,
    "SQLITE_BUSY_TIMEOUT": Meaning.LOCK_TIMEOUT,
    "SQLITE_BUSY_RECOVERY": Meaning.LOCK_TIMEOUT,
    "SQLITE_LOCKED": Meaning.LOCK_TIMEOUT,
    "SQLITE_LOCKED_SHAREDCACHE": Meaning.LOCK_TIMEOUT,
    "SQLITE_READONLY": Meaning.NOT_WRITABLE,
    "SQLITE_READONLY_DBMOVED": Meaning.NOT_WRITABLE,
    "SQLITE_READONLY_DIRECTORY": Meaning.NOT_WRITABLE,
}
# sqlite3 names its errors from Python 3.11 on; before, the message has to do.
_SQLITE_MESSAGES: dict[str, Meaning] = {
    "database is locked": Meaning.LOCK_TIMEOUT,
    "database table is locked": Meaning.LOCK_TIMEOUT,
    "attempt to write a readonly database": Meaning.NOT_WRITABLE,
}

_BY_TRIGGER = "SQLITE_CONSTRAINT_TRIGGER"

# MySQL Connector/Python, asked for a cursor of a connection that it has lost; SQLAlchemy expects a full stop behind it.
_NO_NUMBER, _NOT_CONNECTED = -1, "MySQL Connection not available"

# The node lost the others, perhaps in the middle of the COMMIT: they may have it, and go on without this node.
_UNSURE_AT_COMMIT = frozenset({1047, 3100, 1180})

# mysqlclient and PyMySQL, of a float that is nan or inf.
_NOT_FINITE = "can not be used with MySQL"
_SAVEPOINT_GONE = 1305
_LOCK_WAIT = 1205
_COMMIT_FAILED = 1180
_UNKNOWN_ERROR = 1105
# Vitess tells of a transaction that it has ended by its own words: of the transaction killer's, and of a primary lost.
_ENDED_BY_VITESS = ("code = Aborted", "VT15001", "VT09032")
_CHECK_FAILED = 4025


def error_code(error: BaseException | None) -> int | None:
    """The server's error number, whichever driver reports it; None when there is none."""
    driver = error.orig if isinstance(error, DBAPIError) else error
    if driver is None:
        return None
    for code in (getattr(driver, "errno", None), getattr(driver, "sqlite_errorcode", None), *driver.args[:1]):
        if isinstance(code, int) and not isinstance(code, bool):
            return code
    return None


def meaning(error: BaseException) -> Meaning:
    """What *error*, one of SQLAlchemy's around a driver's, says of the transaction."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return Meaning.LOST
    code = error_code(error)
    if code == _SAVEPOINT_GONE:  # the savepoint went with the transaction: an earlier error says why
        earlier = (meaning(cause) for cause in _earlier(error))
        found = next((found for found in earlier if found is not Meaning.UNRELATED), Meaning.UNRELATED)
        return Meaning.ABORTED if found is Meaning.LOCK_TIMEOUT else found  # innodb_rollback_on_timeout
    return _meaning_of_driver(error.orig if isinstance(error, DBAPIError) else error, code)


def is_unsure_at_commit(error: BaseException) -> bool:
    """Whether *error*, raised by COMMIT or by a statement in AUTOCOMMIT, leaves open what became of the transaction.

    Measured on Galera 10.11 with a node cut off: of 16 COMMITs that ended by 1180, 5 had applied on the other nodes.
    """
    found = meaning(error)
    is_from_a_node = error_code(error) in _UNSURE_AT_COMMIT and found is not Meaning.ABORTED
    return found is Meaning.LOST or is_from_a_node


def _meaning_of_driver(driver: BaseException | None, code: int | None) -> Meaning:
    message = str(driver)
    if code == _COMMIT_FAILED:  # wraps another error's number: 149 is Group Replication's certification
        return Meaning.ABORTED if "149" in message else Meaning.NOT_WRITABLE
    if code == _UNKNOWN_ERROR and any(words in message for words in _ENDED_BY_VITESS):
        return Meaning.ABORTED
    if code == _CHECK_FAILED:  # one that MariaDB has named by its column: of JSON, or of an undeclared state
        return Meaning.VALUE if "." in message.partition("` failed")[0] else Meaning.UNRELATED
    name = getattr(driver, "sqlite_errorname", None)
    if name is not None or (driver is not None and is_sqlite_error(driver)):
        return _sqlite_meaning(name, message)
    if code in (None, _NO_NUMBER):
        return Meaning.LOST if message.startswith(_NOT_CONNECTED) else Meaning.UNRELATED
    return _CODES.get(code, Meaning.UNRELATED)


def _sqlite_meaning(name: str | None, message: str) -> Meaning:
    if name in (None, _BY_TRIGGER) and read_message(message) is not None:
        return Meaning.REFUSED
    return _SQLITE_NAMES.get(str(name)) or _SQLITE_MESSAGES.get(message, Meaning.UNRELATED)


def _earlier(error: BaseException) -> Iterator[BaseException]:
    """What was being handled when *error* came up, as far back as it goes."""
    seen = {id(error)}
    pending = [error.__cause__, error.__context__]
    while pending:
        earlier = pending.pop()
        if earlier is None or id(earlier) in seen:
            continue
        seen.add(id(earlier))
        pending += [earlier.__cause__, earlier.__context__]
        if error_code(earlier) != _SAVEPOINT_GONE:
            yield earlier


@event.listens_for(Engine, "handle_error")
def _tell_of_triggers(context: ExceptionContext) -> RefusedByDatabase | None:
    """Have :class:`RefusedByDatabase` raised to whoever sent the statement: a flush, too, and one's own statement."""
    error = context.sqlalchemy_exception
    return refusal_in(error) if isinstance(error, DBAPIError) else None


@event.listens_for(Engine, "handle_error")
def _let_go_of_half_an_answer(context: ExceptionContext) -> None:
    """Give up a connection on which an exception that is not the driver's own has left an answer unread.

    A signal handler's exception, for instance (Celery's SoftTimeLimitExceeded, RQ's JobTimeoutException), or PyMySQL's
    of an answer that it cannot decode: the next statement would read the answer of this one. SQLAlchemy gives up the
    connection for KeyboardInterrupt and the like alone. This is so for every engine, because the next fire may be on
    any connection of a pool.
    """
    error = context.original_exception
    if context.connection is None or isinstance(error, (context.dialect.loaded_dbapi.Error, SQLAlchemyError)):
        return
    if not has_server(context.dialect) or not _was_sent(error, context):
        return
    context.is_disconnect, context.invalidate_pool_on_disconnect = True, False


# What the drivers call the functions that put the parameters into a statement, before any of it is sent.
_PREPARING = ("mogrify", "escape", "literal")
# What SQLAlchemy calls the functions that hand a statement to the driver, and those that fetch its answer.
_DRIVING = ("do_", "fetch", "_fetch")


def _was_sent(error: BaseException, context: ExceptionContext) -> bool:
    """Whether the statement may have been on its way when *error* came up."""
    if context.statement is not None and context.execution_context is None:  # its parameters are being bound
        return False
    names = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
    if not any(name.startswith(_DRIVING) for name in names):  # a listener of before_cursor_execute, for instance
        return False
    return not any(part in name for name in names for part in _PREPARING)


@event.listens_for(Engine, "handle_error")
def _refuse_half_a_transaction(context: ExceptionContext) -> None:
    """After an error that has ended the transaction, refuse the rest of it, whatever statement learned of it.

    Only where something was fired in the transaction, or is fired later: what an application does on its other
    connections after a deadlock is its own matter.
    """
    connection, error = context.connection, context.sqlalchemy_exception
    if connection is None or connection.invalidated or not isinstance(error, DBAPIError):
        return
    if not connection.in_transaction() or is_autocommit(connection):
        return
    found = Meaning.LOST if context.is_disconnect else meaning(error)
    if found not in (Meaning.ABORTED, Meaning.LOST) and error_code(error) != _LOCK_WAIT:
        return
    notes = notes_of(connection)
    if notes.ended_by is None or error_code(notes.ended_by) == _LOCK_WAIT:
        notes.ended_by = error
    if notes.has_fired and ended_by(connection) is not None:
        # To set is_disconnect would do it, too, and the error would then read as a lost connection.
        connection.invalidate()


def ended_by(connection: Connection) -> DBAPIError | None:
    """The error after which nothing is left of the transaction that *connection* is in; None while it is alive."""
    notes = current_notes(connection)
    if notes is None or notes.ended_by is None:
        return None
    # On an invalidated connection nothing can be asked; it was, when the error came.
    is_suspect = error_code(notes.ended_by) == _LOCK_WAIT and not connection.invalidated
    if is_suspect and not _ends_transaction_on_timeout(connection):
        notes.ended_by = None
    return notes.ended_by


def note_fire(connection: Connection) -> DBAPIError | None:
    """Note that something is fired on *connection*; the error that has ended its transaction already, if one has.

    Nobody has rolled back since, so the fire must not begin another transaction: give the error to
    :func:`raise_explained`.
    """
    notes = notes_of(connection)
    if notes.has_fired:
        return None
    notes.has_fired = True
    if notes.ended_by is None or connection.invalidated:  # SQLAlchemy refuses what is sent on an invalidated one
        return None
    return ended_by(connection)


def raise_explained(
    error: StatementError | RefusedByDatabase, connection: Connection | Engine, *, in_flush: bool = False, **row: Any
) -> NoReturn:
    """Raise our error for *error*, raised by a statement on *connection*; *error* itself if it is about something else.

    A value that does not fit its column is a ``ValueError`` or ``TypeError``.

    *row* says what was fired, as keywords of :class:`FireError`. When the transaction is gone, so is the connection:
    whatever the session tries before ``rollback()`` raises ``PendingRollbackError``. An engine stands for a connection
    that the session has rolled back already. *in_flush* is whether a flush raised the error: it has been rolled back.
    """
    refused = refusal_in(error)
    if refused is not None:
        raise refused.on(**row) from (error.__cause__ if refused is error else error)
    assert isinstance(error, StatementError)
    ours = _unfit(error, row) or (_explained(error, connection, row) if isinstance(error, DBAPIError) else None)
    if ours is None:
        raise error
    if in_flush and isinstance(ours, LockTimeout):
        ours = LockTimeout(code=ours.code, rolled_back=True, **row)
    raise ours from error


def _unfit(error: StatementError, row: Mapping[str, Any]) -> ValueError | TypeError | None:
    """What says that a value was given that its column cannot hold, without the value."""
    kind = TypeError if isinstance(error.orig, TypeError) else ValueError
    if isinstance(error, DBAPIError):
        if meaning(error) is not Meaning.VALUE and _NOT_FINITE not in str(error.orig):
            return None
        code = error_code(error)
        why = f"the database cannot hold a value that was given (error {code})"
    elif isinstance(error.orig, (TypeError, ValueError)):
        why = f"a value that was given cannot be bound ({type(error.orig).__name__})"
    else:
        return None
    table, key = row.get("table"), row.get("key")
    label = "" if table is None else f"{row_label(table, key)}: "
    return kind(f"{label}{why}; nothing moved by {shown(row.get('event'))}.")


def _explained(error: DBAPIError, connection: Connection | Engine, row: Mapping[str, Any]) -> FireError | None:
    found, code = meaning(error), error_code(error)
    if found is Meaning.LOCK_TIMEOUT and code == _LOCK_WAIT and _ends_transaction_on_timeout(connection):
        found = Meaning.ABORTED
    # REFUSED is here one with our number, but not in the words of our triggers.
    if found in (Meaning.UNRELATED, Meaning.REFUSED, Meaning.VALUE):
        return None
    if found is Meaning.LOCK_TIMEOUT:
        return LockTimeout(code=code, **row)
    if is_unsure_at_commit(error) and is_autocommit(connection):
        return OutcomeUnknown(code=code, **row)
    if isinstance(connection, Connection):  # a lost one, too: SQLAlchemy does not know every driver's words for it
        connection.invalidate()
    if found is Meaning.NOT_WRITABLE:
        return NotWritable(code=code, **row)
    return TransactionAborted(code=code, retryable=True, **row)


def _ends_transaction_on_timeout(connection: Connection | Engine) -> bool:
    if isinstance(connection, Engine) or connection.invalidated:
        return False
    try:
        return bool(connection.execute(text("SELECT @@innodb_rollback_on_timeout")).scalar())
    except DBAPIError:
        return False
