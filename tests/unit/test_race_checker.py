"""The checker of races finds each kind of wrong log; a right one passes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sqlalchemy_fsm_mysql.demo import machine
from tests.race.checker import CHECKS, Call, Evidence, Glimpse, Recorded, Row, violations

# One row, moved three times and refused once, by two processes. Times are nanoseconds.
READY = Call(0, 10, 20, 1, "Ready", "moved", "Initializing", "Running", sequence=1, token="a")
NOT_READY = Call(1, 15, 30, 1, "NotReady", "moved", "Running", "Error", sequence=2, token="b")
REFUSED = Call(0, 40, 50, 1, "Delete", "refused", state="Error", token="c")
STOP = Call(1, 60, 70, 1, "Stop", "moved", "Error", "Stopped", sequence=3, token="d")
FAILED = Call(0, 60, 80, 1, "Ready", "failed", code=1213, token="e")
SEEN = Glimpse(1, "commit", 1, "Stopped", "Stopped")
LATE = Glimpse(1, "savepoint", 1, "Stopped", "Error")
CALLS = [READY, NOT_READY, REFUSED, STOP, FAILED]
HISTORY = [
    Recorded(1, 1, "Ready", "Initializing", "Running", "a"),
    Recorded(1, 2, "NotReady", "Running", "Error", "b"),
    Recorded(1, 3, "Stop", "Error", "Stopped", "d"),
]
RIGHT = Evidence(machine, CALLS, {1: Row("Stopped", 3)}, HISTORY, glimpses=[SEEN], most={1: 3})


def without_numbers(calls):
    """The same log, of a model that keeps no history."""
    return [call._replace(sequence=None, token=None) for call in calls]


def found_by(evidence):
    return {violation.check for violation in violations(evidence)}


def with_call(call, instead_of):
    return replace(RIGHT, calls=[call if each is instead_of else each for each in CALLS])


def test_right_log_passes():
    assert violations(RIGHT) == []


def test_right_log_without_numbers_passes():
    assert violations(replace(RIGHT, calls=without_numbers(CALLS), history=None)) == []


def test_row_that_nobody_touched_passes():
    assert violations(Evidence(machine, [], {1: Row("Initializing", 0)}, [])) == []


WRONG = {
    "an edge that the machine does not have": (
        "declared",
        with_call(NOT_READY._replace(event="Ready"), NOT_READY),
    ),
    "a refusal in a state that the event leaves": (
        "declared",
        with_call(REFUSED._replace(event="Ready"), REFUSED),
    ),
    "an undeclared state": ("declared", replace(RIGHT, rows={1: Row("Gone", 3)})),
    "two moves out of one state, of which one overwrote the other": (
        "chain",
        Evidence(
            machine,
            without_numbers([READY, NOT_READY._replace(event="Ready", source="Initializing", target="Running")]),
            {1: Row("Running")},
        ),
    ),
    "a row in another state than the last move led to": ("chain", replace(RIGHT, rows={1: Row("Error", 3)})),
    "a circle that the row was never in": (
        "chain",
        Evidence(
            machine,
            [
                Call(0, 1, 2, 1, "NotReady", "moved", "Running", "Error"),
                Call(0, 3, 4, 1, "Ready", "moved", "Error", "Running"),
            ],
            {1: Row("Initializing")},
        ),
    ),
    "a lost move to the same state": (
        "count",
        Evidence(
            machine,
            [Call(0, 1, 2, 1, "NotReady", "moved", "Initializing", "Initializing")],
            {1: Row("Initializing", 0)},
        ),
    ),
    "a doubled move": ("count", replace(RIGHT, rows={1: Row("Stopped", 4)})),
    "a move of a row that is not there": ("count", replace(RIGHT, calls=[*CALLS, READY._replace(key=2)])),
    "a gap in the numbers": ("I1", replace(RIGHT, history=[*HISTORY[:2], HISTORY[2]._replace(sequence=4)])),
    "a number twice": ("I1", replace(RIGHT, history=[*HISTORY[:2], HISTORY[2]._replace(sequence=2)])),
    "a move told another number than recorded": ("I1", with_call(STOP._replace(sequence=4), STOP)),
    "two moves told the same number": ("I1", with_call(NOT_READY._replace(sequence=1), NOT_READY)),
    "a recorded step that does not follow": ("I2", replace(RIGHT, history=[HISTORY[1], *HISTORY[1:]])),
    "a history that ends elsewhere": ("I2", replace(RIGHT, history=HISTORY[:2])),
    "a history of a row that is not there": (
        "I2",
        replace(RIGHT, history=[*HISTORY, HISTORY[0]._replace(key=2)]),
    ),
    "an acknowledged token that is not recorded": (
        "I3",
        replace(RIGHT, history=[HISTORY[0]._replace(token=None), *HISTORY[1:]]),
    ),
    "an acknowledged token recorded twice": (
        "I3",
        replace(RIGHT, history=[HISTORY[0]._replace(token="b"), *HISTORY[1:]]),
    ),
    "the token of a refusal recorded": (
        "I4",
        replace(RIGHT, history=[*HISTORY[:2], HISTORY[2]._replace(token="c")]),
    ),
    "the token of a failed attempt recorded": (
        "I4",
        replace(RIGHT, history=[*HISTORY[:2], HISTORY[2]._replace(token="e")]),
    ),
    "an unknown outcome that happened twice": (
        "I5",
        replace(
            with_call(STOP._replace(outcome="unknown", source=None, target=None, sequence=None), STOP),
            history=[HISTORY[0]._replace(token="d"), *HISTORY[1:]],
        ),
    ),
    "an unknown outcome resolved as done, and not recorded": (
        "I5",
        replace(with_call(STOP._replace(outcome="unknown", resolved=True), STOP), history=HISTORY[:2]),
    ),
    "an unknown outcome resolved as not done, and recorded": (
        "I5",
        with_call(STOP._replace(outcome="unknown", resolved=False), STOP),
    ),
    "a number that came before an earlier call's": (
        "I6",
        with_call(READY._replace(begin=80, end=90), READY),
    ),
    "a refusal that names a state of another time": (
        "I7",
        with_call(REFUSED._replace(state="Initializing"), REFUSED),
    ),
    "a refusal that names a state to come": (
        "I7",
        with_call(REFUSED._replace(event="Ready", state="Stopped"), REFUSED),
    ),
    "an instance ahead of a rolled-back savepoint": ("I8", replace(RIGHT, glimpses=[SEEN, LATE])),
    "an instance behind its own commit": ("I8", replace(RIGHT, glimpses=[LATE._replace(after="commit")])),
    "an instance ahead of a rollback": ("I8", replace(RIGHT, glimpses=[LATE._replace(after="rollback")])),
    "a move more than the guard allows": ("guard", replace(RIGHT, most={1: 2})),
    "an uncounted move more than the guard allows": ("guard", replace(RIGHT, calls=[], most={1: 2})),
}


@pytest.mark.parametrize(("check", "evidence"), WRONG.values(), ids=WRONG)
def test_checker_finds(check, evidence):
    assert check in found_by(evidence)


def test_every_check_has_a_log_that_it_refuses():
    assert {check for check, _ in WRONG.values()} == set(CHECKS)


def test_refusal_without_numbers_is_found_when_its_state_was_not_entered_yet():
    calls = without_numbers([READY, NOT_READY, REFUSED._replace(event="Ready", state="Stopped"), STOP])
    assert "I7" in found_by(Evidence(machine, calls, {1: Row("Stopped")}))


def test_refusal_without_numbers_is_found_when_its_state_had_been_left_for_good():
    calls = without_numbers([READY, NOT_READY, REFUSED._replace(state="Running"), STOP])
    assert "I7" in found_by(Evidence(machine, calls, {1: Row("Stopped")}))


@pytest.mark.parametrize("state", ["Initializing", "Running", "Error"])
def test_refusal_may_name_any_state_of_its_window(state):
    """It overlaps both moves, so it may have come before, between or after them."""
    refused = REFUSED._replace(begin=12, end=25, state=state)
    assert violations(with_call(refused, REFUSED)) == []


def test_move_whose_commit_was_lost_may_be_there_or_not():
    lost = STOP._replace(outcome="unknown", source=None, target=None, sequence=None)
    there = with_call(lost, STOP)
    not_there = replace(there, rows={1: Row("Error", 2)}, history=HISTORY[:2])
    assert violations(there) == []
    assert violations(not_there) == []


def test_unknown_outcome_counts_as_it_was_resolved():
    """All checks apply to it then, also those that pass over a row with an open question."""
    done = with_call(STOP._replace(outcome="unknown", resolved=True), STOP)
    not_done = replace(
        with_call(STOP._replace(outcome="unknown", resolved=False), STOP),
        rows={1: Row("Error", 2)},
        history=HISTORY[:2],
    )
    assert violations(done) == []
    assert violations(not_done) == []
    assert {"chain", "count"} <= found_by(replace(done, rows={1: Row("Error", 2)}))


def test_token_that_failed_and_then_moved_is_recorded_once():
    assert violations(replace(RIGHT, calls=[*CALLS, FAILED._replace(token="d")])) == []


def test_chain_starts_where_the_row_began():
    evidence = Evidence(machine, [STOP._replace(sequence=None)], {1: Row("Stopped", 1)}, initial={1: "Error"})
    assert violations(evidence) == []
