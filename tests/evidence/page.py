"""docs/evidence/faults.md, made of what a run recorded::

    python -m tests.evidence.page docs/evidence/faults.jsonl > docs/evidence/faults.md

No figure of that page is written by hand.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HEAD = """\
# Fires under faults, wrong versions, inputs

This page has the results of the tests that try to break the [guarantees](../guarantees.md): fires of many processes while servers, workers and
connections fail, the same load on wrong versions of the library, and odd input.
"""

NAMES = {"mysql": "MySQL", "mariadb": "MariaDB"}
# The property that each check of tests/race/checker.py examines.
CHECKS = {
    "declared": "Each move is a declared transition, and each refusal is one that the machine requires.",
    "chain": "The moves of a row form one path, from its first state to its last.",
    "count": "The row has counted as many moves as callers were given.",
    "I1": "The history rows of a row are numbered from 1 to n without a gap.",
    "I2": "Each step of the history is declared, and the last one leads to the state of the row.",
    "I3": "The token of each acknowledged move is recorded once.",
    "I4": "No token of a refused or failed fire is recorded.",
    "I5": "The token of a COMMIT of unknown outcome is recorded once or not at all, as the caller found out later.",
    "I6": "If one call ended before another began, it has the smaller number in the history.",
    "I7": "The row was in the state that a refusal names, at some moment of the call.",
    "I8": "The instance in memory shows what a new SELECT shows.",
    "guard": "No row has moved more often than its guard allows.",
    "codes": "Each server error has the meaning that the library gives it.",
}
# The faults of tests/faults/storm.py, by the names in the records.
FAULTS = {
    "client stalled with rows": "a client stopped while it had rows locked",
    "connections cut around COMMIT": "a connection was cut around COMMIT",
    "connections exhausted": "the server had no connection left",
    "connections killed": "all connections of the application were killed",
    "read only in the middle": "the server became read-only",
    "server killed": "the server was killed (SIGKILL) and restarted",
    "workers killed": "a worker was killed (SIGKILL)",
}
# The wrong versions, by the names in the records.
WRONG = {
    "table of error codes off by one": "Each server error has the meaning of its neighbour in the table.",
    "read-then-write": "A fire reads the row without a lock, and writes it by a second statement.",
    "history outside of the transaction": "The history row is committed by itself, even if the move is rolled back.",
    "acknowledging without commit": "One unit in three is rolled back, and reported as committed.",
    "code table off by one": "The code of a transition is read as that of the next one.",
    "refusal codes off by one": "The code of a refusing state is read as that of the state before it.",
    "savepoint rule removed": "Instances keep the state of a fire after its savepoint was rolled back.",
    "retry of one statement": "After a deadlock, the statement is sent again instead of the whole unit.",
    "token not recorded": "The history row is written without its token.",
    "unknown outcome taken for a failure": "A COMMIT of unknown outcome is reported as failed.",
    "guard outside of the CASE": "Guards are conditions of the WHERE, and not part of the code.",
    "guard reads without locks": "A guard reads other rows without locking them.",
    "members compared as text": "Members of an Enum are compared as text.",
    "no flush at commit, kill -9": "The server does not flush at COMMIT, and is killed.",
}
# The parameters of tests/fuzz that need more than their name in the records.
PARAMETERS = {
    "batch size": "`batch_size` of `fire_where`",
    "column": "`column`, the state to move",
    "criterion": "criterion of `fire_where`",
    "details, within": "a value within `details`",
    "hole": "control: a wrong statement, which the test must notice",
    "key of a mapping": "key, as a dict by attribute name",
    "limit": "`limit` of `claim`",
    "name of a key": "attribute name in a key",
    "name of a payload": "name of a payload's value",
    "rows at most": "`max_rows` of `fire_where`",
    "state, at first": "state of a new row",
    "state, assigned": "state that is assigned to an instance",
    "state, compared": "state in a query",
    "state, forced": "state for `force_state`",
    "token to find": "token for `find_by_token`",
}
# Errors of the server and the driver that a fault may cause.
ERRORS = {
    "1020": "snapshot conflict",
    "1205": "lock wait timeout",
    "1213": "deadlock",
    "1290": "read-only server",
    "1836": "read-only server",
    "1927": "connection killed",
    "2006": "connection lost",
    "2013": "connection lost",
    "2055": "connection lost",
}
SERVERS = ("mysql97", "mariadb118", "mariadb1011")
LOST, DOUBLED, ILLEGAL = ("I3", "count"), ("I1", "I5", "I4"), ("declared", "I2", "chain")

Record = dict[str, Any]


def page(records: Sequence[Record]) -> str:
    """The whole page."""
    of: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        of[record["kind"]].append(record)
    parts = [
        HEAD,
        *summary(of),
        *load(of["march"]),
        *controls(of["control"]),
        *inputs(of["fuzz"]),
        *faults(of["figures"], of["test"]),
    ]
    return "\n".join([*parts, *again(of["run"], of["march"])]).rstrip() + "\n"


def summary(of: Mapping[str, Sequence[Record]]) -> Iterator[str]:
    """The results in one table, with a link to each section."""
    rows: list[tuple[object, ...]] = []
    if marches := of["march"]:
        total, broken_checks = (
            sum(march["fires"] for march in marches),
            sum(sum(m["violations"].values()) for m in marches),
        )
        rows.append(
            (
                "[fires under faults](#fires-under-faults)",
                f"{total:,} acknowledged",
                f"{broken_checks} violations of a check",
            )
        )
    if found := of["control"]:
        caught = sum(bool(record["caught_by"]) for record in found)
        rows.append(("[wrong versions](#wrong-versions)", f"{len(found)} runs", f"{caught} found out"))
    if fuzz := of["fuzz"]:
        cases, violated = sum(record["cases"] for record in fuzz), sum(record["violations"] for record in fuzz)
        rows.append(("[odd input](#input)", f"{cases:,} calls", f"{violated} violations"))
    if tests := of["test"]:
        failed = sum(test["outcome"] == "failed" for test in tests)
        rows.append(("[tests of this run](#tests-of-this-run)", f"{len(tests):,} outcomes", f"{failed} failed"))
    yield from table(("test", "number", "result"), rows)
    yield (
        "`tests/evidence/page.py` writes this page from the records of one run, `faults.jsonl`. No figure is written by hand. "
        "[To run it again](#versions-and-settings), use `./dev evidence`."
    )
    yield ""


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
    """Fires under faults: the load, the faults, and the violations."""
    if not marches:
        return
    total = sum(march["fires"] for march in marches)
    sums = {name: sum(broken(march, checks) for march in marches) for name, checks in KINDS.items()}
    yield "## Fires under faults"
    yield ""
    said = ", ".join(f"{number} {name}" for name, number in sums.items())
    yield f"**{total:,} fires were acknowledged while the faults below occurred: {said}.**"
    yield ""
    yield (
        "Each process fires in units of work of up to 13 rows with one COMMIT. It uses shared rows and one row of its own, a history and tokens. "
        "Some units are rolled back, as a whole or to a savepoint. Afterwards a program compares each call of each process with the rows and the "
        "history ([test](../../tests/faults/test_march.py)). A violation of a "
        "[check](#checks) counts as *lost* (I3, count), *doubled* (I1, I4, I5) or *undeclared* (declared, I2, chain)."
    )
    yield ""
    head = ("measured", *(server(march["server"]) for march in marches))
    rows: list[tuple[object, ...]] = [
        ("processes", *(march["processes"] for march in marches)),
        ("rows", *(march["rows"] for march in marches)),
        ("fires acknowledged", *(march["fires"] for march in marches)),
        ("acknowledged fires that moved a row", *(march["counts"]["moved"] for march in marches)),
        ("acknowledged fires that were refused", *(march["counts"]["refused"] for march in marches)),
        ("seconds", *(round(march["seconds"]) for march in marches)),
        ("fires per second, faults included", *(march["per_second"] for march in marches)),
        ("units of work acknowledged", *(march["counts"]["units moved"] for march in marches)),
        ("units of work that raised an error", *(march["counts"].get("units failed", 0) for march in marches)),
        ("COMMITs of unknown outcome", *(march["counts"].get("units unknown", 0) for march in marches)),
        (
            "COMMITs of unknown outcome that were committed",
            *(march["counts"].get("unknown, applied", 0) for march in marches),
        ),
        ("units of work of killed workers", *(march["counts"].get("in doubt", 0) for march in marches)),
        (
            "units of work of killed workers that were committed",
            *(march["counts"].get("in doubt, applied", 0) for march in marches),
        ),
        ("comparisons of an instance with its row (I8)", *(march["counts"].get("glimpses", 0) for march in marches)),
        *((name, *(broken(march, checks) for march in marches)) for name, checks in KINDS.items()),
        ("violations of any check", *(sum(march["violations"].values()) for march in marches)),
    ]
    yield from table(head, rows)
    yield "Faults during the run:"
    yield ""
    names = sorted({name for march in marches for name in march["faults"]})
    head = ("fault", *head[1:])
    yield from table(
        head, [(FAULTS.get(name, name), *(march["faults"].get(name, 0) for march in marches)) for name in names]
    )
    codes = sorted({code for march in marches for code in march["errors"]}, key=lambda code: (not code.isdigit(), code))
    yield "Units of work that ended in an error, by the number of the server's error:"
    yield ""
    rows = [
        (
            f"{code} ({ERRORS.get(code, 'error')})" if code.isdigit() else "no number, because there was no connection",
            *(march["errors"].get(code, 0) for march in marches),
        )
        for code in codes
    ]
    yield from table(("error", *head[1:]), rows)


KINDS = {"lost": LOST, "doubled": DOUBLED, "undeclared": ILLEGAL}


def broken(march: Record, checks: Iterable[str]) -> int:
    return sum(march["violations"].get(check, 0) for check in checks)


def controls(found: Sequence[Record]) -> Iterator[str]:
    """The wrong versions, and the checks that found each of them out."""
    if not found:
        return
    by: defaultdict[str, list[Record]] = defaultdict(list)
    for record in found:
        by[record["wrong"]].append(record)
    runs, caught = len(found), sum(bool(record["caught_by"]) for record in found)
    yield "## Wrong versions"
    yield ""
    yield f"**{caught} of {runs} runs of {len(by)} wrong versions were found out.**"
    yield ""
    yield (
        "A check is worth something only if it fails on a wrong version. So the tests change the library, or a setting of the server, in one point, and "
        "run the load of the last section or a smaller one. At least one check must fail ([test](../../tests/faults/test_wrong_versions.py))."
    )
    yield ""
    rows = []
    for wrong, records in by.items():
        checks = sorted({check for record in records for check in record["caught_by"]})
        on = ", ".join(dict.fromkeys(server(record["server"]) for record in records))
        rows.append((wrong, WRONG.get(wrong, ""), on, ", ".join(checks) or "NOTHING"))
    yield from table(("wrong version", "change", "run on", "found by"), rows)
    yield "### Checks"
    yield ""
    yield "The check *codes* is in `tests/faults/test_every_code.py`, all others are in `tests/race/checker.py`."
    yield ""
    yield from table(("check", "property"), CHECKS.items())


def inputs(found: Sequence[Record]) -> Iterator[str]:
    """The odd values that were passed as events, states, keys, tokens and so on."""
    if not found:
        return
    cases = sum(record["cases"] for record in found)
    violated = sum(record["violations"] for record in found)
    yield "## Input"
    yield ""
    yield (
        f"**{cases:,} calls with odd values, {violated} violations** ([tests](../../tests/fuzz/test_names_and_values.py))."
    )
    yield ""
    yield (
        "Each call has one value that Hypothesis drew: NUL, quotes, backslashes, %, %s, :x, line ends, right-to-left text, composed and decomposed "
        "characters, full-width characters, trailing spaces, 64 kB, None, int, bytes, or a subclass of str. A violation is an undeclared state in the "
        "column, SQL that was sent for an undeclared event, an exception of another class than the documented ones, or SQL in a message. The "
        "number of calls, by the parameter that got the value:"
    )
    yield ""
    by: Counter[tuple[str, str]] = Counter()
    for record in found:
        for what, number in record["by"].items():
            by[what, record["server"]] += number
    servers = sorted(
        {record["server"] for record in found}, key=lambda name: (SERVERS.index(name) if name in SERVERS else 9, name)
    )
    kinds = sorted({what for what, _ in by})
    yield from table(
        ("parameter", *map(server, servers)),
        [(PARAMETERS.get(kind, kind), *(by[kind, name] for name in servers)) for kind in kinds],
    )
    yield "The number of calls, by driver, character set of the connection, SQL mode and collation:"
    yield ""
    ways: Counter[str] = Counter()
    for record in found:
        ways[record["way"]] += record["cases"]
    yield from table(("connection", "calls"), sorted(ways.items()))


def faults(figures: Sequence[Record], tests: Sequence[Record]) -> Iterator[str]:
    """Each test of a fault, and its counts."""
    if not tests:
        return
    yield "## Tests of this run"
    yield ""
    yield "A test has one outcome for each server, driver and case."
    yield ""
    by: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for test in tests:
        by[test["id"].partition("[")[0]][test["outcome"]] += 1
    rows = []
    for name, outcomes in sorted(by.items()):
        path, _, test = name.partition("::")
        said = ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items()))
        rows.append((f"[{test.removeprefix('test_').replace('_', ' ')}](../../{path}#{test})", said))
    yield from table(("test", "outcomes"), rows)
    # The counts of the march are in the section of fires under faults.
    if counted := [record for record in figures if "test_march.py" not in record["test"]]:
        yield "### Counts"
        yield ""
        yield (
            "Some of these tests also count. Units *in doubt* are those whose worker was killed before the outcome. Units *twice* have two "
            "savepoints, of which one is rolled back. Units *undone* are rolled back as a whole, on purpose or after an error."
        )
        yield ""
        yield from table(
            ("test", "server, driver, case", "counts"), sorted(map(counts, counted), key=lambda row: row[0])
        )


def counts(record: Record) -> tuple[str, str, str]:
    """The row of a test's counts: the test, where it ran, and its numbers."""
    name, _, case = record["test"].partition("::")[2].rstrip("]").partition("[")
    kind, *rest = case.split("-")
    where = ", ".join((server(kind), *rest)) if case else "a server of its own"
    return (
        f"`{name}`",
        where,
        ", ".join(f"{one.replace('_', ' ')} {number}" for one, number in record["figures"].items()),
    )


def again(runs: Sequence[Record], marches: Sequence[Record]) -> Iterator[str]:
    """How to run it again, versions and settings."""
    yield "## Versions and settings"
    yield ""
    yield "To run all of it again, and rewrite this page:"
    yield ""
    yield "```console"
    yield "$ ./dev evidence"
    yield "```"
    yield ""
    yield "This run had three parts:"
    yield ""
    for run in runs:
        packages = ", ".join(f"{name} {number}" for name, number in run["packages"].items() if number)
        yield f"- `{run['command']}` on {run['at']}: Python {run['python']}, {packages}, on {run['system']}"
    yield ""
    if marches:
        yield "The servers of the fires under faults, with their settings:"
        yield ""
        names = sorted({name for march in marches for name in march["settings"]})
        head = ("setting", *(server(march["server"]) for march in marches))
        rows = [
            ("version", *(march["version"] for march in marches)),
            ("isolation level of the workers", *(march["isolation_level"] for march in marches)),
            *((f"`{name}`", *(f"`{march['settings'].get(name, '–')}`" for march in marches)) for name in names),
        ]
        yield from table(head, rows)


def read(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main(path: str) -> None:
    print(page(read(Path(path))), end="")


if __name__ == "__main__":
    main(sys.argv[1])
