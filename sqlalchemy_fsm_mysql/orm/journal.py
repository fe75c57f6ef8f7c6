"""What this library did in a session's open transactions, kept until they end.

Two things need it. After a savepoint's rollback, SQLAlchemy expires the instances it flushed itself, and nothing tells
it of those that a fire moved. And ``after_commit`` runs at every RELEASE SAVEPOINT too, so what has to happen after the
outermost COMMIT has to be remembered until then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

__all__ = ["Entry", "Journal", "journal_of", "note"]

_KEY = "sqlalchemy_fsm_mysql"


@dataclass(slots=True)
class Entry:
    """One move: where it happened, whom it touched, and what it wants done once it is committed."""

    transaction: SessionTransaction
    instance: Any = None
    identity: Any = None  # the identity key of a row that the session held no instance of: it may load one later
    token: str | None = None
    model: type[Any] | None = None  # when any of its rows may have been touched
    on_commit: list[Callable[[], None]] = field(default_factory=list)

    def is_within(self, transaction: SessionTransaction) -> bool:
        """Whether the move happened in *transaction* or in a savepoint inside of it."""
        inner: SessionTransaction | None = self.transaction
        while inner is not None and inner is not transaction:
            inner = inner.parent
        return inner is transaction


class Journal:
    """The moves of one session since its outermost transaction began."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.entries: list[Entry] = []
        self.committed: set[SessionTransaction] = set()
        event.listen(session, "after_commit", self._after_commit)
        event.listen(session, "after_rollback", self._after_rollback)
        event.listen(session, "after_transaction_end", self._after_transaction_end)

    def _after_commit(self, session: Session) -> None:
        self.committed.add(_innermost(session))

    def _after_rollback(self, session: Session) -> None:
        # A failed flush rolls back to the savepoint long before the savepoint ends.
        self._expire(session, self._within(_innermost(session)))

    def _after_transaction_end(self, session: Session, transaction: SessionTransaction) -> None:
        is_committed = transaction in self.committed
        self.committed.discard(transaction)
        if not is_committed and (transaction.nested or transaction.parent is None):
            self._forget(session, transaction)
        if transaction.parent is None:
            self._finish()

    def _forget(self, session: Session, transaction: SessionTransaction) -> None:
        gone = self._within(transaction)
        self.entries = [entry for entry in self.entries if not entry.is_within(transaction)]
        self._expire(session, gone)

    def _within(self, transaction: SessionTransaction) -> list[Entry]:
        return [entry for entry in self.entries if entry.is_within(transaction)]

    def _expire(self, session: Session, entries: list[Entry]) -> None:
        for entry in entries:
            instance = entry.instance if entry.identity is None else session.identity_map.get(entry.identity)
            if instance is not None and instance in session:
                session.expire(instance)
        models = tuple({entry.model for entry in entries if entry.model is not None})
        for instance in session.identity_map.values() if models else ():
            if isinstance(instance, models):
                session.expire(instance)

    def _finish(self) -> None:
        finished, self.entries = self.entries, []
        self.committed.clear()
        for entry in finished:
            for run in entry.on_commit:
                run()


def _innermost(session: Session) -> SessionTransaction:
    transaction = session.get_nested_transaction() or session.get_transaction()
    return cast(SessionTransaction, transaction)


def journal_of(session: Session) -> Journal:
    """The journal of *session*, made at its first use."""
    journal = session.info.get(_KEY)
    if journal is None or journal.session is not session:  # Session(info=other.info) copies the other's journal
        journal = session.info[_KEY] = Journal(session)
    return cast(Journal, journal)


def note(
    session: Session,
    instance: Any = None,
    identity: Any = None,
    token: str | None = None,
    model: type[Any] | None = None,
) -> Entry:
    """Note a move in the transaction or savepoint that *session* is in now."""
    entry = Entry(_innermost(session), instance, identity, token, model)
    journal_of(session).entries.append(entry)
    return entry
