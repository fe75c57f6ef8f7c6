"""The quick profile of ``./dev tests``: each test function once on each target. ``./dev tests --all`` runs everything.

A test with parameters is run with its first set of them, and the races, faults and other long runs are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import pytest

LONG = ("alembic", "browser", "cluster", "evidence", "examples", "faults", "fuzz", "property", "race")
"""The folders of tests that take minutes: processes, private servers, random machines, migrations of many rows."""


def quick(items: Iterable[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """The items to run, and those to leave out."""
    chosen: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    seen: set[Hashable] = set()
    for item in items:
        key = (item.path, item.parent and item.parent.nodeid, getattr(item, "originalname", item.name), _target(item))
        (left_out if _is_long(item.path) or key in seen else chosen).append(item)
        seen.add(key)
    return chosen, left_out


def _is_long(path: Path) -> bool:
    here = Path(__file__).parent
    return path.is_relative_to(here) and path.relative_to(here).parts[0] in LONG


def _target(item: pytest.Item) -> str:
    """The database of a test, whose URL is one of its parameters."""
    parameters: dict[str, Any] = item.callspec.params if hasattr(item, "callspec") else {}
    return " ".join(str(parameters[name]) for name in ("url", "asyncio_url") if name in parameters)


def covered(found: Iterable[Any], skipped: Counter[str]) -> Iterable[str]:
    """Lines for the end of a run: the servers with and without tests, and why tests were skipped."""
    servers = list(found)
    for server in servers:
        yield f"covered: {server.name} {server.version}"
    for name, known in (("MySQL", "mysql"), ("MariaDB", "mariadb")):
        if servers and not any(server.name.startswith(known) for server in servers):
            yield f"NOT COVERED BY THIS RUN: {name}. FSM_TEST_URLS names a server: see CONTRIBUTING.md"
    for reason, number in skipped.most_common():
        yield f"skipped {number}: {reason}"
