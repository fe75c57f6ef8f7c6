"""Where the tests find their servers; for pytest (see conftest.py) and for plain scripts alike.

In this order:

1. ``FSM_TEST_URLS``: SQLAlchemy URLs, separated by commas. One that does not answer is an error.
2. Docker, if an engine really answers: the image of each of ``KINDS``, through testcontainers.
3. A server program of this machine (``mysqld``, ``mariadbd``), started privately in a temporary folder. Root is not needed.
4. On Debian and Ubuntu, as root: MariaDB from apt-get, then as in 3.
5. OceanBase's seekdb, if its wheel is installed (``pip install pylibseekdb``). FSM_TEST_URLS may name it too: ``seekdb``.

Else `NoServer` says what each way lacked. What was started here is stopped when the process ends.

>>> engine = make_engine(SQLITE)
>>> with engine.connect() as connection:
...     connection.exec_driver_sql("SELECT 1").scalar()
1
>>> engine.dispose()
"""

from __future__ import annotations

import atexit
import gc
import importlib.util
import os
import secrets
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from sqlalchemy_fsm_mysql.databases.urls import cause_of, shown_url
from sqlalchemy_fsm_mysql.testing import seekdb
from sqlalchemy_fsm_mysql.testing import servers as users
from sqlalchemy_fsm_mysql.testing.servers import ServerUnavailable as Unavailable
from sqlalchemy_fsm_mysql.testing.servers import free_port, last_lines, output_of, which
from tests.kinds import KINDS, MARIADB, Kind, kind_of, server_name

# Drivers of the usual run, and those that --all-drivers adds; each with the module that has to be there.
DRIVERS = tuple(dict.fromkeys(driver for kind in KINDS for driver in kind.drivers))
MODULES = {driver: module for kind in KINDS for driver, module in {**kind.drivers, **kind.further_drivers}.items()}
ASYNCIO_DRIVERS = ("asyncmy", "aiomysql")
SQLITE = URL.create("sqlite")
AIOSQLITE = URL.create("sqlite+aiosqlite")

SEEKDB_PAGE = "docs/recipes/seekdb.md says what does not run there"

ADVICE = """\
The tests need a real server. Do one of:
  - name one or more:  FSM_TEST_URLS=mysql+pymysql://root@127.0.0.1:3306 ./dev tests
    (separated by commas; the user must be able to CREATE DATABASE)
  - start Docker
  - install MariaDB or MySQL (Debian, Ubuntu: apt-get install mariadb-server); it need not be running
  - install seekdb, without root, on Linux with Python 3.11 or newer:  .nox/tests/bin/python -m pip install pylibseekdb
Without a server there is only:  ./dev tests --target sqlite"""


class NoServer(Exception):
    """No MySQL or MariaDB to test on; the text says what was tried and what to do."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answered: its name is for test ids, *found* is the way it was found."""

    url: URL
    name: str
    version: str
    found: str

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.found}: {shown_url(self.url)})"


# --- what scripts and conftest.py use


@cache
def servers() -> tuple[Server, ...]:
    """The servers to test on, found once per process; what had to be started is stopped when it ends.

    Raises:
        NoServer: there is none, or one that FSM_TEST_URLS names does not answer.
    """
    stack = ExitStack()
    atexit.register(stack.close)
    return find(WAYS, stack)


def server_urls() -> list[URL]:
    """A URL for each server and each installed driver of `DRIVERS`."""
    return list(targets(servers()).values())


def targets(found: Sequence[Server], drivers: Sequence[str] = DRIVERS) -> dict[str, URL]:
    """Each server with each installed driver, by name: ``mysql97-pymysql``, ``mariadb1011-mysqldb``.

    A kind of server has drivers of its own.
    """
    return {
        f"{server.name}-{driver}": server.url.set(drivername=f"{server.url.get_backend_name()}+{driver}")
        for server in found
        for driver in installed_drivers(drivers)
        if kind_of(server.url).has_driver(driver)
        # seekdb counts no statements, and `questions` counts those of PyMySQL alone.
        if driver == "pymysql" or not server.name.startswith("seekdb")
    }


def is_by_usual_driver(url: URL) -> bool:
    """Whether *url* is of the driver of the tests that one driver is enough for."""
    if url.get_backend_name() == "sqlite":
        return url.drivername == SQLITE.drivername
    return url.get_driver_name() == kind_of(url).usual_driver


@cache
def installed_drivers(drivers: Sequence[str] = DRIVERS) -> tuple[str, ...]:
    """Those of *drivers* that can be imported; mysqlclient (mysqldb) is source-only on Linux."""
    return tuple(driver for driver in drivers if is_installed(MODULES[driver]))


def is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


def is_async(url: URL) -> bool:
    """Whether the driver is for asyncio; see tests/bridge.py."""
    return bool(url.get_dialect().is_async)


@contextmanager
def own_database(url: URL) -> Iterator[URL]:
    """A URL of the same server with a database that nobody else uses, dropped at the end."""
    # Two containers can have the same process id and share one server, hence the random part.
    name = f"fsm_test_{os.getpid()}_{secrets.token_hex(4)}"
    execute(url, f"CREATE DATABASE {name}")
    try:
        yield url.set(database=name)
    finally:
        execute(url, *kind_of(url).dropping(name))


def make_engine(url: URL | str, **options: Any) -> Engine:
    """An engine as the library recommends it: READ COMMITTED on a server, unless *options* say otherwise."""
    url = make_url(url)
    if url.get_backend_name() != "sqlite":
        options.setdefault("isolation_level", "READ COMMITTED")
    if url.get_driver_name() == "mysqlconnector":
        # SQLAlchemy hands a UUID as it is to a MariaDB that has the type, and Connector/Python converts it only if told.
        options.setdefault("connect_args", {"converter_str_fallback": True})
    return create_engine(url, **options)


def questions(connection: Connection) -> int:
    """How many statements this connection has sent, by the server's own count, without these questions.

    The difference of two calls is the number of statements between them, BEGIN, COMMIT and ROLLBACK included.
    """
    # SHOW STATUS counts itself (MySQL 9.7, MariaDB 10.11 and 11.8). The info dictionary lives as long as the
    # driver's connection, and so does the server's counter.
    connection.info["shows"] = connection.info.get("shows", 0) + 1
    row = connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Questions'").one_or_none()
    return (int(row[1]) if row is not None else sent_by_pymysql(connection)) - connection.info["shows"]


def sent_by_pymysql(connection: Connection) -> int:
    """How many statements PyMySQL has sent, for a server that counts none (seekdb); counted from the first call on."""
    driver: Any = connection.connection.driver_connection
    if not hasattr(driver, "fsm_sent"):
        driver.fsm_sent, send = connection.info["shows"], driver._execute_command

        def counting(command: int, sql: str | bytes) -> None:
            driver.fsm_sent += 1
            send(command, sql)

        driver._execute_command = counting
    return int(driver.fsm_sent)


# --- the search


Way = Callable[[ExitStack], list[URL]]


def find(ways: dict[str, Way], stack: ExitStack) -> tuple[Server, ...]:
    """The servers of the first of *ways* that is open."""
    closed = []
    for name, way in ways.items():
        try:
            urls = way(stack)
        except Unavailable as reason:
            closed.append(f"  {name}: {reason}")
        else:
            return inspect(urls, name)
    raise NoServer("\n".join(["No MySQL or MariaDB server was found.", *closed, ADVICE]))


def inspect(urls: Sequence[URL], found: str) -> tuple[Server, ...]:
    """Ask each server for its version. Two of one version get names of their own: mysql97, mysql97.2."""
    names: list[str] = []
    result = []
    for url in urls:
        try:
            version = str(execute(url, kind_of(url).version))
        except SQLAlchemyError as error:
            raise NoServer(f"{shown_url(url)} does not answer ({found}): {cause_of(error, url)}\n{ADVICE}") from None
        name = server_name(version)
        names.append(name)
        number = names.count(name)
        result.append(Server(url, name if number == 1 else f"{name}.{number}", version, found))
    return tuple(result)


def execute(url: URL, *statements: str) -> object:
    """Run *statements* in autocommit, on a connection of their own; the last one's scalar, if it has rows."""
    url = kind_of(url).administration(url)
    options = {"connect_timeout": 10}
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=options)
    with engine.connect() as connection:
        results = [connection.exec_driver_sql(statement) for statement in statements]
        return results[-1].scalar() if results[-1].returns_rows else None


def wait_until_ready(url: URL, is_alive: Callable[[], bool], seconds: float = 90) -> None:
    """Return once the server at *url*, of any kind, answers."""
    users.wait_until_ready(url, is_alive, seconds, ask=execute)


# --- the ways


def from_environment(stack: ExitStack) -> list[URL]:
    """The servers that FSM_TEST_URLS names."""
    parts = [part.strip() for part in os.environ.get("FSM_TEST_URLS", "").split(",") if part.strip()]
    urls = [from_seekdb(stack)[0] if part == "seekdb" else parsed(part) for part in parts]
    if not urls:
        raise Unavailable("not set")
    known = dict.fromkeys(backend for kind in KINDS for backend in kind.backends)
    strange = [url for url in urls if url.get_backend_name() not in known]
    if strange:
        which_ones = " and ".join(f"{backend}+…" for backend in known)
        raise NoServer(
            f"FSM_TEST_URLS names {shown_url(strange[0])}: only {which_ones} belong there, SQLite is always in."
        )
    return urls


def parsed(text: str) -> URL:
    """The URL in a part of FSM_TEST_URLS. SQLAlchemy's own error would quote it, with its password."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        url = None
    # An unescaped @ ends the password early, and its rest would be shown as the host.
    if url is None or "@" in f"{url.host}{url.database}":
        raise NoServer(
            "FSM_TEST_URLS has a part that is no URL. One looks like mysql+pymysql://user:password@host:3306; in a"
            " password, write @ as %40, / as %2F and , as %2C."
        )
    return url


def from_docker(stack: ExitStack) -> list[URL]:
    """A container of each of `KINDS`."""
    with warnings.catch_warnings():
        # What testcontainers and docker deprecate is not ours to mend, and must not fail the run.
        warnings.simplefilter("ignore")
        try:
            import docker
            from testcontainers.core.container import DockerContainer
        except ImportError as error:
            raise Unavailable(f"{error.name} is not installed") from error
        reason = docker_silence(docker)
        # The docker package leaves a socket open where nobody answers: let it go while warnings are off.
        gc.collect()
        if reason:
            raise Unavailable(reason)
        images = " and ".join(kind.image for kind in KINDS)
        print(f"Docker answers: {images} are pulled if they are not here. FSM_TEST_URLS=… avoids it.", file=sys.stderr)
        try:
            return [start_container(DockerContainer(kind.image), kind, stack) for kind in KINDS]
        except (docker.errors.DockerException, OSError) as error:
            raise Unavailable(f"the engine answers, but: {error}") from error


def docker_silence(docker: ModuleType) -> str:
    """Why no Docker engine answers; empty if one does."""
    try:
        client = docker.from_env(timeout=5)
        client.ping()
        client.close()
    except (docker.errors.DockerException, OSError) as error:
        return f"no engine answers ({str(error).partition(':')[0]})"
    return ""


def start_container(container: Any, kind: Kind, stack: ExitStack) -> URL:
    """Start it, and return its URL."""
    for name, value in kind.environment.items():
        container.with_env(name, value)
    container.with_exposed_ports(kind.port)
    stack.callback(container.stop)
    container.start()
    host = container.get_container_host_ip()
    # To MySQL's C client the name localhost means the Unix socket, whatever the port.
    host = "127.0.0.1" if host == "localhost" else host
    url = kind.url(host, int(container.get_exposed_port(kind.port)))
    wait_until_ready(url, is_alive=lambda: True)
    return url


def from_this_machine(stack: ExitStack) -> list[URL]:
    """A private server in a temporary folder, from the first program of `KINDS` that is installed here."""
    for kind in KINDS:
        if program_of(kind) is not None:
            return [private_server(kind, stack)]
    names = [name for kind in KINDS for name in kind.programs]
    raise Unavailable(f"neither {' nor '.join(names)} is installed")


def program_of(kind: Kind) -> str | None:
    """The program that serves this *kind*, if it is installed here."""
    found = (which(name, *kind.folders) for name in kind.programs)
    return next((path for path in found if path is not None), None)


def private_server(kind: Kind, stack: ExitStack) -> URL:
    """A server of this *kind* in a temporary folder, until *stack* closes.

    Raises:
        Unavailable: its program is not installed, or it does not start.
    """
    program = program_of(kind)
    if program is None:
        raise Unavailable(f"{' and '.join(kind.programs)} is not installed")
    # mysqld may be a name for MariaDB's server.
    if kind in KINDS and "MariaDB" in output_of([program, "--version"]):
        kind = MARIADB
    folder = Path(tempfile.mkdtemp(prefix="fsm-"))
    folder.chmod(0o777)  # the server may run as another user than root
    try:
        return start_server(kind, program, folder, stack)
    except Unavailable as error:
        lines = last_lines(folder / "server.log")
        shutil.rmtree(folder, ignore_errors=True)
        raise Unavailable("\n    ".join([f"{program}: {error}", *lines])) from error


def start_server(kind: Kind, program: str, folder: Path, stack: ExitStack) -> URL:
    """Initialise a data folder and serve it on a free port of 127.0.0.1."""
    output_of(kind.initialise(program, folder))
    port = free_port()
    process = users.started(kind.serve(program, folder, port), folder, stack)
    url = kind.url("127.0.0.1", port)
    wait_until_ready(url, is_alive=lambda: process.poll() is None)
    return url


def from_seekdb(stack: ExitStack) -> list[URL]:
    """OceanBase's seekdb, from its wheel."""
    if "seekdb" not in os.environ.get("FSM_TEST_URLS", "") and importlib.util.find_spec("pylibseekdb"):
        print(f"no other server found: the tests run on OceanBase's seekdb. {SEEKDB_PAGE}", file=sys.stderr)
    return [stack.enter_context(seekdb()).set(database=None)]


def from_apt(stack: ExitStack) -> list[URL]:
    """MariaDB installed from the distribution, then a private server of it."""
    if not which("apt-get"):
        raise Unavailable("this is neither Debian nor Ubuntu")
    if os.geteuid() != 0:
        raise Unavailable("only root can install")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    print("no server found: installing mariadb-server-core by apt-get. FSM_TEST_URLS=… avoids it.", file=sys.stderr)
    output_of(["apt-get", "update", "-qq"], environment)
    install = ["apt-get", "install", "-qq", "-y", "--no-install-recommends"]
    try:
        # The server without its service: nothing starts, no port is taken. Older releases name it otherwise.
        output_of([*install, "mariadb-server-core"], environment)
    except Unavailable:
        output_of([*install, "mariadb-server"], environment)
    return from_this_machine(stack)


WAYS: dict[str, Way] = {
    "FSM_TEST_URLS": from_environment,
    "Docker": from_docker,
    "a private server": from_this_machine,
    "apt-get": from_apt,
    "seekdb": from_seekdb,
}


def faketime(folder: Path) -> Path:
    """libfaketime, which fakes the clock of a process: installed, or fetched as Debian's package.

    Raises: Unavailable, with the reason.
    """
    for place in ("/usr/lib", "/usr/local/lib"):
        for found in Path(place).glob("*/faketime/libfaketimeMT.so.1"):
            return found
    if not which("apt-get") or not which("dpkg-deb"):
        raise Unavailable("libfaketime is not installed")
    print(f"downloading Debian's package libfaketime to {folder}, without installing it", file=sys.stderr)
    output_of(
        ["sh", "-c", 'cd "$1" && apt-get download -q libfaketime && dpkg-deb -x libfaketime*.deb .', "sh", str(folder)]
    )
    return next(folder.glob("usr/lib/*/faketime/libfaketimeMT.so.1"))
