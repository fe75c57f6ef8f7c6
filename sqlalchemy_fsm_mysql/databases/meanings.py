"""The meanings that an error can have for the transaction in which it happened."""

from __future__ import annotations

from enum import Enum, auto
from typing import ClassVar

__all__ = ["ErrorMeanings", "Meaning"]


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


class ErrorMeanings:
    """The errors of a database; of this one none is known."""

    unsure_at_commit: ClassVar[frozenset[int]] = frozenset()
    """The numbers of errors after which a COMMIT may have been done or not."""

    def of(self, driver: BaseException | None, code: int | None) -> Meaning:
        """The meaning of *driver*, an exception of a driver, whose number is *code*."""
        return Meaning.UNRELATED

    def misfit(self, driver: BaseException | None, code: int | None) -> str:
        """The reason why *driver*, an error of the meaning VALUE, refused a value, for a message; without the value."""
        return "the database cannot hold a value that was given"
