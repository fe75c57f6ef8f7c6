"""Workers on all nodes at once: nothing is lost, nothing doubled, and the nodes end up alike."""

from __future__ import annotations

import pytest

from tests.cluster.nodes import CURRENT
from tests.cluster.workers import Assignment, evidence, lost_and_doubled, workers
from tests.faults.ledger import fresh_jobs
from tests.race.checker import violations

WORKERS = 6


def assignments(cluster, keys, seconds, *, current=True):
    settings = [CURRENT[cluster.kind]] if current else []
    return [Assignment(number, cluster.urls, keys, seconds, settings) for number in range(WORKERS)]


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
def test_workers_on_all_nodes_make_one_serial_order(cluster, database, report, seconds, rows):
    keys = fresh_jobs(database, rows)
    with workers(assignments(cluster, keys, seconds)) as log:
        pass
    found = on_each_node(cluster, log)
    lost, doubled = lost_and_doubled(found[0])
    report(f"{log.counts()}; lost {lost}, doubled {doubled}")

    assert [violations(one) for one in found] == [[], [], []]
    assert (lost, doubled) == (0, 0)
    assert found[0].rows == found[1].rows == found[2].rows
    assert {call.outcome for call in log.calls} >= {"moved", "refused"}


@pytest.mark.timeout(300)
def test_without_waiting_for_the_other_nodes_only_refusals_may_be_stale(cluster, database, report, seconds):
    keys = fresh_jobs(database, 5)
    with workers(assignments(cluster, keys, seconds, current=False)) as log:
        pass
    found = on_each_node(cluster, log)
    lost, doubled = lost_and_doubled(found[0])
    report(f"{log.counts()}; lost {lost}, doubled {doubled}, refusals that were stale {len(stale(found[0]))}")

    assert [violation for violation in violations(found[0]) if violation.check != "I7"] == []
    assert (lost, doubled) == (0, 0)
