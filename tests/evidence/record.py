"""What a run showed, in lines of JSON: written where FSM_EVIDENCE says, read by `tests.evidence.page`."""

from __future__ import annotations

import json
import os
import platform
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, make_url

from tests.servers import execute, server_name

# What a promise depends on; a server without one has no line for it.
SETTINGS = (
    "innodb_flush_log_at_trx_commit",
    "sync_binlog",
    "log_bin",
    "transaction_isolation",
    "innodb_snapshot_isolation",
    "innodb_lock_wait_timeout",
    "innodb_rollback_on_timeout",
    "sql_mode",
    "character_set_server",
    "collation_server",
)


def record(kind: str, server: Engine | URL | str | None = None, **facts: Any) -> None:
    """Add a line of this *kind*; *server* is where it was found out."""
    path = os.environ.get("FSM_EVIDENCE")
    if not path:
        return
    said = {"kind": kind, **facts}
    if server is not None:
        url = server.url if isinstance(server, Engine) else make_url(server)
        said["server"] = name_of(url)
    with Path(path).open("a") as file:
        file.write(json.dumps(said, sort_keys=True) + "\n")


def record_run(command: str) -> None:
    """Say what ran: once at the beginning of each process of pytest that records."""
    words = [word for word in command.split() if not word.startswith(("--basetemp", "/"))]  # this machine's own paths
    packages = ("SQLAlchemy", "mysqlclient", "PyMySQL", "hypothesis")
    record(
        "run",
        command=" ".join(words),
        at=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        packages={name: version_of_package(name) for name in packages},
    )


def version_of_package(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache
def name_of(url: URL) -> str:
    """The short name of a server, as the tests' ids have it."""
    return server_name(version_of(url)) if url.get_backend_name() != "sqlite" else "sqlite"


def version_of(url: URL) -> str:
    return str(execute(url, "SELECT VERSION()"))


def settings_of(url: URL) -> dict[str, str]:
    """The server's values of `SETTINGS`."""
    values = {}
    for name in SETTINGS:
        if execute(url, f"SHOW GLOBAL VARIABLES LIKE '{name}'") is not None:
            values[name] = str(execute(url, f"SELECT @@GLOBAL.{name}"))
    return values
