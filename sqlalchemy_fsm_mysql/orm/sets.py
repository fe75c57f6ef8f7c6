"""One event on many rows of a session: :func:`fire_where` moves the rows that match. ``.claims`` takes free rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, overload

from sqlalchemy import ColumnElement, ColumnExpressionArgument, Connection, Select, TextClause
from sqlalchemy.orm import QueryableAttribute, Session

from ..core import where
from ..core.attribution import Attribution
from ..core.payload import payload_parameters
from ..core.sets import ConnectionSweep, Sweep, moved_rows
from ..core.where import Progress, Sizes
from ..databases.ready import ReadyStatement
from ..errors.texts import State, shown
from ..observation import Attempt, watching
from ..outcomes import NO_PAYLOAD, Moved, MovedRows, ReadOnlyMapping
from ..sql.events import Branch
from .awaited import Later
from .criteria import matching, order_on_row
from .hooks import announce_all
from .instances import show_row, show_state
from .journal import note
from .mapped import MappedState, mapped_event
from .sessions import AsyncPlace, SyncPlace, Writer, checked_attribution, flush_first, has_filters, within

M = TypeVar("M")

# Every database takes a LIMIT below this.
_NO_LIMIT = 2**63


@overload
def fire_where(
    model: type[M],
    event: str,
    session: SyncPlace,
    /,
    *criteria: ColumnExpressionArgument[bool],
    column: object = ...,
    limit: int | None = ...,
    order_by: object = ...,
    keys: bool = ...,
    batch_size: int | None = ...,
    max_rows: int | None = ...,
    progress: Progress | None = ...,
    actor: str | None = ...,
    details: object = ...,
    **payload: object,
) -> MovedRows[M]: ...
@overload
def fire_where(
    model: type[M],
    event: str,
    session: AsyncPlace,
    /,
    *criteria: ColumnExpressionArgument[bool],
    column: object = ...,
    limit: int | None = ...,
    order_by: object = ...,
    keys: bool = ...,
    batch_size: int | None = ...,
    max_rows: int | None = ...,
    progress: Progress | None = ...,
    actor: str | None = ...,
    details: object = ...,
    **payload: object,
) -> Later[MovedRows[M]]: ...
def fire_where(
    model: type[M],
    event: str,
    session: Any,
    /,
    *criteria: Any,
    column: Any = None,
    limit: int | None = None,
    order_by: Any = None,
    keys: bool = False,
    batch_size: int | None = None,
    max_rows: int | None = None,
    progress: Progress | None = None,
    actor: str | None = None,
    details: Any = None,
    **payload: Any,
) -> Any:
    """Fire *event* on every row of *model* that matches all *criteria* and that the event can move.

    Returns: a :class:`MovedRows` with the number of rows. Rows that the event does not move are neither counted nor an
    error.

    *criteria* are SQL expressions on the model. ``true()`` matches all rows. On MySQL and MariaDB, without a history,
    the call is one UPDATE. The options change that:

    - *batch_size* processes this number of rows at a time, in primary-key order, and does not commit between batches.
      *progress* is called after each batch as ``progress(moved so far, None)``, and can commit.
    - *max_rows* counts and locks the rows first, and refuses before any row is moved when more rows match.
    - *limit* moves at most this number of rows: the first in the order of *order_by*, which is one expression or
      several. It waits for rows that other transactions have locked.
    - *keys*, if true, gives the outcome a mapping ``.keys``, ``{key: (source, target)}``, of the rows that moved.
      *keys* and *limit* lock the rows and read their keys first, which costs one more statement.

    Hooks are not called. The session's instances of the rows are brought up to date or expired. *session* can be a Core
    ``Connection``.

    Raises: TypeError without criteria or for a payload that does not fit; ValueError for sizes below 1; UnknownEvent;
    TooManyRows; and the errors of the server, as ``fire()``.
    """
    if not criteria:
        name = getattr(model, "__name__", "the model")
        raise TypeError(f"fire_where() needs criteria that choose the rows of {name}; pass true() to move all of them")
    for name, size in (("limit", limit), ("batch_size", batch_size), ("max_rows", max_rows)):
        if size is not None and not is_number_of_rows(size):
            raise ValueError(f"{name}={shown(size)}; it must be a number of rows, at least 1")
    if progress is not None and not callable(progress):
        raise TypeError(f"progress={shown(progress)}; it must be a function of the rows moved so far and their total")
    if limit is None and order_by is not None:
        raise TypeError("order_by= chooses the rows of limit=, and there is no limit=")
    if limit is not None and (batch_size is not None or max_rows is not None):
        raise TypeError("limit= moves the first rows at once: give neither batch_size= nor max_rows= with it")
    if not isinstance(keys, bool):
        raise TypeError(f"keys={shown(keys)}; it must be True or False")
    attribution = Attribution(actor, details)
    order = ordering(model, order_by)
    sizes = Sizes(batch_size, max_rows, limit, order, progress, {} if keys else None)
    work = within(session, _fire_where, on_connection=_fire_where)
    return work(model, event, column, criteria, sizes, payload, attribution)


def is_number_of_rows(value: object) -> bool:
    return type(value) is int and 1 <= value < _NO_LIMIT  # a driver sends a subclass by its str()


def ordering(model: Any, order_by: Any) -> Sequence[Any]:
    """The expressions of *order_by*, which is one or several; none when it is left out.

    Raises: TypeError for what orders no rows.
    """
    order = () if order_by is None else tuple(order_by) if isinstance(order_by, (tuple, list)) else (order_by,)
    for one in order:
        is_name = isinstance(one, str) and isinstance(getattr(model, one, None), QueryableAttribute)
        if not is_name and not isinstance(one, (ColumnElement, TextClause)) and not hasattr(one, "__clause_element__"):
            raise TypeError(f"order_by={shown(one)}; it must be an SQL expression, such as an attribute of the model")
    return tuple(getattr(model, one) if isinstance(one, str) else one for one in order)


@dataclass
class SessionSweep(Sweep):
    """A sweep in a session, which brings the instances of the moved rows up to date."""

    writer: Writer = field(kw_only=True)

    @property
    def mapped(self) -> MappedState:
        return self.writer.mapped

    def connection(self) -> Connection:
        """The connection that the rows are written on."""
        return self.writer.connection(self.event)

    def is_filtered(self) -> bool:
        return has_filters(self.writer.session)

    def read(self, connection: Connection, query: Select[Any] | ReadyStatement) -> Sequence[Sequence[Any]]:
        if not self.is_filtered():
            return super().read(connection, query)
        selected: Any = query.statement if isinstance(query, ReadyStatement) else query
        return self.execute(connection, selected.select_from(self.mapped.model))

    def execute(self, connection: Connection, query: Select[Any], **options: Any) -> Sequence[Any]:
        """The rows of *query* that the session's listeners do not hide, read on the connection that is written."""
        with self.writer.reading(connection):
            return self.writer.session.execute(
                query,
                self.parameters,
                execution_options=options,
                bind_arguments=self.writer.bind_arguments(self.event),
            ).all()

    def know_moved(self, branch: Branch, keys: Sequence[tuple[Any, ...]]) -> None:
        self._note()
        if not self.writer.session.identity_map:
            return
        for key in keys:
            instance = self.writer.instance(key)
            if instance is not None:
                show_row(self.writer, instance, branch.leads_to, self.event)

    def know_changed(self) -> None:
        """Expire, in all instances of the session, the attributes that an UPDATE of unknown rows may have changed."""
        self._note()
        session, row = self.writer.session, self.event.row
        names = {self.mapped.attribute, *self.mapped.changed_with(self.event)}
        names |= {name for name, column in row.columns.items() if column is row.version}
        for instance in session.identity_map.values():
            if isinstance(instance, self.mapped.model):
                session.expire(instance, names)

    def _note(self) -> None:
        # An instance loaded from now on shows the new state, and the savepoint's rollback must expire it, too.
        if self.writer.session.in_nested_transaction():
            note(self.writer.session, model=self.mapped.model)

    def announce(self, moves: Sequence[Moved[Any]], connection: Connection) -> None:
        announce_all(self.mapped, moves, self.writer.session, connection)

    def instance(self, key: tuple[Any, ...]) -> Any:
        return self.writer.instance(key) if self.writer.session.identity_map else None

    def know_refused(self, key: tuple[Any, ...], state: State) -> None:
        instance = self.instance(key)
        if instance is not None and instance.__dict__.get(self.mapped.attribute, state) != state:
            show_state(self.writer, instance, state)


def sweep_of(
    place: Session | Connection,
    model: type[Any],
    event: str,
    column: Any,
    criteria: Sequence[Any],
    payload: Mapping[str, Any],
    attribution: Attribution,
) -> Sweep:
    """The sweep for the arguments of a call; checks them, and flushes pending changes."""
    if isinstance(place, Session):
        return session_sweep_of(place, model, event, column, criteria, payload, attribution)
    mapped, sql = mapped_event(model, event, column)
    parameters = payload_parameters(mapped, sql, payload)
    if attribution.is_given:
        attribution = attribution.checked(mapped, None, place.dialect)
    rows = matching(mapped, sql, criteria)
    parameters |= rows.values
    given = ReadOnlyMapping(payload) if payload else NO_PAYLOAD
    return ConnectionSweep(
        mapped, sql, rows.criterion, parameters, attribution, given, statements=rows.statements, on=place
    )


def session_sweep_of(
    session: Session,
    model: type[Any],
    event: str,
    column: Any,
    criteria: Sequence[Any],
    payload: Mapping[str, Any],
    attribution: Attribution,
) -> SessionSweep:
    """:func:`sweep_of` in a session."""
    mapped, sql = mapped_event(model, event, column)
    parameters = payload_parameters(mapped, sql, payload)
    if attribution.is_given:
        attribution = checked_attribution(session, mapped, attribution)
    rows = matching(mapped, sql, criteria)
    parameters |= rows.values
    flush_first(session, mapped.mapper, model=mapped.model, event=event)
    given = ReadOnlyMapping(payload) if payload else NO_PAYLOAD
    writer = Writer(session, mapped)
    return SessionSweep(
        mapped, sql, rows.criterion, parameters, attribution, given, statements=rows.statements, writer=writer
    )


def _fire_where(
    place: Session | Connection,
    model: type[Any],
    event: str,
    column: Any,
    criteria: Sequence[Any],
    sizes: Sizes,
    payload: Mapping[str, Any],
    attribution: Attribution,
) -> MovedRows[Any]:
    sweep = sweep_of(place, model, event, column, criteria, payload, attribution)
    if sizes.order_by:
        sizes = replace(sizes, order_by=order_on_row(sweep.target.row.table, sizes.order_by))
    with watching(Attempt("fire_where", model, sweep.target.table_name, sweep.event.name)) as attempt:
        moved = where.fire_where(sweep, sizes)
        attempt.result = rows = moved_rows(sweep, moved, sizes.edges)
    return rows
