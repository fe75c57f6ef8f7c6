"""The parts of a session that a fire needs: the sync session, its pending changes, and the connection for writes.

All work is done in a sync ``Session``. An ``AsyncSession`` runs the same functions by its ``run_sync()``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from sqlalchemy import Connection, Dialect, Select, inspect, literal_column, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Mapper, Session, scoped_session
from sqlalchemy.orm.attributes import instance_state
from sqlalchemy.util.concurrency import in_greenlet

from ..core.attribution import Attribution
from ..core.failures import raise_explained
from ..core.fires import Fire
from ..core.keys import prepare
from ..core.notes import KEY
from ..core.target import plain_key
from ..databases import database_of
from ..errors import InstanceStateError, RowNotFound
from ..errors.texts import shown
from ..sql.events import EventSQL
from .awaited import Awaited
from .mapped import MappedState

if TYPE_CHECKING:  # importing it costs as much as half of sqlalchemy.orm
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

# Any: a Session, or a class made of it; scoped_session is invariant.
AnySession: TypeAlias = "Session | scoped_session[Any]"
# Any: as above.
SyncPlace: TypeAlias = "Session | scoped_session[Any] | Connection"
AsyncPlace: TypeAlias = "AsyncSession | AsyncConnection"


def within(
    session: Any,
    work: Callable[..., Any],
    name: str = "",
    *,
    on_connection: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """*work* with the sync session behind *session* as its first argument; a coroutine function for an async session.

    A Core ``Connection`` may stand in the place of the session where *on_connection* is given: that is called in the
    place of *work*, with the connection. *name* is that of the caller's function, for messages.

    Raises: TypeError when *session* is neither.
    """
    if isinstance(session, Session):
        return partial(work, session)
    if on_connection is not None and isinstance(session, Connection):
        return partial(on_connection, session)
    if isinstance(session, scoped_session):
        return partial(work, session())
    asyncio = sys.modules.get("sqlalchemy.ext.asyncio")  # where it was never imported, there is no AsyncSession
    if asyncio is not None and isinstance(session, asyncio.async_scoped_session):  # has no run_sync of its own
        session = session()
    # Not hasattr(run_sync): an AsyncConnection and the class AsyncSession have it, too.
    if asyncio is not None and isinstance(session, asyncio.AsyncSession):
        return partial(_in_async, session, work, name or work.__name__.strip("_"))
    is_connection = isinstance(session, Connection)
    if asyncio is not None and isinstance(session, asyncio.AsyncConnection):
        if on_connection is not None:
            return partial(_in_async, session, on_connection, name or work.__name__.strip("_"))
        is_connection = True
    if is_connection:
        raise TypeError(
            f"a session is needed, got {shown(session)}: the functions that return or take no instance, such as"
            " fire_key() and fire_where(), take a connection"
        )
    kinds = "a session" if on_connection is None else "a session or a Connection"
    raise TypeError(f"{kinds} is needed, got {shown(session)}; an event's payload is given by name")


def _in_async(place: AsyncPlace, work: Callable[..., Any], name: str, *args: Any, **options: Any) -> Any:
    coroutine: Any = place.run_sync(work, *args, **options)
    coroutine.__qualname__ = name  # Python warns of one that is never awaited by this name
    return Awaited(coroutine, name, type(place).__name__)


def session_or_own(session: Any, instance: Any) -> Any:
    """*session*, or when that is None the one that *instance* is in.

    Raises: as :func:`session_of`.
    """
    return session_of(instance) if session is None else session


def is_sharded(session: Session) -> bool:
    """Whether *session* spreads the rows of one class over several databases: a ``ShardedSession``."""
    return session.connection_callable is not None


def has_filters(session: Session) -> bool:
    """Whether listeners of ``do_orm_execute`` may add criteria to what *session* executes."""
    listeners = session.dispatch.do_orm_execute
    return len(list(listeners)) > is_sharded(session)  # a ShardedSession has a listener itself, which finds the shards


def session_of(instance: Any) -> Session | AsyncSession:
    """The session that *instance* is in: the ``AsyncSession`` around it, unless ``run_sync()`` runs this code.

    Raises: InstanceStateError when *instance* is in no session.
    """
    session: Session | None = instance_state(instance).session
    if session is None:
        raise InstanceStateError(
            f"{shown_instance(instance)} is in no session: add it to one, or use fire_key() with its key"
        )
    asyncio = sys.modules.get("sqlalchemy.ext.asyncio")  # not imported: no AsyncSession exists
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


def persistent_key(session: Session, instance: Any) -> tuple[Any, ...]:
    """The primary key of *instance*, which is stored and in *session*.

    Raises: InstanceStateError when *instance* is not stored, or not in *session*.
    """
    state = instance_state(instance)
    # An instance that the session's identity map has is stored, and is neither detached nor deleted by a flush.
    if session.autoflush and state.key is not None and session.identity_map.contains_state(state):
        return state.key[1]
    around = state.session
    if around is not session and around is not None:
        raise InstanceStateError(f"{shown_instance(instance)} belongs to another session: fire with that one")
    if not state.persistent:
        advice = (
            "flush it first"
            if state.pending
            else "a fire needs a stored instance of its session; fire_key() takes a key"
        )
        raise InstanceStateError(f"{shown_instance(instance)} is not stored: {advice}")
    if not session.autoflush and instance in session.deleted:
        raise InstanceStateError(f"{shown_instance(instance)} is marked for deletion in this session")
    return cast("tuple[Any, ...]", state.identity)


def checked_attribution(
    session: Session, mapped: MappedState, attribution: Attribution, event: EventSQL | None = None
) -> Attribution:
    """*attribution*, fit to be stored with the history row of *event*.

    Raises: as :meth:`~.core.attribution.Attribution.checked`.
    """
    dialect = None if attribution.details is None else _dialect(session, mapped)
    return attribution.checked(mapped, event, dialect)


def _dialect(session: Session, mapped: MappedState) -> Dialect:
    """The dialect that writes the rows of *mapped*, known before the row's shard is."""
    if not is_sharded(session):
        return session.get_bind(mapped.mapper, clause=mapped.row.writing).dialect
    shards: Mapping[Any, Any] = getattr(session, "_ShardedSession__shards")  # noqa: B009 - all hold the same tables
    return cast(Dialect, next(iter(shards.values())).dialect)


def flush_first(session: Session, mapper: Mapper[Any], **row: Any) -> None:
    """Flush pending changes, as before a query. *row* names the event in an error of the flush.

    SQLAlchemy rolls back a failed flush, within a savepoint only to the savepoint. Then the session goes on in the
    transaction around it, which the server may have ended as well: :func:`raise_explained` invalidates its connection.
    """
    if not session.autoflush or session._flushing:  # noqa: SLF001 - as SQLAlchemy's own autoflush asks
        return
    try:
        session.flush()
    except DBAPIError as error:
        if is_sharded(session):  # the error does not say on which of its databases
            raise
        around, clause = session.get_transaction(), update(mapper.class_)
        if around is not None and around.is_active:
            raise_explained(error, around.connection(mapper, clause=clause), in_flush=True, **row)
        raise_explained(error, session.get_bind(mapper, clause=clause), in_flush=True, **row)


@dataclass(slots=True, eq=False, repr=False)
class Writer:
    """A session through which rows of one state column are written."""

    session: Session
    mapped: MappedState
    shard: Any = None  # of a ShardedSession

    def connection(
        self, event: EventSQL, key: Any = None, *, is_one_row: bool = False, is_fire: bool = True
    ) -> Connection:
        """The connection that the row is written on; an error names the row by *key*, and the event of a fire.

        With *is_one_row*, the fire may be sent in a packet of its own, with a history and in AUTOCOMMIT.

        Raises: TransactionRequired in AUTOCOMMIT where there is a history; TransactionAborted.
        """
        # Session.execute() would cost as much CPU again as the statement, so the connection is asked for alone.
        if self.session.connection_callable is None:
            arguments: dict[str, Any] = {"mapper": self.mapped.mapper, "clause": event.row.writing}
        else:
            arguments = self.bind_arguments(event)
        try:
            connection = self.session.connection(bind_arguments=arguments)
        except DBAPIError as error:  # of the SAVEPOINT of begin_nested(), which is sent only now
            row = {"model": self.mapped.model, "table": self.mapped.table_name, "key": key}
            name = event.name if is_fire else None
            raise_explained(error, self.session.get_bind(**arguments), **row, event=name)
        # Only the first fire of a transaction is noted, and only a history needs more: see prepare(), whose comparisons
        # these are, without the call.
        notes = vars(connection).get(KEY)
        is_noted = notes is not None and notes.has_fired and notes.transaction() is connection.get_transaction()
        if not is_noted or self.mapped.extras.history is not None:
            prepare(connection, self.mapped, event.name if is_fire else None, is_one_row=is_one_row)
        return connection

    def bind_arguments(self, event: EventSQL) -> dict[str, Any]:
        """The arguments from which ``Session.get_bind()`` finds the database, and sees that the statement writes."""
        arguments = {"mapper": self.mapped.mapper, "clause": event.row.writing}
        if self.session.connection_callable is None:
            return arguments
        if self.shard is None:
            raise TypeError(
                f"{event.name!r} on {self.mapped.model.__name__}: the session has several shards, and no key names "
                "one: use a session of one shard"
            )
        return {**arguments, "shard_id": self.shard}

    @contextmanager
    def reading(self, connection: Connection) -> Iterator[None]:
        """Within the block, the session executes every statement on *connection*, also its reads.

        ``Session.execute()`` passes its own statement to ``get_bind()``, whatever ``bind_arguments`` contain. A session
        that sends reads to a replica would lock the replica's rows. So the block replaces ``get_bind()``.
        """
        attributes = vars(self.session)
        before = {name: attributes[name] for name in ("get_bind",) if name in attributes}
        attributes["get_bind"] = lambda *_, **__: connection.engine
        try:
            yield
        finally:
            del attributes["get_bind"]
            attributes.update(before)

    def find_shard(self, fire: Fire) -> None:
        """Set the row's shard: that of its instance, or the one that the session's ``identity_chooser`` names.

        Raises: TypeError when the chooser names several shards, or none.
        """
        if not is_sharded(self.session):
            return
        if fire.instance is not None:
            self.shard = inspect(fire.instance).identity_token
            return
        mapper = self.mapped.mapper
        key = fire.key if isinstance(fire.key, tuple) else (fire.key,)
        chooser: Any = self.session
        shards = list(
            chooser.identity_chooser(mapper, key, lazy_loaded_from=None, execution_options={}, bind_arguments={})
        )
        if len(shards) != 1:
            names = ", ".join(map(shown, shards))
            raise TypeError(
                f"{fire.event.name!r} on {self.mapped.model.__name__} {shown(fire.key)}: the session's "
                f"identity_chooser names {len(shards)} shards ({names}), and one row is in one: fire on its instance"
            )
        (self.shard,) = shards

    def require_visible(self, connection: Connection, fire: Fire) -> None:
        """Select and lock the row through the session where listeners may hide it, such as a filter by tenant.

        Raises: RowNotFound when a listener hides the row.
        """
        if not has_filters(self.session):
            return
        database_of(connection).rows.lock(connection, fire.event)
        query: Select[Any] = select(literal_column("1")).select_from(self.mapped.model).where(fire.event.row.is_key())
        key = {name: fire.parameters[name] for name in self.mapped.key_names}
        options = self.bind_arguments(fire.event)
        with self.reading(connection):
            row = self.session.execute(query.with_for_update(), key, bind_arguments=options).first()
        if row is None:
            raise RowNotFound(**fire.row)

    def identity(self, key: Any) -> Any:
        """The key of the row's instance in the session's ``identity_map``."""
        parts = key if isinstance(key, tuple) else (key,)
        return self.mapped.mapper.identity_key_from_primary_key(parts, identity_token=self.shard)

    def instance(self, key: Any) -> Any:
        """The row's instance in the session's identity map, None when it has none; never loads one."""
        return self.session.identity_map.get(self.identity(key))
