"""The ways in which ``fire_where`` goes through the rows: at once, the first ones, at most so many, or in batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Connection, select

from ..databases import database_of
from ..errors import TooManyRows
from ..errors.texts import State
from ..sql.keys import is_beyond
from .sets import CHUNK, Locked, Sweep, all_or_none, is_one_update, pick, picks, run, take
from .target import plain_key

__all__ = ["Progress", "Sizes", "fire_where"]

Progress: TypeAlias = Callable[[int, "int | None"], object]


Edges: TypeAlias = "dict[Any, tuple[State, State]]"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How a set is moved: which rows of it first, how many at a time, and what the caller wants to hear of them."""

    batch_size: int | None = None  # the rows of one statement
    max_rows: int | None = None  # if more match, none is moved
    limit: int | None = None  # the most rows that are moved
    order_by: Sequence[Any] = ()  # of those that *limit* chooses
    progress: Progress | None = None  # called after each batch
    edges: Edges | None = None  # to be filled: source and target of each row's move, by the row's key

    @property
    def by_keys(self) -> bool:
        """Whether the keys of the rows have to be known."""
        return self.limit is not None or self.edges is not None


def fire_where(sweep: Sweep, sizes: Sizes) -> Counter[int]:
    """Move the rows of *sweep* as *sizes* say; how many took which branch."""
    if sizes.batch_size is not None:
        return _in_batches(sweep, sizes.batch_size, sizes)
    moved = _at_once(sweep, sizes) if sizes.max_rows is None else _at_most(sweep, sizes.max_rows, sizes)
    if sizes.progress is not None:
        sizes.progress(moved.total(), None)
    return moved


def _at_once(sweep: Sweep, sizes: Sizes) -> Counter[int]:
    connection = sweep.connection()
    with sweep.explaining(connection):
        if not sizes.by_keys:
            return run(sweep, connection)
        if sizes.limit is not None and sizes.limit <= CHUNK and sweep.history is None:
            return _first(sweep, connection, sizes.limit, sizes)
        with all_or_none(sweep, connection):
            if sizes.limit is not None:
                return _taken(sweep, connection, pick(sweep, connection, sizes.limit, sizes.order_by), sizes)
            moved: Counter[int] = Counter()
            for rows in picks(sweep, connection):
                moved += _taken(sweep, connection, rows, sizes)
            return moved


def _first(sweep: Sweep, connection: Connection, limit: int, sizes: Sizes) -> Counter[int]:
    """Move the first rows, by one UPDATE if that is enough: then no savepoint is needed."""
    database = database_of(connection)
    with database.transactions.together(connection):
        database.rows.lock(connection, sweep.event)
        rows = pick(sweep, connection, limit, sizes.order_by)
        with nullcontext() if is_one_update(sweep, len(rows)) else all_or_none(sweep, connection, is_locked=True):
            return _taken(sweep, connection, rows, sizes)


def _taken(sweep: Sweep, connection: Connection, rows: Sequence[Locked], sizes: Sizes) -> Counter[int]:
    moved = take(sweep, connection, rows)
    if sizes.edges is not None:
        sizes.edges.update((plain_key(row.key), (row.branch.leaves, row.branch.leads_to)) for row in rows)
    return moved


def _at_most(sweep: Sweep, max_rows: int, sizes: Sizes) -> Counter[int]:
    """Lock and count the rows, and move them if they are at most *max_rows*."""
    connection = sweep.connection()
    with sweep.explaining(connection), all_or_none(sweep, connection):
        return _taken(sweep, connection, _pick_at_most(sweep, connection, max_rows), sizes)


def _in_batches(sweep: Sweep, batch_size: int, sizes: Sizes) -> Counter[int]:
    """Move the rows batch by batch; with `max_rows`, lock and count all of them before the first batch."""
    max_rows, progress = sizes.max_rows, sizes.progress
    if max_rows is not None:
        connection = sweep.connection()
        with sweep.explaining(connection):
            _pick_at_most(sweep, connection, max_rows)
    moved: Counter[int] = Counter()
    for batch in _batches(sweep, batch_size):
        moved += _at_once(batch, sizes)
        if max_rows is not None and moved.total() > max_rows:  # more rows match than were counted
            raise _too_many(sweep, max_rows, "roll back to undo those that were moved")
        if progress is not None:
            progress(moved.total(), None)
    return moved


def _pick_at_most(sweep: Sweep, connection: Connection, max_rows: int) -> list[Locked]:
    """The rows that match, now locked.

    Raises: TooManyRows when they are more than *max_rows*.
    """
    rows = pick(sweep, connection, max_rows + 1)
    if len(rows) > max_rows:
        raise _too_many(sweep, max_rows, "nothing was changed")
    return rows


def _too_many(sweep: Sweep, max_rows: int, advice: str) -> TooManyRows:
    model = sweep.target.model.__name__
    return TooManyRows(f"{sweep.event.name!r} would move over max_rows={max_rows} rows of {model}; {advice}")


def _batches(sweep: Sweep, batch_size: int) -> Iterator[Sweep]:
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
