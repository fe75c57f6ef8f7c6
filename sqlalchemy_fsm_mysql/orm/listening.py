"""Listens for the ends of the transactions of every session, and tells them to the session's journal if it has one.

The listeners are on the class Session: adding them to each session would take a tenth of a transaction's time. They
come with the first declaration, since SQLAlchemy cannot take another listener while it calls those of an event, in
which an application may fire for the first time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

if TYPE_CHECKING:
    from .journal import Journal

__all__ = ["KEY", "journal_in"]

KEY = "sqlalchemy_fsm_mysql"
"""The key of a session's ``info`` under which its journal is."""


def journal_in(session: Session) -> Journal | None:
    """The journal of *session*; None when nothing was noted in the session yet."""
    info = session.__dict__.get("info")  # made at its first use
    journal: Journal | None = None if info is None else info.get(KEY)
    return journal if journal is not None and journal.is_of(session) else None


@event.listens_for(Session, "before_commit")
def _before_commit(session: Session) -> None:
    journal = journal_in(session)
    if journal is not None and not session.in_nested_transaction():
        journal.commits += 1


@event.listens_for(Session, "after_commit")
def _after_commit(session: Session) -> None:
    journal = journal_in(session)
    if journal is not None:
        journal.committed(_innermost(session))


@event.listens_for(Session, "after_rollback")
def _after_rollback(session: Session) -> None:
    journal, transaction = journal_in(session), _innermost(session)
    if journal is not None and transaction is not None:
        journal.rolled_back(session, transaction)


@event.listens_for(Session, "after_transaction_end")
def _after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    journal = journal_in(session)
    if journal is not None:
        journal.ended(session, transaction)


def _innermost(session: Session) -> SessionTransaction | None:
    return session.get_nested_transaction() or session.get_transaction()
