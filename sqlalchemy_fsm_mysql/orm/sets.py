"""One event on many rows: :func:`fire_where` moves what matches, :func:`claim` takes rows that nobody else holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast, overload

from sqlalchemy import (
    BinaryExpression,
    BindParameter,
    Case,
    Cast,
    ClauseList,
    Column,
    ColumnElement,
    Connection,
    False_,
    Null,
    TextClause,
    True_,
    TypeCoerce,
    UnaryExpression,
    and_,
    inspect,
    literal_column,
    or_,
    select,
    tuple_,
)
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import instance_state
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import ExpressionClauseList, Grouping, TypeClause

from ..core.failures import flush_first, raise_explained
from ..databases import backend_of
from ..databases.base import is_autocommit
from ..errors import RefusedByDatabase, TooManyRows, TransactionRequired
from ..errors.texts import shown
from ..observation import Attempt, watching
from ..outcomes import NO_PAYLOAD, Moved, MovedRows
from ..sql.code import Taken
from ..sql.events import NEXT_VERSION, Branch, EventSQL
from ..sql.expressions import selects_from
from .column import MappedState, mapped_state
from .firing import AnySession, Shot, has_filters, in_session, payload_parameters, plain_key
from .history import checked_said
from .hooks import announce
from .journal import note

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

M = TypeVar("M")

# Rows a statement touches at most where their keys go through this process: bounds memory and the statement.
CHUNK = 1000

# What may stand in a criterion that asks nothing but the row itself.
_STEADY = (
    BinaryExpression,
    BindParameter,
    Case,
    Cast,
    ClauseList,
    Column,
    ExpressionClauseList,
    False_,
    Grouping,
    Null,
    True_,
    TypeClause,
    TypeCoerce,
    UnaryExpression,
)

_SAVEPOINT = "fsm_sweep"
_ROLLBACK = f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}"

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
        if size is not None and not _is_number_of_rows(size):
            raise ValueError(f"{name}={shown(size)}; it is a number of rows, at least 1")
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

    Rows that another transaction has locked are passed over (``FOR UPDATE SKIP LOCKED``), so workers do not wait for
    each other, and no two get the same row. The instances come in the order of *order_by* (one expression or several;
    the primary key when left out). The rows are the caller's from COMMIT on: until then they are only locked.

    Raises: ValueError for a *limit* below 1; TransactionRequired in AUTOCOMMIT; else as :func:`fire_where`.
    """
    if not _is_number_of_rows(limit):
        raise ValueError(f"limit={shown(limit)}; it is a number of rows, at least 1")
    said = {"actor": actor, "details": details}
    return in_session(session, _claim, model, event, column, criteria, limit, order_by, payload, said)


# Relationships that are loaded when they are asked for, and not with the instance.
_LAZY = (True, "select", "raise", "raise_on_sql", "noload", "dynamic", "write_only", None)


class Locked(NamedTuple):
    """A row that is locked: its key, the branch it takes, and its version where Python makes the next one."""

    key: tuple[Any, ...]
    branch: Branch
    version: Any = None


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
        """Move the rows that match, all or none; how many took which branch."""
        connection, backend = self.connection(), backend_of(self.connection())
        is_recorded, is_set = self.mapped.extras.history is not None, self._is_set() and backend.can_sweep
        try:
            if is_set and not is_recorded:
                return self._run_as_set(connection)
            taken = self._run_as_recorded_set(connection) if is_set and self._is_steady() else None
            return self._run_by_keys(connection) if taken is None else taken
        except (StatementError, RefusedByDatabase) as error:
            raise_explained(error, connection, model=self.mapped.model, event=self.event.name)

    def _is_set(self) -> bool:
        """Whether one UPDATE can move the rows, without their keys coming here."""
        return not self.mapped.makes_versions and not self.reads_itself() and not has_filters(self.session)

    def _is_steady(self) -> bool:
        """Whether a locked row that matches will match until it is moved, and take the same branch.

        It will when nothing is asked but the row itself: no subquery, no function such as NOW() or RAND(), no SQL text.
        """
        asked = [self.criterion, *(branch.guard for branch in self.event.branches if branch.guard is not None)]
        return all(isinstance(element, _STEADY) for expression in asked for element in visitors.iterate(expression))

    def _run_as_set(self, connection: Connection) -> Counter[int]:
        taken = Counter(backend_of(connection).sweep(connection, self.event, self.criterion, self.parameters))
        if taken.total():
            self._expire_all()
        return taken

    def _run_as_recorded_set(self, connection: Connection) -> Counter[int] | None:
        """One INSERT into the history, which locks the rows, and one UPDATE; None, and nothing done, when they differ.

        The locked rows still match at the UPDATE. So when as many were moved as recorded, they are the same; when more
        were, other rows have begun to match in between.
        """
        history = self.mapped.extras.history.sql
        values = {**self.parameters, **self._said(), "fsm_event": self.event.name}
        with self.all_or_none(connection):
            recorded = backend_of(connection).record_sweep(connection, history, self.event, self.criterion, values)
            taken = self._run_as_set(connection) if recorded else Counter[int]()
            if taken.total() == recorded:
                return taken
            connection.exec_driver_sql(_ROLLBACK)
        return None

    @contextmanager
    def all_or_none(self, connection: Connection, *, is_locked: bool = False) -> Iterator[None]:
        """Take back what the statements in the block did if one fails: the caller may go on after the error."""
        backend = backend_of(connection)
        with backend.transaction(connection):
            if not is_locked:
                backend.lock(connection, self.event)
            connection.exec_driver_sql(f"SAVEPOINT {_SAVEPOINT}")
            try:
                yield
            except BaseException:
                with suppress(DBAPIError):  # the whole transaction is gone, and the error tells
                    if not connection.invalidated:
                        connection.exec_driver_sql(_ROLLBACK)
                self._expire_all()
                raise

    def _run_by_keys(self, connection: Connection) -> Counter[int]:
        """As :meth:`run`, chunk by chunk along the primary key: lock, read the codes, write by key."""
        with self.all_or_none(connection):
            if self.reads_itself():  # a chunk would see what the one before has moved, so all keys come first
                return self.take(connection, self.pick(connection, None))
            taken: Counter[int] = Counter()
            beyond: tuple[Any, ...] | None = None
            while True:
                here = self if beyond is None else self.within(is_beyond(self.event.row.key, beyond))
                rows = here.pick(connection, CHUNK)
                taken += self.take(connection, rows)
                if len(rows) < CHUNK:
                    return taken
                beyond = rows[-1].key

    def is_one_update(self, rows: int) -> bool:
        """Whether so many locked rows are moved by a single statement."""
        return self.mapped.extras.history is None and len(self.event.branches) == 1 and self._is_set() and rows <= CHUNK

    def reads_itself(self) -> bool:
        """Whether a criterion selects from the table itself: error 1093 of MySQL, and it would see rows just moved."""
        return any(selects_from(element, self.event.row.table) for element in visitors.iterate(self.criterion))

    def columns(self) -> list[ColumnElement[Any]]:
        """What has to be read of a row to move it: the parts of a :class:`Locked`."""
        row = self.event.row
        version = [row.version] if self.mapped.makes_versions and row.version is not None else []
        return [*row.key, self.event.selected_code, *version]

    def locked(self, values: Sequence[Any]) -> Locked:
        parts = len(self.event.row.key)
        return Locked(tuple(values[:parts]), self.branch(values[parts]), *values[parts + 1 :])

    def branch(self, code: int) -> Branch:
        """The branch that *code* names; the criterion lets no row through that the event does not move."""
        reading = self.event.read(int(code))
        assert isinstance(reading, Taken)
        return reading.branch

    def pick(self, connection: Connection, limit: int | None) -> list[Locked]:
        """Lock up to *limit* of the rows, in the order of their keys, and read what the event does to each."""
        query = select(*self.columns()).where(self.criterion).order_by(*self.event.row.key).limit(limit)
        query = query.with_for_update()
        if has_filters(self.session):
            query = query.select_from(self.mapped.model)
            found = self.session.execute(query, self.parameters, bind_arguments=self.bind_arguments()).all()
        else:
            found = connection.execute(query, self.parameters).all()
        return [self.locked(values) for values in found]

    def take(self, connection: Connection, rows: Sequence[Locked]) -> Counter[int]:
        """Move locked rows whose codes are known: one UPDATE a branch, and one INSERT when there is a history."""
        backend, history = backend_of(connection), self.mapped.extras.history
        taken: Counter[int] = Counter()
        keys: dict[tuple[int, Any], list[tuple[Any, ...]]] = {}
        for row in rows:
            keys.setdefault((row.branch.number, row.version), []).append(row.key)
        for (index, version), alike in keys.items():
            branch = self.event.branches[index]
            parameters = {**self.parameters, **self._next_version(version)}
            for some in _chunks(alike):
                if history is not None:
                    values = {**parameters, **self._to_record(branch)}
                    backend.record_keys(connection, history.sql, self.event.row, some, values)
                backend.take_keys(connection, self.event, index, some, parameters)
            self._bring_up_to_date(branch, alike)
            taken[index] += len(alike)
        return taken

    def load(self, keys: list[tuple[Any, ...]]) -> list[Any]:
        """The instances of the moved rows with *keys*, read after the move, and with what the mapping loads eagerly.

        The lock on a row is worth nothing if its instance shows an older one: those held are read again.
        """
        found: dict[tuple[Any, ...], Any] = {}
        part = self.event.row.key
        for some in _chunks(keys):
            among = part[0].in_([key[0] for key in some]) if len(part) == 1 else tuple_(*part).in_(some)
            query = select(self.mapped.model).where(among).execution_options(populate_existing=True)
            instances = self.session.scalars(query, bind_arguments=self.bind_arguments()).unique()
            found |= {inspect(instance).identity: instance for instance in instances}
        return [found[key] for key in keys]

    def changes_state_only(self) -> bool:
        """Whether an instance loaded before the move is as good as one loaded after it, once it has the new state.

        The state is all that the event changes, the mapping reads no other table along, whose rows a locking read would
        lock, too, and nobody is told when an instance is loaded, and sees the old state.
        """
        mapped, mapper, told = self.mapped, self.mapped.mapper, self.mapped.mapper.class_manager.dispatch
        return (
            self.event.row.version is None
            and not mapped.changed_with(self.event)
            and mapper.persist_selectable is self.event.row.table
            and mapper.polymorphic_on is None
            and all(relationship.lazy in _LAZY for relationship in mapper.relationships)
            and not (told.load or told.refresh)
        )

    def bind_arguments(self) -> dict[str, Any]:
        """What tells ``Session.get_bind()`` that this writes."""
        return {"mapper": self.mapped.mapper, "clause": self.event.row.writing}

    def _next_version(self, version: Any) -> dict[str, Any]:
        return {NEXT_VERSION: self.mapped.next_version(version)} if self.mapped.makes_versions else {}

    def _to_record(self, branch: Branch) -> dict[str, Any]:
        source, target = branch.source, branch.target
        return {"fsm_event": self.event.name, "fsm_source": source, "fsm_target": target, **self._said()}

    def _said(self) -> dict[str, Any]:
        return {"fsm_actor": self.said["actor"], "fsm_details": self.said["details"], "fsm_token": None}

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

    def moved_rows(self, taken: Counter[int]) -> MovedRows[Any]:
        """The outcome, when so many rows have *taken* each branch."""
        by_transition: Counter[tuple[Any, Any]] = Counter()
        for index, number in taken.items():
            branch = self.event.branches[index]
            loaded = self.mapped.machine.loaded
            by_transition[loaded(branch.source), loaded(branch.target)] += number
        return MovedRows(self.mapped.model, self.event.name, taken.total(), dict(+by_transition))

    def _bring_up_to_date(self, branch: Branch, keys: list[tuple[Any, ...]]) -> None:
        self._note()
        held = self.session.identity_map
        if not held:
            return
        target = self.mapped.machine.loaded(branch.target)
        shot = Shot(self.mapped, self.event, self.session, None, {})
        for key in keys:
            instance = held.get(self.mapped.mapper.identity_key_from_primary_key(key))
            if instance is not None:
                shot.bring_up_to_date(instance, target)

    def _expire_all(self) -> None:
        """Expire what an UPDATE of unknown rows may have changed in any instance that the session holds."""
        self._note()
        row = self.event.row
        names = {self.mapped.attribute, *self.mapped.changed_with(self.event)}
        names |= {name for name, column in row.columns.items() if column is row.version}
        for instance in self.session.identity_map.values():
            if isinstance(instance, self.mapped.model):
                self.session.expire(instance, names)

    def _note(self) -> None:
        # Also for instances that will be loaded between now and the savepoint's rollback.
        if self.session.in_nested_transaction():
            note(self.session, model=self.mapped.model)


# The largest number that every database takes for a LIMIT is one less.
_NO_LIMIT = 2**63


def _is_number_of_rows(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < _NO_LIMIT


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
    actor, _, _ = checked_said((said["actor"], None, None), mapped)
    said = {**said, "actor": actor}
    core = _on_row(mapped, [_core(mapped, criterion) for criterion in criteria])
    visible = [] if sql.row.visible is None else [sql.row.visible]
    flush_first(session, mapped.mapper, model=mapped.model, event=event)
    return Sweep(mapped, sql, session, and_(sql.can, *visible, *core), parameters, said, payload or NO_PAYLOAD)


def _core(mapped: MappedState, criterion: Any) -> ColumnElement[bool]:
    """*criterion* with the columns of the table itself in the place of the model's attributes."""
    table = mapped.row.table
    clause = getattr(criterion, "__clause_element__", None)
    expression = clause() if callable(clause) else criterion
    if not isinstance(expression, (ColumnElement, TextClause)):
        raise TypeError(
            f"criteria are SQL expressions, such as {mapped.model.__name__}.id > 5, not {type(criterion).__name__}"
        )

    def replaced(element: Any, **_: Any) -> Any:
        return table.c[element.key] if isinstance(element, Column) and element.table is table else None

    result: Any = visitors.replacement_traverse(expression, {}, replaced)
    return cast("ColumnElement[bool]", result)


def _on_row(mapped: MappedState, criteria: Sequence[ColumnElement[bool]]) -> Sequence[ColumnElement[bool]]:
    """*criteria*, of which those that read other tables, too, are one EXISTS: a row matches once or not at all.

    A joined subclass has columns in several tables; they are joined to the state's by their inheritance.
    """
    table, mapper = mapped.row.table, mapped.mapper
    apart = [select(table).where(criterion).get_final_froms() != [table] for criterion in criteria]
    if not any(apart):
        return criteria
    elsewhere = [criterion for criterion, is_apart in zip(criteria, apart, strict=True) if is_apart]
    read = select(table).where(*elsewhere).get_final_froms()
    joined = [one.inherit_condition for one in mapper.iterate_to_root() if one.inherit_condition is not None]
    joins = joined if any(part in mapper.tables and part is not table for part in read) else []
    matches = select(literal_column("1")).where(*joins, *elsewhere).correlate(table).exists()
    return [matches, *(criterion for criterion, is_apart in zip(criteria, apart, strict=True) if not is_apart)]


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
    sweep = _sweep(session, model, event, column, criteria, payload, said)
    with watching(Attempt("fire_where", model, sweep.mapped.table_name, sweep.event.name)) as attempt:
        attempt.result = rows = sweep.moved_rows(_run(sweep, *sizes))
    return rows


def _run(sweep: Sweep, batch_size: int | None, max_rows: int | None, progress: Progress | None) -> Counter[int]:
    taken: Counter[int] = Counter()
    if max_rows is not None and batch_size is not None:
        _pick_at_most(sweep, max_rows)
    for batch in _batches(sweep, batch_size):
        taken += batch.run() if max_rows is None or batch_size is not None else _run_at_most(batch, max_rows)
        if max_rows is not None and taken.total() > max_rows:  # more have begun to match since they were counted
            raise _too_many(sweep, max_rows, "roll back to undo those that were moved")
        if progress is not None:
            progress(taken.total(), None)
    return taken


def _run_at_most(sweep: Sweep, max_rows: int) -> Counter[int]:
    """Move the rows if they are no more than *max_rows*, which are locked to be counted."""
    connection = sweep.connection()
    try:
        with sweep.all_or_none(connection):
            return sweep.take(connection, _pick_at_most(sweep, max_rows))
    except (StatementError, RefusedByDatabase) as error:
        raise_explained(error, connection, model=sweep.mapped.model, event=sweep.event.name)


def _pick_at_most(sweep: Sweep, max_rows: int) -> list[Locked]:
    """The rows, locked.

    Raises: TooManyRows when they are more than *max_rows*.
    """
    connection = sweep.connection()
    try:
        rows = sweep.pick(connection, max_rows + 1)
    except (StatementError, RefusedByDatabase) as error:
        raise_explained(error, connection, model=sweep.mapped.model, event=sweep.event.name)
    if len(rows) > max_rows:
        raise _too_many(sweep, max_rows, "nothing was changed")
    return rows


def _too_many(sweep: Sweep, max_rows: int, advice: str) -> TooManyRows:
    model = sweep.mapped.model.__name__
    return TooManyRows(f"{sweep.event.name!r} would move over max_rows={max_rows} rows of {model}; {advice}")


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
    with watching(Attempt("claim", model, sweep.mapped.table_name, sweep.event.name)) as attempt:
        instances, taken = _take(sweep, limit, order_by)
        attempt.result = sweep.moved_rows(taken)
    return instances


def _take(sweep: Sweep, limit: int, order_by: Any) -> tuple[list[Any], Counter[int]]:
    """The instances of the claimed rows, and how many took which branch."""
    connection, session, model = sweep.connection(), sweep.session, sweep.mapped.model
    if is_autocommit(connection):
        raise TransactionRequired(
            "claim() locks rows and then moves them, and this connection is in AUTOCOMMIT, which keeps no lock"
        )
    key = sweep.event.row.key
    order = key if order_by is None else order_by if isinstance(order_by, (tuple, list)) else (order_by,)
    instances: list[Any] | None = None
    try:
        backend_of(connection).lock(connection, sweep.event)
        if sweep.changes_state_only():
            found = _lock_free(sweep, [model, sweep.event.selected_code], order, limit)
            instances = [instance for instance, _ in found]
            rows = [Locked(instance_state(instance).identity or (), sweep.branch(code)) for instance, code in found]
        else:
            rows = [sweep.locked(values) for values in _lock_free(sweep, sweep.columns(), order, limit)]
        with nullcontext() if sweep.is_one_update(len(rows)) else sweep.all_or_none(connection, is_locked=True):
            taken = sweep.take(connection, rows)
        if instances is None:
            instances = sweep.load([row.key for row in rows])
    except (StatementError, RefusedByDatabase) as error:
        raise_explained(error, connection, model=model, event=sweep.event.name)
    if sweep.mapped.extras.hooks:
        for instance, row in zip(instances, rows, strict=True):
            announce(sweep.mapped, sweep.moved(row.branch, row.key, instance), session, connection)
    return instances, taken


def _lock_free(sweep: Sweep, what: Sequence[Any], order: Sequence[Any], limit: int) -> Sequence[Any]:
    """Lock up to *limit* of the rows that nobody else has locked, and read *what* of them; instances are read anew."""
    query = select(*what).select_from(sweep.mapped.model).where(sweep.criterion).order_by(*order).limit(limit)
    return sweep.session.execute(
        query.with_for_update(skip_locked=True),
        sweep.parameters,
        execution_options={"populate_existing": True},
        bind_arguments=sweep.bind_arguments(),
    ).all()
