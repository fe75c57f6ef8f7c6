"""A worker of timed events through `kill -9` of its server: it waits, goes on, fires each row once, and ends cleanly."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, Index, func, insert, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_fsm_mysql import Event, Machine, StateMachineColumn, StateSinceColumn, TransitionHistory
from sqlalchemy_fsm_mysql.sql.clock import utc_ago
from tests.faults.conftest import uncovered
from tests.faults.durable import Durable, Scripted, durable
from tests.servers import Unavailable, make_engine, own_database

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


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Durable | Scripted]:
    try:
        made = durable(tmp_path)
    except Unavailable as reason:
        uncovered(request, f"a worker of timed events whose server is killed ({reason})")
    yield made
    made.kill()


def rung(engine: Engine) -> int:
    try:
        with engine.connect() as connection:
            query = select(func.count()).select_from(Timer).where(Timer.state == "rung")
            return connection.scalar(query) or 0
    except DBAPIError:
        return -1


def wait(until: Callable[[], bool], worker: subprocess.Popen[str], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert worker.poll() is None, worker.stderr.read() if worker.stderr else ""
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.full
def test_a_worker_survives_its_server(server: Durable | Scripted, tmp_path: Path) -> None:
    with own_database(server.url) as url:
        engine = make_engine(url)
        Base.metadata.create_all(engine)
        with engine.begin() as connection:  # one after the other, over twenty seconds
            for key in range(1, ROWS + 1):
                since = utc_ago(HOUR - timedelta(seconds=5 + key * 20 / ROWS))
                connection.execute(insert(Timer.__table__).values(id=key, state="on", state_since=since))
        ready = tmp_path / "ready"
        options = ["--every", "1", "--limit", str(BATCH), "--ready-file", str(ready)]
        target = ["due", f"{__name__}:Timer.state", "-u", url.render_as_string(hide_password=False)]
        worker = subprocess.Popen(
            [sys.executable, "-m", "sqlalchemy_fsm_mysql", *target, *options],
            cwd=Path(__file__).parents[2],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            wait(lambda: rung(engine) > ROWS // 10, worker)
            assert ready.exists()
            server.kill()
            wait(lambda: not ready.exists(), worker)
            time.sleep(2)
            server.start()
            wait(lambda: rung(engine) == ROWS and ready.exists(), worker)
            worker.terminate()
            _, told = worker.communicate(timeout=30)
        finally:
            worker.kill()
            worker.wait()
        with engine.connect() as connection:
            steps = connection.scalar(select(func.count()).select_from(TimerTransition))
            rows = connection.scalar(select(func.count(TimerTransition.record_id.distinct())))
        engine.dispose()

    assert (worker.returncode, ready.exists()) == (0, False), told
    assert (steps, rows) == (ROWS, ROWS)
    assert "waiting for the database" in told
    assert told.splitlines()[-1].startswith("Ring: ")
