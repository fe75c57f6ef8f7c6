"""Groups, borders, descriptions, hostile names and large machines in every drawing."""

from __future__ import annotations

import re
import shutil
import sys
import time

import pytest

from sqlalchemy_fsm_mysql import ANY, Event, Machine, Transition
from sqlalchemy_fsm_mysql.diagram import Graph, dot, html, html_table, markdown_table, mermaid, png, svg
from sqlalchemy_fsm_mysql.diagram.graph import Box
from sqlalchemy_fsm_mysql.diagram.notebook import markdown
from sqlalchemy_fsm_mysql.diagram.picture import DrawingTimeout

needs_graphviz = pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")


def stamp(order):
    return {}


def is_owner(order, user):
    return order.owner == user


machine = Machine(
    initial="new",
    groups={"open": ("new", "paid"), "live": ["open", "shipped"], "late": ["paid", "shipped"]},
    initial_states=["draft"],
    events=[
        Event("Pay", {"new": "paid"}, guard={"owner": is_owner}, description="Money\n has come in."),
        Event("Ship", {"paid": "shipped"}),
        Event("Begin", {"draft": "new"}),
        Event("Cancel", {"live": "cancelled"}),
    ],
    on_enter={"paid": stamp, "live": stamp, ANY: stamp},
    on_exit={"open": stamp},
)


def test_groups_are_boxes_within_boxes():
    """A state is in one place: "late" overlaps "open" and is no larger, so it is no box."""
    assert Graph.of(machine).boxes() == [Box("live", ("shipped",), (Box("open", ("new", "paid")),))]


def test_groups_with_the_same_states_are_nested_as_declared():
    same = Machine(initial="a", groups={"one": "ab"[:1].split(), "two": ["one"]}, events=[Event("Go", {"a": "b"})])
    assert Graph.of(same).boxes() == [Box("one", (), (Box("two", ("a",)),))]


def test_mermaid_has_composite_states():
    assert mermaid(machine).splitlines()[2:14] == [
        '    state "draft" as s3',
        '    state "cancelled" as s4',
        '    state "live" as g0',
        "    state g0 {",
        '        state "shipped" as s2',
        '        state "open" as g1',
        "        state g1 {",
        '            state "new" as s0',
        '            state "paid" as s1',
        "        }",
        "    }",
        "    [*] --> s0",
    ]


def test_flowchart_has_subgraphs():
    lines = [line.strip() for line in mermaid(machine, counts={}).splitlines()]
    assert 'subgraph g0 ["live"]' in lines
    assert lines.count("end") == 2
    assert [line for line in lines if line.startswith("begin -->")] == ["begin --> s0", "begin --> s3"]
    # The first two lines are those from the beginning.
    assert next(line for line in lines if line.startswith("linkStyle")).startswith("linkStyle 2 ")


def test_dot_has_clusters():
    text = dot(machine)
    assert text.index("subgraph cluster_0 {") < text.index("subgraph cluster_1 {") < text.index('"new" [label="new"]')
    assert text.count("{") == text.count("}")


def test_borders_are_shown_on_demand():
    assert "enter" not in dot(machine)
    assert '"paid" [label="paid\\nenter / stamp"]' in dot(machine, borders=True)
    assert 'label="live\\nenter / stamp"' in dot(machine, borders=True)
    assert 'state "paid<br/>enter / stamp" as s1' in mermaid(machine, borders=True)


def test_guards_and_effects_are_hidden_on_demand():
    assert "Pay #91;owner#93;" in mermaid(machine)
    assert "owner" not in mermaid(machine, guards=False)
    assert "owner" not in dot(machine, guards=False)


def test_descriptions_are_tooltips():
    assert 'tooltip="Pay: Money has come in."' in dot(machine)
    assert '<th scope="col" title="Money has come in.">Pay</th>' in html_table(machine)


@needs_graphviz
def test_picture_has_boxes_and_tooltips():
    drawn = svg(machine)
    assert "cluster" in drawn
    assert "Money has come in." in drawn


# --- hostile names

HOSTILE = [
    "<script>",
    "a|b",
    "`x`",
    '"; x [image="y',
    "end",
    "x\\",
    "[*] --> s0",
    "&lt;",
    "%%{init}",
    "überfällig",
    "<br/>",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_name_of_a_state_a_group_and_a_description(name):
    hostile = Machine(
        initial="new", groups={f"{name} group": (name,)}, events=[Event("Go", {"new": name}, description=name)]
    )

    for text in (html_table(hostile), mermaid(hostile), mermaid(hostile, counts={})):
        assert "<script>" not in text
        assert "--> s0 :" not in text.replace("s0 --> s1", "")
    assert re.sub(r"\\.", "", dot(hostile)).count('"') % 2 == 0
    assert len(markdown_table(hostile).replace("\\|", "").splitlines()[0].split("|")) == 4


@pytest.mark.parametrize("stranger", ["\x1b]0;x\x07", "a\nb", "\ud800", "\x00", "\u202e"])
def test_state_of_a_row_sends_nothing_to_a_terminal(stranger):
    rows = {stranger: 1}
    texts = [dot(machine, rows=rows), mermaid(machine, rows=rows), markdown_table(machine, None, rows)]
    for text in texts:
        assert all(line.isprintable() for line in text.splitlines())


@needs_graphviz
@pytest.mark.parametrize("name", ["x" * 100_000, "\x00", "\ud800", '"]; y ['])
def test_picture_of_a_machine_with_a_hostile_name(name):
    named = Machine(initial="a", name=name, events=[Event("Go", {"a": "b"})])
    assert svg(named).startswith("<svg ")


@pytest.mark.parametrize("dpi", ["1]; x [image=y", 10**5, 0, True, 1.5])
def test_dpi_that_is_no_number_of_pixels(dpi):
    with pytest.raises(ValueError, match="dpi="):
        png(machine, dpi=dpi)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "5"])
def test_timeout_that_is_no_time(timeout):
    with pytest.raises(ValueError, match="timeout="):
        svg(machine, timeout=timeout)


# --- large machines


def ring(states: int, events: int) -> Machine:
    names = [f"s{number}" for number in range(states)]
    ways = list(zip(names, [*names[1:], names[0]], strict=True))
    return Machine(
        initial="s0",
        states=names,
        events=[Event(f"e{n}", dict(ways[n % states : n % states + 1])) for n in range(events)],
        groups={f"g{n}": names[n * 100 : n * 100 + 100] for n in range(states // 100)},
    )


@pytest.fixture(scope="module")
def large() -> Machine:
    return ring(2_000, 5_000)


@pytest.mark.skipif(sys.gettrace() is not None, reason="a tracer multiplies the time")
@pytest.mark.parametrize("draw", [mermaid, dot, markdown_table, html, markdown, Machine.to_json])
def test_large_machine_is_drawn_in_seconds(large, draw):
    """2,000 states and 5,000 events; the tables were cubic, and would have taken hours."""
    began = time.process_time()
    draw(large)
    assert time.process_time() - began < 20


def test_notebook_describes_a_large_machine(large):
    assert large._repr_markdown_().startswith("A machine with 2,000 states and 5,000 events")
    assert len(large._repr_html_()) < 1_000


@needs_graphviz
def test_drawing_is_stopped():
    names = [f"s{number}" for number in range(150)]
    chords = [Transition(name, names[(7 * i + 3) % 150]) for i, name in enumerate(names)]
    machine = Machine(
        initial="s0",
        states=names,
        events=[Event("Next", dict(zip(names, [*names[1:], "s0"], strict=True))), Event("Jump", chords)],
    )
    with pytest.raises(DrawingTimeout, match=r"stopped after 0\.3 seconds"):
        svg(machine, timeout=0.3)
    assert html(machine).startswith("<table>")
