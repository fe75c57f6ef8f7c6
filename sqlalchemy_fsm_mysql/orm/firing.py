"""Firing one event on one row through a session: the work of ``order.fire()``, ``fire_key`` and ``force_state``.

:func:`fire_row` is the whole act, from the arguments of a call to its outcome. ``core.fires`` sends the statement; here
the session gives the connection, and its instances, journal and hooks learn the outcome.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal

from sqlalchemy import Connection
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import Session

from ..core import fires, packets
from ..core.attribution import NO_ATTRIBUTION, Attribution
from ..core.failures import give_up_unheard, raise_explained
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
from .comparator import STATES
from .hooks import announce
from .instances import know_version, show_moved, show_refused, show_row, show_state
from .journal import note
from .mapped import mapped_event, sole_state
from .sessions import (
    Writer,
    checked_attribution,
    flush_first,
    persistent_key,
    session_or_own,
    within,
)

# What flush() itself asks first: most sessions have nothing to flush. The name is private, and where a release of
# SQLAlchemy lacks it, flush() is called each time.
_is_clean: Callable[[Session], bool] = getattr(Session, "_is_clean", lambda _: False)


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
    # An event that was fired before is found here, as mapped_event() finds it, without the call.
    states = model.__dict__.get(STATES) if column is None and type(event) is str and isinstance(model, type) else None
    mapped, sql = (states is not None and states.events.get(event)) or mapped_event(model, event, column)
    parts: tuple[Any, ...] = ()
    if instance is None:
        parts = (key,) if type(key) in mapped.plain_keys else mapped.key_parts(key)
    parameters = payload_parameters(mapped, sql, payload) if payload or sql.payload else {}
    if attribution is not NO_ATTRIBUTION and attribution.is_given:
        attribution = checked_attribution(session, mapped, attribution, sql)
    # 2. Flush pending changes, so that the event sees them. A flush may give the instance its key.
    if not _is_clean(session):
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
        is_plain = token is None and mapped.extras.history is None and fire.event.row.version is None
        is_plain = is_plain and not session.dispatch.do_orm_execute
        # As outcome_of(), for most machines.
        outcome = fires.fire(connection, fire) if is_plain else outcome_of(writer, connection, fire)
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
    except BaseException as interruption:
        give_up_unheard(interruption, connection)
        raise
    return outcome


def outcome_of(writer: Writer, connection: Connection, fire: Fire) -> Moved[Any] | Refused[Any]:
    """Send *fire* in the way that it needs: in a packet, under its token, or as the one statement."""
    if writer.mapped.extras.history is not None and packets.takes(connection, fire):
        return send(writer, connection, fire, packets.fire)
    if fire.attribution.token is not None:
        return fire_under_token(connection, fire, lambda: send(writer, connection, fire))
    return send(writer, connection, fire)


def send(
    writer: Writer,
    connection: Connection,
    fire: Fire,
    by: Callable[[Connection, Fire], Moved[Any] | Refused[Any]] = fires.fire,
) -> Moved[Any] | Refused[Any]:
    """Send the statement of *fire* in a session with filters, or on a row with a version."""
    if writer.session.dispatch.do_orm_execute:
        writer.require_visible(connection, fire)
    if fire.event.row.version is not None:
        know_version(writer, fire)
        fires.next_version(connection, fire)
    return by(connection, fire)


def show_replayed(writer: Writer, connection: Connection, fire: Fire) -> None:
    """Set the row's instance to the row's state now: others may have moved the row since the first fire."""
    instance = fire.instance if fire.instance is not None else writer.instance(fire.key)
    stored = fires.stored_state(connection, fire) if instance is not None else NO_ROW
    if stored is not NO_ROW:
        show_state(writer, instance, stored)


def fire_of_instance(
    name: Literal["fire", "try_fire"],
    instance: Any,
    event: str,
    session: Any,
    column: Any,
    payload: Mapping[str, Any],
    actor: Any,
    details: Any,
    token: Any,
) -> Any:
    """The work of the methods ``fire`` and ``try_fire``, by *name*."""
    is_given = actor is not None or details is not None or token is not None
    attribution, raises = Attribution(actor, details, token) if is_given else NO_ATTRIBUTION, name == "fire"
    model = type(instance)
    if isinstance(session, Session):  # as in most calls; within() finds the way for all else
        return fire_row(session, model, instance, None, event, column, payload, attribution, raises_refusal=raises)
    work = within(session_or_own(session, instance), fire_row, name)
    return work(model, instance, None, event, column, payload, attribution, raises_refusal=raises)


def fire_at_key(
    name: Literal["fire_key", "try_fire_key"],
    model: type[Any],
    key: Any,
    event: str,
    session: Any,
    column: Any,
    payload: Mapping[str, Any],
    actor: Any,
    details: Any,
    token: Any,
) -> Any:
    """The work of the functions ``fire_key`` and ``try_fire_key``, as :func:`fire_of_instance`."""
    is_given = actor is not None or details is not None or token is not None
    attribution, raises = Attribution(actor, details, token) if is_given else NO_ATTRIBUTION, name == "fire_key"
    # Most calls have one of these two. For all else that may stand in their place, within() finds the way.
    if isinstance(session, Session):
        return fire_row(session, model, None, key, event, column, payload, attribution, raises_refusal=raises)
    if isinstance(session, Connection):
        return _fire_without_session(
            session, model, None, key, event, column, payload, attribution, raises_refusal=raises
        )
    work = within(session, fire_row, name, on_connection=_fire_without_session)
    return work(model, None, key, event, column, payload, attribution, raises_refusal=raises)


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
    states = model.__dict__.get(STATES) if column is None and type(event) is str and isinstance(model, type) else None
    mapped, sql = (states is not None and states.events.get(event)) or mapped_event(model, event, column)  # as fire_row
    return core_fire_key(connection, mapped, sql, key, payload, attribution, raises_refusal=raises_refusal)


def force(instance: Any, state: Any, session: Any, column: Any, actor: str | None, details: Any) -> Any:
    """The work of :func:`~.calls.force_state`."""
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
    except BaseException as interruption:
        give_up_unheard(interruption, connection)
        raise
    return moved
