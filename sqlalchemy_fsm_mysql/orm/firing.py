"""Firing one event on one row through a session: ``order.fire()``, :func:`fire_key`, :func:`force_state`.

:func:`fire_row` is the whole act, from the arguments of a call to its outcome. ``core.fires`` sends the statement; here
the session gives the connection, and its instances, journal and hooks learn the outcome.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar, overload

from sqlalchemy import Connection, inspect
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import Session

from ..core import fires, packets
from ..core.attribution import NO_ATTRIBUTION, Attribution
from ..core.failures import raise_explained
from ..core.fires import Fire
from ..core.keys import fire_key as core_fire_key
from ..core.payload import payload_parameters
from ..core.target import plain_key
from ..core.tokens import fire_under_token
from ..errors import RefusedByDatabase
from ..machine.states import FORCED
from ..observation import Attempt, log, observers, watching
from ..outcomes import NO_PAYLOAD, Moved, ReadOnlyMapping, Refused
from ..sql.code import NO_ROW
from .awaited import Later
from .hooks import announce
from .instances import know_version, show_moved, show_refused, show_row, show_state
from .journal import note
from .mapped import MappedState, mapped_event, mapped_state, mapped_states, named_state, sole_state
from .sessions import (
    AnySession,
    AsyncPlace,
    SyncPlace,
    Writer,
    checked_attribution,
    flush_first,
    persistent_key,
    session_of,
    session_or_own,
    within,
)

if TYPE_CHECKING:  # importing it costs as much as half of sqlalchemy.orm
    from sqlalchemy.ext.asyncio import AsyncSession

M = TypeVar("M")


def fire_row(
    session: Session,
    model: type[Any],
    instance: Any,
    key: Any,
    event: str,
    column: Any,
    payload: Mapping[str, Any],
    attribution: Attribution,
    *,
    raises_refusal: bool,
    by: Callable[[Writer, Fire], Moved[Any] | Refused[Any]] | None = None,
) -> Moved[Any] | Refused[Any]:
    """Fire *event* on one row: that of *instance*, or when that is None, the row of *model* with this *key*.

    *by* does the act once the arguments are checked; None is :func:`carry_out`.

    Raises: see :meth:`~.stateful.Stateful.fire`; TransitionNotAllowed only when *raises_refusal*.
    """
    # 1. Check the arguments. None of this needs a database.
    mapped, sql = mapped_event(model, event, column)
    parts: tuple[Any, ...] = ()
    if instance is None:
        parts = (key,) if type(key) in mapped.plain_keys else mapped.key_parts(key)
    parameters = payload_parameters(mapped, sql, payload) if payload or sql.payload else {}
    if attribution is not NO_ATTRIBUTION and attribution.is_given:
        attribution = checked_attribution(session, mapped, attribution, sql)
    # 2. Flush pending changes, so that the event sees them. A flush may give the instance its key.
    flush_first(session, mapped.mapper, model=model, event=event)
    if instance is not None:
        parts = persistent_key(session, instance)
    parameters.update(zip(mapped.key_names, parts))  # noqa: B905 - both have the length of the model's key
    given = ReadOnlyMapping(payload) if payload else NO_PAYLOAD
    fire = Fire(mapped, sql, parts[0] if len(parts) == 1 else parts, parameters, attribution, given, instance)
    # 3. Send the statement, and bring the session up to date.
    writer, act = Writer(session, mapped), by or carry_out
    if not observers and not log.isEnabledFor(logging.INFO):
        outcome = act(writer, fire)
    else:
        with watching(Attempt("fire", model, mapped.table_name, sql.name, fire.key)) as attempt:
            attempt.result = outcome = act(writer, fire)
    if raises_refusal and isinstance(outcome, Refused):
        raise fires.refusal_error(fire, outcome)
    return outcome


def carry_out(writer: Writer, fire: Fire) -> Moved[Any] | Refused[Any]:
    """Fire on the connection of *writer*; then its instances, the journal and the hooks learn the outcome."""
    session, mapped, token = writer.session, writer.mapped, fire.attribution.token
    if session.connection_callable is not None:
        writer.find_shard(fire)
    connection, has_moved = writer.connection(fire.event, fire.key, is_one_row=True), False
    try:
        outcome = outcome_of(writer, connection, fire)
        if isinstance(outcome, Refused):
            show_refused(writer, fire, outcome)
        elif outcome.replayed:
            show_replayed(writer, connection, fire)
        else:
            if fire.instance is not None:
                show_row(writer, fire.instance, outcome.target, fire.event, fire)
            # Most fires by key have neither an instance nor a savepoint, and skip this.
            elif session.identity_map or session.in_nested_transaction():
                show_moved(writer, fire, outcome)
            if token is not None:
                note(session, token=token)
            # Hooks run after the savepoint of the token, so that an error of theirs does not roll the move back.
            if mapped.extras.hooks:
                has_moved = True
                announce(mapped, outcome, session, connection)
    except (StatementError, RefusedByDatabase) as error:
        raise_explained(error, connection, has_moved=has_moved, token=token, **fire.row)
    return outcome


def outcome_of(writer: Writer, connection: Connection, fire: Fire) -> Moved[Any] | Refused[Any]:
    """Send *fire* in the way that it needs: in a packet, under its token, or as the one statement."""
    if writer.mapped.extras.history is not None and packets.takes(connection, fire):
        return send(writer, connection, fire, packets.fire)
    if fire.attribution.token is not None:
        return fire_under_token(connection, fire, lambda: send(writer, connection, fire))
    if fire.event.row.version is not None or writer.session.dispatch.do_orm_execute:
        return send(writer, connection, fire)
    return fires.fire(connection, fire)  # as send(), without the calls that have nothing to do here


def send(
    writer: Writer,
    connection: Connection,
    fire: Fire,
    by: Callable[[Connection, Fire], Moved[Any] | Refused[Any]] = fires.fire,
) -> Moved[Any] | Refused[Any]:
    """Send the statement of *fire* in a session with filters, or on a row with a version."""
    if writer.session.dispatch.do_orm_execute:
        writer.require_visible(connection, fire)
    know_version(writer, fire)
    fires.next_version(connection, fire)
    return by(connection, fire)


def show_replayed(writer: Writer, connection: Connection, fire: Fire) -> None:
    """Set the row's instance to the row's state now: others may have moved the row since the first fire."""
    instance = fire.instance if fire.instance is not None else writer.instance(fire.key)
    stored = fires.stored_state(connection, fire) if instance is not None else NO_ROW
    if stored is not NO_ROW:
        show_state(writer, instance, stored)


def _fire_without_session(
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
    return core_fire_key(connection, mapped, sql, key, payload, attribution, raises_refusal=raises_refusal)


@overload
def fire_key(
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
def fire_key(
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
def fire_key(
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
    """Fire *event* on the row of *model* with this primary *key*, without loading it: one statement in all.

    *key* is one value, or for a composite key a tuple in the order of the model's primary key, or a mapping by
    attribute name. The other arguments are those of :meth:`Stateful.fire`. If the session has an instance of the row,
    it is brought up to date.

    *session* may be a Core ``Connection`` (an ``AsyncConnection``: await the call). Everything else is as with a
    session, at about two thirds of its CPU time: history, tokens, hooks, which get the connection, and errors.

    Raises: TransitionNotAllowed, GuardNotSatisfied, RowNotFound, UnknownState, and, before any SQL, UnknownEvent, and
    TypeError for a key or a payload that does not fit; and the errors of the server, as ``fire()``.
    """
    is_given = actor is not None or details is not None or token is not None
    attribution = Attribution(actor, details, token) if is_given else NO_ATTRIBUTION
    # Most calls have one of these two. For all else that may stand in their place, within() finds the way.
    if isinstance(session, Session):
        return fire_row(session, model, None, key, event, column, payload, attribution, raises_refusal=True)
    if isinstance(session, Connection):
        return _fire_without_session(
            session, model, None, key, event, column, payload, attribution, raises_refusal=True
        )
    work = within(session, fire_row, "fire_key", on_connection=_fire_without_session)
    return work(model, None, key, event, column, payload, attribution, raises_refusal=True)


@overload
def try_fire_key(
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
def try_fire_key(
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
def try_fire_key(
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
    """As :func:`fire_key`, with a refusal as a value: falsy, with the state observed and the reason."""
    attribution = Attribution(actor, details, token)
    work = within(session, fire_row, "try_fire_key", on_connection=_fire_without_session)
    return work(model, None, key, event, column, payload, attribution, raises_refusal=False)


def can_fire(instance: Any, event: str, *, column: Any = None) -> bool:
    """Whether *event* leaves the state of *instance* in memory, which may be stale; guards are not evaluated.

    No SQL, unless the state is expired, as after a commit: then a sync session loads it like any attribute. On an
    instance of an ``AsyncSession`` the state stays unknown, and no event is possible.

    Raises: UnknownEvent.
    """
    mapped = mapped_state(type(instance), event, column)
    return _state_shown(mapped, instance) in mapped.machine.targets(event)


def _state_shown(mapped: MappedState, instance: Any) -> Any:
    state = mapped.state_in_memory(instance)
    if state is None and inspect(instance).persistent and isinstance(session_of(instance), Session):
        return getattr(instance, mapped.attribute)
    return state


def available_events(instance: Any, *, column: Any = None) -> list[str]:
    """The events that leave the state of *instance* in memory, as :func:`can_fire` reads it."""
    states: Mapping[str, MappedState] = mapped_states(type(instance))
    if column is not None:
        states = {"": named_state(type(instance), column)}
    return [
        event
        for mapped in states.values()
        if mapped.machine.declares(state := _state_shown(mapped, instance))
        for event in mapped.machine.events_from(state)
    ]


@overload
def force_state(
    instance: M,
    state: str | Enum,
    session: AnySession | None = ...,
    /,
    *,
    column: object = ...,
    actor: str | None = ...,
    details: object = ...,
) -> Moved[M]: ...
@overload
def force_state(
    instance: M,
    state: str | Enum,
    session: AsyncSession,
    /,
    *,
    column: object = ...,
    actor: str | None = ...,
    details: object = ...,
) -> Later[Moved[M]]: ...
def force_state(
    instance: M,
    state: Any,
    session: Any = None,
    /,
    *,
    column: Any = None,
    actor: str | None = None,
    details: Any = None,
) -> Any:
    """Set the row of *instance* to *state* without an event of the machine: for operators and data repair.

    *state* must be declared, and the effects of ``on_enter`` and ``on_exit`` are written. The row may be in any state,
    also in one that the machine does not declare; for NULL, the source is ``""``. The outcome is a :class:`Moved` of
    the event ``"force_state"``, and so is the history row. *column* names the machine when the model has several. With
    an ``AsyncSession``, await the call.

    Raises: ValueError for an undeclared state; TypeError when an effect of ``on_enter`` or ``on_exit`` needs a payload;
    InstanceStateError, RowNotFound, UniqueViolation.
    """
    attribution = Attribution(actor, details)
    return within(session_or_own(session, instance), _force_state)(instance, state, column, attribution)


def _force_state(session: Session, instance: Any, state: Any, column: Any, attribution: Attribution) -> Moved[Any]:
    mapped = sole_state(type(instance), column)
    stored = mapped.machine.stored(state)
    attribution = checked_attribution(session, mapped, attribution)
    flush_first(session, mapped.mapper, model=mapped.model, event=FORCED)
    parts = persistent_key(session, instance)
    event = mapped.forced_to(mapped.machine.loaded(stored))
    parameters: dict[str, Any] = dict(zip(mapped.key_names, parts, strict=True))
    parameters["fsm_state"] = mapped.machine.loaded(stored)  # the parameter has the column's own type
    parameters |= payload_parameters(mapped, event, {})
    fire = Fire(mapped, event, plain_key(parts), parameters, attribution, instance=instance)
    with watching(Attempt("force_state", mapped.model, mapped.table_name, FORCED, fire.key)) as attempt:
        attempt.result = moved = _send_forced(Writer(session, mapped), fire, stored)
    return moved


def _send_forced(writer: Writer, fire: Fire, stored: str) -> Moved[Any]:
    writer.find_shard(fire)
    connection, has_moved = writer.connection(fire.event, fire.key), False
    try:
        writer.require_visible(connection, fire)
        know_version(writer, fire)
        fires.next_version(connection, fire)
        fire.knows_version = False  # the statement does not look at the row's version
        moved = fires.force(connection, fire, stored)
        show_moved(writer, fire, moved)
        if writer.mapped.extras.hooks:
            has_moved = True
            announce(writer.mapped, moved, writer.session, connection)
    except (StatementError, RefusedByDatabase) as error:
        raise_explained(error, connection, has_moved=has_moved, **fire.row)
    return moved
