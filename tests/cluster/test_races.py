"""Workers on all nodes at once: nothing is lost, nothing doubled, and the nodes end up alike."""

from __future__ import annotations

import time

import pytest
from sqlalchemy.orm import Session

from sqlalchemy_fsm_mysql import find_by_token
from tests.cluster.nodes import CURRENT
from tests.cluster.workers import Assignment, evidence, lost_and_doubled, workers
from tests.faults.ledger import Job, fresh_jobs
from tests.race.checker import violations

WORKERS = 6


def assignments(cluster, keys, seconds, *, current=True, pause=0.0):
    settings = [CURRENT[cluster.kind]] if current else []
    return [Assignment(number, cluster.urls, keys, seconds, settings, pause=pause) for number in range(WORKERS)]


def on_each_node(cluster, log):
    """The evidence of each node, once all have applied everything."""
    engines = [cluster.engine(node, CURRENT[cluster.kind]) for node in range(3)]
    found = [evidence(engine, log) for engine in engines]
    for engine in engines:
        engine.dispose()
    return found


def stale(found):
    return [violation for violation in violations(found) if violation.check == "I7"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("rows", [1, 5])
def test_workers_on_all_nodes_make_one_serial_order(cluster, database, report, rows):
    keys = fresh_jobs(database, rows)
    with workers(assignments(cluster, keys, 10)) as log:
        pass
    found = on_each_node(cluster, log)
    lost, doubled = lost_and_doubled(found[0])
    report(f"{log.counts()}; lost {lost}, doubled {doubled}")

    assert [violations(one) for one in found] == [[], [], []]
    assert (lost, doubled) == (0, 0)
    assert found[0].rows == found[1].rows == found[2].rows
    assert {call.outcome for call in log.calls} >= {"moved", "refused"}


@pytest.mark.timeout(300)
def test_without_waiting_for_the_other_nodes_only_refusals_may_be_stale(cluster, database, report):
    keys = fresh_jobs(database, 5)
    with workers(assignments(cluster, keys, 10, current=False)) as log:
        pass
    found = on_each_node(cluster, log)
    lost, doubled = lost_and_doubled(found[0])
    report(f"{log.counts()}; lost {lost}, doubled {doubled}, refusals that were stale {len(stale(found[0]))}")

    assert [violation for violation in violations(found[0]) if violation.check != "I7"] == []
    assert (lost, doubled) == (0, 0)


@pytest.mark.timeout(300)
def test_a_node_that_is_killed_and_comes_back_loses_nothing(cluster, database, report):
    keys = fresh_jobs(database, 5)
    with workers(assignments(cluster, keys, 25, pause=0.005)) as log:
        time.sleep(5)
        cluster.kill(2)
        time.sleep(8)
        cluster.bring_back(2)
    found = on_each_node(cluster, log)
    lost, doubled = lost_and_doubled(found[0])
    unknown = [call for call in log.calls if call.outcome == "unknown"]
    with Session(database) as session:
        applied = sum(find_by_token(Job.state, call.token, session) is not None for call in unknown)
    longest = max(call.end - call.begin for call in log.calls) / 1e9
    report(
        f"{log.counts()}; lost {lost}, doubled {doubled}; of the unknown {applied} had applied; "
        f"longest call {longest:.1f} s"
    )

    assert [violations(one) for one in found] == [[], [], []]
    assert (lost, doubled) == (0, 0)
    assert found[0].rows == found[1].rows == found[2].rows
    assert log.errors
    assert any(call.outcome == "moved" and call.end > log.calls[-1].begin - 3e9 for call in log.calls)
