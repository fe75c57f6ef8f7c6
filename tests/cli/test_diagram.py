"""``diagram``: what is drawn, where it goes, and what is counted."""

from __future__ import annotations

import json
import shutil

import pytest

from sqlalchemy_fsm_mysql import fire_key
from sqlalchemy_fsm_mysql.diagram import dot, markdown_table, mermaid

needs_graphviz = pytest.mark.skipif(
    shutil.which("dot") is None, reason="NOT COVERED BY THIS RUN: Graphviz is not installed"
)


def test_machine_or_its_column_is_drawn_as_a_table(run, shop):
    expected = markdown_table(shop.machine) + "\n"

    assert run("diagram", f"{shop.__name__}:machine").out == expected
    assert run("diagram", f"{shop.__name__}:Order.state").out == expected


@pytest.mark.parametrize(("format_", "drawn"), [("mermaid", mermaid), ("dot", dot)])
def test_format_is_chosen(run, shop, format_, drawn):
    assert run("diagram", f"{shop.__name__}:machine", "--format", format_).out.strip() == drawn(shop.machine).strip()


@needs_graphviz
@pytest.mark.parametrize(
    ("name", "begins"),
    [("m.md", b"|"), ("m.mmd", b"stateDiagram"), ("m.gv", b"digraph"), ("m.svg", b"<svg"), ("m.png", b"\x89PNG")],
)
def test_suffix_of_the_file_tells_the_format(run, shop, tmp_path, name, begins):
    answer = run("diagram", f"{shop.__name__}:machine", "-o", tmp_path / name)

    assert (answer.status, answer.out) == (0, "")
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_json_has_states_and_edges(run, shop):
    document = json.loads(run("diagram", f"{shop.__name__}:payments", "-f", "json").out)

    assert document["states"] == ["Paid", "Refunded"]
    assert document["edges"][0] == {
        "event": "Refund",
        "source": "Paid",
        "target": "Refunded",
        "guard": "guard",
        "effects": ["effect"],
        "declared": True,
    }


def test_rows_and_transitions_are_counted(run, shop, stock, session):
    session.add_all([shop.Order(id=1), shop.Order(id=2, state="Stopped")])
    session.flush()
    fire_key(shop.Order, 1, "Ready", session)
    session.commit()

    target = f"{shop.__name__}:Order.state"
    document = json.loads(run("diagram", target, "--counts", "--rows", "-f", "json", DATABASE_URL=stock).out)
    assert document["rows"] == {"Initializing": 0, "Running": 1, "Error": 0, "Stopped": 1, "Deleted": 0}
    assert [edge for edge in document["edges"] if edge["count"]] == [
        {
            "event": "Ready",
            "source": "Initializing",
            "target": "Running",
            "guard": None,
            "effects": [],
            "declared": True,
            "count": 1,
        }
    ]
    later = run("diagram", target, "--since", "2999-01-01", "--url", stock)
    assert "Running × 0" in later.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["Order.state", "--rows"], "a database is needed: give --url, or set DATABASE_URL."),
        (["machine", "--rows", "--url", "sqlite://"], "a machine by itself has no rows"),
        (["Item.state", "--counts", "--url", "sqlite://"], "Item.state has no TransitionHistory to count in"),
        (["machine", "-o", "picture.gif"], "the suffix is none of .md .mmd .dot .gv .svg .png .json"),
        (["machine", "-o", "no/such/folder.md"], "cannot be written: No such file or directory"),
        (["Order.state", "--rows", "--url", "what"], "A URL looks like mysql+pymysql://user@host:3306/database."),
        (["Order.state", "--rows", "--url", "mysql+asyncmy://host/db"], "is a driver for asyncio"),
        (["nothing"], "has no nothing; it has Order, Item, Payment"),
    ],
)
def test_wrong_call_is_told(run, shop, arguments, says):
    target, *options = arguments
    answer = run("diagram", f"{shop.__name__}:{target}", *options)

    assert answer.status == 2
    assert says in answer.told
    assert "secret" not in answer.told


def test_without_graphviz_the_picture_says_what_to_install(run, shop, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    pytest.importorskip("graphviz")
    answer = run("diagram", f"{shop.__name__}:machine", "-f", "svg")

    assert answer.status == 2
    assert "apt install graphviz" in answer.err


def test_groups_and_borders_are_drawn(run, tmp_path, monkeypatch):
    (tmp_path / "borders_of_tickets.py").write_text(
        "from sqlalchemy_fsm_mysql import Event, Machine\n"
        "machine = Machine(initial='new', groups={'open': ('new', 'busy')}, on_enter={'closed': lambda t: {}}, events=[\n"
        "    Event('Start', {'new': 'busy'}), Event('Close', {'open': 'closed'}),\n"
        "])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    target = "borders_of_tickets:machine"

    assert "enter" not in run("diagram", target, "-f", "mermaid").out
    assert "closed<br/>enter / effect" in run("diagram", target, "-f", "mermaid", "--borders").out
    assert json.loads(run("diagram", target, "-f", "json").out)["groups"] == {"open": ["new", "busy"]}
    refused = run("diagram", target, "--borders")
    assert refused.status == 2
    assert "a table and JSON have no borders" in refused.err
