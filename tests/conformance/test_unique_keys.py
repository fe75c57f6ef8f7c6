"""A unique key that a move breaks: one error of the library's own, whoever fires, and the transaction goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import URL, String, UniqueConstraint, true
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    KeyConflict,
    Machine,
    Moved,
    Stateful,
    StateMachineColumn,
    TransitionHistory,
    UniqueViolation,
    claim,
    fire_key,
    fire_or_create,
    fire_where,
    force_state,
    on_moved,
    remove_hook,
    try_fire_key,
)
from tests.bridge import unbridged
from tests.conformance.support import stored

TAKEN = "12A-xyzzy"


class Base(DeclarativeBase):
    pass


class Ticket(Stateful, Base):
    """A seat that is given once, and one ticket of each hall in each state."""

    __tablename__ = "unique_tickets"
    __table_args__ = (UniqueConstraint("hall", "state"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    hall: Mapped[int | None]
    seat: Mapped[str | None] = mapped_column(String(50), unique=True)
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="new",
            events=[
                Event("Seat", {"new": "seated", "held": "held"}, effect=lambda ticket, seat: {"seat": seat}),
                Event("Hold", {("new", "held"): "held"}),
            ],
        )
    )


class TicketStep(TransitionHistory, Base):
    __tablename__ = "unique_ticket_steps"
    __records__ = "Ticket.state"


@pytest.fixture
def tickets(session: Session) -> list[Ticket]:
    """The first ticket has the seat, and is the one of hall 1 that is held."""
    tickets = [Ticket(id=1, seat=TAKEN, hall=1, state="held"), Ticket(id=2, hall=1), Ticket(id=3)]
    session.add_all(tickets)
    session.flush()
    return tickets


BREAKING: dict[str, Callable[[Session], Any]] = {
    "fire": lambda session: session.get_one(Ticket, 2).fire("Seat", session, seat=TAKEN),
    "try_fire": lambda session: session.get_one(Ticket, 2).try_fire("Seat", session, seat=TAKEN),
    "fire_key": lambda session: fire_key(Ticket, 2, "Seat", session, seat=TAKEN),
    "try_fire_key": lambda session: try_fire_key(Ticket, 2, "Seat", session, seat=TAKEN),
    "a token": lambda session: fire_key(Ticket, 2, "Seat", session, seat=TAKEN, token="unique"),
    "the state": lambda session: fire_key(Ticket, 2, "Hold", session),
    "fire_where": lambda session: fire_where(Ticket, "Seat", session, Ticket.id > 1, seat=TAKEN),
    "fire_where of two": lambda session: fire_where(Ticket, "Seat", session, Ticket.id > 1, seat="new"),
    "batches": lambda session: fire_where(Ticket, "Seat", session, true(), seat=TAKEN, batch_size=1),
    "claim": lambda session: claim(Ticket, "Seat", session, Ticket.id == 2, limit=1, seat=TAKEN),
    "claim of the state": lambda session: claim(Ticket, "Hold", session, Ticket.id == 2, limit=1),
    "fire_or_create": lambda session: fire_or_create(Ticket(id=2), "Seat", session, seat=TAKEN),
    "fire_or_create, without an effect": lambda session: fire_or_create(Ticket(id=2), "Hold", session),
    "a new row's effect": lambda session: fire_or_create(Ticket(id=9), "Seat", session, seat=TAKEN),
    "force_state": lambda session: force_state(session.get_one(Ticket, 2), "held", session),
}


@pytest.mark.parametrize("way", BREAKING)
def test_a_move_that_breaks_a_unique_key_is_a_unique_violation(
    session: Session, tickets: list[Ticket], way: str
) -> None:
    before = stored(session, Ticket), stored(session, TicketStep)

    with pytest.raises(UniqueViolation) as violated:
        BREAKING[way](session)

    error = violated.value
    assert isinstance(error.__cause__, IntegrityError)
    assert TAKEN not in str(error)
    assert "UPDATE" not in str(error)
    assert error.code in (None, 1062, 1586, 2067)
    if way != "batches":
        assert (stored(session, Ticket), stored(session, TicketStep)) == before
        assert fire_key(Ticket, 2, "Seat", session, seat="12B").target == "seated"


def test_the_error_names_the_row_and_the_event(session: Session, tickets: list[Ticket]) -> None:
    with pytest.raises(
        UniqueViolation, match="unique_tickets 2: a unique key refused a value while 'Seat'"
    ) as violated:
        fire_key(Ticket, 2, "Seat", session, seat=TAKEN)

    assert (violated.value.model, violated.value.key, violated.value.event) == (Ticket, 2, "Seat")


def test_a_new_row_with_anothers_unique_value_is_a_key_conflict(session: Session, tickets: list[Ticket]) -> None:
    """Which is a unique violation, too; the row that has the value is left alone."""
    before = stored(session, Ticket)
    for event, payload in (("Hold", {}), ("Seat", {"seat": "12B"})):
        with pytest.raises(KeyConflict) as conflict:
            fire_or_create(Ticket(id=9, seat=TAKEN), event, session, **payload)
        assert isinstance(conflict.value, UniqueViolation)

    assert stored(session, Ticket) == before


def test_what_a_hook_breaks_is_the_hooks_error(session: Session, tickets: list[Ticket]) -> None:
    """The row has moved by then, so no error may say that nothing has."""

    @on_moved(Ticket.state)
    def breaks(moved: Moved[Ticket], session: Session) -> None:
        session.connection().execute(Ticket.__table__.insert().values(id=moved.key, state="new"))

    try:
        with pytest.raises(IntegrityError):
            fire_key(Ticket, 2, "Seat", session, seat="12B")
        with pytest.raises(IntegrityError):
            force_state(session.get_one(Ticket, 2), "new", session)
        with pytest.raises(IntegrityError):
            fire_or_create(Ticket(id=2), "Seat", session, seat="12C")
    finally:
        remove_hook(Ticket.state, breaks)

    assert stored(session, Ticket)[2,]["state"] == "seated"


def test_what_a_flush_breaks_is_the_flushs_error(session: Session, tickets: list[Ticket]) -> None:
    session.add(Ticket(id=4, seat=TAKEN))
    with pytest.raises(IntegrityError):
        fire_key(Ticket, 3, "Hold", session)


def test_an_async_session_gets_the_same_error(asyncio_url: URL) -> None:
    async def run() -> Moved[Ticket]:
        engine = create_async_engine(asyncio_url)
        try:
            async with engine.begin() as connection:
                await connection.run_sync(Base.metadata.create_all)
            async with AsyncSession(engine) as session:
                session.add_all([Ticket(id=1, seat=TAKEN), Ticket(id=2)])
                await session.flush()
                with pytest.raises(UniqueViolation):
                    await fire_key(Ticket, 2, "Seat", session, seat=TAKEN)
                with pytest.raises(UniqueViolation):
                    await claim(Ticket, "Seat", session, Ticket.id == 2, limit=1, seat=TAKEN)
                return await fire_key(Ticket, 2, "Seat", session, seat="12B")
        finally:
            await engine.dispose()

    assert unbridged(asyncio.run, run()).target == "seated"
