"""Many fires in one transaction, each with an outcome of its own: the sending half of a :class:`~.coalescer.Coalescer`.

A batch goes out in one packet where the driver can, else statement by statement in one transaction. When a fire of the
batch fails, nothing of the batch is committed: that fire is run alone, and the others are sent again. All code here is
sync. asyncio runs it in a greenlet, threads run it as it is.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from ..core import hooks, keys
from ..core.failures import Meaning, error_code, is_unsure_at_commit, meaning
from ..core.fires import Fire
from ..core.packets import is_refused_as_text, outcome_of, unit_of
from ..databases import at_level, database_of, has_server, is_autocommit
from ..databases.packets import PacketFailed, Packets
from ..errors import FSMError, OutcomeUnknown, RowNotFound, TokenConflict, UnknownState
from ..outcomes import Moved, Refused
from .units import run_transaction

__all__ = ["Outcome", "Sender"]

Outcome: TypeAlias = "Moved[Any] | Refused[Any] | BaseException"
"""The outcome of one fire of a batch: what ``try_fire_key`` returns, or the error that it raises."""

# So often is a batch sent again after errors; then each of its fires is run alone.
_ATTEMPTS: Final = 4
# 128 fires of this size are far from 16 MB, MariaDB's default for max_allowed_packet; MySQL's is 64 MB.
_CHARACTERS: Final = 8192
# Seconds. A server or a proxy may close a connection that is idle, and a packet on it would have an unknown outcome.
_IDLE: Final = 1.0


class Sender:
    """Sends batches, one at a time, and keeps a connection between them.

    `packets` and `reruns` count the packets or transactions that were sent, and the fires that were run alone.
    """

    packets: int
    reruns: int

    def __init__(self, engine: Engine) -> None:
        self._packing = at_level(engine, "AUTOCOMMIT")
        # A fire that is run alone needs a transaction, because the application's hooks may be called in it.
        level = "READ COMMITTED" if has_server(engine.dialect) else "SERIALIZABLE"
        self._engine = at_level(engine, level) if is_autocommit(engine) else engine
        self._connection: Connection | None = None
        self._used = 0.0
        self._takes_no_text = False  # a proxy has refused a packet
        self.packets = self.reruns = 0

    def send(self, fires: Sequence[Fire]) -> list[Outcome]:
        """Fire all of *fires*, in order, and return their outcomes, committed; an error is an outcome as well."""
        outcomes: dict[int, Outcome] = {}
        left = list(enumerate(fires))
        # The functions of on_moved belong into the transaction of their move, and may do there what they like.
        # A packet beyond max_allowed_packet ends the connection, and then the outcome of the whole batch is unknown.
        alone = [pair for pair in left if _has_hook_within(pair[1]) or _is_large(pair[1])]
        apart = {i for i, _ in alone}
        together = [pair for pair in left if pair[0] not in apart] if alone else left
        try:
            packets = self._packets()
        except SQLAlchemyError as error:  # there is no connection to be had
            return [error] * len(fires)
        if packets is None:
            self._in_transaction(together, outcomes)
        else:
            connection = self._connected()
            fits = {i for i, fire in together if packets.fits(connection, unit_of(fire)) and not _makes_version(fire)}
            alone += [pair for pair in together if pair[0] not in fits]
            self._in_packets(packets, [pair for pair in together if pair[0] in fits], outcomes)
        self._alone(alone, outcomes)
        return [outcomes[i] for i in range(len(fires))]

    def close(self) -> None:
        """Give the connection back to its pool. One that was lost while it was idle has nothing to roll back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(DBAPIError):
                connection.close()

    # --- the connection

    def _connected(self) -> Connection:
        connection, now = self._connection, time.monotonic()
        if connection is not None and (connection.invalidated or now - self._used > _IDLE):
            self.close()  # the pool may have a way to find out whether it is alive
        self._used = now
        if self._connection is None:
            self._connection = self._packing.connect()
        return self._connection

    def _packets(self) -> Packets | None:
        """The packets of the database; None where the driver cannot send any."""
        if self._takes_no_text or not has_server(self._packing.dialect):
            return None
        connection = self._connected()
        packets = database_of(connection).packets
        return packets if packets is not None and packets.obstacle(connection) is None else None

    # --- the ways to send

    def _in_packets(self, packets: Packets, left: list[tuple[int, Fire]], outcomes: dict[int, Outcome]) -> None:
        """Send the fires *left* in one packet, and again without one that fails."""
        attempts = 0
        while left:
            try:
                connection = self._connected()
                self.packets += 1
                answers = packets.send(connection, [unit_of(fire) for _, fire in left])
            except PacketFailed as failed:
                if is_refused_as_text(failed):
                    self._takes_no_text = True
                    self.close()
                    self._in_transaction(left, outcomes)
                    return
                attempts += 1
                left = self._without_failed(failed, left, outcomes, is_last=attempts == _ATTEMPTS)
            except SQLAlchemyError as error:  # no connection: nothing was sent
                outcomes.update((i, error) for i, _ in left)
                return
            else:
                moves: list[tuple[Fire, Moved[Any]]] = []
                for (i, fire), answer in zip(left, answers, strict=True):
                    outcome = outcomes[i] = _outcome(connection, fire, answer)
                    if isinstance(outcome, Moved) and not outcome.replayed and fire.target.extras.hooks:
                        moves.append((fire, outcome))
                for fire, moved in moves:
                    hooks.announce(fire.target.extras.hooks, (moved,), connection)
                return

    def _without_failed(
        self, failed: PacketFailed, left: list[tuple[int, Fire]], outcomes: dict[int, Outcome], *, is_last: bool
    ) -> list[tuple[int, Fire]]:
        """The fires to be sent again after a packet *failed*; those that are not have their outcomes then."""
        error = failed.cause
        meant = meaning(error)
        if meant is Meaning.LOST or (failed.at_commit and is_unsure_at_commit(error)):
            # The packet is committed as a whole or not at all, and only a token can tell.
            if self._connection is not None and not self._connection.invalidated:
                self._connection.invalidate()
            self._alone(left, outcomes, unsure=error)
            return []
        if is_last or (failed.unit is None and meant is not Meaning.ABORTED):
            self._alone(left, outcomes)
            return []
        if meant is Meaning.ABORTED or failed.unit is None:
            return left
        self._alone([left[failed.unit]], outcomes)
        return [*left[: failed.unit], *left[failed.unit + 1 :]]

    def _in_transaction(self, left: list[tuple[int, Fire]], outcomes: dict[int, Outcome]) -> None:
        """Send the fires *left* one by one in one transaction; if any fails, each alone."""
        if len(left) <= 1:
            self._alone(left, outcomes)
            return
        self.packets += 1
        done: dict[int, Outcome] = {}

        def work(connection: Connection) -> None:
            done.clear()
            for i, fire in left:
                try:
                    done[i] = keys.carry_out(connection, fire, keys.send)
                except (RowNotFound, UnknownState, TokenConflict) as error:  # of this fire alone
                    done[i] = error

        try:
            run_transaction(self._engine, work)
        except OutcomeUnknown as unknown:
            cause = unknown.__cause__
            self._alone(left, outcomes, unsure=cause if isinstance(cause, DBAPIError) else unknown)
        except Exception:  # noqa: BLE001 - each finds its own error
            self._alone(left, outcomes)
        else:
            outcomes.update(done)

    def _alone(
        self,
        left: Sequence[tuple[int, Fire]],
        outcomes: dict[int, Outcome],
        *,
        unsure: BaseException | None = None,
    ) -> None:
        """Run each of *left* in a transaction of its own, after an error or because it needs one.

        *unsure* is the error after which the fires may have been committed already. Then only those with a token are
        run, which returns the first outcome if they have been.
        """
        lost: BaseException | None = None
        for i, fire in left:
            token = fire.attribution.token
            if unsure is not None and (token is None or lost is not None):
                outcomes[i] = _unknown(fire, unsure)
            elif lost is not None:
                outcomes[i] = lost
            else:
                outcomes[i] = outcome = self._run(fire)
                if isinstance(outcome, DBAPIError) and meaning(outcome) is Meaning.LOST:
                    lost = outcome  # the server is away: the others need not wait for that again
                # The lost packet may still be running. Once a history row has the token, it cannot be committed any
                # more; after a refusal it can.
                if unsure is not None and not isinstance(outcome, (Moved, TokenConflict)):
                    outcomes[i] = _unknown(fire, unsure)

    def _run(self, fire: Fire) -> Outcome:
        self.reruns += 1
        try:
            return run_transaction(
                self._engine,
                lambda connection: keys.carry_out(connection, fire, keys.send),
                idempotent=fire.attribution.token is not None,
            )
        except Exception as error:  # noqa: BLE001 - the caller of this fire gets it
            return error


def _is_large(fire: Fire) -> bool:
    """Whether the values of *fire* have more characters than a fire in a batch may have."""
    size, values = 0, [*fire.parameters.values(), fire.attribution.details]
    while values and size <= _CHARACTERS:
        value = values.pop()
        size += len(value) if isinstance(value, (str, bytes, bytearray, memoryview)) else 8
        if isinstance(value, dict):
            values += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            values += value
    return size > _CHARACTERS


def _outcome(connection: Connection, fire: Fire, answer: Any) -> Outcome:
    try:
        return outcome_of(connection, fire, answer)
    except (FSMError, SQLAlchemyError) as error:
        return error


def _has_hook_within(fire: Fire) -> bool:
    return any(hook.when == "moved" for hook in fire.target.extras.hooks)


def _makes_version(fire: Fire) -> bool:
    return fire.event.row.version is not None and fire.target.makes_versions


def _unknown(fire: Fire, cause: BaseException) -> OutcomeUnknown:
    error = OutcomeUnknown(code=error_code(cause), token=fire.attribution.token, **fire.row)
    error.__cause__ = cause
    return error
