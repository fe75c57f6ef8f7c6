"""One event on many rows of a Connection, named by their keys, each with an outcome of its own.

:func:`fire_keys` works in rounds of up to :data:`CHUNK` rows. A round locks its rows and reads the outcome code of
each, moves those that the event moves by one UPDATE, and adds their history rows by one INSERT. A key that was given
twice is fired in the next round, as a second fire would be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import Any, Final, TypeAlias
from uuid import UUID

from sqlalchemy import Connection, select

from ..databases import database_of
from ..databases.ready import ReadyStatement
from ..databases.sets import among, bindable
from ..errors import RowNotFound, UnknownState
from ..outcomes import Missing, Moved, Refused
from ..sql.code import NO_ROW, Reading, Refusal, Taken, Undeclared
from ..sql.events import Branch
from . import fires
from .fires import Fire
from .sets import CHUNK, Locked, Sweep, all_or_none, chunks, take
from .target import plain_key

__all__ = ["fire_keys"]

Key: TypeAlias = tuple[Any, ...]
Outcome: TypeAlias = "Moved[Any] | Refused[Any] | Missing[Any]"

# Values of these types are equal in Python where they are equal in the database. Text is not: a collation may fold it.
_EXACT: Final = (int, bytes, UUID, date, Decimal)


@dataclass(slots=True)
class _Row:
    """A row that is locked: its key as it is stored, and the reading of its code."""

    key: Key
    reading: Reading
    branch: Branch | None  # that the row takes; None of a row that the event does not move
    version: Any = None
    sequence: int | None = None  # the number of the history row that a move adds


def fire_keys(sweep: Sweep, connection: Connection, keys: Sequence[Key]) -> list[Outcome]:
    """Fire the event of *sweep* on the rows with these *keys*: one outcome for each, in their order.

    Raises: UnknownState when one of the rows is in a state that the machine does not declare; nothing has moved then.
    """
    outcomes: dict[int, Outcome] = {}
    is_saved = not _is_one_update(sweep, connection, keys)
    with all_or_none(sweep, connection) if is_saved else database_of(connection).transactions.together(connection):
        for numbers in _rounds(keys):
            _fire_round(sweep, connection, keys, numbers, outcomes, is_saved=is_saved)
    return [outcomes[number] for number in range(len(keys))]


def _rounds(keys: Sequence[Key]) -> Iterator[Sequence[int]]:
    """The positions of *keys*, in rounds in which no key is twice, each in the order of the keys.

    All servers lock in this order, so that two calls on the same rows wait for each other, and do not deadlock.
    """
    rounds: list[list[int]] = [list(range(len(keys)))]
    if len(set(keys)) < len(keys):
        times: Counter[Key] = Counter()
        rounds = []
        for number, key in enumerate(keys):
            if times[key] == len(rounds):
                rounds.append([])
            rounds[times[key]].append(number)
            times[key] += 1
    for numbers in rounds:
        with suppress(TypeError):  # of types without an order
            numbers.sort(key=keys.__getitem__)
        yield from chunks(numbers)


def _is_one_update(sweep: Sweep, connection: Connection, keys: Sequence[Key]) -> bool:
    """Whether one UPDATE moves all rows. That needs no savepoint, because it moves all of them or none."""
    event = sweep.event
    can_be_one = (
        len(event.branches) == 1 or not event.is_guarded or database_of(connection).sets.can_sweep(connection, event)
    )
    is_one_round = len(keys) <= CHUNK and len(set(keys)) == len(keys)
    return is_one_round and can_be_one and not sweep.target.makes_versions


def _fire_round(
    sweep: Sweep,
    connection: Connection,
    keys: Sequence[Key],
    numbers: Sequence[int],
    outcomes: dict[int, Outcome],
    *,
    is_saved: bool,
) -> None:
    """Fire on the rows at these positions, and add the *outcomes*; *is_saved* is whether there is a savepoint."""
    if not is_saved:  # all_or_none() has taken the lock
        database_of(connection).rows.lock(connection, sweep.event)
    # 1. Lock the rows, and read what the event does to each.
    rows = {row.key: row for row in _read(sweep, connection, [keys[number] for number in numbers])}
    found = {number: rows[keys[number]] for number in numbers if keys[number] in rows}
    unfound = [number for number in numbers if number not in found and not _is_exact(keys[number])]
    by_collation = _found_by_collation(sweep, connection, keys, unfound) if unfound else {}
    found |= by_collation
    _require_declared(sweep, connection, found.values())
    # 2. Move them. Two texts may be the key of one row: the first fires now, and the others one after the other.
    first, again = list(found.values()), []
    if by_collation:
        numbers_of: dict[Key, int] = {}
        for number in sorted(found):
            numbers_of.setdefault(found[number].key, number)
        first = [found[number] for number in numbers_of.values()]
        again = [number for number in sorted(found) if numbers_of[found[number].key] != number]
    with all_or_none(sweep, connection, is_locked=True) if again and not is_saved else nullcontext():
        _move(sweep, connection, first, is_saved=is_saved)
        for number in again:
            (found[number],) = _read(sweep, connection, [found[number].key])
            _move(sweep, connection, [found[number]], is_saved=True)
    # 3. Say what became of each.
    _add_outcomes(sweep, keys, numbers, found, outcomes)


def _read(sweep: Sweep, connection: Connection, keys: Sequence[Key]) -> list[_Row]:
    """Lock the rows with these *keys*, and read what the event would do to each."""
    read = replace(sweep, parameters={**sweep.parameters, "fsm_keys": bindable(keys)})
    event, parts = sweep.event, len(sweep.event.row.key)
    has_version, has_history = sweep.target.makes_versions, sweep.history is not None
    rows, readings = [], event.readings
    for values in read.read(connection, _locking(sweep)):
        code = int(values[parts])
        reading = readings.get(code) or event.read(code)
        branch = reading.branch if isinstance(reading, Taken) else None
        version = values[parts + 1] if has_version else None
        sequence = int(values[-1]) if has_history else None
        rows.append(_Row(tuple(values[:parts]), reading, branch, version, sequence))
    return rows


def _locking(sweep: Sweep) -> ReadyStatement:
    """The SELECT of :func:`_read`; its parameter is ``fsm_keys``."""
    event, history = sweep.event, sweep.history
    name = ("fire_keys", None if history is None else history.table)
    ready: ReadyStatement | None = event.cache.get(name)
    if ready is None:
        columns = [*sweep.columns(), *([] if history is None else [history.following(event.row)])]
        query = select(*columns).where(among(event.row.key)).order_by(*event.row.key).with_for_update()
        ready = event.cache[name] = ReadyStatement(query)
    return ready


def _is_exact(key: Key) -> bool:
    return all(isinstance(part, _EXACT) for part in key)


def _found_by_collation(
    sweep: Sweep, connection: Connection, keys: Sequence[Key], numbers: Sequence[int]
) -> dict[int, _Row]:
    """The rows that the database finds under keys which Python takes for others, such as 'ABC' for 'abc'."""
    if not _read(sweep, connection, [keys[number] for number in numbers]):
        return {}
    one_by_one = {number: _read(sweep, connection, [keys[number]]) for number in numbers}
    return {number: rows[0] for number, rows in one_by_one.items() if rows}


def _require_declared(sweep: Sweep, connection: Connection, rows: Iterable[_Row]) -> None:
    """Raises: UnknownState for a row in a state that the machine does not declare."""
    for row in rows:
        if isinstance(row.reading, Undeclared):
            fire = Fire(sweep.target, sweep.event, plain_key(row.key), dict(sweep.parameters))
            fire.parameters.update(zip(sweep.target.key_names, row.key, strict=True))
            stored = fires.stored_state(connection, fire)
            if stored is NO_ROW:
                raise RowNotFound(**fire.row)
            raise UnknownState(state=stored, declared=sweep.target.machine.states, **fire.row)


def _move(sweep: Sweep, connection: Connection, rows: Sequence[_Row], *, is_saved: bool) -> None:
    """Move those of the locked *rows* that the event moves."""
    moving = [Locked(row.key, row.branch, row.version) for row in rows if row.branch is not None]
    take(sweep, connection, moving, is_saved=is_saved)


def _add_outcomes(
    sweep: Sweep,
    keys: Sequence[Key],
    numbers: Sequence[int],
    found: Mapping[int, _Row],
    outcomes: dict[int, Outcome],
) -> None:
    """Add the outcome of each of the *numbers*, once the rows that the event moves have moved."""
    model, event, payload, (actor, details, _) = sweep.target.model, sweep.event.name, sweep.payload, sweep.attribution
    is_one_part, instance_of = len(sweep.event.row.key) == 1, sweep.instance
    for number in numbers:
        row, key = found.get(number), keys[number][0] if is_one_part else keys[number]
        if row is not None and row.branch is not None:
            branch, instance = row.branch, instance_of(row.key)
            # By position: there may be a thousand of them.
            outcomes[number] = Moved(
                model,
                key,
                event,
                branch.leaves,
                branch.leads_to,
                instance,
                payload,
                actor,
                details,
                sequence=row.sequence,
            )
        elif row is not None and isinstance(row.reading, Refusal):
            refused = fires.refused(Fire(sweep.target, sweep.event, key, {}), row.reading)
            sweep.know_refused(row.key, refused.state)
            outcomes[number] = refused
        else:
            outcomes[number] = Missing(model, key, event)
