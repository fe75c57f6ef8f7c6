"""Each small wrong version of the library is found out by the checker, and the right one is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Engine
from sqlalchemy.orm import Session

from tests.conformance import test_enum_comparisons as comparisons
from tests.evidence.record import record
from tests.faults.crew import run
from tests.faults.guarded import guarded_evidence
from tests.faults.ledger import fresh_jobs
from tests.faults.load import Load, outcome_of, work
from tests.faults.proxy import proxy, unencrypted
from tests.faults.related import sent_without_payment
from tests.faults.storm import cut_at_random
from tests.faults.wrong import WRONG, wrong_version
from tests.race.checker import Evidence, violations

PROCESSES, UNITS, SHARED = 4, 30, 3
RACES = 5
# They have tests of their own.
APART = {"guard outside of the CASE", "guard reads without locks", "members compared as text"}
# It has COMMITs of its own, and a worker of which one is cut goes no further.
UNCUT = {"history outside of the transaction"}

pytestmark = [pytest.mark.servers_only, pytest.mark.one_server]

Race = Callable[[str], Evidence]


@pytest.fixture
def race(url: URL, engine: Engine, tmp_path: Path) -> Race:
    """``race(wrong)``: four processes under this wrong version, one of them through a proxy that cuts one COMMIT in five."""

    def raced(wrong: str) -> Evidence:
        keys = fresh_jobs(engine, SHARED + PROCESSES)
        loads = [
            Load(
                *(number, url, tmp_path / f"{number}.log", keys[:SHARED]),
                units=UNITS,
                own=keys[SHARED + number],
                wrong=wrong,
                most=3,
                unusual=0.2,
                shuffled=1.0,
            )
            for number in range(PROCESSES)
        ]
        with proxy(url, cut_at_random(0 if wrong in UNCUT else 0.2)) as between:
            loads[0] = replace(loads[0], url=between.url, direct=url, connect_args=unencrypted(url))
            run(work, loads)
        return outcome_of([load.log for load in loads], engine).evidence

    return raced


def caught_by(evidence: Evidence) -> list[str]:
    return sorted({violation.check for violation in violations(evidence)})


def caught_in(race: Race, wrong: str) -> list[str]:
    """What one race has found; nothing when a worker did not get to its end, as on a record that is there already."""
    try:
        return caught_by(race(wrong))
    except RuntimeError:
        return []


def test_nothing_is_found_in_the_right_version(race: Race) -> None:
    assert violations(race("")) == []


@pytest.mark.parametrize("wrong", [name for name in WRONG if name and name not in APART])
def test_a_wrong_version_is_found_out(race: Race, engine: Engine, wrong: str) -> None:
    # Some need an accident that a race may go without, such as a deadlock.
    found = next(filter(None, (caught_in(race, wrong) for _ in range(RACES))), [])
    record("control", engine, wrong=wrong, caught_by=found)

    assert found


@pytest.mark.parametrize("wrong", ["", "guard outside of the CASE"])
def test_a_guard_outside_of_the_case_is_found_out(engine: Engine, wrong: str, figures: Any) -> None:
    found = caught_by(guarded_evidence(engine, wrong))
    if wrong:
        record("control", engine, wrong=wrong, caught_by=found)

    assert bool(found) == bool(wrong)


# Of 150 orders, 90 to 133 were sent without locks.
@pytest.mark.parametrize("wrong", ["", "guard reads without locks"])
def test_a_guard_that_reads_other_rows_without_locks_is_found_out(engine: Engine, wrong: str) -> None:
    bad, moved = sent_without_payment(engine, wrong, orders=80)
    if wrong:
        record("control", engine, wrong=wrong, caught_by=["sent without a payment"] if bad else [])

    assert bool(bad) == bool(wrong)
    assert moved >= 80


@pytest.mark.parametrize("wrong", ["", "members compared as text"])
def test_members_that_are_compared_as_text_are_found_out(engine: Engine, wrong: str) -> None:
    comparisons.Base.metadata.create_all(engine)
    with wrong_version(wrong), Session(engine) as session:
        members = {state: comparisons.S[state.name] for state in comparisons.T}
        session.add_all(
            comparisons.Order(id=i, s=members[state], s_enum=members[state]) for i, state in enumerate(comparisons.T, 1)
        )
        session.flush()
        bad = [
            name
            for name, condition in comparisons.CONDITIONS.items()
            if len(
                {
                    str(comparisons.found(session, c, condition, comparisons.S, "Enum"))
                    for c in (comparisons.Order.s, comparisons.Order.s_enum)
                }
            )
            > 1
        ]
        session.rollback()
    comparisons.Base.metadata.drop_all(engine)
    if wrong:
        record("control", engine, wrong=wrong, caught_by=bad)

    assert bool(bad) == bool(wrong)
