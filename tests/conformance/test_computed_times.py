"""Times that guards, effects and criteria compute: by `utc_in` on every database, and never by `+` and `-` on dates."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from sqlalchemy import Interval, func, literal_column, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    InvalidMachine,
    Machine,
    StateMachineColumn,
    claim,
    fire_key,
    fire_where,
    try_fire_key,
    utc_in,
    utc_now,
)
from sqlalchemy_fsm_mysql.orm.since import Timestamp

DAY = timedelta(days=1)


class Base(DeclarativeBase):
    """The tables of this module."""


machine = Machine(
    initial="new",
    events=[
        Event("Accept", {"new": "accepted"}, effect=lambda parcel: {"due": utc_in(2 * DAY)}),
        Event("Return", {"new": "returned"}, guard=lambda parcel: parcel.created < utc_in(-7 * DAY)),
        Event("Lose", {"new": "lost"}),
    ],
)


class Parcel(Base):
    __tablename__ = "computed_times"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    created: Mapped[datetime] = mapped_column(Timestamp())
    due: Mapped[datetime | None] = mapped_column(Timestamp())
    wait: Mapped[timedelta | None] = mapped_column(Interval())
    state: Mapped[str] = StateMachineColumn(machine)


@pytest.fixture
def parcels(session: Session) -> None:
    """Parcel 1 is six days old, parcel 2 is eight days old."""
    session.add_all([Parcel(id=1, created=utc_in(-6 * DAY)), Parcel(id=2, created=utc_in(-8 * DAY))])
    session.flush()


@pytest.mark.usefixtures("parcels")
def test_a_guard_compares_with_a_time_in_the_past(session):
    assert try_fire_key(Parcel, 1, "Return", session).reason == "guard"
    assert fire_key(Parcel, 2, "Return", session).target == "returned"


@pytest.mark.usefixtures("parcels")
def test_an_effect_writes_a_time_in_the_future(session):
    now = session.scalar(select(utc_now()))
    fire_key(Parcel, 1, "Accept", session)

    due = session.scalar(select(Parcel.due).where(Parcel.id == 1))
    assert timedelta(0) <= due - now - 2 * DAY < timedelta(seconds=30)


@pytest.mark.usefixtures("parcels")
def test_criteria_select_the_rows_of_a_time(session):
    old = Parcel.created < utc_in(-7 * DAY)

    assert session.scalars(select(Parcel.id).where(old)).all() == [2]
    assert set(fire_where(Parcel, "Lose", session, old, keys=True).keys) == {2}
    assert [parcel.id for parcel in claim(Parcel, "Lose", session, Parcel.created < utc_in(-5 * DAY), limit=9)] == [1]


@pytest.mark.parametrize("wrong", [7200, "7 days", None, utc_now], ids=repr)
def test_a_duration_is_a_timedelta_or_sql(wrong):
    with pytest.raises(TypeError, match=r"utc_in\(\) takes a timedelta, or seconds as a SQL expression"):
        utc_in(wrong)


@pytest.mark.usefixtures("parcels")
def test_a_duration_may_be_a_column_of_seconds(session):
    now = session.scalar(select(utc_now()))
    later = session.scalar(select(utc_in(60 * Parcel.id)).where(Parcel.id == 2))
    of_a_column = session.scalar(select(utc_in(Parcel.id)).where(Parcel.id == 2))

    assert timedelta(0) <= later - now - timedelta(seconds=120) < timedelta(seconds=30)
    assert timedelta(0) <= of_a_column - now - timedelta(seconds=2) < timedelta(seconds=30)


ARITHMETIC = {
    "a time and a duration": lambda p: p.created + DAY < func.now(),
    "now and a duration": lambda p: p.created < func.now() - DAY,
    "two times": lambda p: func.now() - p.created > DAY,
    "a column of durations": lambda p: p.created + p.wait < func.now(),
    "in a subquery": lambda p: select(func.now() - DAY).scalar_subquery() > p.created,
}


@pytest.mark.parametrize("condition", ARITHMETIC.values(), ids=ARITHMETIC)
def test_arithmetic_with_dates_is_refused_before_any_sql(session, sent, condition):
    """MySQL takes the digits of both: error 1292 in an UPDATE, and a wrong answer in a SELECT and on SQLite."""
    events = [
        Event("Guard", {"new": "done"}, guard=condition),
        Event("After", {"new": "done"}, after=lambda p: p.created + DAY),
        Event("Effect", {"new": "done"}, effect=lambda p: {"due": p.created + DAY}),
    ]

    class Own(DeclarativeBase):
        pass

    class Other(Own):
        __tablename__ = "computed_times"
        id: Mapped[int] = mapped_column(primary_key=True)
        created: Mapped[datetime]
        due: Mapped[datetime | None]
        wait: Mapped[timedelta | None] = mapped_column(Interval())
        state: Mapped[str] = StateMachineColumn(Machine(initial="new", events=events))

    with sent() as statements:
        for event in events:
            with pytest.raises(InvalidMachine, match=r"computes with dates by \+ or -, .* utc_in\(-timedelta"):
                fire_key(Other, 1, event.name, session)
        with pytest.raises(TypeError, match=r"a criterion computes with dates by \+ or -"):
            fire_where(Parcel, "Lose", session, condition(Parcel))

    assert statements.number == 0


def test_an_interval_of_the_server_is_the_callers_own(session):
    """Literal SQL is sent as it is written, whatever type it is given."""
    guard = Parcel.created < func.now() - literal_column("INTERVAL 1 DAY", Interval())
    if session.get_bind().dialect.name == "sqlite":
        pytest.skip("SQLite has no INTERVAL")

    assert fire_where(Parcel, "Lose", session, guard).moved == 0
