""":func:`fire_or_create`: an event on a row that may not be there yet."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar, overload

from sqlalchemy import Connection, TextClause, insert, inspect
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import InstanceState, Session, make_transient_to_detached
from sqlalchemy.orm.attributes import set_committed_value
from sqlalchemy.sql import visitors

from ..core.failures import flush_first
from ..databases import backend_of
from ..errors import KeyConflict, RowNotFound, UnknownState
from ..errors.texts import shown
from ..outcomes import NO_PAYLOAD, Moved, Refused
from ..sql.code import Created, NoRow, Refusal, Taken
from ..sql.events import VALUE
from .column import MappedState, expirable, mapped_state
from .firing import (
    AnySession,
    Said,
    Shot,
    fire,
    has_filters,
    in_session,
    is_sharded,
    payload_parameters,
    plain_key,
)
from .history import checked_said

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
    column: Any = ...,
    actor: str | None = ...,
    details: Any = ...,
    token: str | None = ...,
    **payload: Any,
) -> Moved[M]: ...
@overload
def fire_or_create(
    instance: M,
    event: str,
    session: AsyncSession,
    /,
    *,
    column: Any = ...,
    actor: str | None = ...,
    details: Any = ...,
    token: str | None = ...,
    **payload: Any,
) -> Awaitable[Moved[M]]: ...
def fire_or_create(
    instance: M,
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
    """Fire *event* on the row with the key of *instance*; a missing row is created as *instance* has it, and moved.

    *instance* is a new object with its primary key set. ``.created`` of the outcome tells which it was. A row that is
    created is in the state that the event leads to from the initial one; an existing row keeps its columns and moves
    as by ``fire()``. A refusal is a refusal in both: nothing is created in a state that the event would not leave.

    On MySQL and MariaDB it is one ``INSERT … ON DUPLICATE KEY UPDATE``, unless the event has guards or effects, which
    need a row to be evaluated on: then it is fired, and only if there is no row, inserted and fired. Afterwards
    *instance* is in the session, unless that holds another object for the row: then ``.instance`` is that one.

    Raises: KeyConflict when another row holds one of its unique values, which is left alone; TypeError for an
    incomplete key or a model of several tables; ValueError when *instance* has a state of its own; else as ``fire()``.
    """
    return in_session(session, _fire_or_create, instance, event, column, payload, (actor, details, token))


def _fire_or_create(
    session: Session,
    instance: Any,
    event: str,
    column: Any,
    payload: Mapping[str, Any],
    said: Said,
) -> Moved[Any]:
    state = inspect(instance, raiseerr=False)
    if not isinstance(state, InstanceState):
        raise TypeError(f"a new instance with its key is needed, such as Order(id=20), and not {shown(instance)}")
    if state.has_identity:
        moved: Moved[Any] = fire(instance, event, session, column, payload, said)
        return moved
    mapped = mapped_state(type(instance), event, column)
    sql = mapped.event(event)
    values = _values(mapped, instance)
    parameters = payload_parameters(mapped, sql, payload)
    if said[0] is not None or said[2] is not None:
        said = checked_said(said, mapped)
    if state.pending:
        session.expunge(instance)  # a flush would insert it
    flush_first(session, mapped.mapper, model=mapped.model, event=event)
    key = tuple(values[part.key] for part in sql.row.key)
    parameters |= dict(zip(mapped.key_names, key, strict=True))
    creation = Creation(
        mapped, sql, session, plain_key(key), parameters, None, *said, payload or NO_PAYLOAD, values=values
    )
    creation.shard = _chosen_shard(session, mapped, instance)
    outcome = creation.fire()
    return replace(outcome, instance=_attached(creation, instance, outcome))


def _values(mapped: MappedState, instance: Any) -> dict[str, Any]:
    """What the new row holds, by the table's column keys; what is not set is left to the columns' defaults."""
    row = mapped.row
    if len(mapped.mapper.tables) > 1:
        raise TypeError(f"{mapped.model.__name__} is mapped to several tables; fire_or_create() writes one")
    values = {column.key: instance.__dict__[name] for name, column in row.columns.items() if name in instance.__dict__}
    missing = [part.key for part in row.key if values.get(part.key) is None]
    if missing:
        raise TypeError(
            f"fire_or_create() needs the whole key of {mapped.model.__name__}: {', '.join(missing)} is not set"
        )
    mapped.key_parts(tuple(values[part.key] for part in row.key))
    state = values.pop(row.state.key, None)
    if state not in (None, mapped.machine.initial):
        initial = mapped.machine.initial
        raise ValueError(f"fire_or_create() creates from the initial state {initial!r}, and the instance has {state!r}")
    makes_versions = mapped.mapper.version_id_generator is not False
    if row.version is not None and row.version.key not in values and makes_versions:
        values[row.version.key] = mapped.next_version(None)
    return values


def _chosen_shard(session: Session, mapped: MappedState, instance: Any) -> Any:
    """Where a ShardedSession would insert *instance*, which is told so; None in other sessions."""
    if not is_sharded(session):
        return None
    chooser: Any = session
    inspect(instance).identity_token = chooser.shard_chooser(mapped.mapper, instance)
    return inspect(instance).identity_token


def _attached(creation: Creation, instance: Any, moved: Moved[Any]) -> Any:
    """The session's object for the row: *instance*, unless there was one before; None where a replay's row is gone."""
    session, mapped, event = creation.session, creation.mapped, creation.event
    held = session.identity_map.get(creation.identity())
    if held is not None:
        return held
    if moved.replayed and creation.stored is None:
        return None
    make_transient_to_detached(instance)
    session.add(instance)
    names = {attribute.key for attribute in expirable(mapped.mapper)} - {mapped.attribute}
    if moved.created:  # what it was made with counts, but for what the move has changed, the version, and the defaults
        changed = {name for name, column in event.row.columns.items() if column is event.row.version}
        names -= instance.__dict__.keys() - changed.union(mapped.changed_with(event))
    session.expire(instance, names)  # else the row's own columns count
    set_committed_value(instance, mapped.attribute, creation.stored if moved.replayed else moved.target)
    return instance


@dataclass(slots=True)
class Creation(Shot):
    """A shot at a row that it creates if it is missing."""

    values: Mapping[str, Any] = field(default_factory=dict)
    stored: Any = None  # after a replay, what the row holds now

    def attempt(self, connection: Connection) -> Moved[Any] | Refused[Any]:
        initial = self.mapped.machine.stored(self.mapped.machine.initial)
        branches = self.event.from_source().get(initial, [])
        if not branches:
            return self._fire_existing(connection)
        backend = backend_of(connection)
        if not backend.can_upsert or not self._is_plain() or has_filters(self.session):
            return self._fire_then_create(connection)
        self.know_version(connection)
        values = {VALUE.format(name): value for name, value in self.values.items()}
        reading = backend.upsert(
            connection, self.event, tuple(self.values), branches[0].target, {**self.parameters, **values}
        )
        if isinstance(reading, Created):
            return self._created(self.moved(connection, initial, branches[0].target))
        if isinstance(reading, Taken):
            return self.moved(connection, reading.branch.source, reading.branch.target)
        if isinstance(reading, NoRow):
            raise KeyConflict(**self.row)
        if isinstance(reading, Refusal):
            return self._refused(reading.state, reading.reason)
        raise UnknownState(state=self.stored_state(connection), declared=self.mapped.machine.states, **self.row)

    def replayed(self, connection: Connection, earlier: Moved[Any]) -> Moved[Any]:
        moved = Shot.replayed(self, connection, earlier)
        self.stored = self.stored_state(connection)
        return moved

    def _is_plain(self) -> bool:
        """Whether the move needs nothing that has to be evaluated on the row.

        Text that names a column alone, as in ``onupdate=text("steps + 1")``, is ambiguous beside the row to insert.
        """
        implied = [part for value in self.event.row.implied.values() for part in visitors.iterate(value)]
        text = [part for part in implied if isinstance(part, TextClause) or getattr(part, "is_literal", False)]
        if any("." not in str(part) for part in text):
            return False
        by_python = [c for c in self.event.row.table.c if c.onupdate is not None and not c.onupdate.is_clause_element]
        return not by_python and not any(branch.guard is not None or branch.effects for branch in self.event.branches)

    def _fire_existing(self, connection: Connection) -> Moved[Any] | Refused[Any]:
        """Fire on an event that a new row would refuse."""
        try:
            return Shot.attempt(self, connection)
        except RowNotFound:
            return self._refused(self.mapped.machine.stored(self.mapped.machine.initial), "state")

    def _fire_then_create(self, connection: Connection) -> Moved[Any] | Refused[Any]:
        try:
            return Shot.attempt(self, connection)
        except RowNotFound:
            pass
        initial = self.mapped.machine.stored(self.mapped.machine.initial)
        table = self.event.row.table
        connection.exec_driver_sql("SAVEPOINT fsm_create")
        try:
            connection.execute(insert(table).values({**self.values, self.event.row.state.key: initial}))
        except IntegrityError as error:  # somebody was faster, or another row holds a unique value
            connection.exec_driver_sql("ROLLBACK TO SAVEPOINT fsm_create")
            try:
                return Shot.attempt(self, connection)
            except RowNotFound:
                raise KeyConflict(**self.row) from error
        outcome = Shot.attempt(self, connection)
        if isinstance(outcome, Moved):
            return self._created(outcome)
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT fsm_create")
        return outcome

    def _created(self, moved: Moved[Any]) -> Moved[Any]:
        return replace(moved, created=True)
