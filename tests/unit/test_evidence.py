"""docs/evidence/faults.md and the tables of the pages on performance show the figures of their records, and all of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import page as performance
from tests.evidence import page as faults
from tests.evidence.page import CHECKS, page, read, server
from tests.faults.storm import FAULTS
from tests.faults.wrong import WRONG
from tests.race import checker

# Wrong versions that tests/faults has found out since the records were made; the next `./dev evidence` has them.
SINCE = {"guard reads without locks", "members compared as text"}
DOCS = Path(__file__).parents[2] / "docs"
MARCH = {
    "kind": "march",
    "server": "mysql97",
    "version": "9.7.4",
    "settings": {},
    "isolation_level": "READ COMMITTED",
    "processes": 8,
    "rows": 408,
    "fires": 1200,
    "seconds": 2.0,
    "per_second": 600,
    "faults": {"server killed": 3},
    "counts": {"moved": 1000, "refused": 200, "units moved": 300},
    "errors": {"1213": 2, "None": 1},
    "violations": {"I3": 2, "I2": 1},
}


@pytest.fixture(scope="module")
def records():
    return read(DOCS / "evidence" / "faults.jsonl")


def of(records, kind):
    return [record for record in records if record["kind"] == kind]


def test_the_page_is_made_of_its_records(records):
    assert (DOCS / "evidence" / "faults.md").read_text(encoding="utf-8") == page(records)


def test_the_tables_on_performance_are_made_of_their_figures():
    makes = json.loads((DOCS / "performance.json").read_text(encoding="utf-8"))
    makes = {make: makes[make] for make in ("MySQL", "MariaDB")}

    for path, text in performance.pages(makes, DOCS).items():
        assert path.read_text(encoding="utf-8") == text


def test_a_table_of_performance_without_a_place_is_an_error(tmp_path):
    (tmp_path / "evidence").mkdir()
    for name in ("performance.md", "evidence/performance.md"):
        (tmp_path / name).write_text("no markers", encoding="utf-8")

    with pytest.raises(ValueError, match=r"the page has no <!-- where -->"):
        performance.pages({"MySQL": json.loads((DOCS / "performance.json").read_text())["MySQL"]}, tmp_path)


def test_a_million_fires_under_faults_lost_and_doubled_none(records):
    marches = of(records, "march")

    assert sum(march["fires"] for march in marches) >= 1_000_000
    assert {march["server"] for march in marches} == {"mysql97", "mariadb118", "mariadb1011"}
    assert [march["violations"] for march in marches if any(march["violations"].values())] == []


def test_every_wrong_version_was_found_out_on_every_server(records):
    controls = of(records, "control")

    assert [control for control in controls if not control["caught_by"]] == []
    assert {name for name in WRONG if name} - SINCE <= {control["wrong"] for control in controls}


def test_the_inputs_are_a_hundred_thousand_and_violated_nothing(records):
    fuzz = of(records, "fuzz")

    assert sum(record["cases"] for record in fuzz) >= 100_000
    assert sum(record["violations"] for record in fuzz) == 0


def test_no_test_of_the_run_failed(records):
    assert [test for test in of(records, "test") if test["outcome"] == "failed"] == []


def test_a_violation_is_shown():
    shown = page([MARCH])

    assert "1,200 fires were acknowledged while the faults below occurred: 2 lost, 0 doubled, 1 undeclared." in shown
    assert "| violations of any check | 3 |" in shown


def test_a_wrong_version_that_nothing_found_is_shown():
    assert "NOTHING" in page([{"kind": "control", "wrong": "x", "server": "mysql97", "caught_by": []}])


def test_each_check_is_explained():
    assert set(CHECKS) - {"codes"} == set(checker.CHECKS)


def test_each_fault_and_each_wrong_version_is_explained(records):
    befell = {fault.__name__.replace("_", " ") for fault in FAULTS} | {"connections cut around COMMIT"}

    assert befell == set(faults.FAULTS)
    assert {name for name in WRONG if name} | {control["wrong"] for control in of(records, "control")} == set(
        faults.WRONG
    )


def test_servers_are_named_as_people_name_them():
    assert server("sqlite") == "sqlite"
