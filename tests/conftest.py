"""Targets: every server × driver, and SQLite. A test that asks for `url` or `engine` runs once on each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import settings
from sqlalchemy import URL, Engine

from tests.servers import (
    DRIVERS,
    SQLITE,
    NoServer,
    Server,
    installed_drivers,
    make_engine,
    own_database,
    servers,
    targets,
)

# For the type checkers, not to be run.
collect_ignore = ["typing"]

# A shared machine's pauses are not the tests' fault.
settings.register_profile("project", deadline=None)
settings.load_profile("project")

found = pytest.StashKey[tuple[Server, ...]]()
selected = pytest.StashKey[dict[str, URL]]()
failure = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--target",
        action="append",
        default=[],
        metavar="NAME",
        help="only targets whose name contains NAME (sqlite, mysql97, mariadb1011-pymysql); repeatable",
    )


def selected_targets(config: pytest.Config) -> dict[str, URL]:
    """The targets that --target leaves, by name. For SQLite alone no server is looked for."""
    wanted: list[str] = config.getoption("--target")
    if wanted and all("sqlite".startswith(part) for part in wanted):
        return {"sqlite": SQLITE}
    config.stash[found] = servers()
    every = {**targets(config.stash[found]), "sqlite": SQLITE}
    chosen = {name: url for name, url in every.items() if not wanted or any(part in name for part in wanted)}
    if not chosen:
        raise NoServer(f"--target {' '.join(wanted)} fits none of {', '.join(every)}.")
    return chosen


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "url" not in metafunc.fixturenames:
        return
    stash = metafunc.config.stash
    if selected not in stash and failure not in stash:
        try:
            stash[selected] = selected_targets(metafunc.config)
        except NoServer as error:
            stash[failure] = str(error)
    chosen = dict(stash.get(selected, {}))
    if metafunc.definition.get_closest_marker("servers_only"):
        chosen.pop("sqlite", None)
    metafunc.parametrize("url", list(chosen.values()), ids=list(chosen), indirect=True, scope="session")


def pytest_collection_modifyitems(config: pytest.Config) -> None:
    # Once for the whole run, and not as an error of each module that was collected.
    if failure in config.stash:
        raise pytest.UsageError(config.stash[failure])


# Not pytest_report_header: servers are looked for only once a collected test needs them.
def pytest_report_collectionfinish(
    config: pytest.Config, start_path: Path, items: Sequence[pytest.Item]
) -> list[str]:
    if found not in config.stash:
        return [] if failure in config.stash else ["servers: none looked for"]
    lines = [
        f"server: {server.name} {server.version} ({server.found}: {server.url})"
        for server in config.stash[found]
    ]
    missing = [driver for driver in DRIVERS if driver not in installed_drivers()]
    return [*lines, *(f"NOT COVERED BY THIS RUN: {driver} is not installed" for driver in missing)]


@pytest.fixture(scope="session")
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[URL]:
    """A URL with a database of this run's own: one target at a time, every target in turn."""
    if request.param == SQLITE:
        yield SQLITE.set(database=str(tmp_path_factory.mktemp("sqlite") / "fsm.db"))
        return
    with own_database(request.param) as own:
        yield own


@pytest.fixture(scope="session")
def engine(url: URL) -> Iterator[Engine]:
    """The target's engine, READ COMMITTED on a server; its execution_options give another level."""
    engine = make_engine(url)
    yield engine
    engine.dispose()
