"""The consequences of a server's error: what follows from its meaning, which :mod:`..databases.meanings` knows.

SQLAlchemy's session goes on after an error that has ended the transaction on the server (a deadlock, a snapshot
conflict): the next write starts another transaction, and ``commit()`` keeps only the second half of the work. So
:func:`raise_explained` makes the session's connection unusable until ``rollback()``, before the error is raised.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from sqlalchemy import Connection, Engine, inspect
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, StatementError

from ..databases import database_of, ends_on_any_error, errors_of, has_server
from ..databases.meanings import Cause, Meaning
from ..databases.messages import refusal_in
from ..databases.transactions import is_autocommit
from ..errors import (
    FireError,
    LockTimeout,
    NotWritable,
    OutcomeUnknown,
    RefusedByDatabase,
    RowFailed,
    TransactionAborted,
    UniqueViolation,
)
from ..errors.texts import row_label, shown
from .notes import current_notes, notes_of

__all__ = [
    "Cause",
    "Meaning",
    "ended_by",
    "error_code",
    "give_up_unheard",
    "is_due_to",
    "is_of_a_row",
    "is_unreachable",
    "is_unsure_at_commit",
    "meaning",
    "note_fire",
    "raise_explained",
    "row_failed",
]


# Errors of one statement: the transaction goes on.
_OF_THE_STATEMENT = (Meaning.REFUSED, Meaning.DUPLICATE, Meaning.VALUE, Meaning.UNRELATED)


def error_code(error: BaseException | None) -> int | None:
    """The server's error number, whichever driver reports it; None when there is none."""
    driver = error.orig if isinstance(error, DBAPIError) else error
    if driver is None:
        return None
    for code in (getattr(driver, "errno", None), getattr(driver, "sqlite_errorcode", None), *driver.args[:1]):
        if isinstance(code, int) and not isinstance(code, bool):
            return code
    return None


def is_due_to(error: BaseException | None, cause: Cause) -> bool:
    """Whether *error*, one of SQLAlchemy's around a driver's, is the database's error for *cause*."""
    driver = error.orig if isinstance(error, DBAPIError) else error
    code = error_code(driver)
    return code is not None and code in errors_of(driver).causes.get(cause, ())


def meaning(error: BaseException) -> Meaning:
    """The meaning of *error*, one of SQLAlchemy's around a driver's, for the transaction."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return Meaning.LOST
    if is_due_to(error, Cause.SAVEPOINT_GONE):
        # A savepoint ends with its transaction, and this error does not say why that ended. An earlier error does.
        earlier = (meaning(cause) for cause in _earlier(error))
        cause = next((one for one in earlier if one not in _OF_THE_STATEMENT), Meaning.UNRELATED)
        # A lock timeout ends a transaction only under innodb_rollback_on_timeout.
        return Meaning.ABORTED if cause is Meaning.LOCK_TIMEOUT else cause
    driver = error.orig if isinstance(error, DBAPIError) else error
    return errors_of(driver).of(driver, error_code(driver))


def is_unsure_at_commit(error: BaseException) -> bool:
    """Whether *error*, raised by COMMIT or by a statement in AUTOCOMMIT, leaves open what became of the transaction.

    Measured on Galera 10.11 with a node cut off: of 16 COMMITs that ended by 1180, 5 had applied on the other nodes.
    """
    meant = meaning(error)
    is_from_a_node = is_due_to(error, Cause.UNSURE_AT_COMMIT) and meant is not Meaning.ABORTED
    return meant is Meaning.LOST or is_from_a_node


def is_of_a_row(error: BaseException) -> bool:
    """Whether *error* may be due to the values of one row, so that the statement may succeed on other rows."""
    if isinstance(error, RefusedByDatabase):
        return True
    if not isinstance(error, DBAPIError) or meaning(error) not in _OF_THE_STATEMENT:
        return False
    return not errors_of(error.orig).is_of_every_row(error.orig, error_code(error))


def is_unreachable(error: DBAPIError) -> bool:
    """Whether *error* says that the server is down, or accepts no connection for now."""
    return errors_of(error.orig).is_unreachable(error.orig, error_code(error))


def row_failed(error: Exception, **row: Any) -> FireError:
    """Our error for *error*, which :func:`is_of_a_row`; *row* names the row, as keywords of :class:`RowFailed`."""
    refused = refusal_in(error)
    ours: FireError
    if refused is not None:
        ours = refused.on(**row)
    else:
        kind = UniqueViolation if meaning(error) is Meaning.DUPLICATE else RowFailed
        ours = kind(code=error_code(error), **row)
    ours.__cause__ = error.__cause__ if refused is error else error
    return ours


def _earlier(error: BaseException) -> Iterator[BaseException]:
    """The exceptions that were being handled when *error* came up, as far back as they go."""
    seen = {id(error)}
    pending = [error.__cause__, error.__context__]
    while pending:
        earlier = pending.pop()
        if earlier is None or id(earlier) in seen:
            continue
        seen.add(id(earlier))
        pending += [earlier.__cause__, earlier.__context__]
        if not is_due_to(earlier, Cause.SAVEPOINT_GONE):
            yield earlier


def error_met(context: ExceptionContext) -> RefusedByDatabase | None:
    """Do what follows from any error that an engine has met, and return the error to raise in its place, or None."""
    refused = _refused_by_database(context)
    _invalidate_after_unread_answer(context)
    _refuse_half_a_transaction(context)
    return refused


def _refused_by_database(context: ExceptionContext) -> RefusedByDatabase | None:
    """The error that SQLAlchemy raises when a trigger of ours refuses any statement: a fire's, a flush's, or another.

    None leaves SQLAlchemy's own error in place.
    """
    error = context.sqlalchemy_exception
    return refusal_in(error) if isinstance(error, DBAPIError) else None


def _invalidate_after_unread_answer(context: ExceptionContext) -> None:
    """Invalidate a connection when an exception that is not the driver's own left an answer unread on it.

    The next statement on the connection would read that answer. Such exceptions come from signal handlers (Celery's
    SoftTimeLimitExceeded, RQ's JobTimeoutException), or from PyMySQL when it cannot decode an answer. SQLAlchemy itself
    invalidates the connection only for KeyboardInterrupt and other exceptions that are no Exception. The listener is on
    every engine, because the next fire may use any connection of a pool.
    """
    error = context.original_exception
    if context.connection is None or isinstance(error, (context.dialect.loaded_dbapi.Error, SQLAlchemyError)):
        return
    if not has_server(context.dialect) or not _was_sent(error, context):
        return
    context.is_disconnect, context.invalidate_pool_on_disconnect = True, False


def give_up_unheard(interruption: BaseException, connection: Connection) -> None:
    """Invalidate *connection* where *interruption* has kept SQLAlchemy from hearing of the driver's error.

    A driver in C (mysqlclient) runs signal handlers only after its call. When the call has failed, such an exception
    comes in the place of the error, which may have ended the transaction, as a deadlock does.
    """
    error = interruption.__context__
    is_unheard = isinstance(error, connection.dialect.loaded_dbapi.Error) and interruption.__cause__ is not error
    if is_unheard and not connection.closed and not connection.invalidated:
        connection.invalidate()


# Parts of the names of drivers' functions that put parameters into a statement, before any of it is sent.
_PREPARING = ("mogrify", "escape", "literal")
# How the names begin of SQLAlchemy's functions that hand a statement to the driver, and that fetch its answer.
_DRIVING = ("do_", "fetch", "_fetch")


def _was_sent(error: BaseException, context: ExceptionContext) -> bool:
    """Whether the statement may have been on its way when *error* came up."""
    if context.statement is not None and context.execution_context is None:  # its parameters are being bound
        return False
    # No driver reports whether it has sent the statement, so the traceback decides by the functions that it shows.
    names = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
    if not any(name.startswith(_DRIVING) for name in names):  # a listener of before_cursor_execute, for instance
        return False
    return not any(part in name for name in names for part in _PREPARING)


def _refuse_half_a_transaction(context: ExceptionContext) -> None:
    """Invalidate the connection after an error that ended a transaction with a fire in it, whichever statement failed.

    A transaction without a fire is only noted, because the application may do what it likes there; a later fire in it
    reads the note.
    """
    connection, error = context.connection, context.sqlalchemy_exception
    if connection is None or connection.invalidated or not isinstance(error, DBAPIError):
        return
    if not connection.in_transaction() or is_autocommit(connection):
        return
    meant = Meaning.LOST if context.is_disconnect else meaning(error)
    if meant not in (Meaning.ABORTED, Meaning.LOST) and not is_due_to(error, Cause.LOCK_WAIT):
        if is_ended_by_any_error(connection):
            _give_up(connection, context)
        return
    notes = notes_of(connection)
    if notes.ended_by is None or is_due_to(notes.ended_by, Cause.LOCK_WAIT):
        notes.ended_by = error
    if notes.has_fired and ended_by(connection) is not None:
        # context.is_disconnect would invalidate it, too, but SQLAlchemy would report a lost connection.
        _give_up(connection, context)


def _give_up(connection: Connection, context: ExceptionContext) -> None:
    """Close the cursor of the statement that failed, and invalidate *connection*.

    SQLAlchemy closes the cursor later, and logs an error with its traceback where a driver (mysqlclient) refuses to
    close a cursor of a closed connection.
    """
    cursor = getattr(context.execution_context, "cursor", None)
    if cursor is not None:
        connection._safe_close_cursor(cursor)  # noqa: SLF001 - as SQLAlchemy does later
    connection.invalidate()


def is_ended_by_any_error(connection: Connection) -> bool:
    """Whether a statement that failed on *connection* has ended a transaction with a fire in it, as on PostgreSQL.

    Its COMMIT would roll back, and report no error. In a savepoint the error ends only what follows the savepoint:
    who goes on without a rollback to it gets an error from the next statement, RELEASE included.
    """
    notes = current_notes(connection)
    if notes is None or not notes.has_fired or notes.savepoints or connection.in_nested_transaction():
        return False
    return ends_on_any_error(connection)


def ended_by(connection: Connection) -> DBAPIError | None:
    """The error after which nothing is left of the transaction that *connection* is in; None while it is alive."""
    notes = current_notes(connection)
    if notes is None or notes.ended_by is None:
        return None
    # An invalidated connection takes no query; the question was settled when it was invalidated.
    is_suspect = is_due_to(notes.ended_by, Cause.LOCK_WAIT) and not connection.invalidated
    if is_suspect and not database_of(connection).transactions.ends_on_lock_wait(connection):
        notes.ended_by = None
    return notes.ended_by


def note_fire(connection: Connection) -> DBAPIError | None:
    """Note a fire on *connection*, and return the error that has already ended its transaction; None when it is alive.

    No rollback has followed such an error, so the fire must not begin another transaction: the caller gives the error
    to :func:`raise_explained`.
    """
    notes = notes_of(connection)
    if notes.has_fired:
        return None
    notes.has_fired = True
    if notes.ended_by is None or connection.invalidated:  # SQLAlchemy raises for an invalidated one
        return None
    return ended_by(connection)


def raise_explained(
    error: StatementError | RefusedByDatabase,
    connection: Connection | Engine,
    *,
    in_flush: bool = False,
    has_moved: bool = False,
    token: str | None = None,
    **row: Any,
) -> NoReturn:
    """Raise our error for *error*, raised by a statement on *connection*; *error* itself if it is about something else.

    A value that does not fit its column is a ``ValueError`` or ``TypeError``.

    *row* names the fire, as keywords of :class:`FireError`. An error that ended the transaction invalidates
    *connection*, so anything that the session does before ``rollback()`` raises ``PendingRollbackError``. An engine
    stands for a connection that the session has rolled back already. *in_flush* is whether a flush raised the error and
    was rolled back. *has_moved* is whether the row has moved, so that a hook's own statement raised the error. *token*
    is that of the fire, for OutcomeUnknown. SQLAlchemy's error is kept for wrong values of a flush or of a hook's
    statement.
    """
    refused = refusal_in(error)
    if refused is not None:
        raise refused.on(**row) from (error.__cause__ if refused is error else error)
    assert isinstance(error, StatementError)
    if isinstance(error, DBAPIError) and isinstance(connection, Connection) and is_ended_by_any_error(connection):
        connection.invalidate()
    ours: Exception | None = None if has_moved else _unfit(error, row)
    if ours is None and isinstance(error, DBAPIError):
        is_foreign = (in_flush or has_moved) and meaning(error) is Meaning.DUPLICATE
        ours = None if is_foreign else _explained(error, connection, row)
    if ours is None:
        raise error
    if in_flush and isinstance(ours, LockTimeout):
        ours = LockTimeout(code=ours.code, rolled_back=True, **row)
    if token is not None and isinstance(ours, OutcomeUnknown):
        ours = OutcomeUnknown(code=ours.code, token=token, **row)
    raise ours from error


def _unfit(error: StatementError, row: Mapping[str, Any]) -> ValueError | TypeError | None:
    """The error for a value that the database cannot take; it does not show the value."""
    cause = error.orig
    # A SQLAlchemy type often fails on a value of another type by a missing attribute.
    kind = TypeError if isinstance(cause, (TypeError, AttributeError)) else ValueError
    if isinstance(error, DBAPIError):
        if meaning(error) is not Meaning.VALUE:
            return None
        code = error_code(error)
        number = "" if code is None else f" (error {code})"
        why = errors_of(cause).misfit(cause, code, _columns_beside(row.get("model"))) + number
    elif cause is not None and not isinstance(cause, SQLAlchemyError):  # raised by a type that bound the value
        why = f"a value that was given cannot be bound ({type(cause).__name__})"
    else:
        return None
    table, key = row.get("table"), row.get("key")
    label = "" if table is None else f"{row_label(table, key)}: "
    return kind(f"{label}{why}; nothing moved by {shown(row.get('event'))}.")


def _columns_beside(model: object) -> Iterator[str]:
    """The names of all columns that are declared beside those of *model*: what failed may be a row of another table."""
    mapper = inspect(model, raiseerr=False)
    for table in getattr(mapper, "tables", ()):
        for declared in table.metadata.tables.values():
            yield from (str(column.name) for column in declared.c)


def _explained(error: DBAPIError, connection: Connection | Engine, row: Mapping[str, Any]) -> FireError | None:
    """Our error for *error*; None when SQLAlchemy's own says all. Invalidates a connection without a transaction."""
    meant, code = meaning(error), error_code(error)
    if is_due_to(error, Cause.LOCK_WAIT) and _ends_on_lock_wait(connection):
        meant = Meaning.ABORTED
    # raise_explained() has taken out the refusals of our triggers. REFUSED that is left is another trigger's use of
    # our error number.
    if meant in (Meaning.UNRELATED, Meaning.REFUSED, Meaning.VALUE):
        return None
    if meant is Meaning.LOCK_TIMEOUT:
        return LockTimeout(code=code, **row)
    if meant is Meaning.DUPLICATE:
        return UniqueViolation(code=code, **row)
    if is_unsure_at_commit(error) and is_autocommit(connection):
        return OutcomeUnknown(code=code, **row)
    # Also a lost connection: SQLAlchemy does not recognise every driver's message for one.
    if isinstance(connection, Connection):
        connection.invalidate()
    if meant is Meaning.NOT_WRITABLE:
        return NotWritable(code=code, **row)
    return TransactionAborted(code=code, retryable=True, **row)


def _ends_on_lock_wait(connection: Connection | Engine) -> bool:
    if isinstance(connection, Engine) or connection.invalidated:
        return False
    return database_of(connection).transactions.ends_on_lock_wait(connection)
