"""One event on the row of a key, on a Connection alone: no Session takes part, and no instance exists.

:func:`fire_key` is the whole act, from the arguments of a call to its outcome. ``orm.firing`` does the same in a
session, and both send the row's statement by :func:`.fires.fire`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import StatementError

from ..errors import RefusedByDatabase
from ..observation import Attempt, Operation, is_watched, watching
from ..outcomes import NO_PAYLOAD, Moved, ReadOnlyMapping, Refused
from ..sql.events import EventSQL
from . import fires, packets
from .attribution import NO_ATTRIBUTION, Attribution, require_transaction
from .failures import give_up_unheard, note_fire, raise_explained
from .fires import Fire
from .hooks import announce
from .notes import KEY, notes_of
from .payload import payload_parameters
from .target import Target
from .tokens import fire_under_token

__all__ = ["carry_out", "fire_key", "new_fire", "prepare", "send"]


def fire_key(
    connection: Connection,
    target: Target,
    event: EventSQL,
    key: Any,
    payload: Mapping[str, Any],
    attribution: Attribution,
    *,
    raises_refusal: bool,
) -> Moved[Any] | Refused[Any]:
    """Fire *event* on the row of *target* with this primary *key*.

    Raises: see :func:`~..orm.calls.fire_key`; TransitionNotAllowed only when *raises_refusal*.
    """
    parts = (key,) if type(key) in target.plain_keys else target.key_parts(key)
    fire = new_fire(connection, target, event, parts, payload, attribution)
    outcome = watched(connection, fire, send)
    if raises_refusal and isinstance(outcome, Refused):
        raise fires.refusal_error(fire, outcome)
    return outcome


def new_fire(
    connection: Connection | Engine,
    target: Target,
    event: EventSQL,
    parts: tuple[Any, ...],
    payload: Mapping[str, Any],
    attribution: Attribution,
) -> Fire:
    """The fire of *event* on the row whose key has these *parts*; checks the arguments, and sends nothing.

    Raises: TypeError, ValueError.
    """
    parameters = payload_parameters(target, event, payload) if payload or event.payload else {}
    if attribution is not NO_ATTRIBUTION and attribution.is_given:
        attribution = attribution.checked(target, event, connection.dialect)
    parameters.update(zip(target.key_names, parts))  # noqa: B905 - both have the length of the model's key
    given = ReadOnlyMapping(payload) if payload else NO_PAYLOAD
    return Fire(target, event, parts[0] if len(parts) == 1 else parts, parameters, attribution, given)


def watched(
    connection: Connection, fire: Fire, send: Callable[[Connection, Fire], Moved[Any] | Refused[Any]]
) -> Moved[Any] | Refused[Any]:
    """:func:`carry_out`, reported to the log and the observers."""
    if not is_watched():
        return carry_out(connection, fire, send)
    operation: Operation = "fire"
    with watching(Attempt(operation, fire.target.model, fire.target.table_name, fire.event.name, fire.key)) as attempt:
        attempt.result = outcome = carry_out(connection, fire, send)
    return outcome


def carry_out(
    connection: Connection, fire: Fire, send: Callable[[Connection, Fire], Moved[Any] | Refused[Any]]
) -> Moved[Any] | Refused[Any]:
    """Fire by *send*; then the notes on the transaction and the hooks learn the outcome."""
    target, token, has_moved = fire.target, fire.attribution.token, False
    prepare(connection, target, fire.event.name, is_one_row=True)
    try:
        if target.extras.history is not None and packets.takes(connection, fire):
            if fire.event.row.version is not None:
                fires.next_version(connection, fire)
            outcome = packets.fire(connection, fire)
        elif token is None:
            outcome = send(connection, fire)
        else:
            outcome = fire_under_token(connection, fire, lambda: send(connection, fire))
        if isinstance(outcome, Moved) and not outcome.replayed:
            if token is not None:
                notes_of(connection).note_token(connection, token)
            # Hooks run after the savepoint of the token, so that an error of theirs does not roll the move back.
            if target.extras.hooks:
                has_moved = True
                announce(target.extras.hooks, (outcome,), connection)
    except (StatementError, RefusedByDatabase) as error:
        raise_explained(error, connection, has_moved=has_moved, token=token, **fire.row)
    except BaseException as interruption:
        give_up_unheard(interruption, connection)
        raise
    return outcome


def send(connection: Connection, fire: Fire) -> Moved[Any] | Refused[Any]:
    """Send the statement of *fire*, and before it that which makes the row's next version, if it needs one."""
    if fire.event.row.version is not None:
        fires.next_version(connection, fire)
    return fires.fire(connection, fire)


def prepare(connection: Connection, target: Target, event: str | None, *, is_one_row: bool = False) -> None:
    """Note that *event* is fired in the transaction of *connection*, or, if it is None, that its tokens are read.

    With *is_one_row*, the fire may be sent in a packet, with a history and in AUTOCOMMIT.

    Raises: TransactionRequired in AUTOCOMMIT where there is a history; TransactionAborted when the server has ended the
    transaction.
    """
    # Only the first fire of a transaction is noted. These comparisons are those of note_fire(), without its calls.
    notes, transaction = vars(connection).get(KEY), connection.get_transaction()
    if notes is None or transaction is None or not notes.has_fired or notes.transaction() is not transaction:
        ended = note_fire(connection)
        if ended is not None:
            raise_explained(ended, connection, model=target.model, event=event)
    if target.extras.history is not None and not (is_one_row and packets.is_asked(connection, target)):
        require_transaction(connection, target)
