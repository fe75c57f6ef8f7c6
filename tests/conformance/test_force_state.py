"""The audited way round the machine: any declared state, from whatever the row holds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from sqlalchemy_fsm_mysql import InstanceStateError, Moved, RowNotFound, force_state, on_moved, remove_hook, replay
from tests.conformance.history_models import Base, Device, Light, Order, Plain, Signal
from tests.conformance.session_support import create, stored


def test_any_declared_state_may_be_forced_though_no_event_leads_there(mine: Session, database: Engine) -> None:
    order = mine.get_one(Order, create(database, Order, state="Deleted"))
    moved = force_state(order, "Running", mine, actor="Ada", details={"ticket": 7})
    mine.commit()

    assert (moved.event, moved.source, moved.target, moved.changed) == ("force_state", "Deleted", "Running", True)
    assert (order.state, stored(database, Order, order.id)) == ("Running", "Running")


def test_the_history_shows_who_forced_what(mine: Session, database: Engine) -> None:
    order = mine.get_one(Order, create(database, Order, state="Deleted"))
    force_state(order, "Running", mine, actor="Ada", details={"ticket": 7})
    (record,) = order.history(mine)

    assert (
        record.event, record.source, record.target, record.actor, record.details,
    ) == ("force_state", "Deleted", "Running", "Ada", {"ticket": 7})  # fmt: skip
    assert replay([record]) == "Running"


def test_the_source_is_the_rows_state_and_not_memorys(mine: Session, theirs: Session, database: Engine) -> None:
    order = mine.get_one(Order, create(database, Order))
    mine.commit()
    order.id  # noqa: B018 - loads it again
    mine.rollback()
    theirs.get_one(Order, order.id).fire("Stop", theirs)
    theirs.commit()

    assert force_state(order, "Error", mine).source == "Stopped"


def test_the_state_that_is_there_already_may_be_forced(mine: Session, database: Engine) -> None:
    order = mine.get_one(Order, create(database, Order))
    moved = force_state(order, "Initializing", mine)

    assert (moved.changed, len(order.history(mine))) == (False, 1)


def test_an_undeclared_state_is_refused(mine: Session, database: Engine) -> None:
    order = mine.get_one(Order, create(database, Order))
    with pytest.raises(ValueError, match="'Lost'"):
        force_state(order, "Lost", mine)

    assert order.state == "Initializing"


def test_a_row_that_holds_an_undeclared_state_is_repaired(mine: Session, database: Engine) -> None:
    """Where it can hold one: an ENUM of MySQL cannot, but a newer release's can."""
    order = mine.get_one(Plain, create(database, Plain))
    # The pool may give another connection after the rollback, and this one would keep the setting.
    driver = mine.connection().connection.dbapi_connection
    if database.dialect.name == "sqlite":
        mine.execute(text("PRAGMA ignore_check_constraints = ON"))
        mine.execute(text("UPDATE recorded_plain SET state = 'Lost' WHERE id = :id"), {"id": order.id})
    else:
        mine.execute(text("SET sql_mode = ''"))
        mine.execute(text("UPDATE IGNORE recorded_plain SET state = 'Lost' WHERE id = :id"), {"id": order.id})
    try:
        moved = force_state(order, "Running", mine)
        assert ("Lost" if database.dialect.name == "sqlite" else "", "Running") == (moved.source, moved.target)
    finally:
        if database.dialect.name == "sqlite":
            mine.rollback()
            driver.execute("PRAGMA ignore_check_constraints = OFF")
        else:  # before the rollback, which gives the connection back to the pool
            mine.execute(text("SET sql_mode = DEFAULT"))


def test_a_rolled_back_force_is_gone_with_its_history(mine: Session, database: Engine) -> None:
    order = mine.get_one(Order, create(database, Order))
    force_state(order, "Deleted", mine)
    mine.rollback()

    assert (order.state, order.history(mine)) == ("Initializing", [])


def test_an_enum_member_is_forced_as_one(mine: Session, database: Engine) -> None:
    signal = Signal(name="forced")
    mine.add(signal)
    mine.flush()
    moved = force_state(signal, Light.GREEN, mine)

    assert (moved.source, moved.target, signal.light) == (Light.RED, Light.GREEN, Light.GREEN)


def test_of_two_machines_the_column_has_to_be_said(mine: Session, database: Engine) -> None:
    device = mine.get_one(Device, create(database, Device))
    with pytest.raises(TypeError, match="name one by column"):
        force_state(device, "on", mine)
    force_state(device, "up", mine, column="link")

    assert (device.power, device.link) == ("off", "up")


def test_a_deleted_row_cannot_be_forced(mine: Session, theirs: Session, database: Engine) -> None:
    order = mine.get_one(Order, create(database, Order))
    mine.rollback()
    theirs.delete(theirs.get_one(Order, stored_key(order)))
    theirs.commit()
    with pytest.raises(RowNotFound):
        force_state(order, "Running", mine)


def stored_key(order: Order) -> int:
    return order._sa_instance_state.key[1][0]


def test_what_is_not_stored_cannot_be_forced(mine: Session) -> None:
    with pytest.raises(InstanceStateError):
        force_state(Order(), "Running", mine)


def test_the_instances_own_session_is_the_default(mine: Session, database: Engine) -> None:
    order = mine.get_one(Order, create(database, Order))

    assert force_state(order, "Error").target == "Error"


def test_an_async_session_forces_too(tmp_path: Any) -> None:
    async def work() -> tuple[str, str]:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/async.db")
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with AsyncSession(engine) as session:
            order = Order()
            session.add(order)
            await session.flush()
            moved = await force_state(order, "Deleted", session)
            await session.commit()
            stored = (await session.scalars(select(Order.state))).one()
        await engine.dispose()
        return moved.target, stored

    assert asyncio.run(work()) == ("Deleted", "Deleted")


def test_hooks_hear_of_it_and_may_ask_for_it_by_name(mine: Session, database: Engine) -> None:
    order = mine.get_one(Order, create(database, Order))
    heard: list[Moved[Any]] = []

    @on_moved(Order.state, event="force_state")
    def listen(moved: Moved[Order], session: Session) -> None:
        heard.append(moved)

    try:
        order.fire("Ready", mine)
        forced = force_state(order, "Error", mine)
    finally:
        remove_hook(Order.state, listen)

    assert [forced] == heard
