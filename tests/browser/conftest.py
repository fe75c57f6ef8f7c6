"""Pages in a real browser, when asked for: ``./dev browser``, which sets FSM_BROWSER. Two servers, two browsers.

Chromium is Debian's: ``apt-get install chromium chromium-driver``. Without it the run fails and says so.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import URL, Engine, delete, update
from sqlalchemy.orm import Session

from examples import orders
from examples.devices import Device, DeviceTransition, open_engine
from tests.browser.measure import CHROMIUM, browsing, program
from tests.servers import free_port, own_database

IS_ASKED = os.environ.get("FSM_BROWSER", "") not in ("", "0")
collect_ignore_glob = [] if IS_ASKED else ["test_*.py"]

PROJECT = Path(__file__).parents[2]
APPLICATIONS = {
    "fastapi": ("-m", "uvicorn", "--factory", "examples.fastapi_app.app:create_app", "--port"),
    "flask": ("-m", "flask", "--app", "examples.flask_app.app", "run", "--port"),
    "admin": ("-m", "uvicorn", "--factory", "examples.admin_app.app:create_app", "--port"),
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """One server is enough: what differs between servers and drivers is the conformance suite's work."""
    pages = [item for item in items if item.path.parent.name == "browser"]
    given = {item: item.callspec.params.get("url") for item in pages if hasattr(item, "callspec")}
    urls = {item: url for item, url in given.items() if isinstance(url, URL)}
    extra = {item for item, url in urls.items() if url != next(iter(urls.values()))}
    items[:] = [item for item in items if item not in extra]
    config.hook.pytest_deselected(items=list(extra))


def pytest_configure(config: pytest.Config) -> None:
    if IS_ASKED:
        program("chromedriver")
        program(*CHROMIUM)


@dataclass(frozen=True)
class Site:
    """One application, served by two processes on one database."""

    engine: Engine
    addresses: tuple[str, str]

    def put(self, key: int, state: str) -> None:
        """Make the device's state this, past the machine, and forget what was before."""
        with Session(self.engine) as session:
            session.execute(delete(DeviceTransition).where(DeviceTransition.record_id == key))
            session.execute(update(Device).where(Device.id == key).values(state=state))
            session.commit()


@pytest.fixture(scope="module")
def database(url: URL) -> Iterator[URL]:
    with own_database(url) as own:
        yield own


@pytest.fixture(scope="module")
def engine(database: URL) -> Iterator[Engine]:
    # Both processes of an application create missing tables when they start, so all tables are there before.
    address = database.render_as_string(hide_password=False)
    orders.open_engine(address).dispose()
    engine = open_engine(address)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module", params=APPLICATIONS)
def site(request: pytest.FixtureRequest, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The application, in two processes that know nothing of each other."""
    with served(APPLICATIONS[request.param], engine, tmp_path_factory.mktemp("site") / "log") as site:
        yield site


@pytest.fixture(scope="module")
def wrong_site(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The FastAPI application, but each process decides on what it has read."""
    command = ("-m", "uvicorn", "--factory", "tests.browser.wrong:create_app", "--port")
    with served(command, engine, tmp_path_factory.mktemp("wrong") / "log") as site:
        yield site


@contextmanager
def served(command: tuple[str, ...], engine: Engine, log: Path) -> Iterator[Site]:
    environment = {
        **os.environ,
        "DATABASE_URL": engine.url.render_as_string(hide_password=False),
        "SECRET_KEY": "of this run",
        "PYTHONPATH": str(PROJECT),
    }
    ports = [free_port(), free_port()]
    processes = []
    try:
        for port in ports:
            with log.open("ab") as output:
                call = [sys.executable, *command, str(port)]
                processes.append(subprocess.Popen(call, cwd=PROJECT, env=environment, stdout=output, stderr=output))
        for port, process in zip(ports, processes, strict=True):
            wait_for(f"http://127.0.0.1:{port}/", process, log)
        one, other = ports
        yield Site(engine, (f"http://127.0.0.1:{one}", f"http://127.0.0.1:{other}"))
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(20)


def wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5):  # noqa: S310 - our own, on 127.0.0.1
                return
        except urllib.error.HTTPError:  # it answers: the admin has nothing at /
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{address} did not answer:\n{log.read_text(errors='replace')}")
            time.sleep(0.1)


@pytest.fixture(scope="module")
def browsers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[object, object]]:
    """Two browsers, each with a profile of its own."""
    with ExitStack() as opened:
        yield tuple(opened.enter_context(browsing(tmp_path_factory.mktemp("profile"))) for _ in range(2))
