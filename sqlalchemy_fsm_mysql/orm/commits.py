"""The last fire of a transaction together with its COMMIT: :func:`commit_with_fire`.

``core.ends`` sends the two in one packet where the engine or the column asks for it. Everywhere else the fire is sent
as ever, and the COMMIT after it; the outcomes and errors are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, overload

from sqlalchemy import Connection, TwoPhaseTransaction
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.orm import Session

from ..core import fires, keys
from ..core.attribution import Attribution
from ..core.ends import End, LastFire, NotMoved, can_be_one_packet
from ..core.failures import raise_explained
from ..core.fires import Fire
from ..core.hooks import announce as core_announce
from ..core.notes import notes_of
from ..errors import TransactionRequired
from ..errors.texts import shown
from ..observation import Attempt, watching
from ..outcomes import Moved, Refused
from .awaited import Later
from .firing import carry_out, fire_row, show_replayed
from .hooks import announce
from .instances import know_version, show_moved
from .journal import ends_with, journal_of, may_begin_others
from .mapped import mapped_event
from .sessions import AnySession, AsyncPlace, SyncPlace, Writer, session_or_own, within
from .units import raise_of_commit, raise_of_unit

if TYPE_CHECKING:  # importing it costs as much as half of sqlalchemy.orm
    from sqlalchemy.ext.asyncio import AsyncSession

__all__ = ["commit_with_fire", "commit_with_fire_key", "try_commit_with_fire", "try_commit_with_fire_key"]

M = TypeVar("M")


@overload
def commit_with_fire(
    instance: M,
    event: str,
    session: AnySession | None = ...,
    /,
    *,
    column: object = ...,
    actor: str | None = ...,
    details: object = ...,
    token: str | None = ...,
    **payload: object,
) -> Moved[M]: ...
@overload
def commit_with_fire(
    instance: M,
    event: str,
    session: AsyncSession,
    /,
    *,
    column: object = ...,
    actor: str | None = ...,
    details: object = ...,
    token: str | None = ...,
    **payload: object,
) -> Later[Moved[M]]: ...
def commit_with_fire(
    instance: Any,
    event: str,
    session: Any = None,
    /,
    *,
    column: Any = None,
    actor: str | None = None,
    details: Any = None,
    token: str | None = None,
    **payload: Any,
) -> Any:
    """Fire *event* on the row of *instance*, and commit the session's transaction.

    Returns: a :class:`Moved`. The transaction is committed.

    With ``fsm_one_packet``, the UPDATE, the history row and the COMMIT are sent in one packet, so the row is locked for
    no round trip. Where that is not possible, they are sent one by one, with the same outcomes and errors. The
    arguments are those of :meth:`Stateful.fire`. With an ``AsyncSession``, await the call.

    The transaction is committed only if the event moves the row, or has moved it before under the same token. After a
    refusal it is rolled back. After any other error nothing is committed, unless the error is OutcomeUnknown: then roll
    back, as after a failed ``commit()``.

    Pending changes are flushed before the fire. Listeners of ``before_commit`` are called before the packet, and so
    before the fire; if the two are sent apart, between the fire and the COMMIT. If the move may call functions of
    ``on_moved``, the two are sent apart, because these functions run in the transaction, between the move and the
    COMMIT. Functions of ``on_committed``, ``after_commit`` and ``expire_on_commit`` are as after ``commit()``.

    Raises: as ``fire()`` and :func:`run_transaction`; OutcomeUnknown with all tokens of the transaction when the
    connection is lost within the packet or at COMMIT; TransactionRequired in a savepoint and in a two-phase
    transaction.
    """
    attribution = Attribution(actor, details, token)
    work = within(session_or_own(session, instance), _commit_row, "commit_with_fire")
    return work(type(instance), instance, None, event, column, payload, attribution, raises_refusal=True)


@overload
def try_commit_with_fire(
    instance: M,
    event: str,
    session: AnySession | None = ...,
    /,
    *,
    column: object = ...,
    actor: str | None = ...,
    details: object = ...,
    token: str | None = ...,
    **payload: object,
) -> Moved[M] | Refused[M]: ...
@overload
def try_commit_with_fire(
    instance: M,
    event: str,
    session: AsyncSession,
    /,
    *,
    column: object = ...,
    actor: str | None = ...,
    details: object = ...,
    token: str | None = ...,
    **payload: object,
) -> Later[Moved[M] | Refused[M]]: ...
def try_commit_with_fire(
    instance: Any,
    event: str,
    session: Any = None,
    /,
    *,
    column: Any = None,
    actor: str | None = None,
    details: Any = None,
    token: str | None = None,
    **payload: Any,
) -> Any:
    """Fire and commit as :func:`commit_with_fire`, and return a refusal as a value.

    Returns: a :class:`Moved`, which is true, or a :class:`Refused`, which is false: then the transaction is rolled
    back.

    Raises: as :func:`commit_with_fire`, except TransitionNotAllowed and GuardNotSatisfied.
    """
    attribution = Attribution(actor, details, token)
    work = within(session_or_own(session, instance), _commit_row, "try_commit_with_fire")
    return work(type(instance), instance, None, event, column, payload, attribution, raises_refusal=False)


@overload
def commit_with_fire_key(
    model: type[M],
    key: object,
    event: str,
    session: SyncPlace,
    /,
    *,
    column: object = ...,
    actor: str | None = ...,
    details: object = ...,
    token: str | None = ...,
    **payload: object,
) -> Moved[M]: ...
@overload
def commit_with_fire_key(
    model: type[M],
    key: object,
    event: str,
    session: AsyncPlace,
    /,
    *,
    column: object = ...,
    actor: str | None = ...,
    details: object = ...,
    token: str | None = ...,
    **payload: object,
) -> Later[Moved[M]]: ...
def commit_with_fire_key(
    model: type[M],
    key: Any,
    event: str,
    session: Any,
    /,
    *,
    column: Any = None,
    actor: str | None = None,
    details: Any = None,
    token: str | None = None,
    **payload: Any,
) -> Any:
    """Fire and commit as :func:`commit_with_fire`, on the row with the primary key *key*, which is not loaded.

    Returns: a :class:`Moved`. The transaction is committed.

    The arguments are those of :func:`fire_key`. *session* can be a Core ``Connection`` or an ``AsyncConnection``, whose
    transaction is then committed.

    Raises: as ``fire_key`` and ``commit_with_fire``.
    """
    attribution = Attribution(actor, details, token)
    work = within(session, _commit_row, "commit_with_fire_key", on_connection=_commit_on_connection)
    return work(model, None, key, event, column, payload, attribution, raises_refusal=True)


@overload
def try_commit_with_fire_key(
    model: type[M],
    key: object,
    event: str,
    session: SyncPlace,
    /,
    *,
    column: object = ...,
    actor: str | None = ...,
    details: object = ...,
    token: str | None = ...,
    **payload: object,
) -> Moved[M] | Refused[M]: ...
@overload
def try_commit_with_fire_key(
    model: type[M],
    key: object,
    event: str,
    session: AsyncPlace,
    /,
    *,
    column: object = ...,
    actor: str | None = ...,
    details: object = ...,
    token: str | None = ...,
    **payload: object,
) -> Later[Moved[M] | Refused[M]]: ...
def try_commit_with_fire_key(
    model: type[M],
    key: Any,
    event: str,
    session: Any,
    /,
    *,
    column: Any = None,
    actor: str | None = None,
    details: Any = None,
    token: str | None = None,
    **payload: Any,
) -> Any:
    """Fire and commit as :func:`commit_with_fire_key`, and return a refusal as a value.

    Returns: a :class:`Moved`, which is true, or a :class:`Refused`, which is false: then the transaction is rolled
    back.

    Raises: as :func:`commit_with_fire_key`, except TransitionNotAllowed and GuardNotSatisfied.
    """
    attribution = Attribution(actor, details, token)
    work = within(session, _commit_row, "try_commit_with_fire_key", on_connection=_commit_on_connection)
    return work(model, None, key, event, column, payload, attribution, raises_refusal=False)


def _commit_row(session: Session, *row: Any, raises_refusal: bool) -> Moved[Any] | Refused[Any]:
    """:func:`~.firing.fire_row` with these arguments, followed by the end of the transaction.

    Raises: see :func:`commit_with_fire`.
    """
    if session.in_nested_transaction():
        _refuse(row[3], *_SAVEPOINT)
    if session.twophase:
        _refuse(row[3], *_TWO_PHASE)
    return fire_row(session, *row, raises_refusal=raises_refusal, by=_commit_in_session)


def _commit_in_session(writer: Writer, fire: Fire) -> Moved[Any] | Refused[Any]:
    session, journal = writer.session, journal_of(writer.session)
    writer.find_shard(fire)
    _flush(session)
    connection = writer.connection(fire.event, fire.key, is_one_row=True)
    _require_one_phase(connection, fire)
    # Where the COMMIT is not this session's, or not the only one, the fire comes before it.
    commits, is_sole = journal.commits, ends_with(session, connection)
    outcome: Moved[Any] | Refused[Any] | None = None
    if is_sole and not may_begin_others(session) and _can_be_one_packet(connection, fire):
        # No statement of the session's own is allowed within its commit().
        try:
            writer.require_visible(connection, fire)
        except StatementError as error:
            raise_explained(error, connection, token=fire.attribution.token, **fire.row)
        know, show = partial(know_version, writer, fire), partial(_show, writer, connection, fire)
        end: End = LastFire(connection, fire, know, show, tokens=journal.tokens)
    else:
        outcome = carry_out(writer, fire)
        end = End(connection, tokens=journal.tokens)

    def not_committed() -> None:
        journal.commits = commits  # for run_transaction, which runs a unit again only if it has committed nothing

    def failed(error: Exception) -> NoReturn:
        if is_sole:
            not_committed()
        if is_sole and not end.is_sent:
            raise_of_unit(error)
        raise_of_commit(error, end.tokens)

    def roll_back() -> None:
        not_committed()
        try:
            session.rollback()
        except DBAPIError:
            session.invalidate()

    return _ended(end, outcome, partial(carry_out, writer, fire), session.commit, roll_back, failed)


def _can_be_one_packet(connection: Connection, fire: Fire) -> bool:
    try:
        return can_be_one_packet(connection, fire)
    except DBAPIError as error:  # of the question whether the server can do it
        raise_explained(error, connection, token=fire.attribution.token, **fire.row)


def _flush(session: Session) -> None:
    """Flush, without autoflush too: ``commit()`` would, and may begin a transaction on another database for it."""
    try:
        session.flush()
    except DBAPIError as error:
        raise_of_unit(error)


def _show(writer: Writer, connection: Connection, fire: Fire, outcome: Moved[Any]) -> None:
    """Bring the session up to date with *outcome*, as :func:`~.firing.carry_out` does."""
    if outcome.replayed:
        show_replayed(writer, connection, fire)
        return
    show_moved(writer, fire, outcome)
    announce(writer.mapped, outcome, writer.session, connection)


def _ended(
    end: End,
    outcome: Moved[Any] | Refused[Any] | None,
    apart: Callable[[], Moved[Any] | Refused[Any]],
    commit: Callable[[], None],
    roll_back: Callable[[], None],
    failed: Callable[[Exception], NoReturn],
) -> Moved[Any] | Refused[Any]:
    """The outcome of the last fire, once its transaction has ended: *outcome*, or where that is None, that of *end*.

    *apart* sends the fire where *commit* has sent no COMMIT, as in test suites that replace ``session.commit``.
    """
    if isinstance(outcome, Refused):
        roll_back()
        return outcome
    end.arm()
    try:
        commit()
    except NotMoved as refused:
        roll_back()
        return refused.outcome
    except Exception as error:
        if end.is_committed:  # an error of the application's own listeners
            raise
        failed(error)
    finally:
        end.disarm()
    moved = end.outcome if isinstance(end, LastFire) else outcome
    if moved is not None:
        return moved
    late = apart()
    if isinstance(late, Refused):
        roll_back()
    return late


def _commit_on_connection(
    connection: Connection,
    model: type[Any],
    instance: None,
    key: Any,
    event: str,
    column: Any,
    payload: Mapping[str, Any],
    attribution: Attribution,
    *,
    raises_refusal: bool,
) -> Moved[Any] | Refused[Any]:
    mapped, sql = mapped_event(model, event, column)
    if connection.in_nested_transaction():
        _refuse(event, *_SAVEPOINT)
    parts = (key,) if type(key) in mapped.plain_keys else mapped.key_parts(key)
    fire = keys.new_fire(connection, mapped, sql, parts, payload, attribution)
    with watching(Attempt("fire", model, mapped.table_name, sql.name, fire.key)) as attempt:
        attempt.result = outcome = _end_on_connection(connection, fire)
    if raises_refusal and isinstance(outcome, Refused):
        raise fires.refusal_error(fire, outcome)
    return outcome


def _end_on_connection(connection: Connection, fire: Fire) -> Moved[Any] | Refused[Any]:
    keys.prepare(connection, fire.target, fire.event.name, is_one_row=True)
    _require_one_phase(connection, fire)
    outcome: Moved[Any] | Refused[Any] | None = None
    if _can_be_one_packet(connection, fire):
        show = partial(_announce, connection, fire)
        end: End = LastFire(connection, fire, show=show, tokens=notes_of(connection).tokens)
    else:
        outcome = keys.carry_out(connection, fire, keys.send)
        end = End(connection, tokens=notes_of(connection).tokens)

    def roll_back() -> None:
        try:
            connection.rollback()
        except DBAPIError:
            connection.invalidate()

    apart = partial(keys.carry_out, connection, fire, keys.send)
    return _ended(end, outcome, apart, connection.commit, roll_back, partial(_commit_failed, end))


def _commit_failed(end: End, error: Exception) -> NoReturn:
    raise_of_commit(error, end.tokens)


def _announce(connection: Connection, fire: Fire, outcome: Moved[Any]) -> None:
    if fire.target.extras.hooks and not outcome.replayed:
        core_announce(fire.target.extras.hooks, (outcome,), connection)


_SAVEPOINT = "a savepoint", "leave the block of begin_nested() first, or fire there, and commit outside"
_TWO_PHASE = "a two-phase transaction", "call fire(), prepare() and commit()"


def _require_one_phase(connection: Connection, fire: Fire) -> None:
    if isinstance(connection.get_transaction(), TwoPhaseTransaction):
        _refuse(fire.event.name, *_TWO_PHASE)


def _refuse(event: str, place: str, advice: str) -> NoReturn:
    raise TransactionRequired(
        f"{shown(event)} cannot be fired together with COMMIT here: this is {place}, and the COMMIT would end the whole"
        f" transaction: {advice}"
    )
