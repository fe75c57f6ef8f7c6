"""The moves of a session's open transactions, kept until they end.

Two things need it. After a savepoint's rollback, SQLAlchemy expires the instances it flushed itself, and nothing tells
it of those that a fire moved. And the functions of ``on_committed`` are called when the session, too, has seen to its
own end: an instance is read anew by then.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.orm import Session, SessionTransaction

from ..core.notes import Promise, keep_promises

__all__ = ["Journal", "connections_of", "early_commits", "journal_of", "note"]

_KEY = "sqlalchemy_fsm_mysql"


@dataclass(slots=True)
class _Level:
    """The moves of one savepoint, or of the outermost transaction."""

    savepoint: SessionTransaction | None
    tokens: list[str] = field(default_factory=list)
    instances: dict[int, Any] = field(default_factory=dict)
    identities: dict[Any, None] = field(default_factory=dict)  # of rows that the session may load an instance of later
    models: dict[type[Any], None] = field(default_factory=dict)  # any of whose rows may have been touched

    def add(self, inner: _Level) -> None:
        """Take over what a savepoint inside of this one, now released, has done."""
        self.tokens += inner.tokens
        if self.savepoint is not None:  # after the outermost rollback SQLAlchemy expires everything itself
            self.instances |= inner.instances
            self.identities |= inner.identities
            self.models |= inner.models


class Journal:
    """The moves of one session since its outermost transaction began."""

    __slots__ = ("_committed", "_early", "_levels", "_ready", "_session", "commits", "queue")

    def __init__(self, session: Session) -> None:
        self._session = weakref.ref(session)  # which refers to its journal
        self._levels = [_Level(None)]
        self._committed: SessionTransaction | None = None
        self._ready: list[Promise] = []
        self._early: list[Promise] = []
        self.commits = 0  # how often an outermost COMMIT was begun
        self.queue: deque[Any] | None = None

    @property
    def tokens(self) -> list[str]:
        """The tokens that were fired in the transaction, without those of savepoints that were rolled back."""
        return [token for level in self._levels for token in level.tokens]

    def is_of(self, session: Session) -> bool:
        """Whether this is the journal of *session*, and no copy in another one's ``info``."""
        return self._session() is session

    def level(self, savepoint: SessionTransaction | None) -> _Level:
        """The level of *savepoint*, the innermost."""
        if self._levels[-1].savepoint is not savepoint:
            self._levels.append(_Level(savepoint))
        return self._levels[-1]

    # --- for hooks

    def after_commit(self, run: Callable[[], None]) -> None:
        """Call *run* now, after the connection's COMMIT; in the middle of the session's own, as soon as it is over."""
        session = self._session()
        if session is None or session.is_active:
            run()
        else:
            self._ready.append(Promise(run))

    def noted(self, promise: Promise) -> None:
        """Take note of a *promise*, for suites in which the session's COMMIT stands for the connection's."""
        if early_commits:
            self._early.append(promise)

    # --- the session's events

    def committed(self, transaction: SessionTransaction | None) -> None:
        """*transaction*, a savepoint or the outermost, has been committed and is about to end."""
        self._committed = transaction

    def rolled_back(self, session: Session, transaction: SessionTransaction) -> None:
        """Expire what a failed flush has undone: it rolls back to the savepoint long before that ends.

        Once more at the end: an instance that was deleted in the savepoint comes back to the session only by then.
        """
        if transaction.nested and self._levels[-1].savepoint is transaction:
            self._expire(session, self._levels[-1])

    def ended(self, session: Session, transaction: SessionTransaction) -> None:
        """Hand over what was done in *transaction* to the savepoint around it, or undo what is in memory."""
        is_committed, self._committed = self._committed is transaction, None
        if transaction.nested and self._levels[-1].savepoint is transaction:
            level = self._levels.pop()
            if is_committed:
                self.level(_savepoint_around(transaction)).add(level)
            else:
                self._expire(session, level)
        if transaction.parent is None:
            self._finish(is_committed=is_committed)

    def _expire(self, session: Session, level: _Level) -> None:
        held = [session.identity_map.get(identity) for identity in level.identities]
        for instance in (*level.instances.values(), *held):
            if instance is not None and instance in session:
                session.expire(instance)
        models = tuple(level.models)
        for instance in session.identity_map.values() if models else ():
            if isinstance(instance, models):
                session.expire(instance)

    def _finish(self, *, is_committed: bool) -> None:
        ready, self._ready, early, self._early = self._ready, [], self._early, []
        self._levels = [_Level(None)]
        keep_promises([*ready, *(early if is_committed else ())])
        for promise in early:
            promise.is_void = True


def _savepoint_around(transaction: SessionTransaction) -> SessionTransaction | None:
    around = transaction.parent
    while around is not None and not around.nested:
        around = around.parent
    return around


# Raised by sqlalchemy_fsm_mysql.testing: for whom a session's COMMIT counts, in a transaction that goes on.
early_commits: list[object] = []


def journal_of(session: Session) -> Journal:
    """The journal of *session*, made at its first use."""
    journal: Journal | None = session.info.get(_KEY)
    if journal is None or not journal.is_of(session):  # Session(info=other.info) copies the other's journal
        journal = session.info[_KEY] = Journal(session)
    return journal


def note(
    session: Session,
    instance: Any = None,
    identity: Any = None,
    token: str | None = None,
    model: type[Any] | None = None,
) -> None:
    """Note what was touched, or fired under a *token*, in the transaction or savepoint that *session* is in now."""
    level = journal_of(session).level(session.get_nested_transaction())
    if token is not None:
        level.tokens.append(token)
    if level.savepoint is None:
        return
    if instance is not None:
        level.instances[id(instance)] = instance
    if identity is not None:
        level.identities[identity] = None
    if model is not None:
        level.models[model] = None


# Of the class, and not of each session: to listen costs as much as a tenth of a transaction.


def _journal(session: Session) -> Journal | None:
    info = session.__dict__.get("info")  # made at its first use
    journal: Journal | None = None if info is None else info.get(_KEY)
    return journal if journal is not None and journal.is_of(session) else None


@event.listens_for(Session, "before_commit")
def _before_commit(session: Session) -> None:
    journal = _journal(session)
    if journal is not None and not session.in_nested_transaction():
        journal.commits += 1


@event.listens_for(Session, "after_commit")
def _after_commit(session: Session) -> None:
    journal = _journal(session)
    if journal is not None:
        journal.committed(_innermost(session))


@event.listens_for(Session, "after_rollback")
def _after_rollback(session: Session) -> None:
    journal, transaction = _journal(session), _innermost(session)
    if journal is not None and transaction is not None:
        journal.rolled_back(session, transaction)


@event.listens_for(Session, "after_transaction_end")
def _after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    journal = _journal(session)
    if journal is not None:
        journal.ended(session, transaction)


def connections_of(transaction: SessionTransaction) -> set[Connection]:
    """The connections that a session's *transaction* has begun or joined; SQLAlchemy has no public name for them."""
    return {connection for connection, *_ in transaction._connections.values()}  # noqa: SLF001


def _innermost(session: Session) -> SessionTransaction | None:
    return session.get_nested_transaction() or session.get_transaction()
