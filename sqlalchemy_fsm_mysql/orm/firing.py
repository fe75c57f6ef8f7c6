"""Firing one event on one row: execute, tell what happened, and bring the session's instance up to date."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum, auto
from math import isfinite
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, overload

from sqlalchemy import Connection, Select, inspect, literal_column, select
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError
from sqlalchemy.orm import Session, scoped_session
from sqlalchemy.orm.attributes import instance_state, set_committed_value
from sqlalchemy.util.concurrency import in_greenlet

from ..core.failures import flush_first, note_fire, raise_explained
from ..databases import backend_of
from ..errors import (
    GuardNotSatisfied,
    InstanceStateError,
    RefusedByDatabase,
    RowNotFound,
    TokenConflict,
    TransitionNotAllowed,
    UnknownState,
)
from ..errors.texts import row_label, shown, stored_form
from ..machine.states import FORCED
from ..observation import Attempt, is_watched, watching
from ..outcomes import NO_PAYLOAD, Moved, Refused
from ..sql.code import Refusal, Taken, Undeclared
from ..sql.events import KNOWN_VERSION, NEXT_VERSION, EventSQL, Takes
from .column import (
    MappedState,
    attribute_state,
    expirable,
    mapped_event,
    mapped_state,
    mapped_states,
    named_state,
    sole_state,
)
from .history import History, checked_said, checked_token, history_of, require_transaction
from .hooks import announce
from .journal import note

if TYPE_CHECKING:  # importing it costs as much as half of sqlalchemy.orm
    from sqlalchemy.ext.asyncio import AsyncSession

# What drivers bind as one value without help from a column's type.
_BYTES = (bytes, bytearray, memoryview)
_SCALARS = (str, bytes, bytearray, Real, Decimal, date, time, timedelta)

M = TypeVar("M")
R = TypeVar("R")
AnySession: TypeAlias = "Session | scoped_session[Any]"
Said: TypeAlias = "tuple[str | None, Any, str | None]"
"""What the caller of a fire said about it: actor, details, token."""


class Version(Enum):
    """The row's version before the event, beside the one that the session knew."""

    UNKNOWN = auto()  # the session knew none
    AS_KNOWN = auto()
    OTHER = auto()


@dataclass(slots=True)
class Shot:
    """One event about to be fired on one row, and what the caller said about it."""

    mapped: MappedState
    event: EventSQL
    session: Session
    key: Any
    parameters: dict[str, Any]
    instance: Any = None
    actor: str | None = None
    details: Any = None
    token: str | None = None
    payload: Mapping[str, Any] = NO_PAYLOAD
    shard: Any = None  # of a ShardedSession

    @property
    def row(self) -> dict[str, Any]:
        """What an error says of this shot."""
        return {
            "model": self.mapped.model,
            "table": self.mapped.table_name,
            "key": self.key,
            "event": self.event.name,
        }

    def fire(self) -> Moved[Any]:
        """As :meth:`try_fire`, a refusal raised."""
        outcome = self.try_fire()
        if isinstance(outcome, Refused):
            raise self.refusal(outcome)
        return outcome

    def try_fire(self) -> Moved[Any] | Refused[Any]:
        """Send the UPDATE, and tell what came of it.

        Raises: RowNotFound, UnknownState, TokenConflict, TransactionRequired, and what
        :func:`~.transactions.raise_explained` makes of a driver's error.
        """
        if not is_watched():
            return self._fire()
        with watching(Attempt("fire", self.mapped.model, self.mapped.table_name, self.event.name, self.key)) as attempt:
            attempt.result = outcome = self._fire()
        return outcome

    def _fire(self) -> Moved[Any] | Refused[Any]:
        connection = self.connection()
        try:
            outcome = self.attempt(connection) if self.token is None else self._fire_once(connection)
            if self.mapped.extras.hooks and isinstance(outcome, Moved) and not outcome.replayed:
                self.announce(outcome, connection)
        except (StatementError, RefusedByDatabase) as error:
            raise_explained(error, connection, **self.row)
        return outcome

    def attempt(self, connection: Connection) -> Moved[Any] | Refused[Any]:
        event = self.event
        if self.session.dispatch.do_orm_execute:
            self.require_visible(connection)
        known_version = event.row.version is not None and self.know_version(connection)
        backend = backend_of(connection)
        reading = backend.fire(connection, event, self.parameters, known_version=known_version)
        if isinstance(reading, Taken):
            version = Version.UNKNOWN
            if known_version:
                version = Version.OTHER if reading.is_other_version else Version.AS_KNOWN
            return self.moved(connection, reading.branch.source, reading.branch.target, version)
        if isinstance(reading, Refusal):
            return self._refused(reading.state, reading.reason)
        stored = self.stored_state(connection) if isinstance(reading, Undeclared) else None
        if stored is None:
            raise RowNotFound(**self.row)
        raise UnknownState(state=stored, declared=self.mapped.machine.states, **self.row)

    def _fire_once(self, connection: Connection) -> Moved[Any] | Refused[Any]:
        """Fire under a token. Its unique index decides between two at once; the loser takes back what it did."""
        connection.exec_driver_sql("SAVEPOINT fsm_token")
        refusal: Exception | None = None
        try:
            outcome = self.attempt(connection)
            if outcome:
                note(self.session, token=self.token)
                return outcome
        except IntegrityError as error:
            connection.exec_driver_sql("ROLLBACK TO SAVEPOINT fsm_token")
            refusal = error
        except (RowNotFound, UnknownState) as error:
            refusal = error
        earlier = self.mapped.extras.history.with_token(connection, self.token)
        if earlier is not None:
            return self.replayed(connection, earlier)
        if refusal is not None:
            raise refusal
        return outcome

    def replayed(self, connection: Connection, earlier: Moved[Any]) -> Moved[Any]:
        """The outcome of an *earlier* fire under the token; the instance shows what the row holds by now."""
        if (earlier.key, earlier.event) != (self.key, self.event.name):
            label = f"{earlier.event!r} on {row_label(self.mapped.table_name, earlier.key)}"
            raise TokenConflict(token=earlier.token or "", earlier=label, **self.row)
        held = self._held()
        stored = self.stored_state(connection) if held is not None else None
        if stored is not None:
            self._set_state(held, stored)
        return replace(earlier, model=self.mapped.model, instance=self.instance, payload=self.payload)

    def stored_state(self, connection: Connection) -> Any:
        """The row's state now, read with a lock; None for a missing row."""
        return backend_of(connection).stored_state(connection, self.event, self.parameters)

    def connection(self) -> Connection:
        """The connection that the row is written on."""
        # Not Session.execute(), which costs as much again as the statement.
        try:
            connection = self.session.connection(bind_arguments=self.bind_arguments())
        except DBAPIError as error:  # of a SAVEPOINT, which is sent only now
            raise_explained(error, self.session.get_bind(**self.bind_arguments()), **self.row)
        ended = note_fire(connection)
        if ended is not None:
            raise_explained(ended, connection, **self.row)
        if self.mapped.extras.history is not None:
            require_transaction(connection, self.mapped)
        return connection

    def bind_arguments(self) -> dict[str, Any]:
        """What tells ``Session.get_bind()`` which database is meant, and that this writes."""
        arguments = {"mapper": self.mapped.mapper, "clause": self.event.row.writing}
        if self.session.connection_callable is not None:  # it is sharded
            if self.shard is None:
                self.shard = self._find_shard()
            arguments["shard_id"] = self.shard
        return arguments

    def _find_shard(self) -> Any:
        """Where the row is: the instance knows it, and of a key the session's ``identity_chooser``."""
        if self.instance is not None:
            return inspect(self.instance).identity_token
        mapper, what = self.mapped.mapper, f"{self.event.name!r} on {self.mapped.model.__name__}"
        if self.key is None:
            raise TypeError(f"{what}: the session has several shards, and no key names one: use a session of one shard")
        key = self.key if isinstance(self.key, tuple) else (self.key,)
        chooser: Any = self.session
        shards = list(
            chooser.identity_chooser(mapper, key, lazy_loaded_from=None, execution_options={}, bind_arguments={})
        )
        if len(shards) != 1:
            names = ", ".join(map(shown, shards))
            raise TypeError(
                f"{what} {shown(self.key)}: the session's identity_chooser names {len(shards)} shards ({names}), "
                "and one row is in one: fire on its instance"
            )
        return shards[0]

    def require_visible(self, connection: Connection) -> None:
        """Ask for the row through the session, and lock it, where listeners may hide it, as those of tenants do.

        Raises: RowNotFound when they do.
        """
        if not has_filters(self.session):
            return
        backend_of(connection).lock(connection, self.event)
        query: Select[Any] = select(literal_column("1")).select_from(self.mapped.model).where(self.event.row.is_key())
        key = {name: self.parameters[name] for name in self.mapped.key_names}
        row = self.session.execute(query.with_for_update(), key, bind_arguments=self.bind_arguments()).first()
        if row is None:
            raise RowNotFound(**self.row)

    def know_version(self, connection: Connection) -> bool:
        """Add the version that the session knows of the row, and the next one where Python makes it."""
        version, mapper = self.event.row.version, self.mapped.mapper
        if version is None:
            return False
        held = self._held()
        known = held.__dict__.get(mapper.get_property_by_column(version).key) if held is not None else None
        if not self.mapped.counts_versions and mapper.version_id_generator is not False:
            # Made from the version in memory, the next one could be one that another session holds already.
            stored = backend_of(connection).stored_version(connection, self.event, self.parameters)
            self.parameters[NEXT_VERSION] = self.mapped.next_version(stored)
        if known is not None:
            self.parameters[KNOWN_VERSION] = known
        return known is not None

    def moved(self, connection: Connection, source: str, target: str, version: Version = Version.UNKNOWN) -> Moved[Any]:
        """The outcome of an UPDATE that moved the row, once its history and its instance know of it."""
        mapped, machine = self.mapped, self.mapped.machine
        history, sequence = mapped.extras.history, None
        if history is not None:
            sequence = self._record(connection, history, source, target)
        moved = Moved(
            mapped.model,
            self.key,
            self.event.name,
            machine.loaded(source),
            machine.loaded(target),
            self.instance,
            self.payload,
            self.actor,
            self.details,
            self.token,
            sequence=sequence,
        )
        held = self.instance
        if held is None and self.session.identity_map:
            held = self._held()
        if held is not None:
            self.bring_up_to_date(held, moved.target, version)
        elif self.session.in_nested_transaction():
            note(self.session, identity=self.identity())
        return moved

    def _record(self, connection: Connection, history: History, source: str, target: str) -> int:
        """Write the record. Where that fails, the row has moved already, and must not be committed without it."""
        backend = backend_of(connection)
        try:
            return backend.record(connection, history.sql, self._to_record(source, target))
        except Exception as error:
            # A token that is taken: its savepoint takes the move back.
            if self.token is None or not isinstance(error, IntegrityError):
                backend.abandon(connection)
            raise

    def announce(self, moved: Moved[Any], connection: Connection) -> None:
        """Call the hooks; not within the savepoint of a token, which an error of theirs must not roll back."""
        if self.mapped.extras.hooks:
            announce(self.mapped, moved, self.session, connection)

    def _to_record(self, source: str, target: str) -> dict[str, Any]:
        key = {name: self.parameters[name] for name in self.mapped.key_names}
        said = {"fsm_actor": self.actor, "fsm_details": self.details, "fsm_token": self.token}
        return {**key, "fsm_event": self.event.name, "fsm_source": source, "fsm_target": target, **said}

    def _refused(self, state: str, reason: Any) -> Refused[Any]:
        mapped = self.mapped
        observed = mapped.machine.loaded(state)
        instance = self._held()
        if instance is not None and instance.__dict__.get(mapped.attribute, observed) != observed:
            self._set_state(instance, observed)
        return Refused(
            mapped.model, self.key, self.event.name, observed, reason, mapped.machine.sources(self.event.name)
        )

    def refusal(self, refused: Refused[Any]) -> TransitionNotAllowed:
        """The error that says what *refused* says."""
        kind = GuardNotSatisfied if refused.reason == "guard" else TransitionNotAllowed
        return kind(state=refused.state, allowed_from=refused.allowed_from, **self.row)

    def _held(self) -> Any:
        """The instance of this row that the session holds, if any; never loads one."""
        return self.instance if self.instance is not None else self.session.identity_map.get(self.identity())

    def identity(self) -> Any:
        """The key of the row's instance in the session's ``identity_map``."""
        key = self.key if isinstance(self.key, tuple) else (self.key,)
        return self.mapped.mapper.identity_key_from_primary_key(key, identity_token=self.shard)

    def _set_state(self, instance: Any, state: Any) -> None:
        set_committed_value(instance, self.mapped.attribute, state)
        if self.session.in_nested_transaction():
            note(self.session, instance)

    def bring_up_to_date(self, instance: Any, target: Any, version: Version = Version.UNKNOWN) -> None:
        """Make *instance* show what the UPDATE did, without asking the database."""
        self._set_state(instance, target)
        # Of a subclass, when fired by the key of its base: it may map more of the row.
        mapped = (
            self.mapped if type(instance) is self.mapped.model else mapped_states(type(instance))[self.mapped.attribute]
        )
        changed = mapped.changed_with(self.event)
        if self.event.row.version is not None:
            changed += self._settle_version(instance, version)
        if changed:
            self.session.expire(instance, changed)

    def _settle_version(self, instance: Any, version: Version) -> tuple[str, ...]:
        """The next version where it is known; otherwise the attributes that have to be read again."""
        mapper = inspect(instance).mapper
        name = mapper.get_property_by_column(self.event.row.version).key
        if version is Version.AS_KNOWN:
            if mapper.version_id_generator is False:
                return (name,)
            known = self.parameters[KNOWN_VERSION]
            set_committed_value(
                instance,
                name,
                self.parameters.get(NEXT_VERSION, known + 1 if self.mapped.counts_versions else None),
            )
            return ()
        if inspect(instance).modified:
            return ()  # edits of an older version: the next flush has to find that out, so the version stays
        return tuple(attribute.key for attribute in expirable(mapper) if attribute.key != self.mapped.attribute)


def fire(instance: Any, event: str, session: Any, column: Any, payload: Mapping[str, Any], said: Said) -> Any:
    """Fire *event* on the row of *instance*; what the methods ``fire`` of the models call.

    Raises: see :meth:`~.stateful.Stateful.fire`.
    """
    return in_session(session or session_of(instance), _fire, instance, event, column, payload, said)


def try_fire(instance: Any, event: str, session: Any, column: Any, payload: Mapping[str, Any], said: Said) -> Any:
    """As :func:`fire`, with a refusal as a value."""
    return in_session(session or session_of(instance), _try_fire, instance, event, column, payload, said)


@overload
def fire_key(
    model: type[M],
    key: Any,
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
def fire_key(
    model: type[M],
    key: Any,
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
    attribute name. The rest is as for :meth:`Stateful.fire`. An instance of the row that the session holds is brought
    up to date.

    Raises: TransitionNotAllowed, GuardNotSatisfied, RowNotFound, UnknownState, and, before any SQL, UnknownEvent, and
    TypeError for a key or a payload that does not fit; and what the server may add, as there.
    """
    return in_session(session, _fire_key, model, key, event, column, payload, (actor, details, token))


@overload
def try_fire_key(
    model: type[M],
    key: Any,
    event: str,
    session: AnySession,
    /,
    *,
    column: Any = ...,
    actor: str | None = ...,
    details: Any = ...,
    token: str | None = ...,
    **payload: Any,
) -> Moved[M] | Refused[M]: ...
@overload
def try_fire_key(
    model: type[M],
    key: Any,
    event: str,
    session: AsyncSession,
    /,
    *,
    column: Any = ...,
    actor: str | None = ...,
    details: Any = ...,
    token: str | None = ...,
    **payload: Any,
) -> Awaitable[Moved[M] | Refused[M]]: ...
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
    return in_session(session, _try_fire_key, model, key, event, column, payload, (actor, details, token))


def in_session(session: Any, work: Callable[..., R], /, *arguments: Any) -> Any:
    """``work(session, *arguments)`` in the sync session behind *session*; awaitable when that is an async one.

    Raises: TypeError when *session* is none.
    """
    if isinstance(session, Session):
        return work(session, *arguments)
    if isinstance(session, scoped_session):
        return work(session(), *arguments)
    if hasattr(session, "registry"):  # an async_scoped_session, which has no run_sync of its own
        session = session()
    if hasattr(session, "run_sync"):
        return session.run_sync(work, *arguments)
    raise TypeError(f"a session is needed, got {shown(session)}; an event's payload is given by name")


def is_sharded(session: Session) -> bool:
    """Whether *session* spreads the rows of one class over several databases: a ``ShardedSession``."""
    return session.connection_callable is not None


def has_filters(session: Session) -> bool:
    """Whether listeners of ``do_orm_execute`` may add criteria to what *session* executes."""
    listeners = session.dispatch.do_orm_execute
    return len(list(listeners)) > is_sharded(session)  # a ShardedSession has one of its own, which finds the shards


def session_of(instance: Any) -> Session | AsyncSession:
    """The session that *instance* is in; the ``AsyncSession`` around it, unless sync code runs in there just now.

    Raises: InstanceStateError when it is in none.
    """
    session: Session | None = instance_state(instance).session
    if session is None:
        raise InstanceStateError(
            f"{shown_instance(instance)} is in no session: add it to one, or use fire_key() with its key"
        )
    asyncio = sys.modules.get("sqlalchemy.ext.asyncio")  # where nobody has imported it, there is no AsyncSession
    around: AsyncSession | None = asyncio.async_session(session) if asyncio is not None else None
    return session if around is None or in_greenlet() else around


def shown_instance(instance: Any) -> str:
    """*instance* for a message: its class and key, never its values."""
    state = inspect(instance)
    kind = next(
        (kind for kind in ("transient", "pending", "detached", "deleted") if getattr(state, kind)),
        "persistent",
    )
    names = [state.mapper.get_property_by_column(part).key for part in state.mapper.primary_key]
    key = state.identity or tuple(state.dict.get(name) for name in names)
    return f"the {kind} {type(instance).__name__} {'without a key' if None in key else shown(plain_key(key))}"


def plain_key(key: tuple[Any, ...]) -> Any:
    """A primary key as outcomes and messages show it: the one value, or the tuple of a composite key."""
    return key[0] if len(key) == 1 else key


def _fire(
    session: Session, instance: Any, event: str, column: Any, payload: Mapping[str, Any], said: Said
) -> Moved[Any]:
    return _at_instance(session, instance, event, column, payload, said).fire()


def _try_fire(
    session: Session, instance: Any, event: str, column: Any, payload: Mapping[str, Any], said: Said
) -> Moved[Any] | Refused[Any]:
    return _at_instance(session, instance, event, column, payload, said).try_fire()


def _fire_key(
    session: Session, model: type[Any], key: Any, event: str, column: Any, payload: Mapping[str, Any], said: Said
) -> Moved[Any]:
    return _at_key(session, model, key, event, column, payload, said).fire()


def _try_fire_key(
    session: Session, model: type[Any], key: Any, event: str, column: Any, payload: Mapping[str, Any], said: Said
) -> Moved[Any] | Refused[Any]:
    return _at_key(session, model, key, event, column, payload, said).try_fire()


def _at_instance(
    session: Session,
    instance: Any,
    event: str,
    column: Any,
    payload: Mapping[str, Any],
    said: Said,
) -> Shot:
    mapped, sql = mapped_event(type(instance), event, column)
    parameters = payload_parameters(mapped, sql, payload) if payload or sql.payload else {}
    if said[0] is not None or said[2] is not None:
        said = checked_said(said, mapped)
    flush_first(session, mapped.mapper, model=mapped.model, event=event)
    identity = _persistent_key(session, instance)
    parameters.update(zip(mapped.key_names, identity))  # noqa: B905 - both have the length of the model's key
    return Shot(mapped, sql, session, plain_key(identity), parameters, instance, *said, payload or NO_PAYLOAD)


def _at_key(
    session: Session,
    model: type[Any],
    key: Any,
    event: str,
    column: Any,
    payload: Mapping[str, Any],
    said: Said,
) -> Shot:
    mapped, sql = mapped_event(model, event, column)
    parts = mapped.key_parts(key)
    parameters = dict(zip(mapped.key_names, parts))  # noqa: B905 - key_parts() has seen to their number
    if payload or sql.payload:
        parameters |= payload_parameters(mapped, sql, payload)
    if said[0] is not None or said[2] is not None:
        said = checked_said(said, mapped)
    flush_first(session, mapped.mapper, model=mapped.model, event=event)
    return Shot(mapped, sql, session, plain_key(parts), parameters, None, *said, payload or NO_PAYLOAD)


def _persistent_key(session: Session, instance: Any) -> tuple[Any, ...]:
    state = instance_state(instance)
    around = state.session
    if around is not session and around is not None:
        raise InstanceStateError(f"{shown_instance(instance)} belongs to another session: fire with that one")
    if not state.persistent:
        what = (
            "flush it first"
            if state.pending
            else "only a stored one of this session can be fired on; fire_key() takes a key"
        )
        raise InstanceStateError(f"{shown_instance(instance)} is not stored: {what}")
    if not session.autoflush and instance in session.deleted:
        raise InstanceStateError(f"{shown_instance(instance)} is marked for deletion in this session")
    identity: tuple[Any, ...] | None = state.identity
    assert identity is not None
    return identity


def payload_parameters(mapped: MappedState, sql: EventSQL, payload: Mapping[str, Any]) -> dict[str, Any]:
    names = sql.payload
    missing = [name for name in names if name not in payload]
    unexpected = [name for name in payload if name not in names]
    if missing or unexpected:
        parts = [f"needs {', '.join(map(repr, missing))}"] if missing else []
        parts += [f"has no {', '.join(map(shown, unexpected))}"] if unexpected else []
        parts += ["the session comes second, by position"] if "session" in unexpected else []
        takes = ", ".join(map(repr, names)) or "nothing"
        raise TypeError(f"{sql.name!r} of {mapped.model.__name__} {' and '.join(parts)}; its payload is {takes}")
    for name in names:
        _check_payload(f"{name!r} of {sql.name!r}", payload[name], sql.takes.get(name, Takes.ONE_VALUE))
    return {parameter: payload[name] for parameter, name in sql.parameters.items()}


def _check_payload(what: str, value: Any, takes: Takes) -> None:
    """Refuse what a driver would spell out as SQL (a list, ``Decimal("NaN")``), or leave to the value's own ``str``.

    Raises: TypeError, ValueError.
    """
    if value is None or takes is Takes.ANYTHING:
        return
    if not isinstance(value, _BYTES if takes is Takes.BYTES else _SCALARS):
        kind = "bytes" if takes is Takes.BYTES else "one value of a column's"
        raise TypeError(f"{what} is {kind}, not {type(value).__name__}")
    if isinstance(value, (float, Decimal)) and not isfinite(value):
        raise ValueError(f"{what} is a number, and {shown(value)} is none")


def can_fire(instance: Any, event: str, *, column: Any = None) -> bool:
    """Whether *event* leaves the state that *instance* shows in memory: it may be stale, and guards are not asked.

    No SQL, unless the state is expired, as after a commit: then it is loaded like any attribute, where a sync session
    can do that; elsewhere nothing is known, and no event is said to be possible.

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
    """The events that leave the state that *instance* shows in memory, as :func:`can_fire` sees it."""
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
    state: Any,
    session: AnySession | None = ...,
    /,
    *,
    column: Any = ...,
    actor: str | None = ...,
    details: Any = ...,
) -> Moved[M]: ...
@overload
def force_state(
    instance: M,
    state: Any,
    session: AsyncSession,
    /,
    *,
    column: Any = ...,
    actor: str | None = ...,
    details: Any = ...,
) -> Awaitable[Moved[M]]: ...
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
    """Set the row of *instance* to *state*, past the machine: for operators and data repair.

    Only the edges are skipped: *state* has to be declared. The row may hold anything, also what no machine declares.
    The outcome is a :class:`Moved` of the event ``"force_state"``, and the history shows it as that. *column* names the
    machine when the model has several. Given an ``AsyncSession``, the call has to be awaited.

    Raises: ValueError for an undeclared state; InstanceStateError, RowNotFound.
    """
    return in_session(session or session_of(instance), _force_state, instance, state, column, actor, details)


def _force_state(
    session: Session, instance: Any, state: Any, column: Any, actor: str | None, details: Any
) -> Moved[Any]:
    mapped = sole_state(type(instance), column)
    stored = mapped.machine.stored(state)
    actor, details, _ = checked_said((actor, details, None), mapped)
    flush_first(session, mapped.mapper, model=mapped.model, event=mapped.forced.name)
    identity = _persistent_key(session, instance)
    parameters: dict[str, Any] = dict(zip(mapped.key_names, identity, strict=True)) | {
        "fsm_state": mapped.machine.loaded(stored)  # the parameter has the column's own type
    }
    shot = Shot(mapped, mapped.forced, session, plain_key(identity), parameters, instance, actor, details)
    with watching(Attempt("force_state", mapped.model, mapped.table_name, FORCED, shot.key)) as attempt:
        attempt.result = moved = _force(shot, stored)
    return moved


def _force(shot: Shot, stored: str) -> Moved[Any]:
    connection, parameters = shot.connection(), shot.parameters
    try:
        shot.require_visible(connection)
        shot.know_version(connection)
        held = backend_of(connection).force(connection, shot.event, parameters, stored)
        if held is None:
            raise RowNotFound(**shot.row)
        moved = shot.moved(connection, held if isinstance(held, str) else stored_form(held), stored)
        shot.announce(moved, connection)
    except (StatementError, RefusedByDatabase) as error:
        raise_explained(error, connection, **shot.row)
    return moved


def history(instance: Any, session: Any, *, column: Any = None) -> Any:
    """The records of the row of *instance*, oldest first; what the methods ``history`` of the models call."""
    return in_session(session or session_of(instance), _history, instance, column)


def _history(session: Session, instance: Any, column: Any) -> list[Any]:
    bound = history_of(type(instance), column)
    if session.autoflush and not session._flushing:  # noqa: SLF001 - as in flush_first
        session.flush()
    key = _persistent_key(session, instance)
    shard = {"shard_id": inspect(instance).identity_token} if is_sharded(session) else {}
    return bound.rows(session, key, shard)


@overload
def find_by_token(column: Any, token: str, session: AnySession) -> Moved[Any] | None: ...
@overload
def find_by_token(column: Any, token: str, session: AsyncSession) -> Awaitable[Moved[Any] | None]: ...
def find_by_token(column: Any, token: str, session: Any) -> Any:
    """The committed :class:`Moved` that carries *token*, ``.replayed`` set, or None: how an OutcomeUnknown is resolved.

    *column* is the recorded state column, as in ``find_by_token(Order.state, token, session)``. It is a locking read on
    the writer: it waits for a COMMIT in flight, which a plain read can miss. Given an ``AsyncSession``, await it.

    Raises: TypeError when the column has no history; ValueError for what can be no token.
    """
    return in_session(session, _find_by_token, column, token)


def _find_by_token(session: Session, column: Any, token: str) -> Moved[Any] | None:
    mapped = attribute_state(column)
    checked_token(token, mapped)
    shot = Shot(mapped, mapped.forced, session, None, {})
    connection = shot.connection()
    try:
        found: Moved[Any] | None = mapped.extras.history.with_token(connection, token)
        return found
    except StatementError as error:
        raise_explained(error, connection)
