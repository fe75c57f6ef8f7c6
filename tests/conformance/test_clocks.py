"""Only the database's clock counts: not that of the worker's host, and not the time zone of a session, DST included."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, Index, delete, func, insert, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    Machine,
    StateMachineColumn,
    StateSinceColumn,
    TransitionHistory,
    fire_due,
    fire_key,
    try_fire_key,
)
from sqlalchemy_fsm_mysql.orm import lanes
from sqlalchemy_fsm_mysql.sql.clock import utc_ago
from tests.servers import Unavailable, faketime

HOUR, DAY, SECOND = timedelta(hours=1), timedelta(days=1), timedelta(seconds=1)


class Base(DeclarativeBase):
    """The tables of this module."""


class Timer(Base):
    __tablename__ = "clock_timers"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="on",
            events=[
                Event("Ring", {("on", "snoozed"): "rung"}, after=HOUR),
                Event("Snooze", {("on", "rung"): "snoozed"}),
            ],
        )
    )
    state_since: Mapped[datetime] = StateSinceColumn()
    note: Mapped[int] = mapped_column(default=0)
    __table_args__ = (Index("ix_clock_timers", "state", "state_since"),)


class TimerTransition(TransitionHistory, Base):
    __tablename__ = "clock_timer_transitions"
    __records__ = "Timer.state"


@pytest.fixture
def home(backend_engine: Engine, tables: None) -> Iterator[Engine]:
    """The database, whose tables are empty after the test."""
    yield backend_engine
    with backend_engine.begin() as connection:
        connection.execute(delete(TimerTransition.__table__))
        connection.execute(delete(Timer.__table__))


def put(home: Engine, **ago: timedelta) -> None:
    """Rows ``k1=…``, on since then."""
    with home.begin() as connection:
        for key, since in ago.items():
            connection.execute(insert(Timer.__table__).values(id=int(key[1:]), state="on", state_since=utc_ago(since)))


def rung(home: Engine) -> list[int]:
    with home.connect() as connection:
        table = Timer.__table__
        return list(connection.scalars(select(table.c.id).where(table.c.state == "rung").order_by(table.c.id)))


WORKER = """
import sys, time
from sqlalchemy import create_engine
from sqlalchemy_fsm_mysql import run_due
from tests.conformance.test_clocks import Timer
moved = run_due(create_engine(sys.argv[1]), Timer, every=None)
print(moved.moved, int(time.time()))
"""


@pytest.fixture(scope="module")
def preload(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of libfaketime, installed or fetched."""
    try:
        return str(faketime(tmp_path_factory.mktemp("faketime")))
    except (Unavailable, OSError, StopIteration, subprocess.SubprocessError) as reason:
        pytest.skip(f"no libfaketime: {reason}")


@pytest.mark.long
@pytest.mark.parametrize("jump", ["-40d", "+400d"])
def test_the_clock_of_the_workers_host(home, preload, jump):
    """A worker whose host is a year ahead fires nothing early, and one that is behind fires what is due."""
    if home.dialect.name == "sqlite":
        pytest.skip("SQLite's clock is that of its process")
    put(home, k1=2 * HOUR, k2=HOUR - 600 * SECOND)
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", WORKER, home.url.render_as_string(hide_password=False)],
        env={**os.environ, "PYTHONPATH": root, "LD_PRELOAD": preload, "FAKETIME": jump},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    moved, at = map(int, done.stdout.split())
    assert abs(at - time.time()) > 30 * 86_400
    assert (moved, rung(home)) == (1, [1])


@pytest.mark.parametrize(("before", "after"), [("+01:00", "+02:00"), ("+02:00", "+01:00"), ("-11:00", "+13:00")])
def test_a_session_whose_offset_changes_as_by_dst(home, before, after):
    """The row enters its state under one offset, and is judged under the other: an hour is an hour."""
    if home.dialect.name == "sqlite":
        pytest.skip("SQLite has no time zone of a session")
    put(home, k1=HOUR + 60 * SECOND, k2=HOUR - 60 * SECOND)
    with Session(home) as session:
        connection = session.connection()
        zone = connection.exec_driver_sql("SELECT @@time_zone").scalar_one()
        try:
            connection.exec_driver_sql(f"SET time_zone = '{before}'")
            session.add(Timer(id=3))
            session.flush()
            connection.exec_driver_sql(f"SET time_zone = '{after}'")
            assert [try_fire_key(Timer, key, "Ring", session).failed for key in (2, 3)] == [("after",)] * 2
            assert fire_due(Timer, session).moved == 1
            session.commit()
        finally:
            session.connection().exec_driver_sql(f"SET time_zone = '{zone}'")
    assert rung(home) == [1]


def test_a_jump_of_the_servers_own_clock(home):
    """Back, nothing rings early and nothing rings twice; forth, it rings. SET timestamp is the clock of this session."""
    if home.dialect.name == "sqlite":
        pytest.skip("SQLite's clock is that of the host")
    put(home, k1=2 * HOUR, k2=60 * SECOND)
    with Session(home) as session:
        now = int(session.connection().exec_driver_sql("SELECT UNIX_TIMESTAMP()").scalar_one())
        try:
            for jump, expected in ((-3 * 86_400, 0), (0, 1), (-86_400, 0), (2 * 86_400, 1), (0, 0)):
                session.connection().exec_driver_sql(f"SET timestamp = {now + jump}")
                assert fire_due(Timer, session).moved == expected
        finally:
            session.connection().exec_driver_sql("SET timestamp = DEFAULT")
        session.commit()
        assert session.scalar(select(func.count()).select_from(TimerTransition)) == 2
    assert rung(home) == [1, 2]


def test_many_batches_under_repeatable_read_with_a_history(home, monkeypatch):
    """No batch ends by error 1020 when others change the rows of a later batch: no statement makes a snapshot."""
    if home.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    monkeypatch.setattr(lanes, "BATCH", 2)
    put(home, **{f"k{key}": (50 - key) * HOUR for key in range(1, 11)})
    with home.begin() as connection:  # rows with a history already: those without one would be locked by their gap
        for key in range(1, 11):
            if key % 2:
                fire_key(Timer, key, "Snooze", connection)
        connection.execute(Timer.__table__.update().values(state_since=utc_ago(9 * HOUR)))
    strict = home.execution_options(isolation_level="REPEATABLE READ")
    committed = home.execution_options(isolation_level="READ COMMITTED")
    with Session(strict) as mine, committed.connect() as theirs:
        assert fire_due(Timer, mine, limit=2).moved == 2
        left = [key for key in range(1, 11, 2) if key not in _moved(mine)]
        theirs.execute(text("UPDATE clock_timers SET note = 1 WHERE id = :id"), {"id": left[-1]})
        theirs.commit()
        assert fire_due(Timer, mine).moved == 8
        mine.commit()
    assert rung(home) == list(range(1, 11))


def _moved(session: Session) -> list[int]:
    """The keys that *session* has moved: those are locked, so it is read with a lock, which makes no snapshot."""
    query = select(Timer.__table__.c.id).where(Timer.__table__.c.state == "rung").with_for_update(skip_locked=True)
    return list(session.connection().scalars(query))
