"""What the three web examples share: devices of a plant, their machine, and what an error means in HTTP.

The page that FastAPI and Flask show has a button for each event that leaves the device's state. It may be old when it
is clicked: the row decides, and a refusal is answered with 409 and its reason.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, String, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    FSMError,
    LockTimeout,
    Machine,
    Moved,
    NotWritable,
    OutcomeUnknown,
    RowNotFound,
    Stateful,
    StateMachineColumn,
    TokenConflict,
    TransactionAborted,
    TransitionHistory,
    TransitionNotAllowed,
    UnknownEvent,
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


# What a client may send as a token: a name that says nothing, and fits the history's column.
TOKEN = r"^[!-~]{1,64}$"  # noqa: S105 - what a token looks like

# The first that fits. GuardNotSatisfied is a TransitionNotAllowed.
STATUS: dict[type[FSMError], int] = {
    RowNotFound: 404,
    TransitionNotAllowed: 409,
    TokenConflict: 409,
    UnknownEvent: 422,
    LockTimeout: 503,
    NotWritable: 503,
    OutcomeUnknown: 503,
    TransactionAborted: 503,
}


def status_of(error: FSMError) -> int:
    """The HTTP status that tells a client what to do: 404 and 422 ask better, 409 look again, 503 come again later."""
    return next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)


def problem(error: FSMError) -> dict[str, Any]:
    """What a client may know of it. The text holds no SQL and no values, so all of it may be shown."""
    body: dict[str, Any] = {"error": type(error).__name__, "message": str(error)}
    if isinstance(error, TransitionNotAllowed):
        body |= {"state": error.state, "allowed_from": error.allowed_from}
    return body


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
    """One click. Its token comes with the page, so a click that is sent twice moves once."""
    return fire_key(Device, key, event, session, token=token, actor="web")
