"""The control of `kill -9`: a server that does not flush at COMMIT loses what it has acknowledged, and the checker sees it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.evidence.record import record
from tests.faults.conftest import uncovered
from tests.faults.durable import durable
from tests.faults.storm import march, server_killed
from tests.race.checker import violations
from tests.servers import Unavailable, execute

UNFLUSHED = ("--innodb-flush-log-at-timeout=100", "--skip-log-bin")


@pytest.mark.full
def test_commits_that_are_not_flushed_are_found_missing_after_a_kill(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    try:
        server = durable(tmp_path, options=UNFLUSHED)
    except Unavailable as reason:
        uncovered(request, f"a server that does not flush ({reason})")
    try:
        with march(server, tmp_path, processes=2, shared=20, cut_one_in=10**9) as on:
            # From here on: the rows themselves have to be there afterwards.
            execute(server.url, "SET GLOBAL innodb_flush_log_at_trx_commit = 0")
            on.begin()
            while on.steps() < 300:
                time.sleep(0.05)
            server_killed(on)
            found = sorted({violation.check for violation in violations(on.end().evidence)})
            record("control", server.url, wrong="no flush at commit, kill -9", caught_by=found)
    finally:
        server.kill()

    assert {"I3", "count"} & set(found)
