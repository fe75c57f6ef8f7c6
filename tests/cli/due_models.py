"""The module that the tests of ``due`` write into the current directory."""

from __future__ import annotations

from datetime import timedelta

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)

MODELS = """
from datetime import datetime, timedelta

from sqlalchemy import CheckConstraint, Index
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_fsm_mysql import Event, Machine, StateMachineColumn, StateSinceColumn


class Base(DeclarativeBase):
    pass


class Ticket(Base):
    __tablename__ = "timed_tickets"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="open",
            events=[
                Event(
                    "Close",
                    {"open": "closed"},
                    after=timedelta(hours=1),
                    effect=lambda ticket: {"number": ticket.number + 1},
                ),
                Event("Reopen", {"closed": "open"}),
            ],
        )
    )
    state_since: Mapped[datetime] = StateSinceColumn()
    number: Mapped[int] = mapped_column(CheckConstraint("number < 8"), default=0)
    __table_args__ = (Index("ix_timed_tickets", "state", "state_since"),)


class Plain(Base):
    __tablename__ = "timed_plain"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(Machine(initial="a", events=[Event("Go", {"a": "b"})]))
"""
