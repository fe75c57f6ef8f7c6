"""The example, run: create, add a state, rename one under a writer, drop, and downgrade all the way.

    python -m alembic_example [--rows 100000] [--url URL | --servers] [--write-revisions]

Without a URL it works on SQLite, in a temporary folder. ``--url`` names a database of MySQL or MariaDB, in which the
tables jobs, job_transitions and alembic_version are dropped and made; ``--servers`` finds servers as the tests do.
``--write-revisions`` has autogenerate write versions/ anew, which is how they were made.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, select, text
from sqlalchemy.orm import Session

from sqlalchemy_fsm_mysql import fire_where, replay
from sqlalchemy_fsm_mysql.errors import MigrationRefused

from .jobs import RELEASES, models
from .server import connected, serve

HERE = Path(__file__).parent
MESSAGES = ("create", "add a state", "rename, expand", "rename, data", "rename, contract")


class Example:
    """The project on one database."""

    def __init__(self, engine: Engine, rows: int) -> None:
        self.engine, self.rows = engine, rows
        self.config = Config()
        self.config.set_main_option("script_location", str(HERE))
        self.config.attributes["engine"] = engine

    def empty(self) -> None:
        with self.engine.begin() as connection:
            for name in ("jobs", "job_transitions", "alembic_version"):
                if inspect(connection).has_table(name):
                    connection.execute(text(f"DROP TABLE {name}"))

    def upgrade(self, release: int) -> None:
        """Bring the database to where this release needs it, and see whether Alembic finds a difference."""
        told(f"alembic upgrade {release:04d}    ({MESSAGES[release - 1]})")
        command.upgrade(self.config, f"{release:04d}")
        metadata = models(release)[0].metadata
        only_ours = {"include_name": lambda name, kind, _: kind != "table" or name in metadata.tables}
        with self.engine.connect() as connection:
            # What `alembic check` does; the command itself wants the database at the newest revision.
            differences = compare_metadata(MigrationContext.configure(connection, opts=only_ours), metadata)
        told(f"    differences to release {release}: {differences or 'none'}")

    def downgrade(self, to: str) -> None:
        told(f"alembic downgrade {to}")
        command.downgrade(self.config, to)

    def write_revisions(self) -> None:
        for old in (HERE / "versions").glob("*.py"):
            old.unlink()
        for release in RELEASES:
            self.config.attributes["metadata"] = models(release)[0].metadata
            command.revision(self.config, MESSAGES[release - 1], autogenerate=True, rev_id=f"{release:04d}")
            command.upgrade(self.config, "head")
            if release == 3:  # so that the next release finds rows to move, as there are in production
                with self.engine.begin() as connection:
                    connection.execute(text("INSERT INTO jobs (id, state) VALUES (1, 'Error')"))

    def fill(self) -> None:
        """Rows, two thirds of them in 'Error'."""
        _, Job = models(3)
        with self.engine.begin() as connection:
            for start in range(1, self.rows + 1, 10_000):
                keys = range(start, min(start + 10_000, self.rows + 1))
                rows = [{"id": key, "state": "Running" if key % 3 == 0 else "Error"} for key in keys]
                connection.execute(Job.__table__.insert(), rows)

    def counts(self) -> dict[str, int]:
        with self.engine.connect() as connection:
            rows = connection.execute(text("SELECT state, COUNT(*) FROM jobs GROUP BY state ORDER BY state"))
            return {str(state): int(number) for state, number in rows}

    def run(self) -> None:
        self.empty()
        self.upgrade(1)
        self.upgrade(2)
        self.upgrade(3)
        self.fill()
        told(f"rows: {self.counts()}")
        with self.writing(4):
            self.upgrade(4)
            told(f"rows: {self.counts()}")
        with self.writing(5):
            self.upgrade(5)
        self.check_history(5)
        with self.writing(5, pausing=True):
            time.sleep(0.5)
        self.back()

    def back(self) -> None:
        """All the way down. What would lose rows is refused until they are out of the way."""
        self.downgrade("0004")
        self.downgrade("0003")
        told(f"rows: {self.counts()}")
        try:
            self.downgrade("0001")
        except MigrationRefused as refused:
            told(f"refused: {refused}")
        with Session(self.engine) as session:
            _, Job = models(3)
            moved = fire_where(Job, "Resume", session, Job.id > 0)
            session.commit()
        told(f"'Resume' fired on {moved.moved} rows")
        self.downgrade("0001")
        told(f"rows: {self.counts()}")
        self.downgrade("base")

    @contextmanager
    def writing(self, release: int, *, pausing: bool = False) -> Iterator[None]:
        """Meanwhile a server of this release, another process, fires events on random rows."""
        spawn = multiprocessing.get_context("spawn")
        ready, stop, results = spawn.Event(), spawn.Event(), spawn.Queue()
        url = self.engine.url.render_as_string(hide_password=False)
        events = ["Pause"] if pausing else ["Fail", "Repair"]
        server = spawn.Process(target=serve, args=(url, release, self.rows, events, ready, stop, results))
        server.start()
        if not ready.wait(60):
            raise SystemExit("the server did not start")
        try:
            yield
        finally:
            stop.set()
            outcomes, slowest = results.get()
            server.join()
        told(f"release {release} fired at the same time: {outcomes}, slowest {slowest:.3f} s")

    def check_history(self, release: int) -> None:
        """Every row that has a history is where its history leads."""
        _, Job = models(release)
        with Session(self.engine) as session:
            jobs = session.scalars(select(Job).order_by(Job.id.desc()).limit(1000)).all()
            wrong = [job.id for job in jobs if (rows := job.history()) and replay(rows) != job.state]
        told(f"replay of {len(jobs)} rows' history: {len(wrong)} wrong")


def told(line: str) -> None:
    print(line, flush=True)


def on_sqlite(work: Callable[[Engine], None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        told("--- SQLite")
        engine = connected(f"sqlite:///{folder}/example.db")
        work(engine)
        engine.dispose()


def on_servers(work: Callable[[Engine], None]) -> None:
    """On each server that the tests would find, in a database of its own."""
    from tests.servers import own_database, servers

    for server in servers():
        told(f"--- {server.version}")
        with own_database(server.url) as url:
            engine = connected(url)
            work(engine)
            engine.dispose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--url")
    where.add_argument("--servers", action="store_true")
    parser.add_argument("--write-revisions", action="store_true")
    asked = parser.parse_args()
    logging.basicConfig(stream=sys.stdout, format="    %(message)s", level=logging.WARNING)
    logging.getLogger("alembic.sqlalchemy_fsm_mysql").setLevel(logging.INFO)

    def work(engine: Engine) -> None:
        example = Example(engine, asked.rows)
        if asked.write_revisions:
            example.empty()
            example.write_revisions()
        else:
            example.run()

    if asked.url:
        engine = connected(asked.url)
        work(engine)
        engine.dispose()
    elif asked.servers:
        on_servers(work)
    else:
        on_sqlite(work)


if __name__ == "__main__":
    main()
