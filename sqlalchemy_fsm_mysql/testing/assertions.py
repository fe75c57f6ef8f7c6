"""Fire on a row, and compare the outcome with the expected one, in the database and in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from sqlalchemy import inspect, select
from sqlalchemy.orm import Session

from ..core.target import plain_key
from ..errors import TransitionNotAllowed
from ..errors.texts import State, row_label, shown, stored_form
from ..orm.awaited import Later
from ..orm.mapped import MappedState, mapped_state
from ..orm.sessions import AnySession, session_or_own, within
from ..outcomes import Moved, Refused

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

M = TypeVar("M")

__all__ = ["assert_moves", "assert_refused"]

# A helper's frames say nothing to the reader of pytest's report.
__tracebackhide__ = True


@overload
def assert_moves(
    instance: M,
    event: str,
    target: State,
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
def assert_moves(
    instance: M,
    event: str,
    target: State,
    session: AsyncSession,
    /,
    *,
    column: object = ...,
    actor: str | None = ...,
    details: object = ...,
    token: str | None = ...,
    **payload: object,
) -> Later[Moved[M]]: ...
def assert_moves(
    instance: Any,
    event: str,
    target: State,
    session: Any = None,
    /,
    *,
    column: Any = None,
    actor: str | None = None,
    details: Any = None,
    token: str | None = None,
    **payload: Any,
) -> Any:
    """Fire *event* on *instance*, and assert that it moves the row to *target*.

    Returns: the :class:`~sqlalchemy_fsm_mysql.Moved`. Nothing is committed.

    It also asserts that the row in the database is in that state, that the instance shows it, and that the last row of
    the history, if there is one, records this move. *session* defaults to that of the instance. With an
    ``AsyncSession``, await the call.

    Raises: AssertionError with a description of what happened; else as ``fire()``, except for a refusal.
    """
    attribution = {"actor": actor, "details": details, "token": token}
    return _in(session, instance, _assert_moves, instance, event, target, column, payload, attribution)


@overload
def assert_refused(
    instance: M,
    event: str,
    reason: Literal["state", "guard"] | None = ...,
    session: AnySession | None = ...,
    /,
    *,
    column: object = ...,
    actor: str | None = ...,
    details: object = ...,
    token: str | None = ...,
    **payload: object,
) -> Refused[M]: ...
@overload
def assert_refused(
    instance: M,
    event: str,
    reason: Literal["state", "guard"] | None,
    session: AsyncSession,
    /,
    *,
    column: object = ...,
    actor: str | None = ...,
    details: object = ...,
    token: str | None = ...,
    **payload: object,
) -> Later[Refused[M]]: ...
def assert_refused(
    instance: Any,
    event: str,
    reason: Literal["state", "guard"] | None = None,
    session: Any = None,
    /,
    *,
    column: Any = None,
    actor: str | None = None,
    details: Any = None,
    token: str | None = None,
    **payload: Any,
) -> Any:
    """Fire *event* on *instance*, and assert that it is refused, and that no column of the row changes.

    Returns: the :class:`~sqlalchemy_fsm_mysql.Refused`.

    *reason* is ``"state"``, ``"guard"``, or None for either. It also asserts that the history has no new row. *session*
    is as for :func:`assert_moves`.

    Raises: AssertionError with a description of what happened; else as ``fire()``, except for a refusal.
    """
    attribution = {"actor": actor, "details": details, "token": token}
    return _in(session, instance, _assert_refused, instance, event, reason, column, payload, attribution)


def _in(session: Any, instance: Any, work: Any, *arguments: Any) -> Any:
    return within(session_or_own(session, instance), work)(*arguments)


def _assert_moves(
    session: Session,
    instance: Any,
    event: str,
    target: State,
    column: Any,
    payload: Mapping[str, Any],
    attribution: Mapping[str, Any],
) -> Moved[Any]:
    mapped = mapped_state(type(instance), event, column)
    wanted = mapped.machine.stored(target)
    outcome = instance.try_fire(event, session, column=mapped.attribute, **attribution, **payload)
    label = row_label(mapped.table_name, plain_key(inspect(instance).identity))
    expected = f"{label}: {shown(event)} was to move it to {shown(wanted)}"
    if isinstance(outcome, Refused):
        raise AssertionError(f"{expected}, but {_why(mapped, outcome)}")
    moved: Moved[Any] = outcome
    led = stored_form(moved.target)
    if led != wanted:
        raise AssertionError(f"{expected}, but it moved it from {shown(stored_form(moved.source))} to {shown(led)}")
    stored = _row(session, mapped, instance)[mapped.column.key]
    if stored != mapped.machine.loaded(wanted):
        raise AssertionError(f"{expected}, and the outcome agrees, but the row in the database is in {shown(stored)}")
    if getattr(instance, mapped.attribute) != moved.target:
        raise AssertionError(f"{expected}, but the instance shows {shown(getattr(instance, mapped.attribute))}")
    if mapped.extras.history is not None and not moved.replayed:
        _require_record(session, mapped, instance, moved, expected)
    return moved


def _assert_refused(
    session: Session,
    instance: Any,
    event: str,
    reason: str | None,
    column: Any,
    payload: Mapping[str, Any],
    attribution: Mapping[str, Any],
) -> Refused[Any]:
    mapped = mapped_state(type(instance), event, column)
    wanted: object = reason
    if wanted is not None and (not isinstance(wanted, str) or wanted not in ("state", "guard")):
        raise ValueError(f"reason={shown(reason)}; it must be 'state', 'guard', or None for either")
    if session.autoflush:
        session.flush()
    before = _row(session, mapped, instance), len(_records(session, mapped, instance))
    outcome = instance.try_fire(event, session, column=mapped.attribute, **attribution, **payload)
    label = row_label(mapped.table_name, plain_key(inspect(instance).identity))
    expected = f"{label}: {shown(event)} was to be refused"
    if isinstance(outcome, Moved):
        way = f"{shown(stored_form(outcome.source))} to {shown(stored_form(outcome.target))}"
        raise AssertionError(f"{expected}, but it moved the row from {way}")
    refused: Refused[Any] = outcome
    if reason is not None and refused.reason != reason:
        raise AssertionError(f"{expected} for its {reason}, but {_why(mapped, refused)}")
    after = _row(session, mapped, instance), len(_records(session, mapped, instance))
    if after[0] != before[0]:
        changed = ", ".join(name for name, value in after[0].items() if value != before[0].get(name))
        raise AssertionError(f"{expected}, and was, but these columns have changed: {changed or 'the row is gone'}")
    if after[1] != before[1]:
        raise AssertionError(f"{expected}, and was, but its history has {after[1] - before[1]} more records")
    return refused


def _why(mapped: MappedState, refused: Refused[Any]) -> str:
    if refused.reason == "guard":
        return f"no guard was true in {shown(stored_form(refused.state))}"
    error = TransitionNotAllowed(
        table=mapped.table_name,
        key=refused.key,
        event=refused.event,
        state=refused.state,
        allowed_from=refused.allowed_from,
    )
    return str(error).partition(": ")[2].removesuffix(".")


def _row(session: Session, mapped: MappedState, instance: Any) -> dict[str, Any]:
    """The row as the database has it, by column; nothing comes from memory."""
    parameters = dict(zip(mapped.key_names, inspect(instance).identity or (), strict=True))
    query = select(mapped.row.table).where(mapped.row.is_key())
    connection = session.connection(bind_arguments={"mapper": mapped.mapper, "clause": mapped.row.writing})
    row = connection.execute(query, parameters).mappings().one_or_none()
    return {} if row is None else {column.key: row[column] for column in mapped.row.table.c}


def _records(session: Session, mapped: MappedState, instance: Any) -> list[Any]:
    history = mapped.extras.history
    if history is None:
        return []
    records: list[Any] = history.rows(session, inspect(instance).identity, {})
    return records


def _require_record(session: Session, mapped: MappedState, instance: Any, moved: Moved[Any], expected: str) -> None:
    records = _records(session, mapped, instance)
    last = (records[-1].event, records[-1].source, records[-1].target) if records else None
    if last != (moved.event, moved.source, moved.target):
        raise AssertionError(f"{expected}, and did, but the last record of its history is {shown(last)}")
