"""The last fire of a transaction and its COMMIT: in one packet where the engine or the column asks for it, else apart.

Both ways have one meaning, so most tests run with both. A proxy counts what the client sends.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, select, text
from sqlalchemy.exc import DBAPIError, InterfaceError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, sessionmaker, with_loader_criteria

from sqlalchemy_fsm_mysql import (
    GuardNotSatisfied,
    LockTimeout,
    Moved,
    OutcomeUnknown,
    Refused,
    RowNotFound,
    TokenConflict,
    TransactionAborted,
    TransactionRequired,
    TransitionNotAllowed,
    commit_with_fire,
    commit_with_fire_key,
    find_by_token,
    fire_key,
    on_committed,
    on_moved,
    remove_hook,
    run_transaction,
    try_commit_with_fire,
    try_commit_with_fire_key,
)
from tests.conformance.history_models import Beacon, Order, Parcel, Payment
from tests.conformance.session_models import Order as Plain
from tests.conformance.session_support import HIGHEST, create, stored
from tests.conformance.test_interrupted_statements import JobTimeout, time_limit
from tests.conformance.test_packets import asking, counted, steps
from tests.conformance.test_versioning import VERSIONED
from tests.faults.proxy import Cut, proxy, unencrypted
from tests.servers import ASYNCIO_DRIVERS, installed_drivers, is_async, make_engine


@pytest.fixture(params=["in one packet", "apart"])
def engine_of_ends(request: pytest.FixtureRequest, database: Engine, backend: str) -> Iterator[Engine]:
    """An engine that asks for one packet, and one that does not; SQLite sends the two apart in any case."""
    if request.param == "apart":
        yield database
        return
    if backend == "locking" or is_async(database.url):
        pytest.skip("the locking read is several statements, in any case")
    engine = asking(database.url)
    yield engine
    engine.dispose()


@pytest.fixture
def packets(database: Engine, backend: str) -> Iterator[Engine]:
    """An engine that sends the two in one packet."""
    if database.dialect.name == "sqlite" or backend == "locking" or is_async(database.url):
        pytest.skip("the database, or its backend, takes one statement at a time")
    engine = asking(database.url)
    yield engine
    engine.dispose()


@pytest.fixture
def token() -> str:
    return f"end {secrets.token_hex(8)}"


# --- moved


def test_the_move_and_all_that_the_unit_has_done_are_committed(engine_of_ends: Engine, database: Engine) -> None:
    key, other = create(database, Order), create(database, Order)
    with Session(engine_of_ends) as session:
        order = session.get_one(Order, key)
        order.note = "flushed before"
        fire_key(Order, other, "Ready", session)
        moved = commit_with_fire(order, "Ready", session, actor="me")

        assert (moved.source, moved.target, moved.sequence, moved.instance) == ("Initializing", "Running", 1, order)
        assert not session.in_transaction()
        assert (order.state, order.note) == ("Running", "flushed before")
        session.rollback()
    assert stored(database, Order, key, "state", "note") == ("Running", "flushed before")
    assert steps(database, key) == [(1, "Ready", "Initializing", "Running", "me", None)]
    assert stored(database, Order, other) == "Running"


def test_the_same_by_key_and_on_a_connection(engine_of_ends: Engine, database: Engine) -> None:
    key = create(database, Order)
    with Session(engine_of_ends) as session:
        assert commit_with_fire_key(Order, key, "Ready", session).sequence == 1
        assert try_commit_with_fire_key(Order, key, "Ready", session).key == key
    with engine_of_ends.connect() as connection:
        assert commit_with_fire_key(Order, key, "NotReady", connection).sequence == 3
        assert not connection.in_transaction()
        connection.rollback()
        assert commit_with_fire_key(Order, key, "Stop", connection).sequence == 4
    assert [step[1] for step in steps(database, key)] == ["Ready", "Ready", "NotReady", "Stop"]


def test_a_machine_without_a_history(engine_of_ends: Engine, database: Engine) -> None:
    key = create(database, Plain)
    with Session(engine_of_ends) as session:
        moved = commit_with_fire(session.get_one(Plain, key), "Ready", session)
        refused = try_commit_with_fire_key(Plain, key, "Delete", session)
    assert (moved.source, moved.target, moved.sequence) == ("Initializing", "Running", None)
    assert isinstance(refused, Refused)
    assert (refused.state, stored(database, Plain, key)) == ("Running", "Running")


def test_guards_effects_payload_and_details(engine_of_ends: Engine, database: Engine) -> None:
    key = create(database, Payment, total=50)
    with Session(engine_of_ends) as session:
        with pytest.raises(GuardNotSatisfied):
            commit_with_fire_key(Payment, key, "Refund", session, amount=80)
        moves = [commit_with_fire_key(Payment, key, "Refund", session, amount=amount) for amount in (20, 30)]
    assert [(m.source, m.target, m.sequence) for m in moves] == [("Paid", "Paid", 1), ("Paid", "Refunded", 2)]
    assert stored(database, Payment, key, "state", "total") == ("Refunded", 0)


def test_values_are_bound_and_never_text(engine_of_ends: Engine, database: Engine) -> None:
    hostile = "'; DELETE FROM recorded_order; -- %s %% \\"
    key, parcel = create(database, Order), create(database, Parcel, depot=f"a%s'\\{secrets.token_hex(3)}")
    with Session(engine_of_ends) as session:
        moved = commit_with_fire_key(Order, key, "Ready", session, actor=hostile, details={"note": hostile})
        assert commit_with_fire_key(Parcel, parcel, "Ready", session).target == "Running"
    assert (steps(database, key)[0][4], moved.details) == (hostile, {"note": hostile})


@pytest.mark.parametrize("expires", [True, False])
def test_instances_are_as_after_commit(engine_of_ends: Engine, database: Engine, expires: bool) -> None:
    key = create(database, Order)
    with Session(engine_of_ends, expire_on_commit=expires) as session:
        order = session.get_one(Order, key)
        moved = commit_with_fire(order, "Ready", session)
        assert ("state" in order.__dict__) is not expires
        assert moved.instance is order
        assert order.state == "Running"


def test_the_listeners_of_the_session_are_called_around_it(engine_of_ends: Engine, database: Engine) -> None:
    """What a listener of before_commit adds is flushed, and committed with the rest."""
    key, other = create(database, Order), create(database, Order)
    seen: list[tuple[str, str]] = []
    with Session(engine_of_ends) as session:
        order, second = session.get_one(Order, key), session.get_one(Order, other)

        @event.listens_for(session, "before_commit")
        def _before(session: Session) -> None:
            seen.append(("before", ""))
            second.note = "of the listener"

        @event.listens_for(session, "after_commit")
        def _after(session: Session) -> None:
            seen.append(("after", order.__dict__["state"]))

        commit_with_fire(order, "Ready", session)
    assert seen == [("before", ""), ("after", "Running")]
    assert stored(database, Order, other, "note") == "of the listener"


def test_an_error_of_a_listener_keeps_the_unit_from_being_committed(engine_of_ends: Engine, database: Engine) -> None:
    key = create(database, Order)
    with Session(engine_of_ends) as session:

        @event.listens_for(session, "before_commit")
        def _before(session: Session) -> None:
            raise LookupError("mine")

        with pytest.raises(LookupError, match="mine"):
            commit_with_fire_key(Order, key, "Ready", session)
        session.rollback()
    assert (stored(database, Order, key), steps(database, key)) == ("Initializing", [])


def test_a_listener_that_tries_to_commit_does_not_take_the_fire_out_of_the_commit(
    engine_of_ends: Engine, database: Engine
) -> None:
    """SQLAlchemy refuses a commit within a commit, and the outer one goes on."""
    key, other = create(database, Order), create(database, Order)
    with Session(engine_of_ends) as session:

        @event.listens_for(session, "before_commit")
        def _before(session: Session) -> None:
            with suppress(InvalidRequestError):
                commit_with_fire_key(Order, other, "Ready", session)

        assert commit_with_fire_key(Order, key, "Ready", session).sequence == 1
        assert not session.in_transaction()
    assert stored(database, Order, key) == "Running"


def test_a_session_within_begin(engine_of_ends: Engine, database: Engine) -> None:
    key, other = create(database, Order), create(database, Order)
    factory = sessionmaker(engine_of_ends)
    with factory.begin() as session:
        commit_with_fire_key(Order, key, "Ready", session)
    with engine_of_ends.begin() as connection:
        commit_with_fire_key(Order, key, "Stop", connection)
    with pytest.raises(TransitionNotAllowed), factory.begin() as session:
        fire_key(Order, other, "Ready", session)
        commit_with_fire_key(Order, key, "Ready", session)
    with factory.begin() as session:
        fire_key(Order, other, "Ready", session)
        assert not try_commit_with_fire_key(Order, key, "Ready", session)
    assert (stored(database, Order, key), stored(database, Order, other)) == ("Stopped", "Initializing")


@pytest.mark.parametrize("model", VERSIONED)
def test_a_versioned_row(engine_of_ends: Engine, database: Engine, model: Any) -> None:
    """The version is moved with the row, and known afterwards; an edit on an old one is found out."""
    key = create(database, model)
    with Session(engine_of_ends, expire_on_commit=False) as session:
        row = session.get_one(model, key)
        before = row.version
        row.note = "mine"
        assert commit_with_fire(row, "Ready", session).target == "Running"
        assert row.version == stored(database, model, key, "version") != before
        assert try_commit_with_fire(row, "Stop", session)
        row.note = "and again"
        session.commit()
    assert stored(database, model, key, "state", "note") == ("Stopped", "and again")


def test_a_row_that_a_filter_of_the_session_hides_is_not_found(engine_of_ends: Engine, database: Engine) -> None:
    key, hidden = create(database, Order), create(database, Order, note="hidden")
    with Session(engine_of_ends) as session:

        @event.listens_for(session, "do_orm_execute")
        def _filter(executed: Any) -> None:
            executed.statement = executed.statement.options(with_loader_criteria(Order, Order.note != "hidden"))

        assert commit_with_fire_key(Order, key, "Ready", session).sequence == 1
        with pytest.raises(RowNotFound):
            commit_with_fire_key(Order, hidden, "Ready", session)
        session.rollback()
    assert stored(database, Order, hidden) == "Initializing"


# --- refused


@pytest.mark.parametrize("place", ["session", "connection", "session of a connection"])
def test_a_refusal_rolls_the_unit_back(engine_of_ends: Engine, database: Engine, place: str, token: str) -> None:
    key, other = create(database, Order, state="Deleted"), create(database, Order)
    with engine_of_ends.connect() as connection:
        opened: Any = {"session": Session(engine_of_ends), "connection": connection}.get(place, Session(connection))
        for given in (None, token):
            fire_key(Order, other, "Ready", opened)
            with pytest.raises(TransitionNotAllowed):
                commit_with_fire_key(Order, key, "Ready", opened, token=given)
            assert not opened.in_transaction()
            fire_key(Order, other, "Ready", opened)
            refused = try_commit_with_fire_key(Order, key, "Ready", opened, token=given)
            assert isinstance(refused, Refused)
            assert (refused.state, refused.reason) == ("Deleted", "state")
            assert not opened.in_transaction()
        with pytest.raises(RowNotFound):
            commit_with_fire_key(Order, HIGHEST + 7, "Ready", opened)
        opened.rollback()
        assert commit_with_fire_key(Order, other, "Ready", opened).sequence == 1  # it goes on
        opened.close()
    assert steps(database, key) == []
    assert len(steps(database, other)) == 1


def test_the_instance_shows_the_row_after_a_refusal(engine_of_ends: Engine, database: Engine) -> None:
    key = create(database, Order)
    with Session(engine_of_ends) as session:
        order = session.get_one(Order, key)
        order.note = "lost"
        with Session(database) as another:
            fire_key(Order, key, "Stop", another)
            another.commit()
        assert not try_commit_with_fire(order, "Ready", session)
        assert (order.state, order.note) == ("Stopped", "")


@pytest.mark.parametrize("place", ["without autoflush", "before_commit"])
def test_a_refusal_commits_nothing_on_another_database(
    engine_of_ends: Engine, database: Engine, tmp_path: Path, place: str
) -> None:
    """Also where the session writes there only within its commit(), which ends its transactions in any order."""
    key = create(database, Order, state="Deleted")
    elsewhere = create_engine(f"sqlite:///{tmp_path / 'elsewhere.db'}")
    Plain.__table__.create(elsewhere)
    for number in range(8):
        with Session(binds={Order: engine_of_ends, Plain: elsewhere}, autoflush=False) as session:
            row = Plain(id=number)
            if place == "before_commit":
                event.listen(session, "before_commit", partial(Session.add, instance=row))
            else:
                session.add(row)
            assert not try_commit_with_fire_key(Order, key, "Ready", session)
    with elsewhere.connect() as connection:
        assert connection.scalars(select(Plain.__table__.c.id)).all() == []
    elsewhere.dispose()


# --- tokens


def test_the_second_fire_with_a_token_is_a_replay_and_commits(
    engine_of_ends: Engine, database: Engine, token: str
) -> None:
    key, other = create(database, Order), create(database, Order)
    with Session(engine_of_ends) as session:
        first = commit_with_fire_key(Order, key, "Ready", session, token=token)
        fire_key(Order, other, "Ready", session)
        again = commit_with_fire(session.get_one(Order, key), "Ready", session, token=token)  # finds the token taken
        commit_with_fire_key(Order, key, "Stop", session)
        fire_key(Order, other, "Ready", session)
        later = try_commit_with_fire_key(Order, key, "Ready", session, token=token)  # is refused, and finds the token

    assert isinstance(later, Moved)
    assert [one.replayed for one in (first, again, later)] == [False, True, True]
    assert {1} == {one.sequence for one in (first, again, later)}
    assert ([step[1] for step in steps(database, key)], len(steps(database, other))) == (["Ready", "Stop"], 2)


def test_a_token_of_another_row_commits_nothing(engine_of_ends: Engine, database: Engine, token: str) -> None:
    first, second, other = (create(database, Order) for _ in range(3))
    with Session(engine_of_ends) as session:
        commit_with_fire_key(Order, first, "Ready", session, token=token)
        fire_key(Order, other, "Ready", session)
        with pytest.raises(TokenConflict):
            commit_with_fire_key(Order, second, "Ready", session, token=token)
        session.rollback()
    assert [stored(database, Order, key) for key in (second, other)] == ["Initializing"] * 2


# --- hooks


def test_hooks_are_called_within_and_after(engine_of_ends: Engine, database: Engine, token: str) -> None:
    key, seen = create(database, Order), []

    def moved(one: Moved[Order], session: Session) -> None:
        seen.append(("moved", session.scalar(select(Order.state).where(Order.id == one.key))))
        session.execute(text("UPDATE recorded_order SET note = 'of the hook' WHERE id = :key"), {"key": one.key})

    def committed(one: Moved[Order]) -> None:
        seen.append(("committed", stored(database, Order, one.key)))

    on_moved(Order.state, event="Ready")(moved)
    on_committed(Order.state)(committed)
    try:
        with Session(engine_of_ends) as session:
            for _ in range(2):  # the second is a replay
                commit_with_fire_key(Order, key, "Ready", session, token=token)
            commit_with_fire_key(Order, key, "Stop", session)
            assert not try_commit_with_fire_key(Order, key, "Ready", session)
        with engine_of_ends.connect() as connection:
            commit_with_fire_key(Order, key, "Stop", connection)
    finally:
        for hook in (moved, committed):
            remove_hook(Order.state, hook)
    assert seen == [("moved", "Running"), ("committed", "Running"), ("committed", "Stopped"), ("committed", "Stopped")]
    assert stored(database, Order, key, "note") == "of the hook"


# --- where it cannot be


def test_a_savepoint_is_refused(engine_of_ends: Engine, database: Engine) -> None:
    key = create(database, Order)
    with Session(engine_of_ends) as session:
        with session.begin_nested(), pytest.raises(TransactionRequired, match="begin_nested"):
            commit_with_fire_key(Order, key, "Ready", session)
        assert session.in_transaction()
    with engine_of_ends.connect() as connection:
        connection.begin()
        connection.begin_nested()
        with pytest.raises(TransactionRequired, match="begin_nested"):
            commit_with_fire_key(Order, key, "Ready", connection)
    assert stored(database, Order, key) == "Initializing"


def test_a_two_phase_transaction_is_refused(packets: Engine, database: Engine) -> None:
    key = create(database, Order)
    with Session(packets, twophase=True) as session, pytest.raises(TransactionRequired, match="two-phase"):
        commit_with_fire_key(Order, key, "Ready", session)
    with packets.connect() as connection:
        connection.begin_twophase()
        with pytest.raises(TransactionRequired, match="two-phase"):
            commit_with_fire_key(Order, key, "Ready", connection)
    assert stored(database, Order, key) == "Initializing"


def test_a_session_that_has_joined_a_transaction_commits_nothing_of_it(
    engine_of_ends: Engine, database: Engine
) -> None:
    """As its commit(): the owner of the transaction commits, or does not."""
    key, seen = create(database, Order), []

    def committed(one: Moved[Order]) -> None:
        seen.append(one.target)

    on_committed(Order.state)(committed)
    try:
        with engine_of_ends.connect() as connection:
            # sqlite3 begins no transaction at a SAVEPOINT, so SQLAlchemy's way of joining by one is none there.
            for mode in ("rollback_only", "create_savepoint")[: 1 if database.dialect.name == "sqlite" else 2]:
                with connection.begin() as transaction:
                    with Session(connection, join_transaction_mode=mode) as session:  # type: ignore[arg-type]
                        assert commit_with_fire_key(Order, key, "Ready", session).target == "Running"
                    assert (connection.in_transaction(), seen) == (True, [])
                    transaction.rollback()
                    assert stored(database, Order, key) == "Initializing"
            with connection.begin(), Session(connection) as session:
                commit_with_fire_key(Order, key, "Ready", session)
                assert seen == []
    finally:
        remove_hook(Order.state, committed)
    assert (seen, stored(database, Order, key)) == (["Running"], "Running")


def test_a_session_whose_commit_is_replaced_fires_all_the_same(
    engine_of_ends: Engine, database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As test suites do, to roll back what an application has done."""
    key = create(database, Order)
    with Session(engine_of_ends) as session:
        monkeypatch.setattr(session, "commit", session.flush)
        order = session.get_one(Order, key)
        assert commit_with_fire(order, "Ready", session).sequence == 1
        assert not try_commit_with_fire(order, "Delete", session)
        assert commit_with_fire_key(Order, key, "Stop", session).sequence == 1
        assert order.state == "Stopped"
        session.rollback()
    assert (stored(database, Order, key), steps(database, key)) == ("Initializing", [])


def test_in_autocommit_the_fire_is_its_own_commit(database: Engine) -> None:
    key = create(database, Plain)
    engine = make_engine(database.url, isolation_level="AUTOCOMMIT")
    with Session(engine) as session:
        assert commit_with_fire_key(Plain, key, "Ready", session).target == "Running"
        assert not try_commit_with_fire_key(Plain, key, "Delete", session)
    engine.dispose()
    assert stored(database, Plain, key) == "Running"


# --- units of work


def test_a_unit_of_run_transaction_may_end_by_it(engine_of_ends: Engine, database: Engine) -> None:
    key, other = create(database, Order), create(database, Order)

    def unit(place: Any) -> Any:
        fire_key(Order, other, "Ready", place)
        return commit_with_fire_key(Order, key, "Ready", place)

    assert run_transaction(sessionmaker(engine_of_ends), unit).sequence == 1
    assert run_transaction(engine_of_ends, unit).sequence == 2
    assert len(steps(database, other)) == 2


@pytest.mark.servers_only
@pytest.mark.parametrize("place", ["session", "connection"])
def test_a_unit_runs_again_after_a_deadlock_in_its_last_fire(
    engine_of_ends: Engine, database: Engine, place: str
) -> None:
    """Two units lock two rows crosswise; the one that the server ends runs again as a whole."""
    keys, barrier = [create(database, Order), create(database, Order)], threading.Barrier(2)
    attempts: list[int] = []

    def work(first: int, second: int) -> Any:
        met: list[int] = []

        def unit(place: Any) -> Any:
            attempts.append(first)
            fire_key(Order, first, "Ready", place)
            if not met:
                met.append(barrier.wait(10))
            return commit_with_fire_key(Order, second, "Ready", place)

        return run_transaction(sessionmaker(engine_of_ends) if place == "session" else engine_of_ends, unit)

    with ThreadPoolExecutor(2) as pool:
        moved = list(pool.map(work, keys, reversed(keys)))
    assert (len(moved), len(attempts)) == (2, 3)
    assert [len(steps(database, key)) for key in keys] == [2, 2]


# --- the number of packets


@pytest.mark.parametrize("named", ["with a token", "without a token"])
@pytest.mark.parametrize("place", ["session", "connection"])
def test_the_last_fire_and_its_commit_are_one_packet(packets: Engine, database: Engine, named: str, place: str) -> None:
    """A pool sends a ROLLBACK for each connection that a session gives back to it, after this or any other COMMIT."""
    key, other, deleted = create(database, Order), create(database, Order), create(database, Order, state="Deleted")
    given = (lambda: f"end {secrets.token_hex(8)}") if named == "with a token" else (lambda: None)
    with (
        counted(database.url, asking) as (engine, seen),
        Session(engine) if place == "session" else engine.connect() as opened,
    ):

        def sent(work: Callable[[], Any]) -> list[str]:
            seen.clear()
            work()
            return [statement for statement in seen if statement != "ROLLBACK"]

        commit_with_fire_key(Order, key, "Ready", opened)  # the engine's first packet asks the server a question before
        whole = sent(lambda: commit_with_fire_key(Order, key, "Ready", opened, token=given()))
        assert len(whole) == 1
        assert whole[0].endswith(";COMMIT")
        alone = sent(lambda: fire_key(Order, other, "Ready", opened))
        assert sent(lambda: commit_with_fire_key(Order, key, "Ready", opened, token=given()))[1:] == []
        assert len(alone) > 0
        assert len(sent(lambda: try_commit_with_fire_key(Order, deleted, "Ready", opened))) == 1
        # The connection's own COMMIT has nothing left to do, and is not sent.
        assert sent(opened.commit) == []
    assert len(steps(database, key)) == 3


def test_a_listener_of_a_session_of_one_engine_leaves_it_one_packet(packets: Engine, database: Engine) -> None:
    key = create(database, Order)
    with counted(database.url, asking) as (engine, seen), Session(engine) as session:
        event.listen(session, "before_commit", lambda session: seen.append("listener"))
        commit_with_fire_key(Order, key, "Ready", session)
        assert seen[seen.index("listener") + 1].endswith(";COMMIT")


@pytest.mark.parametrize("place", ["session", "connection"])
def test_a_connection_lost_before_the_first_packet_of_an_engine_commits_nothing(
    packets: Engine, database: Engine, place: str
) -> None:
    """Its first statement then is the question whether the server can take the packet."""
    key = create(database, Order)
    with packets.connect() as connection, Session(connection if place == "session" else None) as session:
        place_of_fire: Any = session if place == "session" else connection
        number = connection.scalar(text("SELECT CONNECTION_ID()"))
        connection.rollback()
        with database.connect() as another:
            another.exec_driver_sql(f"KILL {number}")
        with pytest.raises(TransactionAborted) as aborted:
            commit_with_fire_key(Order, key, "Ready", place_of_fire)
        assert aborted.value.retryable
        place_of_fire.rollback()
        assert commit_with_fire_key(Order, key, "Ready", place_of_fire).sequence == 1


@pytest.mark.parametrize("option", [{"stream_results": True}, {"yield_per": 10}])
def test_an_engine_that_streams_its_results(packets: Engine, database: Engine, option: Any, token: str) -> None:
    key = create(database, Order)
    engine = asking(database.url, execution_options=option)
    for given in (None, token):
        with Session(engine) as session:
            assert commit_with_fire_key(Order, key, "Ready", session, token=given).target == "Running"
            refused = try_commit_with_fire_key(Order, key, "Delete", session)
            assert isinstance(refused, Refused)
    with Session(engine) as session:
        assert commit_with_fire_key(Order, key, "Ready", session, token=token).replayed
    engine.dispose()


def test_a_column_may_ask_for_it(packets: Engine, database: Engine) -> None:
    beacon, order = create(database, Beacon), create(database, Order)
    with (
        counted(database.url, asking) as (engine, seen),
        Session(engine.execution_options(fsm_one_packet=None)) as session,
    ):
        for model, key, number in ((Beacon, beacon, 1), (Order, order, 3)):
            commit_with_fire_key(model, key, "Ready", session)
            seen.clear()
            assert commit_with_fire_key(model, key, "Ready", session).sequence == 2
            assert len([statement for statement in seen if statement != "ROLLBACK"]) == number


def test_a_refusal_is_no_error_to_listeners_of_errors(packets: Engine, database: Engine) -> None:
    """The server stops the packet by an error, which is an outcome."""
    deleted = create(database, Order, state="Deleted")
    heard: list[Any] = []
    event.listen(packets, "handle_error", heard.append)
    with Session(packets) as session:
        assert not try_commit_with_fire_key(Order, deleted, "Ready", session)
        assert session.scalar(select(Order.state).where(Order.id == deleted)) == "Deleted"
    assert heard == []


# --- errors


@pytest.mark.parametrize("place", ["session", "connection"])
@pytest.mark.parametrize("cut", [Cut.REQUEST_LOST, Cut.AT_ONCE, Cut.ANSWER_LOST, Cut.REQUEST_TORN, Cut.ANSWER_TORN])
def test_a_cut_inside_of_the_packet_is_an_unknown_outcome_with_all_tokens(
    database: Engine, packets: Engine, cut: Cut, place: str, token: str
) -> None:
    key, other = create(database, Order), create(database, Order)
    first = f"{token} of the first"

    def choose(statement: str) -> Cut:
        return cut if statement.endswith("COMMIT") and "@FSM_CODE" in statement else Cut.NEVER

    with proxy(database.url, choose) as between:
        engine = asking(between.url, connect_args=unencrypted(database.url))
        with Session(engine) if place == "session" else engine.connect() as opened:
            fire_key(Order, other, "Ready", opened, token=first)
            with pytest.raises(OutcomeUnknown) as unknown:
                commit_with_fire_key(Order, key, "Ready", opened, token=token)
            opened.rollback()
        engine.dispose()
    assert (unknown.value.token, unknown.value.tokens) == (token, [first, token])
    with Session(packets) as session:
        found = [find_by_token(Order.state, one, session) is not None for one in (first, token)]
    assert found[0] == found[1]
    assert [found[0]] * 2 == [stored(database, Order, one) == "Running" for one in (key, other)]
    assert [found[0]] * 2 == [len(steps(database, one)) == 1 for one in (key, other)]
    assert cut not in (Cut.REQUEST_LOST, Cut.REQUEST_TORN) or not found[0]
    assert cut not in (Cut.ANSWER_LOST, Cut.ANSWER_TORN) or found[0]


@pytest.mark.parametrize("place", ["session", "connection"])
def test_a_commit_that_is_lost_after_the_fire_has_its_token_too(
    database: Engine, packets: Engine, place: str, token: str
) -> None:
    """A listener that is added late has the fire and the COMMIT sent apart."""
    key, other = create(database, Order), create(database, Order)
    first = f"{token} of the first"

    def choose(statement: str) -> Cut:
        return Cut.ANSWER_LOST if statement == "COMMIT" else Cut.NEVER

    with proxy(database.url, choose) as between:
        engine = asking(between.url, connect_args=unencrypted(database.url))
        with Session(engine) if place == "session" else engine.connect() as opened:
            fire_key(Order, other, "Ready", opened, token=first)
            if isinstance(opened, Session):
                event.listen(opened, "before_commit", lambda session: _listen(session.connection()))
            else:
                _listen(engine)
            with pytest.raises(OutcomeUnknown) as unknown:
                commit_with_fire_key(Order, key, "Ready", opened, token=token)
        engine.dispose()
    assert unknown.value.tokens == [first, token]
    assert stored(database, Order, key) == "Running"


def _listen(place: Engine | Connection) -> None:
    event.listen(place, "commit", lambda _: None)


def test_a_lost_connection_within_a_unit_is_unknown_to_run_transaction(
    database: Engine, packets: Engine, token: str
) -> None:
    """A unit that is not idempotent must not run again; one that is finds its first outcome."""
    key, cuts = create(database, Order), [Cut.ANSWER_LOST, Cut.ANSWER_LOST]

    def choose(statement: str) -> Cut:
        return cuts.pop() if "@FSM_CODE" in statement and cuts else Cut.NEVER

    with proxy(database.url, choose) as between:
        engine = asking(between.url, connect_args=unencrypted(database.url))
        factory = sessionmaker(engine)
        with pytest.raises(OutcomeUnknown):
            run_transaction(factory, lambda session: commit_with_fire_key(Order, key, "Ready", session))
        again = run_transaction(
            factory,
            lambda session: commit_with_fire_key(Order, key, "Ready", session, token=token),
            idempotent=True,
        )
        engine.dispose()
    assert (again.replayed, len(steps(database, key))) == (True, 2)


@pytest.mark.parametrize("place", ["session", "connection", "session of a connection"])
def test_a_lock_timeout_commits_nothing(packets: Engine, database: Engine, place: str) -> None:
    """SQLAlchemy sends no ROLLBACK after a COMMIT that failed, so what the unit has done must be gone without."""
    key, other = create(database, Order), create(database, Order)
    with Session(database) as holding, packets.connect() as connection:
        connection.exec_driver_sql("SET SESSION innodb_lock_wait_timeout = 1")
        connection.rollback()
        fire_key(Order, key, "Ready", holding)
        opened: Any = connection if place == "connection" else Session(connection)
        fire_key(Order, other, "Ready", opened)
        with pytest.raises(LockTimeout):
            commit_with_fire_key(Order, key, "Ready", opened)
        opened.rollback()
        assert opened.scalar(text("SELECT 42")) == 42
        assert commit_with_fire_key(Order, other, "Ready", opened).sequence == 1
        opened.close()
    with packets.connect() as connection:
        connection.exec_driver_sql("SET SESSION innodb_lock_wait_timeout = DEFAULT")
    assert (steps(database, key), len(steps(database, other))) == ([], 1)


def test_a_lock_timeout_of_the_history_row_commits_nothing(packets: Engine, database: Engine, token: str) -> None:
    """The UPDATE has moved the row, and the INSERT waits for a token that another transaction holds."""
    key, other = create(database, Order), create(database, Order)
    with Session(database) as holding, Session(packets) as session:
        fire_key(Order, other, "Ready", holding, token=token)
        session.execute(text("SET SESSION innodb_lock_wait_timeout = 1"))
        with pytest.raises((LockTimeout, TransactionAborted)):
            commit_with_fire_key(Order, key, "Ready", session, token=token)
        session.rollback()
        session.execute(text("SET SESSION innodb_lock_wait_timeout = DEFAULT"))
    assert (stored(database, Order, key), steps(database, key)) == ("Initializing", [])


def test_a_driver_without_multi_statements_sends_the_two_apart(database: Engine, backend: str) -> None:
    if database.url.get_driver_name() not in ("pymysql", "mysqldb") or backend == "locking":
        pytest.skip("only mysqlclient and PyMySQL can connect without the flag")
    without = {"multi_statements": False} if database.url.get_driver_name() == "mysqldb" else {}
    key = create(database, Order)
    engine = make_engine(database.url, execution_options={"fsm_one_packet": True}, connect_args=without)
    with Session(engine) as session:
        assert commit_with_fire_key(Order, key, "Ready", session).sequence == 1
    engine.dispose()
    assert len(steps(database, key)) == 1


def _object_listener(engine: Engine) -> None:
    event.listen(engine, "before_execute", lambda *_: None)


def _commit_listener(engine: Engine) -> None:
    def write(connection: Connection) -> None:
        connection.exec_driver_sql("UPDATE recorded_order SET note = 'of the listener' WHERE note = 'mine'")

    event.listen(engine, "commit", write)


def _execute_listener(engine: Engine) -> None:
    def send(cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
        cursor.execute(statement, parameters)
        return True

    event.listen(engine, "do_execute", send)


@pytest.mark.parametrize("listen", [_object_listener, _commit_listener, _execute_listener])
def test_with_listeners_the_two_go_out_apart(
    packets: Engine, database: Engine, listen: Callable[[Engine], None], token: str
) -> None:
    key = create(database, Order)
    with counted(database.url, asking) as (engine, seen), Session(engine) as session:
        assert commit_with_fire_key(Order, key, "Ready", session).sequence == 1
        listen(engine)
        session.execute(text("UPDATE recorded_order SET note = 'mine' WHERE id = :key"), {"key": key})
        assert commit_with_fire_key(Order, key, "Ready", session, token=token).sequence == 2
        assert "COMMIT" in seen[-2:]  # and a ROLLBACK of the pool
    assert stored(database, Order, key, "note") == ("of the listener" if listen is _commit_listener else "mine")


@pytest.mark.parametrize("name", ["commit", "before_execute"])
def test_a_listener_that_the_commit_itself_has_added_is_called(packets: Engine, database: Engine, name: str) -> None:
    key, heard = create(database, Order), []

    def listen(session: Session) -> None:
        event.listen(session.connection(), name, lambda *_: heard.append(name))

    with Session(packets) as session:
        event.listen(session, "before_commit", listen)
        assert commit_with_fire_key(Order, key, "Ready", session).sequence == 1
    assert heard
    assert stored(database, Order, key) == "Running"


def test_a_listener_that_changes_the_packet_makes_the_outcome_unknown(
    packets: Engine, database: Engine, token: str
) -> None:
    """Then the answers are not those of the packet, and nothing may be read from them."""
    key = create(database, Order)

    @event.listens_for(packets, "before_cursor_execute", retval=True)
    def _cut(conn: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
        return statement.removesuffix(";COMMIT"), parameters

    with Session(packets) as session:
        with pytest.raises(OutcomeUnknown) as unknown:
            commit_with_fire_key(Order, key, "Ready", session, token=token)
        assert isinstance(unknown.value.__cause__, InterfaceError)
        assert "before_cursor_execute" in str(unknown.value.__cause__)
        session.rollback()
    assert steps(database, key) == []


def test_an_exception_of_a_signal_leaves_no_answer_unread(packets: Engine, database: Engine) -> None:
    key, other = create(database, Order), create(database, Order)
    with Session(database) as holding, Session(packets) as session:
        commit_with_fire_key(Order, other, "Ready", session)  # the connection is made before the limit
        session.connection()
        fire_key(Order, key, "Ready", holding)
        timer = threading.Timer(0.4, holding.rollback)
        timer.start()
        with suppress(JobTimeout), time_limit(0.1):
            commit_with_fire_key(Order, key, "NotReady", session)
        timer.join()
        session.rollback()
    with Session(packets) as session:
        assert commit_with_fire_key(Order, other, "Stop", session).target == "Stopped"
        assert session.scalar(text("SELECT 42")) == 42
    assert len(steps(database, key)) in (0, 1)  # the packet is committed as a whole, or not at all


def test_a_trigger_on_the_table_hides_nothing(packets: Engine, database: Engine) -> None:
    """An UPDATE trigger takes the code out of the UPDATE's answer, so the packet asks for it before its COMMIT."""
    key, name = create(database, Order), f"fsm_test_{secrets.token_hex(4)}"
    with database.begin() as connection:
        connection.execute(
            text(f"CREATE TRIGGER {name} BEFORE UPDATE ON recorded_order FOR EACH ROW SET NEW.note = 'seen'")
        )
    try:
        with Session(packets) as session:
            moves = [commit_with_fire_key(Order, key, one, session) for one in ("Ready", "NotReady", "NotReady")]
            refused = try_commit_with_fire_key(Order, key, "Delete", session)
    finally:
        with database.begin() as connection:
            connection.execute(text(f"DROP TRIGGER {name}"))
    assert [(moved.source, moved.sequence) for moved in moves] == [("Initializing", 1), ("Running", 2), ("Error", 3)]
    assert isinstance(refused, Refused)


def test_a_missing_row_is_not_found_after_a_move(packets: Engine, database: Engine) -> None:
    """The server's session remembers the code of the last move; a missing row must not be recorded by it."""
    key = create(database, Order)
    with packets.connect() as connection:
        fire_key(Order, key, "Ready", connection)
        with pytest.raises(RowNotFound):
            commit_with_fire_key(Order, HIGHEST + 11, "Ready", connection)
        connection.rollback()
    assert (steps(database, HIGHEST + 11), steps(database, key)) == ([], [])


# --- many at once


def test_moves_of_many_threads_are_numbered_without_a_gap(packets: Engine, database: Engine) -> None:
    key, names = create(database, Order), ("Ready", "NotReady", "Delete")

    def work(number: int) -> int:
        moved = 0
        with Session(packets) as session:
            for i in range(25):
                with suppress(TransactionAborted):
                    moved += bool(try_commit_with_fire_key(Order, key, names[(number + i) % 3], session))
                session.rollback()
        return moved

    with ThreadPoolExecutor(6) as pool:
        moved = sum(pool.map(work, range(6)))
    history = steps(database, key)
    assert list(range(1, moved + 1)) == [step[0] for step in history]
    assert all(before[3] == after[2] for before, after in zip(history, history[1:], strict=False))


# --- asyncio


@pytest.mark.servers_only
@pytest.mark.parametrize("driver", installed_drivers(ASYNCIO_DRIVERS))
def test_async_sessions_and_connections(packets: Engine, database: Engine, driver: str, token: str) -> None:
    key, deleted = create(database, Order), create(database, Order, state="Deleted")
    url = database.url.set(drivername=f"mysql+{driver}")

    async def work() -> None:
        engine = create_async_engine(url, execution_options={"fsm_one_packet": True})
        try:
            async with AsyncSession(engine) as session:
                order = await session.get_one(Order, key)
                assert (await commit_with_fire(order, "Ready", session, token=token)).sequence == 1
                assert not session.in_transaction()
                assert (await commit_with_fire_key(Order, key, "Ready", session, token=token)).replayed
                assert not await try_commit_with_fire_key(Order, deleted, "Ready", session)
                with pytest.raises(TransitionNotAllowed):
                    await commit_with_fire_key(Order, deleted, "Ready", session)
            async with engine.connect() as connection:
                assert (await commit_with_fire_key(Order, key, "Ready", connection)).sequence == 2
            with Session(database) as holding:  # a caller that gives up within the packet
                fire_key(Order, key, "Ready", holding)
                async with AsyncSession(engine) as session:
                    with suppress(asyncio.TimeoutError, DBAPIError):
                        await asyncio.wait_for(_fired(key, session), 0.2)
                holding.rollback()
            async with AsyncSession(engine) as session:
                assert (await commit_with_fire_key(Order, key, "Stop", session)).target == "Stopped"
        finally:
            await engine.dispose()

    asyncio.run(work())
    history = steps(database, key)
    assert list(range(1, len(history) + 1)) == [step[0] for step in history]


async def _fired(key: int, session: AsyncSession) -> Any:
    return await commit_with_fire_key(Order, key, "Ready", session)
