"""Units of work: run in a transaction of their own, and run again as a whole when the server has ended it.

A single statement is never repeated: after a deadlock the server has forgotten what came before it, too.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from .errors import FSMError, NotWritable, OutcomeUnknown, TransactionAborted
from .journal import journal_of
from .transactions import Meaning, error_code, meaning

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
    from sqlalchemy.orm import sessionmaker

__all__ = ["run_transaction"]

R = TypeVar("R")

# Galera: the node lost its quorum, perhaps in the middle of the COMMIT.
_NO_QUORUM = 1047

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
    NotWritable; TypeError for a session that is in a transaction already; and whatever *work* raises.
    """
    import stamina  # imported here for the sake of those who do without: it costs as much as the rest of this library

    def is_worth_another(error: Exception) -> bool:
        return (isinstance(error, TransactionAborted) and error.retryable) or (
            idempotent and isinstance(error, OutcomeUnknown)
        )

    waits = {"wait_initial": _WAIT_INITIAL, "wait_max": _WAIT_MAX, "wait_jitter": _WAIT_JITTER}
    limits: dict[str, Any] = {"attempts": attempts, "timeout": timeout, **waits}
    if _is_async(session_factory):
        unit = functools.update_wrapper(functools.partial(_attempt_async, session_factory, work), work)
        return stamina.AsyncRetryingCaller(**limits)(is_worth_another, unit)
    unit = functools.update_wrapper(functools.partial(_attempt, session_factory, work), work)
    return stamina.RetryingCaller(**limits)(is_worth_another, unit)


def _is_async(session_factory: Any) -> bool:
    kind = getattr(session_factory, "class_", session_factory)  # of a sessionmaker: the class of its sessions
    return hasattr(kind, "run_sync")


def _attempt(session_factory: Callable[[], Session], work: Callable[[Session], R]) -> R:
    with session_factory() as session:
        _require_no_transaction(session)
        session.begin()
        try:
            result = work(session)
        except Exception as error:  # noqa: BLE001 - raised again, explained
            session.rollback()
            raise_of_unit(error)
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
    async with session_factory() as session:
        _require_no_transaction(session)
        await session.begin()
        try:
            result = await work(session)
        except Exception as error:  # noqa: BLE001 - raised again, explained
            await session.rollback()
            raise_of_unit(error)
        tokens = _tokens(session.sync_session)
        try:
            await session.commit()
        except Exception as error:  # noqa: BLE001 - raised again, explained
            await session.run_sync(_roll_back_quietly)
            raise_of_commit(error, tokens)
        return result


def _require_no_transaction(session: Any) -> None:
    if session.in_transaction():
        raise TypeError(
            "run_transaction() begins and commits a transaction of its own, and the session is in one already: "
            "give it a sessionmaker"
        )


def _tokens(session: Session) -> list[str]:
    return [entry.token for entry in journal_of(session).entries if entry.token is not None]


def _roll_back_quietly(session: Session) -> None:
    try:
        session.rollback()
    except DBAPIError:
        session.invalidate()


def raise_of_unit(error: Exception) -> Any:
    """Raise what *error*, which ended a unit before its COMMIT, means for it."""
    if isinstance(error, DBAPIError):
        found, code = meaning(error), error_code(error)
        if found in (Meaning.ABORTED, Meaning.LOST):
            raise TransactionAborted(code=code, retryable=True) from error
        if found is Meaning.NOT_WRITABLE:
            raise NotWritable(code=code) from error
    raise error


def raise_of_commit(error: Exception, tokens: list[str]) -> Any:
    """Raise what *error*, raised by COMMIT, means: only the server knows what became of a lost connection's."""
    if isinstance(error, FSMError) or not isinstance(error, DBAPIError):
        raise error
    found, code = meaning(error), error_code(error)
    if found is Meaning.LOST or code == _NO_QUORUM:
        raise OutcomeUnknown(code=code, tokens=tokens) from error
    raise_of_unit(error)
