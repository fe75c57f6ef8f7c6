"""One packet on a connection in AUTOCOMMIT: the move, its history row and the COMMIT go out together.

``fsm_one_packet`` asks for it, of an engine or a connection. A proxy counts what the client sends.
"""

from __future__ import annotations

import asyncio
import gc
import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

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
    UnknownState,
    find_by_token,
    fire_key,
    force_state,
    on_committed,
    on_moved,
    remove_hook,
    try_fire_key,
)
from tests.conformance.history_models import Beacon, Order, OrderTransition, Parcel, Payment, Signal
from tests.conformance.session_support import HIGHEST, create, stored
from tests.conformance.test_interrupted_statements import JobTimeout, time_limit
from tests.faults.proxy import Cut, proxy, unencrypted
from tests.servers import ASYNCIO_DRIVERS, installed_drivers, is_async, make_engine

pytestmark = pytest.mark.servers_only

MULTI_STATEMENTS = 1 << 16


def asking(url: URL, **options: Any) -> Engine:
    """An engine that asks for one packet; PyMySQL must be told to announce that it can."""
    arguments = {**options.pop("connect_args", {})}
    if url.get_driver_name() == "pymysql":
        arguments["client_flag"] = MULTI_STATEMENTS
    asked = {"fsm_one_packet": True, **options.pop("execution_options", {})}
    return make_engine(url, execution_options=asked, connect_args=arguments, **options)


def packing(url: URL, **options: Any) -> Engine:
    """An engine in AUTOCOMMIT, where each fire is a packet."""
    return asking(url, isolation_level="AUTOCOMMIT", **options)


@pytest.fixture
def engine_of_packets(database: Engine, backend: str) -> Iterator[Engine]:
    if backend == "locking" or is_async(database.url):
        pytest.skip("the locking read is several statements")
    engine = packing(database.url)
    yield engine
    engine.dispose()


@pytest.fixture(params=["session", "connection"])
def place(request: pytest.FixtureRequest, engine_of_packets: Engine) -> Iterator[Any]:
    """Where events are fired: a session, or a connection."""
    with Session(engine_of_packets) if request.param == "session" else engine_of_packets.connect() as opened:
        yield opened


@pytest.fixture
def token() -> str:
    return f"packet {secrets.token_hex(8)}"


def steps(database: Engine, key: Any) -> list[tuple[Any, ...]]:
    """The history of an order, as another connection reads it."""
    table = inspect(OrderTransition).local_table.c
    query = select(table.sequence, table.event, table.source, table.target, table.actor, table.token)
    with database.connect() as connection:
        return [tuple(row) for row in connection.execute(query.where(table.record_id == key).order_by(table.sequence))]


# --- outcomes


def test_a_move_and_its_history_row_are_committed_together(place: Any, database: Engine) -> None:
    key = create(database, Order)
    moved = fire_key(Order, key, "Ready", place, actor="me")

    assert (moved.source, moved.target, moved.sequence) == ("Initializing", "Running", 1)
    assert stored(database, Order, key) == "Running"
    assert steps(database, key) == [(1, "Ready", "Initializing", "Running", "me", None)]


@pytest.fixture
def quick_collections() -> Iterator[None]:
    """Garbage collections that look at new objects only."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def test_every_new_engine_sends_packets(engine_of_packets: Engine, quick_collections: None) -> None:
    """An engine is freed before its dialect, and the next engine may get its address in memory."""
    key, dialects = create(engine_of_packets, Order), []
    for number in range(1, 31):
        engine = packing(engine_of_packets.url)
        with engine.connect() as connection:
            assert fire_key(Order, key, "Ready", connection).sequence == number
        dialects.append(engine.dialect)
        engine.dispose()
        del engine, connection
        gc.collect()


def test_every_move_is_numbered_and_its_source_is_told(place: Any, database: Engine) -> None:
    """The first packet of an event asks for the code, the later ones read it from the answer of the UPDATE."""
    key = create(database, Order)
    fired = [fire_key(Order, key, name, place) for name in ("Ready", "NotReady", "Ready", "Ready", "Stop", "Stop")]

    assert [moved.sequence for moved in fired] == [1, 2, 3, 4, 5, 6]
    assert [(moved.source, moved.target) for moved in fired] == [step[2:4] for step in steps(database, key)]


def test_a_refusal_leaves_nothing(place: Any, database: Engine, token: str) -> None:
    key = create(database, Order, state="Deleted")
    refused = [try_fire_key(Order, key, "Ready", place, token=given) for given in (None, token, None)]

    assert [(one.state, one.reason) for one in refused if isinstance(one, Refused)] == [("Deleted", "state")] * 3
    with pytest.raises(TransitionNotAllowed):
        fire_key(Order, key, "Ready", place)
    assert steps(database, key) == []


def test_a_missing_row_is_not_found_after_a_move(place: Any, database: Engine) -> None:
    """The session remembers the code of the last move; a missing row must not be recorded by it."""
    key = create(database, Order)
    for _ in range(3):
        fire_key(Order, key, "Ready", place)
        with pytest.raises(RowNotFound):
            fire_key(Order, HIGHEST + 7, "Ready", place)

    assert steps(database, HIGHEST + 7) == []


def test_an_unrecorded_fire_before_leaves_no_history_row_of_a_missing_row(
    engine_of_packets: Engine, database: Engine
) -> None:
    """A machine without a history leaves its code in the session, too."""
    from tests.conformance.session_models import Order as Plain

    plain, key = create(database, Plain), create(database, Order)
    with engine_of_packets.connect() as connection:
        fire_key(Order, key, "Ready", connection)
        fire_key(Plain, plain, "Ready", connection)
        with pytest.raises(RowNotFound):
            fire_key(Order, HIGHEST + 9, "Ready", connection)

    assert steps(database, HIGHEST + 9) == []


def test_guards_effects_and_payload(place: Any, database: Engine) -> None:
    key = create(database, Payment, total=50)
    with pytest.raises(GuardNotSatisfied):
        fire_key(Payment, key, "Refund", place, amount=80)
    moves = [fire_key(Payment, key, "Refund", place, amount=amount) for amount in (20, 30)]

    assert [(m.source, m.target, m.sequence) for m in moves] == [("Paid", "Paid", 1), ("Paid", "Refunded", 2)]
    assert stored(database, Payment, key, "state", "total") == ("Refunded", 0)


def test_a_composite_key_and_states_of_an_enum(place: Any, database: Engine) -> None:
    parcel = create(database, Parcel, depot=f"a%s'\\{secrets.token_hex(3)}")
    name = f"north%;{secrets.token_hex(3)}"
    with Session(database) as session:
        session.add(Signal(name=name))
        session.commit()

    assert fire_key(Parcel, parcel, "Ready", place).target == "Running"
    assert fire_key(Signal, name, "Go", place).target.value == "green"


def test_details_and_values_are_bound_and_never_text(place: Any, database: Engine) -> None:
    key, hostile = create(database, Order), "'; DELETE FROM recorded_order; -- %s %% \\"
    moved = fire_key(
        Order, key, "Ready", place, actor=hostile, details={"note": hostile}, token=f"%s;{secrets.token_hex(4)}"
    )

    assert hostile == steps(database, key)[0][4]
    assert {"note": hostile} == moved.details
    assert stored(database, Order, key) == "Running"


def test_the_instance_of_a_session_shows_the_move(engine_of_packets: Engine, database: Engine) -> None:
    key = create(database, Order)
    with Session(engine_of_packets) as session:
        order = session.get_one(Order, key)
        order.fire("Ready", session)

        assert order.state == "Running"
        session.rollback()
        assert order.state == "Running"


def test_a_state_that_is_not_declared_is_told(place: Any, database: Engine) -> None:
    key = create(database, Order)
    with database.begin() as connection:
        connection.execute(text("SET SESSION sql_mode = ''"))
        connection.execute(text("UPDATE recorded_order SET state = '' WHERE id = :key"), {"key": key})
        connection.execute(text("SET SESSION sql_mode = DEFAULT"))
    with pytest.raises(UnknownState):
        fire_key(Order, key, "Ready", place)
    assert steps(database, key) == []


# --- tokens


def test_the_second_fire_with_a_token_is_a_replay(place: Any, database: Engine, token: str) -> None:
    key = create(database, Order)
    first = fire_key(Order, key, "Ready", place, token=token)
    again = fire_key(Order, key, "Ready", place, token=token)  # moves, and finds the token taken
    fire_key(Order, key, "Stop", place)
    later = try_fire_key(Order, key, "Ready", place, token=token)  # is refused, and finds the token

    assert [one.replayed for one in (first, again, later) if isinstance(one, Moved)] == [False, True, True]
    assert {1} == {one.sequence for one in (first, again, later) if isinstance(one, Moved)}
    assert [step[1] for step in steps(database, key)] == ["Ready", "Stop"]


def test_a_token_of_another_row_is_a_conflict(place: Any, database: Engine, token: str) -> None:
    first, second = create(database, Order), create(database, Order)
    fire_key(Order, first, "Ready", place, token=token)
    with pytest.raises(TokenConflict):
        fire_key(Order, second, "Ready", place, token=token)

    assert (stored(database, Order, second), steps(database, second)) == ("Initializing", [])


def test_of_many_at_once_one_moves_the_row(engine_of_packets: Engine, database: Engine, token: str) -> None:
    key = create(database, Order)

    def work(_: int) -> Moved[Order]:
        with engine_of_packets.connect() as connection:
            return fire_key(Order, key, "Ready", connection, token=token)

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(work, range(8)))
    assert sum(not one.replayed for one in outcomes) == 1
    assert len(steps(database, key)) == 1


def test_a_token_is_found_in_autocommit(place: Any, database: Engine, token: str) -> None:
    key = create(database, Order)
    fire_key(Order, key, "Ready", place, token=token)

    found = find_by_token(Order.state, token, place)
    assert found is not None
    assert key == found.key


# --- many at once


def test_moves_of_many_threads_are_numbered_without_a_gap(engine_of_packets: Engine, database: Engine) -> None:
    key, names = create(database, Order), ("Ready", "NotReady", "Delete")

    def work(number: int) -> int:
        with engine_of_packets.connect() as connection:
            return sum(bool(try_fire_key(Order, key, names[(number + i) % 3], connection)) for i in range(25))

    with ThreadPoolExecutor(6) as pool:
        moved = sum(pool.map(work, range(6)))
    history = steps(database, key)
    assert list(range(1, moved + 1)) == [step[0] for step in history]
    assert all(before[3] == after[2] for before, after in zip(history, history[1:], strict=False))


# --- the number of packets


@contextmanager
def counted(url: URL, make: Callable[..., Engine] = packing) -> Iterator[tuple[Engine, list[str]]]:
    """An engine of *make* behind a proxy, and the statements that the proxy has seen, one for each packet of a client."""
    seen: list[str] = []

    def note(statement: str) -> Cut:
        seen.append(statement)
        return Cut.NEVER

    with proxy(url, note) as between:
        engine = make(between.url, connect_args=unencrypted(url))
        yield engine, seen
        engine.dispose()


@pytest.mark.parametrize("named", ["with a token", "without a token"])
def test_a_recorded_fire_is_one_packet(database: Engine, engine_of_packets: Engine, named: str) -> None:
    key, deleted = create(database, Order), create(database, Order, state="Deleted")
    given = (lambda: f"packet {secrets.token_hex(8)}") if named == "with a token" else (lambda: None)
    with counted(database.url) as (engine, seen), engine.connect() as connection:
        fire_key(Order, key, "Ready", connection, token=given())
        connection.execute(select(1))
        seen.clear()
        moved = [fire_key(Order, key, "Ready", connection, token=given()) for _ in range(5)]
        assert (len(moved), len(seen)) == (5, 5)
        seen.clear()
        refused = [try_fire_key(Order, deleted, "Ready", connection, token=given()) for _ in range(5)]
        assert (len(refused), len(seen)) == (5, 5)
    assert len(steps(database, key)) == 6


# --- errors


def is_in_transaction(connection: Connection) -> bool:
    """Whether the server has a transaction open for *connection*: a SAVEPOINT lives only in one."""
    connection.exec_driver_sql("SAVEPOINT fsm_test")
    try:
        connection.exec_driver_sql("RELEASE SAVEPOINT fsm_test")
    except DBAPIError:  # each statement is its own transaction
        return False
    return True


def test_an_error_in_the_middle_leaves_no_transaction_and_no_answer(
    engine_of_packets: Engine, database: Engine, token: str
) -> None:
    first, second = create(database, Order), create(database, Order)
    with engine_of_packets.connect() as connection:
        fire_key(Order, first, "Ready", connection, token=token)
        with pytest.raises(TokenConflict):  # the INSERT of the history row fails, and the UPDATE had moved the row
            fire_key(Order, second, "Ready", connection, token=token)

        assert not is_in_transaction(connection)
        assert connection.scalar(text("SELECT 42")) == 42
        assert fire_key(Order, first, "Stop", connection).sequence == 2


def test_a_lock_timeout_leaves_the_connection_usable(engine_of_packets: Engine, database: Engine) -> None:
    key, other = create(database, Order), create(database, Order)
    with Session(database) as holding, engine_of_packets.connect() as connection:
        fire_key(Order, key, "Ready", holding)
        connection.exec_driver_sql("SET SESSION innodb_lock_wait_timeout = 1")
        with pytest.raises(LockTimeout):
            fire_key(Order, key, "Ready", connection)
        assert not is_in_transaction(connection)
        assert fire_key(Order, other, "Ready", connection).target == "Running"
        connection.exec_driver_sql("SET SESSION innodb_lock_wait_timeout = DEFAULT")
    assert steps(database, key) == []


@pytest.mark.parametrize("cut", [Cut.REQUEST_LOST, Cut.AT_ONCE, Cut.ANSWER_LOST])
def test_a_cut_inside_of_the_packet_is_an_unknown_outcome_with_its_token(
    database: Engine, engine_of_packets: Engine, cut: Cut, token: str
) -> None:
    key = create(database, Order)

    def choose(statement: str) -> Cut:
        return cut if "START TRANSACTION" in statement else Cut.NEVER

    with proxy(database.url, choose) as between:
        engine = packing(between.url, connect_args=unencrypted(database.url))
        with engine.connect() as connection, pytest.raises(OutcomeUnknown) as unknown:
            fire_key(Order, key, "Ready", connection, token=token)
        engine.dispose()
    assert token == unknown.value.token
    with Session(engine_of_packets) as session:
        found = find_by_token(Order.state, token, session)
    assert (found is not None) == (stored(database, Order, key) == "Running") == (len(steps(database, key)) == 1)
    assert cut is not Cut.REQUEST_LOST or found is None
    assert cut is not Cut.ANSWER_LOST or found is not None


def test_an_exception_of_a_signal_leaves_no_answer_unread(engine_of_packets: Engine, database: Engine) -> None:
    key, other = create(database, Order), create(database, Order)
    with Session(database) as holding, engine_of_packets.connect() as connection:
        fire_key(Order, key, "Ready", holding)
        timer = threading.Timer(0.4, holding.rollback)
        timer.start()
        with suppress(JobTimeout), time_limit(0.1):
            fire_key(Order, key, "NotReady", connection)
        timer.join()
    with engine_of_packets.connect() as connection:
        moved = fire_key(Order, other, "Stop", connection)
        assert (other, "Stopped") == (moved.key, moved.target)
        assert connection.scalar(text("SELECT 42")) == 42
    # The packet is committed as a whole, or not at all; NotReady leads from Initializing to itself.
    assert len(steps(database, key)) in (0, 1)


def test_a_deadlock_is_an_aborted_transaction(engine_of_packets: Engine, database: Engine, token: str) -> None:
    """The packet holds the first row, and another transaction holds the token that its history row needs."""
    first, second = create(database, Order), create(database, Order)
    with Session(database) as other:
        fire_key(Order, second, "Ready", other, token=token)  # holds the token, uncommitted
        found: list[BaseException | Moved[Any]] = []

        def work() -> None:
            try:
                with engine_of_packets.connect() as connection:
                    found.append(fire_key(Order, first, "Ready", connection, token=token))
            except (TransactionAborted, TokenConflict) as error:
                found.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(0.5)  # it waits for the token now
        with suppress(TransactionAborted):
            fire_key(Order, first, "Ready", other)  # waits for the row
            other.commit()
        thread.join()
    assert isinstance(found[0], (TransactionAborted, TokenConflict))
    assert len(steps(database, first)) == (stored(database, Order, first) != "Initializing")


# --- what stays as it was


def test_without_the_option_a_history_is_refused_in_autocommit(database: Engine) -> None:
    key = create(database, Order)
    engine = make_engine(database.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection, pytest.raises(TransactionRequired):
        fire_key(Order, key, "Ready", connection)
    engine.dispose()


def test_a_connection_without_multi_statements_is_refused_and_told_why(database: Engine, backend: str) -> None:
    if database.url.get_driver_name() not in ("pymysql", "mysqldb") or backend == "locking":
        pytest.skip("only mysqlclient and PyMySQL can connect without the flag; the locking read sends no packet")
    without = {"multi_statements": False} if database.url.get_driver_name() == "mysqldb" else {}
    key = create(database, Order)
    asked = {"fsm_one_packet": True}
    engine = create_engine(database.url, isolation_level="AUTOCOMMIT", execution_options=asked, connect_args=without)
    with engine.connect() as connection, pytest.raises(TransactionRequired, match="CLIENT_MULTI_STATEMENTS"):
        fire_key(Order, key, "Ready", connection)
    engine.dispose()
    assert (stored(database, Order, key), steps(database, key)) == ("Initializing", [])


def test_the_locking_read_is_refused(database: Engine) -> None:
    key = create(database, Order)
    engine = packing(database.url, execution_options={"fsm_backend": "locking"})
    with engine.connect() as connection, pytest.raises(TransactionRequired):
        fire_key(Order, key, "Ready", connection)
    engine.dispose()


def test_a_listener_of_statements_as_objects_is_refused(database: Engine, engine_of_packets: Engine) -> None:
    key = create(database, Order)

    def listener(*_: Any) -> None:
        """Would not be shown the statements."""

    with engine_of_packets.connect() as connection:
        event.listen(connection, "before_execute", listener)
        with pytest.raises(TransactionRequired, match="a listener"):
            fire_key(Order, key, "Ready", connection)
    assert stored(database, Order, key) == "Initializing"


@pytest.mark.parametrize("is_first", [True, False])
def test_a_listener_that_may_answer_for_the_driver_is_refused(
    database: Engine, engine_of_packets: Engine, is_first: bool
) -> None:
    """It would be given the packet's text, read the first answer, and leave the others unread on the connection."""
    key = create(database, Order)

    def send(cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
        cursor.execute(statement, parameters)
        return True

    with engine_of_packets.connect() as connection:
        if not is_first:
            fire_key(Order, key, "Stop", connection)
        event.listen(engine_of_packets, "do_execute", send)
        with pytest.raises(TransactionRequired, match="do_execute"):
            fire_key(Order, key, "Stop", connection)
        assert connection.scalar(text("SELECT 42")) == 42
        event.remove(engine_of_packets, "do_execute", send)
        assert fire_key(Order, key, "Stop", connection).sequence == 2 - is_first


# --- asked for by the column


def test_a_column_asks_for_packets_by_itself(engine_of_packets: Engine, database: Engine) -> None:
    """On every engine that does not set the option; the option decides where it is set."""
    beacon, order = create(database, Beacon), create(database, Order)
    silent = engine_of_packets.execution_options(fsm_one_packet=None)
    with silent.connect() as connection:
        assert fire_key(Beacon, beacon, "Ready", connection, token=f"beacon {beacon}").sequence == 1
        assert find_by_token(Beacon.state, f"beacon {beacon}", connection) is not None
        with pytest.raises(TransactionRequired):
            fire_key(Order, order, "Ready", connection)
    with Session(silent) as session:
        assert fire_key(Beacon, beacon, "Ready", session).sequence == 2
    refusing = engine_of_packets.execution_options(fsm_one_packet=False)
    with refusing.connect() as connection, pytest.raises(TransactionRequired):
        fire_key(Beacon, beacon, "Ready", connection)


def test_a_column_that_asks_where_packets_cannot_be_sent_is_told_why(database: Engine, backend: str) -> None:
    if is_async(database.url) or database.url.get_driver_name() not in ("pymysql", "mysqldb") or backend == "locking":
        pytest.skip("only mysqlclient and PyMySQL can connect without the flag; the locking read sends no packet")
    without = {"multi_statements": False} if database.url.get_driver_name() == "mysqldb" else {}
    key = create(database, Beacon)
    engine = make_engine(database.url, isolation_level="AUTOCOMMIT", connect_args=without)
    with engine.connect() as connection, pytest.raises(TransactionRequired, match="one_packet of its column"):
        fire_key(Beacon, key, "Ready", connection)
    engine.dispose()
    with Session(database) as session:  # a transaction needs no packet
        assert fire_key(Beacon, key, "Ready", session).sequence == 1
        session.rollback()


def test_a_transaction_that_a_statement_began_is_not_committed(database: Engine, engine_of_packets: Engine) -> None:
    key, other = create(database, Order), create(database, Order)
    with engine_of_packets.connect() as connection:
        connection.exec_driver_sql("START TRANSACTION")
        connection.execute(text("UPDATE recorded_order SET note = 'mine' WHERE id = :key"), {"key": other})
        with pytest.raises(TransactionRequired, match="begun a transaction"):
            fire_key(Order, key, "Ready", connection)
        connection.exec_driver_sql("ROLLBACK")
    assert (stored(database, Order, other, "note"), stored(database, Order, key)) == ("", "Initializing")


def test_forced_states_and_sets_are_refused_as_before(database: Engine, engine_of_packets: Engine) -> None:
    key = create(database, Order)
    with Session(engine_of_packets) as session, pytest.raises(TransactionRequired):
        force_state(session.get_one(Order, key), "Stopped", session)


def test_outside_of_autocommit_the_option_changes_nothing(database: Engine, backend: str) -> None:
    if backend == "locking":
        pytest.skip("the locking read has no packets in or outside of AUTOCOMMIT")
    key = create(database, Order)
    engine = make_engine(database.url, execution_options={"fsm_one_packet": True})
    with Session(engine) as session:
        fire_key(Order, key, "Ready", session)
        session.rollback()
    engine.dispose()
    assert (stored(database, Order, key), steps(database, key)) == ("Initializing", [])


# --- triggers and hooks


def test_a_trigger_on_the_table_hides_nothing(database: Engine, engine_of_packets: Engine) -> None:
    """An UPDATE trigger takes the code out of the UPDATE's answer, so the packet asks for it."""
    key = create(database, Order)
    name = f"fsm_test_{secrets.token_hex(4)}"
    with database.begin() as connection:
        connection.execute(
            text(f"CREATE TRIGGER {name} BEFORE UPDATE ON recorded_order FOR EACH ROW SET NEW.note = 'seen'")
        )
    try:
        engine = packing(database.url)  # of its own: the other's answers have contained the code
        with engine.connect() as connection:
            moves = [fire_key(Order, key, name_, connection) for name_ in ("Ready", "Ready", "NotReady", "NotReady")]
            refused = try_fire_key(Order, key, "Delete", connection)
        engine.dispose()
    finally:
        with database.begin() as connection:
            connection.execute(text(f"DROP TRIGGER {name}"))
    assert [moved.sequence for moved in moves] == [1, 2, 3, 4]
    assert [moved.source for moved in moves] == ["Initializing", "Running", "Running", "Error"]
    assert isinstance(refused, Refused)


def test_hooks_are_called_once_for_a_move(place: Any, database: Engine, token: str) -> None:
    key = create(database, Order)
    seen: list[tuple[str, str]] = []

    def moved(one: Moved[Order], _: Any) -> None:
        seen.append(("moved", str(stored(database, Order, one.key))))

    def committed(one: Moved[Order]) -> None:
        seen.append(("committed", str(stored(database, Order, one.key))))

    on_moved(Order.state)(moved)
    on_committed(Order.state)(committed)
    try:
        for _ in range(2):  # the second is a replay
            fire_key(Order, key, "Ready", place, token=token)
    finally:
        for hook in (moved, committed):
            remove_hook(Order.state, hook)
    assert seen == [("moved", "Running"), ("committed", "Running")]


# --- asyncio


@pytest.mark.parametrize("driver", installed_drivers(ASYNCIO_DRIVERS))
def test_an_async_session_and_a_cancelled_fire(
    database: Engine, engine_of_packets: Engine, driver: str, token: str
) -> None:
    key, blocked = create(database, Order), create(database, Order)
    url = database.url.set(drivername=f"mysql+{driver}")

    async def work() -> None:
        engine = create_async_engine(url, isolation_level="AUTOCOMMIT", execution_options={"fsm_one_packet": True})
        try:
            async with AsyncSession(engine) as session:
                assert (await fire_key(Order, key, "Ready", session, token=token)).sequence == 1
                assert (await fire_key(Order, key, "Ready", session, token=token)).replayed
            async with engine.connect() as connection:
                with Session(database) as holding:
                    fire_key(Order, blocked, "Ready", holding)
                    task = asyncio.create_task(_fire(connection, blocked))
                    await asyncio.sleep(0.2)
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task
                    holding.rollback()
            async with AsyncSession(engine) as session:
                assert (await fire_key(Order, key, "Stop", session)).sequence == 2
        finally:
            await engine.dispose()

    asyncio.run(work())
    assert len(steps(database, blocked)) in (0, 1)  # NotReady leads from Initializing to itself


async def _fire(connection: AsyncConnection, key: int) -> None:
    await fire_key(Order, key, "NotReady", connection)
