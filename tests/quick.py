"""The quick profile of ``./dev tests``: each test function once on each target. ``./dev tests --all`` runs everything.

A test with parameters is run with its first set of them. Left out are the folders of `LONG`, and the tests with the marker
``long``: races, waits for a timeout, measured speeds.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

LONG = ("alembic", "browser", "cluster", "evidence", "examples", "faults", "fuzz", "postgresql", "property", "race")
"""The folders of tests that take minutes: processes, private servers, random machines, migrations of many rows."""
LEFT_OUT = "races, faults, migrations, random machines and values, and further parameters of a test"

SUPPORTED = {"MySQL 9.7": "mysql97", "MariaDB 11.8": "mariadb118", "MariaDB 10.11": "mariadb1011"}
"""The servers of docs/policy.md, each with the name of its target."""


def quick(items: Iterable[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """The items to run, and those to leave out."""
    chosen: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    seen: set[Hashable] = set()
    for item in items:
        key = (item.path, item.parent and item.parent.nodeid, getattr(item, "originalname", item.name), _target(item))
        is_left_out = is_long(item.path) or item.get_closest_marker("long") is not None
        (left_out if is_left_out or key in seen else chosen).append(item)
        seen.add(key)
    return chosen, left_out


def is_long(path: Path) -> bool:
    """Whether *path* is, or is within, one of the folders of `LONG`."""
    here = Path(__file__).parent
    return path.is_relative_to(here) and path.relative_to(here).parts[0] in LONG


def _target(item: pytest.Item) -> str:
    """The database of a test, whose URL is one of its parameters."""
    parameters: dict[str, Any] = item.callspec.params if hasattr(item, "callspec") else {}
    return " ".join(str(parameters[name]) for name in ("url", "asyncio_url") if name in parameters)


def covered(
    found: Iterable[Any], skipped: Mapping[str, int], missing_drivers: Iterable[str] = (), *, has_sqlite: bool = True
) -> Iterable[str]:
    """Lines for the end of a run: the databases with and without tests, and why tests were skipped."""
    servers = list(found)
    if has_sqlite:
        yield f"covered: SQLite {sqlite3.sqlite_version}"
    for server in servers:
        yield f"covered: {server.name} {server.version}"
    absent = [name for name, target in SUPPORTED.items() if target not in {server.name for server in servers}]
    if absent:
        yield f"NOT COVERED BY THIS RUN: {', '.join(absent)}. FSM_TEST_URLS names servers: see CONTRIBUTING.md"
    for driver in missing_drivers:
        yield f"NOT COVERED BY THIS RUN: the driver {driver}, which is not installed"
    modules = {
        reason: found.group(1) for reason in skipped if (found := re.match(r"could not import '([\w.]+)'", reason))
    }
    if modules:
        names = ", ".join(sorted({name.partition(".")[0] for name in modules.values()}))
        yield f"skipped {sum(skipped[reason] for reason in modules)}: {names} not installed; ./dev ecosystem has them"
    for reason, number in sorted(skipped.items(), key=lambda each: -each[1]):
        if reason not in modules:
            yield f"skipped {number}: {reason}"
