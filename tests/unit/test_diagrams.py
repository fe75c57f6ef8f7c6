"""Mermaid, DOT, pictures, and what a notebook shows; pictures only where Graphviz is installed."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from itertools import combinations
from xml.etree import ElementTree as ET

import pytest

from sqlalchemy_fsm_mysql import Event, Machine, Transition
from sqlalchemy_fsm_mysql.demo import machine
from sqlalchemy_fsm_mysql.diagram import Graph, dot, html, html_table, markdown_table, mermaid, png, svg
from sqlalchemy_fsm_mysql.errors import GraphvizMissing

needs_graphviz = pytest.mark.skipif(
    shutil.which("dot") is None, reason="NOT COVERED BY THIS RUN: Graphviz is not installed"
)

COUNTS = {
    ("Ready", "Initializing", "Running"): 3000,
    ("Ready", "Running", "Running"): 45_000,
    ("NotReady", "Running", "Error"): 10,
    ("force_state", "Deleted", "Running"): 2,
    ("Pause", "Running", "Paused"): 1,
}
ROWS = {"Running": 1204, "Error": 1, "Paused": 4}


def is_paid(order, amount):
    """A guard, for its name."""


def book(order):
    """An effect, for its name."""


odd = """a"b;c<d>#e&f{g}`h*_i:%%|j\\k[l](m)\\n$'"""
guarded = Machine(
    initial="end",
    name='an "odd" one',
    events=[
        Event(
            "Pay",
            [
                Transition("end", odd, guard=is_paid, effect=book),
                Transition("end", "note left of", guard=lambda order: order),
            ],
        ),
        Event(odd, {"end": odd, odd: "note left of", "note left of": "end"}),
    ],
)


# --- Mermaid


def test_mermaid_of_the_reference_machine():
    assert mermaid(machine).splitlines() == [
        "stateDiagram-v2",
        "    direction LR",
        '    state "Initializing" as s0',
        '    state "Running" as s1',
        '    state "Error" as s2',
        '    state "Stopped" as s3',
        '    state "Deleted" as s4',
        "    [*] --> s0",
        "    s0 --> s0 : NotReady",
        "    s1 --> s2 : NotReady",
        "    s2 --> s2 : NotReady",
        "    s0 --> s1 : Ready",
        "    s1 --> s1 : Ready",
        "    s2 --> s1 : Ready",
        "    s0 --> s3 : Stop",
        "    s1 --> s3 : Stop",
        "    s2 --> s3 : Stop",
        "    s3 --> s3 : Stop",
        "    s3 --> s4 : Delete",
        "    s4 --> s4 : Delete",
        "    s4 --> [*]",
    ]


def test_mermaid_says_guards_and_effects_and_draws_one_arrow_between_two_states():
    drawn = mermaid(
        Machine(
            initial="new",
            events=[
                Event("Pay", [Transition("new", "paid", guard=is_paid, effect=book)]),
                Event("Give", {"new": "paid"}),
            ],
        )
    )

    assert "    s0 --> s1 : Pay #91;is#95;paid#93; / book<br/>Give" in drawn.splitlines()


def test_mermaid_reads_no_character_of_a_name_as_its_own():
    drawn = mermaid(guarded)
    text = re.sub(r"#(\d+);", lambda code: chr(int(code[1])), drawn)

    assert f'state "{odd}" as s1' in text
    quoted = re.findall(r'state "(.*)" as', drawn) + re.findall(r" : (.*)$", drawn, re.MULTILINE)
    assert not re.search(r'["`<>{}|*_\\%]', "".join(quoted).replace("<br/>", ""))


@pytest.mark.skipif("FSM_MMDC" not in os.environ, reason="FSM_MMDC is the command of @mermaid-js/mermaid-cli")
@pytest.mark.parametrize("counts", [None, {("Pay", "end", odd): 3}])
def test_mermaid_itself_draws_every_name_as_it_is(tmp_path, counts):
    (tmp_path / "odd.mmd").write_text(mermaid(guarded, counts=counts, rows={odd: 2}))
    command = [*shlex.split(os.environ["FSM_MMDC"]), "-i", "odd.mmd", "-o", "odd.svg"]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    # The labels are HTML within the SVG, where a long one is broken into lines.
    drawn = re.sub(r"\s", "", "".join(ET.parse(tmp_path / "odd.svg").getroot().itertext()))  # noqa: S314 - drawn just now

    for text in (odd, "note left of", "Pay [is_paid] / book", "2 rows"):
        assert re.sub(r"\s", "", text) in drawn


def test_mermaid_with_counts_is_a_flowchart_whose_arrows_differ():
    lines = mermaid(machine, counts=COUNTS, rows=ROWS).splitlines()

    assert "flowchart LR" in lines
    assert '    s1(["Running<br/>1,204 rows"])' in lines
    assert '    s2(["Error<br/>1 row"])' in lines
    assert '    s1 -->|"Ready × 45,000"| s1' in lines
    styles = {int(line.split()[1]): line for line in lines if "linkStyle" in line}
    arrows = [line for line in lines if "-->|" in line]
    assert sorted(styles) == list(range(1, len(arrows) + 1))
    of = {arrow.split('"')[1]: styles[number] for number, arrow in enumerate(arrows, start=1)}
    assert "stroke-width:6.5px" in of["Ready × 45,000"]
    assert "dasharray:2 3" in of["Stop × 0"]
    assert "#a371f7" in of["force#95;state × 2"]


# --- figures that the machine does not explain


def test_states_and_edges_that_only_the_database_knows_are_drawn():
    graph = Graph.of(machine).with_figures(COUNTS, ROWS)

    assert graph.strangers == ("Paused",)
    assert [(e.event, e.source, e.target) for e in graph.edges if not e.declared] == [
        ("Pause", "Running", "Paused"),
        ("force_state", "Deleted", "Running"),
    ]
    table = markdown_table(machine, COUNTS, ROWS)
    assert "| Paused (4 rows)       |" in table
    assert "Running × 2" in table
    assert "class=strange" in dot(machine, counts=COUNTS, rows=ROWS)


def test_a_state_longer_than_graphviz_reads_is_cut():
    """Its language has no string of more than 16,384 bytes."""
    drawn = dot(machine, rows={"x" * 100_000: 3, "é" * 99_999: 1})

    assert len(drawn) < 20_000
    assert "… (100,000 characters)" in drawn
    assert "… (99,999 characters)" in drawn


def test_without_figures_nothing_is_added():
    assert Graph.of(machine).with_figures({}, {"Running": 0}) == Graph.of(machine)


# --- DOT


def test_same_machine_is_drawn_as_the_same_text_by_another_process():
    script = (
        "from sqlalchemy_fsm_mysql.diagram import dot, markdown_table, mermaid\n"
        "from sqlalchemy_fsm_mysql.demo import machine\n"
        "import sys; sys.stdout.buffer.write(''.join(draw(machine) for draw in (mermaid, dot, markdown_table)).encode())"
    )
    drawn = {
        subprocess.run(
            [sys.executable, "-c", script], check=True, capture_output=True, env={"PYTHONHASHSEED": seed}
        ).stdout.decode()
        for seed in ("1", "2")
    }

    assert drawn == {"".join(draw(machine) for draw in (mermaid, dot, markdown_table))}


@pytest.mark.parametrize("draw", [mermaid, dot])
def test_direction_that_does_not_exist_is_refused(draw):
    with pytest.raises(ValueError, match="there are 'TB', 'LR', 'BT', 'RL'"):
        draw(machine, direction="up")


def test_theme_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="there are 'light', 'dark'"):
        dot(machine, theme="pink")


# --- pictures


def laid_out(text: str) -> dict:
    done = subprocess.run(["dot", "-Tjson"], input=text, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def boxes(layout: dict) -> dict[str, tuple[float, float, float, float]]:
    """Where each state and each label is: left, bottom, right, top, in points."""
    found = {}
    for node in layout["objects"]:
        (x, y), width, height = map(float, node["pos"].split(",")), float(node["width"]), float(node["height"])
        found[f"state {node['name']}"] = (x - 36 * width, y - 36 * height, x + 36 * width, y + 36 * height)
    for number, edge in enumerate(layout["edges"]):
        texts = [part for part in edge.get("_ldraw_", ()) if part["op"] == "T"]
        for line, part in enumerate(texts):
            x, y = part["pt"]
            found[f"label {number}.{line} {part['text']}"] = (x - part["width"] / 2, y, x + part["width"] / 2, y + 8)
    return found


def overlaps(a, b) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@needs_graphviz
@pytest.mark.parametrize("direction", ["TB", "LR"])
@pytest.mark.parametrize("drawn", [machine, guarded], ids=["reference", "guarded"])
def test_no_label_lies_on_another_or_on_a_state(drawn, direction):
    places = boxes(laid_out(dot(drawn, direction=direction, counts=COUNTS if drawn is machine else {})))

    assert not [(a, b) for a, b in combinations(places, 2) if overlaps(places[a], places[b])]


@needs_graphviz
def test_every_name_is_in_the_picture_as_it_is():
    root = ET.fromstring(svg(guarded, rows={odd: 2}))  # noqa: S314 - drawn a moment before
    texts = ["".join(text.itertext()).strip() for text in root.iter("{http://www.w3.org/2000/svg}text")]

    assert {odd, "2 rows", "end", "note left of", "Pay [is_paid] / book", "Pay [guard]"} <= set(texts)


@needs_graphviz
def test_svg_has_dark_colours_for_the_boxes_of_groups():
    grouped = Machine(initial="a", groups={"g": ("a", "b")}, events=[Event("E", {"a": "b", "b": "c"})])

    style = svg(grouped).partition("<style>")[2].partition("</style>")[0]

    assert ".fsm-diagram .cluster path" in style
    assert ".fsm-diagram .cluster text" in style


@needs_graphviz
def test_svg_has_colours_for_dark_screens_of_its_own_only():
    drawn = svg(machine, counts=COUNTS)

    assert drawn == svg(machine, counts=COUNTS)
    (style,) = re.findall(r"<style>(.*)</style>", drawn)
    assert style.startswith("@media (prefers-color-scheme:dark)")
    assert all(part.startswith(".fsm-diagram ") for part in re.findall(r"([^{},]+)(?:,|\{)(?=[^@])", style[35:]))
    assert "<style>" not in svg(machine, theme="dark")
    assert 'fill="#0d1117"' in svg(machine, theme="dark")


@needs_graphviz
def test_png_is_one():
    assert png(machine).startswith(b"\x89PNG")
    assert len(png(machine, dpi=72)) < len(png(machine))


def test_without_the_program_it_says_what_to_install(monkeypatch, tmp_path):
    pytest.importorskip("graphviz")
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(GraphvizMissing, match="program 'dot' is not installed.*apt install graphviz"):
        svg(machine)


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "graphviz", None)

    with pytest.raises(GraphvizMissing, match=r"pip install 'sqlalchemy-fsm-mysql\[diagram\]'"):
        png(machine)


# --- notebooks


def test_notebook_without_graphviz_shows_the_table(monkeypatch):
    monkeypatch.setitem(sys.modules, "graphviz", None)

    assert machine._repr_html_() == html_table(machine)
    assert machine._repr_markdown_() == markdown_table(machine)


def test_table_of_a_notebook_takes_no_name_for_html():
    drawn = html_table(guarded)

    assert "c&lt;d&gt;" in drawn
    assert "<d>" not in drawn
    assert ET.fromstring(drawn).tag == "table"  # noqa: S314 - drawn a moment before


@needs_graphviz
def test_notebook_with_graphviz_shows_the_picture():
    assert machine._repr_html_() == html(machine) == svg(machine)
    assert machine._repr_html_().startswith("<svg ")


def test_machine_shows_itself_without_sqlalchemy():
    script = (
        "import sys; sys.modules['sqlalchemy'] = None\n"
        "from sqlalchemy_fsm_mysql import Event, Machine\n"
        "m = Machine(initial='new', events=[Event('Pay', {'new': 'paid'})])\n"
        "assert '<' in m._repr_html_() and '| new' in m._repr_markdown_()"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
