"""Tokens: a fire that is sent twice moves the row once, and the second call returns the first outcome.

The unique index on the history's ``token`` decides between two simultaneous fires. A fire with a token runs in a
savepoint: the second one rolls back to it, reads the first one's history row with a lock, and returns that outcome.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from ..errors import RowNotFound, TokenConflict, UnknownState
from ..errors.texts import row_label
from ..outcomes import Moved, Refused
from .fires import Fire
from .savepoints import savepoint
from .target import Target, plain_key


def fire_under_token(
    connection: Connection, fire: Fire, attempt: Callable[[], Moved[Any] | Refused[Any]]
) -> Moved[Any] | Refused[Any]:
    """The outcome of *attempt*, which sends *fire*; ``.replayed``, that of an earlier fire with the same token.

    Raises: TokenConflict when the token belongs to another event or row; and as *attempt*.
    """
    refusal: Exception | None = None
    with savepoint(connection, "fsm_token") as before:
        try:
            outcome = attempt()
            if outcome:
                return outcome
        except IntegrityError as error:
            before.roll_back()
            refusal = error
        except (RowNotFound, UnknownState) as error:
            refusal = error
    # The row was not moved. It may have been moved by the first fire with this token, and gone on since.
    earlier = replayed_by_token(connection, fire)
    if earlier is not None:
        return earlier
    if refusal is not None:
        raise refusal
    return outcome


def replayed_by_token(connection: Connection, fire: Fire) -> Moved[Any] | None:
    """The outcome of an earlier fire with the token of *fire*; None when no committed one has it.

    Raises: TokenConflict.
    """
    earlier = with_token(connection, fire.target, fire.attribution.token or "")
    if earlier is None:
        return None
    if (earlier.key, earlier.event) != (fire.key, fire.event.name):
        label = f"{earlier.event!r} on {row_label(fire.target.table_name, earlier.key)}"
        raise TokenConflict(token=earlier.token or "", earlier=label, **fire.row)
    return replace(earlier, instance=fire.instance, payload=fire.payload)


def with_token(connection: Connection, target: Target, token: str) -> Moved[Any] | None:
    """The transition that has *token*, as it was reported the first time; None when no committed one has it.

    The read takes a lock: it waits for a transaction that is about to commit the token, and sees what was committed
    after this transaction's snapshot.
    """
    history = target.history
    if history is None:
        return None
    columns = history.table.c
    row = connection.execute(history.by_token(), {"fsm_token": token}).mappings().one_or_none()
    if row is None:
        return None
    return Moved(
        model=target.model,
        key=plain_key([row[part] for part in history.row_key]),
        event=row[columns.event],
        source=row[columns.source],
        target=row[columns.target],
        actor=row[columns.actor],
        details=row[columns.details],
        token=token,
        replayed=True,
        sequence=row[columns.sequence],
    )
