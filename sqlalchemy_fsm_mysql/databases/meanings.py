"""The meanings that an error can have for the transaction in which it happened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum, auto
from typing import ClassVar

__all__ = ["Cause", "ErrorMeanings", "Meaning"]


class Meaning(Enum):
    """The consequence of an error for the transaction in which it happened."""

    ABORTED = auto()  # the server has rolled the whole transaction back; the same work may succeed
    LOCK_TIMEOUT = auto()  # this statement failed, the transaction is alive
    NOT_WRITABLE = auto()  # nothing can be committed here
    REFUSED = auto()  # a trigger of ours refused this statement, the transaction is alive
    LOST = auto()  # the connection is gone, and the transaction with it, unless COMMIT was sent
    DUPLICATE = auto()  # a unique key refused a value; the transaction is alive
    VALUE = auto()  # a value that was given does not fit its column; the transaction is alive
    UNRELATED = auto()  # a statement's own fault (a constraint, a missing table): SQLAlchemy's error tells


class Cause(Enum):
    """One error, for code that has to know it from the others of its meaning."""

    SAVEPOINT_GONE = auto()  # there is no such savepoint: it ends with its transaction
    UNSURE_AT_COMMIT = auto()  # a COMMIT may have been done or not
    ONE_STATEMENT = auto()  # the text of a packet was taken for one statement, and was none
    TRANSACTION_OPEN = auto()  # a packet of its own would commit a transaction that is open already
    LOCK_WAIT = auto()  # the wait for a lock; see Transactions.ends_on_lock_wait
    TRIGGER_EXISTS = auto()  # another process has made a trigger of this name
    NO_PRIVILEGE = auto()  # the account may not read this
    ALGORITHM_REFUSED = auto()  # ALTER TABLE cannot work in the way that was asked for
    ROWS_REFUSED = auto()  # ALTER TABLE found rows whose state the altered column cannot have
    KEY_REFUSED = auto()  # ALTER TABLE would change a column in a way that its foreign key does not let
    VERSIONED = auto()  # ALTER TABLE would change rows that the server has to keep as they were


class ErrorMeanings:
    """The errors of a database; of this one none is known."""

    causes: ClassVar[Mapping[Cause, frozenset[int]]] = {}
    """The numbers of each cause that the database has."""

    def is_raised_by(self, driver: BaseException) -> bool:
        """Whether *driver* is an exception of a driver of this database."""
        return False

    def of(self, driver: BaseException | None, code: int | None) -> Meaning:
        """The meaning of *driver*, an exception of a driver, whose number is *code*."""
        return Meaning.UNRELATED

    def is_of_every_row(self, driver: BaseException | None, code: int | None) -> bool:
        """Whether *driver*, an error of a statement, is due to the statement or the server, whatever the rows hold."""
        return False

    def is_unreachable(self, driver: BaseException | None, code: int | None) -> bool:
        """Whether *driver*, an error of connecting, says that the server is down or busy, and may be back."""
        return False

    def misfit(self, driver: BaseException | None, code: int | None, columns: Iterable[str]) -> str:
        """The reason why *driver*, an error of the meaning VALUE, refused a value, for a message; without the value.

        *columns* are the names of the columns that the message may name.
        """
        return "the database cannot store a value that was given"
