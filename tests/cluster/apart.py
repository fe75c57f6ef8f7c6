"""Clusters whose nodes live in a network of their own, with durable settings: they can be killed, stopped and cut off."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pymysql
from sqlalchemy import URL, make_url

from tests.cluster.network import NODES, Network
from tests.cluster.nodes import Cluster

HOME = Path(os.environ.get("FSM_SERVERS", "/var/tmp/fsm-servers"))
# Another run on this machine at the same time needs another number: it names the networks and the data.
SUBNET = int(os.environ.get("FSM_CLUSTER_SUBNET", "10"))
NETWORKS = {"galera": Network(f"fg{SUBNET}", SUBNET), "group": Network(f"fr{SUBNET}", SUBNET + 2)}
USER = "CREATE USER IF NOT EXISTS root@'%'; GRANT ALL ON *.* TO root@'%' WITH GRANT OPTION"

# As ../shared/servers/cluster sets them, but durable, as docs/clusters.md recommends. A group's member takes no writes
# until it has joined: with the default, clients write on one that was killed before it is in the group again.
GALERA = """
    --user=mysql --innodb-flush-log-at-trx-commit={flush} --innodb-log-file-size=32M --innodb-buffer-pool-size=128M
    --innodb-doublewrite=OFF --innodb-flush-method=nosync --max-connections=200 --binlog-format=ROW
    --default-storage-engine=InnoDB --innodb-autoinc-lock-mode=2 --wsrep-on=ON --wsrep-cluster-name=fsm
    --wsrep-sst-method=rsync --wsrep-slave-threads=2 --wsrep-node-name=n{number} --wsrep-node-address={peer}
    --wsrep-node-incoming-address={address} --wsrep-cluster-address=gcomm://{peers} --wsrep-provider={provider}
"""
GALERA_PROVIDER = (
    "gmcast.listen_addr=tcp://{peer}:4567;ist.recv_addr={peer};gcache.size=64M;pc.recovery=false;"
    "evs.keepalive_period=PT0.3S;evs.inactive_check_period=PT0.3S;evs.suspect_timeout=PT1S;"
    "evs.inactive_timeout=PT3S;evs.install_timeout=PT3S"
)
GROUP = """
    --user=root --mysqlx=OFF --secure-file-priv=NULL --super-read-only=ON --innodb-flush-log-at-trx-commit={flush} --sync-binlog={flush}
    --innodb-redo-log-capacity=64M --innodb-buffer-pool-size=128M --innodb-doublewrite=OFF
    --innodb-flush-method=nosync --max-connections=200 --gtid-mode=ON --enforce-gtid-consistency=ON --log-bin=binlog
    --report-host={peer} --report-port=3306 --plugin-load-add=group_replication.so
    --loose-group-replication-group-name=aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee
    --loose-group-replication-start-on-boot=OFF --loose-group-replication-bootstrap-group=OFF
    --loose-group-replication-local-address={peer}:33061 --loose-group-replication-group-seeds={seeds}
    --loose-group-replication-ip-allowlist=10.213.0.0/16 --loose-group-replication-recovery-get-public-key=ON
    --loose-group-replication-member-expel-timeout=0 --loose-group-replication-single-primary-mode=OFF
    --loose-group-replication-enforce-update-everywhere-checks=ON
"""
REPLICATOR = """
    CREATE USER IF NOT EXISTS rpl@'%' IDENTIFIED BY 'rpl';
    GRANT REPLICATION SLAVE, CONNECTION_ADMIN, BACKUP_ADMIN, GROUP_REPLICATION_STREAM ON *.* TO rpl@'%';
    CHANGE REPLICATION SOURCE TO SOURCE_USER='rpl', SOURCE_PASSWORD='rpl' FOR CHANNEL 'group_replication_recovery'
"""


@dataclass(frozen=True)
class Program:
    """A server's program: unpacked under *root*, where it runs on its own libraries, or installed (*root* is None)."""

    binary: str
    root: Path | None = None

    def command(self) -> list[str]:
        if self.root is None:
            return [self.binary, "--no-defaults"]
        libraries = self.root / "usr/lib/x86_64-linux-gnu"
        plugins = self.root / "usr/lib/mysql/plugin"
        name = "mariadb" if (self.root / "usr/share/mariadb").exists() else "mysql"
        share = self.root / "usr/share" / name
        return [
            *(str(libraries / "ld-linux-x86-64.so.2"), "--library-path"),
            *(f"{libraries}:{self.root / 'lib/x86_64-linux-gnu'}:{self.root / 'usr/lib'}", self.binary),
            *("--no-defaults", f"--basedir={self.root / 'usr'}", f"--plugin-dir={plugins}"),
            *(f"--lc-messages-dir={share}", f"--character-sets-dir={share / 'charsets'}"),
        ]


def program(kind: str) -> Program:
    """The server of *kind*: Group Replication's is the unpacked MySQL 9.7. Galera's is the installed MariaDB, or the
    one unpacked under FSM_GALERA_ROOT."""
    root = HOME / "mysql97" / "root" if kind == "group" else os.environ.get("FSM_GALERA_ROOT")
    if root is None:
        return Program(shutil.which("mariadbd") or "/usr/sbin/mariadbd")
    return Program(str(Path(root) / "usr/sbin" / ("mysqld" if kind == "group" else "mariadbd")), Path(root))


@dataclass(frozen=True)
class ApartCluster(Cluster):
    """Three nodes, each in its own network namespace; *flush* 0 loses the last second of a process that is killed."""

    flush: int = 1
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict, compare=False)

    @cached_property
    def network(self) -> Network:
        return NETWORKS[self.kind]

    @cached_property
    def urls(self) -> list[URL]:
        return [make_url(f"mysql+pymysql://root@{self.network.address(node)}:3306/test") for node in NODES]

    @property
    def place(self) -> Path:
        return HOME / f"{self.kind}-{SUBNET}"

    # --- the whole

    def start(self) -> None:
        self.stop()
        self.network.up()
        self.place.mkdir(parents=True)
        self._initialise()
        for node in NODES:
            self._start_node(node, founds=node == 0)
        self.sql(0, "CREATE DATABASE IF NOT EXISTS test")
        self.wait_until(self.is_up)

    def stop(self) -> None:
        for node in NODES:
            self.kill(node)
        self.network.down()
        shutil.rmtree(self.place, ignore_errors=True)

    # --- faults

    def kill(self, node: int) -> None:
        process = self._process(node)
        started = self.processes.pop(node, None)
        if process is None and started is not None and started.poll() is None:
            process = started.pid  # the server writes its own file late
        if process is None:
            return
        os.kill(process, signal.SIGKILL)
        if started is not None:
            started.wait()
        while Path(f"/proc/{process}").exists():  # one that an earlier run has left
            time.sleep(0.02)
        (self.place / f"n{node}.pid").unlink(missing_ok=True)

    def pause(self, node: int) -> None:
        """SIGSTOP: the process is there, its connections are open, and nothing answers."""
        os.kill(self._process(node) or 0, signal.SIGSTOP)

    def resume(self, node: int) -> None:
        os.kill(self._process(node) or 0, signal.SIGCONT)

    def bring_back(self, node: int) -> None:
        self.kill(node)  # one that a test gave up waiting for
        self._start_node(node, founds=False)
        self.prepare(node)

    def rejoin(self, node: int) -> None:
        """Wait until *node* is back in the cluster; help a group's member as an operator would, when it gave up."""
        try:
            self.wait_until(lambda: self.takes_writes(node), 15)
        except TimeoutError:
            if self.kind != "group":
                raise
            self.sql(node, "STOP GROUP_REPLICATION")
            self._join(node, self.processes[node], founds=False)
            self.wait_until(lambda: self.takes_writes(node))

    def kill_all(self) -> None:
        for node in NODES:
            process = self._process(node)
            if process is not None:
                os.kill(process, signal.SIGKILL)
        for node in NODES:
            self.kill(node)

    def bring_all_back(self) -> None:
        """After all were killed: the node with the latest transaction founds the cluster anew, the others join it."""
        reached = {node: self._reached(node) for node in NODES}
        first = max(reached, key=lambda node: reached[node])
        if self.kind == "galera":
            state = self.place / f"n{first}" / "grastate.dat"
            state.write_text(state.read_text().replace("safe_to_bootstrap: 0", "safe_to_bootstrap: 1"))
        self._start_node(first, founds=True)
        for node in NODES:
            if node != first:
                self._start_node(node, founds=False)
        for node in NODES:
            self.prepare(node)

    # --- one node

    def _initialise(self) -> None:
        """The first node's data; a group's other members begin with a copy, Galera's are sent theirs."""
        data, of = self.place / "n0", program(self.kind)
        if self.kind == "group":
            options = ["--initialize-insecure", "--user=root", "--innodb-redo-log-capacity=64M", "--skip-log-bin"]
            self._run([*of.command(), f"--datadir={data}", *options, "--innodb-flush-method=nosync"])
            (data / "auto.cnf").unlink()
            for node in NODES[1:]:
                shutil.copytree(data, self.place / f"n{node}")
            return
        install = of.root / "usr/bin/mariadb-install-db" if of.root else shutil.which("mariadb-install-db")
        basedir = [f"--basedir={of.root / 'usr'}"] if of.root else []
        for node in NODES:
            (self.place / f"n{node}").mkdir()
        options = ["--no-defaults", *basedir, "--auth-root-authentication-method=normal", "--skip-test-db"]
        self._run([str(install), *options, "--user=mysql", f"--datadir={data}", "--innodb-flush-method=nosync"])
        subprocess.run(["chown", "-R", "mysql", self.place], check=True)

    def _run(self, command: Sequence[str]) -> None:
        with (self.place / "initialise.log").open("ab") as log:
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _start_node(self, node: int, *, founds: bool) -> None:
        (self.place / f"n{node}.sock").unlink(missing_ok=True)
        options = ["--wsrep-new-cluster"] if founds and self.kind == "galera" else []
        with (self.place / f"n{node}.out").open("ab") as out:
            process = subprocess.Popen(
                [*self.network.inside(node), *self._command(node), *options],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self.processes[node] = process
        self._wait_for(node, process, lambda: self._through_socket(node, "SELECT 1") == 1)
        if self.kind == "group":
            if not (self.place / f"n{node}.users").exists():
                accounts = [*USER.split(";"), *REPLICATOR.split(";")]
                self._through_socket(node, "SET GLOBAL super_read_only = OFF", "SET SQL_LOG_BIN = 0", *accounts)
                (self.place / f"n{node}.users").touch()
            self._join(node, process, founds=founds)
        elif founds:
            self._wait_for(node, process, lambda: self._is_ready(node))
            self._through_socket(node, *USER.split(";"))
        self._wait_for(node, process, lambda: self.takes_writes(node))

    def _join(self, node: int, process: subprocess.Popen[bytes], *, founds: bool) -> None:
        """Join the group. It refuses a member that was killed for as long as it has not missed it."""
        bootstrap = f"SET GLOBAL group_replication_bootstrap_group = {int(founds)}"
        self._wait_for(
            node, process, lambda: self._through_socket(node, bootstrap, "START GROUP_REPLICATION", "SELECT 1") == 1
        )
        self._through_socket(node, "SET GLOBAL group_replication_bootstrap_group = OFF")

    def _command(self, node: int) -> list[str]:
        peers = [self.network.peer(other) for other in NODES]
        values = {
            "number": node,
            "flush": self.flush,
            "peer": peers[node],
            "address": self.network.address(node),
            "peers": ",".join(peers),
            "seeds": ",".join(f"{peer}:33061" for peer in peers),
            "provider": self._provider(),
        }
        own = GALERA if self.kind == "galera" else GROUP
        options = [option.format(**values) for option in own.split()]
        if self.kind == "galera":
            options.append(f"--wsrep-provider-options={GALERA_PROVIDER.format(**values)}")
        files = {"datadir": "", "socket": ".sock", "pid-file": ".pid", "log-error": ".log"}
        where = [f"--{name}={self.place / f'n{node}'}{ending}" for name, ending in files.items()]
        return [*program(self.kind).command(), *where, f"--server-id={node + 1}", "--port=3306", *options]

    def _provider(self) -> str:
        return f"{program('galera').root or ''}/usr/lib/galera/libgalera_smm.so"

    def _is_ready(self, node: int) -> bool:
        found = self._through_socket(node, "SHOW STATUS LIKE 'wsrep_ready'")
        return bool(found == "ON")

    def _wait_for(self, node: int, process: subprocess.Popen[bytes], holds: Any) -> None:
        def ended_or_holds() -> bool:
            if process.poll() is not None:
                log = (self.place / f"n{node}.log").read_text(errors="replace")
                raise RuntimeError(f"{self.kind}: node {node} ended\n{log[-2000:]}")
            try:
                return bool(holds())
            except pymysql.MySQLError:
                return False

        try:
            self.wait_until(ended_or_holds)
        except TimeoutError as error:
            log = (self.place / f"n{node}.log").read_text(errors="replace")
            raise TimeoutError(f"{error}: node {node}\n{log[-3000:]}") from None

    def _through_socket(self, node: int, *statements: str) -> Any:
        path = str(self.place / f"n{node}.sock")
        # PyMySQL leaves a socket open that it could not connect, so another one tries first.
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(path)
            except OSError as error:
                raise pymysql.OperationalError(2002, str(error)) from error
        with (
            pymysql.connect(unix_socket=path, user="root", autocommit=True) as connection,
            connection.cursor() as cursor,
        ):
            for statement in statements:
                cursor.execute(statement)
            row = cursor.fetchone()
        return row[-1] if row else None

    def _process(self, node: int) -> int | None:
        """The server's process id; None when there is none."""
        with contextlib.suppress(OSError, ValueError):
            process = int((self.place / f"n{node}.pid").read_text())
            os.kill(process, 0)
            return process
        return None

    def _reached(self, node: int) -> int:
        """How far a killed node's data goes: a number that is greatest on the node that knows most."""
        if self.kind == "group":
            return self._executed(node)
        log = self.place / f"n{node}.recover"
        command = [option for option in self._command(node) if not option.startswith("--log-error")]
        subprocess.run([*command, f"--log-error={log}", "--wsrep-recover"], check=True, timeout=60)
        position = log.read_text().rpartition("Recovered position: ")[2].split()[0]
        log.unlink()
        return int(position.rpartition(":")[2])

    def _executed(self, node: int) -> int:
        """The number of transactions that a group's member has, asked of the server while it is in no group."""
        with (self.place / f"n{node}.out").open("ab") as out:
            command = [*self.network.inside(node), *self._command(node)]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        self._wait_for(node, process, lambda: self._through_socket(node, "SELECT 1") == 1)
        count = 0
        for source in str(self._through_socket(node, "SELECT @@global.gtid_executed")).replace("\n", "").split(","):
            for interval in source.split(":")[1:]:
                first, _, last = interval.partition("-")
                count += int(last or first) - int(first) + 1
        process.terminate()
        process.wait(60)
        return count
