"""``dwell_times``: how long rows stay in each state, from the since column and from the history."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta

import pytest
from sqlalchemy import String, insert, select, text, type_coerce, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    Machine,
    StateMachineColumn,
    StateSinceColumn,
    TransitionHistory,
    dwell_times,
    fire_key,
)
from sqlalchemy_fsm_mysql.operations.dwell import Dwell
from sqlalchemy_fsm_mysql.sql.clock import utc_ago

MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)


class Base(DeclarativeBase):
    """The tables of this module."""


machine = Machine(
    initial="new",
    events=[
        Event("Pay", {"new": "paid"}),
        Event("Touch", {"paid": "paid"}),
        Event("Ship", {"paid": "shipped"}),
        Event("Return", {"shipped": "paid"}),
    ],
)


renamed = Machine(
    initial="new",
    events=[Event("Fail", {"new": "it's over"}), Event("Repair", {"it's over": "new"})],
    aliases={"Error": "it's over", "100%": "new"},
)


class Order(Base):
    __tablename__ = "dwell_orders"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine)
    state_since: Mapped[datetime] = StateSinceColumn()


class OrderTransition(TransitionHistory, Base):
    __tablename__ = "dwell_order_transitions"
    __records__ = "Order.state"


class Plain(Base):
    __tablename__ = "dwell_plain"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)


class Renamed(Base):
    """Rows have either spelling of a state; an ENUM, and a VARCHAR."""

    __tablename__ = "dwell_renamed"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(renamed)
    state_since: Mapped[datetime] = StateSinceColumn(of="state")
    text: Mapped[str] = StateMachineColumn(renamed, storage="varchar")
    text_since: Mapped[datetime] = StateSinceColumn(of="text")


class RenamedTransition(TransitionHistory, Base):
    __tablename__ = "dwell_renamed_transitions"
    __records__ = "Renamed.state"


def minutes(dwell: Dwell) -> tuple[int, ...]:
    """The count, and the times in whole minutes."""
    assert dwell.oldest is not None
    return (dwell.count, *(round(time / MINUTE) for time in (dwell.median, dwell.p95, dwell.oldest)))


@pytest.fixture
def orders(session: Session) -> None:
    """A hundred new orders, since 1 to 100 minutes; and one that was paid, touched, shipped, returned and shipped."""
    session.add_all(Order(id=key) for key in range(1, 102))
    session.flush()
    for key in range(1, 101):
        session.execute(update(Order.__table__).where(Order.id == key).values(state_since=utc_ago(key * MINUTE)))
    at = {"Pay": 60, "Touch": 55, "Ship": 50, "Return": 20, "Ship again": 10}
    for number, (event, ago) in enumerate(at.items(), start=1):
        fire_key(Order, 101, event.split()[0], session)
        table = OrderTransition.__table__
        session.execute(update(table).where(table.c.sequence == number).values(at=utc_ago(ago * MINUTE)))
    session.execute(update(Order.__table__).where(Order.id == 101).values(state_since=utc_ago(10 * MINUTE)))


def test_by_the_column(session, orders):
    times = dwell_times(Order.state, session)
    assert list(times) == ["new", "paid", "shipped"]
    assert minutes(times["new"]) == (100, 50, 95, 100)
    assert times["paid"] == Dwell(0)
    assert minutes(times["shipped"]) == (1, 10, 10, 10)


def test_by_the_history(session, orders):
    """Paid for 10 minutes, the touch in between aside, shipped for 30, and paid for 10 again."""
    times = dwell_times(Order.state, session, origin="history")
    assert times["new"] == Dwell(0)
    assert minutes(times["paid"]) == (2, 10, 10, 10)
    assert minutes(times["shipped"]) == (1, 30, 30, 30)


def test_figures_for_json():
    """A stay of no time is 0 seconds, and no stay is None."""
    assert Dwell(1, timedelta(), timedelta(seconds=90), timedelta(days=1)).to_dict() == {
        "count": 1,
        "median": 0.0,
        "p95": 90.0,
        "oldest": 86400.0,
    }
    assert json.dumps(Dwell(1, timedelta(), timedelta(), timedelta()).to_dict())
    assert Dwell(0).to_dict() == {"count": 0, "median": None, "p95": None, "oldest": None}


@pytest.mark.parametrize("name", ["state", "text"])
def test_spellings_of_a_state_are_counted_together(session, name):
    session.add_all(Renamed(id=key) for key in range(1, 5))
    session.flush()
    for key, spelling in enumerate(("Error", "it's over", "Error", "100%"), start=1):
        query = f"UPDATE dwell_renamed SET {name} = :spelling WHERE id = :key"
        session.connection().execute(text(query), {"spelling": spelling, "key": key})
        values = {f"{name}_since": utc_ago(key * 10 * MINUTE)}
        session.execute(update(Renamed.__table__).where(Renamed.id == key).values(values))

    times = dwell_times(getattr(Renamed, name), session)

    assert list(times) == ["new", "it's over"]
    assert minutes(times["it's over"]) == (3, 20, 30, 30)
    assert minutes(times["new"]) == (1, 40, 40, 40)


def test_a_renamed_state_is_one_stay_of_the_history(session):
    """As migrate_states records it: the row did not leave its state when its spelling was changed."""
    session.add(Renamed(id=1))
    session.flush()
    steps = [("Fail", "new", "Error", 30), ("force_state", "Error", "it's over", 20), ("Repair", "it's over", "new", 5)]
    for number, (event, source, target, ago) in enumerate(steps, start=1):
        session.connection().execute(
            insert(RenamedTransition.__table__).values(
                record_id=1,
                sequence=number,
                event=event,
                source=type_coerce(source, String(64)),
                target=type_coerce(target, String(64)),
                at=utc_ago(ago * MINUTE),
            )
        )

    times = dwell_times(Renamed.state, session, origin="history")

    assert minutes(times["it's over"]) == (1, 25, 25, 25)


def test_limits_of_the_history(session, orders):
    returned = session.scalar(select(OrderTransition.at).where(OrderTransition.event == "Return"))
    assert dwell_times(Order.state, session, origin="history", since=returned)["paid"].count == 1
    assert dwell_times(Order.state, session, origin="history", until=returned)["shipped"].count == 0


def test_for_json(session, orders):
    told = dwell_times(Order.state, session)
    assert told["paid"].to_dict() == {"count": 0, "median": None, "p95": None, "oldest": None}
    assert 599 < told["shipped"].to_dict()["oldest"] < 660


def test_wrong_calls(session, orders):
    with pytest.raises(TypeError, match="Plain.state has no StateSinceColumn, and no history"):
        dwell_times(Plain.state, session)
    with pytest.raises(TypeError, match="limit the stays of a history"):
        dwell_times(Order.state, session, since=datetime(2026, 1, 1))  # noqa: DTZ001 - UTC
    with pytest.raises(ValueError, match="origin='table'"):
        dwell_times(Order.state, session, origin="table")


@pytest.mark.servers_only
def test_async(url, engine, tables):
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    async def work() -> dict[str, Dwell]:
        own = create_async_engine(url.set(drivername=f"{engine.dialect.name}+asyncmy"))
        try:
            async with AsyncSession(own) as session:
                session.add(Order(id=1))
                await session.flush()
                return await dwell_times(Order.state, session)
        finally:
            await own.dispose()

    assert asyncio.run(work())["new"].count == 1
