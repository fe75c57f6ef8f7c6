"""The quick profile keeps every test function on every target, and says at the end which servers it covered."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.quick import covered, quick

TESTS = Path(__file__).parents[1]


def item(path: str, name: str, **parameters: Any) -> Any:
    parent = SimpleNamespace(nodeid=path)
    given = {"callspec": SimpleNamespace(params=parameters)} if parameters else {}
    return SimpleNamespace(path=TESTS / path, parent=parent, originalname=name, name=name, **given)


def test_a_function_is_run_once_on_each_target() -> None:
    first, second = item("unit/a.py", "test_a", n=1), item("unit/a.py", "test_a", n=2)
    on_server, again = (
        item("unit/a.py", "test_a", url="mysql://", n=1),
        item("unit/a.py", "test_a", url="mysql://", n=2),
    )
    other = item("unit/b.py", "test_a")

    assert ([first, on_server, other], [second, again]) == quick([first, second, on_server, again, other])


def test_races_and_faults_are_left_out() -> None:
    race, fire = item("race/a.py", "test_a"), item("conformance/a.py", "test_a")

    assert ([fire], [race]) == quick([race, fire])


def test_the_end_names_servers_without_tests_and_reasons_of_skips() -> None:
    lines = list(covered([SimpleNamespace(name="mariadb118", version="11.8.9")], Counter({"no Docker": 2})))

    assert lines[0] == "covered: mariadb118 11.8.9"
    assert lines[1].startswith("NOT COVERED BY THIS RUN: MySQL.")
    assert lines[2] == "skipped 2: no Docker"
