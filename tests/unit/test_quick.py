"""The quick profile keeps every test function on every target, and says at the end which servers it covered."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.quick import SUPPORTED, covered, quick

TESTS = Path(__file__).parents[1]


def item(path: str, name: str, *markers: str, **parameters: Any) -> Any:
    parent = SimpleNamespace(nodeid=path)
    given = {"callspec": SimpleNamespace(params=parameters)} if parameters else {}
    found = {"get_closest_marker": dict.fromkeys(markers, True).get}
    return SimpleNamespace(path=TESTS / path, parent=parent, originalname=name, name=name, **given | found)


def test_a_function_is_run_once_on_each_target() -> None:
    first, second = item("unit/a.py", "test_a", n=1), item("unit/a.py", "test_a", n=2)
    on_server, again = (
        item("unit/a.py", "test_a", url="mysql://", n=1),
        item("unit/a.py", "test_a", url="mysql://", n=2),
    )
    other = item("unit/b.py", "test_a")

    assert ([first, on_server, other], [second, again]) == quick([first, second, on_server, again, other])


def test_races_and_faults_are_left_out() -> None:
    race, wait = item("race/a.py", "test_a"), item("conformance/a.py", "test_b", "long")
    fire = item("conformance/a.py", "test_a")

    assert ([fire], [race, wait]) == quick([race, wait, fire])


def test_the_end_names_servers_without_tests_and_reasons_of_skips() -> None:
    found = [SimpleNamespace(name="mariadb118", version="11.8.9")]
    missing = {f"could not import '{name}': No module named": 1 for name in ("pandas", "kombu.utils.json")}
    lines = list(covered(found, Counter({"no Docker": 2} | missing), ["mysqldb"]))

    assert lines[0].startswith("covered: SQLite 3.")
    assert lines[1] == "covered: mariadb118 11.8.9"
    assert lines[2].startswith("NOT COVERED BY THIS RUN: MySQL 9.7, MariaDB 10.11.")
    assert lines[3] == "NOT COVERED BY THIS RUN: the driver mysqldb, which is not installed"
    assert lines[4] == "skipped 2: kombu, pandas not installed; ./dev ecosystem has them"
    assert lines[5:] == ["skipped 2: no Docker"]


def test_the_supported_servers_are_those_of_the_policy() -> None:
    page = (TESTS.parent / "docs" / "policy.md").read_text("utf-8")
    table = page.partition("## Supported versions")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in table.splitlines() if line.startswith("| M")]

    assert {f"{name} {version}" for name, versions in rows for version in versions.split(", ")} == set(SUPPORTED)
