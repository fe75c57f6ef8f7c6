"""The end of a transaction: its last fire and its COMMIT, in one packet where that is possible.

The packet is sent in the place of the COMMIT, when SQLAlchemy's transaction commits. So everything that belongs to a
commit stays SQLAlchemy's: what is flushed before, the events, and the state of the transaction and its session after.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, RootTransaction
from sqlalchemy.exc import IntegrityError, StatementError

from ..databases import database_of, is_autocommit
from ..databases.packets import PacketFailed
from ..errors import OutcomeUnknown, RefusedByDatabase, TransactionAborted
from ..outcomes import Moved, Refused
from ..sql.code import Taken
from . import fires
from .failures import Meaning, error_code, is_unsure_at_commit, meaning, raise_explained
from .fires import Fire
from .notes import notes_of
from .packets import is_refused_as_text, is_wanted, unit_of
from .savepoints import Savepoint
from .tokens import fire_under_token, replayed_by_token

__all__ = ["End", "LastFire", "NotMoved", "can_be_one_packet"]

_SAVEPOINT: Final = "fsm_token"
# In the info of a connection whose proxy or server has taken a packet for one statement.
_TAKES_NO_TEXT: Final = "fsm_takes_no_text"


class NotMoved(Exception):
    """The last fire of a transaction was refused, so its COMMIT was not sent."""

    outcome: Refused[Any]

    def __init__(self, outcome: Refused[Any]) -> None:
        super().__init__("the last fire of the transaction was refused")
        self.outcome = outcome


def can_be_one_packet(connection: Connection, fire: Fire) -> bool:
    """Whether the transaction that *connection* is in can end by one packet of *fire* and the COMMIT."""
    if not is_wanted(connection, fire.target) or is_autocommit(connection):
        return False
    # Functions of on_moved are called between the move and the COMMIT, and listeners of SQLAlchemy's event before the
    # COMMIT may send statements of their own.
    is_alone = isinstance(connection.get_transaction(), RootTransaction) and not connection.dispatch.commit
    if not is_alone or _may_call_hooks(fire) or connection.info.get(_TAKES_NO_TEXT):
        return False
    packets = database_of(connection).packets
    if packets is None or packets.obstacle(connection) is not None:
        return False
    return packets.fits(connection, unit_of(fire))


def _may_call_hooks(fire: Fire) -> bool:
    name = fire.event.name
    return any(hook.when == "moved" and (hook.event is None or name in hook.event) for hook in fire.target.extras.hooks)


def _nothing(*_: Any) -> None:
    """The default of what an end calls."""


@dataclass(slots=True)
class End:
    """The end of the transaction that *connection* is in: it notes whether the COMMIT was sent, and has succeeded.

    *tokens* are those of the transaction's fires, for the case that the outcome of the COMMIT stays unknown.
    """

    connection: Connection
    tokens: Sequence[str] = field(default=(), kw_only=True)
    is_sent: bool = field(default=False, init=False)
    is_committed: bool = field(default=False, init=False)
    _around: Callable[[Callable[[], None]], None] | None = field(default=None, init=False)

    def arm(self) -> None:
        """Have the transaction's COMMIT sent by :meth:`send`."""
        notes = notes_of(self.connection)
        self._around = notes.end
        notes.end_by(self.send)

    def disarm(self) -> None:
        """Where the transaction goes on, have its COMMIT sent as before.

        A listener of ``before_commit`` may have called within another end, which still waits for the COMMIT.
        """
        if self.connection.in_transaction():
            notes_of(self.connection).end = self._around

    def send(self, commit: Callable[[], None]) -> None:
        """End the transaction by *commit*, which sends the COMMIT."""
        self.is_sent = True
        commit()
        self.is_committed = True


@dataclass(slots=True)
class LastFire(End):
    """An end that fires, in the same packet as the COMMIT.

    The fire's own token joins *tokens* once it has moved the row. *prepare* is called before the fire, *show* with its
    outcome, a move or a replay, before SQLAlchemy takes the transaction for committed.
    """

    fire: Fire
    prepare: Callable[[], None] = _nothing
    show: Callable[[Moved[Any]], None] = _nothing
    outcome: Moved[Any] | None = field(default=None, init=False)

    def send(self, commit: Callable[[], None]) -> None:
        """Fire, and commit if the row has moved, now or before under the same token.

        Raises: NotMoved; RowNotFound, UnknownState, TokenConflict; OutcomeUnknown with all tokens; TransactionAborted;
        and the errors of a fire. Then nothing is committed, unless the outcome is unknown.
        """
        fire, connection = self.fire, self.connection
        self.is_sent = True
        try:
            self.prepare()
            if fire.event.row.version is not None:
                fires.next_version(connection, fire)
            outcome = self._fire()
            if isinstance(outcome, Refused):
                raise NotMoved(outcome)
            self.outcome = outcome
            # A COMMIT of its own can be lost, too. The token of a replay says nothing about this transaction.
            if fire.attribution.token is not None and not outcome.replayed:
                self.tokens = [*self.tokens, fire.attribution.token]
            self.show(outcome)
        except (StatementError, RefusedByDatabase) as error:
            raise_explained(error, connection, token=fire.attribution.token, **fire.row)
        if not self.is_committed:
            commit()
            self.is_committed = True

    def _fire(self) -> Moved[Any] | Refused[Any]:
        """Fire in the packet, and note whether that has committed."""
        fire, connection, token = self.fire, self.connection, self.fire.attribution.token
        packets = database_of(connection).packets
        # Listeners of before_commit may have added listeners to the connection, or options.
        if packets is None or not can_be_one_packet(connection, fire):
            return self._apart()
        try:
            answer = packets.end(connection, unit_of(fire), savepoint=None if token is None else _SAVEPOINT)
        except PacketFailed as failed:
            return self._after_failure(failed)
        reading = answer.reading
        if isinstance(reading, Taken):
            self.is_committed = True
            fire.is_other_version = reading.is_other_version
            return fires.move_outcome(fire, reading.branch.leaves, reading.branch.leads_to, answer.sequence)
        assert reading is not None  # the packet asks for the code before its COMMIT
        earlier = None if token is None else replayed_by_token(connection, fire)
        return fires.unmoved(connection, fire, reading) if earlier is None else earlier

    def _after_failure(self, failed: PacketFailed) -> Moved[Any] | Refused[Any]:
        """The outcome after a packet *failed*, where there is one; the transaction is open then."""
        fire, connection, token, error = self.fire, self.connection, self.fire.attribution.token, failed.cause
        meant, code = meaning(error), error_code(error)
        if meant is Meaning.LOST or (failed.at_commit and is_unsure_at_commit(error)):
            if not connection.invalidated:
                connection.invalidate()
            tokens = [*self.tokens, *(() if token is None else (token,))]
            raise OutcomeUnknown(code=code, token=token, tokens=tokens, **fire.row) from error
        if failed.at_commit and meant is Meaning.LOCK_TIMEOUT:  # a backup's lock, or a KILL QUERY: it is rolled back
            raise TransactionAborted(code=code, retryable=True, **fire.row) from error
        if is_refused_as_text(failed):
            connection.info[_TAKES_NO_TEXT] = True
            return self._apart()
        if isinstance(error, IntegrityError) and token is not None:
            Savepoint(connection, _SAVEPOINT).roll_back()
            earlier = replayed_by_token(connection, fire)
            if earlier is not None:
                return earlier
        raise error from error.__cause__

    def _apart(self) -> Moved[Any] | Refused[Any]:
        """Fire by statements of their own, which the COMMIT follows."""
        fire, connection = self.fire, self.connection
        if fire.attribution.token is None:
            return fires.fire(connection, fire)
        return fire_under_token(connection, fire, lambda: fires.fire(connection, fire))
