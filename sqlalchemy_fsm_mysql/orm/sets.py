"""One event on many rows of a session: :func:`fire_where` moves the rows that match. ``.claims`` takes free rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar, overload

from sqlalchemy import ColumnElement, Connection, Select, and_, select
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import Session

from ..core import sets
from ..core.attribution import NO_ATTRIBUTION, Attribution
from ..core.failures import raise_explained
from ..core.payload import payload_parameters
from ..core.sets import Locked, Sweep, all_or_none, moved_rows, pick, take
from ..errors import RefusedByDatabase, TooManyRows
from ..errors.texts import shown
from ..observation import Attempt, watching
from ..outcomes import NO_PAYLOAD, MovedRows, ReadOnlyMapping
from ..sql.events import Branch
from ..sql.keys import is_beyond
from .criteria import on_row
from .instances import show_row
from .journal import note
from .mapped import MappedState, mapped_event
from .sessions import AnySession, Writer, checked_attribution, flush_first, has_filters, within

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

M = TypeVar("M")

Progress: TypeAlias = Callable[[int, "int | None"], Any]

# Every database takes a LIMIT below this.
_NO_LIMIT = 2**63


class Sizes(NamedTuple):
    """The rows per statement of a sweep, the most rows that it may move, and the function to call after each batch."""

    batch_size: int | None
    max_rows: int | None
    progress: Progress | None


@overload
def fire_where(
    model: type[M],
    event: str,
    session: AnySession,
    /,
    *criteria: Any,
    column: Any = ...,
    batch_size: int | None = ...,
    max_rows: int | None = ...,
    progress: Progress | None = ...,
    actor: str | None = ...,
    details: Any = ...,
    **payload: Any,
) -> MovedRows[M]: ...
@overload
def fire_where(
    model: type[M],
    event: str,
    session: AsyncSession,
    /,
    *criteria: Any,
    column: Any = ...,
    batch_size: int | None = ...,
    max_rows: int | None = ...,
    progress: Progress | None = ...,
    actor: str | None = ...,
    details: Any = ...,
    **payload: Any,
) -> Coroutine[Any, Any, MovedRows[M]]: ...
def fire_where(
    model: type[M],
    event: str,
    session: Any,
    /,
    *criteria: Any,
    column: Any = None,
    batch_size: int | None = None,
    max_rows: int | None = None,
    progress: Progress | None = None,
    actor: str | None = None,
    details: Any = None,
    **payload: Any,
) -> Any:
    """Fire *event* on every row of *model* that matches all *criteria* and that the event can move.

    *criteria* are SQL expressions on the model; ``true()`` matches all rows. On MySQL and MariaDB, without a history,
    the call is one UPDATE. With *batch_size*, it processes that many rows at a time, in primary-key order, and does
    not commit between batches; *progress* is called after each as ``progress(moved so far, None)``, and may commit.
    With *max_rows*, it counts and locks first, and refuses before anything is changed. Rows that are not moved are
    neither counted nor an error. Hooks are not called. The session's instances of the rows are brought up to date
    or expired.

    Raises: TypeError without criteria or for a payload that does not fit; ValueError for sizes below 1; UnknownEvent;
    TooManyRows; and the errors of the server, as ``fire()``.
    """
    if not criteria:
        name = getattr(model, "__name__", "of the")
        raise TypeError(f"fire_where() needs criteria: which {name} rows? true() stands for all of them")
    for name, size in (("batch_size", batch_size), ("max_rows", max_rows)):
        if size is not None and not is_number_of_rows(size):
            raise ValueError(f"{name}={shown(size)}; it is a number of rows, at least 1")
    if progress is not None and not callable(progress):
        raise TypeError(f"progress={shown(progress)}; it is a function of the rows moved so far and their total")
    attribution = Attribution(actor, details)
    sizes = Sizes(batch_size, max_rows, progress)
    return within(session, _fire_where)(model, event, column, criteria, sizes, payload, attribution)


def is_number_of_rows(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < _NO_LIMIT


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

    def read(self, connection: Connection, query: Select[Any]) -> Sequence[Any]:
        if not self.is_filtered():
            return super().read(connection, query)
        return self.execute(connection, query.select_from(self.mapped.model))

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

    @contextmanager
    def explaining(self, connection: Connection) -> Iterator[None]:
        """Raise our errors in place of the server's within the block."""
        try:
            yield
        except (StatementError, RefusedByDatabase) as error:
            raise_explained(error, connection, model=self.mapped.model, event=self.event.name)


def sweep_of(
    session: Session,
    model: type[Any],
    event: str,
    column: Any,
    criteria: Sequence[Any],
    payload: Mapping[str, Any],
    attribution: Attribution,
) -> SessionSweep:
    """The sweep for the arguments of a call; checks them, and flushes pending changes."""
    mapped, sql = mapped_event(model, event, column)
    parameters = payload_parameters(mapped, sql, payload)
    if attribution != NO_ATTRIBUTION:
        attribution = checked_attribution(session, mapped, attribution)
    core = on_row(mapped, criteria)
    visible = [] if sql.row.visible is None else [sql.row.visible]
    flush_first(session, mapped.mapper, model=mapped.model, event=event)
    criterion = and_(sql.moves, *visible, *core)
    given = ReadOnlyMapping(payload) if payload else NO_PAYLOAD
    return SessionSweep(mapped, sql, criterion, parameters, attribution, given, writer=Writer(session, mapped))


def _fire_where(
    session: Session,
    model: type[Any],
    event: str,
    column: Any,
    criteria: Sequence[Any],
    sizes: Sizes,
    payload: Mapping[str, Any],
    attribution: Attribution,
) -> MovedRows[Any]:
    sweep = sweep_of(session, model, event, column, criteria, payload, attribution)
    with watching(Attempt("fire_where", model, sweep.mapped.table_name, sweep.event.name)) as attempt:
        if sizes.batch_size is not None:
            moved = _in_batches(sweep, sizes.batch_size, sizes.max_rows, sizes.progress)
        elif sizes.max_rows is not None:
            moved = _at_most(sweep, sizes.max_rows)
        else:
            moved = _at_once(sweep)
        if sizes.batch_size is None and sizes.progress is not None:
            sizes.progress(moved.total(), None)
        attempt.result = rows = moved_rows(sweep, moved)
    return rows


def _at_once(sweep: SessionSweep) -> Counter[int]:
    connection = sweep.connection()
    with sweep.explaining(connection):
        return sets.run(sweep, connection)


def _at_most(sweep: SessionSweep, max_rows: int) -> Counter[int]:
    """Lock and count the rows, and move them if they are at most *max_rows*."""
    connection = sweep.connection()
    with sweep.explaining(connection), all_or_none(sweep, connection):
        return take(sweep, connection, _pick_at_most(sweep, connection, max_rows))


def _in_batches(sweep: SessionSweep, batch_size: int, max_rows: int | None, progress: Progress | None) -> Counter[int]:
    """Move the rows batch by batch; with *max_rows*, lock and count all of them before the first batch."""
    if max_rows is not None:
        connection = sweep.connection()
        with sweep.explaining(connection):
            _pick_at_most(sweep, connection, max_rows)
    moved: Counter[int] = Counter()
    for batch in _batches(sweep, batch_size):
        moved += _at_once(batch)
        if max_rows is not None and moved.total() > max_rows:  # more rows match than were counted
            raise _too_many(sweep, max_rows, "roll back to undo those that were moved")
        if progress is not None:
            progress(moved.total(), None)
    return moved


def _pick_at_most(sweep: SessionSweep, connection: Connection, max_rows: int) -> list[Locked]:
    """The rows that match, now locked.

    Raises: TooManyRows when they are more than *max_rows*.
    """
    rows = pick(sweep, connection, max_rows + 1)
    if len(rows) > max_rows:
        raise _too_many(sweep, max_rows, "nothing was changed")
    return rows


def _too_many(sweep: SessionSweep, max_rows: int, advice: str) -> TooManyRows:
    model = sweep.mapped.model.__name__
    return TooManyRows(f"{sweep.event.name!r} would move over max_rows={max_rows} rows of {model}; {advice}")


def _batches(sweep: SessionSweep, batch_size: int) -> Iterator[SessionSweep]:
    """The sweep in parts along the primary key. A part spans *batch_size* rows of the table, matching or not."""
    key = sweep.event.row.key
    beyond: list[ColumnElement[bool]] = []
    while True:
        last = select(*key).where(*beyond).order_by(*key).limit(1).offset(batch_size - 1)
        # *progress* may have committed, and the session then has another connection.
        end = sweep.connection().execute(last).one_or_none()
        if end is None:
            yield sweep.narrowed(*beyond)
            return
        after_end = is_beyond(key, tuple(end))
        yield sweep.narrowed(*beyond, ~after_end)
        beyond = [after_end]
