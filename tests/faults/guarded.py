"""A guarded row, fired on more often than its guard allows, and the evidence of it."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Engine, literal_column, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import Event, Machine, Moved, Refused, StateMachineColumn, Transition, try_fire_key
from tests.faults.load import called
from tests.faults.wrong import wrong_version
from tests.race.checker import Call, Evidence, Row

ALLOWED, FIRES = 5, 12


def tickets() -> tuple[Any, Machine]:
    """A model of its own for each version of the library, because statements are kept with the model."""

    class Base(DeclarativeBase):
        pass

    machine = Machine(
        initial="selling",
        events=[
            Event(
                "Sell",
                [Transition("selling", "selling", guard=lambda ticket: ticket.left > 0)],
                effect=lambda ticket: {"left": ticket.left - 1},
            )
        ],
    )

    class Ticket(Base):
        __tablename__ = "fault_tickets"

        id: Mapped[int] = mapped_column(primary_key=True)
        left: Mapped[int] = mapped_column(default=ALLOWED)
        steps: Mapped[int] = mapped_column(default=0, onupdate=literal_column("fault_tickets.steps + 1"))
        state: Mapped[str] = StateMachineColumn(machine)

    return Ticket, machine


def guarded_evidence(engine: Engine, wrong: str) -> Evidence:
    ticket, machine = tickets()
    ticket.metadata.drop_all(engine)
    ticket.metadata.create_all(engine)
    calls: list[Call] = []
    with Session(engine) as session:
        session.add(ticket(id=1))
        session.commit()
        with wrong_version(wrong):
            for _ in range(FIRES):
                begin = time.monotonic_ns()
                outcome: Moved[Any] | Refused[Any] = try_fire_key(ticket, 1, "Sell", session)
                session.commit()
                if isinstance(outcome, Moved):  # a guard's refusal is of a state that the event leaves
                    calls.append(called(0, begin, time.monotonic_ns(), 1, outcome, None))
        rows = {
            key: Row(state, steps)
            for key, state, steps in session.execute(select(ticket.id, ticket.state, ticket.steps))
        }
    ticket.metadata.drop_all(engine)
    return Evidence(machine, calls, rows, most={1: ALLOWED})
