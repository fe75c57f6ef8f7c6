"""Targets: every server × driver, and SQLite. A test that asks for `url` or `engine` runs once on each.

The usual run has mysqlclient and PyMySQL on the first server, PyMySQL on the others, and sqlite3. ``--every-pair``, or
FSM_EVERY_PAIR=1 as in CI, has both drivers and both backends on each. ``--all-drivers``, or FSM_ALL_DRIVERS=1, adds every
other driver that is installed, those for asyncio through `tests.bridge`, and counts what ran on each; the one that is not is named.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from _pytest import runner
from hypothesis import settings
from sqlalchemy import URL, Engine

from tests.evidence.record import record, record_run
from tests.limits import expect_limits, let_aiomysql_bind_bytes, loud_limit
from tests.quick import covered, is_long, quick
from tests.servers import (
    AIOSQLITE,
    ASYNCIO_DRIVERS,
    DRIVERS,
    MODULES,
    SQLITE,
    NoServer,
    Server,
    installed_drivers,
    is_async,
    is_by_usual_driver,
    is_installed,
    make_engine,
    own_database,
    servers,
    targets,
)

# PyMySQL reads all certificates of the machine for each connection (35 ms of CPU), and verifies none of them. The
# processes of the tests inherit it.
os.environ.update(SSL_CERT_FILE=os.devnull, SSL_CERT_DIR=os.devnull)

# For the type checkers, not to be run.
collect_ignore = ["typing"]

# A shared machine's pauses are not the tests' fault.
settings.register_profile("project", deadline=None)
settings.load_profile("project")

found = pytest.StashKey[tuple[Server, ...]]()
selected = pytest.StashKey[dict[str, URL]]()
failure = pytest.StashKey[str]()
mended = pytest.StashKey[str | None]()
skipped = pytest.StashKey[Counter[str]]()
real_stderr = pytest.StashKey[int]()
summary_file = pytest.StashKey[str]()
by_driver = pytest.StashKey[Counter[tuple[str, str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--target",
        action="append",
        default=[],
        metavar="NAME",
        help="only targets whose name contains NAME (sqlite, mysql97, mariadb1011-pymysql); repeatable",
    )
    parser.addoption(
        "--quick",
        action="store_true",
        default=False,
        help="each test function once on each target, without races, faults and other long runs: tests/quick.py",
    )
    parser.addoption(
        "--server",
        action="append",
        type=int,
        default=[],
        metavar="N",
        help="only the tests on the N-th server; 0 is SQLite, and all tests without a target; repeatable",
    )
    parser.addoption(
        "--part",
        choices=("targets", "rest"),
        help="only the tests with a target, or only those without one",
    )
    parser.addoption(
        "--every-pair",
        action="store_true",
        default=is_set("FSM_EVERY_PAIR"),
        help="each server with both drivers and both backends, and not the first alone; as FSM_EVERY_PAIR=1",
    )
    parser.addoption(
        "--all-drivers",
        action="store_true",
        default=is_set("FSM_ALL_DRIVERS"),
        help="every driver that is installed, those for asyncio too; as FSM_ALL_DRIVERS=1",
    )


def pytest_configure(config: pytest.Config) -> None:
    # Before pytest captures what goes to the descriptor 2; in a run within a run it may be captured already.
    config.stash[real_stderr] = os.dup(sys.__stderr__.fileno() if sys.__stderr__ else 2)
    # Of this run alone: a run within a run has a summary of its own.
    config.stash[summary_file] = os.environ.pop("FSM_SUMMARY", "")


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[real_stderr])
    faulthandler.dump_traceback_later(SECONDS_TO_END, exit=True, file=sys.__stderr__ or 2)


def is_set(variable: str) -> bool:
    return os.environ.get(variable, "") not in ("", "0")


def pytest_sessionstart(session: pytest.Session) -> None:
    record_run(" ".join(["pytest", *session.config.invocation_params.args]))


def drivers(config: pytest.Config) -> tuple[str, ...]:
    """The servers' drivers that this run asks for, installed or not."""
    return tuple(MODULES) if config.getoption("--all-drivers") else DRIVERS


def every_sqlite(config: pytest.Config) -> dict[str, URL]:
    is_wanted = config.getoption("--all-drivers") and is_installed("aiosqlite")
    return {"sqlite": SQLITE, **({"sqlite-aiosqlite": AIOSQLITE} if is_wanted else {})}


def selected_targets(config: pytest.Config) -> dict[str, URL]:
    """The targets that --target leaves, by name. For SQLite alone no server is looked for."""
    wanted: list[str] = config.getoption("--target")
    every = every_sqlite(config)
    is_for_sqlite = wanted and all(any(part in name for name in every) for part in wanted)
    if not is_for_sqlite and config.getoption("--server") != [0]:
        # An installation by apt-get is announced on the terminal before it begins.
        with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            config.stash[found] = servers()
        on_servers = targets(config.stash[found], drivers(config))
        every = {**{name: url for name, url in on_servers.items() if wanted or is_usual(config, url)}, **every}
    chosen = {name: url for name, url in every.items() if not wanted or any(part in name for part in wanted)}
    if not chosen:
        raise NoServer(f"--target {' '.join(wanted)} fits none of {', '.join(every)}.")
    if numbers := config.getoption("--server"):
        chosen = {name: url for name, url in chosen.items() if number_of(config, url) in numbers}
        if not chosen:
            raise NoServer(f"--server {numbers} is none of the {len(config.stash[found])} that were found.")
    return chosen


def number_of(config: pytest.Config, url: URL) -> int:
    """The place of the URL's server among those that were found, from 1; 0 for SQLite."""
    if url.get_backend_name() == "sqlite":
        return 0
    addresses = [(server.url.host, server.url.port, server.url.query) for server in config.stash[found]]
    return addresses.index((url.host, url.port, url.query)) + 1


def is_usual(config: pytest.Config, url: URL) -> bool:
    """Whether the usual run has this server's driver; with --every-pair or --all-drivers, any."""
    return has_every_pair(config, url) or is_by_usual_driver(url)


def has_every_pair(config: pytest.Config, url: URL) -> bool:
    """Whether this run asks the URL's server with each driver and by each backend."""
    if any(config.getoption(name) for name in ("--every-pair", "--all-drivers", "--target")):
        return True
    if config.getoption("--quick"):
        return False
    first = config.stash[found][0].url
    return (url.host, url.port, url.query) == (first.host, first.port, first.query)


def asyncio_targets(config: pytest.Config) -> dict[str, URL]:
    """The targets' servers and SQLite, each with every driver for asyncio that is installed."""
    chosen = {name.partition("-")[0] for name in config.stash.get(selected, {})}
    sqlite = {"sqlite-aiosqlite": AIOSQLITE} if is_installed("aiosqlite") else {}
    every = {**targets(config.stash.get(found, ()), ASYNCIO_DRIVERS), **sqlite}
    return {name: url for name, url in every.items() if name.partition("-")[0] in chosen}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    asked = [name for name in ("url", "asyncio_url") if name in metafunc.fixturenames]
    if not asked:
        return
    stash = metafunc.config.stash
    if selected not in stash and failure not in stash:
        try:
            stash[selected] = selected_targets(metafunc.config)
        except NoServer as error:
            stash[failure] = str(error)
    for name in asked:
        chosen = dict(stash.get(selected, {})) if name == "url" else asyncio_targets(metafunc.config)
        if metafunc.definition.get_closest_marker("servers_only"):
            chosen = {name: url for name, url in chosen.items() if url.get_backend_name() != "sqlite"}
        metafunc.parametrize(name, list(chosen.values()), ids=list(chosen), indirect=True, scope="session")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The quick profile does not even import the folders that it leaves out."""
    return True if config.getoption("--quick") and is_long(collection_path) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Once for the whole run, and not as an error of each module that was collected.
    if failure in config.stash:
        raise pytest.UsageError(config.stash[failure])
    if config.getoption("--quick"):
        items[:], left_out = quick(items)
        config.hook.pytest_deselected(items=left_out)
    leave_to_other_shares(config, items)
    expect_limits(items)
    if needs_bridge(config):
        from tests.bridge import bridge_threads

        bridge_threads()
    if any(url.get_driver_name() == "aiomysql" for url in config.stash.get(selected, {}).values()):
        config.stash[mended] = let_aiomysql_bind_bytes()


def leave_to_other_shares(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --server 1, the tests without a target are left to the run with --server 0, and those of servers by that one."""
    numbers, part = config.getoption("--server"), config.getoption("--part")
    if not numbers and part is None:
        return
    is_mine = {id(item): not numbers or 0 in numbers or has_target(item) for item in items}
    if numbers == [0]:
        is_mine |= {id(item): False for item in items if item.get_closest_marker("servers_only") and has_target(item)}
    if part is not None:
        is_mine |= {id(item): False for item in items if has_target(item) != (part == "targets")}
    left = [item for item in items if not is_mine[id(item)]]
    items[:] = [item for item in items if is_mine[id(item)]]
    config.hook.pytest_deselected(items=left)


def has_target(item: pytest.Item) -> bool:
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return "url" in parameters or "asyncio_url" in parameters


# Not pytest_report_header: servers are looked for only once a collected test needs them.
def pytest_report_collectionfinish(config: pytest.Config, start_path: Path, items: Sequence[pytest.Item]) -> list[str]:
    if found not in config.stash:
        return [] if failure in config.stash else ["servers: none looked for"]
    lines = [f"server: {server}" for server in config.stash[found]]
    return [*lines, *(f"NOT COVERED BY THIS RUN: {driver} is not installed" for driver in missing_drivers(config))]


def missing_drivers(config: pytest.Config) -> list[str]:
    wanted = drivers(config)
    missing = [driver for driver in wanted if driver not in installed_drivers(wanted)]
    if config.getoption("--all-drivers") and not is_installed("aiosqlite"):
        missing.append("aiosqlite")
    return missing


# --- a test that hangs

# pytest-timeout raises an exception in the main thread, and Python drops one that is raised in the callback of a weak
# reference, or in __del__: the test then goes on, without a limit. This timer is a thread of C, which writes where every
# thread is, and ends the process.
SECONDS_MORE = 200  # than the test's own limit
# A thread that a failed test has left would keep the process from its end, and the other shares waiting.
SECONDS_TO_END = 120


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    marker = item.get_closest_marker("timeout")
    option = item.config.getoption("timeout", None)
    limit = float(marker.args[0] if marker and marker.args else option or item.config.getini("timeout") or 0)
    if limit > 0:
        seconds = limit + SECONDS_MORE
        faulthandler.dump_traceback_later(seconds, exit=True, file=item.config.stash[real_stderr])


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    faulthandler.cancel_dump_traceback_later()


# --- drivers for asyncio


def needs_bridge(config: pytest.Config) -> bool:
    return any(is_async(url) for url in config.stash.get(selected, {}).values())


# In the place of pytest's own, and not around it: what is to run in the greenlet are the fixtures, too, and those of a
# longer life are ended while a test of another target begins.
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    if not needs_bridge(item.config):
        return None
    from tests.bridge import bridged

    bridged(runner.pytest_runtest_protocol, item, nextitem)
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    # A run that was stopped early still has fixtures that need the greenlet to end.
    if needs_bridge(session.config):
        from tests.bridge import bridged

        bridged(session._setupstate.teardown_exact, None)


# --- what ran on each driver


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Iterator[None]:
    report: Any = yield
    if call.excinfo is not None and report.failed and (reason := loud_limit(item, call.excinfo.value)) is not None:
        report.outcome, report.wasxfail = "skipped", reason
    if hasattr(report, "wasxfail") and report.outcome == "skipped":
        told = f"failed as expected: {report.wasxfail.removeprefix('reason: ')}"
        item.config.stash.setdefault(skipped, Counter())[told] += 1
    if "FSM_EVIDENCE" in os.environ and (report.when == "call" or report.outcome != "passed"):
        record("test", id=item.nodeid, outcome="xfailed" if hasattr(report, "wasxfail") else report.outcome)
    if report.outcome == "skipped" and not hasattr(report, "wasxfail") and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if reason.startswith("got empty parameter set"):
            reason = "the test needs a database or driver that this run does not have"
        item.config.stash.setdefault(skipped, Counter())[reason] += 1
    counts = item.config.stash.setdefault(by_driver, Counter())
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    url = parameters.get("url", parameters.get("asyncio_url"))
    if isinstance(url, URL) and (report.when == "call" or report.outcome != "passed"):
        told = {"skipped": "xfailed", "passed": "xpassed"} if hasattr(report, "wasxfail") else {}
        counts[url.get_driver_name(), told.get(report.outcome, report.outcome)] += 1
    return report


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    tell_databases(terminalreporter, config)
    counts = config.stash.get(by_driver, Counter())
    if not counts or not config.getoption("--all-drivers"):
        return
    terminalreporter.section("tests by driver")
    for driver in sorted({driver for driver, _ in counts}):
        outcomes = ("passed", "failed", "skipped", "xfailed", "xpassed")
        numbers = ", ".join(f"{counts[driver, outcome]} {outcome}" for outcome in outcomes)
        terminalreporter.write_line(f"{driver}: {numbers}")
    if config.stash.get(mended, None):
        terminalreporter.write_line(str(config.stash[mended]))
    for driver in missing_drivers(config):
        terminalreporter.write_line(f"{driver}: NOT COVERED, it is not installed")


def tell_databases(terminalreporter: Any, config: pytest.Config) -> None:
    """Print what was covered; a share leaves that to tests/shares.py, which knows the other shares."""
    reasons, missing = config.stash.get(skipped, Counter()), missing_drivers(config) if found in config.stash else []
    if summary := config.stash[summary_file]:
        text = json.dumps({"skipped": reasons, "missing_drivers": missing})
        Path(summary).write_text(text, encoding="utf-8")
    elif selected in config.stash:
        used = {name.partition("-")[0] for name in config.stash[selected]}
        terminalreporter.section("databases")
        servers_used = [each for each in config.stash.get(found, ()) if each.name in used]
        for line in covered(servers_used, reasons, missing, has_sqlite="sqlite" in used):
            terminalreporter.write_line(line)


@contextmanager
def database_of(target: URL, folders: pytest.TempPathFactory) -> Iterator[URL]:
    """*target* with a database of this run's own."""
    if target.get_backend_name() == "sqlite":
        yield target.set(database=str(folders.mktemp("sqlite") / "fsm.db"))
        return
    with own_database(target) as own:
        yield own


@pytest.fixture(scope="session")
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[URL]:
    """A URL with a database of this run's own: one target at a time, every target in turn."""
    with database_of(request.param, tmp_path_factory) as own:
        yield own


@pytest.fixture(scope="session")
def asyncio_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[URL]:
    """As `url`, of a driver for asyncio on each of the targets' servers: for tests with an event loop of their own."""
    with database_of(request.param, tmp_path_factory) as own:
        yield own


@pytest.fixture(scope="session")
def engine(url: URL) -> Iterator[Engine]:
    """The target's engine, READ COMMITTED on a server; its execution_options give another level."""
    engine = make_engine(url)
    yield engine
    engine.dispose()
