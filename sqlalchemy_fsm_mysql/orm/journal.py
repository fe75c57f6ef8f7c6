"""The moves of a session's open transactions, kept until they end.

It has two purposes. After a savepoint's rollback, SQLAlchemy expires the instances that it flushed; the journal expires
those that a fire moved. And the functions of ``on_committed`` are called after the session has ended its transaction,
too, so that they read instances anew.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.orm import Session, SessionTransaction

from ..core.notes import Promise, keep_promises
from .listening import KEY, journal_in

__all__ = ["Journal", "connections_of", "early_commits", "ends_with", "journal_of", "may_begin_others", "note"]


@dataclass(slots=True, eq=False, repr=False)
class _Level:
    """The moves of one savepoint, or of the outermost transaction."""

    savepoint: SessionTransaction | None
    tokens: list[str] = field(default_factory=list)
    instances: dict[int, Any] = field(default_factory=dict)
    identities: dict[Any, None] = field(default_factory=dict)  # of rows without an instance, which may be loaded later
    models: dict[type[Any], None] = field(default_factory=dict)  # any of whose rows a set may have moved

    def add(self, inner: _Level) -> None:
        """Take over the moves of *inner*, a savepoint inside of this one, which has been released."""
        self.tokens += inner.tokens
        if self.savepoint is not None:  # after the outermost rollback SQLAlchemy expires everything itself
            self.instances |= inner.instances
            self.identities |= inner.identities
            self.models |= inner.models


class Journal:
    """The moves of one session since its outermost transaction began."""

    commits: int

    __slots__ = ("_committed", "_early", "_levels", "_ready", "_session", "commits", "queue")

    def __init__(self, session: Session) -> None:
        self._session = weakref.ref(session)  # weak, because the session refers to its journal
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
        """Whether this is the journal of *session*, and not one that was copied with another session's ``info``."""
        return self._session() is session

    def level(self, savepoint: SessionTransaction | None) -> _Level:
        """The level of *savepoint*, the innermost."""
        if self._levels[-1].savepoint is not savepoint:
            self._levels.append(_Level(savepoint))
        return self._levels[-1]

    # --- for hooks

    def after_commit(self, run: Callable[[], None]) -> None:
        """Call *run* now, after the connection's COMMIT; within the session's ``commit()``, as soon as that is over."""
        session = self._session()
        if session is None or session.is_active:
            run()
        else:
            self._ready.append(Promise(run))

    def noted(self, promise: Promise) -> None:
        """Note *promise*, for test suites in which the session's COMMIT stands for the connection's."""
        if early_commits:
            self._early.append(promise)

    # --- the session's events, which `listening` hears

    def committed(self, transaction: SessionTransaction | None) -> None:
        """*transaction*, a savepoint or the outermost, has been committed and is about to end."""
        self._committed = transaction

    def rolled_back(self, session: Session, transaction: SessionTransaction) -> None:
        """Expire the moves of *transaction*, a savepoint that a failed flush has rolled back and that is still open.

        :meth:`ended` expires them again, because an instance that was deleted in the savepoint is in the session again
        only by then.
        """
        if transaction.nested and self._levels[-1].savepoint is transaction:
            self._expire(session, self._levels[-1])

    def ended(self, session: Session, transaction: SessionTransaction) -> None:
        """Add the moves of *transaction* to the savepoint around it, or expire them when it was rolled back."""
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
        loaded_later = [session.identity_map.get(identity) for identity in level.identities]
        for instance in (*level.instances.values(), *loaded_later):
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


# Filled by sqlalchemy_fsm_mysql.testing.hooks_follow_session: while it is not empty, the COMMIT of a session counts as
# that of the connection.
early_commits: list[object] = []


def journal_of(session: Session) -> Journal:
    """The journal of *session*, made at its first use."""
    journal = journal_in(session)
    if journal is None:  # or another session's: Session(info=other.info) copies the other's journal
        journal = session.info[KEY] = Journal(session)
    return journal


def note(
    session: Session,
    instance: Any = None,
    identity: Any = None,
    token: str | None = None,
    model: type[Any] | None = None,
) -> None:
    """Note a moved instance, identity or model, or a *token*, in the savepoint or transaction that *session* is in."""
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


def connections_of(transaction: SessionTransaction) -> set[Connection]:
    """The connections that a session's *transaction* has begun or joined; SQLAlchemy has no public name for them."""
    return {connection for connection, *_ in transaction._connections.values()}  # noqa: SLF001


def ends_with(session: Session, connection: Connection) -> bool:
    """Whether the COMMIT of *session* is that of *connection*, and no other.

    It is not where the session has joined a transaction that somebody else ends, or has several connections.
    """
    transaction, root = session.get_transaction(), connection.get_transaction()
    begun = () if transaction is None else set(transaction._connections.values())  # noqa: SLF001 - as above
    return [(one, its, is_ended) for one, its, is_ended, _ in begun] == [(connection, root, True)]


def may_begin_others(session: Session) -> bool:
    """Whether a listener of ``before_commit`` may begin a transaction of *session* on another database."""
    if len(list(session.dispatch.before_commit)) == 1:  # that of the journal alone
        return False
    binds = getattr(session, "binds", None) or getattr(session, "_Session__binds", None)  # public since SQLAlchemy 2.1
    return session.bind is None or bool(binds) or type(session).get_bind is not Session.get_bind
