"""Devices of a plant and their machine, for the three web examples.

The page that FastAPI and Flask show has a button for each event that leaves the device's state. It may be old when it
is clicked: the row decides, and the page tells why a click did not move the device.
"""

from __future__ import annotations

import re

from sqlalchemy import Engine, String, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    Machine,
    Moved,
    Stateful,
    StateMachineColumn,
    TransitionHistory,
    fire_key,
)

machine = Machine(
    initial="Stopped",
    events=[
        Event("Start", {"Stopped": "Running"}),
        Event("Stop", {"Running": "Stopped"}),
        Event("Fail", {"Running": "Broken"}),
        Event("Repair", {"Broken": "Stopped"}),
        Event("Retire", {("Stopped", "Broken"): "Retired"}),
    ],
)


class Base(DeclarativeBase):
    pass


class Device(Stateful, Base):
    __tablename__ = "devices"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(40))
    state: Mapped[str] = StateMachineColumn(machine)


class DeviceTransition(TransitionHistory, Base):
    __tablename__ = "device_transitions"
    __records__ = "Device.state"


# The token of one click: no message, and short enough for the history's column.
TOKEN = r"^[!-~]{1,64}$"  # noqa: S105 - a pattern

# An INT of MySQL, as text. A path that is no such number is no device's, so it is 404.
_KEY = re.compile("[1-9][0-9]{0,9}", re.ASCII)
_LARGEST = 2**31 - 1


def key_of(text: str) -> int | None:
    """The device's key that *text*, a part of a path, is; None if it is no key."""
    return int(text) if _KEY.fullmatch(text) and int(text) <= _LARGEST else None


def open_engine(url: str) -> Engine:
    """The engine for *url*, with the tables, and three devices where there are none."""
    engine = create_engine(url, isolation_level="READ COMMITTED", pool_pre_ping=True)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        if session.scalar(select(Device.id).limit(1)) is None:
            session.add_all(Device(id=number, name=f"Pump {number}") for number in (1, 2, 3))
            session.commit()
    return engine


def fire(session: Session, key: int, event: str, token: str | None) -> Moved[Device]:
    """Fire *event* for one click. Its token comes with the page, so a click that is sent twice moves once.

    An application with a login checks here that this user may do this, and passes the user's name as *actor*.
    """
    return fire_key(Device, key, event, session, token=token, actor="web")
