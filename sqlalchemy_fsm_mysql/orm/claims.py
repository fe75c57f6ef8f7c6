"""Workers take rows: :func:`claim` locks free rows, fires an event on them, and returns their instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, overload

from sqlalchemy import ColumnExpressionArgument, Connection, Integer, Select, bindparam, inspect, select
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import instance_state

from ..core.attribution import Attribution
from ..core.sets import Locked, all_or_none, chunks, is_one_update, moved_row, moved_rows, take, taken_branch
from ..databases import database_of, is_autocommit
from ..databases.ready import ReadyStatement, shared
from ..databases.sets import among, bindable
from ..errors import InstanceStateError, TransactionRequired
from ..errors.texts import shown
from ..observation import Attempt, watching
from ..sql.keys import is_among
from .awaited import Later
from .criteria import plain
from .hooks import announce_all
from .instances import show_columns, unedited
from .leases import leased, note_leases
from .mapped import mapped_event
from .sessions import AnySession, shown_instance, within
from .sets import SessionSweep, is_number_of_rows, ordering, session_sweep_of

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

M = TypeVar("M")

_LIMIT = "fsm_limit"

# Relationships that are loaded by the query that loads the instance.
_IN_THE_QUERY = ("joined", False, "subquery")
# Relationships that are loaded at their first use, and not with the instance.
_LAZY = (True, "select", "raise", "raise_on_sql", "noload", "dynamic", "write_only", None)


@overload
def claim(
    model: type[M],
    event: str,
    session: AnySession,
    /,
    *criteria: ColumnExpressionArgument[bool],
    limit: int,
    order_by: object = ...,
    column: object = ...,
    actor: str | None = ...,
    details: object = ...,
    lease: timedelta | None = ...,
    **payload: object,
) -> list[M]: ...
@overload
def claim(
    model: type[M],
    event: str,
    session: AsyncSession,
    /,
    *criteria: ColumnExpressionArgument[bool],
    limit: int,
    order_by: object = ...,
    column: object = ...,
    actor: str | None = ...,
    details: object = ...,
    lease: timedelta | None = ...,
    **payload: object,
) -> Later[list[M]]: ...
def claim(
    model: type[M],
    event: str,
    session: Any,
    /,
    *criteria: Any,
    limit: int,
    order_by: Any = None,
    column: Any = None,
    actor: str | None = None,
    details: Any = None,
    lease: timedelta | None = None,
    **payload: Any,
) -> Any:
    """Lock up to *limit* free rows that match, fire *event* on them, and return their instances: the claim of a worker.

    Returns: a list of instances in the order of *order_by*, empty when no row is free.

    Rows that another transaction has locked are skipped (``FOR UPDATE SKIP LOCKED``). So workers do not wait for each
    other, and no two workers get the same row. The claim is committed with the transaction; until then the rows are
    only locked.

    With *lease*, the rows belong to the worker *worker*, who then has to be named, for that long from now by the
    database's clock. The same UPDATE writes the columns of :class:`Leased`. :func:`extend_lease` extends the lease. An
    event with a payload named ``worker`` gets the name as well.

    An instance that is in the session already is read again, except for edits that are not flushed (with autoflush
    off).

    Raises: ValueError for a *limit* below 1; TransactionRequired in AUTOCOMMIT; InstanceStateError for an instance with
    a version and edits that are not flushed; else as :func:`fire_where`.
    """
    if not is_number_of_rows(limit):
        raise ValueError(f"limit={shown(limit)}; it must be a number of rows, at least 1")
    attribution = Attribution(actor, details)
    return within(session, _claim)(model, event, column, criteria, limit, order_by, payload, attribution, lease)


def _claim(
    session: Session,
    model: type[Any],
    event: str,
    column: Any,
    criteria: Sequence[Any],
    limit: int,
    order_by: Any,
    payload: Mapping[str, Any],
    attribution: Attribution,
    lease: timedelta | None,
) -> list[Any]:
    order = ordering(model, order_by)
    worker = payload.get("worker")
    if lease is not None and "worker" not in mapped_event(model, event, column)[1].payload:
        payload = {name: value for name, value in payload.items() if name != "worker"}
    sweep = session_sweep_of(session, model, event, column, criteria, payload, attribution)
    if lease is not None:
        sweep = leased(sweep, lease, worker)
    with watching(Attempt("claim", model, sweep.mapped.table_name, sweep.event.name)) as attempt:
        # 1. Claims need locks that last until COMMIT.
        connection = sweep.connection()
        if is_autocommit(connection):
            raise TransactionRequired(
                "claim() locks rows and then moves them, and this connection is in AUTOCOMMIT, which keeps no lock: "
                "use another isolation level, such as READ COMMITTED"
            )
        order = order or sweep.event.row.key
        loads_first = _changes_state_only(sweep) and not any(isinstance(one, model) for one in session.dirty)
        with sweep.explaining(connection):
            # 2. Lock free rows. Where the event changes the state only, the same SELECT loads the instances.
            database_of(connection).rows.lock(connection, sweep.event)
            instances, rows = _lock_free(sweep, connection, order, limit, loads=loads_first)
            _require_known_versions(sweep, rows)
            # 3. Move them, all or none.
            one_update = is_one_update(sweep, len(rows))
            with nullcontext() if one_update else all_or_none(sweep, connection, is_locked=True):
                moved = take(sweep, connection, rows)
            # 4. Otherwise the instances are loaded after the move.
            if not loads_first:
                instances = _load(sweep, connection, [row.key for row in rows])
        if lease is not None:
            note_leases(sweep, instances, rows, lease, str(worker))
        attempt.result = moved_rows(sweep, moved)
        # 5. Call the hooks.
        if sweep.mapped.extras.hooks:
            moves = [moved_row(sweep, row, instance) for instance, row in zip(instances, rows, strict=True)]
            announce_all(sweep.mapped, moves, session, connection)
    return instances


def _lock_free(
    sweep: SessionSweep, connection: Connection, order: Sequence[Any], limit: int, *, loads: bool
) -> tuple[list[Any], list[Locked]]:
    """Lock up to *limit* rows that no other transaction has locked; with *loads*, load their instances, too."""
    model, mapper = sweep.mapped.model, sweep.mapped.mapper
    table = sweep.event.row.table

    def build() -> tuple[Select[Any], ReadyStatement | None]:
        columns: list[Any] = [model, sweep.event.selected_code] if loads else sweep.columns()
        query = select(*columns).where(sweep.criterion).limit(bindparam(_LIMIT, type_=Integer()))
        query = query.with_for_update(skip_locked=True)
        # Without instances, and with all in one table, the mapping has nothing to add to the SELECT.
        core = query.order_by(*(plain(table, one) for one in order))
        is_core = not loads and mapper.persist_selectable is table and core.get_final_froms() == [table]
        return query.select_from(model).order_by(*order), ReadyStatement(core) if is_core else None

    shape = _shape_of(order)
    statements = None if shape is None else sweep.statements
    query, ready = shared(statements, sweep.event, ("claim", loads, shape), build)
    sweep = replace(sweep, parameters={**sweep.parameters, _LIMIT: limit})
    # Only the columns that the move needs are read: an index may have them all. Where the server reads whole rows, it
    # prefers to scan and sort a small table, and then locks every row that matches, which other workers pass over.
    if ready is not None and statements is not None and not sweep.is_filtered():
        return [], [sweep.locked(values) for values in ready.rows(connection, sweep.parameters)]
    # populate_existing: an instance that is in the session already shows the row that is locked now.
    results = sweep.execute(connection, query, populate_existing=True)
    if not loads:
        return [], [sweep.locked(values) for values in results]
    rows = [
        Locked(instance_state(instance).identity or (), taken_branch(sweep.event, code)) for instance, code in results
    ]
    return [instance for instance, _ in results], rows


def _shape_of(order: Sequence[Any]) -> tuple[Any, ...] | None:
    """A key that two orderings share if they are the same SQL; None when one contains values."""
    clauses = [one.__clause_element__() if hasattr(one, "__clause_element__") else one for one in order]
    keys = [clause._generate_cache_key() for clause in clauses]  # noqa: SLF001 - SQLAlchemy's own key of a statement
    return None if any(key is None or key.bindparams for key in keys) else tuple(key.key for key in keys)


def _load(sweep: SessionSweep, connection: Connection, keys: list[tuple[Any, ...]]) -> list[Any]:
    """The instances of the moved rows with *keys*, read after the move, with their eager relationships.

    A claimed instance must show the locked row, so one that is in the session already is read again, except for edits
    that are not flushed. The read takes a lock: under REPEATABLE READ, a plain one would show the transaction's old
    snapshot, except for rows that the transaction itself has changed.
    """
    loaded: dict[tuple[Any, ...], Any] = {}
    session, mapper = sweep.writer.session, sweep.mapped.mapper
    loads_others = any(relationship.lazy in _IN_THE_QUERY for relationship in mapper.relationships)
    for key in keys if session.identity_map else ():
        instance = sweep.writer.instance(key)
        if instance is not None:
            session.expire(instance, unedited(instance))
    cached = ("claimed", sweep.mapped)
    if cached not in sweep.event.cache:
        query = select(sweep.mapped.model).where(among(sweep.event.row.key))
        sweep.event.cache[cached] = query if loads_others else query.with_for_update()
    for some in chunks(keys):
        with sweep.writer.reading(connection):
            instances = session.scalars(
                sweep.event.cache[cached],
                {"fsm_keys": bindable(some)},
                bind_arguments=sweep.writer.bind_arguments(sweep.event),
            ).unique()
            loaded |= {inspect(instance).identity: instance for instance in instances}
        # FOR UPDATE would lock the rows of joined tables, too, so that query has none, and the columns are read again.
        if loads_others:
            columns, is_some = sweep.event.row.columns, is_among(sweep.event.row.key, some)
            for row in connection.execute(
                select(*sweep.event.row.key, *columns.values()).where(is_some).with_for_update()
            ):
                parts = len(sweep.event.row.key)
                show_columns(loaded[tuple(row[:parts])], dict(zip(columns, row[parts:], strict=True)))
    return [loaded[key] for key in keys]


def _require_known_versions(sweep: SessionSweep, rows: Sequence[Locked]) -> None:
    """Refuse to claim a row with a version whose instance has edits.

    The claim changes the version, so the flush of the edits would fail.

    Raises: InstanceStateError.
    """
    if sweep.event.row.version is None:
        return
    for row in rows:
        instance = sweep.writer.instance(row.key)
        if instance is not None and inspect(instance).modified:
            raise InstanceStateError(
                f"{shown_instance(instance)} has edits that are not flushed: flush them before claim()"
            )


def _changes_state_only(sweep: SessionSweep) -> bool:
    """Whether an instance loaded before the move is as good as one loaded after it, once it has the new state.

    It is when the event changes nothing but the state, the mapping joins no other table (a locking read would lock its
    rows, too), and no ``load`` or ``refresh`` listener would be called with the old state.
    """
    mapped, mapper = sweep.mapped, sweep.mapped.mapper
    listeners = mapper.class_manager.dispatch
    return (
        sweep.event.row.version is None
        and not mapped.changed_with(sweep.event)
        and mapper.persist_selectable is sweep.event.row.table
        and mapper.polymorphic_on is None
        and all(relationship.lazy in _LAZY for relationship in mapper.relationships)
        and not (listeners.load or listeners.refresh)
    )
