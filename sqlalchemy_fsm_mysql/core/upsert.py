"""An event on a row that may be missing: the row is created in the state that the event leads to, or it is moved."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, TextClause, insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql import visitors

from ..databases import database_of
from ..errors import KeyConflict, RowNotFound, UnknownState
from ..outcomes import Moved, Refused
from ..sql.code import NO_ROW, Created, NoRow, Refusal, Taken
from ..sql.events import VALUE, EventSQL
from .failures import Meaning, error_code, meaning
from .fires import Fire, moved, next_version, refused, stored_state
from .savepoints import savepoint

Attempt = Callable[[], "Moved[Any] | Refused[Any]"]


def fire_or_insert(
    connection: Connection, fire: Fire, values: Mapping[str, Any], attempt: Attempt, *, is_filtered: bool = False
) -> Moved[Any] | Refused[Any]:
    """Fire on the row of *fire*; a missing row is inserted with *values*. *attempt* fires on a row that is there.

    With *is_filtered*, only *attempt* knows whether the caller may see the row, so one statement cannot do it.

    Raises: as :func:`upsert` and *attempt*.
    """
    machine = fire.target.machine
    if not fire.event.from_source().get(machine.stored(machine.initial)):
        return fire_existing(fire, attempt)
    if is_filtered or not can_upsert(connection, fire.event):
        return fire_then_create(connection, fire, values, attempt)
    next_version(connection, fire)
    fire.knows_version = False  # the one statement does not look at the row's version
    return upsert(connection, fire, values)


def upsert(connection: Connection, fire: Fire, values: Mapping[str, Any]) -> Moved[Any] | Refused[Any]:
    """Insert a row with *values* or fire on the one that has its key, by one statement. Only where :func:`can_upsert`.

    *values* are the columns of the new row by their keys, without the state.

    Raises: KeyConflict when another row has one of its unique values; UnknownState, and SQLAlchemy's errors.
    """
    machine = fire.target.machine
    initial = machine.stored(machine.initial)
    first = fire.event.from_source()[initial][0]
    parameters = {**fire.parameters, **{VALUE.format(name): value for name, value in values.items()}}
    database = database_of(connection)
    if database.upsert is None:
        raise TypeError(f"{database.name} has no statement that inserts or updates; ask can_upsert() first")
    reading = database.upsert.upsert(connection, fire.event, tuple(values), first.target, parameters)
    if isinstance(reading, Created):
        made = moved(connection, fire, initial, first.target, machine.initial, first.leads_to)
        return replace(made, created=True)
    if isinstance(reading, Taken):
        branch = reading.branch
        return moved(connection, fire, branch.source, branch.target, branch.leaves, branch.leads_to)
    if isinstance(reading, NoRow):
        raise KeyConflict(**fire.row)
    if isinstance(reading, Refusal):
        return refused(fire, reading)
    stored = stored_state(connection, fire)
    if stored is NO_ROW:  # another session has deleted it since
        raise RowNotFound(**fire.row)
    raise UnknownState(state=stored, declared=machine.states, **fire.row)


def can_upsert(connection: Connection, event: EventSQL) -> bool:
    """Whether one statement can create the row or move it by *event*."""
    statement = database_of(connection).upsert
    return statement is not None and _is_plain(event) and statement.can_upsert(connection)


def _is_plain(event: EventSQL) -> bool:
    """Whether the UPDATE of *event* assigns only what one INSERT … ON DUPLICATE KEY UPDATE can assign as well.

    In SQL text, as in ``onupdate=text("steps + 1")``, the name of a column alone is ambiguous beside the row to insert;
    ``text("orders.steps + 1")`` is not.
    """
    implied = (part for value in event.row.implied.values() for part in visitors.iterate(value))
    text = [part for part in implied if isinstance(part, TextClause) or getattr(part, "is_literal", False)]
    qualified = re.compile(rf"\b{re.escape(event.row.table.name)}\.\w+")
    if any(re.search(r"[^\W\d]", qualified.sub("", str(part))) for part in text):
        return False
    by_python = [c for c in event.row.table.c if c.onupdate is not None and not c.onupdate.is_clause_element]
    since = event.row.since
    return not by_python and all(
        branch.guard is None and all(column is since for column in branch.effects) for branch in event.branches
    )


def fire_existing(fire: Fire, attempt: Attempt) -> Moved[Any] | Refused[Any]:
    """The outcome of *attempt*, for an event that the initial state refuses: a missing row is refused, too."""
    machine = fire.target.machine
    try:
        return attempt()
    except RowNotFound:
        return refused(fire, Refusal(machine.stored(machine.initial), "state"))


def fire_then_create(
    connection: Connection, fire: Fire, values: Mapping[str, Any], attempt: Attempt
) -> Moved[Any] | Refused[Any]:
    """The outcome of *attempt*; if the row is missing, of another after it has been inserted in its initial state.

    Raises: KeyConflict when another row has one of its unique values; and as *attempt*.
    """
    try:
        return attempt()
    except RowNotFound:
        pass
    machine, row = fire.target.machine, fire.event.row
    with savepoint(connection, "fsm_create") as before:
        try:
            connection.execute(insert(row.table).values({**values, row.state.key: machine.initial}))
        except IntegrityError as error:
            before.roll_back()
            if meaning(error) is not Meaning.DUPLICATE:  # a foreign key, or a value that is missing
                raise
            # Two cases: another session has inserted the row in the meantime, and the event can be fired on it; or
            # another row has one of the new row's unique values, and this row is still missing.
            try:
                return attempt()
            except RowNotFound:
                raise KeyConflict(code=error_code(error), **fire.row) from error
        try:
            outcome = attempt()
        except Exception:  # such as a unique key that an effect breaks: the new row must not stay
            before.roll_back_after_error()
            raise
        if isinstance(outcome, Moved):
            return replace(outcome, created=True)
        # A guard or the initial state refuses the new row, which must not stay.
        before.roll_back()
        return outcome
