"""The FastAPI example as it would be without the library: read the state, decide in Python, write it back.

The test of two browsers has to fail on it, or it would not see a double move.
"""

from __future__ import annotations

import time

from fastapi import FastAPI
from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from examples.devices import Device, DeviceTransition, machine
from examples.fastapi_app import app
from sqlalchemy_fsm_mysql import Moved, fire_key

# Seconds between the look at the row and the write: so all 5 pairs of clicks move twice. Without it 3 did.
THOUGHT = 0.2


def fire(session: Session, key: int, event: str, token: str | None) -> Moved[Device]:
    source = session.scalars(select(Device.state).where(Device.id == key)).one()
    target = machine.targets(event).get(source)
    if target is None:
        return fire_key(Device, key, event, session, token=token, actor="web")  # it says why
    time.sleep(THOUGHT)
    session.execute(update(Device).where(Device.id == key).values(state=target))
    last = func.coalesce(func.max(DeviceTransition.sequence), 0)
    sequence = session.scalars(select(last).where(DeviceTransition.record_id == key)).one() + 1
    said = {"event": event, "source": source, "target": target, "sequence": sequence, "token": token}
    session.execute(insert(DeviceTransition).values(record_id=key, at=func.utc_timestamp(6), **said))
    return Moved(model=Device, key=key, event=event, source=source, target=target)


def create_app() -> FastAPI:
    app.fire = fire
    return app.create_app()
