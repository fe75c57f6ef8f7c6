"""The library on an ``AsyncSession``: the same functions, awaited, on each driver for asyncio.

Each test runs a loop of its own. What others do to a row, and what is stored in the end, goes through a sync driver.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import URL, Engine, select, text, update
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    GuardNotSatisfied,
    InstanceStateError,
    Machine,
    Moved,
    Refused,
    RefusedByDatabase,
    RowNotFound,
    StateMachineColumn,
    StateSinceColumn,
    TransactionAborted,
    Transition,
    TransitionHistory,
    TransitionNotAllowed,
    claim,
    find_by_token,
    fire_due,
    fire_key,
    fire_or_create,
    fire_where,
    force_state,
    on_committed,
    on_moved,
    remove_hook,
    run_transaction,
    try_fire_key,
)
from sqlalchemy_fsm_mysql.operations.enforcement import permitted
from sqlalchemy_fsm_mysql.sql.clock import utc_ago
from tests.bridge import unbridged
from tests.reference import machine
from tests.servers import make_engine


class Base(DeclarativeBase):
    """Their tables have names of their own: other suites use the same database."""


class Timer(Base):
    """An event that is due an hour after the row was made."""

    __tablename__ = "async_timers"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(
        Machine(initial="running", events=[Event("Ring", {"running": "rung"}, after=timedelta(hours=1))])
    )
    state_since: Mapped[datetime] = StateSinceColumn()


class Order(Base):
    __tablename__ = "async_orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)


class OrderTransition(TransitionHistory, Base):
    __tablename__ = "async_order_transitions"
    __records__ = Order.state


class Payment(Base):
    """A guard, and an effect that has to be read again."""

    __tablename__ = "async_payments"
    id: Mapped[int] = mapped_column(primary_key=True)
    total: Mapped[int] = mapped_column(default=100)
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="Open",
            events=[
                Event(
                    "Pay",
                    [Transition("Open", "Paid", guard=lambda payment, amount: payment.total >= amount)],
                    effect=lambda payment, amount: {"total": payment.total - amount},
                )
            ],
        )
    )


class Held(Base):
    """The database holds every writer to the machine."""

    __tablename__ = "async_held"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine, enforced=True)


Test = Callable[[AsyncEngine], Awaitable[Any]]


@pytest.fixture(scope="module")
def database(asyncio_url: URL) -> Iterator[Engine]:
    """The same database by a sync driver."""
    backend = asyncio_url.get_backend_name()
    engine = make_engine(asyncio_url.set(drivername="sqlite" if backend == "sqlite" else f"{backend}+pymysql"))
    Base.metadata.create_all(engine)
    yield engine
    Base.metadata.drop_all(engine)
    engine.dispose()


@pytest.fixture
def rows(database: Engine) -> Iterator[Engine]:
    """One order and one payment, number 1 each, in their initial states."""
    with Session(database) as session:
        session.add_all([Order(id=1), Payment(id=1)])
        session.commit()
    yield database
    with database.begin() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(table.delete())


@pytest.fixture
def run(asyncio_url: URL, rows: Engine) -> Callable[[Test], Any]:
    """Run ``test(engine)`` in a loop of its own; a task that is still there when it ends is an error."""
    level = {} if asyncio_url.get_backend_name() == "sqlite" else {"isolation_level": "READ COMMITTED"}

    async def tested(test: Test) -> Any:
        engine = create_async_engine(asyncio_url, **level)
        try:
            result = await test(engine)
        finally:
            await engine.dispose()
        assert {asyncio.current_task()} == asyncio.all_tasks()
        return result

    return lambda test: unbridged(asyncio.run, tested(test))


def stored(database: Engine, model: Any = Order, key: int = 1) -> str:
    with Session(database) as session:
        return session.get_one(model, key).state


# --- every function is awaited


async def by_fire(session: AsyncSession) -> Any:
    return await (await session.get_one(Order, 1)).fire("Ready", session)


async def by_fire_without_a_session(session: AsyncSession) -> Any:
    return await (await session.get_one(Order, 1)).fire("Ready")


async def by_try_fire(session: AsyncSession) -> Any:
    return await (await session.get_one(Order, 1)).try_fire("Ready", session)


async def by_try_fire_without_a_session(session: AsyncSession) -> Any:
    return await (await session.get_one(Order, 1)).try_fire("Ready")


async def by_fire_key(session: AsyncSession) -> Any:
    return await fire_key(Order, 1, "Ready", session)


async def by_try_fire_key(session: AsyncSession) -> Any:
    return await try_fire_key(Order, 1, "Ready", session)


async def by_fire_or_create(session: AsyncSession) -> Any:
    return await fire_or_create(Order(id=1), "Ready", session)


async def by_force_state(session: AsyncSession) -> Any:
    return await force_state(await session.get_one(Order, 1), "Running", session)


async def by_force_state_without_a_session(session: AsyncSession) -> Any:
    return await force_state(await session.get_one(Order, 1), "Running")


async def by_fire_where(session: AsyncSession) -> Any:
    return await fire_where(Order, "Ready", session, Order.id == 1)


async def by_claim(session: AsyncSession) -> Any:
    return await claim(Order, "Ready", session, limit=1)


WAYS = [
    by_fire,
    by_fire_without_a_session,
    by_try_fire,
    by_try_fire_without_a_session,
    by_fire_key,
    by_try_fire_key,
    by_fire_or_create,
    by_force_state,
    by_force_state_without_a_session,
    by_fire_where,
    by_claim,
]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_firing_moves_the_row(run, rows, way):
    async def test(engine):
        async with AsyncSession(engine) as session:
            assert await way(session)
            await session.commit()

    run(test)

    assert stored(rows) == "Running"


@pytest.mark.parametrize("way", WAYS)
def test_no_way_of_firing_commits(run, rows, way):
    async def test(engine):
        async with AsyncSession(engine) as session:
            await way(session)
            await session.rollback()

    run(test)

    assert stored(rows) == "Initializing"


@pytest.mark.parametrize("way", WAYS)
def test_what_was_moved_shows_the_target_without_the_greenlet(run, way):
    """The loaded instance, that is; to read it takes no await and no statement."""

    async def test(engine):
        async with AsyncSession(engine) as session:
            order = await session.get_one(Order, 1)
            await way(session)
            if way is by_fire_where:  # which rows it moved only the database knows
                await session.refresh(order)
            return order.state

    assert run(test) == "Running"


async def by_values(session: Any) -> Any:
    return await fire_or_create(Order, {"id": 1}, "Ready", session)


@pytest.mark.parametrize("way", [by_fire_key, by_try_fire_key, by_fire_where, by_values])
def test_a_connection_stands_in_the_place_of_a_session(run, rows, way):
    async def test(engine):
        async with engine.connect() as connection:
            await way(connection)
            await connection.rollback()
            assert await way(connection)
            await connection.commit()

    run(test)

    assert stored(rows) == "Running"


def test_a_connection_knows_tokens_refusals_due_rows_and_units(run, rows):
    async def unit(connection):
        return await fire_key(Order, 1, "Stop", connection)

    async def test(engine):
        async with engine.begin() as connection:
            await fire_key(Order, 1, "Ready", connection, token="once")
            again = await fire_key(Order, 1, "Ready", connection, token="once")
            found = await find_by_token(Order.state, "once", connection)
            with pytest.raises(TransitionNotAllowed):
                await fire_key(Order, 1, "Delete", connection)
            due = await fire_due(Timer, connection)
        return again == found, due.moved, (await run_transaction(engine, unit)).target

    assert run(test) == (True, 0, "Stopped")


def test_a_call_on_a_connection_that_is_not_awaited_is_neither_true_nor_false(run):
    async def test(engine):
        async with engine.connect() as connection:
            with pytest.raises(TypeError, match="of an AsyncConnection has sent nothing yet: await it"):
                bool(try_fire_key(Order, 1, "Ready", connection))
            with pytest.raises(TypeError, match="a session is needed, got .* take a connection"):
                claim(Order, "Ready", connection, limit=1)

    run(test)


def test_timed_events_are_awaited(run):
    async def test(engine):
        async with AsyncSession(engine) as session:
            timer = Timer(id=1)
            session.add(timer)
            await session.flush()
            early = await timer.try_fire("Ring", session)
            none = await fire_due(Timer, session)
            await session.execute(update(Timer.__table__).values(state_since=utc_ago(timedelta(hours=1))))
            moved = await fire_due(Timer, session)
            await session.commit()
            await session.refresh(timer)
            return early.failed, none.moved, moved.moved, timer.state

    assert run(test) == (("after",), 0, 1, "rung")


def test_the_history_is_awaited(run):
    async def test(engine):
        async with AsyncSession(engine) as session:
            order = await session.get_one(Order, 1)
            await order.fire("Ready", session)
            await order.fire("Stop", session)
            return [row.event for row in await order.history(session)], [row.event for row in await order.history()]

    assert run(test) == (["Ready", "Stop"], ["Ready", "Stop"])


def test_a_token_is_found_by_whoever_awaits_it(run):
    async def test(engine):
        async with AsyncSession(engine) as session:
            first = await fire_key(Order, 1, "Ready", session, token="once")
            again = await fire_key(Order, 1, "Ready", session, token="once")
            found = await find_by_token(Order.state, "once", session)
            return first.replayed, again.replayed, found.target

    assert run(test) == (False, True, "Running")


def test_within_run_sync_the_same_calls_are_sync(run):
    async def test(engine):
        async with AsyncSession(engine) as session:
            order = await session.get_one(Order, 1)
            return await session.run_sync(lambda sync: (order.fire("Ready").target, order.fire("Stop", sync).target))

    assert run(test) == ("Running", "Stopped")


def test_an_async_scoped_session_is_a_session(run, rows):
    async def test(engine):
        sessions = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
        order = await sessions.get_one(Order, 1)
        await order.fire("Ready", sessions)
        await fire_key(Order, 1, "Stop", sessions)
        await sessions.commit()
        await sessions.remove()

    run(test)

    assert stored(rows) == "Stopped"


def test_many_tasks_with_sessions_of_their_own_move_one_row_one_after_the_other(run, rows):
    async def test(engine):
        sessions = async_sessionmaker(engine)

        async def fire(name):
            async def unit(session):
                return await fire_key(Order, 1, name, session)

            return await run_transaction(sessions, unit, attempts=50)

        names = ["Ready", "NotReady"] * 10
        return await asyncio.gather(*(fire(name) for name in names))

    moved = sorted(run(test), key=lambda outcome: outcome.sequence)

    assert [outcome.sequence for outcome in moved] == list(range(1, 21))
    assert [outcome.source for outcome in moved] == ["Initializing", *(outcome.target for outcome in moved[:-1])]
    assert stored(rows) == moved[-1].target


# --- refusals and errors


def test_a_refusal_is_a_value_or_an_error_with_the_state_observed(run):
    async def test(engine):
        async with AsyncSession(engine) as session:
            order = await session.get_one(Order, 1)
            refused = await order.try_fire("Delete", session)
            with pytest.raises(TransitionNotAllowed) as raised:
                await order.fire("Delete", session)
            return refused, raised.value

    refused, raised = run(test)

    assert isinstance(refused, Refused)
    assert (refused.state, raised.state) == ("Initializing", "Initializing")


def test_a_refusal_on_a_stale_instance_brings_it_up_to_date(run, rows):
    async def test(engine):
        async with AsyncSession(engine, expire_on_commit=False) as session:
            order = await session.get_one(Order, 1)
            await session.commit()
            with Session(rows) as other:
                fire_key(Order, 1, "Stop", other)
                other.commit()
            assert not await order.try_fire("Ready", session)
            return order.state

    assert run(test) == "Stopped"


def test_a_missing_row_is_not_found(run):
    async def test(engine):
        async with AsyncSession(engine) as session:
            with pytest.raises(RowNotFound):
                await fire_key(Order, 2, "Ready", session)

    run(test)


def test_an_instance_of_no_session_is_an_error_before_anything_is_awaited(run):
    async def test(engine):
        async with AsyncSession(engine) as session:
            order = await session.get_one(Order, 1)
        with pytest.raises(InstanceStateError, match="the detached Order 1 is in no session"):
            order.fire("Ready")

    run(test)


def test_an_instance_of_another_session_is_refused(run):
    async def test(engine):
        async with AsyncSession(engine) as session, AsyncSession(engine) as other:
            order = await session.get_one(Order, 1)
            with pytest.raises(InstanceStateError, match="belongs to another session"):
                await order.fire("Ready", other)

    run(test)


# --- triggers


UNDELETE = text("UPDATE async_held SET state = 'Running' WHERE state = 'Deleted'")


def undelete(session: Session) -> None:
    with permitted(Held.state, session.connection(), "Deleted", "Running", rows=1):
        session.execute(UNDELETE)


def test_the_way_through_the_triggers_is_open_within_run_sync_and_closed_after_it(run, database):
    async def test(engine):
        async with AsyncSession(engine) as session:
            session.add(Held(id=1))
            await session.commit()
            await force_state(await session.get_one(Held, 1), "Deleted")
            await session.run_sync(undelete)
            await force_state(await session.get_one(Held, 1), "Deleted")
            with pytest.raises(RefusedByDatabase) as refused:
                await session.execute(UNDELETE)
            await session.commit()
            return refused.value.source, refused.value.target

    assert run(test) == ("Deleted", "Running")
    assert stored(database, Held) == "Deleted"


# --- nothing is loaded outside of the greenlet


def test_an_expired_instance_is_fired_and_shows_the_target(run):
    async def test(engine):
        async with AsyncSession(engine) as session:
            order = await session.get_one(Order, 1)
            session.expire(order)
            moved = await order.fire("Ready", session)
            return moved.source, order.state

    assert run(test) == ("Initializing", "Running")


def test_hints_outcomes_and_errors_of_an_expired_instance_load_nothing(run):
    async def test(engine):
        async with AsyncSession(engine) as session:
            order = await session.get_one(Order, 1)
            moved = await order.fire("Ready", session)
            refused = await order.try_fire("Delete", session)
            await session.commit()
            assert not order.can_fire("Stop")
            assert order.available_events() == []
            assert (repr(moved), repr(refused)) != ("", "")
            with pytest.raises(InstanceStateError) as raised, Session() as elsewhere:
                fire_or_elsewhere(order, elsewhere)
            return str(raised.value)

    def fire_or_elsewhere(order, session):
        return order.fire("Stop", session)

    assert "belongs to another session" in run(test)


def test_what_an_effect_changed_is_read_again_when_asked_for(run):
    async def test(engine):
        async with AsyncSession(engine) as session:
            payment = await session.get_one(Payment, 1)
            await payment.fire("Pay", session, amount=30)
            state = payment.state
            await session.refresh(payment, ["total"])
            with pytest.raises(TransitionNotAllowed):
                await payment.fire("Pay", session, amount=30)
            return state, payment.total

    assert run(test) == ("Paid", 70)


def test_a_guard_that_does_not_hold_is_told(run):
    async def test(engine):
        async with AsyncSession(engine) as session:
            with pytest.raises(GuardNotSatisfied):
                await fire_key(Payment, 1, "Pay", session, amount=300)

    run(test)


def test_a_savepoints_rollback_takes_the_move_back(run):
    async def test(engine):
        async with AsyncSession(engine) as session:
            order = await session.get_one(Order, 1)
            nested = await session.begin_nested()
            await order.fire("Ready", session)
            await nested.rollback()
            await session.refresh(order)
            return order.state

    assert run(test) == "Initializing"


# --- hooks


@pytest.fixture
def told() -> Iterator[list[Any]]:
    """What the hooks of the orders were told."""
    heard: list[Any] = []

    def moved(moved: Moved[Any], session: Any) -> None:
        heard.append(("moved", moved.target, type(session)))

    def committed(moved: Moved[Any]) -> None:
        heard.append(("committed", moved.target))

    on_moved(Order.state)(moved)
    on_committed(Order.state)(committed)
    yield heard
    remove_hook(Order.state, moved)
    remove_hook(Order.state, committed)


def test_hooks_are_called_with_the_sync_session_and_after_the_commit(run, told):
    async def test(engine):
        async with AsyncSession(engine) as session:
            await fire_key(Order, 1, "Ready", session)
            before = list(told)
            await session.commit()
            return before

    before = run(test)

    assert before == [("moved", "Running", Session)]
    assert told == [*before, ("committed", "Running")]


# --- units of work


def test_a_unit_of_work_is_committed(run, rows):
    async def test(engine):
        async def unit(session):
            order = await session.get_one(Order, 1)
            return (await order.fire("Ready", session)).target

        return await run_transaction(async_sessionmaker(engine), unit)

    assert run(test) == "Running"
    assert stored(rows) == "Running"


def test_a_unit_that_fails_leaves_nothing(run, rows):
    async def test(engine):
        async def unit(session):
            await fire_key(Order, 1, "Ready", session)
            raise LookupError("the unit's own")

        with pytest.raises(LookupError):
            await run_transaction(async_sessionmaker(engine), unit)

    run(test)

    assert stored(rows) == "Initializing"


@pytest.mark.servers_only
def test_of_two_units_in_a_deadlock_both_are_committed_in_the_end(run, rows):
    with Session(rows) as session:
        session.add(Order(id=2))
        session.commit()

    async def test(engine):
        both_hold_one = asyncio.Barrier(2) if hasattr(asyncio, "Barrier") else None
        attempts = []

        def unit(first, second):
            async def work(session):
                attempts.append(first)
                await fire_key(Order, first, "Ready", session)
                if both_hold_one is not None and len(attempts) <= 2:
                    await both_hold_one.wait()
                elif len(attempts) <= 2:
                    await asyncio.sleep(0.3)
                await fire_key(Order, second, "Ready", session)

            return work

        sessions = async_sessionmaker(engine)
        await asyncio.gather(run_transaction(sessions, unit(1, 2)), run_transaction(sessions, unit(2, 1)))
        return len(attempts)

    assert run(test) > 2
    with Session(rows) as session:
        counts = session.scalars(select(OrderTransition.record_id).order_by(OrderTransition.record_id)).all()
    assert counts == [1, 1, 2, 2]


# --- cancelled


def hold(database: Engine) -> Session:
    """A session that holds the order's row."""
    session = Session(database)
    session.execute(select(Order).where(Order.id == 1).with_for_update())
    return session


async def cancelled(task: asyncio.Task[Any], delay: float = 0.3) -> None:
    """Cancel *task* while it waits, and wait for its end."""
    await asyncio.sleep(delay)
    assert not task.done()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()


def open_transactions(database: Engine) -> int:
    """How many transactions of this test's database have a lock or wait for one, besides this question."""
    query = (
        "SELECT count(*) FROM information_schema.innodb_trx t JOIN information_schema.processlist p "
        "ON p.id = t.trx_mysql_thread_id WHERE p.db = DATABASE() AND p.id <> CONNECTION_ID()"
    )
    with database.connect() as connection:
        return int(connection.scalar(text(query)) or 0)


async def settled(database: Engine) -> int:
    """As `open_transactions`, once the server has noticed that a connection is gone; after 5 s at most."""
    for _ in range(50):
        if not open_transactions(database):
            return 0
        await asyncio.sleep(0.1)
    return open_transactions(database)


@pytest.mark.servers_only
@pytest.mark.parametrize("way", [by_fire, by_fire_key, by_try_fire, by_fire_or_create, by_force_state, by_fire_where])
def test_a_cancelled_task_leaves_no_open_transaction_and_no_move(run, rows, way):
    async def test(engine):
        async def work():
            async with AsyncSession(engine) as session:
                await way(session)
                await session.commit()

        holder = hold(rows)
        await cancelled(asyncio.create_task(work()))
        holder.close()
        return await settled(rows)

    assert run(test) == 0
    assert stored(rows) == "Initializing"


@pytest.mark.servers_only
def test_a_cancelled_unit_of_work_is_rolled_back_and_not_run_again(run, rows):
    runs = []

    async def test(engine):
        async def unit(session):
            runs.append(session)
            await fire_key(Payment, 1, "Pay", session, amount=1)
            await fire_key(Order, 1, "Ready", session)

        holder = hold(rows)
        await cancelled(asyncio.create_task(run_transaction(async_sessionmaker(engine), unit)))
        holder.close()
        return await settled(rows)

    assert run(test) == 0
    assert len(runs) == 1
    assert (stored(rows), stored(rows, Payment)) == ("Initializing", "Open")


@pytest.mark.servers_only
def test_after_a_cancelled_fire_the_session_rolls_back_and_the_instance_is_right(run, rows):
    async def test(engine):
        async with AsyncSession(engine) as session:
            order, payment = await session.get_one(Order, 1), await session.get_one(Payment, 1)
            await payment.fire("Pay", session, amount=1)
            holder = hold(rows)
            await cancelled(asyncio.create_task(order.fire("Ready", session)))
            holder.close()
            shown = order.__dict__.get("state")
            await session.rollback()
            await session.refresh(order)
            await session.refresh(payment)
            after_rollback = order.state, payment.state
            await order.fire("Ready", session)
            await session.commit()
            return shown, after_rollback

    shown, after_rollback = run(test)

    assert shown in (None, "Initializing")
    assert after_rollback == ("Initializing", "Open")
    assert stored(rows) == "Running"


@pytest.mark.servers_only
def test_after_a_cancelled_fire_half_the_work_cannot_be_committed(run, rows):
    async def test(engine):
        async with AsyncSession(engine) as session:
            order = await session.get_one(Order, 1)
            await fire_key(Payment, 1, "Pay", session, amount=1)
            holder = hold(rows)
            await cancelled(asyncio.create_task(order.fire("Ready", session)))
            holder.close()
            with suppress(Exception):  # whatever it says: what counts is what is stored
                await session.commit()

    run(test)

    assert (stored(rows), stored(rows, Payment)) == ("Initializing", "Open")


@pytest.mark.servers_only
def test_a_timeout_is_a_cancellation(run, rows):
    async def test(engine):
        holder = hold(rows)
        with pytest.raises(asyncio.TimeoutError):
            async with AsyncSession(engine) as session:
                await asyncio.wait_for(fire_key(Order, 1, "Ready", session), 0.3)
        holder.close()
        return await settled(rows)

    assert run(test) == 0
    assert stored(rows) == "Initializing"


@pytest.mark.servers_only
def test_a_killed_connection_means_that_the_session_has_to_roll_back(run, rows):
    async def test(engine):
        async with AsyncSession(engine) as session:
            order = await session.get_one(Order, 1)
            number = (await session.execute(text("SELECT connection_id()"))).scalar_one()
            with rows.connect() as connection:
                connection.exec_driver_sql(f"KILL {number}")
            with pytest.raises(TransactionAborted) as raised:
                await order.fire("Ready", session)
            await session.rollback()
            await order.fire("Ready", session)
            await session.commit()
            return raised.value.retryable

    assert run(test)
    assert stored(rows) == "Running"
