"""The machine as a table of states and events."""

from __future__ import annotations

import enum

import pytest

from sqlalchemy_fsm_mysql import ANY, Event, Machine, Transition
from sqlalchemy_fsm_mysql.demo import machine
from sqlalchemy_fsm_mysql.diagram import Edge, Graph, cells, markdown_table

# The design's own drawing.
REFERENCE = """\
|              | NotReady     | Ready   | Stop    | Delete  |
|--------------|--------------|---------|---------|---------|
| Initializing | Initializing | Running | Stopped | –       |
| Running      | Error        | Running | Stopped | –       |
| Error        | Error        | Running | Stopped | –       |
| Stopped      | –            | –       | Stopped | Deleted |
| Deleted      | –            | –       | –       | Deleted |"""


def is_paid(order):
    """A guard, for its name."""


def close(order):
    """An effect, for its name."""


def test_reference_machine_is_drawn_as_in_the_readme():
    assert markdown_table(machine) == REFERENCE


def test_graph_is_drawn_as_its_machine():
    assert markdown_table(Graph.of(machine)) == REFERENCE


def test_counts_stand_beside_the_target_and_nothing_stands_beside_a_refusal():
    small = Machine(
        initial="new", events=[Event("Pay", {"new": "paid"}), Event("Drop", {"new": "void", "void": "void"})]
    )

    assert markdown_table(small, {("Pay", "new", "paid"): 1234567, ("Drop", "new", "void"): 1}) == (
        "|      | Pay              | Drop     |\n"
        "|------|------------------|----------|\n"
        "| new  | paid × 1,234,567 | void × 1 |\n"
        "| paid | –                | –        |\n"
        "| void | –                | void × 0 |"
    )


def test_guarded_targets_are_alternatives_in_winning_order():
    guarded = Machine(
        initial="open",
        events=[
            Event(
                "Close",
                [
                    Transition("open", "done", guard=is_paid),
                    Transition("open", "owed", guard=lambda order: True),
                    Transition("open", "open"),
                ],
            )
        ],
    )

    assert cells(Graph.of(guarded))[1] == ["open", "done [is_paid], owed [guard], open"]


def test_effects_come_after_a_slash():
    event = Event("Close", [Transition("open", "done", guard=is_paid, effect=lambda order: {})], effect=close)

    assert cells(Graph.of(Machine(initial="open", events=[event])), {})[1] == [
        "open",
        "done [is_paid] / close, effect × 0",
    ]


def test_edges_tell_guard_and_effects_by_name():
    event = Event("Close", [Transition("open", "done", guard=is_paid, effect=lambda order: {})], effect=close)

    assert Graph.of(Machine(initial="open", events=[event])).edges == (
        Edge("Close", "open", "done", "is_paid", ("close", "effect")),
    )


def test_any_is_every_state_that_it_stands_for():
    graph = Graph.of(Machine(initial="a", events=[Event("Go", {"a": "b"}), Event("Fail", {ANY: "failed"})]))

    assert [edge.source for edge in graph.edges if edge.event == "Fail"] == ["a", "b", "failed"]


def test_states_of_an_enum_are_drawn_as_they_are_stored():
    class Light(enum.Enum):
        RED = 1
        GREEN = 2

    graph = Graph.of(Machine(states=Light, initial=Light.RED, events=[Event("Go", {Light.RED: Light.GREEN})]))

    assert (graph.states, graph.initial, graph.final) == (("RED", "GREEN"), "RED", ("GREEN",))


@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        ("a|b", r"a\|b"),
        ("*bold*", r"\*bold\*"),
        ("<b>", r"\<b\>"),
        ("`code`", r"\`code\`"),
        ("back\\slash", r"back\\slash"),
        ("not_ready", "not_ready"),
        ("_private_", r"\_private\_"),
        ("a__b", r"a\_\_b"),
    ],
)
def test_names_are_shown_literally_by_markdown(name, drawn):
    table = markdown_table(Machine(initial=name, events=[Event("Go", {name: "end"})]))

    assert table.splitlines()[2].startswith(f"| {drawn} ")
