"""Units of work: each runs in its own transaction, and runs again as a whole when the server has ended that.

A single statement is never repeated, because a deadlock rolls back the earlier statements of the transaction as well.
"""

from __future__ import annotations

import functools
import inspect as python
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, overload

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.orm import Session

from ..core.failures import Meaning, ended_by, error_code, is_unsure_at_commit, meaning
from ..core.notes import current_notes
from ..errors import FSMError, NotWritable, OutcomeUnknown, TransactionAborted
from ..errors.texts import shown
from .awaited import Later
from .journal import connections_of, journal_of

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
    from sqlalchemy.orm import sessionmaker

__all__ = ["run_transaction"]

R = TypeVar("R")
S = TypeVar("S", "Session", "AsyncSession")

# Seconds. The first wait is about as long as the other transaction of a deadlock needs to commit.
_WAIT_INITIAL, _WAIT_MAX, _WAIT_JITTER = 0.005, 1.0, 0.05
_SHORTEST = 1e-6  # to stamina, a timeout of 0 is no limit
# In Vitess's messages of a call between its own servers, which may have been cut off in the middle of the COMMIT.
_BETWEEN_SERVERS = "rpc error"


@overload
def run_transaction(
    session_factory: AsyncEngine,
    work: Callable[[AsyncConnection], Awaitable[R]],
    *,
    attempts: int = ...,
    timeout: float | None = ...,
    idempotent: bool = ...,
) -> Later[R]: ...
@overload
def run_transaction(
    session_factory: Engine,
    work: Callable[[Connection], R],
    *,
    attempts: int = ...,
    timeout: float | None = ...,
    idempotent: bool = ...,
) -> R: ...
@overload
def run_transaction(
    session_factory: async_sessionmaker[Any],  # Any: an AsyncSession, or a class made of it
    work: Callable[[AsyncSession], Awaitable[R]],
    *,
    attempts: int = ...,
    timeout: float | None = ...,
    idempotent: bool = ...,
) -> Later[R]: ...
@overload
def run_transaction(
    session_factory: sessionmaker[Any] | Callable[[], Session],  # Any: a Session, or a class made of it
    work: Callable[[Session], R],
    *,
    attempts: int = ...,
    timeout: float | None = ...,
    idempotent: bool = ...,
) -> R: ...
def run_transaction(
    session_factory: Any,
    work: Callable[[Any], Any],
    *,
    attempts: int = 5,
    timeout: float | None = None,
    idempotent: bool = False,
) -> Any:
    """Run ``work(session)`` in a new session and commit. Run it again if the server has ended the transaction.

    Returns: the result of *work*.

    The server ends a transaction by a deadlock, a snapshot conflict, a failed certification, or a connection that is
    lost before COMMIT. Then the whole unit of work runs again in another new session, at most *attempts* times in
    *timeout* seconds. Between attempts it waits, with the jittered exponential back-off of stamina, whose
    instrumentation and testing mode apply. The whole of *work* runs again, even its effects outside of the database.

    *session_factory* is a ``sessionmaker``, or an ``async_sessionmaker`` with an async *work*: then await the call.
    With an ``Engine``, *work* gets a Core ``Connection`` (with an ``AsyncEngine``, an ``AsyncConnection``). After a
    COMMIT of unknown outcome, the work only runs again if it is *idempotent*, for instance by tokens.

    Raises: TransactionAborted after the last attempt; OutcomeUnknown with the tokens that were fired; NotWritable;
    TypeError when *session_factory* makes no sessions, or a session that is in a transaction already; ValueError for
    *attempts* below 1 and a *timeout* below 0; and any error of *work*.
    """
    if not callable(session_factory) and not _is_engine(session_factory):
        given = shown(session_factory)
        raise TypeError(f"a unit of work opens its own session: give a sessionmaker or an engine, not {given}")
    _check_arguments(work, attempts, timeout)
    again = _Again(session_factory, work, attempts, timeout, idempotent)
    if _is_async(session_factory, work):
        return again.run_async()
    try:
        return _attempt(session_factory, work)
    except Exception as error:
        if not again.is_worth_it(error):
            raise
        failed = error
    # Outside of the except block, so that a later error does not have this one as its __context__.
    return again.after(failed)


def _check_arguments(work: Any, attempts: Any, timeout: Any) -> None:
    """Refuse now what else would be found after the first deadlock.

    Raises: TypeError, ValueError.
    """
    if not callable(work):
        raise TypeError(f"the work of a unit is a function of a session, not {shown(work)}")
    if not isinstance(attempts, int) or isinstance(attempts, bool):
        raise TypeError(f"attempts={shown(attempts)}; it must be a number")
    if attempts < 1:
        raise ValueError(f"attempts={shown(attempts)}; at least 1 is needed")
    if timeout is None:
        return
    if not isinstance(timeout, (int, float)) or isinstance(timeout, bool):
        raise TypeError(f"timeout={shown(timeout)}; it must be a number of seconds")
    if not 0 <= timeout < float("inf"):
        raise ValueError(f"timeout={shown(timeout)}; it must be a number of seconds, or None for no limit")


@dataclass(slots=True)
class _Again:
    """A unit of work, to be run again when its first attempt has failed: until then stamina costs nothing."""

    session_factory: Any
    work: Callable[[Any], Any]
    attempts: int
    timeout: float | None
    idempotent: bool
    began: float = field(default_factory=time.monotonic)

    def is_worth_it(self, error: Exception) -> bool:
        """Whether the same unit may succeed after *error*."""
        if isinstance(error, TransactionAborted):
            return error.retryable
        return self.idempotent and isinstance(error, OutcomeUnknown)

    async def run_async(self) -> Any:
        try:
            return await _attempt_async(self.session_factory, self.work)
        except Exception as error:
            if not self.is_worth_it(error):
                raise
            failed = error
        return await self.after(failed)

    def after(self, error: Exception) -> Any:
        """Run the unit again by stamina, which counts the first attempt, which raised *error*, among its attempts."""
        import stamina  # its import takes as long as this library's, and only a failed unit needs it

        first = [error]

        def attempt() -> Any:
            if first:
                raise first.pop()
            return _attempt(self.session_factory, self.work)

        async def attempt_async() -> Any:
            if first:
                raise first.pop()
            return await _attempt_async(self.session_factory, self.work)

        left = None if self.timeout is None else max(self.timeout - (time.monotonic() - self.began), _SHORTEST)
        waits = {"wait_initial": _WAIT_INITIAL, "wait_max": _WAIT_MAX, "wait_jitter": _WAIT_JITTER}
        retry = stamina.retry(on=self.is_worth_it, attempts=self.attempts, timeout=left, **waits)
        unit: Callable[[], Any] = attempt_async if _is_async(self.session_factory, self.work) else attempt
        # stamina's instrumentation reports the function's name, which is to be that of the work.
        return retry(functools.update_wrapper(unit, self.work))()


def _is_engine(factory: Any) -> bool:
    """Whether *factory* makes connections and no sessions: an Engine or an AsyncEngine."""
    return isinstance(getattr(factory, "sync_engine", factory), Engine)


def is_async_factory(factory: Any) -> bool:
    """Whether *factory*, a sessionmaker or an engine, makes sessions or connections for asyncio."""
    if _is_engine(factory):
        return not isinstance(factory, Engine)
    maker = getattr(factory, "session_factory", factory)  # of a scoped session
    kind = getattr(maker, "class_", maker)  # of a sessionmaker: the class of its sessions
    return hasattr(kind, "run_sync")


def _is_async(factory: Any, work: Callable[[Any], Any]) -> bool:
    return is_async_factory(factory) or (not _is_engine(factory) and python.iscoroutinefunction(work))


def _attempt(factory: Any, work: Callable[[Any], R]) -> R:
    is_engine = _is_engine(factory)
    place = factory.connect() if is_engine else _outside_of_transactions(factory())
    with place:
        place.begin()
        unit = _ConnectionUnit(place) if is_engine else _SessionUnit(place)
        try:
            result = work(place)
            if not is_engine:
                # A connection lost in a flush is known to have committed nothing; one lost in COMMIT is not.
                place.flush()
            unit.must_be_alive()
        except Exception as error:  # noqa: BLE001 - raised again, explained
            unit.failed(error)
        tokens = unit.tokens()
        try:
            place.commit()
        except Exception as error:  # noqa: BLE001 - raised again, explained
            unit.commit_failed(error, tokens)
        return result


async def _attempt_async(factory: Any, work: Callable[[Any], Awaitable[R]]) -> R:
    is_engine = _is_engine(factory)
    place = factory.connect() if is_engine else _outside_of_transactions(factory())
    async with place:
        await place.begin()
        unit = _ConnectionUnit(place.sync_connection) if is_engine else _SessionUnit(place.sync_session)
        try:
            result = await work(place)
            if not is_engine:
                await place.flush()
            if unit.may_have_ended():
                await place.run_sync(_call_with, unit.must_be_alive)
        except Exception as error:  # noqa: BLE001 - raised again, explained
            await place.run_sync(_call_with, unit.failed, error)
        tokens = unit.tokens()
        try:
            await place.commit()
        except Exception as error:  # noqa: BLE001 - raised again, explained
            await place.run_sync(_call_with, unit.commit_failed, error, tokens)
        return result


def _call_with(place: Session | Connection, function: Callable[..., Any], *arguments: Any) -> None:
    """Call *function* with *arguments*, for ``run_sync()``, which passes the session or the connection first."""
    function(*arguments)


def _outside_of_transactions(session: S) -> S:
    """*session*, checked to be in no transaction: the unit would commit work that it does not know.

    Raises: TypeError when *session* is not a session, or is in a transaction.
    """
    if not hasattr(session, "in_transaction"):
        raise TypeError(f"a unit of work opens its own session: give a sessionmaker, not one of {shown(session)}")
    if session.in_transaction():
        raise TypeError(
            "run_transaction() begins and commits its own transaction, and the session is in one already: "
            "give it a sessionmaker"
        )
    return session


class _Unit(ABC):
    """One attempt at a unit of work."""

    @abstractmethod
    def connections(self) -> Collection[Connection]:
        """The connections that the unit's transaction is on."""

    @abstractmethod
    def tokens(self) -> list[str]:
        """The tokens that the work has fired under."""

    @abstractmethod
    def is_whole(self) -> bool:
        """Whether nothing of the work can have been committed yet."""

    @abstractmethod
    def roll_back(self) -> None:
        """Roll back; invalidate a connection that cannot."""

    def may_have_ended(self) -> bool:
        """Whether an error was noted that may have ended the transaction; :meth:`ended_by` finds out by a statement."""
        notes = map(current_notes, self.connections())
        return any(one is not None and one.ended_by is not None for one in notes)

    def ended_by(self) -> DBAPIError | None:
        """The error that has ended the transaction on the server, also if the work has caught it; None without one."""
        for connection in self.connections():
            ended = ended_by(connection)
            if ended is not None:
                return ended
        return None

    def must_be_alive(self) -> None:
        """Raise the error that has ended the transaction: COMMIT would keep only the statements after that error."""
        ended = self.ended_by()
        if ended is not None:
            raise ended

    def failed(self, error: Exception) -> NoReturn:
        """Roll back, and raise the error that *error*, of the work, stands for."""
        ended, is_whole = self.ended_by(), self.is_whole()
        if isinstance(error, PendingRollbackError) and ended is not None:  # the work caught the first error and went on
            error = ended
        self.roll_back()
        if error is ended and meaning(error) is Meaning.LOCK_TIMEOUT:  # innodb_rollback_on_timeout
            raise TransactionAborted(code=error_code(error), retryable=is_whole) from error
        raise_of_unit(error, is_whole=is_whole)

    def commit_failed(self, error: Exception, tokens: list[str]) -> NoReturn:
        """Roll back, and raise the error that *error*, of the COMMIT, stands for."""
        self.roll_back()
        raise_of_commit(error, tokens)


class _SessionUnit(_Unit):
    """An attempt in a session."""

    def __init__(self, session: Session) -> None:
        self.session, self.journal = session, journal_of(session)
        self.commits = self.journal.commits

    def connections(self) -> Collection[Connection]:
        transaction = self.session.get_transaction()
        return () if transaction is None else connections_of(transaction)

    def tokens(self) -> list[str]:
        return self.journal.tokens

    def is_whole(self) -> bool:
        return self.journal.commits == self.commits

    def roll_back(self) -> None:
        try:
            self.session.rollback()
        except DBAPIError:
            self.session.invalidate()


class _ConnectionUnit(_Unit):
    """An attempt on a connection, without a session."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self.transaction = connection, connection.get_transaction()

    def connections(self) -> Collection[Connection]:
        return (self.connection,)

    def tokens(self) -> list[str]:
        notes = current_notes(self.connection)
        return [] if notes is None else notes.tokens

    def is_whole(self) -> bool:
        return self.connection.get_transaction() is self.transaction

    def roll_back(self) -> None:
        try:
            self.connection.rollback()
        except DBAPIError:
            self.connection.invalidate()


def raise_of_unit(error: Exception, *, is_whole: bool = True) -> NoReturn:
    """Raise the error that *error*, which ended a unit before its COMMIT, stands for.

    Without *is_whole*, the work has committed by itself, so a part of it may be in the database, and the unit must not
    run again.
    """
    if isinstance(error, TransactionAborted) and error.retryable and not is_whole:
        raise TransactionAborted(code=error.code, retryable=False) from error
    if isinstance(error, DBAPIError):
        meant, code = meaning(error), error_code(error)
        if meant is Meaning.LOST and not is_whole:
            raise OutcomeUnknown(code=code) from error
        if meant in (Meaning.ABORTED, Meaning.LOST):
            raise TransactionAborted(code=code, retryable=is_whole) from error
        if meant is Meaning.NOT_WRITABLE:
            raise NotWritable(code=code) from error
    raise error


def raise_of_commit(error: Exception, tokens: Sequence[str]) -> NoReturn:
    """Raise the error that *error*, raised by COMMIT, stands for. After a lost connection, only the server knows."""
    if isinstance(error, FSMError) or not isinstance(error, DBAPIError):
        raise error
    meant, code = meaning(error), error_code(error)
    is_between = meant is not Meaning.ABORTED and _BETWEEN_SERVERS in str(error.orig)
    if is_between or is_unsure_at_commit(error):
        raise OutcomeUnknown(code=code, tokens=tokens) from error
    # A backup's lock or a KILL QUERY: the server has rolled back. Of 147 COMMITs that KILL QUERY ended on MariaDB 11.8,
    # none was committed; MySQL 9.7 let all of them succeed.
    if meant is Meaning.LOCK_TIMEOUT:
        raise TransactionAborted(code=code, retryable=True) from error
    raise_of_unit(error)
