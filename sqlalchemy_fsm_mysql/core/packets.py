"""A fire in one packet: the UPDATE, the history row and the COMMIT go out together, on a connection in AUTOCOMMIT.

The execution option ``fsm_one_packet`` of an engine or a connection asks for it, or else the state column. Without it,
or where the driver cannot, a machine with a history is refused in AUTOCOMMIT. :func:`fire` is the whole act.
"""

from __future__ import annotations

from typing import Any, Final, NoReturn

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from ..databases import database_of, is_autocommit
from ..databases.packets import Answer, PacketFailed, Unit
from ..errors import OutcomeHidden, OutcomeUnknown, TransactionAborted, TransactionRequired
from ..outcomes import Moved, Refused
from ..sql.code import Reading, Taken
from . import fires
from .failures import Cause, Meaning, error_code, is_due_to, is_unsure_at_commit, meaning
from .fires import Fire
from .target import Target
from .tokens import replayed_by_token

__all__ = ["EXECUTION_OPTION", "fire", "is_asked", "is_refused_as_text", "is_wanted", "outcome_of", "takes", "unit_of"]

EXECUTION_OPTION: Final = "fsm_one_packet"


def is_wanted(connection: Connection, target: Target) -> bool:
    """Whether fires of *target* on *connection* are to be packets: the option decides, and without it the column."""
    option = connection.get_execution_options().get(EXECUTION_OPTION)
    return target.extras.one_packet if option is None else bool(option)


def is_asked(connection: Connection, target: Target) -> bool:
    """Whether a recorded fire of *target* on *connection* is to commit by itself, in one packet."""
    return is_wanted(connection, target) and is_autocommit(connection)


def takes(connection: Connection, fire: Fire) -> bool:
    """Whether *fire* goes out in a packet: it is recorded, and :func:`is_asked`."""
    return fire.event.recorded and fire.target.extras.history is not None and is_asked(connection, fire.target)


def unit_of(fire: Fire) -> Unit:
    """*fire* as a unit of a packet."""
    history, token = fire.target.history, fire.attribution.token
    if history is None or not fire.event.recorded:
        return Unit(fire.event, fire.parameters, knows_version=fire.knows_version)
    parameters = {**fire.parameters, "fsm_event": fire.event.name, **fire.attribution.parameters()}
    return Unit(fire.event, parameters, history, token is not None, fire.knows_version)


def fire(connection: Connection, fire: Fire) -> Moved[Any] | Refused[Any]:
    """Send *fire* in one packet on *connection*, and return what it did; committed, and a refusal is a value.

    Raises: TransactionRequired when it cannot be sent so; RowNotFound, UnknownState, TokenConflict; OutcomeUnknown with
    the token; TransactionAborted of the COMMIT; and SQLAlchemy's errors.
    """
    unit, packets = unit_of(fire), database_of(connection).packets
    obstacle = "this database takes one statement at a time" if packets is None else packets.obstacle(connection)
    if packets is None or obstacle is not None:
        raise TransactionRequired(_refusal(fire, obstacle))
    if not packets.fits(connection, unit):
        why = "a list in the payload, a listener, or a history with an AUTO_INCREMENT key"
        raise TransactionRequired(_refusal(fire, f"{fire.event.name!r} is sent as a statement of its own ({why})"))
    try:
        (answer,) = packets.send(connection, [unit])
    except PacketFailed as failed:
        if isinstance(failed.cause, IntegrityError) and fire.attribution.token is not None:
            earlier = replayed_by_token(connection, fire)
            if earlier is not None:
                return earlier
        raise_failure(failed, connection, fire)
    return outcome_of(connection, fire, answer)


def outcome_of(connection: Connection, fire: Fire, answer: Answer) -> Moved[Any] | Refused[Any]:
    """The outcome of *fire*, of which a packet's *answer* tells.

    Raises: RowNotFound, UnknownState, TokenConflict; OutcomeHidden when the table has a trigger since the last fire.
    """
    reading: Reading | None = answer.reading
    if isinstance(reading, Taken):
        branch = reading.branch
        fire.is_other_version = reading.is_other_version
        return fires.move_outcome(fire, branch.leaves, branch.leads_to, answer.sequence)
    if reading is None:
        raise OutcomeHidden(
            table=fire.target.table_name, key=fire.key, event=fire.event.name, token=fire.attribution.token
        )
    if answer.is_replay:
        earlier = replayed_by_token(connection, fire)
        if earlier is not None:
            return earlier
    return fires.unmoved(connection, fire, reading)


def raise_failure(failed: PacketFailed, connection: Connection, fire: Fire) -> NoReturn:
    """Raise the error that stands for *failed*: ours where the COMMIT decides, else SQLAlchemy's, to be explained.

    Raises: OutcomeUnknown, TransactionAborted, TransactionRequired, and the cause of *failed*.
    """
    error, token = failed.cause, fire.attribution.token
    meant, code = meaning(error), error_code(error)
    if meant is Meaning.LOST or (failed.at_commit and is_unsure_at_commit(error)):
        if not connection.invalidated:
            connection.invalidate()
        raise OutcomeUnknown(code=code, token=token, **fire.row) from error
    if failed.at_commit and meant is Meaning.LOCK_TIMEOUT:  # a backup's lock, or a KILL QUERY: it is rolled back
        raise TransactionAborted(code=code, retryable=True, **fire.row) from error
    if failed.unit is None and is_due_to(error, Cause.TRANSACTION_OPEN):
        why = "a statement on this connection has begun a transaction, which a packet of its own would commit"
        raise TransactionRequired(_refusal(fire, why)) from error
    if is_refused_as_text(failed):
        why = (
            "a proxy or the server took its text for one statement; the proxy may not announce CLIENT_MULTI_STATEMENTS"
        )
        raise TransactionRequired(_refusal(fire, why)) from error
    raise error from error.__cause__


def is_refused_as_text(failed: PacketFailed) -> bool:
    """Whether the server has parsed the whole packet as one statement, and run none of it."""
    return failed.unit is None and not failed.at_commit and is_due_to(failed.cause, Cause.ONE_STATEMENT)


def _refusal(fire: Fire, obstacle: str | None) -> str:
    return (
        f"{fire.target.label} has a history, which is committed together with the state, this connection is in "
        f"AUTOCOMMIT, and {_asking(fire)} asks for one packet, which cannot be sent: {obstacle}. Use another "
        "isolation level, such as READ COMMITTED"
    )


def _asking(fire: Fire) -> str:
    return "one_packet of its column" if fire.target.extras.one_packet else EXECUTION_OPTION
