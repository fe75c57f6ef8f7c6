"""Units of work: run in a transaction of their own, and run again as a whole when the server has ended it.

A single statement is never repeated: after a deadlock the server has forgotten what came before it, too.
"""

from __future__ import annotations

import functools
import inspect as python
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, overload

from sqlalchemy import event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from ..core.failures import UNSURE_AT_COMMIT, Meaning, error_code, meaning
from ..errors import FSMError, NotWritable, OutcomeUnknown, TransactionAborted
from ..errors.texts import shown
from .journal import journal_of

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
    from sqlalchemy.orm import sessionmaker

__all__ = ["run_transaction"]

R = TypeVar("R")
S = TypeVar("S", "Session", "AsyncSession")

# Seconds. The first wait is about what a deadlock's winner needs to commit.
_WAIT_INITIAL, _WAIT_MAX, _WAIT_JITTER = 0.005, 1.0, 0.05


@overload
def run_transaction(
    session_factory: async_sessionmaker[Any],
    work: Callable[[AsyncSession], Awaitable[R]],
    *,
    attempts: int = ...,
    timeout: float | None = ...,
    idempotent: bool = ...,
) -> Awaitable[R]: ...
@overload
def run_transaction(
    session_factory: sessionmaker[Any] | Callable[[], Session],
    work: Callable[[Session], R],
    *,
    attempts: int = ...,
    timeout: float | None = ...,
    idempotent: bool = ...,
) -> R: ...
def run_transaction(
    session_factory: Callable[[], Any],
    work: Callable[[Any], Any],
    *,
    attempts: int = 5,
    timeout: float | None = None,
    idempotent: bool = False,
) -> Any:
    """Run ``work(session)`` in a fresh session, commit, and return what it returned.

    When the server has ended the transaction (a deadlock, a snapshot conflict, a failed certification, a connection
    lost before COMMIT), the whole unit is run again in another fresh session, up to *attempts* times and for *timeout*
    seconds (None: no limit), with jittered exponential back-off by stamina, whose instrumentation and testing mode
    apply. What *work* does besides the database is done again, too.

    *session_factory* is a ``sessionmaker``, or an ``async_sessionmaker`` with an async *work*: then await the call. A
    COMMIT of unknown outcome is only run again when the work is *idempotent*, for instance by tokens.

    Raises: TransactionAborted when the attempts are used up; OutcomeUnknown with the tokens that were fired;
    NotWritable; TypeError for what makes no sessions, and for a session that is in a transaction already; and whatever
    *work* raises.
    """
    if not callable(session_factory):
        raise TypeError(f"a unit of work opens its own session: give a sessionmaker, not {shown(session_factory)}")
    import stamina  # imported here for the sake of those who do without: it costs as much as the rest of this library

    def is_worth_another(error: Exception) -> bool:
        return (isinstance(error, TransactionAborted) and error.retryable) or (
            idempotent and isinstance(error, OutcomeUnknown)
        )

    waits = {"wait_initial": _WAIT_INITIAL, "wait_max": _WAIT_MAX, "wait_jitter": _WAIT_JITTER}
    retry = stamina.retry(on=is_worth_another, attempts=attempts, timeout=timeout, **waits)

    def attempt() -> Any:
        return _attempt(session_factory, work)

    async def attempt_async() -> Any:
        return await _attempt_async(session_factory, work)

    unit: Callable[[], Any] = attempt_async if _is_async(session_factory, work) else attempt
    # The instrumentation shows the name of what is run again, and that is the work.
    return retry(functools.update_wrapper(unit, work))()


def _is_async(session_factory: Any, work: Callable[[Any], Any]) -> bool:
    maker = getattr(session_factory, "session_factory", session_factory)  # of a scoped session
    kind = getattr(maker, "class_", maker)  # of a sessionmaker: the class of its sessions
    return hasattr(kind, "run_sync") or python.iscoroutinefunction(work)


def _attempt(session_factory: Callable[[], Session], work: Callable[[Session], R]) -> R:
    session = _outside_of_transactions(session_factory())
    with session:
        session.begin()
        commits: list[Session] = []
        try:
            with _noting_commits(session, commits):
                result = work(session)
                session.flush()  # what is lost in here was not committed, and is known
        except Exception as error:  # noqa: BLE001 - raised again, explained
            _roll_back_quietly(session)
            raise_of_unit(error, is_whole=not commits)
        tokens = _tokens(session)
        try:
            session.commit()
        except Exception as error:  # noqa: BLE001 - raised again, explained
            _roll_back_quietly(session)
            raise_of_commit(error, tokens)
        return result


async def _attempt_async(
    session_factory: Callable[[], AsyncSession], work: Callable[[AsyncSession], Awaitable[R]]
) -> R:
    session = _outside_of_transactions(session_factory())
    async with session:
        await session.begin()
        commits: list[Session] = []
        try:
            with _noting_commits(session.sync_session, commits):
                result = await work(session)
                await session.flush()
        except Exception as error:  # noqa: BLE001 - raised again, explained
            await session.run_sync(_roll_back_quietly)
            raise_of_unit(error, is_whole=not commits)
        tokens = _tokens(session.sync_session)
        try:
            await session.commit()
        except Exception as error:  # noqa: BLE001 - raised again, explained
            await session.run_sync(_roll_back_quietly)
            raise_of_commit(error, tokens)
        return result


def _outside_of_transactions(session: S) -> S:
    """*session*, which is left as it is if it is in a transaction: that is somebody else's."""
    if session.in_transaction():
        raise TypeError(
            "run_transaction() begins and commits a transaction of its own, and the session is in one already: "
            "give it a sessionmaker"
        )
    return session


@contextmanager
def _noting_commits(session: Session, commits: list[Session]) -> Iterator[None]:
    """Add to *commits* whenever a COMMIT is about to be sent within the block."""

    def note(session: Session) -> None:
        if not session.in_nested_transaction():
            commits.append(session)

    event.listen(session, "before_commit", note)
    try:
        yield
    finally:
        event.remove(session, "before_commit", note)


def _tokens(session: Session) -> list[str]:
    return [entry.token for entry in journal_of(session).entries if entry.token is not None]


def _roll_back_quietly(session: Session) -> None:
    try:
        session.rollback()
    except DBAPIError:
        session.invalidate()


def raise_of_unit(error: Exception, *, is_whole: bool = True) -> Any:
    """Raise what *error*, which ended a unit before its COMMIT, means for it.

    Of a unit that is not *is_whole*, because the work has committed by itself, a part may be in the database: it must
    not be run again.
    """
    if isinstance(error, TransactionAborted) and error.retryable and not is_whole:
        raise TransactionAborted(code=error.code, retryable=False) from error
    if isinstance(error, DBAPIError):
        found, code = meaning(error), error_code(error)
        if found is Meaning.LOST and not is_whole:
            raise OutcomeUnknown(code=code) from error
        if found in (Meaning.ABORTED, Meaning.LOST):
            raise TransactionAborted(code=code, retryable=is_whole) from error
        if found is Meaning.NOT_WRITABLE:
            raise NotWritable(code=code) from error
    raise error


def raise_of_commit(error: Exception, tokens: list[str]) -> Any:
    """Raise what *error*, raised by COMMIT, means: only the server knows what became of a lost connection's."""
    if isinstance(error, FSMError) or not isinstance(error, DBAPIError):
        raise error
    found, code = meaning(error), error_code(error)
    if found is Meaning.LOST or code in UNSURE_AT_COMMIT:
        raise OutcomeUnknown(code=code, tokens=tokens) from error
    raise_of_unit(error)
