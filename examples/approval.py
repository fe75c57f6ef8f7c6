"""Documents that several people approve: a quorum, delegates, roles, and an audit trail.

Who may do what is a guard, so a right that is taken away is gone for the statement that decides. One vote a person and
round is a unique key. The history, with its details, is the audit trail.
"""

from __future__ import annotations

import csv
import json
from datetime import datetime
from typing import Any, TextIO

from sqlalchemy import ColumnElement, String, UniqueConstraint, exists, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    Guard,
    Machine,
    Moved,
    Stateful,
    StateMachineColumn,
    Transition,
    TransitionHistory,
    fire_key,
)


def is_owner(doc: type[Doc], user: Any) -> ColumnElement[bool]:
    return doc.owner == user


def has_role(user: Any, role: str) -> ColumnElement[bool]:
    return exists().where(Role.user == user, Role.role == role)


def is_approver(doc: type[Doc], user: Any) -> ColumnElement[bool]:
    """Whether *user* is one of the document's approvers, or the delegate of one."""
    gave = exists().where(
        Delegation.giver == Approver.user, Delegation.taker == user, Delegation.until > func.utc_timestamp()
    )
    return exists().where(Approver.doc_id == doc.id, (Approver.user == user) | gave)


approver = {"approver": Guard(is_approver, "only an approver, or a delegate of one, decides")}

docs = Machine(
    initial="draft",
    groups={"editable": ("draft", "rejected"), "unfinished": ("editable", "review")},
    events=[
        Event("submit", {"editable": "review"}, guard={"owner": is_owner}),
        Event(
            "approve",
            [
                Transition("review", "approved", guard={"quorum": lambda doc: doc.approvals + 1 >= doc.quorum}),
                Transition("review", "review"),
            ],
            guard=approver,
            effect=lambda doc: {"approvals": doc.approvals + 1},
        ),
        Event("reject", {"review": "rejected"}, guard=approver),
        Event(
            "cancel",
            {"unfinished": "cancelled"},
            guard={"owner or admin": lambda doc, user: is_owner(doc, user) | has_role(user, "admin")},
        ),
        Event("publish", {"approved": "published"}, guard={"publisher": lambda doc, user: has_role(user, "publisher")}),
    ],
    on_enter={"review": lambda doc: {"approvals": 0, "round": doc.round + 1}},
)


class Base(DeclarativeBase):
    type_annotation_map = {str: String(30)}  # noqa: RUF012 - as SQLAlchemy writes it


class Doc(Stateful, Base):
    __tablename__ = "approval_docs"

    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str]
    quorum: Mapped[int]
    approvals: Mapped[int] = mapped_column(default=0)
    round: Mapped[int] = mapped_column(default=0)
    state: Mapped[str] = StateMachineColumn(docs, enforced=True)


class DocTransition(TransitionHistory, Base):
    __tablename__ = "approval_doc_transitions"
    __records__ = "Doc.state"


class Approver(Base):
    __tablename__ = "approval_approvers"

    doc_id: Mapped[int] = mapped_column(primary_key=True)
    user: Mapped[str] = mapped_column(primary_key=True)


class Delegation(Base):
    __tablename__ = "approval_delegations"

    giver: Mapped[str] = mapped_column(primary_key=True)
    taker: Mapped[str] = mapped_column(primary_key=True)
    until: Mapped[datetime]


class Role(Base):
    __tablename__ = "approval_roles"

    user: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[str] = mapped_column(primary_key=True)


class Vote(Base):
    __tablename__ = "approval_votes"
    __table_args__ = (UniqueConstraint("doc_id", "round", "person"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    doc_id: Mapped[int]
    round: Mapped[int]
    person: Mapped[str]


def approve(session: Session, doc_id: int, person: str, *, by: str | None = None) -> Moved[Doc]:
    """*person* votes for a document; *by* is the delegate who does it.

    Raises: IntegrityError when the person has voted in this round; GuardNotSatisfied, TransitionNotAllowed.
    """
    user = by or person
    moved = fire_key(Doc, doc_id, "approve", session, user=user, actor=user, details={"for": person})
    # The UPDATE has locked the document, so its round cannot change before the vote is written.
    current = session.scalars(select(Doc.round).where(Doc.id == doc_id)).one()
    session.add(Vote(doc_id=doc_id, round=current, person=person))
    session.flush()
    return moved


def export(session: Session, file: TextIO) -> None:
    """The audit trail of all documents as CSV."""
    writer = csv.writer(file)
    writer.writerow(["doc", "number", "event", "from", "to", "at", "actor", "details"])
    for row in session.scalars(select(DocTransition).order_by(DocTransition.record_id, DocTransition.sequence)):
        edge = (row.event, row.source, row.target, row.at.isoformat())
        writer.writerow([row.record_id, row.sequence, *edge, row.actor, json.dumps(row.details)])
