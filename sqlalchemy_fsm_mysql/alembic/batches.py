"""Rows from one state to another, in batches along the primary key, each committed; with their history.

A batch locks what it changes and nothing else, for a moment: it works in READ COMMITTED, passes over rows that
somebody else holds, and never waits for one while it holds others. What it passed over is left for another pass. How
many rows one transaction changes follows from how long the one before it took: writers shall not notice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
    literal,
    select,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import DBAPIError, NoSuchTableError
from sqlalchemy.types import NullType, TypeEngine

from ..core.failures import Meaning, meaning
from ..databases import backend_of
from ..databases.enforcers import enforcer_of
from ..databases.triggers import refusal_in
from ..errors import MigrationRefused, RefusedByDatabase
from ..machine.states import FORCED
from ..orm.sets import is_beyond
from ..sql.events import Branch, EventSQL, HistorySQL, StateRow
from .databases import Place, log

CHUNK = 1000  # keys in one statement
PASSES = 10
TELL_EVERY = 1.0  # seconds
HOLD = 0.03  # seconds that a transaction is to hold its locks
FEWEST = 20  # rows of a transaction, however slow the server is
_LONGEST_PAUSE = 5.0  # seconds
_ATTEMPTS = 10  # of one batch that a deadlock has ended


@dataclass(frozen=True)
class Migration:
    """The states to leave, each with its target, and what the history says of it."""

    targets: Mapping[str, str]
    batch_size: int
    history: str | None
    record: Mapping[str, str]
    actor: str | None
    details: Any


def migrate(place: Place, migration: Migration) -> int:
    """Move all rows; how many there were. The connection is in AUTOCOMMIT.

    Raises: MigrationRefused when rows are in these states still, or again, after the last pass.
    """
    walk = Walk(place, migration)
    total = sum(place.rows_in(list(migration.targets)).values())
    for number in range(PASSES):
        walk.once(total)
        left = place.rows_in(list(migration.targets))
        if not left:
            log.info("%s: %d rows moved (%s)", place.label, walk.moved, walk.way)
            return walk.moved
        pause = min(_LONGEST_PAUSE, 0.1 * 2**number)
        log.info("%s: %d rows are left; another pass in %.1f s", place.label, sum(left.values()), pause)
        time.sleep(pause)
        total = max(total, walk.moved + sum(left.values()))
    raise MigrationRefused(
        place.label,
        f"after {PASSES} passes and {walk.moved} rows moved, some are left",
        "an open transaction holds them, or a server still writes these states; run it again",
        rows=left,
    )


class Walk:
    """The rows of one table, batch by batch."""

    def __init__(self, place: Place, migration: Migration) -> None:
        self.place, self.connection, self.migration = place, place.connection, migration
        self.way = ", ".join(f"{source!r} to {target!r}" for source, target in migration.targets.items())
        self.key, self.record = key_columns(place), history_columns(place, migration)
        table = Table(
            place.table.name,
            MetaData(),
            *(Column(name, type_) for name, type_ in self.key.items()),
            Column(place.column.name, String()),
            schema=place.schema,
        )
        self.row = StateRow(table, table.c[place.column.name], tuple(table.c[name] for name in self.key), {})
        self.order = tuple(_ordered(part) for part in self.row.key)
        branches = tuple(
            Branch(source, target, None, {}, number=i) for i, (source, target) in enumerate(migration.targets.items())
        )
        self.event = EventSQL(FORCED, self.row, tuple(migration.targets), branches)
        self.history = self._history()
        self.moved, self.limit = 0, min(200, migration.batch_size)
        self.refused: set[str] = set()
        self._told = time.monotonic()

    def once(self, total: int) -> None:
        """Go through the table once."""
        for criteria, end in self._ranges():
            beyond: list[ColumnElement[bool]] = []
            while (last := self._again([*criteria, *beyond])) is not None:
                beyond = [is_beyond(self.order, last)]  # type: ignore[arg-type]  # expressions where Columns were
            if end is not None and time.monotonic() - self._told >= TELL_EVERY:
                self._told = time.monotonic()
                key = end[0] if len(end) == 1 else end
                log.info("%s: %d of %d rows moved (%s), at key %s", self.place.label, self.moved, total, self.way, key)

    def _ranges(self) -> Iterator[tuple[list[ColumnElement[bool]], tuple[Any, ...] | None]]:
        """The table in parts of `batch_size` rows along its key, whatever they hold, and each part's last key."""
        beyond: list[ColumnElement[bool]] = []
        while True:
            last = select(*self.order).where(*beyond).order_by(*self.order)
            end = self.connection.execute(last.limit(1).offset(self.migration.batch_size - 1)).one_or_none()
            if end is None:
                yield beyond, None
                return
            after_end = is_beyond(self.order, tuple(end))  # type: ignore[arg-type]  # an expression where a Column was
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
        backend = backend_of(self.connection)
        sources = self.row.state.in_([literal(source, String()) for source in self.migration.targets])
        picked = select(self.row.state, *self.order).where(*criteria, sources).order_by(*self.order).limit(self.limit)
        locked = picked.with_for_update(skip_locked=self.place.has_skip_locked)
        self.place.begin_short()
        start = time.monotonic()
        with backend.transaction(self.connection):
            rows = [(state, tuple(key)) for state, *key in self.connection.execute(locked)]
            for i, branch in enumerate(self.event.branches):
                held = [key for state, key in rows if state == branch.source]
                for some in (held[first : first + CHUNK] for first in range(0, len(held), CHUNK)):
                    if self.history is not None:
                        recorded = self._recorded(branch)
                        backend.record_keys(self.connection, self.history, self.row, some, recorded)
                    self._take(i, some)
        self.moved += len(rows)
        if len(rows) < self.limit:
            return None
        self._adapt(time.monotonic() - start)
        return rows[-1][1]

    def _adapt(self, took: float) -> None:
        """Let the next transaction hold its locks for `HOLD` seconds; it grows slowly, and shrinks at once."""
        fitting = int(self.limit * HOLD / max(took, 0.001))
        self.limit = max(FEWEST, min(fitting, 2 * self.limit, self.migration.batch_size))

    def _take(self, number: int, keys: Sequence[tuple[Any, ...]]) -> None:
        """Move the locked rows with these *keys*; through the machine's triggers, if they refuse the edge."""
        backend, branch = backend_of(self.connection), self.event.branches[number]
        if branch.source not in self.refused:
            try:
                backend.take_keys(self.connection, self.event, number, keys, {})
            except (DBAPIError, RefusedByDatabase) as error:
                if refusal_in(error) is None:
                    raise
                self.refused.add(branch.source)
            else:
                return
        way = enforcer_of(self.connection.dialect)
        with way.permitted(self.connection, self.row.state, branch.source, branch.target, rows=len(keys)):
            backend.take_keys(self.connection, self.event, number, keys, {})

    def _recorded(self, branch: Branch) -> dict[str, Any]:
        said = {"actor": self.migration.actor, "details": self.migration.details, "token": None}
        record = {"event": FORCED, "source": branch.source, "target": branch.target, **said}
        return {f"fsm_{name}": value for name, value in record.items()}

    def _history(self) -> HistorySQL | None:
        if self.migration.history is None:
            return None
        names = ("event", "source", "target", "actor", "token", "at")
        table = Table(
            self.migration.history,
            MetaData(),
            *(Column(name, self.key[own]) for name, own in self.record.items()),
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
    # What the driver returned is what it is given back; only of an ENUM does the order depend on more than the value.
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
        raise MigrationRefused(place.label, f"{migration.history!r} is no history: no key with a sequence", "name it")
    record = migration.record or dict(
        zip((name for name in found["constrained_columns"] if name != "sequence"), own, strict=False)
    )
    if sorted(record.values()) != sorted(own):
        parts = ", ".join(map(repr, own))
        raise MigrationRefused(
            place.label,
            f"{migration.history!r} does not record the key ({parts})",
            'say how: record={"record_id": "id"}',
        )
    return dict(record)


def _ordered(part: Column[Any]) -> ColumnElement[Any]:
    """*part* as it is both ordered and compared; MySQL orders an ENUM by number, and compares it as text."""
    return cast(part, mysql.CHAR()) if isinstance(part.type, Enum) else part


__all__ = ["Migration", "migrate"]
