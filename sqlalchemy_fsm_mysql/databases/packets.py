"""Whole units of work in one packet: the contract of databases that take several statements at once.

A packet of :meth:`Packets.send` is a transaction of its own: it begins, moves rows, adds their history rows and
commits. Its caller waits for one round trip, and the rows are locked for less than one. A packet of :meth:`Packets.end`
is the end of a transaction that is open already.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import StatementError

from ..errors import RefusedByDatabase
from ..sql.code import Reading
from ..sql.events import EventSQL
from ..sql.history import HistorySQL

__all__ = ["Answer", "PacketFailed", "Packets", "Unit"]


class Unit(NamedTuple):
    """One fire of a packet. `history` is None where the event has no history row, `has_token` is of that row."""

    event: EventSQL
    parameters: Mapping[str, Any]  # of the UPDATE, and of the history row
    history: HistorySQL | None = None
    has_token: bool = False
    knows_version: bool = False


class Answer(NamedTuple):
    """The outcome of one unit.

    `reading` is None when the row has moved, but a trigger on its table hides the state that it has left. `sequence` is
    the number of the history row of a move. `is_replay` is whether the row was not moved, and a history row has the
    unit's token.
    """

    reading: Reading | None
    sequence: int | None = None
    is_replay: bool = False


class PacketFailed(Exception):
    """A packet of which a statement failed, or whose answer was lost: `cause` is the error.

    `unit` is the position of the unit whose statement failed; None for a statement of the packet itself. `at_commit` is
    whether it was the COMMIT. Where the connection was lost, the packet may be committed, whichever statement failed.
    """

    at_commit: bool
    cause: StatementError | RefusedByDatabase | UnicodeEncodeError
    unit: int | None

    def __init__(
        self,
        cause: StatementError | RefusedByDatabase | UnicodeEncodeError,
        *,
        unit: int | None,
        at_commit: bool = False,
    ) -> None:
        super().__init__(f"a packet failed: {type(cause).__name__}")
        self.cause, self.unit, self.at_commit = cause, unit, at_commit


class Packets(ABC):
    """Sends units of work: as transactions of their own in AUTOCOMMIT, or as the end of an open transaction."""

    @abstractmethod
    def obstacle(self, connection: Connection) -> str | None:
        """The reason why *connection* cannot send packets, for a message; None when it can."""

    @abstractmethod
    def fits(self, connection: Connection, unit: Unit) -> bool:
        """Whether the statements of *unit* can be sent as text, and so in a packet."""

    @abstractmethod
    def send(self, connection: Connection, units: Sequence[Unit]) -> list[Answer]:
        """Commit *units*, in order, in one packet, and return the answer to each.

        Raises: PacketFailed when any statement failed; then no transaction is open, and no answer unread.
        """

    @abstractmethod
    def end(self, connection: Connection, unit: Unit, *, savepoint: str | None = None) -> Answer:
        """Fire *unit* in the transaction that is open on *connection*, and if the row moves, commit that: one packet.

        When the row does not move, nothing is committed, and the transaction is open. *savepoint* is the name of one
        that the packet sets first.

        Raises: PacketFailed when any statement failed; no answer is unread. Before the COMMIT, the transaction is in
        the state in which the same error leaves it when the statements are sent one by one.
        """
