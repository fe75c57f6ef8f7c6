"""The two clusters that the tests run on: three nodes each, started and stopped by ``../shared/servers/cluster``."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pymysql
from sqlalchemy import URL, Engine, create_engine, event, make_url

SCRIPT = Path(os.environ.get("FSM_CLUSTER_SCRIPT", Path(__file__).parents[3] / "shared" / "servers" / "cluster"))
KINDS = ("galera", "group")

# What makes a node wait until it has applied what the others have committed. Of Galera's bits 1 is for SELECT, 2 for
# UPDATE and DELETE, 4 for INSERT: https://galeracluster.com/documentation/mysql-wsrep-options.html#wsrep-sync-wait
CURRENT = {
    "galera": "SET SESSION wsrep_sync_wait = 7",
    "group": "SET SESSION group_replication_consistency = 'BEFORE'",
}

# A member that is killed with innodb_flush_log_at_trx_commit=0 comes back without its last second, says that it has it,
# and is ONLINE: what it lacks is never sent again. Galera's members ask by what InnoDB has.
DURABLE = ("SET GLOBAL innodb_flush_log_at_trx_commit = 1", "SET GLOBAL sync_binlog = 1")

# Seconds until a group's member without a majority gives up what waits for one; the default is to wait for ever.
MAJORITY_TIMEOUT = 3


@dataclass(frozen=True)
class Cluster:
    """A cluster that is up."""

    kind: str

    @cached_property
    def urls(self) -> list[URL]:
        """The nodes' URLs, of PyMySQL, from the first on."""
        lines = _script("urls", self.kind).split()
        return [make_url(line).set(drivername="mysql+pymysql") for line in lines]

    def engine(self, node: int, *settings: str, **options: Any) -> Engine:
        """An engine of one node, 0 to 2, that sends *settings* on each new connection and waits 15 s at most."""
        return node_engine(self.urls[node], *settings, **options)

    def sql(self, node: int, *statements: str) -> Any:
        """The last value of the last statement's first row, on a connection of its own.

        Not through SQLAlchemy, whose first COMMIT a Galera node without a majority refuses.
        """
        url = self.urls[node]
        with (
            pymysql.connect(host=url.host, port=url.port or 3306, user=url.username, autocommit=True) as connection,
            connection.cursor() as cursor,
        ):
            for statement in statements:
                cursor.execute(statement)
            row = cursor.fetchone()
        return row[-1] if row else None

    def kill(self, node: int) -> None:
        """SIGKILL, as by the kernel."""
        _script("kill", self.kind, str(node + 1))

    def bring_back(self, node: int) -> None:
        """Start a killed node, and wait until it has joined and caught up."""
        _script("rejoin", self.kind, str(node + 1))
        self.prepare(node)

    def prepare(self, node: int) -> None:
        """Set what a node has to have and forgets when it ends."""
        if self.kind == "group":
            timeout = f"SET GLOBAL group_replication_unreachable_majority_timeout = {MAJORITY_TIMEOUT}"
            self.sql(node, *DURABLE, timeout)

    def found_anew(self, node: int) -> None:
        """Make *node*, left without a majority, the first of a new one: what an operator does when the others are lost."""
        if self.kind == "galera":
            self.sql(node, "SET GLOBAL wsrep_provider_options = 'pc.bootstrap=YES'")
        else:
            self.sql(
                node,
                "STOP GROUP_REPLICATION",
                "SET GLOBAL group_replication_bootstrap_group = ON",
                "START GROUP_REPLICATION",
                "SET GLOBAL group_replication_bootstrap_group = OFF",
            )
        self.wait_until(lambda: self.takes_writes(node))

    def takes_writes(self, node: int) -> bool:
        try:
            return self._says_that_it_takes_writes(node)
        except pymysql.MySQLError:
            return False

    def _says_that_it_takes_writes(self, node: int) -> bool:
        if self.kind == "galera":
            return self.sql(node, "SHOW STATUS LIKE 'wsrep_ready'") == "ON"
        state = self.sql(
            node,
            "SELECT member_state FROM performance_schema.replication_group_members WHERE member_id = @@server_uuid",
        )
        return state == "ONLINE" and self.sql(node, "SELECT @@global.super_read_only") == 0

    def wait_until(self, holds: Callable[[], bool], seconds: float = 60) -> None:
        """Return once *holds* does.

        Raises: TimeoutError.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if holds():
                return
            time.sleep(0.1)
        raise TimeoutError(f"{self.kind}: not within {seconds} s")

    def is_up(self) -> bool:
        return all(self.takes_writes(node) for node in range(3))

    def start(self) -> None:
        _script("down", self.kind)
        _script("up", self.kind)

    def stop(self) -> None:
        _script("down", self.kind)


def node_engine(url: URL, *settings: str, **options: Any) -> Engine:
    """An engine as recommended, READ COMMITTED, on one node; see `Cluster.engine`."""
    options = {"isolation_level": "READ COMMITTED"} | options
    timeouts = {"connect_timeout": 5, "read_timeout": 15, "write_timeout": 15}
    engine = create_engine(url, connect_args=timeouts, **options)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        with connection.cursor() as cursor:
            for setting in settings:
                cursor.execute(setting)

    return engine


def _script(*arguments: str) -> str:
    """What the script prints. Its servers outlive it, so they must not inherit the pipe."""
    verb = arguments[0]
    if verb == "urls":
        return subprocess.run(["bash", SCRIPT, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout
    subprocess.run(
        ["bash", SCRIPT, *arguments],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        timeout=180,
    )
    return ""
