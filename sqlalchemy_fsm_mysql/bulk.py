"""One event on many rows: :func:`fire_where` moves what matches, :func:`claim` takes rows that nobody else holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, overload

from sqlalchemy import Column, ColumnElement, Connection, and_, or_, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.sql import visitors

from .backends import backend_of
from .backends.base import is_autocommit
from .column import MappedState, mapped_state
from .errors import TooManyRows, TransactionRequired
from .firing import AnySession, Shot, in_session, payload_parameters, plain_key
from .hooks import announce
from .journal import note
from .outcome import NO_PAYLOAD, Moved, MovedRows
from .statement import MOVED, Branch, EventSQL
from .transactions import raise_explained

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

M = TypeVar("M")

# Rows a statement touches at most where their keys go through this process: it bounds memory and the statement's length.
CHUNK = 1000

Progress = Callable[[int, "int | None"], Any]


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
) -> Awaitable[MovedRows[M]]: ...
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

    *criteria* are SQL expressions on the model; for all rows, say so with ``true()``. On MySQL and MariaDB, without a
    history, it is one UPDATE. With *batch_size*, it walks the primary key in statements that look at so many rows each,
    and commits nothing itself; *progress* is called after each as ``progress(moved so far, None)``, and may commit.
    With *max_rows*, it counts and locks first, and refuses before anything is changed. Rows that are not moved are
    neither counted nor an error. Hooks are not called. Instances that the session holds are brought up to date or
    expired.

    Raises: TypeError without criteria or for a payload that does not fit; ValueError for sizes below 1; UnknownEvent;
    TooManyRows; and what the server may add, as for ``fire()``.
    """
    if not criteria:
        raise TypeError(f"fire_where() needs criteria: which {model.__name__} rows? true() stands for all of them")
    for name, size in (("batch_size", batch_size), ("max_rows", max_rows)):
        if size is not None and (not isinstance(size, int) or size < 1):
            raise ValueError(f"{name}={size!r}; it is a number of rows, at least 1")
    said = {"actor": actor, "details": details}
    return in_session(
        session, _fire_where, model, event, column, criteria, (batch_size, max_rows, progress), payload, said
    )


@overload
def claim(
    model: type[M],
    event: str,
    session: AnySession,
    /,
    *criteria: Any,
    limit: int,
    order_by: Any = ...,
    column: Any = ...,
    actor: str | None = ...,
    details: Any = ...,
    **payload: Any,
) -> list[M]: ...
@overload
def claim(
    model: type[M],
    event: str,
    session: AsyncSession,
    /,
    *criteria: Any,
    limit: int,
    order_by: Any = ...,
    column: Any = ...,
    actor: str | None = ...,
    details: Any = ...,
    **payload: Any,
) -> Awaitable[list[M]]: ...
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
    **payload: Any,
) -> Any:
    """Take up to *limit* rows that match and that nobody else holds, fire *event* on them, and return their instances.

    Rows that another transaction has locked are passed over (``FOR UPDATE SKIP LOCKED``), so workers do not wait for each
    other, and no two get the same row. The instances come in the order of *order_by* (one expression or several; the
    primary key when left out). The rows are the caller's from COMMIT on: until then they are only locked.

    Raises: ValueError for a *limit* below 1; TransactionRequired in AUTOCOMMIT; else as :func:`fire_where`.
    """
    if not isinstance(limit, int) or limit < 1:
        raise ValueError(f"limit={limit!r}; it is a number of rows, at least 1")
    said = {"actor": actor, "details": details}
    return in_session(session, _claim, model, event, column, criteria, limit, order_by, payload, said)


@dataclass
class Sweep:
    """An event about to be fired on the rows that match."""

    mapped: MappedState
    event: EventSQL
    session: Session
    criterion: ColumnElement[bool]
    parameters: dict[str, Any]
    said: Mapping[str, Any]
    payload: Mapping[str, Any] = NO_PAYLOAD

    def connection(self) -> Connection:
        return Shot(self.mapped, self.event, self.session, None, {}).connection()

    def within(self, *more: ColumnElement[bool]) -> Sweep:
        """The same on fewer rows."""
        return replace(self, criterion=and_(self.criterion, *more))

    def run(self) -> Counter[int]:
        """Move the rows that match; how many took which branch."""
        connection, backend = self.connection(), backend_of(self.connection())
        try:
            if self.mapped.extras.history is None and backend.can_sweep:
                taken = Counter(backend.sweep(connection, self.event, self.criterion, self.parameters))
                if taken.total():
                    self._expire_all()
                return taken
            with backend.transaction(connection):
                backend.lock(connection, self.event)
                return self._run_by_keys(connection)
        except DBAPIError as error:
            raise_explained(error, connection, model=self.mapped.model, event=self.event.name)

    def _run_by_keys(self, connection: Connection) -> Counter[int]:
        """As :meth:`run`, chunk by chunk along the primary key: lock, read the codes, write by key."""
        taken: Counter[int] = Counter()
        beyond: tuple[Any, ...] | None = None
        while True:
            here = self if beyond is None else self.within(is_beyond(self.event.row.key, beyond))
            rows = here.pick(connection, CHUNK)
            if not rows:
                return taken
            taken += self.take(connection, rows)
            beyond = rows[-1][0]

    def pick(self, connection: Connection, limit: int) -> list[tuple[tuple[Any, ...], int]]:
        """Lock up to *limit* of the rows, in the order of their keys, and read what the event does to each."""
        row = self.event.row
        query = (
            select(*row.key, self.event.code().label("fsm_code"))
            .where(self.criterion)
            .order_by(*row.key)
            .limit(limit)
            .with_for_update()
        )
        found = connection.execute(query, self.parameters).all()
        return [(tuple(values[:-1]), values[-1]) for values in found if values[-1] >= MOVED]

    def take(self, connection: Connection, rows: Sequence[tuple[tuple[Any, ...], int]]) -> Counter[int]:
        """Move locked rows, of which the codes are known: one UPDATE a branch, and one INSERT when there is a history."""
        backend, history = backend_of(connection), self.mapped.extras.history
        keys: dict[int, list[tuple[Any, ...]]] = {}
        for key, code in rows:
            keys.setdefault((code - MOVED) // 2, []).append(key)
        for index, of_branch in keys.items():
            branch = self.event.branches[index]
            for some in _chunks(of_branch):
                if history is not None:
                    values = {**self.parameters, **self._to_record(branch)}
                    backend.record_keys(connection, history.sql, self.event.row, some, values)
                backend.take_keys(connection, self.event, index, some, self.parameters)
            self._bring_up_to_date(branch, of_branch)
        return Counter({index: len(of_branch) for index, of_branch in keys.items()})

    def _to_record(self, branch: Branch) -> dict[str, Any]:
        said = {"fsm_actor": self.said["actor"], "fsm_details": self.said["details"], "fsm_token": None}
        return {
            "fsm_event": self.event.name,
            "fsm_source": branch.source,
            "fsm_target": branch.target,
            **said,
        }

    def moved(self, branch: Branch, key: tuple[Any, ...], instance: Any = None) -> Moved[Any]:
        """What a hook is told of one of the rows."""
        loaded = self.mapped.machine.loaded
        source, target = loaded(branch.source), loaded(branch.target)
        return Moved(
            self.mapped.model,
            plain_key(key),
            self.event.name,
            source,
            target,
            instance,
            self.payload,
            **self.said,
        )

    def _bring_up_to_date(self, branch: Branch, keys: list[tuple[Any, ...]]) -> None:
        held = self.session.identity_map
        if not held:
            return
        target = self.mapped.machine.loaded(branch.target)
        for key in keys:
            instance = held.get(self.mapped.mapper.identity_key_from_primary_key(key))
            if instance is not None:
                shot = Shot(self.mapped, self.event, self.session, plain_key(key), {}, instance)
                shot.bring_up_to_date(instance, target, known_version=False, is_other_version=False)

    def _expire_all(self) -> None:
        """Expire what an UPDATE of unknown rows may have changed in any instance that the session holds."""
        row = self.event.row
        names = {self.mapped.attribute, *self.mapped.changed_with(self.event)}
        names |= {name for name, column in row.columns.items() if column is row.version}
        for instance in self.session.identity_map.values():
            if isinstance(instance, self.mapped.model):
                self.session.expire(instance, names)
                if self.session.in_nested_transaction():
                    note(self.session, instance)


def is_beyond(key: Sequence[Column[Any]], values: Sequence[Any]) -> ColumnElement[bool]:
    """Whether a row comes after *values* in the order of its *key*.

    Spelled out, because MySQL uses no index range for a comparison of tuples
    (https://dev.mysql.com/doc/refman/9.4/en/range-optimization.html#row-constructor-range-optimization).

    >>> from sqlalchemy import column
    >>> print(is_beyond([column("a"), column("b")], [1, 2]))
    a > :a_1 OR a = :a_2 AND b > :b_1
    """
    alternatives = []
    for i, (column, value) in enumerate(zip(key, values, strict=True)):
        same = [column == value for column, value in zip(key[:i], values[:i], strict=True)]
        alternatives.append(and_(*same, column > value))
    return or_(*alternatives)


def _chunks(keys: list[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    for i in range(0, len(keys), CHUNK):
        yield keys[i : i + CHUNK]


def _sweep(
    session: Session,
    model: type[Any],
    event: str,
    column: Any,
    criteria: Sequence[Any],
    payload: Mapping[str, Any],
    said: Mapping[str, Any],
) -> Sweep:
    mapped = mapped_state(model, event, column)
    sql = mapped.event(event)
    parameters = payload_parameters(mapped, sql, payload)
    core = [_core(mapped, criterion) for criterion in criteria]
    visible = [] if sql.row.visible is None else [sql.row.visible]
    if session.autoflush:
        session.flush()
    return Sweep(mapped, sql, session, and_(sql.can(), *visible, *core), parameters, said, payload or NO_PAYLOAD)


def _core(mapped: MappedState, criterion: Any) -> ColumnElement[bool]:
    """*criterion* with the columns of the table itself in the place of the model's attributes."""
    table = mapped.row.table
    clause = getattr(criterion, "__clause_element__", None)
    expression = clause() if callable(clause) else criterion
    if not isinstance(expression, ColumnElement):
        raise TypeError(
            f"criteria are SQL expressions, such as {mapped.model.__name__}.id > 5, not {type(criterion).__name__}"
        )

    def replaced(element: Any, **_: Any) -> Any:
        return table.c[element.key] if isinstance(element, Column) and element.table is table else None

    result: ColumnElement[bool] = visitors.replacement_traverse(expression, {}, replaced)
    return result


def _fire_where(
    session: Session,
    model: type[Any],
    event: str,
    column: Any,
    criteria: Sequence[Any],
    sizes: tuple[int | None, int | None, Progress | None],
    payload: Mapping[str, Any],
    said: Mapping[str, Any],
) -> MovedRows[Any]:
    batch_size, max_rows, progress = sizes
    sweep = _sweep(session, model, event, column, criteria, payload, said)
    taken: Counter[int] = Counter()
    for batch in _batches(sweep, batch_size) if max_rows is None else [sweep]:
        taken += batch.run() if max_rows is None else _run_at_most(batch, max_rows)
        if progress is not None:
            progress(taken.total(), None)
    by_transition: Counter[tuple[Any, Any]] = Counter()
    for index, number in taken.items():
        branch = sweep.event.branches[index]
        loaded = sweep.mapped.machine.loaded
        by_transition[loaded(branch.source), loaded(branch.target)] += number
    return MovedRows(model, event, taken.total(), dict(+by_transition))


def _run_at_most(sweep: Sweep, max_rows: int) -> Counter[int]:
    """Move the rows if they are no more than *max_rows*, which are locked to be counted."""
    connection = sweep.connection()
    try:
        with backend_of(connection).transaction(connection):
            backend_of(connection).lock(connection, sweep.event)
            rows = sweep.pick(connection, max_rows + 1)
            if len(rows) > max_rows:
                model = sweep.mapped.model.__name__
                raise TooManyRows(
                    f"{sweep.event.name!r} would move more than max_rows={max_rows} rows of {model}; nothing was changed"
                )
            return sweep.take(connection, rows)
    except DBAPIError as error:
        raise_explained(error, connection, model=sweep.mapped.model, event=sweep.event.name)


def _batches(sweep: Sweep, batch_size: int | None) -> Iterator[Sweep]:
    """The sweep in parts along the primary key, of *batch_size* rows each, whether they match or not."""
    if batch_size is None:
        yield sweep
        return
    key = sweep.event.row.key
    beyond: list[ColumnElement[bool]] = []
    while True:
        last = select(*key).where(*beyond).order_by(*key).limit(1).offset(batch_size - 1)
        end = sweep.connection().execute(last).one_or_none()
        if end is None:
            yield sweep.within(*beyond)
            return
        after_end = is_beyond(key, tuple(end))
        yield sweep.within(*beyond, ~after_end)
        beyond = [after_end]


def _claim(
    session: Session,
    model: type[Any],
    event: str,
    column: Any,
    criteria: Sequence[Any],
    limit: int,
    order_by: Any,
    payload: Mapping[str, Any],
    said: Mapping[str, Any],
) -> list[Any]:
    sweep = _sweep(session, model, event, column, criteria, payload, said)
    connection = sweep.connection()
    if is_autocommit(connection):
        raise TransactionRequired(
            "claim() locks rows and then moves them, and this connection is in AUTOCOMMIT, which keeps no lock"
        )
    key, code = sweep.event.row.key, sweep.event.code().label("fsm_code")
    order = key if order_by is None else order_by if isinstance(order_by, (tuple, list)) else (order_by,)
    query = (
        select(model, *key, code).where(sweep.criterion).order_by(*order).limit(limit).with_for_update(skip_locked=True)
    )
    arguments = {"mapper": sweep.mapped.mapper, "clause": sweep.event.row.table.update()}
    try:
        backend_of(connection).lock(connection, sweep.event)
        # The lock is worth nothing if the instance shows an older row: refresh those that the session holds.
        found = session.execute(
            query, sweep.parameters, execution_options={"populate_existing": True}, bind_arguments=arguments
        ).all()
        rows = [(tuple(values[1:-1]), values[-1]) for values in found]
        sweep.take(connection, rows)
    except DBAPIError as error:
        raise_explained(error, connection, model=model, event=event)
    instances = [values[0] for values in found]
    if sweep.mapped.extras.hooks:
        for instance, (key_values, taken) in zip(instances, rows, strict=True):
            branch = sweep.event.branches[(taken - MOVED) // 2]
            announce(sweep.mapped, sweep.moved(branch, key_values, instance), session)
    return instances
