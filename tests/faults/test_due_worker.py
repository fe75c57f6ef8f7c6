"""A worker of timed events through `kill -9` of its server and through a failover.

It waits, goes on, fires each row once, and ends cleanly.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, Index, func, insert, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_fsm_mysql import Event, Machine, StateMachineColumn, StateSinceColumn, TransitionHistory
from sqlalchemy_fsm_mysql.sql.clock import utc_ago
from tests.faults.conftest import own_server
from tests.faults.durable import Durable, Scripted
from tests.servers import execute, make_engine, own_database

ROWS, BATCH = 600, 10
HOUR = timedelta(hours=1)


class Base(DeclarativeBase):
    """The tables of this module."""


class Timer(Base):
    __tablename__ = "fault_timers"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(
        Machine(initial="on", events=[Event("Ring", {"on": "rung"}, after=HOUR), Event("Stop", {"on": "off"})])
    )
    state_since: Mapped[datetime] = StateSinceColumn()
    __table_args__ = (Index("ix_fault_timers", "state", "state_since"),)


class TimerTransition(TransitionHistory, Base):
    __tablename__ = "fault_timer_transitions"
    __records__ = "Timer.state"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Durable | Scripted]:
    with own_server(request, tmp_path_factory.mktemp("due"), "a worker of timed events whose server is killed") as made:
        yield made


@pytest.fixture
def engine(server: Durable | Scripted) -> Iterator[Engine]:
    """Of root; the tables are new, and `due_app` may write them while the server takes writes."""
    with own_database(server.url) as url:
        engine = make_engine(url)
        Base.metadata.create_all(engine)
        execute(
            url,
            "CREATE USER IF NOT EXISTS due_app",
            f"GRANT SELECT, INSERT, UPDATE ON {url.database}.* TO due_app",
        )
        yield engine
        engine.dispose()


def put(engine: Engine, seconds: float) -> None:
    """ROWS that become due one after the other, over *seconds* from a short while ago."""
    with engine.begin() as connection:
        for key in range(1, ROWS + 1):
            since = utc_ago(HOUR - timedelta(seconds=1 + key * seconds / ROWS))
            connection.execute(insert(Timer.__table__).values(id=key, state="on", state_since=since))


@contextmanager
def working(engine: Engine, ready: Path) -> Iterator[subprocess.Popen[str]]:
    """The worker as a process of its own. At the end of the block it has been told to stop, and has ended."""
    options = ["--every", "1", "--limit", str(BATCH), "--ready-file", str(ready)]
    url = engine.url.set(username="due_app").render_as_string(hide_password=False)
    worker = subprocess.Popen(
        [sys.executable, "-m", "sqlalchemy_fsm_mysql", "due", f"{__name__}:Timer.state", "-u", url, *options],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield worker
    finally:
        worker.kill()
        worker.wait()


def ended(worker: subprocess.Popen[str], ready: Path) -> str:
    """Stop the worker; what it has told."""
    worker.terminate()
    _, told = worker.communicate(timeout=30)
    assert (worker.returncode, ready.exists()) == (0, False), told
    assert told.splitlines()[-1].startswith("Ring: ")
    return told


def rung(engine: Engine) -> int:
    try:
        with engine.connect() as connection:
            query = select(func.count()).select_from(Timer).where(Timer.state == "rung")
            return connection.scalar(query) or 0
    except DBAPIError:
        return -1


def steps(engine: Engine) -> tuple[int, int]:
    """How many steps the history has, and of how many rows."""
    count = func.count(), func.count(TimerTransition.record_id.distinct())
    with engine.connect() as connection:
        all_, rows = connection.execute(select(*count).select_from(TimerTransition)).one()
    return all_, rows


def wait(until: Callable[[], bool], worker: subprocess.Popen[str], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert worker.poll() is None, worker.stderr.read() if worker.stderr else ""
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.full
def test_a_worker_survives_its_server(server: Durable | Scripted, engine: Engine, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    put(engine, seconds=20)
    with working(engine, ready) as worker:
        wait(lambda: rung(engine) > ROWS // 10, worker)
        assert ready.exists()
        server.kill()
        wait(lambda: not ready.exists(), worker)
        time.sleep(2)
        server.start()
        wait(lambda: rung(engine) == ROWS and ready.exists(), worker)
        told = ended(worker, ready)

    assert steps(engine) == (ROWS, ROWS)
    assert "waiting for the database" in told


@pytest.mark.full
def test_a_worker_survives_a_failover(engine: Engine, tmp_path: Path) -> None:
    """The primary becomes read-only under the worker, its connections are ended, and seconds later it takes writes."""
    ready = tmp_path / "ready"
    put(engine, seconds=5)
    name = "read_only" if engine.dialect.is_mariadb else "super_read_only"  # type: ignore[attr-defined]  # MySQL's
    with working(engine, ready) as worker:
        wait(lambda: rung(engine) > ROWS // 10, worker)
        assert ready.exists()
        execute(engine.url, f"SET GLOBAL {name} = 1")
        try:
            before = rung(engine)
            wait(lambda: not ready.exists(), worker)
            time.sleep(1)
            with engine.connect() as connection:
                query = text("SELECT id FROM information_schema.processlist WHERE user = 'due_app'")
                for key in connection.scalars(query).all():
                    with suppress(DBAPIError):  # it has ended by itself
                        connection.exec_driver_sql(f"KILL {key}")
            time.sleep(2)
            assert (rung(engine), ready.exists()) == (before, False)
            assert 0 < before < ROWS
        finally:
            execute(engine.url, "SET GLOBAL read_only = 0")  # and super_read_only
        wait(lambda: rung(engine) == ROWS and ready.exists(), worker)
        told = ended(worker, ready)

    assert steps(engine) == (ROWS, ROWS)
    assert "waiting for the database (NotWritable, error 1290)" in told
    assert "failed" not in told
