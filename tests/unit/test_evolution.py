"""A machine that changes: aliases, retired states, JSON, and what a release has to do for each change."""

from __future__ import annotations

import enum
import pickle
from typing import Any

import pytest

from sqlalchemy_fsm_mysql import Event, InvalidMachine, Machine, Transition, diff_machines
from sqlalchemy_fsm_mysql.machine.evolution import RECIPES

FAIL = Event("Fail", {"Running": "Failed"})
REPAIR = Event("Repair", {"Failed": "Running"})


def machine(*events: Event, **options: Any) -> Machine:
    return Machine(initial="Running", events=events or (FAIL, REPAIR), **options)


def refused(**options: Any) -> list[str]:
    with pytest.raises(InvalidMachine) as error:
        machine(**options)
    return error.value.problems


# --- aliases and retired states


def test_alias_is_another_spelling_of_its_state():
    m = machine(aliases={"Error": "Failed"})

    assert (m.loaded("Error"), m.stored("Error"), m.declares("Error")) == ("Failed", "Failed", True)
    assert m.spellings("Failed") == ("Failed", "Error")
    assert m.events_from("Error") == ["Repair"]


def test_alias_is_stored_after_the_states_and_is_no_state():
    m = machine(aliases={"Error": "Failed"})

    assert (m.states, m.stored_states) == (("Running", "Failed"), ("Running", "Failed", "Error"))


def test_alias_of_a_member_loads_as_the_member():
    class State(enum.Enum):
        RUNNING = "Running"
        FAILED = "Failed"

    m = Machine(
        initial=State.RUNNING,
        states=State,
        events=[Event("Fail", {State.RUNNING: State.FAILED})],
        aliases={"Error": State.FAILED},
    )

    assert m.loaded("Error") is State.FAILED


@pytest.mark.parametrize(
    ("aliases", "problem"),
    [
        ({"Running": "Failed"}, "alias 'Running' is a state too: take it out of the states and the transitions"),
        (
            {"Error": "Lost"},
            "alias 'Error' stands for 'Lost', which is not declared; the states are 'Running', 'Failed'",
        ),
        ({7: "Failed"}, "alias 7 is not a str: give the text that the database contains"),
        ({" Error": "Failed"}, "alias ' Error' begins or ends with a space: strip it"),
        (
            {"FAILED": "Failed"},
            (
                "states and aliases 'Failed', 'FAILED' differ only in case, which most collations ignore:"
                " rename all but one"
            ),
        ),
    ],
)
def test_wrong_alias_is_told(aliases, problem):
    assert [problem] == refused(aliases=aliases)


def test_retired_state_needs_no_way_to_it():
    m = machine(FAIL, Event("Repair", {("Failed", "Broken"): "Running"}), retired=["Broken"])

    assert (m.states, m.retired) == (("Running", "Failed", "Broken"), ("Broken",))
    assert m.targets("Repair") == {"Failed": "Running", "Broken": "Running"}


def test_retired_state_may_lead_to_itself():
    assert machine(Event("Touch", {"Broken": "Broken"}), states=["Running", "Broken"], retired=["Broken"])


def test_retired_state_that_something_leads_to_is_told():
    assert refused(retired=["Failed"]) == [
        (
            "event 'Fail': the transition from 'Running' to 'Failed' leads to a retired state:"
            " drop it, or do not retire the state"
        )
    ]


def test_retired_initial_state_is_told():
    assert "the initial state 'Running' is retired: rows could not begin in it" in refused(retired=["Running"])


def test_falsy_member_can_be_retired():
    State = enum.IntEnum("State", {"OLD": 0, "NEW": 1})

    m = Machine(initial=State.NEW, states=State, events=[Event("Go", {State.OLD: State.NEW})], retired=[State.OLD])

    assert m.retired == (State.OLD,)


def test_pickled_machine_keeps_aliases_and_retired_states():
    pickled = pickle.dumps(machine(aliases={"Error": "Failed"}, retired=["Broken"]))

    arrived = pickle.loads(pickled)  # noqa: S301 - this test's own bytes

    assert (dict(arrived.aliases), arrived.retired) == ({"Error": "Failed"}, ("Broken",))


# --- JSON


def guarded() -> Machine:
    return machine(
        Event(
            "Fail",
            [
                Transition("Running", "Failed", guard=lambda order, most: order.errors > most),
                Transition("Running", "Running", effect=lambda order: {"errors": order.errors + 1}),
            ],
            effect=lambda order, by: {"by": by},
        ),
        REPAIR,
        aliases={"Error": "Failed"},
        retired=["Broken"],
        name="orders",
    )


def test_json_comes_back_as_the_same_machine():
    m = guarded()

    arrived = Machine.from_json(m.to_json())

    assert m.to_json() == arrived.to_json()
    assert (m.name, m.states, m.stored_states) == (arrived.name, arrived.states, arrived.stored_states)
    assert tuple(sorted(arrived.payload("Fail"))) == ("by", "most")
    assert diff_machines(m, arrived) == []


def test_guard_from_json_cannot_be_called():
    (guard,) = Machine.from_json(guarded().to_json()).transitions("Fail")[0].guards

    with pytest.raises(TypeError, match="cannot be fired"):
        guard.function(object, most=3)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "events": [{}]}', '{"format":1,"events":3}']
)
def test_json_of_something_else_is_refused(text):
    with pytest.raises(ValueError, match=r"not the JSON of a machine|not known here"):
        Machine.from_json(text)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: "null", "None, not an object"),
        (lambda text: text.replace('"format": 1', '"format": 2'), "format 2 is not known here"),
        (lambda text: text.replace('"format": 1', '"format": NaN'), "NaN is not a number"),
        (lambda text: text.replace('"events": [', '"events": "abc", "x": [', 1), "events is 'abc', not a list"),
        (lambda text: text.replace('"states": [', '"states": [1, ', 1), "states is 1, not a string"),
        (lambda text: text.replace('"initial": "Running"', '"initial": null'), "initial is None, not a string"),
        (lambda text: text[:-1] + ',"initial":"Failed"}', "an object has one key twice"),
        (lambda text: "[" * 100_000, "nested too deeply"),
        (lambda text: text.encode(), "of type bytes, not str"),
    ],
    ids=["null", "format", "NaN", "events", "states", "initial", "key twice", "deep", "bytes"],
)
def test_changed_json_is_refused_with_the_reason(change, reason):
    text = guarded().to_json()

    with pytest.raises(ValueError, match=reason):
        Machine.from_json(change(text))


def test_members_of_an_int_enum_come_back_by_name():
    numbered = enum.IntEnum("Numbered", {"NEW": 1, "PAID": 2})
    m = Machine(initial=numbered.NEW, states=numbered, events=[Event("Pay", {numbered.NEW: numbered.PAID})])

    arrived = Machine.from_json(m.to_json())

    assert arrived.states == ("NEW", "PAID")
    assert diff_machines(m, arrived) == []


# --- the changes


def kinds(old: Machine, new: Machine) -> list[str]:
    sentences = [change.kind for change in diff_machines(old, new)]
    assert set(sentences) <= set(RECIPES)
    return sentences


def test_same_machine_has_no_changes():
    assert diff_machines(machine(), machine()) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (machine(FAIL), machine(FAIL, REPAIR), ["event added"]),
        (machine(), machine(FAIL), ["event removed"]),
        (
            machine(FAIL),
            machine(Event("Fail", {"Running": "Lost"})),
            ["state removed", "state added", "target changed"],
        ),
        (
            machine(FAIL),
            machine(Event("Fail", {"Running": "Lost"}), aliases={"Failed": "Lost"}),
            ["state renamed"],
        ),
        (
            machine(FAIL, aliases={"Lost": "Failed"}),
            machine(Event("Fail", {"Running": "Lost"}), aliases={"Failed": "Lost"}),
            ["spelling switched"],
        ),
        (machine(FAIL), machine(FAIL, aliases={"Lost": "Failed"}), ["alias added"]),
        (machine(FAIL, aliases={"Lost": "Failed"}), machine(FAIL), ["alias removed"]),
        (machine(FAIL), machine(FAIL, retired=["Broken"]), ["state announced"]),
        (
            machine(FAIL, retired=["Broken"]),
            machine(FAIL, Event("Break", {"Failed": "Broken"})),
            ["state brought into use", "event added"],
        ),
        (
            machine(FAIL, Event("Break", {"Failed": "Broken"})),
            machine(FAIL, retired=["Broken"]),
            ["state retired", "event removed"],
        ),
        (machine(FAIL, retired=["Broken"]), machine(FAIL), ["retired state removed"]),
        (
            machine(FAIL, Event("Break", {"Running": "Broken"})),
            machine(FAIL, Event("Break", {"Running": "Failed"}), aliases={"Broken": "Failed"}),
            ["states merged"],
        ),
        (
            machine(FAIL, REPAIR),
            machine(FAIL, Event("Repair", {"Failed": "Running", "Running": "Running"})),
            ["transition added"],
        ),
        (
            machine(FAIL, Event("Repair", {"Failed": "Running", "Running": "Running"})),
            machine(FAIL, REPAIR),
            ["transition removed"],
        ),
        (
            machine(FAIL),
            machine(Event("Fail", [Transition("Running", "Failed", guard=lambda order: order.errors > 3)])),
            ["guards changed"],
        ),
        (
            machine(FAIL),
            machine(Event("Fail", {"Running": "Failed"}, effect=lambda order, why: {"why": why})),
            ["effects changed", "payload changed"],
        ),
        (
            Machine(initial="Running", events=[FAIL, REPAIR]),
            Machine(initial="Failed", events=[FAIL, REPAIR]),
            ["initial changed"],
        ),
    ],
)
def test_change_is_told_by_its_kind(old, new, expected):
    assert expected == kinds(old, new)


def test_rename_expands_first_and_contracts_last():
    (rename,) = diff_machines(machine(FAIL), machine(Event("Fail", {"Running": "Lost"}), aliases={"Failed": "Lost"}))

    assert [phase.kind for phase in rename.phases] == ["expand", "deploy", "deploy", "data", "deploy", "contract"]
    assert rename.phases[3].what == "set the rows that have 'Failed' to 'Lost', in batches by key"


def test_only_machines_are_compared():
    with pytest.raises(TypeError, match="compares two Machines"):
        diff_machines(machine(), "machine")
