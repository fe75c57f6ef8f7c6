"""The ways in which ``fire_where`` goes through the rows: at once, at most so many, or in batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import ColumnElement, Connection, select

from ..errors import TooManyRows
from ..sql.keys import is_beyond
from .sets import Locked, Sweep, all_or_none, pick, run, take

__all__ = ["Progress", "Sizes", "fire_where"]

Progress: TypeAlias = Callable[[int, "int | None"], Any]


class Sizes(NamedTuple):
    """The rows per statement of a sweep, the most rows that it may move, and the function to call after each batch."""

    batch_size: int | None
    max_rows: int | None
    progress: Progress | None


def fire_where(sweep: Sweep, sizes: Sizes) -> Counter[int]:
    """Move the rows of *sweep* as *sizes* say; how many took which branch."""
    if sizes.batch_size is not None:
        return _in_batches(sweep, sizes.batch_size, sizes.max_rows, sizes.progress)
    moved = _at_once(sweep) if sizes.max_rows is None else _at_most(sweep, sizes.max_rows)
    if sizes.progress is not None:
        sizes.progress(moved.total(), None)
    return moved


def _at_once(sweep: Sweep) -> Counter[int]:
    connection = sweep.connection()
    with sweep.explaining(connection):
        return run(sweep, connection)


def _at_most(sweep: Sweep, max_rows: int) -> Counter[int]:
    """Lock and count the rows, and move them if they are at most *max_rows*."""
    connection = sweep.connection()
    with sweep.explaining(connection), all_or_none(sweep, connection):
        return take(sweep, connection, _pick_at_most(sweep, connection, max_rows))


def _in_batches(sweep: Sweep, batch_size: int, max_rows: int | None, progress: Progress | None) -> Counter[int]:
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
