"""A Coalescer: many callers' fires in one transaction, and to each caller its own outcome."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, inspect, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import Session

from sqlalchemy_fsm_mysql import (
    Coalescer,
    GuardNotSatisfied,
    LockTimeout,
    Moved,
    OutcomeUnknown,
    Refused,
    RowNotFound,
    TransitionNotAllowed,
    UnknownEvent,
    fire_key,
    on_committed,
    on_moved,
    remove_hook,
)
from sqlalchemy_fsm_mysql.observation import Attempt, observe, stop_observing
from tests.conformance import session_models as plain
from tests.conformance.history_models import Order, OrderTransition, Parcel, Payment
from tests.conformance.session_support import HIGHEST, create, is_sqlite, statements, stored
from tests.faults.proxy import Cut, proxy, unencrypted
from tests.servers import ASYNCIO_DRIVERS, installed_drivers, is_async, make_engine

MULTI_STATEMENTS = 1 << 16
SOON = timedelta(milliseconds=30)
"""Long enough for all threads of a test to call, so that their fires are one batch."""


@pytest.fixture(params=["packets", "statements"])
def coalesced(request: pytest.FixtureRequest, database: Engine) -> Iterator[Engine]:
    """The engine that a coalescer is given: with packets where the database can, and without."""
    if is_async(database.url):
        pytest.skip("asyncio has tests of its own")
    if request.param == "packets" and database.get_execution_options().get("fsm_backend"):
        pytest.skip("the locking read is several statements")
    if is_sqlite(database):
        if request.param == "packets":
            pytest.skip("SQLite takes one statement at a time")
        yield database
        return
    made = make_engine(
        database.url,
        connect_args=multi_statements(database.url.get_driver_name(), request.param == "packets"),
        execution_options=dict(database.get_execution_options()),
    )
    yield made
    made.dispose()


def multi_statements(driver: str, wanted: bool) -> dict[str, Any]:
    if driver == "mysqldb":
        return {"multi_statements": wanted}
    return {"client_flag": MULTI_STATEMENTS} if wanted and driver == "pymysql" else {}


@pytest.fixture
def packets(coalesced: Engine, request: pytest.FixtureRequest) -> Engine:
    """Where batches are packets."""
    chosen = dict(coalesced.get_execution_options())
    if is_sqlite(coalesced) or "statements" in request.node.name or chosen.get("fsm_backend"):
        pytest.skip("SQLite and the locking read send single statements, and this test counts packets")
    return coalesced


@pytest.fixture
def token() -> str:
    return f"coalesced {secrets.token_hex(8)}"


def steps(database: Engine, key: Any) -> list[tuple[Any, ...]]:
    table = inspect(OrderTransition).local_table.c
    query = select(table.sequence, table.event, table.source, table.target, table.actor, table.token)
    with database.connect() as connection:
        return [tuple(row) for row in connection.execute(query.where(table.record_id == key).order_by(table.sequence))]


def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """The results of *calls*, each made by a thread of its own; an error is a result."""

    def result(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - the result
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(result, calls))


# --- outcomes


def test_each_caller_has_its_own_outcome(coalesced: Engine, database: Engine) -> None:
    keys = [create(database, Order) for _ in range(6)]
    deleted, missing = create(database, Order, state="Deleted"), HIGHEST + 3
    with Coalescer(coalesced, max_wait=SOON) as fires:
        results = at_once(
            [
                *(lambda key=key: fires.fire_key(Order, key, "Ready", actor=str(key)) for key in keys),
                lambda: fires.fire_key(Order, deleted, "Ready"),
                lambda: fires.try_fire_key(Order, deleted, "Ready"),
                lambda: fires.fire_key(Order, missing, "Ready"),
            ]
        )
        figures = fires.figures
    assert [(key, "Initializing", "Running", 1, str(key)) for key in keys] == [
        (one.key, one.source, one.target, one.sequence, one.actor) for one in results[:6]
    ]
    assert [TransitionNotAllowed, Refused, RowNotFound] == [type(one) for one in results[6:]]
    assert (results[6].state, results[7].state) == ("Deleted", "Deleted")
    assert all(stored(database, Order, key) == "Running" for key in keys)
    assert all([(1, "Ready", "Initializing", "Running", str(key), None)] == steps(database, key) for key in keys)
    assert steps(database, deleted) == []
    assert (figures.moved, figures.refused, figures.failed, figures.fires) == (6, 2, 1, 9)
    assert figures.batches < 9


def test_fires_on_one_row_are_numbered_in_order(coalesced: Engine, database: Engine) -> None:
    key = create(database, Order)
    with Coalescer(coalesced, max_wait=SOON) as fires:
        results = at_once([lambda: fires.fire_key(Order, key, "Ready")] * 12)

    assert sorted(one.sequence for one in results) == list(range(1, 13))
    assert sum(one.source == "Initializing" for one in results) == 1
    assert len(steps(database, key)) == 12


def test_it_returns_after_the_commit(coalesced: Engine, database: Engine) -> None:
    key = create(database, Order)
    with Coalescer(coalesced) as fires:
        fires.fire_key(Order, key, "Ready")

        assert stored(database, Order, key) == "Running"
        fires.fire_key(Order, key, "Stop")
        assert stored(database, Order, key) == "Stopped"


def test_an_engine_of_execution_options_will_do(coalesced: Engine, database: Engine) -> None:
    """SQLAlchemy before 2.0.31 refuses an isolation level to an engine that is made of one with execution options."""
    optioned = coalesced.execution_options(logging_token="web", isolation_level="AUTOCOMMIT")
    keys = [create(database, Order) for _ in range(2)]
    began: list[str] = []

    def moved(one: Moved[Order], connection: Connection) -> None:  # which runs its fire alone, in a transaction
        began.append(f"{connection.get_execution_options()['logging_token']} {connection.get_isolation_level()}")

    with Coalescer(optioned, max_wait=SOON) as fires:
        at_once([lambda key=key: fires.fire_key(Order, key, "Ready") for key in keys])
        on_moved(Order.state)(moved)
        try:
            fires.fire_key(Order, keys[0], "Stop")
        finally:
            remove_hook(Order.state, moved)
    assert [stored(database, Order, key) for key in keys] == ["Stopped", "Running"]
    assert began == ["web " + ("SERIALIZABLE" if is_sqlite(database) else "READ COMMITTED")]


def test_models_events_guards_and_payload_share_a_batch(coalesced: Engine, database: Engine) -> None:
    order, payment, poor = (
        create(database, Order),
        create(database, Payment, total=50),
        create(database, Payment, total=9),
    )
    parcel = create(database, Parcel, depot=f"d{secrets.token_hex(3)}")
    unrecorded = create(database, plain.Order)
    with Coalescer(coalesced, max_wait=SOON) as fires:
        results = at_once(
            [
                lambda: fires.fire_key(Order, order, "Stop"),
                lambda: fires.fire_key(Payment, payment, "Refund", amount=20),
                lambda: fires.fire_key(Payment, poor, "Refund", amount=20),
                lambda: fires.fire_key(Parcel, parcel, "Ready"),
                lambda: fires.fire_key(plain.Order, unrecorded, "Ready"),
                lambda: fires.fire_key(Order, HIGHEST + 5, "Stop"),
            ]
        )
    assert [results[i].target for i in (0, 1, 3, 4)] == ["Stopped", "Paid", "Running", "Running"]
    assert isinstance(results[2], GuardNotSatisfied)
    assert isinstance(results[5], RowNotFound)
    assert stored(database, Payment, payment, "state", "total") == ("Paid", 30)
    assert (results[4].sequence, results[0].sequence) == (None, 1)


def test_wrong_arguments_are_refused_before_they_wait(coalesced: Engine) -> None:
    with Coalescer(coalesced) as fires:
        with pytest.raises(UnknownEvent):
            fires.fire_key(Order, 1, "Nothing")
        with pytest.raises(TypeError):
            fires.fire_key(Order, "1", "Ready")
        with pytest.raises(TypeError):
            fires.fire_key(Payment, 1, "Refund")
        assert fires.figures.fires == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_batch": 0},
        {"max_batch": 1.5},
        {"max_wait": 0.002},
        {"max_wait": timedelta(seconds=-1)},
        {"max_pending": True},
    ],
)
def test_wrong_limits_are_refused(database: Engine, wrong: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        Coalescer(database, **wrong)


# --- tokens


def test_a_token_moves_the_row_once(coalesced: Engine, database: Engine, token: str) -> None:
    """Also when both fires are in one batch, whose second history row the unique index refuses."""
    key, other = create(database, Order), create(database, Order)
    with Coalescer(coalesced, max_wait=SOON) as fires:
        results = at_once(
            [
                lambda: fires.fire_key(Order, key, "Ready", token=token),
                lambda: fires.fire_key(Order, key, "Ready", token=token),
                lambda: fires.fire_key(Order, other, "Ready"),
            ]
        )
        later = fires.fire_key(Order, key, "Ready", token=token)
    assert sorted(one.replayed for one in results[:2]) == [False, True]
    assert later.replayed
    assert results[2].target == "Running"
    assert len(steps(database, key)) == 1


# --- errors


def test_a_poisoned_fire_fails_alone(coalesced: Engine, database: Engine) -> None:
    """The server refuses the UPDATE of one row, by a trigger; the others of its batch are moved."""
    keys = [create(database, Order) for _ in range(5)]
    name = f"fsm_test_{secrets.token_hex(4)}"
    if is_sqlite(database):
        body = f"WHEN NEW.id = {keys[2]} BEGIN SELECT RAISE(ABORT, 'poisoned'); END"
        made = f"CREATE TRIGGER {name} BEFORE UPDATE ON recorded_order {body}"
    else:
        body = f"IF NEW.id = {keys[2]} THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'poisoned'; END IF"
        made = f"CREATE TRIGGER {name} BEFORE UPDATE ON recorded_order FOR EACH ROW {body}"
    with database.begin() as connection:
        connection.execute(text(made))
    try:
        with Coalescer(coalesced, max_wait=SOON) as fires:
            results = at_once([lambda key=key: fires.fire_key(Order, key, "Ready") for key in keys])
    finally:
        with database.begin() as connection:
            connection.execute(text(f"DROP TRIGGER {name}"))
    assert isinstance(results[2], Exception)
    assert [one.sequence for i, one in enumerate(results) if i != 2] == [1] * 4
    assert [stored(database, Order, key) for key in keys] == [
        "Running",
        "Running",
        "Initializing",
        "Running",
        "Running",
    ]
    assert [len(steps(database, key)) for key in keys] == [1, 1, 0, 1, 1]


@pytest.mark.servers_only
def test_a_text_that_the_connection_cannot_send_fails_alone(coalesced: Engine, database: Engine) -> None:
    """The driver encodes a packet as a whole, so it refuses all of it for one text."""
    keys = [create(database, Order) for _ in range(5)]
    latin1 = create_engine(
        coalesced.url.update_query_dict({"charset": "latin1"}),
        connect_args=multi_statements(coalesced.dialect.driver, True),
        execution_options=dict(coalesced.get_execution_options()),
    )
    try:
        with Coalescer(latin1, max_wait=SOON) as fires:
            results = at_once(
                [
                    lambda i=i, key=key: fires.fire_key(Order, key, "Ready", actor="😀"[: i == 2])
                    for i, key in enumerate(keys)
                ]
            )
    finally:
        latin1.dispose()

    assert isinstance(results[2], ValueError)
    assert [one.target for i, one in enumerate(results) if i != 2] == ["Running"] * 4
    assert [len(steps(database, key)) for key in keys] == [1, 1, 0, 1, 1]


@pytest.mark.parametrize("details", ["x" * 10_000, {"a": [{"b": "x" * 10_000}]}, list(range(2_000)), {"x" * 10_000: 1}])
def test_a_large_fire_is_run_alone(coalesced: Engine, database: Engine, details: Any) -> None:
    """A packet beyond max_allowed_packet ends the connection, and the outcome of its whole batch is unknown."""
    keys = [create(database, Order) for _ in range(3)]

    with Coalescer(coalesced, max_wait=SOON) as fires:
        given = [None, details, "x" * 1_000]
        results = at_once(
            [
                lambda k=key, d=one: fires.fire_key(Order, k, "Ready", details=d)
                for key, one in zip(keys, given, strict=True)
            ]
        )
        alone = fires.figures.rerun

    assert [one.target for one in results] == ["Running"] * 3
    assert alone == 1 or is_sqlite(database)


@pytest.mark.servers_only
def test_a_deadlock_is_run_again(coalesced: Engine, database: Engine) -> None:
    """Another transaction locks the second row, then the first; it or the batch is the victim."""
    first, second = sorted((create(database, Order), create(database, Order)))
    with Coalescer(coalesced, max_wait=SOON) as fires, Session(database) as other:
        fire_key(Order, second, "Ready", other)
        pool = ThreadPoolExecutor(2)
        futures = [pool.submit(fires.fire_key, Order, key, "Stop") for key in (first, second)]
        time.sleep(0.4)  # the batch has the first row, and waits for the second
        with suppress(Exception):
            fire_key(Order, first, "Ready", other)
            other.commit()
        other.close()
        moved = [future.result(20) for future in futures]
        pool.shutdown()
    assert [stored(database, Order, key) for key in (first, second)] == ["Stopped", "Stopped"]
    assert all(one.sequence == len(steps(database, one.key)) for one in moved)


@pytest.mark.servers_only
def test_a_row_that_is_locked_too_long_fails_alone(coalesced: Engine, database: Engine) -> None:
    def impatient(connection: Any, _: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION innodb_lock_wait_timeout = 1")

    event.listen(coalesced, "connect", impatient)
    locked, free = sorted((create(database, Order), create(database, Order)))
    with Coalescer(coalesced, max_wait=SOON) as fires, Session(database) as other:
        fire_key(Order, locked, "Ready", other)
        results = at_once([lambda key=key: fires.fire_key(Order, key, "Stop") for key in (locked, free)])
        other.rollback()
    assert isinstance(results[0], LockTimeout)
    assert results[1].target == "Stopped"
    assert (stored(database, Order, locked), steps(database, locked)) == ("Initializing", [])


@pytest.mark.servers_only
@pytest.mark.parametrize("cut", [Cut.REQUEST_LOST, Cut.AT_ONCE, Cut.ANSWER_LOST])
def test_after_a_lost_packet_tokens_resolve_and_the_others_are_unknown(
    packets: Engine, database: Engine, cut: Cut
) -> None:
    keys = [create(database, Order) for _ in range(6)]
    tokens = [f"lost {secrets.token_hex(8)}" if i % 2 else None for i in range(6)]
    cuts = [cut]

    def choose(statement: str) -> Cut:
        return cuts.pop() if cuts and "RECORDED_ORDER" in statement and "START TRANSACTION" in statement else Cut.NEVER

    driver = database.url.get_driver_name()
    with proxy(database.url, choose) as between:
        arguments = {**unencrypted(database.url), **multi_statements(driver, True)}
        engine = make_engine(between.url, connect_args=arguments)
        with Coalescer(engine, max_wait=SOON) as fires:
            calls = [
                lambda key=key, token=token: fires.fire_key(Order, key, "Ready", token=token)
                for key, token in zip(keys, tokens, strict=True)
            ]
            results = at_once(calls)
            assert fires.fire_key(Order, keys[1], "Stop").target == "Stopped"  # it goes on
        engine.dispose()
    assert not cuts
    for key, given, result in zip(keys, tokens, results, strict=True):
        history = [step for step in steps(database, key) if step[1] == "Ready"]
        if given is None:
            assert isinstance(result, (OutcomeUnknown, Moved))
            assert len(history) <= 1
        else:
            assert isinstance(result, Moved)
            assert [(1, given)] == [(step[0], step[5]) for step in history]
    assert any(isinstance(result, OutcomeUnknown) for result in results)


def kill_connections(engine: Engine, database: Engine) -> None:
    """End the connections that *engine* has, as a server does with those that were idle for too long."""
    user = text("SELECT id FROM information_schema.processlist WHERE db = :name AND id <> CONNECTION_ID()")
    with database.connect() as connection, suppress(DBAPIError):  # one may have gone by itself
        for number in connection.scalars(user, {"name": engine.url.database}).all():
            connection.exec_driver_sql(f"KILL {number}")


@pytest.mark.servers_only
@pytest.mark.parametrize("goes_on", [True, False], ids=["fire", "close"])
def test_a_connection_that_was_lost_while_it_was_idle_costs_no_fire_and_no_error(
    packets: Engine, database: Engine, monkeypatch: pytest.MonkeyPatch, goes_on: bool
) -> None:
    monkeypatch.setattr("sqlalchemy_fsm_mysql.orm.batches._IDLE", 0.05)
    key = create(database, Order)
    database.dispose()
    with Coalescer(packets, max_wait=SOON) as fires:
        fires.fire_key(Order, key, "Ready")
        kill_connections(packets, database)
        time.sleep(0.1)
        if goes_on:
            assert fires.fire_key(Order, key, "Stop").target == "Stopped"

    assert packets.pool.checkedout() == 0  # type: ignore[attr-defined]  # of a QueuePool


def test_without_a_database_every_caller_has_the_error(database: Engine) -> None:
    if is_sqlite(database) or is_async(database.url):
        pytest.skip("SQLite has no address that nobody answers at; asyncio has a test of its own")
    gone = make_engine(database.url.set(port=1))
    with Coalescer(gone, max_wait=SOON) as fires:
        results = at_once([lambda: fires.fire_key(Order, 1, "Ready")] * 3)
    assert all(isinstance(one, Exception) for one in results)


# --- hooks and observers


def test_hooks_of_moves_are_called_in_the_transaction_and_those_of_commits_after_it(
    coalesced: Engine, database: Engine
) -> None:
    keys = [create(database, Order) for _ in range(3)]
    seen: list[tuple[str, int, str]] = []

    def moved(one: Moved[Order], connection: Any) -> None:
        seen.append(("moved", one.key, type(connection).__name__))

    def committed(one: Moved[Order]) -> None:
        seen.append(("committed", one.key, str(one.target)))

    on_committed(Order.state)(committed)
    try:
        with Coalescer(coalesced, max_wait=SOON) as fires:
            at_once([lambda key=key: fires.fire_key(Order, key, "Ready") for key in keys])
            assert sorted(("committed", key, "Running") for key in keys) == sorted(seen)
            seen.clear()
            on_moved(Order.state)(moved)
            at_once([lambda key=key: fires.fire_key(Order, key, "Stop") for key in keys])
    finally:
        for hook in (moved, committed):
            with suppress(ValueError):
                remove_hook(Order.state, hook)
    for key in keys:
        assert [("moved", key, "Connection"), ("committed", key, "Stopped")] == [one for one in seen if one[1] == key]


def test_observers_see_each_fire(coalesced: Engine, database: Engine) -> None:
    keys, seen = [create(database, Order), create(database, Order, state="Deleted")], []

    @observe
    @contextmanager
    def watch(attempt: Attempt) -> Iterator[None]:
        yield
        seen.append((attempt.key, attempt.outcome))

    try:
        with Coalescer(coalesced, max_wait=SOON) as fires:
            at_once([lambda key=key: fires.try_fire_key(Order, key, "Ready") for key in keys])
    finally:
        stop_observing(watch)
    assert {(keys[0], "moved"), (keys[1], "refused")} == set(seen)


# --- batches


def test_a_batch_is_one_packet_in_key_order(packets: Engine, database: Engine) -> None:
    keys = [create(database, Order) for _ in range(8)]
    with Coalescer(packets, max_wait=SOON) as fires:
        at_once([lambda key=key: fires.fire_key(Order, key, "Ready") for key in keys])
        with statements(packets) as sent:
            before = fires.figures.packets
            at_once([lambda key=key: fires.fire_key(Order, key, "Ready") for key in keys])
            number = fires.figures.packets - before
    assert number == len([one for one in sent if "START TRANSACTION" in one]) < 8
    assert fires.figures.rerun == 0


def test_a_full_batch_does_not_wait(coalesced: Engine, database: Engine) -> None:
    keys = [create(database, Order) for _ in range(4)]
    with Coalescer(coalesced, max_batch=2, max_wait=timedelta(seconds=30)) as fires:
        began = time.monotonic()
        at_once([lambda key=key: fires.fire_key(Order, key, "Ready") for key in keys])
        assert time.monotonic() - began < 20
        assert fires.figures.largest == 2


def test_close_sends_what_waits_and_takes_no_more(coalesced: Engine, database: Engine) -> None:
    keys = [create(database, Order) for _ in range(3)]
    fires = Coalescer(coalesced, max_wait=timedelta(seconds=30))
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(fires.fire_key, Order, key, "Ready") for key in keys]
        while fires.figures.pending < 3:
            time.sleep(0.01)
        fires.close()
        assert [future.result(10).target for future in futures] == ["Running"] * 3
    with pytest.raises(RuntimeError, match="closed"):
        fires.fire_key(Order, keys[0], "Ready")
    fires.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "Coalescer"]


def test_a_caller_waits_where_there_is_no_room(coalesced: Engine, database: Engine) -> None:
    keys = [create(database, Order) for _ in range(6)]
    with Coalescer(coalesced, max_batch=100, max_wait=SOON, max_pending=2) as fires:
        results = at_once([lambda key=key: fires.fire_key(Order, key, "Ready") for key in keys])
        assert fires.figures.largest <= 2
    assert [one.target for one in results] == ["Running"] * 6


def test_the_two_kinds_are_not_mixed_up(database: Engine) -> None:
    if is_async(database.url):
        pytest.skip("about a sync engine")
    fires = Coalescer(database)

    async def enter() -> None:
        async with fires:
            pass

    with pytest.raises(TypeError, match="use `with`"):
        asyncio.run(enter())
    with pytest.raises(TypeError, match="Engine"):
        Coalescer("mysql://")  # type: ignore[type-var]


# --- asyncio


@pytest.fixture(params=[*installed_drivers(ASYNCIO_DRIVERS), "aiosqlite"])
def loop_url(request: pytest.FixtureRequest, database: Engine, backend: str) -> Any:
    if backend == "locking" or is_async(database.url) or is_sqlite(database) or request.param == "aiosqlite":
        pytest.skip("SQLite has no driver for asyncio but aiosqlite, and the locking read is tried by threads")
    return database.url.set(drivername=f"mysql+{request.param}")


async def _fired(fires: Coalescer[AsyncEngine], key: int, name: str, **given: Any) -> Any:
    try:
        return await fires.fire_key(Order, key, name, **given)
    except Exception as error:  # noqa: BLE001 - the result
        return error


def test_tasks_share_a_packet(loop_url: Any, database: Engine, token: str) -> None:
    keys = [create(database, Order) for _ in range(20)]
    deleted = create(database, Order, state="Deleted")

    async def work() -> Any:
        engine = create_async_engine(loop_url)
        try:
            async with Coalescer(engine) as fires:
                results = await asyncio.gather(
                    *(_fired(fires, key, "Ready") for key in keys),
                    _fired(fires, deleted, "Ready"),
                    _fired(fires, HIGHEST + 1, "Ready"),
                    _fired(fires, keys[0], "Ready", token=token),
                    _fired(fires, keys[0], "Ready", token=token),
                )
                with pytest.raises(TypeError, match="await"):
                    bool(fires.fire_key(Order, keys[0], "Ready"))
                return results, fires.figures
        finally:
            await engine.dispose()

    results, figures = asyncio.run(work())
    assert [one.target for one in results[:20]] == ["Running"] * 20
    assert [TransitionNotAllowed, RowNotFound] == [type(one) for one in results[20:22]]
    assert sorted(one.replayed for one in results[22:]) == [False, True]
    assert len(steps(database, keys[0])) == 2
    assert figures.batches <= 3


def test_a_cancelled_caller_disturbs_no_other(loop_url: Any, database: Engine) -> None:
    keys = [create(database, Order) for _ in range(4)]

    async def work() -> tuple[list[Any], int]:
        engine = create_async_engine(loop_url)
        try:
            async with Coalescer(engine, max_wait=timedelta(milliseconds=200)) as fires:
                tasks = [asyncio.create_task(_fired(fires, key, "Ready")) for key in keys]
                await asyncio.sleep(0.05)
                tasks[1].cancel()  # before it is sent: it is taken back
                results = await asyncio.gather(*tasks, return_exceptions=True)
                with Session(database) as other:
                    fire_key(Order, keys[0], "Stop", other)
                    tasks = [asyncio.create_task(_fired(fires, key, "Stop")) for key in (keys[0], keys[2])]
                    await asyncio.sleep(0.6)  # sent, and waiting for a lock
                    tasks[0].cancel()
                    await asyncio.sleep(0.05)
                    other.rollback()
                results += await asyncio.gather(*tasks, return_exceptions=True)
                return results, fires.figures.cancelled
        finally:
            await engine.dispose()

    results, cancelled = asyncio.run(work())
    assert isinstance(results[1], asyncio.CancelledError)
    assert (stored(database, Order, keys[1]), cancelled) == ("Initializing", 1)
    assert [results[i].target for i in (0, 2, 3)] == ["Running", "Running", "Running"]
    assert isinstance(results[4], asyncio.CancelledError)
    assert results[5].target == "Stopped"
    assert stored(database, Order, keys[0]) == "Stopped"  # sent fires go on


def test_aclose_sends_what_waits(loop_url: Any, database: Engine) -> None:
    keys = [create(database, Order) for _ in range(3)]

    async def work() -> list[Any]:
        engine = create_async_engine(loop_url)
        try:
            fires = Coalescer(engine, max_wait=timedelta(seconds=30))
            tasks = [asyncio.create_task(_fired(fires, key, "Ready")) for key in keys]
            await asyncio.sleep(0.05)
            await fires.aclose()
            results = await asyncio.gather(*tasks)
            with pytest.raises(RuntimeError, match="closed"):
                await fires.fire_key(Order, keys[0], "Ready")
            return results
        finally:
            await engine.dispose()

    assert [one.target for one in asyncio.run(work())] == ["Running"] * 3


def test_aclose_of_a_lost_connection_raises_nothing(loop_url: Any, database: Engine) -> None:
    key = create(database, Order)
    database.dispose()

    async def work() -> Any:
        engine = create_async_engine(loop_url)
        try:
            async with Coalescer(engine) as fires:
                moved = await fires.fire_key(Order, key, "Ready")
                await asyncio.to_thread(kill_connections, engine.sync_engine, database)
            return moved.target, engine.pool.checkedout()  # type: ignore[attr-defined]  # of a QueuePool
        finally:
            await engine.dispose()

    assert asyncio.run(work()) == ("Running", 0)
