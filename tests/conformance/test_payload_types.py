"""A payload of another type than its column's opens no guard: MySQL compares a text with a number as numbers, and 'abc' is 0."""

from __future__ import annotations

import enum
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Numeric, String, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    Machine,
    Stateful,
    StateMachineColumn,
    Transition,
    claim,
    fire_key,
    fire_or_create,
    fire_where,
    try_fire_key,
)
from tests.conformance.support import counting

SECRET = "s3cret-7f3a"  # noqa: S105 - of a row in a test


class Base(DeclarativeBase):
    pass


def opens(**guards: Callable[..., Any]) -> list[Event]:
    return [Event(name, [Transition("new", "open", guard=guard)]) for name, guard in guards.items()]


class Safe(Stateful, Base):
    __tablename__ = "payload_safes"
    id: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[str] = mapped_column(String(40), default=SECRET)
    pin: Mapped[int] = mapped_column(default=0)
    price: Mapped[Decimal] = mapped_column(Numeric(8, 2), default=Decimal("9.50"))
    is_open: Mapped[bool] = mapped_column(default=False)
    since: Mapped[datetime] = mapped_column(default=datetime(2026, 1, 1))  # noqa: DTZ001 - the column has no zone
    day: Mapped[date] = mapped_column(default=date(2026, 1, 1))
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="new",
            events=[
                *opens(
                    Code=lambda safe, code: safe.code == code,
                    Trimmed=lambda safe, code: func.trim(safe.code, type_=String) == code,
                    Among=lambda safe, codes: safe.code.in_(codes),
                    Pin=lambda safe, pin: safe.pin == pin,
                    Both=lambda safe, code: (safe.code == code) | (safe.pin == code),
                    Price=lambda safe, price: safe.price == price,
                    Flag=lambda safe, flag: safe.is_open == flag,
                    Since=lambda safe, since: safe.since >= since,
                    Day=lambda safe, day: safe.day == day,
                ),
                Event("Write", {"new": "open"}, effect=lambda safe, code: {"code": code}),
            ],
        )
    )


WAYS: dict[str, Callable[..., Any]] = {
    "fire": lambda session, event, given: session.get_one(Safe, 1).fire(event, **given),
    "fire_key": lambda session, event, given: fire_key(Safe, 1, event, session, **given),
    "try_fire_key": lambda session, event, given: try_fire_key(Safe, 1, event, session, **given),
    "fire_where": lambda session, event, given: fire_where(Safe, event, session, Safe.id == 1, **given),
    "max_rows": lambda session, event, given: fire_where(Safe, event, session, Safe.id == 1, max_rows=9, **given),
    "claim": lambda session, event, given: claim(Safe, event, session, Safe.id == 1, limit=1, **given),
    "fire_or_create": lambda session, event, given: fire_or_create(Safe(id=1), event, session, **given),
    "can": lambda session, event, given: session.scalars(select(Safe.id).where(Safe.state.can(event, **given))).all(),
    "after": lambda session, event, given: session.scalars(select(Safe.state.after(event, **given))).all(),
    "possible_events": lambda session, event, given: session.get_one(Safe, 1).possible_events(**given),
}
OTHERS = {
    "Code": [0, False, 0.0, Decimal(0), True, b"s3cret-7f3a", ["x"], date(2026, 1, 1)],
    "Trimmed": [0, False],
    "Among": ["text", [0], [SECRET, 0], [None, False]],
    "Pin": ["", " ", b"", "0", "0abc", False, 0.0, Decimal(0)],
    "Price": ["9.5", b"9.5", True],
    "Flag": ["", 0, 1, "no"],
    "Since": ["2025-01-01", 0, date(2025, 1, 1)],
    "Day": ["2026-01-01", 20260101, datetime(2026, 1, 1)],  # noqa: DTZ001 - as above
    "Write": [0, False, 1.5, b"x"],
}


@pytest.fixture
def safe(session: Session) -> Session:
    session.add(Safe(id=1))
    session.flush()
    return session


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("event", "value"), [(event, value) for event, values in OTHERS.items() for value in values])
def test_a_value_of_another_type_is_a_type_error_before_any_sql(
    safe: Session, way: str, event: str, value: Any
) -> None:
    if event == "Write" and way in ("can", "after", "possible_events"):
        pytest.skip("the SELECT has no effects")
    (name,) = Safe.state.type.machine.payload(event)
    loaded = safe.get_one(Safe, 1)  # kept: the session has weak references

    with counting(safe.connection()) as sent, pytest.raises(TypeError, match=f"'{name}' of '\\w+' takes "):
        WAYS[way](safe, event, {name: value})

    assert sent.number == 0
    assert (loaded.state, safe.scalars(select(Safe.state)).all()) == ("new", ["new"])


@pytest.mark.parametrize("value", [0, SECRET])
def test_each_use_of_a_payload_is_checked(safe: Session, value: Any) -> None:
    """The event compares it with a text and with a number: no value is both."""
    with pytest.raises(TypeError, match="'code' of 'Both' takes"):
        fire_key(Safe, 1, "Both", safe, code=value)


@pytest.mark.parametrize(
    ("event", "value"),
    [
        ("Code", SECRET), ("Trimmed", SECRET), ("Among", [SECRET, "x"]), ("Pin", 0), ("Price", Decimal("9.50")),
        ("Price", 9.5), ("Flag", False), ("Since", datetime(2025, 1, 1)), ("Day", date(2026, 1, 1)),  # noqa: DTZ001
        ("Write", "new code"),
    ],
)  # fmt: skip
def test_a_value_of_the_columns_type_opens(safe: Session, event: str, value: Any) -> None:
    (name,) = Safe.state.type.machine.payload(event)

    assert fire_key(Safe, 1, event, safe, **{name: value}).target == "open"


def test_null_fits_every_type(safe: Session) -> None:
    assert not try_fire_key(Safe, 1, "Code", safe, code=None)
    assert not try_fire_key(Safe, 1, "Pin", safe, pin=None)


class Pin(int, enum.Enum):
    """Its ``str()`` is ``Pin.ONE``, which MySQL would take for the number 0: the pin of the row."""

    ONE = 1
    ZERO = 0


class Code(str, enum.Enum):
    RIGHT = SECRET


def test_a_member_of_an_enum_is_its_value(safe: Session) -> None:
    assert not try_fire_key(Safe, 1, "Pin", safe, pin=Pin.ONE)
    assert not safe.scalars(select(Safe.id).where(Safe.state.can("Pin", pin=Pin.ONE))).all()
    assert fire_key(Safe, 1, "Pin", safe, pin=Pin.ZERO)


def test_a_text_of_an_enum_is_its_value(safe: Session) -> None:
    assert fire_key(Safe, 1, "Code", safe, code=Code.RIGHT)


def test_the_members_in_a_list_are_their_values(safe: Session) -> None:
    assert fire_key(Safe, 1, "Among", safe, **{Safe.state.type.machine.payload("Among")[0]: [Code.RIGHT]})


def test_a_key_that_is_a_member_of_an_enum_is_its_value(safe: Session) -> None:
    assert fire_key(Safe, Pin.ONE, "Pin", safe, pin=0).key == 1
