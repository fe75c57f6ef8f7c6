"""Many fires while everything goes wrong, one fault after the other: none lost, none doubled, none along an edge that there is not.

FSM_MARCH_FIRES is how many have to be committed on each server, FSM_MARCH=mysql97,mariadb118,mariadb1011 names the servers.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.evidence.record import record, settings_of
from tests.faults.conftest import uncovered
from tests.faults.durable import durable, version
from tests.faults.storm import FAULTS, March, march, set_lock_wait
from tests.race.checker import CHECKS, violations
from tests.servers import Unavailable

FIRES = int(os.environ.get("FSM_MARCH_FIRES", "3000"))
SERVERS = os.environ.get("FSM_MARCH", "").split(",")
PROCESSES, SHARED = 8, 400
# Seconds between two faults: the longer the march, the longer.
PAUSE = min(12.0, max(0.3, FIRES / 4000))


def go_wrong(march: March) -> None:
    """Fault after fault, until enough is committed and each has come."""
    number = 0
    while march.steps() < FIRES or number < len(FAULTS):
        time.sleep(march.dice.uniform(0.5, 1.5) * PAUSE)
        march.befall(FAULTS[number % len(FAULTS)])
        number += 1


@pytest.mark.full
@pytest.mark.timeout(max(180, FIRES // 20))
@pytest.mark.parametrize("name", SERVERS)
def test_none_is_lost_and_none_doubled_whatever_goes_wrong(
    name: str, tmp_path: Path, request: pytest.FixtureRequest, figures: Any
) -> None:
    try:
        server = durable(tmp_path, name)
    except Unavailable as reason:
        assert not name, f"FSM_MARCH names {name}: {reason}"
        uncovered(request, f"a march under faults ({reason})")
    try:
        with march(server, tmp_path, processes=PROCESSES, shared=SHARED, cut_one_in=40) as on:
            set_lock_wait(on)
            on.begin()
            go_wrong(on)
            outcome = on.end()
            found = violations(outcome.evidence)
            per_second = round(outcome.fires / on.seconds)
            figures(
                server=version(server),
                fires=outcome.fires,
                seconds=round(on.seconds),
                **on.befell,
                violations=len(found),
            )
            record(
                "march",
                server.url,
                version=version(server),
                settings=settings_of(server.url),
                processes=PROCESSES,
                rows=SHARED + PROCESSES,
                fires=outcome.fires,
                seconds=round(on.seconds, 1),
                per_second=per_second,
                faults=dict(on.befell),
                counts=dict(outcome.counts),
                errors={str(code): number for code, number in outcome.errors.items()},
                isolation_level="READ COMMITTED",
                violations={check: sum(each.check == check for each in found) for check in CHECKS},
                first_violations=[str(violation) for violation in found[:20]],
            )
    finally:
        server.kill()

    assert found == []
    assert outcome.fires >= FIRES
    assert set(outcome.errors) <= LAWFUL, "an error that nobody expected"


# Snapshot conflict and deadlock, lock wait, read-only, lost connections, and none: nobody let the worker in.
LAWFUL = {None, 1020, 1213, 1205, 1290, 1836, 1927, 2006, 2013, 2055}
