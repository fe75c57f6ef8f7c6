"""A private server for tests: one that is installed on this machine, or seekdb from a wheel; no root, no container.

Both are gone at the end, with their data, also when the tests' process is killed. They listen to this machine only, and
have the user root without a password. PyMySQL is needed.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, NullPool, create_engine
from sqlalchemy.exc import SQLAlchemyError

from ..errors.texts import shown

__all__ = ["ServerUnavailable", "any_server", "private_server", "seekdb"]

# The PATH of a user often has no sbin, and the downloads of mysql.com and Homebrew put their servers elsewhere.
PLACES = (
    *os.get_exec_path(),
    "/usr/sbin",
    "/usr/local/sbin",
    "/usr/libexec",
    "/usr/local/mysql/bin",
    "/opt/homebrew/bin",
)
_SECONDS = 90.0
# Linux gives the ports from 32768 on to outgoing connections, macOS and Windows those from 49152 on.
_PORTS = range(15_000, 32_768)


class ServerUnavailable(RuntimeError):
    """The server cannot be started on this machine. The text has the reason."""


@contextmanager
def any_server() -> Iterator[URL]:
    """The URL of a server for the ``with`` block: of :func:`private_server`, or of :func:`seekdb` if none is installed.

    Raises: ServerUnavailable with the reason of each.
    """
    reasons = []
    with contextlib.ExitStack() as stack:
        for start in (private_server, seekdb):
            try:
                url = stack.enter_context(start())
                break
            except ServerUnavailable as error:
                reasons.append(f"{start.__name__}(): {error}")
        else:
            raise ServerUnavailable("\n".join(["no server can be started here", *reasons]))
        yield url


@contextmanager
def private_server(*options: str) -> Iterator[URL]:
    """The URL of an installed ``mysqld`` or ``mariadbd``, started for the ``with`` block in a temporary folder.

    *options* are further options of the server, such as ``"--innodb-lock-wait-timeout=2"``. Its database is ``test``.
    COMMIT does not wait for the disk.

    Raises: ServerUnavailable when neither is installed, or the server does not start; TypeError or ValueError for a
    value that is not an option.
    """
    for option in options:
        if not isinstance(option, str):
            raise TypeError(f"an option of the server is a string, not {shown(option)}")
        if not option.startswith("--") or not option.isprintable():
            raise ValueError(f"an option of the server begins with '--', not as {shown(option)}")
    binary = which("mysqld") or which("mariadbd")
    if not binary:
        raise ServerUnavailable("neither mysqld nor mariadbd is installed")
    folder = Path(tempfile.mkdtemp(prefix="fsm-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        try:
            url = _started(binary, folder, options, stack)
            execute(url, "CREATE DATABASE IF NOT EXISTS test")
        except ServerUnavailable as error:
            lines = last_lines(folder / "server.log")
            raise ServerUnavailable("\n    ".join([f"{binary}: {error}", *lines])) from error
        yield url.set(database="test")


@contextmanager
def seekdb() -> Iterator[URL]:
    """The URL of OceanBase's seekdb, a server with MySQL's dialect, started for the ``with`` block.

    It comes in a wheel: ``pip install pylibseekdb``, for Python 3.11 and later, on Linux (glibc) and macOS. Other
    processes of this machine can also use the URL. Its data are in a temporary folder. It uses at most 1 GB of memory,
    and starts within some seconds. The page *seekdb* of the documentation describes how it differs from MySQL.

    Raises: ServerUnavailable when the wheel is not installed, or the server does not start.
    """
    try:
        pylibseekdb = importlib.import_module("pylibseekdb")
    except ImportError as error:
        raise ServerUnavailable("pylibseekdb is not installed: pip install pylibseekdb (Python 3.11+)") from error
    with tempfile.TemporaryDirectory(prefix="fsm-", ignore_cleanup_errors=True) as folder:
        try:
            # Its server process ends with this process.
            instance = pylibseekdb.open(db_dir=str(Path(folder) / "data"))
        except pylibseekdb.SeekdbError as error:
            raise ServerUnavailable(f"seekdb does not start: {error}") from error
        try:
            place = instance.connection_options()["unix_socket"]
            yield URL.create("mysql+pymysql", "root", host="localhost", database="test", query={"unix_socket": place})
        finally:
            instance.close()


def _started(binary: str, folder: Path, options: Sequence[str], stack: contextlib.ExitStack) -> URL:
    """The URL of *binary*, serving a data folder in *folder* on a free port of 127.0.0.1 until *stack* is closed."""
    is_mariadb = "MariaDB" in output_of([binary, "--version"])
    output_of(initialising(binary, folder, is_mariadb=is_mariadb))
    port = free_port()
    process = started([*serving(binary, folder, port, is_mariadb=is_mariadb), *options], folder, stack)
    url = URL.create("mysql+pymysql", "root", host="127.0.0.1", port=port)
    wait_until_ready(url, is_alive=lambda: process.poll() is None)
    return url


def initialising(binary: str, folder: Path, *, is_mariadb: bool) -> list[str]:
    """The command that makes the data folder ``folder / "data"``, with a root without a password.

    Raises: ServerUnavailable when MariaDB's script for it is not installed.
    """
    data = [f"--datadir={folder / 'data'}", *_as_root()]
    if not is_mariadb:
        return [binary, "--no-defaults", "--initialize-insecure", *data]
    beside = str(Path(binary).parent)
    script = which("mariadb-install-db", beside) or which("mysql_install_db", beside)
    if not script:
        raise ServerUnavailable("mariadb-install-db is not installed")
    return [script, "--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", *data]


def serving(binary: str, folder: Path, port: int, *, is_mariadb: bool) -> list[str]:
    """The command that serves the data folder on *port* of 127.0.0.1. COMMIT does not wait for the disk."""
    return [
        *(binary, "--no-defaults", f"--datadir={folder / 'data'}", *_as_root()),
        *("--bind-address=127.0.0.1", f"--port={port}", f"--socket={folder / 'socket'}"),
        *(f"--pid-file={folder / 'pid'}", f"--log-error={folder / 'server.log'}", "--skip-log-bin"),
        *("--max-connections=300", "--innodb-flush-log-at-trx-commit=0"),
        # MySQL's second port, and a folder that a packaged server insists on, are not needed.
        *(() if is_mariadb else ("--mysqlx=OFF", "--secure-file-priv=NULL")),
    ]


def _as_root() -> list[str]:
    # Run by root, both servers refuse unless told the user.
    return ["--user=root"] if os.geteuid() == 0 else []


def started(command: Sequence[str], folder: Path, stack: contextlib.ExitStack) -> subprocess.Popen[bytes]:
    """The process of *command*, until *stack* is closed or this process dies. It logs to ``folder / "server.log"``."""
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - a server of this machine, with options of ours and of the tests
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    stack.callback(guard(process, folder))
    return process


def guard(server: subprocess.Popen[bytes], folder: Path) -> Callable[[], None]:
    """A function that stops *server*. If this process dies before it is called, *folder* goes as well."""
    # The pipe ends with this process, also by SIGKILL. Then the guard stops the server.
    script = 'cat; kill "$1"; while kill -0 "$1"; do sleep 0.1; done; rm -rf "$2"'
    watch = subprocess.Popen(  # noqa: S603 - the words above
        ["/bin/sh", "-c", script, "guard", str(server.pid), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def stop() -> None:
        server.terminate()
        server.wait()
        # From here on the number may be another process's.
        watch.kill()
        watch.communicate()

    return stop


def wait_until_ready(
    url: URL,
    is_alive: Callable[[], bool],
    seconds: float = _SECONDS,
    *,
    ask: Callable[[URL, str], object] | None = None,
) -> None:
    """Return once the server at *url* answers a statement, which *ask* sends; by default as :func:`execute`.

    Raises: ServerUnavailable when it has ended, or does not answer within *seconds*.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            (ask or execute)(url, "SELECT 1")
        except SQLAlchemyError as error:
            if not is_alive():
                raise ServerUnavailable("it was started, and ended at once") from error
            if time.monotonic() > deadline:
                raise ServerUnavailable(f"it was started, and did not answer within {seconds:.0f} seconds") from error
            time.sleep(0.1)
        else:
            return


def execute(url: URL, *statements: str) -> object:
    """Run *statements* in autocommit, on a connection of their own; the scalar of the last one, if it has rows."""
    # The database that the URL names need not exist yet.
    url = url.set(drivername="mysql+pymysql", database=None)
    options = {"connect_timeout": 10}
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=options)
    with engine.connect() as connection:
        results = [connection.exec_driver_sql(statement) for statement in statements]
        return results[-1].scalar() if results[-1].returns_rows else None


@contextmanager
def own_database(url: URL) -> Iterator[URL]:
    """The URL of a new, empty database on the server at *url*, dropped at the end of the ``with`` block."""
    # Two containers can have the same process id and share one server, hence the random part.
    name = f"fsm_test_{os.getpid()}_{secrets.token_hex(4)}"
    execute(url, f"CREATE DATABASE {name}")
    try:
        yield url.set(database=name)
    finally:
        # A transaction that a test left open holds its tables. The default is to wait for it a whole year.
        execute(url, "SET SESSION lock_wait_timeout = 20", f"DROP DATABASE {name}")


def which(name: str, *folders: str) -> str | None:
    """The path of the program *name*, in one of *folders* or also where only root's PATH leads."""
    return shutil.which(name, path=os.pathsep.join((*folders, *PLACES)))


def output_of(command: Sequence[str], environment: dict[str, str] | None = None) -> str:
    """The output of *command*.

    Raises: ServerUnavailable with its last line when it fails.
    """
    done = subprocess.run(  # noqa: S603 - programs of a server, or of the tests
        command,
        check=False,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode:
        last = done.stdout.strip().splitlines()[-1:] or ["it printed nothing"]
        raise ServerUnavailable(f"{' '.join(command[:3])} … failed: {last[0]}")
    return done.stdout


def last_lines(log: Path, most: int = 5) -> list[str]:
    """The last lines of *log*, *most* at most; none without the file."""
    return log.read_text(errors="replace").splitlines()[-most:] if log.exists() else []


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing uses, and that no outgoing connection is given.

    A port that is given to outgoing connections can be taken before the server starts, and while a killed server is
    down. Even an ended connection keeps it for a minute (TIME_WAIT), and the server cannot bind it.
    """
    for port in secrets.SystemRandom().sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ServerUnavailable(f"each port from {_PORTS.start} to {_PORTS.stop - 1} is in use")
