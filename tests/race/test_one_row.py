"""Eight processes on one row: what each is told makes one serial order, which ends at the row."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.race.checker import violations
from tests.race.conftest import PROCESSES
from tests.race.load import Job, evidence, fire, orders, read_then_write
from tests.servers import SQLITE, execute

LEVELS = ["READ COMMITTED", "REPEATABLE READ"]


@pytest.fixture
def sqlite(tmp_path):
    return SQLITE.set(database=str(tmp_path / "race.db"))


def race(racers, url, *, rows=1, **job):
    """Run one race on new orders, and return the evidence of it."""
    with orders(url, rows) as keys:
        calls = racers.race(Job(url, keys=keys, **job))
        return evidence(url, calls)


def checks_snapshots(url):
    return (
        execute(url, "SHOW VARIABLES LIKE 'innodb_snapshot_isolation'") == "innodb_snapshot_isolation"
        and execute(url, "SELECT @@global.innodb_snapshot_isolation") == 1
    )


def outcomes(found):
    return Counter(call.outcome for call in found.calls)


@pytest.mark.servers_only
@pytest.mark.timeout(900)
@pytest.mark.parametrize("level", LEVELS)
def test_all_fires_on_one_row_make_one_serial_order(racers, url, level, fires, record_property):
    """Where the server checks snapshots, most attempts meet error 1020: all of them can be run again."""
    has_conflicts = level == "REPEATABLE READ" and checks_snapshots(url)
    number = fires.few if has_conflicts else fires.many
    found = race(racers, url, fires=number, unit=fire, isolation_level=level)
    seen = outcomes(found)
    record_property("outcomes", dict(seen))

    assert violations(found) == []
    assert seen["moved"] + seen["refused"] == PROCESSES * number
    assert min(seen["moved"], seen["refused"]) > 0
    assert {call.code for call in found.calls if call.outcome == "failed"} <= {1020, 1213}
    assert (1020 in {call.code for call in found.calls}) == has_conflicts


@pytest.mark.timeout(900)
def test_all_fires_on_one_row_of_sqlite_make_one_serial_order(racers, sqlite, fires):
    found = race(racers, sqlite, fires=fires.few, unit=fire)

    assert violations(found) == []
    assert outcomes(found)["moved"] + outcomes(found)["refused"] == PROCESSES * fires.few


@pytest.mark.servers_only
def test_read_then_write_is_found_out(racers, url):
    """The control: were the checker blind, this would pass unseen."""
    # Under REPEATABLE READ MariaDB 11.8 finds it out by itself, with error 1020.
    found = race(racers, url, fires=20, unit=read_then_write, isolation_level="READ COMMITTED")

    assert "chain" in {violation.check for violation in violations(found)}


def test_read_then_write_on_sqlite_is_found_out(racers, sqlite):
    found = race(racers, sqlite, fires=20, unit=read_then_write)

    assert "chain" in {violation.check for violation in violations(found)}
