"""Timed events by many workers, some of which are killed: each row once, none early, none left; and how fast, how late.

    python -m benchmarks.due mysql+mysqldb://root@127.0.0.1:3306/test [--rows 100000] [--workers 8] [--kills 4]

The database of the URL is written to: tables bench_due… are dropped and created. Each worker is a process of the command
``due``. There are two runs. In the first, all rows are overdue at the beginning: the rows a second. In the second, they
become due one after the other over some seconds: the delay of each row after its time, by the database's clock. In both,
workers are killed by SIGKILL on the way, and others take their place. With ``--reads``, the rows that the server reads for
1,000 due rows of a million (Handler_read…) are counted as well.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, Index, create_engine, func, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import Event, Machine, StateMachineColumn, StateSinceColumn, TransitionHistory, fire_due
from sqlalchemy_fsm_mysql.orm.since import Timestamp

AFTER = timedelta(hours=1)
CHUNK = 10_000


class Base(DeclarativeBase):
    """The tables of the benchmark."""


class Timer(Base):
    __tablename__ = "bench_due"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="pending",
            events=[Event("Pay", {"pending": "paid"}), Event("Expire", {"pending": "expired"}, after=AFTER)],
        )
    )
    state_since: Mapped[datetime] = StateSinceColumn()
    due_at: Mapped[datetime | None] = mapped_column(Timestamp())
    __table_args__ = (Index("ix_bench_due", "state", "state_since"),)


class TimerTransition(TransitionHistory, Base):
    __tablename__ = "bench_due_transitions"
    __records__ = "Timer.state"


FILL = text(
    "INSERT INTO bench_due (state, state_since, due_at) SELECT 'pending', since, since + INTERVAL 1 HOUR FROM"
    " (SELECT :began - INTERVAL 1 HOUR + INTERVAL ((:first + n) * 7919 % :rows) * :spread * 1000000 DIV :rows MICROSECOND"
    " AS since FROM bench_numbers WHERE :first + n < :rows) numbered"
)


def empty(engine: Engine) -> None:
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)


def fill(engine: Engine, rows: int, *, lead: float, spread: float) -> None:
    """*rows* that become due over *spread* seconds, the first in *lead* seconds."""
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS bench_numbers"))
        connection.execute(text("CREATE TABLE bench_numbers (n INT PRIMARY KEY)"))
        connection.execute(text("INSERT INTO bench_numbers VALUES (:n)"), [{"n": n} for n in range(CHUNK)])
        began = connection.scalar(text("SELECT UTC_TIMESTAMP(6) + INTERVAL :lead SECOND"), {"lead": lead})
    for first in range(0, rows, CHUNK):
        with engine.begin() as connection:
            connection.execute(FILL, {"rows": rows, "began": began, "spread": spread, "first": first})
    with engine.connect() as connection:
        connection.exec_driver_sql("ANALYZE TABLE bench_due").all()


def left(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(Timer).where(Timer.state == "pending")) or 0


def work(url: str, engine: Engine, args: argparse.Namespace, *, lead: float, spread: float) -> None:
    """Start the workers, fill the table, kill some workers on the way, and stop the others when no row is left."""
    command = [sys.executable, "-m", "sqlalchemy_fsm_mysql", "due", "benchmarks.due:Timer.state", "-u", url]
    command += ["--every", str(args.every), "--limit", str(args.limit)]
    root = Path(__file__).parents[1]
    empty(engine)
    with tempfile.TemporaryDirectory() as folder:
        files = (Path(folder) / str(number) for number in itertools.count())

        def start() -> tuple[subprocess.Popen[bytes], Path]:
            ready = next(files)
            arguments = [*command, "--ready-file", str(ready)]
            return subprocess.Popen(arguments, cwd=root, stderr=subprocess.DEVNULL), ready

        workers = [start() for _ in range(args.workers)]
        killed = 0
        try:
            while not all(ready.exists() for _, ready in workers):
                time.sleep(0.1)
            fill(engine, args.rows, lead=lead, spread=spread)
            while rows := left(engine):
                if killed < args.kills and rows < args.rows * (1 - (killed + 1) / (args.kills + 1)):
                    victim, _ = workers.pop(0)
                    victim.send_signal(signal.SIGKILL)
                    victim.wait()
                    workers.append(start())
                    killed += 1
                time.sleep(0.05)
            while not all(ready.exists() for _, ready in workers):
                time.sleep(0.1)
            for worker, _ in workers:
                worker.terminate()
            statuses = {worker.wait(60) for worker, _ in workers}
            if statuses != {0} or killed != args.kills:
                raise SystemExit(f"statuses {statuses}, {killed} killed")
        finally:
            for worker, _ in workers:
                worker.kill()


def outcome(engine: Engine, rows: int) -> dict[str, Any]:
    """The invariants, and the delays in milliseconds."""
    with engine.connect() as connection:
        fired = connection.execute(
            text("SELECT COUNT(*), COUNT(DISTINCT record_id), MIN(at), MAX(at) FROM bench_due_transitions")
        ).one()
        early = connection.scalar(text("SELECT COUNT(*) FROM bench_due WHERE state_since < due_at"))
        delays = connection.scalars(
            text("SELECT TIMESTAMPDIFF(MICROSECOND, due_at, state_since) / 1000 d FROM bench_due ORDER BY d")
        ).all()
    if (fired[0], fired[1], early, left(engine)) != (rows, rows, 0, 0):
        raise SystemExit(f"{fired[0]} fires of {fired[1]} rows, {early} early, {left(engine)} left")
    at = {
        name: float(delays[min(len(delays) - 1, int(len(delays) * part))])
        for name, part in (("p50", 0.5), ("p99", 0.99))
    }
    seconds = (fired[3] - fired[2]).total_seconds()
    return {**at, "max": float(delays[-1]), "rows_per_second": rows / max(seconds, 0.001)}


def reads(engine: Engine, rows: int, due: int) -> None:
    """Handler_read… of one call on *rows*, of which *due* are due."""
    empty(engine)
    fill(engine, rows, lead=600, spread=1)
    with Session(engine) as session:
        session.execute(
            text("UPDATE bench_due SET state_since = UTC_TIMESTAMP(6) - INTERVAL 2 HOUR WHERE id <= :due"), {"due": due}
        )
        session.commit()
        fire_due(Timer, session, Timer.id < 0)
        session.commit()
        session.connection().exec_driver_sql("FLUSH STATUS")
        moved = fire_due(Timer, session).moved
        counters = session.connection().exec_driver_sql("SHOW SESSION STATUS LIKE 'Handler_read%%'").all()
        session.commit()
    numbers = {name: int(number) for name, number in counters if int(number)}
    print(f"{moved:,} of {rows:,} rows moved; read {sum(numbers.values()):,}: {numbers}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--every", type=float, default=1.0)
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--spread", type=float, default=60.0)
    parser.add_argument("--reads", action="store_true")
    args = parser.parse_args()
    engine = create_engine(args.url, isolation_level="READ COMMITTED")
    with engine.connect() as connection:
        print(connection.scalar(text("SELECT VERSION()")))
    print(f"{args.rows:,} rows, {args.workers} workers, {args.kills} killed, every {args.every} s, limit {args.limit}")
    work(args.url, engine, args, lead=0, spread=0)
    found = outcome(engine, args.rows)
    print(f"all overdue: {found['rows_per_second']:,.0f} rows/s")
    work(args.url, engine, args, lead=5, spread=args.spread)
    found = outcome(engine, args.rows)
    late = f"late by {found['p50']:.0f} ms (p50), {found['p99']:.0f} ms (p99), {found['max']:.0f} ms (max)"
    print(f"{args.rows / args.spread:,.0f} rows/s become due over {args.spread:.0f} s: {late}", flush=True)
    if args.reads:
        reads(engine, 1_000_000, 1_000)


if __name__ == "__main__":
    main()
