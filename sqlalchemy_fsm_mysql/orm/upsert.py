""":func:`fire_or_create`: an event on a row that may be missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, overload

from sqlalchemy import ClauseElement, Column, Connection, Integer, inspect
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import InstanceState, Session, make_transient_to_detached
from sqlalchemy.orm.attributes import instance_state, set_committed_value
from sqlalchemy.types import NULLTYPE

from ..core import fires, keys
from ..core.attribution import Attribution
from ..core.failures import give_up_unheard, raise_explained
from ..core.fires import Fire
from ..core.payload import payload_parameters
from ..core.target import plain_key
from ..core.tokens import fire_under_token
from ..core.upsert import fire_or_insert
from ..errors import RefusedByDatabase
from ..errors.texts import shown
from ..observation import Attempt, is_watched, watching
from ..outcomes import NO_PAYLOAD, Moved, ReadOnlyMapping, Refused
from ..sql.code import NO_ROW
from ..sql.values import python_types, unfit
from .awaited import Later
from .firing import fire_row, send
from .hooks import announce
from .instances import know_version, show_moved, show_refused, show_state
from .journal import note
from .mapped import MappedState, expirable, mapped_event
from .sessions import (
    AnySession,
    AsyncPlace,
    SyncPlace,
    Writer,
    checked_attribution,
    flush_first,
    has_filters,
    is_sharded,
    within,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

M = TypeVar("M")


@overload
def fire_or_create(
    instance: M,
    event: str,
    session: AnySession,
    /,
    *,
    column: object = ...,
    actor: str | None = ...,
    details: object = ...,
    token: str | None = ...,
    **payload: object,
) -> Moved[M]: ...
@overload
def fire_or_create(
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
@overload
def fire_or_create(
    model: type[M],
    values: Mapping[str, object],
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
def fire_or_create(
    model: type[M],
    values: Mapping[str, object],
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
def fire_or_create(
    *arguments: Any,
    column: Any = None,
    actor: str | None = None,
    details: Any = None,
    token: str | None = None,
    **payload: Any,
) -> Any:
    """Fire *event* on the row with the key of *instance*. If the row is missing, create it and move it.

    Returns: a :class:`Moved` whose ``.created`` is true when the row was created. A created row is in the state to
    which the event leads from the initial state. An existing row keeps its columns and moves as by ``fire()``.

    *instance* is a new object with its primary key set. Instead of *instance*, you can pass the model and the *values*
    of its attributes: ``fire_or_create(Order, {"id": 20}, "Pay", connection)``. Then no object is made, and *session*
    can be a Core ``Connection``.

    If the event is not allowed from the initial state, a missing row is refused and not created. On MySQL and MariaDB
    the call is one ``INSERT … ON DUPLICATE KEY UPDATE``. An event with guards or effects needs a row to evaluate them
    on, so it is fired first, and a missing row is inserted and then fired on. Afterwards *instance* is in the session,
    unless the session has another object for the row: then that object is ``.instance``.

    Raises: KeyConflict when another row has one of its unique values; TypeError for an incomplete key, values that the
    model has no attribute for, or a model of several tables; ValueError when another state than the initial one is
    passed; and as ``fire()``.
    """
    attribution = Attribution(actor, details, token)
    if len(arguments) == 4:  # noqa: PLR2004 - the model and its values
        model, values, event, place = arguments
        if not isinstance(values, Mapping):
            raise TypeError(f"the values of the new row are a dict of its attributes, not {shown(values)}")
        work = within(place, _in_session, "fire_or_create", on_connection=_on_connection)
        return work(model, None, dict(values), event, column, payload, attribution)
    if len(arguments) != 3:  # noqa: PLR2004
        raise TypeError(
            "fire_or_create() takes an instance, an event and a session; or a model, the values of its attributes, an"
            f" event, and a session or a Connection; {len(arguments)} were given"
        )
    instance, event, session = arguments
    # Not inspect(): it raises an error of its own for an AsyncEngine.
    if not isinstance(getattr(instance, "_sa_instance_state", None), InstanceState):
        raise TypeError(
            f"a new instance with its key is needed, such as Order(id=20), and not {shown(instance)};"
            ' or a model and values: fire_or_create(Order, {"id": 20}, event, session)'
        )
    work = within(session, _in_session, "fire_or_create")
    return work(type(instance), instance, instance.__dict__, event, column, payload, attribution)


def _in_session(
    session: Session,
    model: type[Any],
    instance: Any,
    given: Mapping[str, Any],
    event: str,
    column: Any,
    payload: Mapping[str, Any],
    attribution: Attribution,
) -> Moved[Any] | Refused[Any]:
    # 1. A stored instance has a row: it is an ordinary fire.
    state: InstanceState[Any] | None = None if instance is None else instance_state(instance)
    if state is not None and state.has_identity:
        return fire_row(session, model, instance, None, event, column, payload, attribution, raises_refusal=True)
    # 2. Check the arguments, and take the row's values from the instance.
    mapped, sql = mapped_event(model, event, column)
    values = _row_values(mapped, given, is_instance=instance is not None)
    parameters = payload_parameters(mapped, sql, payload)
    if attribution.is_given:
        attribution = checked_attribution(session, mapped, attribution)
    # 3. Flush the rest of what is pending: a flush of the instance would insert it.
    if state is not None and state.pending:
        session.expunge(instance)
    flush_first(session, mapped.mapper, model=mapped.model, event=event)
    parts = tuple(values[part.key] for part in sql.row.key)
    parameters |= dict(zip(mapped.key_names, parts, strict=True))
    given_payload = ReadOnlyMapping(payload) if payload else NO_PAYLOAD
    fire = Fire(mapped, sql, plain_key(parts), parameters, attribution, given_payload)
    # 4. Send the statement, and bring the session up to date.
    writer = Writer(session, mapped, _chosen_shard(session, mapped, instance))
    if not is_watched():
        outcome = _carry_out(writer, fire, values, instance)
    else:
        with watching(Attempt("fire", mapped.model, mapped.table_name, sql.name, fire.key)) as attempt:
            attempt.result = outcome = _carry_out(writer, fire, values, instance)
    if isinstance(outcome, Refused):
        raise fires.refusal_error(fire, outcome)
    return outcome


def _on_connection(
    connection: Connection,
    model: type[Any],
    instance: None,
    given: Mapping[str, Any],
    event: str,
    column: Any,
    payload: Mapping[str, Any],
    attribution: Attribution,
) -> Moved[Any] | Refused[Any]:
    mapped, sql = mapped_event(model, event, column)
    values = _row_values(mapped, given, is_instance=False)
    parts = tuple(values[part.key] for part in sql.row.key)
    fire = keys.new_fire(connection, mapped, sql, parts, payload, attribution)

    def send(connection: Connection, fire: Fire) -> Moved[Any] | Refused[Any]:
        return fire_or_insert(connection, fire, values, lambda: keys.send(connection, fire))

    outcome = keys.watched(connection, fire, send)
    if isinstance(outcome, Refused):
        raise fires.refusal_error(fire, outcome)
    return outcome


def _carry_out(writer: Writer, fire: Fire, values: Mapping[str, Any], instance: Any) -> Moved[Any] | Refused[Any]:
    session, mapped, token = writer.session, writer.mapped, fire.attribution.token
    connection, has_moved = writer.connection(fire.event, fire.key), False
    try:
        if token is None:
            outcome = _fire_or_insert(writer, connection, fire, values)
        else:
            outcome = fire_under_token(connection, fire, lambda: _fire_or_insert(writer, connection, fire, values))
        if isinstance(outcome, Refused):
            show_refused(writer, fire, outcome)
            return outcome
        if outcome.replayed:
            return _with_instance(writer, connection, fire, instance, outcome)
        show_moved(writer, fire, outcome)
        if token is not None:
            note(session, token=token)
        if mapped.extras.hooks:
            has_moved = True
            announce(mapped, outcome, session, connection)
    except (StatementError, RefusedByDatabase) as error:
        raise_explained(error, connection, has_moved=has_moved, **fire.row)
    except BaseException as interruption:
        give_up_unheard(interruption, connection)
        raise
    return replace(outcome, instance=_attached(writer, fire, instance, outcome, outcome.target))


def _fire_or_insert(
    writer: Writer, connection: Connection, fire: Fire, values: Mapping[str, Any]
) -> Moved[Any] | Refused[Any]:
    """Fire on the row of *fire*; a missing row is inserted with *values*."""
    know_version(writer, fire)
    return fire_or_insert(
        connection,
        fire,
        values,
        lambda: send(writer, connection, fire),
        is_filtered=has_filters(writer.session),
    )


def _row_values(mapped: MappedState, given: Mapping[str, Any], *, is_instance: bool) -> dict[str, Any]:
    """The values of the new row by the table's column keys, from those *given* by attribute name.

    An attribute that is not given has its column's default. The dict of an instance has more than columns.

    Raises: TypeError for a model of several tables, an incomplete key, or a name that is not an attribute; ValueError
    for another than the initial state.
    """
    row, model = mapped.row, mapped.model.__name__
    if len(mapped.mapper.tables) > 1:
        raise TypeError(f"{model} is mapped to several tables; fire_or_create() writes one")
    unknown = [] if is_instance else [name for name in given if name not in row.columns]
    if unknown:
        raise TypeError(f"{model} has no column {', '.join(map(shown, unknown))}; it has {', '.join(row.columns)}")
    values = {column.key: given[name] for name, column in row.columns.items() if name in given}
    missing = [part.key for part in row.key if values.get(part.key) is None]
    if missing:
        raise TypeError(f"fire_or_create() needs the whole key of {model}: {', '.join(missing)} is not set")
    mapped.key_parts(tuple(values[part.key] for part in row.key))
    for name, column in row.columns.items():
        _check_value(mapped, name, column, given.get(name))
    state = values.pop(row.state.key, None)
    if state not in (None, mapped.machine.initial):
        initial = mapped.machine.initial
        raise ValueError(f"fire_or_create() creates from the initial state {initial!r}, and {state!r} was given")
    makes_versions = mapped.mapper.version_id_generator is not False
    if row.version is not None and row.version.key not in values and makes_versions:
        values[row.version.key] = mapped.next_version(None)
    return values


def _check_value(mapped: MappedState, name: str, column: Column[Any], value: Any) -> None:
    """Refuse a value that a driver would spell out as SQL, such as a list or ``Decimal("NaN")``.

    Raises: TypeError, ValueError.
    """
    if hasattr(type(value), "__clause_element__") or isinstance(value, ClauseElement) or not python_types(column.type):
        return
    # An attribute may have any type that the server converts, as in a flush. A payload may not: it opens guards.
    is_whole = isinstance(column.type, Integer) and isinstance(value, int)
    problem = unfit(column.type if is_whole and not isinstance(value, bool) else NULLTYPE, value)
    if problem is not None:
        raise type(problem)(f"{mapped.model.__name__}.{name} {problem}")


def _chosen_shard(session: Session, mapped: MappedState, instance: Any) -> Any:
    """The shard to which a ShardedSession would insert *instance*, now noted on it; None in other sessions.

    Raises: TypeError without an instance: the session's ``shard_chooser`` takes one.
    """
    if not is_sharded(session):
        return None
    if instance is None:
        raise TypeError(f"a session with shards chooses one by an instance: give a {mapped.model.__name__}, not values")
    chooser: Any = session
    inspect(instance).identity_token = chooser.shard_chooser(mapped.mapper, instance)
    return inspect(instance).identity_token


def _with_instance(
    writer: Writer, connection: Connection, fire: Fire, instance: Any, outcome: Moved[Any]
) -> Moved[Any]:
    """*outcome*, of an earlier call, with the session's object, set to the row's state now; None if the row is gone."""
    stored = fires.stored_state(connection, fire)
    existing = writer.instance(fire.key)
    if stored is NO_ROW:
        return replace(outcome, instance=existing)
    if existing is not None:
        show_state(writer, existing, stored)
    return replace(outcome, instance=_attached(writer, fire, instance, outcome, stored))


def _attached(writer: Writer, fire: Fire, instance: Any, moved: Moved[Any], state: Any) -> Any:
    """The session's object for the row, set to *state*: *instance*, unless the session has another."""
    session, mapped, event = writer.session, writer.mapped, fire.event
    existing = writer.instance(fire.key)
    if existing is not None or instance is None:
        return existing
    make_transient_to_detached(instance)
    session.add(instance)
    names = {attribute.key for attribute in expirable(mapped.mapper)} - {mapped.attribute}
    # A created row has the values of the instance, except for the database's defaults and the columns that the move
    # has changed: only those are read again. An existing row has other values, so all are read again.
    if moved.created:
        changed = {name for name, column in event.row.columns.items() if column is event.row.version}
        changed.update(mapped.changed_with(event))
        names = {name for name in names if name in changed or name not in instance.__dict__}
    session.expire(instance, names)
    set_committed_value(instance, mapped.attribute, state)
    return instance
