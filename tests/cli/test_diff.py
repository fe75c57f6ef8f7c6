"""``json`` and ``diff``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sqlalchemy_fsm_mysql import Machine, diff_machines

MODELS = """
from sqlalchemy_fsm_mysql import Event, Machine

last = Machine(initial="Running", events=[Event("Fail", {"Running": "Error"})])
coming = Machine(initial="Running", events=[Event("Fail", {"Running": "Failed"})], aliases={"Error": "Failed"})
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"releases_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_what_json_prints_is_the_machine(run: Any, module: str) -> None:
    answer = run("json", f"{module}:coming")

    assert answer.status == 0
    assert diff_machines(Machine.from_json(answer.out), __import__(module).coming) == []


def test_a_file_is_compared_with_the_program(run: Any, module: str) -> None:
    Path("last.json").write_text(run("json", f"{module}:last").out)
    same = run("diff", "last.json", f"{module}:last")
    answer = run("diff", "last.json", f"{module}:coming")

    assert (same.status, same.out) == (0, "Nothing changed.\n")
    assert answer.status == 1
    assert answer.out.startswith("state 'Error' is renamed to 'Failed'\n  1. expand: ")


def test_as_json(run: Any, module: str) -> None:
    answer = run("diff", f"{module}:last", f"{module}:coming", "--json")
    (change,) = json.loads(answer.out)

    assert (answer.status, change["kind"]) == (1, "state renamed")
    assert [phase["kind"] for phase in change["phases"]] == ["expand", "deploy", "deploy", "data", "deploy", "contract"]
    assert (run("diff", f"{module}:last", f"{module}:last", "--json").out) == "[]\n"


@pytest.mark.parametrize("text", ["", "{}", "[1]", "not JSON"])
def test_a_file_that_is_no_machine_is_status_2(run: Any, module: str, text: str) -> None:
    Path("broken.json").write_text(text)
    answer = run("diff", "broken.json", f"{module}:last")

    assert answer.status == 2
    assert "broken.json" in answer.told


def test_a_file_that_is_not_there_is_status_2(run: Any, module: str) -> None:
    answer = run("diff", "nowhere.json", f"{module}:last")

    assert answer.status == 2
    assert "nowhere.json cannot be read" in answer.told
