"""One event on one row: the statement, the history row, and the outcome.

:func:`fire` is the whole act. It sends one UPDATE, reads the code that comes back with the answer, and adds the history
row. :mod:`.tokens` wraps it for fires that may be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from ..databases import database_of
from ..errors import RowNotFound, TransitionNotAllowed, UnknownState
from ..errors.texts import State, stored_form
from ..outcomes import NO_PAYLOAD, Moved, Refused
from ..sql.code import NO_ROW, Reading, Refusal, Taken, Undeclared
from ..sql.events import NEXT_VERSION, EventSQL
from .attribution import NO_ATTRIBUTION, Attribution
from .target import Target

__all__ = ["Fire", "fire", "force", "move_outcome", "next_version", "refusal_error", "stored_state", "unmoved"]


@dataclass(slots=True, eq=False, repr=False)
class Fire:
    """One event about to be fired on one row, and what the caller gave for it."""

    target: Target
    event: EventSQL
    key: Any
    parameters: dict[str, Any]
    attribution: Attribution = NO_ATTRIBUTION
    payload: Mapping[str, Any] = NO_PAYLOAD
    instance: Any = None  # handed on to the outcome, and never looked at
    knows_version: bool = False  # the parameters hold the version that the caller knows of the row
    is_other_version: bool = False  # set by the fire: the row had another version than that

    @property
    def row(self) -> dict[str, Any]:
        """The keywords by which an error names this fire."""
        target = self.target
        return {"model": target.model, "table": target.table_name, "key": self.key, "event": self.event.name}


def fire(connection: Connection, fire: Fire) -> Moved[Any] | Refused[Any]:
    """Send the UPDATE of *fire* on *connection*, and return what it did; a refusal is a value.

    Raises: RowNotFound, UnknownState, and SQLAlchemy's errors.
    """
    database = database_of(connection)
    # The answer of the statement has the row's code: the branch that it took, or the state that refused the event.
    reading = database.rows.fire(connection, fire.event, fire.parameters, known_version=fire.knows_version)
    if isinstance(reading, Taken):
        branch = reading.branch
        fire.is_other_version = reading.is_other_version
        if fire.target.extras.history is None:  # as moved(), without its call
            return move_outcome(fire, branch.leaves, branch.leads_to, None)
        return moved(connection, fire, branch.source, branch.target, branch.leaves, branch.leads_to)
    return unmoved(connection, fire, reading)


def unmoved(connection: Connection, fire: Fire, reading: Reading) -> Refused[Any]:
    """The outcome of an UPDATE that has moved no row.

    Raises: RowNotFound, UnknownState.
    """
    if isinstance(reading, Refusal):
        return refused(fire, reading)
    # All undeclared states have one code, so a locking read fetches the text of this one for the error.
    stored = stored_state(connection, fire) if isinstance(reading, Undeclared) else NO_ROW
    if stored is NO_ROW:
        raise RowNotFound(**fire.row)
    raise UnknownState(state=stored, declared=fire.target.machine.states, **fire.row)


def moved(connection: Connection, fire: Fire, source: str, target: str, leaves: State, leads_to: State) -> Moved[Any]:
    """The outcome of an UPDATE that has moved the row from *source* to *target*, once the history row is written.

    *leaves* and *leads_to* are the same states as the machine declares them.
    """
    recorder, sequence = fire.target.extras.history, None
    if recorder is not None and fire.event.recorded:
        values = {name: fire.parameters[name] for name in fire.target.key_names}
        values |= {"fsm_event": fire.event.name, "fsm_source": source, "fsm_target": target}
        values |= fire.attribution.parameters()
        database = database_of(connection)
        try:
            sequence = database.history.record(connection, recorder.sql, values)
        except Exception as error:
            # The row has moved already, and must not be committed without its history row. Only when the token is a
            # duplicate can the move be undone alone, by the savepoint that fire_under_token() has set.
            if fire.attribution.token is None or not isinstance(error, IntegrityError):
                database.transactions.abandon(connection)
            raise
    return move_outcome(fire, leaves, leads_to, sequence)


def move_outcome(fire: Fire, leaves: State, leads_to: State, sequence: int | None) -> Moved[Any]:
    """The outcome of a move, whose history row has the number *sequence*; None without a history row."""
    actor, details, token = fire.attribution
    return Moved(
        model=fire.target.model,
        key=fire.key,
        event=fire.event.name,
        source=leaves,
        target=leads_to,
        instance=fire.instance,
        payload=fire.payload,
        actor=actor,
        details=details,
        token=token,
        sequence=sequence,
    )


def refused(fire: Fire, refusal: Refusal) -> Refused[Any]:
    """The outcome of an UPDATE that has left the row in its state."""
    machine, event = fire.target.machine, fire.event.name
    guards = machine.guards(event) if refusal.failed else {}
    sentences = [guards[name].sentence for name in refusal.failed if name in guards]
    return Refused(
        model=fire.target.model,
        key=fire.key,
        event=event,
        state=machine.loaded(refusal.state),
        reason=refusal.reason,
        allowed_from=machine.sources(event),
        failed=refusal.failed,
        sentences=tuple(sentence for sentence in sentences if sentence is not None),
    )


def refusal_error(fire: Fire, refused: Refused[Any]) -> TransitionNotAllowed:
    """The error that stands for the outcome *refused*."""
    return refused.error(fire.target.table_name)


def stored_state(connection: Connection, fire: Fire) -> Any:
    """The row's state now, read with a lock; `NO_ROW` for a missing row, None for NULL."""
    return database_of(connection).rows.stored_state(connection, fire.event, fire.parameters)


def next_version(connection: Connection, fire: Fire) -> None:
    """Add the row's next version to the parameters of *fire*, where Python makes it from the one before."""
    target = fire.target
    if target.makes_versions:
        # The version in memory may be old, and another session may have made the same next version from it. So the next
        # one is made from the version in the row.
        stored = database_of(connection).rows.stored_version(connection, fire.event, fire.parameters)
        fire.parameters[NEXT_VERSION] = target.next_version(stored)


def force(connection: Connection, fire: Fire, state: str) -> Moved[Any]:
    """Set the row of *fire* to *state*, past the machine.

    Raises: RowNotFound, and SQLAlchemy's errors.
    """
    machine = fire.target.machine
    before = database_of(connection).rows.force(connection, fire.event, fire.parameters, state)
    if before is NO_ROW:
        raise RowNotFound(**fire.row)
    # The history's columns are NOT NULL, so the empty text stands for a source of NULL.
    source = "" if before is None else before if isinstance(before, str) else stored_form(before)
    return moved(connection, fire, source, state, machine.loaded(source), machine.loaded(state))
