"""A private server with durable settings, to be killed: by the tests' own machinery, never one of the shared ones."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import stamina
from sqlalchemy import URL, make_url

from tests.servers import Unavailable, execute, free_port, last_lines, output_of, wait_until_ready, which

DURABLE = (
    "--innodb-flush-log-at-trx-commit=1",
    "--sync-binlog=1",
    "--log-bin=binlog",
    "--binlog-format=ROW",
    "--server-id=1",
)
NAMES = ("mariadb1011", "mysql97", "mariadb118")
NONE: Mapping[str, str] = MappingProxyType({})
SCRIPT = Path(__file__).parents[3] / "shared" / "servers" / "server"
# A service manager tries again, too. What the server has lost is seen afterwards all the same.
as_a_service = stamina.retry(on=Unavailable, attempts=3, wait_initial=1)


class Durable:
    """A server of this machine's binaries. `kill` is SIGKILL; `start` starts it again on the same data."""

    def __init__(
        self, binary: str, folder: Path, options: Sequence[str] = (), preload: Mapping[str, str] = NONE
    ) -> None:
        self.binary, self.folder, self.port = binary, folder, free_port()
        self.log = folder / "server.log"
        self.options, self.preload = [*DURABLE, *options], preload
        self.is_mariadb = "MariaDB" in output_of([binary, "--version"])
        self.url = URL.create("mysql+pymysql", "root", host="127.0.0.1", port=self.port)
        self.data = [f"--datadir={folder / 'data'}", *(["--user=root"] if os.geteuid() == 0 else [])]
        self._initialise()
        self.start()

    def _initialise(self) -> None:
        if not self.is_mariadb:
            output_of([self.binary, "--no-defaults", "--initialize-insecure", *self.data])
            return
        script = which("mariadb-install-db") or which("mysql_install_db")
        if not script:
            raise Unavailable("mariadb-install-db is not installed")
        output_of([script, "--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", *self.data])

    @as_a_service
    def start(self) -> None:
        options = [
            *(f"--bind-address=127.0.0.1 --port={self.port}".split()),
            f"--socket={self.folder / 'socket'}",
            f"--pid-file={self.folder / 'pid'}",
            f"--log-error={self.log}",
            *([] if self.is_mariadb else ["--mysqlx=OFF", "--secure-file-priv=NULL"]),
        ]
        self.process = subprocess.Popen(
            [self.binary, "--no-defaults", *self.data, *options, *self.options],
            env={**os.environ, **self.preload},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        # The pipe ends with this process, however that ends.
        self.watch = subprocess.Popen(
            ["sh", "-c", 'cat; kill -9 "$1"', "watch", str(self.process.pid)],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            wait_until_ready(self.url, self.is_alive)
        except Unavailable as error:
            self.kill()  # it may be alive, and keep the data from the next one
            raise Unavailable("\n".join([str(error), *last_lines(self.log, 40)])) from error

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        # By the watch, while nobody has waited for the process: its number cannot be another's yet.
        self.watch.communicate()
        self.process.wait()


class Scripted:
    """The server that ../shared/servers/server unpacks, in a private folder that borrows the programs of the shared one."""

    def __init__(self, name: str, folder: Path, options: Sequence[str] = (), preload: Mapping[str, str] = NONE) -> None:
        unpacked = Path("/var/tmp/fsm-servers") / name / "root"
        if not SCRIPT.exists() or not unpacked.exists():
            raise Unavailable(f"{SCRIPT} has not unpacked {name}")
        (folder / name).mkdir()
        (folder / name / "root").symlink_to(unpacked)
        self.name, self.options, self.preload = name, options, preload
        self.log, self.pid_file = (folder / name / "data" / file for file in ("server.log", "server.pid"))
        self.environment = {**os.environ, "FSM_SERVERS": str(folder), "FSM_PORT": str(free_port())}
        self.start()

    @as_a_service
    def start(self) -> None:
        call = [str(SCRIPT), "up", self.name, "durable", *self.options]
        try:
            said = output_of(call, {**self.environment, **self.preload})
        except Unavailable as error:
            raise Unavailable("\n".join([str(error), *last_lines(self.log, 40)])) from error
        self.url = make_url(said.split()[-1]).set(database=None)
        self.number = int(self.pid_file.read_text())

    def is_alive(self) -> bool:
        try:
            os.kill(self.number, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> None:
        output_of([str(SCRIPT), "kill", self.name], self.environment)


def durable(
    folder: Path, name: str = "", options: Sequence[str] = (), preload: Mapping[str, str] = NONE
) -> Durable | Scripted:
    """A server of its own: *name*, or FSM_KILL_SERVER=mysql97, is one of the shared script's.

    *options* come after the durable ones, so they may undo them. *preload* is added to the server's environment.

    Raises: Unavailable, with the reason.
    """
    named = name or os.environ.get("FSM_KILL_SERVER")
    if named:
        return Scripted(named, folder, options, preload)
    binary = which("mysqld") or which("mariadbd")
    if binary:
        return Durable(binary, folder, options, preload)
    for each in NAMES:
        try:
            return Scripted(each, folder, options, preload)
        except Unavailable:
            continue
    raise Unavailable("neither mysqld nor mariadbd is installed here, and a server to be killed has to be one's own")


def version(server: Durable | Scripted) -> str:
    return str(execute(server.url, "SELECT VERSION()"))
