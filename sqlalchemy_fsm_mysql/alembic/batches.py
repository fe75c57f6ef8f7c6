"""Rows from one state to another, in batches along the primary key, each committed; with their history.

A batch locks what it changes and nothing else, for a moment: it works in READ COMMITTED, passes over rows that
somebody else holds, and never waits for one while it holds others. What it passed over is left for another pass. How
many rows one transaction changes follows from how long the one before it took: writers shall not notice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

from alembic.operations import Operations
from sqlalchemy import (
    JSON,
    Column,
    ColumnElement,
    Enum,
    Integer,
    MetaData,
    String,
    Table,
    cast,
    inspect,
    select,
    text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import DBAPIError, NoSuchTableError, PendingRollbackError
from sqlalchemy.types import NullType, TypeEngine

from ..core.failures import Meaning, error_code, meaning
from ..databases import database_of, enforcer_of
from ..databases.messages import refusal_in
from ..errors import MigrationRefused, RefusedByDatabase
from ..machine.states import FORCED
from ..sql.clock import utc_now
from ..sql.events import Branch, EventSQL, StateRow
from ..sql.history import HistorySQL
from ..sql.keys import is_beyond
from .databases import Place, ServerPlace, log
from .rows import Value, is_among, rows_in, shown_rows

__all__ = ["Migration", "Walk", "committing", "go_through", "migrate", "require_own_transactions"]

CHUNK = 1000  # keys in one statement
PASSES = 10
TELL_EVERY = 1.0  # seconds
HOLD = 0.03  # seconds that a transaction is to hold its locks
FEWEST = 20  # rows of a transaction, however slow the server is
_LONGEST_PAUSE = 5.0  # seconds
_ATTEMPTS = 10  # of one batch that a deadlock has ended


@dataclass(frozen=True)
class Migration:
    """The states to leave, each with its target, which rows, and what their history rows say.

    None and ``''`` may be left like any state. `where` is a condition on the row, as SQL. With `keeps_timestamps`, the
    columns that the server sets at each UPDATE keep their values. `names` are the names of numbers in the history.
    """

    targets: Mapping[str | None, str]
    batch_size: int
    history: str | None
    record: Mapping[str, str]
    actor: str | None
    details: Any
    where: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    keeps_timestamps: bool = False
    since: str | None = None  # the column that gets the time of the move

    @property
    def criteria(self) -> list[ColumnElement[bool]]:
        """`where` as SQLAlchemy takes it: in parentheses, and a colon in it begins no parameter."""
        if self.where is None:
            return []
        escaped = self.where.replace(":", "\\:")
        return [text(f"({escaped})")]  # type: ignore[list-item]  # where() takes it like any condition


def migrate(place: Place, migration: Migration) -> int:
    """Move all rows; how many there were. The connection is in AUTOCOMMIT.

    Raises: MigrationRefused when rows are in these states still, or again, after the last pass.
    """
    walk = MigrationWalk(place, migration)

    def left() -> dict[Value, int]:
        return rows_in(place, list(migration.targets), *migration.criteria)

    def refuse() -> NoReturn:
        raise MigrationRefused(
            place.label,
            f"after {PASSES} passes and {walk.moved} rows moved, some are left",
            "an open transaction locks them, or a server still writes these states; run the revision again",
            rows=shown_rows(left()),
        )

    go_through(walk, lambda: sum(left().values()), refuse)
    return walk.moved


def go_through(walk: Walk, count: Callable[[], int], refuse: Callable[[], NoReturn]) -> None:
    """Go through the table until *count* finds no row that is left to be changed; *refuse* after the last pass.

    Raises: MigrationRefused when other transactions hold locks for too long, or the connection was lost.
    """
    label, total = walk.place.label, count()
    for number in range(PASSES):
        try:
            walk.once(total)
        except DBAPIError as error:
            if meaning(error) is Meaning.LOCK_TIMEOUT:
                raise MigrationRefused(
                    label,
                    f"another transaction locked rows for too long (error {error_code(error)}); {walk.moved} rows are"
                    " changed and committed",
                    "end that transaction, and run the revision again: it goes on with the rest",
                ) from error
            raise
        left = count()
        if not left:
            log.info("%s: %d rows %s (%s)", label, walk.moved, walk.done, walk.way)
            return
        pause = min(_LONGEST_PAUSE, 0.1 * 2**number)
        log.info("%s: %d rows are left; another pass in %.1f s", label, left, pause)
        time.sleep(pause)
        total = max(total, walk.moved + left)
    refuse()


def require_own_transactions(operations: Operations, label: str) -> None:
    """Refuse to work within a transaction that env.py has begun around all migrations.

    Raises: MigrationRefused.
    """
    context = operations.get_context()
    # Alembic has no public name for both; its own autocommit_block() fails with an assertion there.
    if getattr(context, "_in_external_transaction", False) or getattr(context, "_transaction", None) is None:
        raise MigrationRefused(
            label,
            "each batch is committed, and env.py has begun a transaction around all migrations, or none by"
            " context.begin_transaction()",
            "give context.configure() a connection that is in none, and run the migrations in"
            " context.begin_transaction()",
        )


@contextmanager
def committing(operations: Operations, label: str) -> Iterator[None]:
    """A block in which each statement, or each transaction that it begins, is committed by itself.

    Raises: MigrationRefused when env.py has begun a transaction around all migrations, or the connection was lost.
    """
    require_own_transactions(operations, label)
    context = operations.get_context()
    lost: DBAPIError | None = None
    try:
        with context.autocommit_block():
            try:
                yield
            except DBAPIError as error:
                lost = error if meaning(error) is Meaning.LOST else None
                raise
    except (PendingRollbackError, DBAPIError):
        # At the end of the block Alembic sets the connection's level, which a lost connection refuses.
        if lost is None:
            raise
        raise MigrationRefused(
            label,
            f"the connection was lost ({error_code(lost)}: {lost.orig})",
            "the batches before are committed; run the revision again, and it goes on with the rest",
        ) from lost


class Walk:
    """The rows of one table, batch by batch along the primary key; a subclass says which rows, and changes them."""

    connection: Any  # a Connection; SQLAlchemy's, or Alembic's stand-in

    batch_size: int
    key: dict[str, TypeEngine[Any]]
    limit: int
    moved: int
    order: tuple[ColumnElement[Any], ...]
    place: Place
    row: StateRow
    way: str

    done = "moved"
    largest = 2**31  # rows of one transaction

    def __init__(self, place: Place, batch_size: int, way: str, kept: Sequence[str] = ()) -> None:
        self.place, self.connection, self.batch_size, self.way = place, place.connection, batch_size, way
        self.key = key_columns(place)
        # The state may be part of the key, as partitions by state need it.
        types: dict[str, TypeEngine[Any]] = {**dict.fromkeys(self.key, NullType()), place.column.name: String()}
        types |= {name: NullType() for name in kept if name not in types}
        table = Table(
            place.table.name,
            MetaData(),
            *(Column(name, type_) for name, type_ in types.items()),
            schema=place.schema,
        )
        self.row = StateRow(table, table.c[place.column.name], tuple(table.c[name] for name in self.key), {})
        self.order = tuple(_ordered(part, self.key[part.name]) for part in self.row.key)
        self.moved, self.limit = 0, min(200, batch_size)
        self._told = time.monotonic()

    def picked(self) -> list[ColumnElement[bool]]:
        """Which rows are to be changed."""
        raise NotImplementedError

    def change(self, rows: Sequence[tuple[str | None, tuple[Any, ...]]]) -> None:
        """Change the locked *rows*: the state and the key of each."""
        raise NotImplementedError

    def once(self, total: int) -> None:
        """Go through the table once."""
        for criteria, end in self._ranges():
            beyond: list[ColumnElement[bool]] = []
            while (last := self._again([*criteria, *beyond])) is not None:
                beyond = [is_beyond(self.order, last)]
            if end is not None and time.monotonic() - self._told >= TELL_EVERY:
                self._told = time.monotonic()
                key = end[0] if len(end) == 1 else end
                done = f"{self.moved} of {total} rows {self.done}"
                log.info("%s: %s (%s), at key %s", self.place.label, done, self.way, key)

    def _ranges(self) -> Iterator[tuple[list[ColumnElement[bool]], tuple[Any, ...] | None]]:
        """The table in parts of `batch_size` rows along its key, whatever they hold, and each part's last key."""
        beyond: list[ColumnElement[bool]] = []
        while True:
            last = select(*self.order).where(*beyond).order_by(*self.order)
            end = self.connection.execute(last.limit(1).offset(self.batch_size - 1)).one_or_none()
            if end is None:
                yield beyond, None
                return
            after_end = is_beyond(self.order, tuple(end))
            yield [*beyond, ~after_end], tuple(end)
            beyond = [after_end]

    def _again(self, criteria: Sequence[ColumnElement[bool]]) -> tuple[Any, ...] | None:
        """One transaction, tried again when a deadlock has ended it; the key to go on behind, None at the end."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._transaction(criteria)
            except DBAPIError as error:
                if meaning(error) not in (Meaning.ABORTED, Meaning.LOCK_TIMEOUT) or attempt == _ATTEMPTS:
                    raise
                time.sleep(0.01 * attempt)
        return None

    def _transaction(self, criteria: Sequence[ColumnElement[bool]]) -> tuple[Any, ...] | None:
        """Change the next rows in a transaction; the key of the last one, None at the end of the table."""
        # SKIP LOCKED leaves the rows of other transactions to a later pass, so that neither side waits for the other.
        picked = select(self.row.state, *self.order).where(*criteria, *self.picked()).order_by(*self.order)
        locked = picked.limit(self.limit).with_for_update(skip_locked=self.place.has_skip_locked)
        self.place.begin_short()
        start = time.monotonic()
        with database_of(self.connection).transactions.together(self.connection):
            rows = [(state, tuple(key)) for state, *key in self.connection.execute(locked)]
            if rows:
                self.change(rows)
        self.moved += len(rows)
        # Fewer rows than asked for: the primary key has no more that match.
        if len(rows) < self.limit:
            return None
        self._adapt(time.monotonic() - start)
        return rows[-1][1]

    def _adapt(self, took: float) -> None:
        """Let the next transaction hold its locks for `HOLD` seconds; it grows slowly, and shrinks at once."""
        fitting = int(self.limit * HOLD / max(took, 0.001))
        self.limit = max(FEWEST, min(fitting, 2 * self.limit, self.batch_size, self.largest))


class MigrationWalk(Walk):
    """Rows from state to state, each with a history row."""

    event: EventSQL
    history: HistorySQL | None
    record: dict[str, str]
    sources: list[str | None]

    def __init__(self, place: Place, migration: Migration) -> None:
        way = ", ".join(f"{source!r} to {target!r}" for source, target in migration.targets.items())
        kept = self_updating_columns(place) if migration.keeps_timestamps else []
        since = [] if migration.since is None else [migration.since]
        super().__init__(place, migration.batch_size, way, [*kept, *since])
        self.migration = migration
        self.record = history_columns(place, migration)
        effects: dict[Column[Any], ColumnElement[Any]] = {
            self.row.table.c[name]: self.row.table.c[name] for name in kept
        }
        effects |= {self.row.table.c[name]: utc_now() for name in since}
        self.sources = list(migration.targets)
        branches = tuple(
            Branch(source or "", target, None, effects, number=i, leaves=source or "", leads_to=target)
            for i, (source, target) in enumerate(migration.targets.items())
        )
        self.event = EventSQL(FORCED, self.row, tuple(source or "" for source in self.sources), branches)
        self.history = self._history()
        self.refused: set[str | None] = set()

    def picked(self) -> list[ColumnElement[bool]]:
        return [is_among(self.row.state, self.sources), *self.migration.criteria]

    def change(self, rows: Sequence[tuple[str | None, tuple[Any, ...]]]) -> None:
        history = database_of(self.connection).history
        for i, source in enumerate(self.sources):
            keys = [key for state, key in rows if (None if state is None else str(state)) == source]
            for some in (keys[first : first + CHUNK] for first in range(0, len(keys), CHUNK)):
                if self.history is not None:
                    recorded = self._recorded(self.event.branches[i])
                    history.record_keys(self.connection, self.history, self.row, some, recorded)
                self._take(i, some)

    def _take(self, number: int, keys: Sequence[tuple[Any, ...]]) -> None:
        """Move the locked rows with these *keys*; through the machine's triggers, if they refuse the edge."""
        sets, branch = database_of(self.connection).sets, self.event.branches[number]
        source = self.sources[number]
        if source not in self.refused:
            try:
                sets.take_keys(self.connection, self.event, number, keys, {})
            except (DBAPIError, RefusedByDatabase) as error:
                if refusal_in(error) is None:
                    raise
                self.refused.add(source)
            else:
                return
        way = enforcer_of(self.connection.dialect)
        with way.permitted(self.connection, self.row.state, branch.source, branch.target, rows=len(keys)):
            sets.take_keys(self.connection, self.event, number, keys, {})

    def _recorded(self, branch: Branch) -> dict[str, Any]:
        attribution = {"actor": self.migration.actor, "details": self.migration.details, "token": None}
        names = self.migration.names
        source, target = names.get(branch.source, branch.source), names.get(branch.target, branch.target)
        history_row = {"event": FORCED, "source": source, "target": target, **attribution}
        return {f"fsm_{name}": value for name, value in history_row.items()}

    def _history(self) -> HistorySQL | None:
        if self.migration.history is None:
            return None
        names = ("event", "source", "target", "actor", "token", "at")
        table = Table(
            self.migration.history,
            MetaData(),
            *(Column(name, NullType()) for name in self.record),
            Column("sequence", Integer()),
            *(Column(name, String()) for name in names),
            Column("details", JSON(none_as_null=True)),
            schema=self.place.schema,
        )
        by_own = {own: name for name, own in self.record.items()}
        return HistorySQL(table, tuple(table.c[by_own[part.name]] for part in self.row.key))


def key_columns(place: Place) -> dict[str, TypeEngine[Any]]:
    """The columns of the table's primary key, each with a type that its values are bound as.

    Raises: MigrationRefused when there is no key.
    """
    inspector = inspect(place.connection)
    names = inspector.get_pk_constraint(place.table.name, schema=place.schema)["constrained_columns"]
    if not names:
        raise MigrationRefused(place.label, "the table has no primary key to go along", "give it one")
    types = {c["name"]: c["type"] for c in inspector.get_columns(place.table.name, schema=place.schema)}
    # Keys go back to the driver as it returned them. Only an ENUM is ordered by something else than its value.
    return {name: types[name] if isinstance(types[name], Enum) else NullType() for name in names}


def history_columns(place: Place, migration: Migration) -> dict[str, str]:
    """The columns of the history that hold the record's key, each with that of the table.

    Raises: MigrationRefused when they do not fit.
    """
    if migration.history is None:
        return {}
    own = list(key_columns(place))
    try:
        found = inspect(place.connection).get_pk_constraint(migration.history, schema=place.schema)
    except NoSuchTableError as error:
        raise MigrationRefused(place.label, f"there is no history table {migration.history!r}", "name it") from error
    if "sequence" not in found["constrained_columns"]:
        raise MigrationRefused(
            place.label, f"{migration.history!r} is not a history: it has no key with a sequence", "name it"
        )
    record = migration.record or dict(
        zip((name for name in found["constrained_columns"] if name != "sequence"), own, strict=False)
    )
    if sorted(record.values()) != sorted(own):
        parts = ", ".join(map(repr, own))
        raise MigrationRefused(
            place.label,
            f"{migration.history!r} does not record the key ({parts})",
            'pass the columns: record={"record_id": "id"}',
        )
    return dict(record)


def self_updating_columns(place: Place) -> list[str]:
    """The columns that the server sets at each UPDATE: ``ON UPDATE CURRENT_TIMESTAMP``."""
    if not isinstance(place, ServerPlace):
        return []
    found = place.connection.execute(_SELF_UPDATING, {"schema": place.schema, "table": place.table.name})
    return [str(name) for (name,) in found]


_SELF_UPDATING = text(
    "SELECT COLUMN_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = COALESCE(:schema, DATABASE())"
    " AND TABLE_NAME = :table AND EXTRA LIKE '%on update%'"
)


def _ordered(part: Column[Any], type_: TypeEngine[Any]) -> ColumnElement[Any]:
    """*part* as it is both ordered and compared; MySQL orders an ENUM by number, and compares it as text."""
    return cast(part, mysql.CHAR()) if isinstance(type_, Enum) else part
