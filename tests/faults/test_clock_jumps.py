"""The server's clock jumps, back and forth by days: the times in the history jump with it, and nothing else does.

On every server by the session's own clock, ``SET timestamp``. Where libfaketime is there or can be fetched, by the clock of the
whole server under load: MariaDB only, because MySQL 9.7.4 under libfaketime 0.9.10 hangs while it starts.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from sqlalchemy_fsm_mysql import fire_key
from tests.faults.conftest import uncovered
from tests.faults.durable import durable
from tests.faults.ledger import Job, JobStep, Move, fresh_jobs, problems, recorded
from tests.faults.storm import march
from tests.race.checker import violations
from tests.servers import Unavailable, execute, faketime

DAY = 86_400
JUMPS = [0, -3 * DAY, 400 * DAY, -1, -40 * DAY, 0]  # seconds


@pytest.mark.servers_only
def test_a_clock_that_jumps_changes_no_order_and_no_number(engine: Engine, figures: Any) -> None:
    fresh_jobs(engine, 1)
    told = []
    with Session(engine) as session:
        now = int(session.connection().exec_driver_sql("SELECT UNIX_TIMESTAMP()").scalar_one())
        for number, jump in enumerate(JUMPS):
            session.connection().exec_driver_sql(f"SET timestamp = {now + jump}")
            told.append(Move.of(fire_key(Job, 1, "NotReady", session, token=f"jump {number}")))
            assert fire_key(Job, 1, "NotReady", session, token=f"jump {number}").replayed
            session.connection().exec_driver_sql("SET timestamp = DEFAULT")
            session.commit()
        times = session.scalars(select(JobStep.at).order_by(JobStep.sequence)).all()
    jumped = [round((at - times[0]).total_seconds()) for at in times]
    figures(jumps=len(JUMPS) - 1)

    assert jumped == [jump - JUMPS[0] for jump in JUMPS]
    assert [step.sequence for step in recorded(engine)] == list(range(1, len(JUMPS) + 1))
    assert problems(engine, told) == []


@pytest.mark.full
def test_a_whole_server_whose_clock_jumps_under_load_loses_nothing(
    tmp_path: Path, request: pytest.FixtureRequest, figures: Any
) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0\n")
    named = os.environ.get("FSM_KILL_SERVER", "")
    try:
        preload = {
            "LD_PRELOAD": str(faketime(tmp_path)),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        server = durable(tmp_path, named if named.startswith("mariadb") else "mariadb1011", preload=preload)
    except Unavailable as reason:
        uncovered(request, f"a server's clock that jumps ({reason})")
    seen = []
    try:
        with march(server, tmp_path, processes=4, shared=20, cut_one_in=10**9) as on:
            on.begin()
            for jump in ("+0", "-3d", "+400d", "-40d", "+1s", "+0"):
                clock.write_text(f"{jump}\n")
                before = on.steps()
                while on.steps() < before + 100:
                    time.sleep(0.05)
                seen.append(str(execute(server.url, "SELECT DATE(UTC_TIMESTAMP())")))
            outcome = on.end()
            found = violations(outcome.evidence)
    finally:
        server.kill()
    figures(jumps=len(seen) - 1, fires=outcome.fires, violations=len(found))

    assert len(set(seen)) == 4
    assert found == []
