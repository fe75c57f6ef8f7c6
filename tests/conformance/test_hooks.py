"""`on_moved` runs inside the transaction, `on_committed` exactly once after the outermost COMMIT, and never for what was undone."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, object_session, scoped_session, sessionmaker

from sqlalchemy_fsm_mysql import (
    Moved,
    TransitionNotAllowed,
    UnknownEvent,
    claim,
    fire_key,
    fire_where,
    force_state,
    on_committed,
    on_moved,
    remove_hook,
    try_fire_key,
)
from tests.conformance.history_models import Base, Light, Order, Payment, Plain, Signal, Truck, Vehicle
from tests.conformance.session_support import create, stored

Calls = list[Any]


@contextmanager
def hooked(register: Callable[..., Any], column: Any, function: Callable[..., Any], **filters: Any) -> Iterator[None]:
    """*function* as a hook, for as long as the block lasts."""
    register(column, **filters)(function)
    try:
        yield
    finally:
        remove_hook(column, function)


@contextmanager
def heard(register: Callable[..., Any], column: Any = Plain.state, **filters: Any) -> Iterator[Calls]:
    """What a hook is told meanwhile."""
    calls: Calls = []

    def listen(moved: Moved[Any], *session: Session) -> None:
        calls.append(moved)

    with hooked(register, column, listen, **filters):
        yield calls


def events(calls: Calls) -> list[str]:
    return [moved.event for moved in calls]


@pytest.fixture
def plain(mine: Session, database: Engine) -> Plain:
    """A stored row, in a transaction that has begun to write: SQLite's savepoints need one."""
    row = mine.get_one(Plain, create(database, Plain))
    mine.execute(update(Plain.__table__).where(Plain.__table__.c.id == row.id).values(state="Initializing"))
    return row


both = pytest.mark.parametrize("register", [on_moved, on_committed])


# --- what a hook is told


@both
def test_a_hook_is_told_what_fire_returns(mine: Session, plain: Plain, register: Any) -> None:
    with heard(register) as calls:
        moved = plain.fire("Ready", mine, actor="Ada", details={"n": 1})
        mine.commit()

    assert [moved] == calls
    assert (Plain, plain.id, plain, "Ada", {"n": 1}) == (
        calls[0].model, calls[0].key, calls[0].instance, calls[0].actor, calls[0].details,
    )  # fmt: skip


@both
def test_a_hook_is_told_the_payload(mine: Session, database: Engine, register: Any) -> None:
    payment = mine.get_one(Payment, create(database, Payment))
    with heard(register, Payment.state) as calls:
        payment.fire("Refund", mine, amount=30)
        mine.commit()

    assert [moved.payload for moved in calls] == [{"amount": 30}]


def test_without_an_instance_a_hook_is_told_none(mine: Session, plain: Plain) -> None:
    with heard(on_moved) as calls:
        fire_key(Plain, plain.id, "Ready", mine)

    assert [moved.instance for moved in calls] == [None]


def test_on_moved_runs_after_the_update_in_the_same_transaction(mine: Session, plain: Plain) -> None:
    seen: list[Any] = []

    def look(moved: Moved[Plain], session: Session) -> None:
        table = Plain.__table__
        seen.append((session, session.execute(select(table.c.state).where(table.c.id == moved.key)).scalar_one()))

    with hooked(on_moved, Plain.state, look):
        plain.fire("Ready", mine)

    assert [(mine, "Running")] == seen


def test_on_moved_runs_when_the_history_is_written_and_the_instance_shows_the_target(
    mine: Session, database: Engine
) -> None:
    order = mine.get_one(Order, create(database, Order))
    seen: list[Any] = []

    def look(moved: Moved[Order], session: Session) -> None:
        seen.append((order.state, [row.event for row in order.history(session)], moved.sequence))

    with hooked(on_moved, Order.state, look):
        order.fire("Ready", mine)

    assert seen == [("Running", ["Ready"], 1)]


def test_on_committed_runs_when_others_can_see_the_move(mine: Session, database: Engine, plain: Plain) -> None:
    seen: list[Any] = []
    with hooked(on_committed, Plain.state, lambda moved: seen.append(stored(database, Plain, moved.key))):
        plain.fire("Ready", mine)
        assert seen == []
        mine.commit()

    assert seen == ["Running"]


@both
def test_a_refusal_calls_nothing(mine: Session, plain: Plain, register: Any) -> None:
    with heard(register) as calls:
        with pytest.raises(TransitionNotAllowed):
            plain.fire("Delete", mine)
        assert not try_fire_key(Plain, plain.id, "Delete", mine)
        mine.commit()

    assert calls == []


@both
def test_claimed_and_forced_rows_are_told_and_rows_of_fire_where_are_not(
    mine: Session, database: Engine, register: Any
) -> None:
    keys = [create(database, Plain) for _ in range(3)]
    with heard(register) as calls:
        claimed = claim(Plain, "Ready", mine, Plain.id.in_(keys[:2]), limit=2)
        force_state(mine.get_one(Plain, keys[2]), "Error", mine)
        fire_where(Plain, "Stop", mine, Plain.id.in_(keys))
        mine.commit()

    assert events(calls) == ["Ready", "Ready", "force_state"]
    assert claimed == [moved.instance for moved in calls[:2]]


# --- filters


@both
@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["NotReady", "Ready", "NotReady", "Stop"]),
        ({"event": "NotReady"}, ["NotReady", "NotReady"]),
        ({"event": ["Ready", "Stop"]}, ["Ready", "Stop"]),
        ({"source": "Initializing"}, ["NotReady", "Ready"]),
        ({"source": {"Running", "Error"}}, ["NotReady", "Stop"]),
        ({"target": "Error"}, ["NotReady"]),
        ({"target": ("Running", "Stopped")}, ["Ready", "Stop"]),
        ({"event": "NotReady", "source": "Running", "target": "Error"}, ["NotReady"]),
        ({"event": "Stop", "target": "Error"}, []),
        ({"event": []}, []),
    ],
)
def test_filters_choose_the_moves(
    mine: Session, plain: Plain, register: Any, filters: Any, expected: list[str]
) -> None:
    with heard(register, **filters) as calls:
        for name in ("NotReady", "Ready", "NotReady", "Stop"):
            plain.fire(name, mine)
        mine.commit()

    assert expected == events(calls)


def test_enum_states_are_filtered_by_member(mine: Session) -> None:
    signal = Signal(name="filtered")
    mine.add(signal)
    with heard(on_moved, Signal.light, target=Light.GREEN) as calls:
        signal.fire("Go", mine)
        signal.fire("Halt", mine)

    assert events(calls) == ["Go"]


def test_a_text_is_no_state_of_an_enums_machine() -> None:
    """Refused when the hook is declared, and not a filter that never fits."""
    with pytest.raises(ValueError, match="'green' is not a state"):
        on_moved(Signal.light, target="green")


@both
def test_a_filter_that_the_machine_does_not_know_is_refused(register: Any) -> None:
    with pytest.raises(UnknownEvent, match="'Halt'"):
        register(Plain.state, event=["Ready", "Halt"])
    for side in ("source", "target"):
        with pytest.raises(ValueError, match="'Lost'"):
            register(Plain.state, **{side: "Lost"})


@both
def test_what_is_no_state_column_has_no_hooks(register: Any) -> None:
    for column in (Plain.id, Plain, "state", None):
        with pytest.raises(TypeError):
            register(column)


@both
def test_a_coroutine_function_is_no_hook(register: Any) -> None:
    async def later(*_: Any) -> None: ...

    with pytest.raises(TypeError, match="coroutine"):
        register(Plain.state)(later)


# --- registration


@both
def test_a_hook_of_the_parent_hears_of_the_subclass_and_not_the_reverse(
    mine: Session, database: Engine, register: Any
) -> None:
    vehicle, truck = mine.get_one(Vehicle, create(database, Vehicle)), mine.get_one(Vehicle, create(database, Truck))
    with heard(register, Vehicle.state) as of_all, heard(register, Truck.state) as of_trucks:
        vehicle.fire("Ready", mine)
        truck.fire("Stop", mine)
        mine.commit()

    assert (events(of_all), events(of_trucks)) == (["Ready", "Stop"], ["Stop"])
    assert [Vehicle, Truck] == [moved.model for moved in of_all]


def test_a_removed_hook_is_not_called(mine: Session, plain: Plain) -> None:
    with heard(on_moved) as calls:
        plain.fire("NotReady", mine)
    plain.fire("NotReady", mine)

    assert len(calls) == 1


def test_a_hook_removed_before_the_commit_is_still_called_for_what_it_was_promised(mine: Session, plain: Plain) -> None:
    with heard(on_committed) as calls:
        plain.fire("Ready", mine)
    mine.commit()

    assert events(calls) == ["Ready"]


def test_removing_what_is_no_hook_is_an_error() -> None:
    with pytest.raises(ValueError, match="is not a hook of Plain.state"):
        remove_hook(Plain.state, print)


def test_a_decorated_function_stays_itself() -> None:
    def function(moved: Moved[Plain], session: Session | None = None) -> None: ...

    with hooked(on_committed, Plain.state, function):
        assert on_moved(Plain.state)(function) is function


def test_hooks_are_called_in_the_order_of_their_declaration(mine: Session, plain: Plain) -> None:
    order: list[str] = []
    with (
        hooked(on_moved, Plain.state, lambda moved, session: order.append("first")),
        hooked(on_committed, Plain.state, lambda moved: order.append("third")),
        hooked(on_moved, Plain.state, lambda moved, session: order.append("second")),
        hooked(on_committed, Plain.state, lambda moved: order.append("fourth")),
    ):
        plain.fire("Ready", mine)
        mine.commit()

    assert order == ["first", "second", "third", "fourth"]


# --- nested fires


def test_a_hook_may_fire_another_event(mine: Session, plain: Plain) -> None:
    def go_on(moved: Moved[Plain], session: Session) -> None:
        plain.fire("Stop", session)

    with heard(on_committed) as calls, hooked(on_moved, Plain.state, go_on, event="Ready"):
        moved = plain.fire("Ready", mine)
        mine.commit()

    assert (moved.target, plain.state, stored(mine.get_bind(), Plain, plain.id)) == ("Running", "Stopped", "Stopped")
    assert events(calls) == ["Ready", "Stop"]


def test_a_nested_fire_on_another_row_is_undone_with_the_outer(mine: Session, database: Engine, plain: Plain) -> None:
    other = create(database, Plain) if database.dialect.name != "sqlite" else plain.id
    with hooked(on_moved, Plain.state, lambda moved, session: fire_key(Plain, other, "Stop", session), event="Ready"):
        plain.fire("Ready", mine)
    mine.rollback()

    assert (plain.state, stored(database, Plain, other)) == ("Initializing", "Initializing")


# --- exceptions


def test_what_on_moved_raises_propagates_and_undoes_nothing(mine: Session, database: Engine, plain: Plain) -> None:
    def object_to(moved: Moved[Plain], session: Session) -> None:
        raise LookupError("no such customer")

    with hooked(on_moved, Plain.state, object_to), heard(on_committed) as calls:
        with pytest.raises(LookupError, match="no such customer"):
            plain.fire("Ready", mine)
        mine.commit()

    assert (plain.state, stored(database, Plain, plain.id), events(calls)) == ("Running", "Running", ["Ready"])


def test_a_savepoint_makes_an_objection_of_on_moved_undo_the_move(
    mine: Session, database: Engine, plain: Plain
) -> None:
    def object_to(moved: Moved[Plain], session: Session) -> None:
        raise LookupError

    with hooked(on_moved, Plain.state, object_to), heard(on_committed) as calls:
        with pytest.raises(LookupError), mine.begin_nested():
            plain.fire("Ready", mine)
        mine.commit()

    assert (plain.state, stored(database, Plain, plain.id), calls) == ("Initializing", "Initializing", [])


def test_what_on_committed_raises_is_logged_and_the_others_are_called(
    mine: Session, database: Engine, plain: Plain, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(moved: Moved[Plain]) -> None:
        raise LookupError("the mail server is away")

    with hooked(on_committed, Plain.state, fail), heard(on_committed) as calls, caplog.at_level(logging.ERROR):
        plain.fire("Ready", mine)
        mine.commit()

    assert events(calls) == ["Ready"]
    assert stored(database, Plain, plain.id) == "Running"
    (record,) = [record for record in caplog.records if record.name.startswith("sqlalchemy_fsm_mysql")]
    assert "committed anyway" in record.message
    assert LookupError is record.exc_info[0]


# --- savepoints and rollbacks


def test_on_committed_waits_for_the_outermost_commit(mine: Session, plain: Plain) -> None:
    """SQLAlchemy's own after_commit event runs at every RELEASE SAVEPOINT."""
    with heard(on_committed) as calls:
        with mine.begin_nested():
            plain.fire("Ready", mine)
        assert calls == []
        mine.commit()
        assert events(calls) == ["Ready"]


def test_on_committed_is_not_called_after_a_rollback(mine: Session, plain: Plain) -> None:
    with heard(on_committed) as calls:
        plain.fire("Ready", mine)
        mine.rollback()
        mine.commit()

    assert calls == []


@pytest.mark.parametrize("end", ["close", "invalidate"])
def test_on_committed_is_not_called_for_a_transaction_that_was_let_go(mine: Session, plain: Plain, end: str) -> None:
    with heard(on_committed) as calls:
        plain.fire("Ready", mine)
        getattr(mine, end)()
        mine.scalar(select(1))
        mine.commit()

    assert calls == []


def test_on_committed_is_called_once_however_often_is_committed(mine: Session, plain: Plain) -> None:
    with heard(on_committed) as calls:
        plain.fire("Ready", mine)
        mine.commit()
        mine.commit()
        plain.fire("Stop", mine)
        mine.commit()

    assert events(calls) == ["Ready", "Stop"]


def test_a_released_savepoint_in_one_that_is_rolled_back_is_forgotten(mine: Session, plain: Plain) -> None:
    with heard(on_committed) as calls:
        outer = mine.begin_nested()
        with mine.begin_nested():
            plain.fire("Ready", mine)
        outer.rollback()
        mine.commit()

    assert calls == []


def test_a_savepoint_next_to_a_rolled_back_one_is_kept(mine: Session, plain: Plain) -> None:
    with heard(on_committed) as calls:
        with mine.begin_nested():
            plain.fire("Ready", mine)
        lost = mine.begin_nested()
        plain.fire("NotReady", mine)
        lost.rollback()
        plain.fire("Stop", mine)
        mine.commit()

    assert events(calls) == ["Ready", "Stop"]


@pytest.mark.parametrize(
    ("rolled_back", "expected"), [(0, ["NotReady"]), (1, ["NotReady", "Ready"]), (2, ["NotReady", "Ready", "NotReady"])]
)
def test_three_savepoints_deep_what_is_outside_of_the_rolled_back_one_counts(
    mine: Session, plain: Plain, rolled_back: int, expected: list[str]
) -> None:
    with heard(on_committed) as calls:
        plain.fire("NotReady", mine)
        savepoints = []
        for name in ("Ready", "NotReady", "Stop"):
            savepoints.append(mine.begin_nested())
            plain.fire(name, mine)
        savepoints[rolled_back].rollback()
        mine.commit()

    assert expected == events(calls)


def test_a_commit_with_open_savepoints_calls_for_all_of_them(mine: Session, plain: Plain) -> None:
    with heard(on_committed) as calls:
        mine.begin_nested()
        plain.fire("Ready", mine)
        mine.begin_nested()
        plain.fire("Stop", mine)
        mine.commit()

    assert events(calls) == ["Ready", "Stop"]


def test_a_failed_flush_takes_the_calls_along(mine: Session, plain: Plain) -> None:
    """Of the savepoint only: the transaction around it goes on."""
    with heard(on_committed) as calls:
        plain.fire("NotReady", mine)
        with pytest.raises(IntegrityError), mine.begin_nested():
            plain.fire("Ready", mine)
            mine.connection().execute(Plain.__table__.insert().values(id=plain.id))
        mine.commit()

    assert events(calls) == ["NotReady"]


def test_a_failed_commit_calls_nothing(mine: Session, plain: Plain) -> None:
    def refuse(connection: Any) -> None:
        raise RuntimeError("COMMIT fails")

    engine = mine.get_bind()
    with heard(on_committed) as calls:
        plain.fire("Ready", mine)
        event.listen(engine, "commit", refuse)
        try:
            with pytest.raises(RuntimeError, match="COMMIT fails"):
                mine.commit()
        finally:
            event.remove(engine, "commit", refuse)
        mine.rollback()
        mine.commit()

    assert calls == []


def test_each_session_calls_for_its_own_moves(mine: Session, theirs: Session, database: Engine) -> None:
    one, other = create(database, Plain), create(database, Plain)
    with heard(on_committed) as calls:
        fire_key(Plain, one, "Ready", mine)
        mine.commit()
        fire_key(Plain, other, "Stop", theirs)
        theirs.rollback()
        mine.commit()
        fire_key(Plain, other, "NotReady", theirs)
        theirs.commit()

    assert [("Ready", one), ("NotReady", other)] == [(moved.event, moved.key) for moved in calls]


# --- kinds of sessions


def test_a_scoped_session_and_a_begin_block_call_too(database: Engine, schemas: None) -> None:
    key = create(database, Plain)
    scoped = scoped_session(sessionmaker(database))
    with heard(on_committed) as calls:
        with scoped.begin():
            fire_key(Plain, key, "Ready", scoped)
        scoped.remove()
        with sessionmaker(database).begin() as session:
            fire_key(Plain, key, "Stop", session)

    assert events(calls) == ["Ready", "Stop"]


def test_sessions_made_with_the_info_of_another_have_hooks_of_their_own(
    mine: Session, database: Engine, plain: Plain
) -> None:
    with heard(on_committed) as calls:
        plain.fire("Ready", mine)
        with Session(database, info=mine.info) as copy:
            copy.scalar(select(1))
            copy.commit()
            assert calls == []
        mine.commit()

    assert events(calls) == ["Ready"]


def test_an_async_session_calls_both_kinds_of_hooks(tmp_path: Any) -> None:
    told: list[Any] = []

    async def work() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/async.db")
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with AsyncSession(engine) as session:
            session.add(Plain(id=1))
            await fire_key(Plain, 1, "Ready", session)
            await session.rollback()
            session.add(Plain(id=1))
            async with session.begin_nested():
                await fire_key(Plain, 1, "Stop", session)
            told.append("before the commit")
            await session.commit()
        await engine.dispose()

    with (
        hooked(on_moved, Plain.state, lambda moved, session: told.append((moved.event, type(session)))),
        hooked(on_committed, Plain.state, lambda moved: told.append(moved.event)),
    ):
        asyncio.run(work())

    assert [("Ready", Session), ("Stop", Session), "before the commit", "Stop"] == told


# --- what a hook does with sessions


def test_on_committed_may_read_the_instance_whose_session_goes_on(mine: Session, plain: Plain) -> None:
    read: list[str] = []
    with hooked(on_committed, Plain.state, lambda moved: read.append(moved.instance.state)):
        plain.fire("Ready", mine)
        mine.commit()
        plain.fire("Stop", mine)
        mine.commit()

    assert read == ["Running", "Stopped"]


def test_on_committed_may_fire_on_the_same_session_and_commit_that(
    mine: Session, database: Engine, plain: Plain
) -> None:
    def go_on(moved: Moved[Plain]) -> None:
        session = object_session(moved.instance)
        moved.instance.fire("Stop", session)
        session.commit()

    with heard(on_committed) as calls, hooked(on_committed, Plain.state, go_on, event="Ready"):
        plain.fire("Ready", mine)
        mine.commit()

    assert (events(calls), stored(database, Plain, plain.id)) == (["Ready", "Stop"], "Stopped")


def test_on_committed_may_fire_on_a_session_of_its_own(mine: Session, database: Engine, plain: Plain) -> None:
    def go_on(moved: Moved[Plain]) -> None:
        with sessionmaker(database).begin() as session:
            fire_key(Plain, moved.key, "Stop", session)

    with heard(on_committed) as calls, hooked(on_committed, Plain.state, go_on, event="Ready"):
        plain.fire("Ready", mine)
        mine.commit()

    assert {"Ready", "Stop"} == set(events(calls))
    assert len(calls) == 2


def test_a_session_with_hooks_is_garbage_like_any_other(database: Engine, schemas: None) -> None:
    with heard(on_committed):
        session = Session(database)
        fire_key(Plain, create(database, Plain), "Ready", session)
        session.commit()
        session.close()
        left = weakref.ref(session)
        del session
        gc.collect()

    assert left() is None


# --- the example


def test_a_mail_is_sent_once_for_each_committed_transition_and_never_for_another(
    database: Engine, schemas: None
) -> None:
    """Three savepoints deep, every way to end each of them, then COMMIT or ROLLBACK: mails are what the table says."""
    mails: list[int] = []

    def send_mail(moved: Moved[Plain]) -> None:
        mails.append(moved.key)

    keys = iter(range(1, 1000))
    ends = ("release", "rollback")
    with hooked(on_committed, Plain.state, send_mail, target="Running"), Session(database) as session:
        session.execute(Plain.__table__.delete())
        session.commit()
        for root in ("commit", "rollback"):
            for first in ends:
                for second in ends:
                    for third in ends:
                        send_through(session, keys, [first, second, third])
                        getattr(session, root)()
        table = Plain.__table__
        running = session.execute(select(table.c.id).where(table.c.state == "Running")).scalars().all()
        session.execute(table.delete())
        session.commit()

    assert sorted(mails) == sorted(running)
    assert len(mails) == 8 + 4 + 2 + 1


def send_through(session: Session, keys: Iterator[int], ends: list[str]) -> None:
    """Make a running row, then go a savepoint deeper for each of *ends*."""
    key = next(keys)
    session.add(Plain(id=key))
    fire_key(Plain, key, "Ready", session)
    if not ends:
        return
    savepoint = session.begin_nested()
    send_through(session, keys, ends[1:])
    savepoint.rollback() if ends[0] == "rollback" else savepoint.commit()


@pytest.mark.servers_only
def test_a_connection_that_dies_calls_nothing(mine: Session, database: Engine, plain: Plain) -> None:
    with heard(on_committed) as calls:
        plain.fire("Ready", mine)
        mine.connection().connection.dbapi_connection.close()
        with pytest.raises(DBAPIError):
            mine.commit()
        mine.rollback()
        mine.commit()

    assert (calls, stored(database, Plain, plain.id)) == ([], "Initializing")
