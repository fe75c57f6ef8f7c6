"""Faults are the servers': one driver each will do, unless the module is about drivers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
from sqlalchemy import URL, Engine

from tests.evidence.record import record
from tests.faults.crew import Task
from tests.faults.durable import Durable, Scripted, durable
from tests.faults.ledger import fresh_jobs
from tests.servers import Unavailable, last_lines

HERE = Path(__file__).parent
UNCOVERED = pytest.StashKey[list[str]]()
FIGURES = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "every_driver: the test is about what a driver does")
    config.addinivalue_line("markers", "one_server: one server will do, unless FSM_FAULTS=1")
    config.addinivalue_line("markers", "full: only with FSM_FAULTS=1, as the session `faults` sets it")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the first driver of each server; of `one_server`, the first server's. Skip what a usual run is too short for."""
    is_full = os.environ.get("FSM_FAULTS", "") not in ("", "0")
    targets = []
    first: dict[tuple[str, str | None, int | None], URL] = {}
    kept = []
    for item in items:
        url = (
            item.callspec.params.get("url") if isinstance(item, pytest.Function) and hasattr(item, "callspec") else None
        )
        if not is_full and item.get_closest_marker("full"):
            item.add_marker(pytest.mark.skip(reason="only in ./dev faults"))
        if not is_full and item.get_closest_marker("one_server") and isinstance(url, URL):
            targets += [url] if not targets else []
            if url != targets[0]:
                continue
        is_ours = HERE in item.path.parents and item.get_closest_marker("every_driver") is None
        if (
            is_ours
            and isinstance(url, URL)
            and first.setdefault((item.nodeid.partition("[")[0], url.host, url.port), url) != url
        ):
            continue
        kept.append(item)
    items[:] = kept


def uncovered(request: pytest.FixtureRequest, what: str) -> NoReturn:
    """Skip, and say at the end of the run *what* it did not cover; in CI that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(f"NOT COVERED BY THIS RUN: {what}")
    request.config.stash.setdefault(UNCOVERED, []).append(what)
    pytest.skip(f"NOT COVERED BY THIS RUN: {what}")


@contextmanager
def own_server(request: pytest.FixtureRequest, folder: Path, what: str) -> Iterator[Durable | Scripted]:
    """A server to be killed, and killed at the end of the block; where none can be started, *what* is not covered.

    Raises: RuntimeError with the end of the server's log when it is not running at the end of the block.
    """
    try:
        server = durable(folder)
    except Unavailable as reason:
        uncovered(request, f"{what} ({reason})")
    yield server
    lines = [] if server.is_alive() else last_lines(server.log, 40)
    server.kill()
    if lines:
        raise RuntimeError("\n".join(["the server does not run any more; the end of its log:", *lines]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for figure in config.stash.get(FIGURES, []):
        terminalreporter.write_line(figure)
    for reason in config.stash.get(UNCOVERED, []):
        terminalreporter.write_line(f"NOT COVERED BY THIS RUN: {reason}", red=True, bold=True)


@pytest.fixture
def tasks(url: URL, engine: Engine, tmp_path: Path) -> Callable[..., list[Task]]:
    """``tasks(8, rows=20, seconds=5)``: a task for each of eight workers on twenty new rows."""

    def made(workers: int, *, rows: int, **how_much: object) -> list[Task]:
        keys = fresh_jobs(engine, rows)
        return [Task(number, url, tmp_path / f"{number}.log", keys, **how_much) for number in range(workers)]  # type: ignore[arg-type]  # as Task says

    return made


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Callable[..., None]:
    """``figures(acknowledged=812, lost=0)`` is shown at the end of the run: a fault that never happened proves nothing."""

    def show(**numbers: object) -> None:
        said = ", ".join(f"{name} {number}" for name, number in numbers.items())
        request.config.stash.setdefault(FIGURES, []).append(f"{request.node.name}: {said}")
        record("figures", test=request.node.nodeid, figures={name: str(number) for name, number in numbers.items()})

    return show
