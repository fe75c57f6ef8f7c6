"""The helpers for users' tests: that each is content with a sound machine, and catches a broken one."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, run_state_machine_as_test
from sqlalchemy import URL, Engine, event, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from sqlalchemy_fsm_mysql import (
    Event,
    Machine,
    Stateful,
    StateMachineColumn,
    fire_key,
    on_committed,
    on_moved,
    remove_hook,
)
from sqlalchemy_fsm_mysql.testing import (
    Cell,
    assert_moves,
    assert_refused,
    every_cell,
    frozen_hooks,
    race,
    sqlite_engine,
    sqlite_session,
    state_machine_for,
)
from tests.helpers import models
from tests.helpers.models import Base, Careless, Order, Payment, Plain
from tests.reference import CELLS, machine
from tests.servers import make_engine


@pytest.fixture
def session() -> Iterator[Session]:
    with sqlite_session(Base) as session:
        yield session


@pytest.fixture(scope="module")
def tables(url: URL) -> Iterator[Engine]:
    engine = make_engine(url)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    yield engine
    Base.metadata.drop_all(engine)
    engine.dispose()


# --- every_cell


def test_every_cell_is_there_once_and_in_order():
    cells = every_cell(machine)

    assert {(cell.source, cell.event): cell.target for cell in cells} == CELLS
    assert len(cells) == 20
    assert [str(cell) for cell in cells[:2]] == ["Initializing-NotReady", "Initializing-Ready"]
    assert [cell for cell in cells if cell.is_refused] == [cell for cell in cells if cell.target is None]


@pytest.mark.parametrize("cell", every_cell(machine), ids=str)
def test_reference_machine_cell_by_cell(session, cell: Cell):
    """As a user writes it."""
    order = Order(state=cell.source)
    session.add(order)
    if cell.is_refused:
        assert_refused(order, cell.event, "state")
    else:
        assert_moves(order, cell.event, cell.target)


@pytest.mark.parametrize(("source", "event", "target"), every_cell(models.payments))
def test_cells_can_be_taken_apart(source, event, target):
    assert (target is None) == (source == "Refunded")


# --- assert_moves, assert_refused


def test_a_move_is_asserted_on_every_server(tables):
    with Session(tables) as session:
        order = Order(id=1)
        session.add(order)
        assert assert_moves(order, "Ready", "Running", session, actor="ann").source == "Initializing"
        assert assert_refused(order, "Delete").state == "Running"


class Broken(DeclarativeBase):
    pass


class Door(Stateful, Broken):
    """It closes when it is to be locked, and locks although it is open: not what its users want."""

    __tablename__ = "doors"
    id: Mapped[int] = mapped_column(primary_key=True)
    knocks: Mapped[int] = mapped_column(default=0)
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="open",
            states=["open", "closed", "locked"],
            events=[Event("Lock", {("open", "closed"): "locked"}), Event("Close", {"open": "closed"})],
        )
    )


def test_a_wrong_target_is_caught():
    with sqlite_session(Broken) as session:
        door = Door(id=1)
        session.add(door)
        with pytest.raises(
            AssertionError, match=r"doors 1: 'Lock' was to move it to 'closed', but it moved it from 'open' to 'locked'"
        ):
            assert_moves(door, "Lock", "closed")


def test_a_refusal_that_should_be_a_move_is_caught_with_its_reason(session):
    order = Order(id=7, state="Deleted")
    session.add(order)
    expected = (
        r"helped_order 7: 'Ready' was to move it to 'Running', but it is 'Deleted'; "
        r"'Ready' leaves 'Initializing', 'Running', 'Error'"
    )
    with pytest.raises(AssertionError, match=expected):
        assert_moves(order, "Ready", "Running")


def test_a_guard_that_refuses_is_told(session):
    payment = Payment(id=1)
    session.add(payment)
    with pytest.raises(AssertionError, match="no guard was true in 'Paid'"):
        assert_moves(payment, "Refund", "Refunded", amount=101)
    assert_refused(payment, "Refund", "guard", amount=101)
    with pytest.raises(AssertionError, match="was to be refused for its state, but no guard was true in 'Paid'"):
        assert_refused(payment, "Refund", "state", amount=101)


def test_a_move_that_should_be_refused_is_caught():
    with sqlite_session(Broken) as session:
        door = Door(id=1)
        session.add(door)
        with pytest.raises(
            AssertionError, match="'Lock' was to be refused, but it moved the row from 'open' to 'locked'"
        ):
            assert_refused(door, "Lock")


def test_a_row_that_is_written_after_the_move_is_caught(session):
    @on_moved(Plain.state)
    def meddle(moved: Any, session: Session) -> None:
        session.connection().execute(text("UPDATE helped_plain SET state = 'Deleted'"))

    plain = Plain(id=1)
    session.add(plain)
    try:
        with pytest.raises(AssertionError, match="and the outcome agrees, but the row in the database is in 'Deleted'"):
            assert_moves(plain, "Ready", "Running")
    finally:
        remove_hook(Plain.state, meddle)


def test_a_column_that_changes_by_a_refusal_is_caught():
    """As by a listener of the user's that counts every fire in the row."""
    with sqlite_session(Broken) as session:
        door = Door(id=1, state="locked")
        session.add(door)
        session.flush()

        @event.listens_for(session.connection(), "after_cursor_execute")
        def knock(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
            if statement.startswith("SELECT CASE"):
                connection.connection.driver_connection.execute("UPDATE doors SET knocks = knocks + 1")

        with pytest.raises(AssertionError, match="and was, but these columns have changed: knocks"):
            assert_refused(door, "Close")


def test_a_missing_record_of_the_history_is_caught(session):
    @on_moved(Order.state)
    def forget(moved: Any, session: Session) -> None:
        session.connection().execute(text("DELETE FROM helped_ordertransition"))

    order = Order(id=1)
    session.add(order)
    try:
        with pytest.raises(AssertionError, match="the last record of its history is None"):
            assert_moves(order, "Ready", "Running")
    finally:
        remove_hook(Order.state, forget)


def test_async_sessions_await_the_assertions():
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    async def main() -> None:
        engine = create_async_engine("sqlite+aiosqlite://")
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with AsyncSession(engine) as session:
            order = Order(id=1)
            session.add(order)
            moved: Any = assert_moves(order, "Ready", "Running", session)
            assert (await moved).target == "Running"
            refused: Any = assert_refused(order, "Delete", "state", session)
            assert not await refused
        await engine.dispose()

    asyncio.run(main())


# --- a database in memory


def test_database_in_memory_is_one_for_all_threads_and_gone_afterwards():
    with sqlite_engine(Base, Broken.metadata) as engine:
        with Session(engine) as session:
            session.add(Plain(id=1))
            session.commit()
        seen: list[Any] = []

        def look() -> None:
            with Session(engine) as other:
                seen.append(fire_key(Plain, 1, "Ready", other).target)
                other.commit()

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert seen == ["Running"]
    with sqlite_session(Base) as session:
        assert session.scalars(select(Plain)).all() == []


def test_database_in_memory_enforces_states(session):
    with pytest.raises(IntegrityError):
        session.execute(text("INSERT INTO helped_plain (id, state) VALUES (1, 'Nowhere')"))


# --- hooks


def test_frozen_hooks_are_told_and_do_not_act(session):
    acted: list[str] = []

    @on_moved(Plain.state, event="Ready")
    def reserve(moved: Any, session: Session) -> None:
        acted.append("reserve")

    @on_committed(Plain.state)
    def send_mail(moved: Any) -> None:
        acted.append("mail")

    session.add(Plain(id=1))
    session.commit()
    try:
        with frozen_hooks(Plain.state) as calls:
            fire_key(Plain, 1, "Ready", session)
            assert [(call.when, call.function, call.moved.target) for call in calls] == [("moved", reserve, "Running")]
            session.rollback()
            fire_key(Plain, 1, "Stop", session)
            session.commit()
            assert [(call.when, call.function) for call in calls[1:]] == [("committed", send_mail)]
        assert acted == []
        fire_key(Plain, 1, "Stop", session)
        session.commit()
        assert acted == ["mail"]
    finally:
        remove_hook(Plain.state, reserve)
        remove_hook(Plain.state, send_mail)


def test_hooks_thaw_after_an_error_and_those_added_meanwhile_stay(session):
    def late(moved: Any, session: Session) -> None:
        """Registered within the block."""

    with pytest.raises(ZeroDivisionError), frozen_hooks(Plain.state):
        on_moved(Plain.state)(late)
        raise ZeroDivisionError
    remove_hook(Plain.state, late)


# --- races


@pytest.fixture
def keys(tables: Engine) -> list[int]:
    """Three committed rows of each model."""
    with Session(tables) as session:
        for model in (Order, models.OrderTransition, Plain, Payment):
            session.query(model).delete()
        session.add_all([model(id=key) for model in (Order, Plain, Payment) for key in (1, 2, 3)])
        session.commit()
    return [1, 2, 3]


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    """A file with three rows, where what is tested is not the database."""
    url = f"sqlite:///{tmp_path / 'race.db'}"
    engine = make_engine(url)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([model(id=key) for model in (Plain, Payment) for key in (1, 2, 3)])
        session.commit()
    engine.dispose()
    return url


@pytest.mark.long
def test_race_of_a_sound_machine_is_fair(url, keys):
    report = race(
        url, Order.state, keys, events=["Ready", "NotReady", "Ready", "NotReady", "Delete"], processes=2, fires=30
    )

    assert report.moved.total() + report.refused.total() == 60
    assert report.problems == []


@pytest.mark.long
def test_race_with_payloads(file_url):
    payloads = {"Refund": [{"amount": 1}, {"amount": 500}]}
    report = race(file_url, Payment.state, [1, 2], events=["Refund"], payloads=payloads, processes=2, fires=10)

    assert {reason for _, _, _, reason in report.refused} <= {"guard"}
    assert report.moved


# One row's losses balanced each other by chance in 6 of 145 races. Those of three rows seldom all do.
LOSING: dict[str, Any] = {"events": ["Ready", "NotReady"], "fire": models.fire_by_hand, "processes": 3, "fires": 60}


@pytest.mark.long
def test_race_catches_a_function_that_loses_updates(file_url):
    with pytest.raises(AssertionError, match="are not such a path"):
        race(file_url, Plain.state, [1, 2, 3], **LOSING)


@pytest.mark.servers_only
@pytest.mark.skipif("FSM_RACE_FIRES" not in os.environ, reason="runs with the long races, by FSM_RACE_FIRES")
def test_race_catches_a_function_that_loses_updates_on_a_server(url, keys):
    with pytest.raises(AssertionError, match="are not such a path"):
        race(url, Plain.state, keys, **LOSING)


@pytest.mark.long
def test_race_catches_moves_that_are_not_declared(file_url):
    keys = [1, 2, 3]
    report = race(
        file_url,
        Plain.state,
        keys,
        events=["Stop"],
        fire=models.fire_what_is_not_declared,
        processes=1,
        fires=3,
        check=False,
    )

    assert any(
        "'Stop' took it from 'Initializing' to 'Error' 1 times, which is not declared" in p for p in report.problems
    )


@pytest.mark.long
def test_race_says_what_a_process_failed_of(file_url):
    with pytest.raises(RuntimeError, match="LookupError: of the user's own"):
        race(file_url, Plain.state, [1], fire=models.fail, processes=1, fires=1)


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        (("sqlite://", Plain.state, [1]), {}, "a database in memory is of one process"),
        (("sqlite+aiosqlite:///x.db", Plain.state, [1]), {}, "is a driver for asyncio"),
        (("sqlite:///x.db", Plain.state, []), {}, "nothing to race for: 0 rows"),
        (("sqlite:///x.db", Plain.state, [1]), {"processes": 0}, "both are at least 1"),
        (("sqlite:///x.db", Payment.state, [1]), {}, "'Refund' takes amount: give payloads="),
        (("sqlite:///x.db", Plain.id, [1]), {}, "is not a state machine of Plain"),
    ],
)
def test_wrong_arguments_of_a_race_are_told(arguments, options, says):
    with pytest.raises((TypeError, ValueError), match=says):
        race(*arguments, **options)


def test_rows_that_are_not_committed_are_told(file_url):
    with pytest.raises(ValueError, match="helped_plain 99 is not stored: commit it before the race"):
        race(file_url, Plain.state, [99])


# --- sequences of events

FEW = settings(max_examples=10, stateful_step_count=8, deadline=None, suppress_health_check=list(HealthCheck))
# What is looked for is found soon; to make it small is Hypothesis's own business, and takes long.
MORE = settings(FEW, max_examples=60, phases=[Phase.generate], report_multiple_bugs=False)
AMOUNTS = {"Refund": {"amount": st.integers(0, 120)}}


def test_sound_machine_survives_every_sequence(tables):
    run_state_machine_as_test(state_machine_for(Order.state, sessionmaker(tables)), settings=FEW)


def test_sound_machine_with_payload_keeps_its_users_invariant(tables):
    class Payments(state_machine_for(Payment.state, sessionmaker(tables), payloads=AMOUNTS)):
        @invariant()
        def total_is_not_negative(self):
            assert self.instance.total >= 0

    run_state_machine_as_test(Payments, settings=FEW)


def test_users_invariant_catches_a_careless_guard():
    class Payments(state_machine_for(Careless.state, sessions(), payloads=AMOUNTS)):
        @invariant()
        def total_is_not_negative(self):
            assert self.instance.total >= 0

    with pytest.raises(AssertionError):
        run_state_machine_as_test(Payments, settings=MORE)


def test_hook_that_goes_past_the_machine_is_caught():
    @on_moved(Plain.state, event="Stop")
    def meddle(moved: Any, session: Session) -> None:
        session.connection().execute(text("UPDATE helped_plain SET state = 'Error' WHERE id = :id"), {"id": moved.key})

    try:
        with pytest.raises(AssertionError, match="the row is 'Error', and the events led to 'Stopped'"):
            run_state_machine_as_test(state_machine_for(Plain.state, sessions()), settings=MORE)
    finally:
        remove_hook(Plain.state, meddle)


def test_payload_without_a_strategy_is_told():
    with pytest.raises(TypeError, match=r"'Refund' takes \(amount\): give payloads=\{'Refund': \{'amount': …\}\}"):
        state_machine_for(Payment.state, sessions())


def sessions() -> sessionmaker[Session]:
    """Of a database in memory that lives as long as the engine."""
    from sqlalchemy import StaticPool, create_engine

    engine = create_engine("sqlite://", poolclass=StaticPool)
    Base.metadata.create_all(engine)
    return sessionmaker(engine)
