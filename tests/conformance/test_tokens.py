"""A token makes a fire idempotent: exactly one moves, whoever repeats it and however many at once."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable
from concurrent import futures
from typing import Any

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from sqlalchemy_fsm_mysql import (
    Moved,
    RowNotFound,
    TokenConflict,
    TransactionAborted,
    TransitionNotAllowed,
    find_by_token,
    fire_key,
    on_moved,
    remove_hook,
    try_fire_key,
)
from tests.conformance.history_models import Base, Light, Order, OrderTransition, Parcel, Payment, Plain, Signal
from tests.conformance.session_support import create, stored
from tests.conformance.support import counting


@pytest.fixture
def token() -> str:
    """One that no other test has used."""
    return f"request {secrets.token_hex(8)}"


def recorded(engine: Engine, token: str) -> int:
    """How many committed rows carry *token*."""
    history = OrderTransition.__table__.c
    with engine.connect() as connection:
        return connection.execute(select(func.count()).where(history.token == token)).scalar_one()


def number_of_steps(engine: Engine, key: int) -> int:
    history = OrderTransition.__table__.c
    with engine.connect() as connection:
        return connection.execute(select(func.count()).where(history.record_id == key)).scalar_one()


# --- replay


def test_the_second_time_the_first_outcome_is_returned_and_nothing_moves(
    mine: Session, theirs: Session, database: Engine, token: str
) -> None:
    key = create(database, Order)
    first = fire_key(Order, key, "Ready", mine, token=token, actor="Ada", details={"n": 1})
    mine.commit()
    again = fire_key(Order, key, "Ready", theirs, token=token, actor="Bob")
    theirs.commit()

    assert (first.replayed, again.replayed) == (False, True)
    assert (
        again.source,
        again.target,
        again.sequence,
        again.actor,
        again.details,
    ) == ("Initializing", "Running", 1, "Ada", {"n": 1})
    assert (number_of_steps(database, key), stored(database, Order, key)) == (1, "Running")


def test_a_replay_is_told_although_the_row_has_gone_on(mine: Session, database: Engine, token: str) -> None:
    key = create(database, Order)
    fire_key(Order, key, "Ready", mine, token=token)
    fire_key(Order, key, "Stop", mine)
    mine.commit()
    again = fire_key(Order, key, "Ready", mine, token=token)

    assert (again.replayed, again.source, again.target) == (True, "Initializing", "Running")
    assert mine.get_one(Order, key).state == "Stopped"


def test_an_instance_shows_the_rows_state_after_a_replay_and_not_the_outcomes(
    mine: Session, theirs: Session, database: Engine, token: str
) -> None:
    order = mine.get_one(Order, create(database, Order))
    mine.rollback()
    fire_key(Order, order.id, "Ready", theirs, token=token)
    fire_key(Order, order.id, "Stop", theirs)
    theirs.commit()
    again = order.fire("Ready", mine, token=token)

    assert ("Running", order, "Stopped") == (again.target, again.instance, order.state)


def test_a_replay_by_key_brings_the_instance_up_to_date_too(
    mine: Session, theirs: Session, database: Engine, token: str
) -> None:
    key = create(database, Order)
    order = mine.get_one(Order, key)
    mine.rollback()
    fire_key(Order, key, "Ready", theirs, token=token)
    fire_key(Order, key, "Stop", theirs)
    theirs.commit()
    fire_key(Order, key, "Ready", mine, token=token)

    assert order.__dict__["state"] == "Stopped"


def test_within_one_transaction_a_token_is_replayed_too(mine: Session, database: Engine, token: str) -> None:
    key = create(database, Order)
    fire_key(Order, key, "NotReady", mine, token=token)

    assert fire_key(Order, key, "NotReady", mine, token=token).replayed
    assert mine.scalar(select(func.count()).where(OrderTransition.record_id == key)) == 1


def test_a_replay_after_the_row_was_deleted_is_still_told(mine: Session, database: Engine, token: str) -> None:
    key = create(database, Order)
    fire_key(Order, key, "Ready", mine, token=token)
    mine.delete(mine.get_one(Order, key))
    mine.commit()

    assert fire_key(Order, key, "Ready", mine, token=token).replayed


def test_a_replay_takes_back_what_it_did_and_nothing_else(
    mine: Session, theirs: Session, database: Engine, token: str
) -> None:
    key, other = create(database, Order), create(database, Order)
    fire_key(Order, key, "NotReady", theirs, token=token)
    theirs.commit()
    fire_key(Order, other, "Stop", mine)
    fire_key(Order, key, "NotReady", mine, token=token)
    mine.commit()

    assert (
        stored(database, Order, other),
        number_of_steps(database, other),
        number_of_steps(database, key),
    ) == ("Stopped", 1, 1)


def test_effects_of_a_replay_are_not_applied_twice(mine: Session, database: Engine, token: str) -> None:
    payment = mine.get_one(Payment, create(database, Payment))
    payment.fire("Refund", mine, token=token, amount=30)
    mine.commit()
    again = payment.fire("Refund", mine, token=token, amount=30)

    assert (again.replayed, again.payload, payment.total) == (True, {"amount": 30}, 70)


def test_a_replay_of_enum_states_and_of_a_composite_key_compares_as_the_first(
    mine: Session, database: Engine, token: str
) -> None:
    mine.add_all([Signal(name=token), Parcel(depot="Köln", number=7)])
    mine.flush()
    firsts = [
        fire_key(Signal, token, "Go", mine, token=token),
        fire_key(Parcel, ("Köln", 7), "Ready", mine, token=token),
    ]
    agains = [
        fire_key(Signal, token, "Go", mine, token=token),
        fire_key(Parcel, {"depot": "Köln", "number": 7}, "Ready", mine, token=token),
    ]

    assert (agains[0].source, agains[0].target) == (Light.RED, Light.GREEN)
    assert [(m.model, m.key, m.source, m.target, m.sequence) for m in firsts] == [
        (m.model, m.key, m.source, m.target, m.sequence) for m in agains
    ]


# --- another row, another event


@pytest.mark.parametrize("rows", ["the same row", "another row"])
def test_a_token_of_another_event_or_row_is_a_conflict_that_says_so(
    mine: Session, database: Engine, token: str, rows: str
) -> None:
    key = create(database, Order)
    other = key if rows == "the same row" else create(database, Order)
    fire_key(Order, key, "Ready", mine, token=token)
    mine.commit()
    with pytest.raises(TokenConflict) as conflict:
        fire_key(Order, other, "Stop", mine, token=token)

    assert (token, other, "Stop") == (conflict.value.token, conflict.value.key, conflict.value.event)
    assert f"its token was used before, for 'Ready' on recorded_order {key}" in str(conflict.value)
    mine.commit()
    assert number_of_steps(database, other) == (1 if other == key else 0)


def test_a_refused_event_with_anothers_token_is_a_conflict_too(mine: Session, database: Engine, token: str) -> None:
    key, deleted = create(database, Order), create(database, Order, state="Deleted")
    fire_key(Order, key, "Ready", mine, token=token)

    with pytest.raises(TokenConflict):
        fire_key(Order, deleted, "Ready", mine, token=token)


# --- what stores no token


def test_a_refused_events_token_is_not_stored(mine: Session, database: Engine, token: str) -> None:
    deleted, order = create(database, Order, state="Deleted"), create(database, Order)
    with pytest.raises(TransitionNotAllowed):
        fire_key(Order, deleted, "Ready", mine, token=token)
    assert not try_fire_key(Order, deleted, "Ready", mine, token=token)
    with pytest.raises(RowNotFound):
        fire_key(Order, 2**31 - 2, "Ready", mine, token=token)
    mine.commit()

    assert recorded(database, token) == 0
    assert not fire_key(Order, order, "Ready", mine, token=token).replayed


def test_a_token_of_a_rolled_back_fire_is_free_again(mine: Session, database: Engine, token: str) -> None:
    key, other = create(database, Order), create(database, Order)
    fire_key(Order, key, "Ready", mine, token=token)
    mine.rollback()

    assert not fire_key(Order, other, "Stop", mine, token=token).replayed


def test_a_token_of_a_rolled_back_savepoint_is_free_again(mine: Session, database: Engine, token: str) -> None:
    key, other = create(database, Order), create(database, Order)
    fire_key(Order, key, "NotReady", mine)
    savepoint = mine.begin_nested()
    fire_key(Order, key, "Ready", mine, token=token)
    savepoint.rollback()

    assert not fire_key(Order, other, "Stop", mine, token=token).replayed


def test_without_a_token_nothing_is_looked_up(mine: Session, database: Engine) -> None:
    key, other = create(database, Order), create(database, Order)
    fire_key(Order, other, "Ready", mine)
    with counting(mine.connection()) as sent:
        fire_key(Order, key, "Ready", mine)
    without = sent.number
    with counting(mine.connection()) as sent:
        fire_key(Order, key, "NotReady", mine, token=secrets.token_hex(8))

    assert without + 1 == sent.number


# --- what is no token


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("", ValueError, "1 to 64 printable characters"),
        ("x" * 65, ValueError, r"1 to 64 printable characters.*\(65\)"),
        ("tab\there", ValueError, "printable"),
        ("line\n", ValueError, "printable"),
        ("nul\0", ValueError, "printable"),
        ("\ud800", ValueError, "printable"),
        (b"bytes", TypeError, "a token is a string, not bytes"),
        (42, TypeError, "a token is a string, not int"),
    ],
)
def test_what_can_be_no_token_is_refused_before_any_sql(
    mine: Session, database: Engine, given: Any, error: Any, message: str
) -> None:
    order = mine.get_one(Order, create(database, Order))
    with counting(mine.connection()) as sent:
        with pytest.raises(error, match=message):
            fire_key(Order, order.id, "Ready", mine, token=given)
        with pytest.raises(error, match=message):
            order.try_fire("Ready", mine, token=given)
        with pytest.raises(error, match=message):
            find_by_token(Order.state, given, mine)

    assert sent.number == 0


def test_a_token_needs_a_history_to_keep_it(mine: Session, database: Engine, token: str) -> None:
    key = create(database, Plain)
    with pytest.raises(TypeError, match="Plain.state has none"):
        fire_key(Plain, key, "Ready", mine, token=token)
    with pytest.raises(TypeError, match="Plain.state has none"):
        find_by_token(Plain.state, token, mine)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a", "A"),
        ("a", "a "),
        ("e", "é"),
        ("é", "e\u0301"),
        ("ss", "ß"),
        ("x", " x"),
        ("🍋" * 64, "🍋" * 63),
        ("%", "_"),
        ("'", "\\'"),
    ],
)
def test_tokens_that_differ_at_all_are_different_tokens(mine: Session, database: Engine, one: str, other: str) -> None:
    key = create(database, Order)
    fire_key(Order, key, "NotReady", mine, token=one)

    assert find_by_token(Order.state, other, mine) is None
    assert not fire_key(Order, key, "NotReady", mine, token=other).replayed
    assert fire_key(Order, key, "NotReady", mine, token=one).replayed
    found = [find_by_token(Order.state, token, mine) for token in (one, other)]
    assert [(one, 1), (other, 2)] == [(moved.token, moved.sequence) for moved in found]


# --- find_by_token


def test_a_committed_token_is_found_from_anywhere(mine: Session, theirs: Session, database: Engine, token: str) -> None:
    key = create(database, Order)
    fire_key(Order, key, "Ready", mine, token=token)
    mine.commit()
    found = find_by_token(Order.state, token, theirs)

    assert (key, "Ready", "Initializing", "Running", token, True, 1) == (
        found.key, found.event, found.source, found.target, found.token, found.replayed, found.sequence,
    )  # fmt: skip


def test_an_unknown_token_is_none(mine: Session, database: Engine, token: str) -> None:
    assert find_by_token(Order.state, token, mine) is None


def test_an_async_session_fires_once_and_finds_the_token(tmp_path: Any, token: str) -> None:
    async def work() -> list[Moved[Any] | None]:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/async.db")
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with AsyncSession(engine) as session:
            session.add(Order(id=1))
            first = await fire_key(Order, 1, "Ready", session, token=token)
            await session.commit()
            again = await fire_key(Order, 1, "Ready", session, token=token)
            found = await find_by_token(Order.state, token, session)
        await engine.dispose()
        return [first, again, found]

    first, again, found = asyncio.run(work())
    assert [first.replayed, again.replayed, found.replayed] == [False, True, True]
    assert (found.source, found.target, found.sequence) == ("Initializing", "Running", 1)


# --- two at once


def is_waiting(future: futures.Future[Any]) -> bool:
    """Whether it is still at it after a while that would do for a hundred statements."""
    try:
        future.exception(timeout=0.1)
    except futures.TimeoutError:
        return True
    return False


def in_transaction(engine: Engine, work: Callable[[Session], Any]) -> Any:
    """What *work* returns, in a session of its own, committed."""
    with Session(engine) as session:
        result = work(session)
        session.commit()
        return result


@pytest.mark.servers_only
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_find_by_token_waits_for_a_commit_in_flight(mine: Session, database: Engine, token: str, end: str) -> None:
    key = create(database, Order)
    fire_key(Order, key, "Ready", mine, token=token)
    with futures.ThreadPoolExecutor(1) as pool:
        found = pool.submit(in_transaction, database, lambda session: find_by_token(Order.state, token, session))
        waited = is_waiting(found)
        getattr(mine, end)()

        assert (True, end == "commit") == (waited, found.result(10) is not None)


@pytest.mark.servers_only
@pytest.mark.parametrize("end", ["commit", "rollback"])
@pytest.mark.parametrize("event", ["NotReady", "Ready"])
def test_of_two_on_one_row_the_second_waits_and_is_told_of_the_first(
    mine: Session, database: Engine, token: str, end: str, event: str
) -> None:
    key = create(database, Order)
    fire_key(Order, key, event, mine, token=token)
    with futures.ThreadPoolExecutor(1) as pool:
        second = pool.submit(
            in_transaction, database, lambda session: fire_key(Order, key, event, session, token=token)
        )
        waited = is_waiting(second)
        getattr(mine, end)()

        assert (True, end == "commit") == (waited, second.result(10).replayed)
    assert (number_of_steps(database, key), recorded(database, token)) == (1, 1)


@pytest.mark.servers_only
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_of_two_on_different_rows_the_second_waits_for_the_first(
    mine: Session, database: Engine, token: str, end: str
) -> None:
    key, other = create(database, Order), create(database, Order)
    fire_key(Order, key, "Ready", mine, token=token)
    with futures.ThreadPoolExecutor(1) as pool:
        second = pool.submit(
            in_transaction, database, lambda session: fire_key(Order, other, "Ready", session, token=token)
        )
        waited = is_waiting(second)
        getattr(mine, end)()

        error = second.exception(10)
        assert (True, end == "commit") == (waited, isinstance(error, TokenConflict))
    assert recorded(database, token) == 1
    assert (end == "rollback") == bool(number_of_steps(database, other))


@pytest.mark.servers_only
@pytest.mark.parametrize("rows", ["one row", "a row each"])
def test_of_many_at_once_exactly_one_moves(database: Engine, schemas: None, token: str, rows: str) -> None:
    keys = [create(database, Order)] * 4 if rows == "one row" else [create(database, Order) for _ in range(4)]
    start = threading.Barrier(4)

    def once(key: int) -> str:
        start.wait(10)
        while True:
            try:
                moved = in_transaction(database, lambda session: fire_key(Order, key, "NotReady", session, token=token))
            except TokenConflict:
                return "conflict"
            except TransactionAborted:
                continue
            return "replayed" if moved.replayed else "moved"

    with futures.ThreadPoolExecutor(4) as pool:
        told = list(pool.map(once, keys))

    other = "replayed" if rows == "one row" else "conflict"
    assert sorted(["moved", other, other, other]) == sorted(told)
    assert (recorded(database, token), sum(number_of_steps(database, key) for key in set(keys))) == (1, 1)


@pytest.mark.servers_only
def test_a_snapshot_does_not_hide_a_token(mine: Session, theirs: Session, database: Engine, token: str) -> None:
    """Under REPEATABLE READ a plain read would miss what was committed after the transaction's first."""
    key = create(database, Order)
    with Session(database) as session:
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        session.scalars(select(Order.state).where(Order.id == key)).one()
        fire_key(Order, key, "Ready", theirs, token=token)
        theirs.commit()
        try:
            found = find_by_token(Order.state, token, session)
        except TransactionAborted as error:
            assert error.code == 1020  # MariaDB says that the snapshot is too old, and the next transaction finds it
            session.rollback()
            found = find_by_token(Order.state, token, session)

    assert found is not None


# --- hooks of a fire with a token


def test_an_integrity_error_of_a_hook_is_no_replay_and_undoes_nothing(
    mine: Session, database: Engine, token: str
) -> None:
    """The hook's own statement broke a constraint: that propagates, and the move stays, in memory and in the row."""
    order = mine.get_one(Order, create(database, Order))

    @on_moved(Order.state)
    def breaks(moved: Moved[Order], session: Session) -> None:
        session.connection().execute(Order.__table__.insert().values(id=moved.key))

    try:
        with pytest.raises(IntegrityError):
            order.fire("Ready", mine, token=token)
    finally:
        remove_hook(Order.state, breaks)
    mine.commit()

    assert (order.state, stored(database, Order, order.id), recorded(database, token)) == ("Running", "Running", 1)


def test_a_hook_may_fire_with_a_token_of_its_own(mine: Session, database: Engine, token: str) -> None:
    key, other = create(database, Order), create(database, Order)
    inner = f"{token}!"

    @on_moved(Order.state, event="Ready")
    def cascade(moved: Moved[Order], session: Session) -> None:
        fire_key(Order, other, "Stop", session, token=inner)

    try:
        fire_key(Order, key, "Ready", mine, token=token)
        again = fire_key(Order, key, "Ready", mine, token=token)
    finally:
        remove_hook(Order.state, cascade)
    mine.commit()

    assert again.replayed
    assert (recorded(database, token), recorded(database, inner), stored(database, Order, other)) == (1, 1, "Stopped")


def test_a_replay_calls_no_hook(mine: Session, database: Engine, token: str) -> None:
    key = create(database, Order)
    fire_key(Order, key, "Ready", mine, token=token)
    called: list[Any] = []

    @on_moved(Order.state)
    def note(moved: Moved[Order], session: Session) -> None:
        called.append(moved)

    try:
        fire_key(Order, key, "Ready", mine, token=token)
    finally:
        remove_hook(Order.state, note)

    assert called == []
