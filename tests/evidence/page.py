"""docs/evidence/faults.md, made of what a run recorded::

    python -m tests.evidence.page docs/evidence/faults.jsonl > docs/evidence/faults.md

No figure of that page is written by hand.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

HEAD = """\
# Fires under faults, wrong versions, inputs

This page has the results of the tests that try to break the [guarantees](../guarantees.md). `tests/evidence/page.py` writes it from the records
of one run, `faults.jsonl`. `./dev evidence` runs everything again and rewrites the page.
"""

NAMES = {"mysql": "MySQL", "mariadb": "MariaDB"}
# What each check of tests/race/checker.py stands for.
CHECKS = {
    "declared": "no undeclared transition, no refusal of an allowed event",
    "chain": "the moves of a row form one path",
    "count": "the row counted as many moves as were reported",
    "I1": "numbers 1 to n without a gap",
    "I2": "the history replays, and ends at the row",
    "I3": "each acknowledged token once",
    "I4": "no token of a refused or failed fire",
    "I5": "an unknown outcome 0 or 1 times, as it was resolved",
    "I6": "the order respects real time",
    "I7": "each refusal right at some moment of its call",
    "I8": "memory equals a fresh read",
    "guard": "no more moves than a guard allows",
}
LOST, DOUBLED, ILLEGAL = ("I3", "count"), ("I1", "I5", "I4"), ("declared", "I2", "chain")

Record = dict[str, Any]


def page(records: Sequence[Record]) -> str:
    """The whole page."""
    of: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        of[record["kind"]].append(record)
    parts = [
        HEAD,
        *load(of["march"]),
        *controls(of["control"]),
        *inputs(of["fuzz"]),
        *faults(of["figures"], of["test"]),
    ]
    return "\n".join([*parts, *again(of["run"], of["march"])]).rstrip() + "\n"


def server(name: str) -> str:
    """A server as people call it.

    >>> server("mysql97"), server("mariadb1011"), server("mariadb118")
    ('MySQL 9.7', 'MariaDB 10.11', 'MariaDB 11.8')
    """
    kind, digits = re.fullmatch(r"([a-z]+)(\d*)", name).groups()  # type: ignore[union-attr]  # names are letters, then digits
    major = digits[:1] if kind == "mysql" else digits[:2]
    return f"{NAMES.get(kind, kind)} {major}.{digits[len(major) :]}" if digits else kind


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row) + " |"
    yield ""


def load(marches: Sequence[Record]) -> Iterator[str]:
    """Fires under faults: what was held, what went wrong meanwhile, what was violated."""
    if not marches:
        return
    total = sum(march["fires"] for march in marches)
    sums = {name: sum(broken(march, checks) for march in marches) for name, checks in KINDS.items()}
    yield "## Fires under faults"
    yield ""
    said = ", ".join(f"{number} {name}" for name, number in sums.items())
    yield f"**{total:,} fires were acknowledged while everything below went wrong: {said}.**"
    yield ""
    yield (
        "Each process fires in units of up to 13 rows with one COMMIT, on shared rows and on one of its own, with a history "
        "and tokens. Some units are rolled back, wholly or to a savepoint. Afterwards a check compares every call of every process with the "
        "rows and the history ([test](../../tests/faults/test_march.py))."
    )
    yield ""
    head = ("", *(server(march["server"]) for march in marches))
    rows: list[tuple[object, ...]] = [
        ("processes", *(march["processes"] for march in marches)),
        ("rows", *(march["rows"] for march in marches)),
        ("fires acknowledged", *(march["fires"] for march in marches)),
        ("… of these moved", *(march["counts"]["moved"] for march in marches)),
        ("… refused", *(march["counts"]["refused"] for march in marches)),
        ("seconds", *(round(march["seconds"]) for march in marches)),
        ("fires per second, faults included", *(march["per_second"] for march in marches)),
        ("units acknowledged", *(march["counts"]["units moved"] for march in marches)),
        ("units that reported a failure", *(march["counts"].get("units failed", 0) for march in marches)),
        ("COMMITs of unknown outcome", *(march["counts"].get("units unknown", 0) for march in marches)),
        ("… of these had applied", *(march["counts"].get("unknown, applied", 0) for march in marches)),
        ("units of killed workers", *(march["counts"].get("in doubt", 0) for march in marches)),
        ("… of these had applied", *(march["counts"].get("in doubt, applied", 0) for march in marches)),
        ("looks at an instance and its row (I8)", *(march["counts"].get("glimpses", 0) for march in marches)),
        *((name, *(broken(march, checks) for march in marches)) for name, checks in KINDS.items()),
        ("violations of any check", *(sum(march["violations"].values()) for march in marches)),
    ]
    yield from table(head, rows)
    yield "Faults during the run, and their number:"
    yield ""
    names = sorted({name for march in marches for name in march["faults"]})
    yield from table(head, [(name, *(march["faults"].get(name, 0) for march in marches)) for name in names])
    codes = sorted({code for march in marches for code in march["errors"]}, key=lambda code: (not code.isdigit(), code))
    yield "Units that ended in an error, by the server's code (none: no connection):"
    yield ""
    rows = [
        (code if code.isdigit() else "none", *(march["errors"].get(code, 0) for march in marches)) for code in codes
    ]
    yield from table(head, rows)


KINDS = {"lost": LOST, "doubled": DOUBLED, "illegal edges": ILLEGAL}


def broken(march: Record, checks: Iterable[str]) -> int:
    return sum(march["violations"].get(check, 0) for check in checks)


def controls(found: Sequence[Record]) -> Iterator[str]:
    """The wrong versions, and which check found each of them out."""
    if not found:
        return
    by: defaultdict[str, list[Record]] = defaultdict(list)
    for record in found:
        by[record["wrong"]].append(record)
    runs, caught = len(found), sum(bool(record["caught_by"]) for record in found)
    yield "## Wrong versions"
    yield ""
    yield (
        f"{len(by)} wrong versions of the library or its setting went through the same load or a smaller one; {caught} of {runs} runs were found out "
        "([test](../../tests/faults/test_wrong_versions.py)). A check that finds nothing in a right version is worth what it finds in a wrong one."
    )
    yield ""
    rows = []
    for wrong, records in by.items():
        checks = sorted({check for record in records for check in record["caught_by"]})
        on = ", ".join(dict.fromkeys(server(record["server"]) for record in records))
        rows.append((wrong, on, ", ".join(checks) or "NOTHING"))
    yield from table(("wrong version", "on", "found out by"), rows)
    yield "The checks, of `tests/race/checker.py`:"
    yield ""
    yield from table(("check", "property"), CHECKS.items())


def inputs(found: Sequence[Record]) -> Iterator[str]:
    """What was given as events, states, keys, tokens and so on."""
    if not found:
        return
    cases = sum(record["cases"] for record in found)
    violated = sum(record["violations"] for record in found)
    yield "## Inputs"
    yield ""
    yield (
        f"**{cases:,} cases, {violated} violations** ([tests](../../tests/fuzz/test_names_and_values.py)). A case is one call with one drawn value: "
        "NUL, quotes, backslashes, %, %s, :x, line ends, right-to-left, composed and decomposed, full-width, trailing spaces, 64 kB, None, int, "
        "bytes, subclasses of str."
    )
    yield ""
    by: Counter[tuple[str, str]] = Counter()
    for record in found:
        for what, number in record["by"].items():
            by[what, record["server"]] += number
    servers = sorted({record["server"] for record in found})
    kinds = sorted({what for what, _ in by})
    yield from table(("as", *map(server, servers)), [(kind, *(by[kind, name] for name in servers)) for kind in kinds])
    ways: Counter[str] = Counter()
    for record in found:
        ways[record["way"]] += record["cases"]
    yield from table(("connection", "cases"), sorted(ways.items()))


def faults(figures: Sequence[Record], tests: Sequence[Record]) -> Iterator[str]:
    """Each test of a fault, and what it counted."""
    if not tests:
        return
    yield "## Tests of this run"
    yield ""
    by: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for test in tests:
        by[test["id"].partition("[")[0]][test["outcome"]] += 1
    rows = []
    for name, outcomes in sorted(by.items()):
        path, _, test = name.partition("::")
        said = ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items()))
        rows.append((f"[{test.removeprefix('test_').replace('_', ' ')}](../../{path}#{test})", said))
    yield from table(("test", "outcomes, one for each server and case"), rows)
    if figures:
        yield "Counts of these tests:"
        yield ""
    for record in figures:
        said = ", ".join(f"{name.replace('_', ' ')} {number}" for name, number in record["figures"].items())
        yield f"- `{record['test'].partition('::')[2]}`: {said}"
    yield ""


def again(runs: Sequence[Record], marches: Sequence[Record]) -> Iterator[str]:
    """Versions, settings, and how to run it again."""
    yield "## Versions and settings"
    yield ""
    for run in runs:
        packages = ", ".join(f"{name} {number}" for name, number in run["packages"].items() if number)
        yield f"- {run['at']}: Python {run['python']}, {packages}, on {run['system']}. `{run['command']}`"
    yield ""
    if marches:
        names = sorted({name for march in marches for name in march["settings"]})
        head = ("", *(server(march["server"]) for march in marches))
        rows = [
            ("version", *(march["version"] for march in marches)),
            ("isolation level of the workers", *(march["isolation_level"] for march in marches)),
            *((f"`{name}`", *(f"`{march['settings'].get(name, '–')}`" for march in marches)) for name in names),
        ]
        yield from table(head, rows)
    yield "To run all of it again, and rewrite this page:"
    yield ""
    yield "```console"
    yield "$ ./dev evidence"
    yield "```"
    yield ""


def read(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main(path: str) -> None:
    print(page(read(Path(path))), end="")


if __name__ == "__main__":
    main(sys.argv[1])
