"""One address for three nodes: HAProxy sends every connection to the first node, and to another when that one is gone."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL

from tests.cluster.nodes import CURRENT
from tests.cluster.workers import Assignment, evidence, lost_and_doubled, resolve, workers
from tests.faults.ledger import fresh_jobs
from tests.race.checker import violations
from tests.servers import free_port, which

CONFIGURATION = """\
defaults
    mode tcp
    timeout connect 1s
    timeout client 60s
    timeout server 60s
listen nodes
    bind 127.0.0.1:{port}
    default-server check inter 300ms fall 2 rise 2 on-marked-down shutdown-sessions
    server n0 {first}
    server n1 {second} backup
    server n2 {third} backup
"""


@pytest.fixture
def address(cluster, tmp_path: Path) -> Iterator[URL]:
    """Where HAProxy listens."""
    program = which("haproxy")
    if not program:
        pytest.skip("NOT COVERED BY THIS RUN: HAProxy is not installed (Debian: apt-get install haproxy)")
    port = free_port()
    first, second, third = (f"{url.host}:{url.port}" for url in cluster.urls)
    file = tmp_path / "haproxy.cfg"
    file.write_text(CONFIGURATION.format(port=port, first=first, second=second, third=third))
    process = subprocess.Popen([program, "-db", "-f", str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield cluster.urls[0].set(host="127.0.0.1", port=port)
    process.terminate()
    process.wait(10)


@pytest.mark.timeout(300)
def test_a_failover_loses_nothing_and_doubles_nothing(cluster, database, address, report, seconds):
    keys = fresh_jobs(database, 5)
    settings = [CURRENT[cluster.kind]]
    tasks = [Assignment(number, [address], keys, seconds + 8, settings, pause=0.005) for number in range(4)]
    with workers(tasks) as log:
        time.sleep(2)
        killed = time.monotonic_ns()
        cluster.kill(0)
        time.sleep(seconds)
        cluster.bring_back(0)
    cluster.wait_until(cluster.is_up)
    engines = [cluster.engine(node, *settings) for node in range(3)]
    applied = resolve(engines[0], log)
    found = [evidence(engine, log) for engine in engines]
    for engine in engines:
        engine.dispose()
    moved = sorted(call.end for call in log.calls if call.outcome == "moved")
    stall = max(after - before for before, after in zip(moved, moved[1:], strict=False)) / 1e9
    lost, doubled = lost_and_doubled(found[0])
    report(
        f"{log.counts()}; of the unknown {applied} had applied; lost {lost}, doubled {doubled}; "
        f"no move for {stall:.1f} s at most"
    )

    assert [violations(one) for one in found] == [[], [], []]
    assert (lost, doubled) == (0, 0)
    assert any(call.outcome == "moved" and call.begin > killed for call in log.calls)
