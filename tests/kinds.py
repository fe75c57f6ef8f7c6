"""All that the tests know of one kind of server: one `Kind` for each. For another database, write one and enter it in `KINDS`.

>>> from sqlalchemy import make_url
>>> kind_of(make_url("mysql+pymysql://root@127.0.0.1/shop")).name
'mysql'
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import URL

from sqlalchemy_fsm_mysql.testing.servers import initialising, serving

__all__ = ["KINDS", "MARIADB", "MYSQL", "POSTGRESQL", "Kind", "kind_of"]


@dataclass(frozen=True)
class Kind:
    """A kind of server: its drivers, its programs, and the statements that the tests send outside of any test."""

    name: str  # begins the names of targets: mysql97-pymysql
    backends: tuple[str, ...]  # the names that SQLAlchemy's URLs have for it
    drivers: Mapping[str, str]  # those of the usual run, each with the module that has to be there
    image: str  # for Docker
    port: int
    environment: Mapping[str, str]  # of a container
    programs: tuple[str, ...]  # the server itself, by any of these names
    folders: tuple[str, ...] = ()  # where its programs are, if not on PATH
    further_drivers: Mapping[str, str] = field(default_factory=dict)  # those that --all-drivers adds
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    version: str = "SELECT VERSION()"

    @property
    def usual_driver(self) -> str:
        """The driver of the tests that one driver is enough for: the last of the usual run's."""
        return [*self.drivers][-1]

    def has_driver(self, name: str) -> bool:
        """Whether *name* is a driver of this kind of server."""
        return name in self.drivers or name in self.further_drivers

    def administration(self, url: URL) -> URL:
        """A URL of the same server, by a driver that is always installed, without a database that need not exist yet."""
        return url.set(drivername=f"{url.get_backend_name()}+pymysql", database=None)

    def dropping(self, database: str) -> Sequence[str]:
        """The statements that drop a *database*, in which a test may have left a transaction open."""
        # A transaction that a test left open holds its tables. The default is to wait for it a whole year.
        return "SET SESSION lock_wait_timeout = 20", f"DROP DATABASE {database}"

    def url(self, host: str, port: int) -> URL:
        """The URL of a server that the tests have started."""
        return URL.create("mysql+pymysql", "root", host=host, port=port)

    def initialise(self, program: str, folder: Path) -> Sequence[str]:
        """The command that makes the data folder ``folder / "data"`` of a private server."""
        return initialising(program, folder, is_mariadb=False)

    def serve(self, program: str, folder: Path, port: int) -> Sequence[str]:
        """The command that serves the data folder on *port* of 127.0.0.1, to a user without a password."""
        return serving(program, folder, port, is_mariadb=False)


class MariaDB(Kind):
    """MariaDB, which speaks MySQL's protocol and has other programs."""

    def initialise(self, program: str, folder: Path) -> Sequence[str]:
        return initialising(program, folder, is_mariadb=True)

    def serve(self, program: str, folder: Path, port: int) -> Sequence[str]:
        return serving(program, folder, port, is_mariadb=True)


class PostgreSQL(Kind):
    """PostgreSQL, which root may not run: the user of Debian's package does."""

    def administration(self, url: URL) -> URL:
        return url.set(drivername="postgresql+psycopg", database="postgres")

    def dropping(self, database: str) -> Sequence[str]:
        return (f"DROP DATABASE {database} WITH (FORCE)",)

    def url(self, host: str, port: int) -> URL:
        return URL.create("postgresql+psycopg", "postgres", host=host, port=port, database="postgres")

    def initialise(self, program: str, folder: Path) -> Sequence[str]:
        initdb = str(Path(program).with_name("initdb"))
        return [*as_user("postgres"), initdb, "--auth=trust", "--username=postgres", f"--pgdata={folder / 'data'}"]

    def serve(self, program: str, folder: Path, port: int) -> Sequence[str]:
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "max_connections": "100"}
        chosen = [f"--{name}={value}" for name, value in {**options, "fsync": "off", "timezone": "UTC"}.items()]
        return [*as_user("postgres"), program, "-D", str(folder / "data"), f"--port={port}", *chosen]


def as_user(name: str) -> Sequence[str]:
    """The beginning of a command that root runs as the user *name*."""
    return ("setpriv", f"--reuid={name}", f"--regid={name}", "--clear-groups", "--") if os.geteuid() == 0 else ()


_FURTHER = {
    "mysqlconnector": "mysql.connector",
    "mariadbconnector": "mariadb",
    "asyncmy": "asyncmy",
    "aiomysql": "aiomysql",
}
_DRIVERS = {"mysqldb": "MySQLdb", "pymysql": "pymysql"}

MYSQL = Kind(
    name="mysql",
    backends=("mysql", "mariadb"),
    drivers=_DRIVERS,
    further_drivers=_FURTHER,
    image="mysql:9",
    port=3306,
    environment={"MYSQL_ALLOW_EMPTY_PASSWORD": "1"},
    programs=("mysqld",),
)
MARIADB = MariaDB(
    name="mariadb",
    backends=("mysql", "mariadb"),
    drivers=_DRIVERS,
    further_drivers=_FURTHER,
    image="mariadb:11",
    port=3306,
    environment={"MYSQL_ALLOW_EMPTY_PASSWORD": "1"},
    programs=("mariadbd",),
)
# No target of the whole suite, because the library does not support it: tests/postgresql starts one.
POSTGRESQL = PostgreSQL(
    name="postgresql",
    backends=("postgresql",),
    drivers={"psycopg": "psycopg"},
    image="postgres:17",
    port=5432,
    environment={"POSTGRES_HOST_AUTH_METHOD": "trust"},
    programs=("postgres",),
    folders=tuple(f"/usr/lib/postgresql/{version}/bin" for version in range(20, 12, -1)),
)

KINDS = (MYSQL, MARIADB)
"""Those that the whole suite runs on."""


def kind_of(url: URL) -> Kind:
    """The kind of server at *url*; MySQL and MariaDB take the same statements."""
    return next(kind for kind in (*KINDS, POSTGRESQL) if url.get_backend_name() in kind.backends)


def server_name(version: str) -> str:
    """A short name for test ids.

    >>> server_name("9.7.4-2"), server_name("10.11.18-MariaDB-0+deb12u1"), server_name("5.5.5-10.6.1-MariaDB")
    ('mysql97', 'mariadb1011', 'mariadb106')
    """
    if seekdb := re.search(r"seekdb-v(\d+)\.(\d+)", version):
        return f"seekdb{seekdb[1]}{seekdb[2]}"
    # MariaDB 10 puts 5.5.5- in front for clients of replication.
    numbers = re.match(r"(?:5\.5\.5-(?=.*MariaDB)|PostgreSQL )?(\d+)\.(\d+)", version)
    if not numbers:
        return "unknown"
    kind = POSTGRESQL if version.startswith("PostgreSQL") else MARIADB if "MariaDB" in version else MYSQL
    return f"{kind.name}{numbers[1]}{numbers[2]}"
