"""One event on many rows of a Connection: by one UPDATE where that is enough, else by keys.

A :class:`Sweep` is an event about to be fired on the rows that match a criterion. :func:`run` chooses one of three
plans:

- **as a set**: one UPDATE with the criterion in its WHERE. The keys of the rows never come to this process.
- **as a recorded set**: one INSERT … SELECT into the history, which locks the rows, then the same UPDATE.
- **by keys**: lock the rows in chunks along the primary key, read the branch of each, write history rows and states by
  key. Needed where a criterion reads more than the row, where Python makes the next version, and on SQLite.

``orm.sets`` overrides the few methods in which a session takes part, and :class:`ConnectionSweep` is without one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

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
    Select,
    True_,
    TypeCoerce,
    UnaryExpression,
    and_,
    select,
)
from sqlalchemy.exc import StatementError
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import ExpressionClauseList, Grouping, TypeClause
from typing_extensions import Self

from ..databases import database_of
from ..databases.ready import ReadyStatement
from ..errors import FireError, RefusedByDatabase
from ..errors.texts import State, counted
from ..outcomes import NO_PAYLOAD, Moved, MovedRows
from ..sql.code import Taken
from ..sql.events import NEXT_VERSION, Branch, EventSQL
from ..sql.exact import ExactName, exact_text
from ..sql.expressions import selects_from
from ..sql.history import HistorySQL
from ..sql.keys import is_beyond
from .attribution import NO_ATTRIBUTION, Attribution
from .failures import give_up_unheard, raise_explained
from .hooks import announce
from .keys import prepare
from .savepoints import Savepoint, savepoint
from .target import Target, plain_key

# The most rows of one statement whose keys go through this process. It bounds memory and the length of the statement.
CHUNK = 1000

# The elements of a criterion that reads nothing but the row itself.
_STEADY = (
    BinaryExpression,
    BindParameter,
    Case,
    Cast,
    ClauseList,
    Column,
    ExactName,
    ExpressionClauseList,
    False_,
    Grouping,
    Null,
    True_,
    TypeClause,
    TypeCoerce,
    UnaryExpression,
    exact_text,
)


T = TypeVar("T")


class Locked(NamedTuple):
    """A row that is locked: its key, the branch it takes, and its version where Python makes the next one."""

    key: tuple[Any, ...]
    branch: Branch
    version: Any = None


@dataclass
class Sweep:
    """An event about to be fired on the rows that match."""

    target: Target
    event: EventSQL
    criterion: ColumnElement[bool]
    parameters: dict[str, Any]
    attribution: Attribution = NO_ATTRIBUTION
    payload: Mapping[str, Any] = NO_PAYLOAD
    # The statements with this criterion, which reads nothing but the row; None where it is the criterion of one call.
    statements: dict[Any, Any] | None = None

    def narrowed(self, *criteria: ColumnElement[bool]) -> Self:
        """This sweep, limited to the rows that match *criteria*, too."""
        return replace(self, criterion=and_(self.criterion, *criteria), statements=None)

    @property
    def history(self) -> HistorySQL | None:
        """The table that gets a row for each transition of this event; None when it gets none."""
        return self.target.history if self.event.recorded else None

    # ConnectionSweep and orm.sets.SessionSweep have these two each in its own way.

    def connection(self) -> Connection:
        """The connection that the rows are written on, with the fire noted on its transaction.

        Raises: TransactionRequired in AUTOCOMMIT where there is a history; TransactionAborted.
        """
        raise NotImplementedError

    def announce(self, moves: Sequence[Moved[Any]], connection: Connection) -> None:
        """Call the hooks for *moves*."""
        raise NotImplementedError

    @contextmanager
    def explaining(self, connection: Connection) -> Iterator[None]:
        """Raise our errors in place of the server's within the block.

        Raises: FSMError when the rows are chosen by other rows that the server would not lock.
        """
        try:
            # A criterion whose statements are kept reads nothing but the row.
            criteria = [self.criterion] if self.statements is None else []
            database_of(connection).rows.require_locks(connection, self.event, *criteria)
            yield
        except (StatementError, RefusedByDatabase) as error:
            raise_explained(error, connection, model=self.target.model, event=self.event.name)
        except BaseException as interruption:
            give_up_unheard(interruption, connection)
            raise

    # orm.sets.SessionSweep overrides these six.

    def is_filtered(self) -> bool:
        """Whether a listener of the session may hide rows, besides the criterion."""
        return False

    def read(self, connection: Connection, query: Select[Any] | ReadyStatement) -> Sequence[Sequence[Any]]:
        """The rows of *query*, a SELECT that locks them."""
        if isinstance(query, ReadyStatement):
            return query.rows(connection, self.parameters)
        return connection.execute(query, self.parameters).all()

    def instance(self, key: tuple[Any, ...]) -> Any:
        """The instance of the row with this *key* that exists already, if any."""
        return None

    def know_refused(self, key: tuple[Any, ...], state: State) -> None:
        """Bring the row's instance up to date: the row is in *state*, which has refused the event."""

    def know_moved(self, branch: Branch, keys: Sequence[tuple[Any, ...]]) -> None:
        """Bring the instances of the rows with these *keys* up to date: the rows have taken *branch*."""

    def know_changed(self) -> None:
        """Expire instances: rows whose keys are not known have moved, or have been moved back."""

    # How the rows are moved.

    def is_set(self) -> bool:
        """Whether one UPDATE can move the rows, without their keys coming here."""
        return not self.target.makes_versions and not self.reads_itself() and not self.is_filtered()

    def reads_itself(self) -> bool:
        """Whether a criterion selects from the table itself.

        MySQL refuses that in an UPDATE (error 1093). In a chunk, it would see the rows that the chunk before has moved.
        """
        if self.statements is not None and not self.event.is_guarded:
            return False
        return any(selects_from(element, self.event.row.table) for element in visitors.iterate(self.criterion))

    def columns(self) -> list[ColumnElement[Any]]:
        """The columns to read of a row before it is moved: the parts of a :class:`Locked`."""
        row = self.event.row
        version = [row.version] if self.target.makes_versions and row.version is not None else []
        return [*row.key, self.event.selected_code, *version]

    def locked(self, values: Sequence[Any]) -> Locked:
        """The :class:`Locked` of one row of a SELECT of :meth:`columns`."""
        parts = len(self.event.row.key)
        return Locked(tuple(values[:parts]), taken_branch(self.event, values[parts]), *values[parts + 1 :])


def taken_branch(event: EventSQL, code: int) -> Branch:
    """The branch that *code* names, of a row that *event* moves.

    Raises: AssertionError for a row that it does not move: the criterion lets none through.
    """
    reading = event.read(int(code))
    if not isinstance(reading, Taken):
        raise AssertionError(  # noqa: TRY004 - no argument is of a wrong type
            f"{event.name!r} does not move a row that its criterion let through: {reading}"
        )
    return reading.branch


@dataclass
class ConnectionSweep(Sweep):
    """A sweep on a Connection alone."""

    on: Connection = field(kw_only=True)

    def connection(self) -> Connection:
        prepare(self.on, self.target, self.event.name)
        return self.on

    def announce(self, moves: Sequence[Moved[Any]], connection: Connection) -> None:
        announce(self.target.extras.hooks, moves, connection)


def run(sweep: Sweep, connection: Connection) -> Counter[int]:
    """Move the rows that match, all or none; how many took which branch."""
    # The plans, the cheapest first. The recorded set needs _is_steady(), because it reads the criterion twice.
    is_set = sweep.is_set() and database_of(connection).sets.can_sweep(connection, sweep.event)
    if is_set and sweep.history is None:
        return _as_set(sweep, connection)
    if is_set and _is_steady(sweep):
        moved = _as_recorded_set(sweep, connection)
        if moved is not None:
            return moved
    return _by_keys(sweep, connection)


def _is_steady(sweep: Sweep) -> bool:
    """Whether a locked row that matches will match until it is moved, and take the same branch.

    It does when the criterion and the guards read nothing but the row: no subquery, no function such as NOW() or
    RAND(), no SQL text.
    """
    conditions = [sweep.criterion, *(branch.guard for branch in sweep.event.branches if branch.guard is not None)]
    return all(isinstance(element, _STEADY) for expression in conditions for element in visitors.iterate(expression))


def _as_set(sweep: Sweep, connection: Connection) -> Counter[int]:
    sets = database_of(connection).sets
    moved = Counter(sets.sweep(connection, sweep.event, sweep.criterion, sweep.parameters, sweep.statements))
    if moved.total():
        sweep.know_changed()
    return moved


def _as_recorded_set(sweep: Sweep, connection: Connection) -> Counter[int] | None:
    """One INSERT into the history, which locks the rows, and one UPDATE.

    None, and nothing is changed, when the two statements found different numbers of rows. The rows that the INSERT
    locked still match at the UPDATE. So with equal numbers both found the same rows; with more at the UPDATE, other
    rows have begun to match in between.
    """
    history = sweep.history
    assert history is not None
    values = {**sweep.parameters, **sweep.attribution.parameters(), "fsm_event": sweep.event.name}
    with all_or_none(sweep, connection) as before:
        recorded = database_of(connection).history.record_sweep(
            connection, history, sweep.event, sweep.criterion, values
        )
        moved = _as_set(sweep, connection) if recorded else Counter[int]()
        if moved.total() == recorded:
            return moved
        before.roll_back()
    return None


def _by_keys(sweep: Sweep, connection: Connection) -> Counter[int]:
    with all_or_none(sweep, connection):
        moved: Counter[int] = Counter()
        for rows in picks(sweep, connection):
            moved += take(sweep, connection, rows)
        return moved


def picks(sweep: Sweep, connection: Connection) -> Iterator[list[Locked]]:
    """Lock all rows that match, chunk after chunk; the caller moves each before it takes the next."""
    # A criterion that reads its own table must not run again after rows have moved, so it is read once, whole.
    if sweep.reads_itself():
        yield pick(sweep, connection, None)
        return
    rest = sweep
    while True:
        rows = pick(rest, connection, CHUNK)
        yield rows
        if len(rows) < CHUNK:
            return
        # A target state may match the criterion again; beyond the last key, no row has been moved yet.
        rest = sweep.narrowed(is_beyond(sweep.event.row.key, rows[-1].key))


def pick(sweep: Sweep, connection: Connection, limit: int | None, order_by: Sequence[Any] = ()) -> list[Locked]:
    """Lock up to *limit* of the rows, in the given order or that of their keys, and read the branch that each takes."""
    order = order_by or sweep.event.row.key
    query = select(*sweep.columns()).where(sweep.criterion).order_by(*order).limit(limit).with_for_update()
    return [sweep.locked(values) for values in sweep.read(connection, query)]


def is_one_update(sweep: Sweep, rows: int) -> bool:
    """Whether :func:`take` moves so many rows by a single statement, whose failure leaves nothing to undo."""
    can_be_one = len(sweep.event.branches) == 1 or not sweep.event.is_guarded
    return sweep.history is None and can_be_one and sweep.is_set() and rows <= CHUNK


def take(sweep: Sweep, connection: Connection, rows: Sequence[Locked], *, is_saved: bool = True) -> Counter[int]:
    """Move locked rows: one UPDATE, and one INSERT when there is a history.

    *is_saved* is whether the caller undoes the UPDATE when the INSERT fails, as :func:`all_or_none` does.

    Each chunk has its own, and each version where Python makes the next one. So have the branches of a guarded event on
    databases where one UPDATE cannot take them all.
    """
    target, moved = sweep.target, Counter[int]()
    # The next version is a parameter of the UPDATE, so rows of one version move together. Where the database counts
    # versions, or there are none, all rows have the version None: one group.
    by_version: dict[Any, list[Locked]] = {}
    for row in rows:
        by_version.setdefault(row.version, []).append(row)
    for version, alike in by_version.items():
        parameters = dict(sweep.parameters)
        if target.makes_versions:
            parameters[NEXT_VERSION] = target.next_version(version)
        for some in chunks(alike):
            taken: dict[int, list[tuple[Any, ...]]] = {}
            for row in some:
                taken.setdefault(row.branch.number, []).append(row.key)
            _take_chunk(sweep, connection, taken, parameters, is_saved=is_saved)
            for number, keys in taken.items():
                sweep.know_moved(sweep.event.branches[number], keys)
                moved[number] += len(keys)
    return moved


def _take_chunk(
    sweep: Sweep,
    connection: Connection,
    taken: Mapping[int, Sequence[tuple[Any, ...]]],
    parameters: Mapping[str, Any],
    *,
    is_saved: bool,
) -> None:
    database, locked = database_of(connection), sum(map(len, taken.values()))
    # Each row is locked in the source state. A smaller count means that the lock was on another database.
    count = database.sets.take_rows(connection, sweep.event, taken, parameters)
    if count != locked:
        database.transactions.abandon(connection)
        raise FireError(_not_there(sweep, locked, count), model=sweep.target.model, event=sweep.event.name)
    if sweep.history is None:
        return
    values = {**parameters, **sweep.attribution.parameters(), "fsm_event": sweep.event.name}
    try:
        database.history.record_taken(connection, sweep.history, sweep.event, taken, values)
    except Exception:
        if not is_saved:  # rows have moved, and must not be committed without their history rows
            database.transactions.abandon(connection)
        raise


def _not_there(sweep: Sweep, locked: int, count: int) -> str:
    what = f"{sweep.event.name!r} of {sweep.target.label} locked {counted(locked, 'row')} in a source state"
    return (
        f"{what}, and found {count:,} of them there when it moved them: the rows were read in another database than "
        "they are written in, or without a lock; nothing can be committed, roll back"
    )


def announce_rows(sweep: Sweep, rows: Sequence[Locked], connection: Connection) -> None:
    """Call the hooks for *rows*, which have moved."""
    if sweep.target.extras.hooks:
        sweep.announce([moved_row(sweep, row, sweep.instance(row.key)) for row in rows], connection)


@contextmanager
def all_or_none(sweep: Sweep, connection: Connection, *, is_locked: bool = False) -> Iterator[Savepoint]:
    """Undo the statements of the block if one fails, because the caller may go on after the error.

    *is_locked* is whether the caller holds the lock of :meth:`RowStatements.lock` already.
    """
    database = database_of(connection)
    with database.transactions.together(connection):
        if not is_locked:
            database.rows.lock(connection, sweep.event)
        with savepoint(connection, "fsm_sweep") as before:
            try:
                yield before
            except BaseException:
                before.roll_back_after_error()
                sweep.know_changed()
                raise


def chunks(several: Sequence[T]) -> Iterator[Sequence[T]]:
    """*several* in parts of :data:`CHUNK`."""
    for i in range(0, len(several), CHUNK):
        yield several[i : i + CHUNK]


def moved_row(sweep: Sweep, row: Locked, instance: Any = None) -> Moved[Any]:
    """The outcome of one row of the set, for a hook."""
    return Moved(
        model=sweep.target.model,
        key=plain_key(row.key),
        event=sweep.event.name,
        source=row.branch.leaves,
        target=row.branch.leads_to,
        instance=instance,
        payload=sweep.payload,
        actor=sweep.attribution.actor,
        details=sweep.attribution.details,
    )


def moved_rows(
    sweep: Sweep, moved: Counter[int], keys: Mapping[Any, tuple[State, State]] | None = None
) -> MovedRows[Any]:
    """The outcome of the set: *moved* counts the rows of each branch, *keys* has the transition of each row."""
    by_transition: Counter[tuple[Any, Any]] = Counter()
    for number, rows in moved.items():
        branch = sweep.event.branches[number]
        by_transition[branch.leaves, branch.leads_to] += rows
    return MovedRows(sweep.target.model, sweep.event.name, moved.total(), dict(+by_transition), keys=keys)
