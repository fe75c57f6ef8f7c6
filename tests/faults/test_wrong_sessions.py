"""Each small wrong version of what a session adds to a fire is found out, and nothing is found in the right one."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.orm import Session, SessionTransaction

from sqlalchemy_fsm_mysql import FSMError, Moved, fire_key, on_committed, on_moved, remove_hook
from tests.faults.ledger import Job, fresh_jobs
from tests.faults.wrong_sessions import WRONG

pytestmark = [pytest.mark.servers_only]


def state_of(engine: Engine, key: int) -> str:
    with engine.connect() as connection:
        return str(connection.scalar(select(Job.state).where(Job.id == key)))


@contextmanager
def hooked(register: Callable[..., Any], *functions: Callable[..., Any]) -> Iterator[None]:
    for function in functions:
        register(Job.state)(function)
    try:
        yield
    finally:
        for function in functions:
            remove_hook(Job.state, function)


def half_transactions(engine: Engine) -> list[str]:
    """The server ends the transaction in a statement of the application's own, which swallows the error."""
    fresh_jobs(engine, 2)
    with Session(engine) as session:
        fire_key(Job, 1, "Ready", session)
        connection = session.connection()
        connection.connection.dbapi_connection.rollback()  # type: ignore[union-attr]  # as the server does
        with suppress(DBAPIError):
            connection.exec_driver_sql("SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'deadlock'")
        with suppress(PendingRollbackError):
            fire_key(Job, 2, "Ready", session)
            session.commit()
            return [f"committed half of the work: {state_of(engine, 1)}, {state_of(engine, 2)}"]
    return []


class JobTimeout(Exception):
    pass


def false_answers(engine: Engine) -> list[str]:
    """A signal handler raises while a fire waits for its lock; the next fire is one on another row."""
    fresh_jobs(engine, 2)
    pymysql = create_engine(engine.url.set(drivername="mysql+pymysql"), isolation_level="READ COMMITTED")

    def give_up(*_: Any) -> None:
        raise JobTimeout

    before = signal.signal(signal.SIGALRM, give_up)
    try:
        with Session(engine) as other, Session(pymysql) as session:
            fire_key(Job, 1, "Ready", other)
            session.connection()
            timer = threading.Timer(0.4, other.rollback)
            timer.start()
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with suppress(JobTimeout):
                fire_key(Job, 1, "Ready", session)
            timer.join()
            with suppress(PendingRollbackError):
                moved = fire_key(Job, 2, "Stop", session)
                if (moved.source, moved.target) != ("Initializing", "Stopped"):
                    return [f"the fire on another row returned {moved}"]
    except FSMError as error:
        return [f"the fire on another row raised {error!r}"]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        pymysql.dispose()
    return []


def early_mails(engine: Engine) -> list[str]:
    """The session has joined a transaction that is rolled back."""
    fresh_jobs(engine, 1)
    mails: list[Any] = []

    def mail(moved: Moved[Any]) -> None:
        mails.append(moved.key)

    with hooked(on_committed, mail), engine.connect() as connection:
        outer = connection.begin()
        with Session(connection) as session:
            fire_key(Job, 1, "Ready", session)
            session.commit()
        outer.rollback()
    return [f"a mail for job {key}, which is {state_of(engine, key)}" for key in mails]


def swapped_moves(engine: Engine) -> list[str]:
    """The first hook fires a second event."""
    fresh_jobs(engine, 1)
    heard: list[str] = []

    def go_on(moved: Moved[Any], session: Session) -> None:
        if moved.event == "Ready":
            fire_key(Job, moved.key, "Stop", session)

    def listen(moved: Moved[Any], session: Session) -> None:
        heard.append(moved.event)

    with hooked(on_moved, go_on, listen), Session(engine) as session:
        fire_key(Job, 1, "Ready", session)
        session.commit()
    return [] if heard == ["Ready", "Stop"] else [f"the moves were heard as {heard}"]


def unheard_moves(engine: Engine) -> list[str]:
    """The first hook raises, and the caller commits all the same."""
    fresh_jobs(engine, 1)
    heard: list[str] = []

    def fail(moved: Moved[Any], session: Session) -> None:
        raise LookupError

    def listen(moved: Moved[Any], session: Session) -> None:
        heard.append(moved.event)

    with hooked(on_moved, fail, listen), Session(engine) as session:
        with suppress(LookupError):
            fire_key(Job, 1, "Ready", session)
        session.commit()
    return [] if heard == ["Ready"] else [f"of a committed move was heard {heard}"]


def kept_savepoints(engine: Engine) -> list[str]:
    """One transaction has many savepoints, half of which are rolled back."""
    fresh_jobs(engine, 1)
    gc.collect()
    before = transactions()
    with Session(engine) as session:
        for i in range(100):
            savepoint = session.begin_nested()
            fire_key(Job, 1, "NotReady", session)
            (savepoint.rollback if i % 2 else savepoint.commit)()
        del savepoint
        gc.collect()
        kept = transactions() - before
        session.rollback()
    return [] if kept < 10 else [f"{kept} transactions are kept after 100 savepoints"]


def transactions() -> int:
    return sum(isinstance(one, SessionTransaction) for one in gc.get_objects())


CHECKS = [half_transactions, false_answers, early_mails, swapped_moves, unheard_moves, kept_savepoints]


@pytest.mark.parametrize(("wrong", "check"), list(zip([name for name in WRONG if name], CHECKS, strict=True)))
def test_a_wrong_version_is_found_out(engine: Engine, wrong: str, check: Callable[[Engine], list[str]]) -> None:
    with WRONG[wrong]():
        found = check(engine)

    assert found


@pytest.mark.parametrize("check", CHECKS)
def test_nothing_is_found_in_the_right_version(engine: Engine, check: Callable[[Engine], list[str]]) -> None:
    assert check(engine) == []
