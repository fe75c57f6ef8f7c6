"""Races on all nodes while nodes are killed, stopped and cut off: the anomalies that Jepsen found in Galera 12.1.2 to
12.2.2 (https://jepsen.io/analyses/mariadb-galera-cluster-12.1.2), looked for through the library.

A lost acknowledged move, a lost update, an edge that two callers were told, and half of a unit each break one of
the checks of `tests.race.checker`: every acknowledged token is recorded once, each history is numbered without a gap and
replays to its row, and as many moves were reported as the row has counted.

The usual run has one pause and one partition; test_haproxy.py kills a node. FSM_CLUSTER_SECONDS=600 has a race of ten
minutes for each fault, FSM_CLUSTER_FAULTS=kill,pause those two in one race. With FSM_CLUSTER_EVIDENCE=folder, what does
not hold is written there.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.cluster.nemesis import FAULTS, STUCK, least, plague
from tests.cluster.nodes import CURRENT
from tests.cluster.workers import Assignment, evidence, lost_and_doubled, resolve, workers
from tests.faults.ledger import fresh_jobs
from tests.race.checker import violations

WORKERS, ROWS = 6, 5

ASKED = os.environ.get("FSM_CLUSTER_FAULTS")
RACES = [ASKED] if ASKED else list(FAULTS) if "FSM_CLUSTER_SECONDS" in os.environ else ["pause,partition"]


def assignments(cluster, keys, seconds):
    """Two workers a node, one of which fires by the locking backend."""
    locking = {"execution_options": {"fsm_backend": "locking"}}
    return [
        Assignment(
            number,
            cluster.urls,
            keys,
            seconds,
            [CURRENT[cluster.kind]],
            pause=0.005,
            pairs=0.2,
            looks=0.2,
            options=locking if number >= WORKERS // 2 else {},
            # test_savepoints.py shows what these do to a group.
            late_savepoints=cluster.kind == "galera",
        )
        for number in range(WORKERS)
    ]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("faults", RACES)
def test_faults_lose_nothing_that_was_acknowledged(apart, database, report, seconds, faults):
    keys, names = fresh_jobs(database, ROWS), faults.split(",")
    with workers(assignments(apart, keys, max(seconds, least(apart.kind, names)) + 4)) as log:
        done = plague(apart, names, seconds)
    nodes = [node for node in range(3) if apart.takes_writes(node)]
    engines = [apart.engine(node, CURRENT[apart.kind]) for node in nodes]
    applied = resolve(engines[0], log)
    found = [evidence(engine, log) for engine in engines]
    for engine in engines:
        engine.dispose()
    wrong = violations(found[0])
    lost, doubled = lost_and_doubled(found[0])
    stored = {row.token for row in found[0].history or ()}
    denied = Counter(call.code for call in log.calls if call.outcome == "failed" and call.token in stored)
    longest = max(call.end - call.begin for call in log.calls) / 1e9
    stale = sum(look.is_stale for look in log.looks)
    report(
        f"{dict(done)}: {log.counts()}; of the unknown {applied} had applied; lost {lost}, doubled {doubled}; "
        f"applied although the error said no {dict(denied)}; "
        f"stale reads {stale} of {len(log.looks)}; longest call {longest:.1f} s; "
        f"violations {dict(Counter(violation.check for violation in wrong))}"
    )
    if wrong and (folder := os.environ.get("FSM_CLUSTER_EVIDENCE")):
        Path(folder, f"{apart.kind}-{faults}.txt").write_text("\n".join(map(str, wrong)))

    # A node that is cut off may judge a refusal by a COMMIT that the others do not have; docs/clusters.md says so. It writes nothing.
    tolerated = {"I7"} if apart.kind == "galera" and "partition" in names else set()
    kept = [[violation for violation in violations(one) if violation.check not in tolerated] for one in found]
    assert kept == [[]] * len(nodes)
    assert (lost, doubled) == (0, 0)
    assert [one.rows for one in found] == [found[0].rows] * len(nodes)
    assert (nodes, done[STUCK]) == ([0, 1, 2], 0)
    assert {call.outcome for call in log.calls} >= {"moved", "refused"}
    assert stale == 0
