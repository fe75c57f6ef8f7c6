"""Hooks run to completion, each function is called whatever another one raises, and COMMIT is the connection's."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, select, update
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from sqlalchemy_fsm_mysql import Moved, TransactionAborted, claim, fire_key, on_committed, on_moved, remove_hook
from sqlalchemy_fsm_mysql.core.hooks import Hook, announce
from sqlalchemy_fsm_mysql.orm.journal import journal_of
from sqlalchemy_fsm_mysql.testing import frozen_hooks, hooks_follow_session
from tests.conformance.history_models import Base, Order, Plain
from tests.conformance.session_support import create, stored
from tests.conformance.test_hooks import events, heard, hooked

JOINS = ("conditional_savepoint", "rollback_only", "create_savepoint")
each_join = pytest.mark.parametrize("mode", JOINS)


@pytest.fixture
def key(database: Engine, schemas: None) -> int:
    return create(database, Plain)


@contextmanager
def goes_on(*names: str) -> Iterator[None]:
    """A hook that answers the event "Ready" with further ones."""

    def go_on(moved: Moved[Any], session: Session) -> None:
        for name in names:
            fire_key(moved.model, moved.key, name, session)

    with hooked(on_moved, Plain.state, go_on, event="Ready"):
        yield


def begun(connection: Connection) -> Connection:
    """The connection, in a transaction that has begun to write: SQLite's savepoints need one."""
    connection.execute(update(Plain.__table__).where(Plain.__table__.c.id == -1).values(state="Initializing"))
    return connection


# --- run to completion


def test_every_hook_hears_of_the_first_move_before_any_hears_of_the_second(database: Engine, key: int) -> None:
    with (
        goes_on("NotReady", "Stop"),
        heard(on_moved) as later,
        heard(on_committed) as mails,
        Session(database) as session,
    ):
        fire_key(Plain, key, "Ready", session)
        session.commit()

    assert ["Ready", "NotReady", "Stop"] == events(later) == events(mails)


def test_the_history_and_the_hooks_tell_one_order(database: Engine, schemas: None) -> None:
    key = create(database, Order)

    def go_on(moved: Moved[Any], session: Session) -> None:
        fire_key(Order, moved.key, "Stop", session)

    with (
        hooked(on_moved, Order.state, go_on, event="Ready"),
        heard(on_moved, Order.state) as later,
        Session(database) as session,
    ):
        fire_key(Order, key, "Ready", session)
        session.commit()

    assert [(moved.event, moved.sequence) for moved in later] == [("Ready", 1), ("Stop", 2)]


def test_a_move_in_a_savepoint_that_a_hook_rolls_back_is_not_announced(database: Engine, key: int) -> None:
    def try_and_give_up(moved: Moved[Any], session: Session) -> None:
        with session.begin_nested():
            fire_key(Plain, moved.key, "NotReady", session)
        savepoint = session.begin_nested()
        fire_key(Plain, moved.key, "Stop", session)
        savepoint.rollback()

    with (
        hooked(on_moved, Plain.state, try_and_give_up, event="Ready"),
        heard(on_moved) as later,
        heard(on_committed) as mails,
        Session(database) as session,
    ):
        fire_key(Plain, key, "Ready", session)
        session.commit()

    assert ["Ready", "NotReady"] == events(later) == events(mails)


def test_a_hook_that_rolls_the_session_back_ends_the_announcements(database: Engine, key: int) -> None:
    def give_up(moved: Moved[Any], session: Session) -> None:
        fire_key(Plain, moved.key, "Stop", session)
        session.rollback()

    with (
        hooked(on_moved, Plain.state, give_up, event="Ready"),
        heard(on_moved, event="Stop") as later,
        heard(on_committed) as mails,
        Session(database) as session,
    ):
        fire_key(Plain, key, "Ready", session)
        session.commit()

    assert (later, mails) == ([], [])
    assert stored(database, Plain, key) == "Initializing"


def test_a_hook_hears_of_all_claimed_rows_before_it_hears_of_what_a_hook_fires(database: Engine, schemas: None) -> None:
    """All rows of a claim have moved when the first of them is announced."""
    keys = sorted(create(database, Plain) for _ in range(3))

    def go_on(moved: Moved[Any], session: Session) -> None:
        if moved.key == keys[0]:
            fire_key(Plain, keys[2], "Stop", session)

    with (
        hooked(on_moved, Plain.state, go_on, event="Ready"),
        heard(on_moved) as later,
        heard(on_committed) as mails,
        Session(database) as session,
    ):
        claim(Plain, "Ready", session, Plain.id.in_(keys), limit=3)
        session.commit()

    expected = [*((key, "Ready") for key in keys), (keys[2], "Stop")]
    assert expected == [(moved.key, moved.event) for moved in later]
    assert expected == [(moved.key, moved.event) for moved in mails]


def test_an_exception_keeps_no_claimed_row_from_being_announced(database: Engine, schemas: None) -> None:
    keys = [create(database, Plain) for _ in range(3)]

    def fail(moved: Moved[Any], session: Session) -> None:
        raise LookupError

    with hooked(on_moved, Plain.state, fail), heard(on_moved) as later, Session(database) as session:
        with pytest.raises(LookupError):
            claim(Plain, "Ready", session, Plain.id.in_(keys), limit=3)
        session.commit()

    assert sorted(moved.key for moved in later) == sorted(keys)


def test_moves_that_a_hook_has_committed_are_announced(database: Engine, schemas: None) -> None:
    """The second row's functions are called after its COMMIT, and not never."""
    keys = [create(database, Plain) for _ in range(2)]

    def commit(moved: Moved[Any], session: Session) -> None:
        session.commit()

    with hooked(on_moved, Plain.state, commit), heard(on_moved) as later, Session(database) as session:
        claim(Plain, "Ready", session, Plain.id.in_(keys), limit=2)
        session.rollback()

    assert sorted(moved.key for moved in later) == sorted(keys)
    assert [stored(database, Plain, key) for key in keys] == ["Running", "Running"]


def test_a_hook_that_fires_in_a_session_of_its_own_is_not_kept_waiting(database: Engine, key: int) -> None:
    """That session's transaction may be over when the outer hooks are done."""
    heard_within: list[str] = []

    def fire_elsewhere(moved: Moved[Any], session: Session) -> None:
        with Session(session.get_bind()) as other, heard(on_moved, event="Stop") as inner:
            session.commit()  # SQLite has one writer
            fire_key(Plain, moved.key, "Stop", other)
            heard_within.extend(events(inner))
            other.commit()

    with hooked(on_moved, Plain.state, fire_elsewhere, event="Ready"), Session(database) as session:
        fire_key(Plain, key, "Ready", session)

    assert heard_within == ["Stop"]


# --- exceptions


class Stopped(BaseException):
    """No error: like KeyboardInterrupt, SystemExit, asyncio.CancelledError."""


@pytest.mark.parametrize("kind", [LookupError, Stopped])
def test_what_one_hook_raises_keeps_no_other_from_being_called(
    database: Engine, key: int, kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(moved: Moved[Any], session: Session) -> None:
        raise kind(moved.event)

    with goes_on("Stop"), hooked(on_moved, Plain.state, fail), heard(on_moved) as later, Session(database) as session:
        with pytest.raises(kind, match="Ready"), caplog.at_level(logging.ERROR):
            fire_key(Plain, key, "Ready", session)
        session.commit()

    assert events(later) == ["Ready", "Stop"]
    assert stored(database, Plain, key) == "Stopped"
    assert ["failed, too" in record.message for record in caplog.records] == [True]


def test_after_an_exception_the_next_fire_is_announced_at_once(database: Engine, key: int) -> None:
    def fail(moved: Moved[Any], session: Session) -> None:
        raise LookupError

    with Session(database) as session:
        with hooked(on_moved, Plain.state, fail), suppress(LookupError):
            fire_key(Plain, key, "Ready", session)
        with heard(on_moved) as later:
            fire_key(Plain, key, "Stop", session)

            assert events(later) == ["Stop"]


def test_an_exception_that_is_no_error_is_raised_by_commit_when_all_have_been_called(
    database: Engine, key: int
) -> None:
    def stop(moved: Moved[Any]) -> None:
        raise Stopped

    with hooked(on_committed, Plain.state, stop), heard(on_committed) as mails, Session(database) as session:
        fire_key(Plain, key, "Ready", session)
        fire_key(Plain, key, "Stop", session)
        with pytest.raises(Stopped):
            session.commit()

    assert events(mails) == ["Ready", "Stop"]
    assert stored(database, Plain, key) == "Stopped"


def test_a_listener_of_the_application_that_fails_after_the_commit_delays_the_calls(database: Engine, key: int) -> None:
    def fail(session: Session) -> None:
        raise LookupError

    with heard(on_committed) as mails, Session(database) as session:
        event.listen(session, "after_commit", fail)
        fire_key(Plain, key, "Ready", session)
        with pytest.raises(LookupError):
            session.commit()
        session.close()

        assert events(mails) == ["Ready"]


@pytest.mark.servers_only
def test_no_hook_is_called_for_a_transaction_that_a_hook_has_lost(database: Engine, key: int) -> None:
    def lose(moved: Moved[Any], session: Session) -> None:
        session.connection().exec_driver_sql("SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'lost'")

    with (
        hooked(on_moved, Plain.state, lose),
        heard(on_moved) as later,
        Session(database) as session,
        pytest.raises(TransactionAborted, match="1213"),
    ):
        fire_key(Plain, key, "Ready", session)

    assert later == []


# --- whose COMMIT it is


@each_join
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_session_that_has_joined_waits_for_the_connections_commit(
    database: Engine, key: int, mode: Any, end: str
) -> None:
    with heard(on_committed) as mails, database.connect() as connection:
        outer = connection.begin()
        with Session(begun(connection), join_transaction_mode=mode) as session:
            fire_key(Plain, key, "Ready", session)
            session.commit()
        assert mails == []
        getattr(outer, end)()

        assert events(mails) == (["Ready"] if end == "commit" else [])
    assert stored(database, Plain, key) == ("Running" if end == "commit" else "Initializing")


def test_a_session_that_has_taken_over_the_transaction_commits_it(database: Engine, key: int) -> None:
    with heard(on_committed) as mails, database.connect() as connection:
        connection.begin()
        with Session(connection, join_transaction_mode="control_fully") as session:
            fire_key(Plain, key, "Ready", session)
            session.commit()

            assert events(mails) == ["Ready"]


def test_the_block_of_an_engine_commits_after_its_session(database: Engine, key: int) -> None:
    with heard(on_committed) as mails:
        with database.begin() as connection, Session(connection) as session:
            fire_key(Plain, key, "Ready", session)
            session.commit()
            assert mails == []
        assert events(mails) == ["Ready"]

        with suppress(LookupError), database.begin() as connection, Session(connection) as session:
            fire_key(Plain, key, "Stop", session)
            session.commit()
            raise LookupError

    assert events(mails) == ["Ready"]


def test_sessions_that_follow_each_other_on_a_connection_are_heard_in_order(database: Engine, key: int) -> None:
    with heard(on_committed) as mails, database.begin() as connection:
        begun(connection)
        for name in ("Ready", "NotReady", "Stop"):
            with Session(connection, join_transaction_mode="create_savepoint") as session:
                fire_key(Plain, key, name, session)
                (session.rollback if name == "NotReady" else session.commit)()

    assert events(mails) == ["Ready", "Stop"]


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_savepoint_of_the_connections_owner_counts(database: Engine, key: int, end: str) -> None:
    with heard(on_committed) as mails, database.begin() as connection:
        savepoint = begun(connection).begin_nested()
        with Session(connection) as session:
            fire_key(Plain, key, "Ready", session)
            session.commit()
        getattr(savepoint, end)()
        with Session(connection) as session:
            fire_key(Plain, key, "Stop", session)
            session.commit()

    assert events(mails) == (["Ready", "Stop"] if end == "commit" else ["Stop"])


def test_a_savepoint_rolled_back_over_an_open_one_takes_both_along(database: Engine, key: int) -> None:
    with heard(on_committed) as mails, database.begin() as connection, Session(connection) as session:
        outer = begun(connection).begin_nested()
        fire_key(Plain, key, "Ready", session)
        session.begin_nested()
        fire_key(Plain, key, "NotReady", session)
        session.commit()
        outer.rollback()

    assert mails == []


def test_a_commit_of_the_connection_that_fails_calls_nothing(database: Engine, key: int) -> None:
    def fail(connection: Connection) -> None:
        raise ConnectionError

    with heard(on_committed) as mails, database.connect() as connection:
        with Session(connection) as session:
            connection.begin()
            fire_key(Plain, key, "Ready", session)
            session.commit()
        event.listen(connection, "commit", fail)
        with pytest.raises(ConnectionError):
            connection.commit()
        connection.rollback()

    assert mails == []


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_an_async_session_waits_for_its_connections_commit(tmp_path: Path, end: str) -> None:
    async def work() -> list[str]:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/async.db")
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with engine.connect() as connection:
            outer = await connection.begin()
            async with AsyncSession(connection) as session:
                session.add(Plain(id=1))
                await fire_key(Plain, 1, "Ready", session)
                await session.commit()
            assert mails == []
            await getattr(outer, end)()
        await engine.dispose()
        return events(mails)

    with heard(on_committed) as mails:
        assert asyncio.run(work()) == (["Ready"] if end == "commit" else [])


@pytest.mark.servers_only
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_two_phase_session_hears_of_what_its_second_phase_has_committed(database: Engine, key: int, end: str) -> None:
    with heard(on_committed) as mails, Session(database, twophase=True) as session:
        fire_key(Plain, key, "Ready", session)
        session.prepare()
        assert mails == []
        getattr(session, end)()

    assert events(mails) == (["Ready"] if end == "commit" else [])


# --- AUTOCOMMIT


@pytest.mark.parametrize("end", ["commit", "rollback", "close"])
def test_in_autocommit_a_fire_is_its_own_commit(database: Engine, key: int, end: str) -> None:
    engine = database.execution_options(isolation_level="AUTOCOMMIT")
    with heard(on_committed) as mails, Session(engine) as session:
        fire_key(Plain, key, "Ready", session)
        assert events(mails) == ["Ready"]
        getattr(session, end)()

    assert events(mails) == ["Ready"]


def test_in_autocommit_hooks_run_to_completion_too(database: Engine, key: int) -> None:
    order: list[tuple[str, str]] = []
    engine = database.execution_options(isolation_level="AUTOCOMMIT")
    with (
        goes_on("Stop"),
        hooked(on_moved, Plain.state, lambda moved, session: order.append(("moved", moved.event))),
        hooked(on_committed, Plain.state, lambda moved: order.append(("committed", moved.event))),
        Session(engine) as session,
    ):
        fire_key(Plain, key, "Ready", session)

    assert order == [("moved", "Ready"), ("committed", "Ready"), ("moved", "Stop"), ("committed", "Stop")]


# --- suites that roll back


@each_join
def test_a_suite_may_have_hooks_follow_the_session(database: Engine, key: int, mode: Any) -> None:
    with heard(on_committed) as mails, database.connect() as connection, hooks_follow_session():
        outer = connection.begin()
        with Session(begun(connection), join_transaction_mode=mode) as session:
            savepoint = session.begin_nested()
            fire_key(Plain, key, "NotReady", session)
            savepoint.rollback()
            fire_key(Plain, key, "Ready", session)
            assert mails == []
            session.commit()
            assert events(mails) == ["Ready"]
            fire_key(Plain, key, "Stop", session)
            session.rollback()
        if outer.is_active:  # by "rollback_only" the session has rolled it back
            outer.rollback()

    assert events(mails) == ["Ready"]
    assert stored(database, Plain, key) == "Initializing"


def test_a_move_that_the_session_has_announced_is_not_announced_by_the_connection(database: Engine, key: int) -> None:
    with (
        heard(on_committed) as mails,
        hooks_follow_session(),
        database.begin() as connection,
        Session(begun(connection), join_transaction_mode="create_savepoint") as session,
    ):
        fire_key(Plain, key, "Ready", session)
        session.commit()

    assert events(mails) == ["Ready"]


def test_frozen_hooks_tell_of_a_joined_session_with_the_connections_commit(database: Engine, key: int) -> None:
    with heard(on_committed), frozen_hooks(Plain.state) as calls, database.begin() as connection:
        with Session(connection) as session:
            fire_key(Plain, key, "Ready", session)
            session.commit()
        assert calls == []

    assert [call.moved.event for call in calls] == ["Ready"]


# --- without a session


def hook(when: Any, function: Callable[..., Any]) -> Hook:
    return Hook(function, when, Plain, None, None, None)


def move(name: str) -> Moved[Any]:
    return Moved(Plain, secrets.randbelow(10), name, "Initializing", "Running")


@pytest.mark.parametrize(("end", "expected"), [("commit", ["moved one", "committed one"]), ("rollback", ["moved one"])])
def test_on_a_connection_hooks_get_the_connection(database: Engine, end: str, expected: list[str]) -> None:
    told: list[str] = []
    given: list[Any] = []

    def on_move(moved: Moved[Any], connection: Connection) -> None:
        given.append(connection)
        told.append(f"moved {moved.event}")

    hooks = [hook("moved", on_move), hook("committed", lambda moved: told.append(f"committed {moved.event}"))]
    with database.connect() as connection:
        announce(hooks, [move("one")], connection)
        savepoint = begun(connection).begin_nested()
        announce(hooks[1:], [move("two")], connection)
        savepoint.rollback()
        getattr(connection, end)()
        connection.execute(select(1))
        connection.commit()

    assert (expected, [connection]) == (told, given)


def test_a_move_on_the_connection_of_a_session_waits_for_the_sessions_hooks(database: Engine) -> None:
    told: list[str] = []
    hooks: list[Hook] = []

    def go_on(moved: Moved[Any], session: Session) -> None:
        if moved.event == "one":
            announce(hooks, [move("two")], session.connection())

    hooks += [hook("moved", go_on), hook("moved", lambda moved, given: told.append(moved.event))]
    with Session(database) as session:
        announce(hooks, [move("one")], session.connection(), session, journal_of(session))

    assert told == ["one", "two"]


# --- registration


def test_a_function_that_cannot_be_called_as_a_hook_is_refused_at_its_registration() -> None:
    def too_few(moved: Moved[Any]) -> None: ...

    def too_many(moved: Moved[Any], session: Session, mailer: Any) -> None: ...

    for function in (too_few, too_many):
        with pytest.raises(TypeError, match=r"on_moved: .* cannot be called with \(moved, session\)"):
            on_moved(Plain.state)(function)
    for function in (too_many, lambda moved, session: None, lambda *, moved: None):
        with pytest.raises(TypeError, match=r"on_committed: .* cannot be called with \(moved\)"):
            on_committed(Plain.state)(function)


class Mailer:
    async def later(self, moved: Moved[Any]) -> None: ...

    async def __call__(self, moved: Moved[Any]) -> None: ...

    def send(self, moved: Moved[Any], copy: bool = False) -> None: ...


def test_what_would_do_nothing_when_it_is_called_is_no_hook() -> None:
    def generator(moved: Moved[Any]) -> Iterator[int]:
        yield 1

    async def async_generator(moved: Moved[Any]) -> Any:
        yield 1

    for function in (Mailer(), Mailer().later):
        with pytest.raises(TypeError, match="coroutine function"):
            on_committed(Plain.state)(function)
    for function in (generator, async_generator):
        with pytest.raises(TypeError, match="generator function"):
            on_committed(Plain.state)(function)


@pytest.mark.parametrize("function", [print, Mailer().send, lambda moved, copy=None: None, lambda *moved: None])
def test_what_can_be_called_is_a_hook(function: Callable[..., Any]) -> None:
    assert on_committed(Plain.state)(function) is function
    remove_hook(Plain.state, function)
