"""`run_transaction` repeats whole units of work, and only when the server has said that nothing of them is left."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from typing import Any

import pytest
import stamina
from sqlalchemy import Connection, Engine, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from stamina.instrumentation import RetryDetails, set_on_retry_hooks

from sqlalchemy_fsm_mysql import (
    LockTimeout,
    Moved,
    NotWritable,
    OutcomeUnknown,
    TransactionAborted,
    TransitionNotAllowed,
    find_by_token,
    fire_key,
    on_committed,
    remove_hook,
    run_transaction,
)
from sqlalchemy_fsm_mysql.core.notes import notes_of
from tests.conformance.history_models import Base, Order, OrderTransition, Plain
from tests.conformance.session_models import Order as Noted
from tests.conformance.session_support import create, stored

DEADLOCK = TransactionAborted(code=1213, retryable=True)


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """stamina's own switch for tests: the attempts are as asked for, the waits between them are left out."""
    with stamina.set_testing(True, attempts=20, cap=True):
        yield


@pytest.fixture
def factory(database: Engine) -> sessionmaker[Session]:
    return sessionmaker(database)


def failing(times: int, error: Exception, then: Callable[[Session], Any] = lambda session: "done") -> Any:
    """A unit of work that fails *times*, and counts how often it was run as ``.runs``."""

    def work(session: Session) -> Any:
        work.runs += 1
        if work.runs <= times:
            raise error
        return then(session)

    work.runs = 0
    return work


def say(session: Session | Connection, code: int, state: str = "HY000") -> None:
    """Have the server answer with the error *code*."""
    session.execute(text(f"SIGNAL SQLSTATE '{state}' SET MYSQL_ERRNO = {code}, MESSAGE_TEXT = 'as asked for'"))


def cut(session: Session | Connection, engine: Engine) -> None:
    """End the server's side of the session's connection."""
    number = session.scalar(text("SELECT CONNECTION_ID()"))
    with engine.connect() as other:
        other.execute(text(f"KILL CONNECTION {number}"))


def steps(engine: Engine, key: int) -> int:
    history = OrderTransition.__table__.c
    with engine.connect() as connection:
        return connection.execute(select(func.count()).where(history.record_id == key)).scalar_one()


# --- the unit


def test_the_work_is_committed_and_its_result_returned(factory: Any, database: Engine, schemas: None) -> None:
    key = create(database, Order)
    moved = run_transaction(factory, lambda session: fire_key(Order, key, "Ready", session))

    assert (moved.target, stored(database, Order, key)) == ("Running", "Running")


def test_a_unit_that_was_aborted_is_run_again_as_a_whole(factory: Any, database: Engine, schemas: None) -> None:
    key = create(database, Order)
    sessions: list[Session] = []

    def work(session: Session) -> None:
        sessions.append(session)
        fire_key(Order, key, "NotReady", session)
        if len(sessions) < 3:
            raise DEADLOCK

    run_transaction(factory, work)

    assert (len(sessions), len({id(session) for session in sessions}), steps(database, key)) == (3, 3, 1)


def test_the_attempts_are_limited_and_the_last_error_is_raised(factory: Any) -> None:
    work = failing(100, DEADLOCK)
    with pytest.raises(TransactionAborted) as error:
        run_transaction(factory, work, attempts=3)

    assert (work.runs, error.value) == (3, DEADLOCK)


def test_five_attempts_are_the_default(factory: Any) -> None:
    work = failing(100, DEADLOCK)
    with pytest.raises(TransactionAborted):
        run_transaction(factory, work)

    assert work.runs == 5


def test_after_the_timeout_nothing_is_run_again(factory: Any) -> None:
    stamina.set_testing(False)
    work = failing(100, DEADLOCK)
    with pytest.raises(TransactionAborted):
        run_transaction(factory, work, attempts=10_000, timeout=0.05)

    assert 1 <= work.runs < 10_000


@pytest.mark.parametrize(
    "error",
    [
        ValueError("mine"),
        LockTimeout(code=1205),
        TransactionAborted(code=1213, retryable=False),
        NotWritable(code=1290),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_the_work_raises_passes_unchanged_and_nothing_is_committed(
    factory: Any, database: Engine, schemas: None, error: BaseException
) -> None:
    key = create(database, Order)

    def work(session: Session) -> None:
        fire_key(Order, key, "Ready", session)
        raise error

    with pytest.raises(type(error)) as raised:
        run_transaction(factory, work)

    assert raised.value is error
    assert (stored(database, Order, key), steps(database, key)) == ("Initializing", 0)


def test_a_refusal_passes_unchanged(factory: Any, database: Engine, schemas: None) -> None:
    key = create(database, Order, state="Deleted")
    with pytest.raises(TransitionNotAllowed):
        run_transaction(factory, lambda session: fire_key(Order, key, "Ready", session))


def test_a_broken_constraint_passes_unchanged_from_the_work_and_from_the_commit(
    factory: Any, database: Engine, schemas: None
) -> None:
    key = create(database, Plain)
    with pytest.raises(IntegrityError):
        run_transaction(factory, lambda session: session.execute(Plain.__table__.insert().values(id=key)))
    with pytest.raises(IntegrityError):
        run_transaction(factory, lambda session: session.add(Plain(id=key)))


def test_on_committed_runs_once_for_the_attempt_that_was_committed(
    factory: Any, database: Engine, schemas: None
) -> None:
    key = create(database, Order)
    calls: list[Moved[Order]] = []
    runs: list[int] = []
    on_committed(Order.state)(calls.append)

    def work(session: Session) -> Moved[Order]:
        moved = fire_key(Order, key, "Ready", session)
        runs.append(1)
        if len(runs) < 3:
            raise DEADLOCK
        return moved

    try:
        moved = run_transaction(factory, work)
    finally:
        remove_hook(Order.state, calls.append)

    assert [moved] == calls


# --- sessions and factories


def test_a_session_or_a_connection_in_place_of_a_factory_is_refused(mine: Session) -> None:
    for nothing in (mine, mine.connection()):
        with pytest.raises(
            TypeError, match="a unit of work opens its own session: give a sessionmaker or an engine, not"
        ):
            run_transaction(nothing, lambda session: None)  # type: ignore[call-overload]


def test_a_session_in_a_transaction_is_refused_and_left_alone(mine: Session, database: Engine) -> None:
    """Its transaction is somebody else's: it is neither committed nor rolled back."""
    key = create(database, Order)
    fire_key(Order, key, "Ready", mine)
    with pytest.raises(TypeError, match="in one already"):
        run_transaction(lambda: mine, lambda session: None)
    assert mine.in_transaction()
    mine.commit()

    assert stored(database, Order, key) == "Running"


def test_a_scoped_session_in_a_transaction_is_refused_and_left_alone(database: Engine, schemas: None) -> None:
    scoped = scoped_session(sessionmaker(database))
    key = create(database, Order)
    fire_key(Order, key, "Ready", scoped)
    with pytest.raises(TypeError, match="in one already"):
        run_transaction(scoped, lambda session: None)
    scoped.commit()
    scoped.remove()

    assert stored(database, Order, key) == "Running"


@pytest.mark.parametrize(
    "make",
    [
        sessionmaker,
        lambda engine: sessionmaker(engine, autobegin=False),
        lambda engine: sessionmaker(engine, expire_on_commit=False, autoflush=False),
        lambda engine: scoped_session(sessionmaker(engine)),
        lambda engine: lambda: Session(engine),
        lambda engine: type("Own", (Session,), {"__init__": lambda self: Session.__init__(self, engine)}),
    ],
    ids=["sessionmaker", "autobegin off", "options", "scoped", "function", "class"],
)
def test_whatever_makes_sessions_will_do(database: Engine, schemas: None, make: Callable[[Engine], Any]) -> None:
    key = create(database, Order)
    work = failing(1, DEADLOCK, lambda session: fire_key(Order, key, "Ready", session))
    run_transaction(make(database), work)

    assert (work.runs, stored(database, Order, key)) == (2, "Running")


def test_an_instance_made_in_the_work_is_flushed_by_the_commit(factory: Any, database: Engine, schemas: None) -> None:
    key = secrets.randbelow(2**31)
    run_transaction(factory, lambda session: session.add(Plain(id=key, state="Error")))

    assert stored(database, Plain, key) == "Error"


def run_async(path: Any, test: Callable[[Any], Any]) -> Any:
    async def whole() -> Any:
        engine = create_async_engine(f"sqlite+aiosqlite:///{path}/async.db")
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        try:
            return await test(engine)
        finally:
            await engine.dispose()

    return asyncio.run(whole())


def async_scoped(engine: Any) -> Any:
    return async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)


@pytest.mark.parametrize("make", [async_sessionmaker, async_scoped], ids=["sessionmaker", "scoped"])
def test_an_async_unit_is_repeated_and_committed(tmp_path: Any, make: Any) -> None:
    runs: list[AsyncSession] = []

    async def work(session: AsyncSession) -> Moved[Order]:
        runs.append(session)
        session.add(Order(id=1))
        moved = await fire_key(Order, 1, "Ready", session)
        if len(runs) < 3:
            raise DEADLOCK
        return moved

    async def test(engine: Any) -> Any:
        moved = await run_transaction(make(engine), work)
        async with AsyncSession(engine) as session:
            return moved.target, await session.scalar(select(Order.state))

    assert run_async(tmp_path, test) == ("Running", "Running")
    assert len(runs) == 3


def test_an_async_units_exception_passes_unchanged_and_rolls_back(tmp_path: Any) -> None:
    mine = ValueError("mine")

    async def work(session: AsyncSession) -> None:
        session.add(Order(id=1))
        await fire_key(Order, 1, "Ready", session)
        raise mine

    async def test(engine: Any) -> Any:
        with pytest.raises(ValueError, match="mine") as raised:
            await run_transaction(async_sessionmaker(engine), work)
        async with AsyncSession(engine) as session:
            return raised.value is mine, await session.scalar(select(func.count()).select_from(Order))

    assert run_async(tmp_path, test) == (True, 0)


def test_an_async_session_in_a_transaction_is_refused_and_left_alone(tmp_path: Any) -> None:
    async def work(session: AsyncSession) -> None: ...

    async def test(engine: Any) -> Any:
        scoped = async_scoped(engine)
        scoped.add(Order(id=1))
        await scoped.flush()
        with pytest.raises(TypeError, match="in one already"):
            await run_transaction(scoped, work)
        await scoped.commit()
        number = await scoped.scalar(select(func.count()).select_from(Order))
        await scoped.remove()
        return number

    assert run_async(tmp_path, test) == 1


# --- what the server says


@pytest.mark.servers_only
@pytest.mark.parametrize("code", [1213, 1020, 3101, 8002, 9007, 6235])
def test_an_abort_of_the_works_own_statement_is_recognised(
    factory: Any, database: Engine, schemas: None, code: int
) -> None:
    runs: list[int] = []

    def work(session: Session) -> int:
        runs.append(1)
        if len(runs) == 1:
            say(session, code)
        return len(runs)

    assert run_transaction(factory, work) == 2


@pytest.mark.servers_only
def test_an_abort_that_outlasts_the_attempts_tells_the_code_and_the_cause(factory: Any) -> None:
    with pytest.raises(TransactionAborted) as error:
        run_transaction(factory, lambda session: say(session, 1213), attempts=2)

    assert (error.value.code, error.value.retryable) == (1213, True)
    assert isinstance(error.value.__cause__, DBAPIError)


@pytest.mark.servers_only
@pytest.mark.parametrize("code", [1290, 1836, 1792])
def test_a_server_that_takes_no_writes_is_said_and_not_asked_again(factory: Any, code: int) -> None:
    work = failing(0, DEADLOCK, lambda session: say(session, code))
    with pytest.raises(NotWritable) as error:
        run_transaction(factory, work)

    assert (code, 1) == (error.value.code, work.runs)


@pytest.mark.servers_only
@pytest.mark.parametrize("code", [1205, 1317, 1064])
def test_an_error_that_leaves_the_transaction_alive_passes_unchanged(factory: Any, code: int) -> None:
    work = failing(0, DEADLOCK, lambda session: say(session, code))
    with pytest.raises(DBAPIError) as error:
        run_transaction(factory, work)

    assert (code, 1) == (error.value.orig.args[0], work.runs)


@pytest.mark.servers_only
def test_a_deadlock_within_a_savepoint_is_recognised_behind_the_savepoints_own_error(
    factory: Any, database: Engine
) -> None:
    """The savepoint went with the transaction: its ROLLBACK TO fails with 1305, and an earlier error says why."""
    runs: list[int] = []

    def work(session: Session) -> None:
        runs.append(1)
        with session.begin_nested():
            if len(runs) == 1:
                session.connection().exec_driver_sql("ROLLBACK")  # as the server does
                say(session, 1213)

    run_transaction(factory, work)

    assert len(runs) == 2


@pytest.mark.servers_only
def test_a_connection_lost_before_the_commit_is_a_unit_to_be_run_again(
    factory: Any, database: Engine, schemas: None
) -> None:
    key = create(database, Order)
    runs: list[int] = []

    def work(session: Session) -> None:
        runs.append(1)
        fire_key(Order, key, "NotReady", session)
        if len(runs) == 1:
            cut(session, database)
        fire_key(Order, key, "NotReady", session)

    run_transaction(factory, work)

    assert (len(runs), steps(database, key)) == (2, 2)


@pytest.mark.servers_only
def test_a_connection_lost_in_the_last_flush_was_lost_before_the_commit(
    factory: Any, database: Engine, schemas: None
) -> None:
    """COMMIT flushes first: what is lost there was not committed, and is known."""
    key = secrets.randbelow(2**31)
    runs: list[int] = []

    def work(session: Session) -> None:
        runs.append(1)
        session.add(Plain(id=key))
        with session.no_autoflush:
            if len(runs) == 1:
                cut(session, database)

    run_transaction(factory, work)

    assert (len(runs), stored(database, Plain, key)) == (2, "Initializing")


@pytest.mark.servers_only
def test_a_connection_that_is_lost_meanwhile_does_not_hide_the_works_own_exception(
    factory: Any, database: Engine
) -> None:
    def work(session: Session) -> None:
        cut(session, database)
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        run_transaction(factory, work)


@pytest.mark.servers_only
def test_a_connection_lost_at_commit_is_an_unknown_outcome_with_the_tokens(
    factory: Any, database: Engine, schemas: None
) -> None:
    key, tokens = create(database, Order), [secrets.token_hex(8) for _ in range(3)]
    runs: list[int] = []

    def work(session: Session) -> None:
        runs.append(1)
        fire_key(Order, key, "NotReady", session, token=tokens[0])
        lost = session.begin_nested()
        fire_key(Order, key, "NotReady", session, token=tokens[1])
        lost.rollback()
        fire_key(Order, key, "NotReady", session)
        fire_key(Order, key, "NotReady", session, token=tokens[2])
        cut(session, database)

    with pytest.raises(OutcomeUnknown) as error:
        run_transaction(factory, work)

    assert (1, tokens[::2], tokens[0]) == (len(runs), error.value.tokens, error.value.token)
    assert isinstance(error.value.__cause__, DBAPIError)
    with factory() as session:
        assert find_by_token(Order.state, error.value.token, session) is None


@pytest.mark.servers_only
def test_an_idempotent_unit_is_run_again_after_an_unknown_outcome(
    factory: Any, database: Engine, schemas: None
) -> None:
    key, token = create(database, Order), secrets.token_hex(8)
    runs: list[int] = []

    def work(session: Session) -> Moved[Order]:
        runs.append(1)
        moved = fire_key(Order, key, "NotReady", session, token=token)
        if len(runs) == 1:
            cut(session, database)
        return moved

    moved = run_transaction(factory, work, idempotent=True)

    assert (len(runs), moved.replayed, steps(database, key)) == (2, False, 1)


@pytest.mark.servers_only
def test_a_unit_that_commits_by_itself_is_never_run_again(factory: Any, database: Engine, schemas: None) -> None:
    """Its first half is committed, so it would be done twice."""
    key = create(database, Order)

    def work(session: Session) -> None:
        fire_key(Order, key, "NotReady", session)
        session.commit()
        say(session, 1213)

    with pytest.raises(TransactionAborted) as error:
        run_transaction(factory, work)

    assert (error.value.retryable, steps(database, key)) == (False, 1)


@pytest.mark.servers_only
def test_a_commit_of_the_works_own_that_is_lost_is_an_unknown_outcome_too(
    factory: Any, database: Engine, schemas: None
) -> None:
    key = create(database, Order)
    runs: list[int] = []

    def work(session: Session) -> None:
        runs.append(1)
        fire_key(Order, key, "NotReady", session)
        cut(session, database)
        session.commit()

    with pytest.raises(OutcomeUnknown):
        run_transaction(factory, work)

    assert len(runs) == 1


# --- stamina's users are ours


def test_staminas_switch_turns_retries_off(factory: Any) -> None:
    work = failing(100, DEADLOCK)
    stamina.set_active(False)
    try:
        with pytest.raises(TransactionAborted):
            run_transaction(factory, work)
    finally:
        stamina.set_active(True)

    assert work.runs == 1


def test_staminas_testing_mode_sets_the_attempts(factory: Any) -> None:
    work = failing(100, DEADLOCK)
    with stamina.set_testing(True, attempts=2), pytest.raises(TransactionAborted):
        run_transaction(factory, work, attempts=50)

    assert work.runs == 2


def test_staminas_instrumentation_hears_of_each_retry_and_names_the_work(factory: Any) -> None:
    details: list[RetryDetails] = []
    work = failing(2, DEADLOCK)
    set_on_retry_hooks([details.append])
    try:
        run_transaction(factory, work)
    finally:
        set_on_retry_hooks(None)

    assert [(retry.retry_num, retry.caused_by) for retry in details] == [(1, DEADLOCK), (2, DEADLOCK)]
    assert all(retry.name.endswith("failing.<locals>.work") for retry in details)


def test_the_instrumentation_names_an_async_work_too(tmp_path: Any) -> None:
    details: list[RetryDetails] = []

    async def work(session: AsyncSession) -> None:
        if not details:
            raise DEADLOCK

    set_on_retry_hooks([details.append])
    try:
        run_async(tmp_path, lambda engine: run_transaction(async_sessionmaker(engine), work))
    finally:
        set_on_retry_hooks(None)

    assert [retry.name.rpartition(".")[2] for retry in details] == ["work"]


# --- without a session


def note_moves(connection: Connection, key: int, *names: str) -> None:
    """Stand for fires on the connection: an UPDATE of the row's note for each, under a token of its own."""
    for name in names:
        connection.execute(update(Noted.__table__).where(Noted.__table__.c.id == key).values(note=name))
        notes_of(connection).note_token(connection, name)


def test_a_unit_on_an_engine_gets_a_connection_and_is_committed(database: Engine, schemas: None) -> None:
    key = create(database, Noted)

    def work(connection: Connection) -> str:
        note_moves(connection, key, "moved")
        return "result"

    assert run_transaction(database, work) == "result"
    assert stored(database, Noted, key, "note") == "moved"


def test_a_unit_on_a_connection_that_fails_is_rolled_back(database: Engine, schemas: None) -> None:
    key = create(database, Noted)

    def work(connection: Connection) -> None:
        note_moves(connection, key, "moved")
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        run_transaction(database, work)
    assert stored(database, Noted, key, "note") == ""


@pytest.mark.servers_only
@pytest.mark.parametrize("swallows", [False, True])
def test_a_unit_on_a_connection_is_run_again_after_a_deadlock(database: Engine, schemas: None, swallows: bool) -> None:
    key = create(database, Noted)
    runs: list[int] = []

    def work(connection: Connection) -> None:
        runs.append(1)
        note_moves(connection, key, f"run {len(runs)}")
        if len(runs) == 1:
            connection.connection.dbapi_connection.rollback()  # type: ignore[union-attr]  # as the server does
            with suppress(DBAPIError) if swallows else nullcontext():
                say(connection, 1213)

    run_transaction(database, work)

    assert (len(runs), stored(database, Noted, key, "note")) == (2, "run 2")


@pytest.mark.servers_only
def test_a_unit_on_a_connection_that_commits_by_itself_is_never_run_again(database: Engine, schemas: None) -> None:
    key = create(database, Noted)

    def work(connection: Connection) -> None:
        note_moves(connection, key, "moved")
        connection.commit()
        say(connection, 1213)

    with pytest.raises(TransactionAborted) as error:
        run_transaction(database, work)

    assert not error.value.retryable


@pytest.mark.servers_only
def test_a_connection_lost_at_commit_tells_the_tokens_that_were_not_rolled_back(
    database: Engine, schemas: None
) -> None:
    key = create(database, Noted)

    def work(connection: Connection) -> None:
        note_moves(connection, key, "first")
        with connection.begin_nested():
            note_moves(connection, key, "second")
        lost = connection.begin_nested()
        note_moves(connection, key, "rolled back")
        lost.rollback()
        cut(connection, database)

    with pytest.raises(OutcomeUnknown) as error:
        run_transaction(database, work)

    assert error.value.tokens == ["first", "second"]


def test_an_async_unit_on_an_engine_gets_an_async_connection(tmp_path: Any) -> None:
    runs: list[int] = []

    async def work(connection: AsyncConnection) -> Any:
        runs.append(1)
        if len(runs) == 1:
            raise DEADLOCK
        await connection.execute(insert(Order.__table__).values(id=1))
        return type(connection)

    async def test(engine: Any) -> Any:
        kind = await run_transaction(engine, work)
        async with engine.connect() as connection:
            return kind, await connection.scalar(select(func.count()).select_from(Order.__table__))

    assert run_async(tmp_path, test) == (AsyncConnection, 1)
    assert len(runs) == 2


@pytest.mark.servers_only
def test_an_error_of_the_first_attempt_is_no_cause_of_a_later_ones(factory: Any) -> None:
    """A savepoint that the second attempt names wrongly is its own fault, and no reason for a third."""
    runs: list[int] = []

    def work(session: Session) -> None:
        runs.append(1)
        if len(runs) == 1:
            say(session, 1213)
        session.connection().exec_driver_sql("ROLLBACK TO SAVEPOINT nowhere")

    with pytest.raises(DBAPIError):
        run_transaction(factory, work)

    assert len(runs) == 2
