"""Faults that come while a load runs: each is a function of the `March` that it befalls.

A march is a load on a private server with durable settings. Its workers are an application's user with no more privileges
than the application needs, so that a server that is read-only is read-only for them.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine
from sqlalchemy.exc import DBAPIError

from tests.faults.crew import start
from tests.faults.durable import Durable, Scripted
from tests.faults.ledger import fresh_jobs
from tests.faults.load import Load, Outcome, outcome_of, work
from tests.faults.proxy import Cut, proxy, unencrypted
from tests.servers import execute, make_engine

AT_COMMIT = [Cut.REQUEST_LOST, Cut.AT_ONCE, Cut.ANSWER_LOST, Cut.AFTERWARDS]
# A worker waits for a lock this long, in seconds; a stalled client holds it longer.
LOCK_WAIT = 1


def cut_at_random(share: float, seed: int = 6) -> Callable[[str], Cut]:
    """Cut this *share* of the COMMITs, and a fifth as many UPDATEs."""
    dice = random.Random(seed)

    def choose(statement: str) -> Cut:
        if statement == "COMMIT" and dice.random() < share:
            return dice.choice(AT_COMMIT)
        return Cut.BEFORE if statement.startswith("UPDATE") and dice.random() < share / 5 else Cut.NEVER

    return choose


class March:
    """*processes* workers on *shared* rows and one of their own each, and what befalls them.

    One worker in four goes through a proxy that cuts one COMMIT in *cut_one_in*.
    """

    def __init__(
        self, server: Durable | Scripted, folder: Path, *, processes: int, shared: int, cut_one_in: int
    ) -> None:
        self.server, self.folder, self.processes = server, folder, processes
        self.dice, self.befell = random.Random(7), Counter[str]()
        self.stack = ExitStack()
        self.database = f"{server.url.database or 'test'}"
        execute(server.url, f"CREATE DATABASE IF NOT EXISTS {self.database}")
        self.root = server.url.set(drivername="mysql+pymysql", database=self.database)
        self.engine: Engine = make_engine(self.root, poolclass=NullPool)
        self.app = self._application()
        keys = fresh_jobs(self.engine, shared + processes)
        self.shared, self.own = keys[:shared], keys[shared:]
        self.proxy = self.stack.enter_context(proxy(self.app, cut_at_random(1 / cut_one_in)))
        self.logs: list[Path] = []
        self.workers: list[BaseProcess] = []

    def _application(self) -> URL:
        """The URL of a user with what the load needs, on the tables that it needs."""
        grant = f"GRANT SELECT, INSERT, UPDATE, DELETE ON {self.database}.* TO fsm_app"
        execute(self.root, "CREATE USER IF NOT EXISTS fsm_app", grant)
        return self.root.set(username="fsm_app", drivername=DRIVER)

    def begin(self) -> None:
        self.began = time.monotonic()
        self.workers = [self.start(number) for number in range(self.processes)]

    def start(self, number: int) -> BaseProcess:
        """A worker in place of *number*, on whose row nobody else fires."""
        log = self.folder / f"{len(self.logs)}.log"
        self.logs.append(log)
        load = Load(len(self.logs), self.app, log, self.shared, own=self.own[number], direct=self.app, most=12)
        if number % 4 == 3:
            load = replace(load, url=self.proxy.url, connect_args=unencrypted(self.app))
        return start(work, load)

    def steps(self) -> int:
        """How many moves are committed."""
        with contextlib.suppress(DBAPIError):
            return int(str(execute(self.root, f"SELECT SUM(steps) FROM {self.database}.fault_jobs")))
        return 0

    def admin(self) -> Connection:
        """A connection of root's, in autocommit."""
        return self.engine.execution_options(isolation_level="AUTOCOMMIT").connect()

    def befall(self, fault: Fault) -> None:
        fault(self)
        self.befell[fault.__name__.replace("_", " ")] += 1

    def end(self) -> Outcome:
        """Have the workers end what they are at, and hear what they were told.

        Raises: RuntimeError when one of them failed or hangs.
        """
        (self.folder / "stop").touch()
        for worker in self.workers:
            worker.join(150)
        self.seconds = time.monotonic() - self.began
        bad = [f"{worker.name} ended with {worker.exitcode}" for worker in self.workers if worker.exitcode != 0]
        for worker in self.workers:
            worker.kill()
        self.befell["connections cut around COMMIT"] = sum(cut is not Cut.NEVER for cut in self.proxy.cuts)
        outcome = outcome_of(self.logs, self.engine)
        if bad or outcome.failures:
            raise RuntimeError("\n".join([*bad, *outcome.failures[:1]]))
        return outcome

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker.join()
        self.stack.close()
        self.engine.dispose()


DRIVER = "mysql+mysqldb"
Fault = Callable[[March], None]


@contextmanager
def march(server: Durable | Scripted, folder: Path, **how: Any) -> Iterator[March]:
    made = March(server, folder, **how)
    try:
        yield made
    finally:
        made.close()


# --- the faults


def workers_killed(march: March) -> None:
    """SIGKILL takes a worker wherever it is; another takes its place."""
    victim = march.dice.randrange(march.processes)
    march.workers[victim].kill()
    march.workers[victim].join()
    march.workers[victim] = march.start(victim)


def connections_killed(march: March) -> None:
    """KILL, for every connection of the application."""
    with march.admin() as admin:
        kill_application(admin)


def kill_application(admin: Connection) -> None:
    rows = admin.exec_driver_sql("SELECT id FROM information_schema.processlist WHERE user = 'fsm_app'")
    for connection in rows.scalars().all():
        with contextlib.suppress(DBAPIError):  # it has gone by itself
            admin.exec_driver_sql(f"KILL {connection}")


def server_killed(march: March) -> None:
    """kill -9, and up again on the same data."""
    march.server.kill()
    march.server.start()
    set_lock_wait(march)


def set_lock_wait(march: March) -> None:
    """For the connections to come."""
    execute(march.root, f"SET GLOBAL innodb_lock_wait_timeout = {LOCK_WAIT}")


def read_only_in_the_middle(march: March) -> None:
    execute(march.root, "SET GLOBAL read_only = 1")
    time.sleep(march.dice.uniform(0.2, 0.6))
    execute(march.root, "SET GLOBAL read_only = 0")


def client_stalled_with_rows(march: March) -> None:
    """It holds three rows for longer than anybody waits."""
    keys = ", ".join(str(key) for key in march.dice.sample(march.shared, 3))
    with march.engine.connect() as connection:
        connection.exec_driver_sql(f"SELECT id FROM fault_jobs WHERE id IN ({keys}) FOR UPDATE")
        time.sleep(2.2 * LOCK_WAIT)


def connections_exhausted(march: March) -> None:
    """Idle connections take every one that the server has, and the workers have lost theirs."""
    idle = create_engine(march.app, poolclass=NullPool)
    with march.admin() as admin, ExitStack() as taken:
        before = admin.exec_driver_sql("SELECT @@GLOBAL.max_connections").scalar_one()
        admin.exec_driver_sql("SET GLOBAL max_connections = 20")
        try:
            kill_application(admin)
            with contextlib.suppress(DBAPIError):
                for _ in range(25):
                    taken.enter_context(idle.connect())
            time.sleep(0.5)
        finally:
            admin.exec_driver_sql(f"SET GLOBAL max_connections = {before}")


FAULTS: tuple[Fault, ...] = (
    workers_killed,
    connections_killed,
    read_only_in_the_middle,
    client_stalled_with_rows,
    connections_exhausted,
    server_killed,
)
