"""One event on a million rows: fire_where() beside the UPDATE by hand, in turns, in one run.

    python benchmarks/million_rows.py mysql+mysqldb://root@127.0.0.1:3306/test [--rows 1000000] [--rounds 5]

The database of the URL is written to: tables bench_… are dropped and created. A durable server gives the figures that
matter (innodb_flush_log_at_trx_commit=1, sync_binlog=1, a buffer pool that holds the table). Each turn moves all rows
and commits. Printed are medians with the lowest and the highest, and the ratio of the medians.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import resource
import statistics
import time
import tracemalloc
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from sqlalchemy import Engine, String, create_engine, text, true
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import Event, Machine, StateMachineColumn, TransitionHistory, fire_where

machine = Machine(
    initial="new",
    events=[
        Event("Pay", {"new": "paid"}),
        Event("Return", {"paid": "new"}),
        Event("Turn", {"new": "paid", "paid": "new"}),
    ],
)


class Base(DeclarativeBase):
    """The tables of the benchmark."""


class Order(Base):
    __tablename__ = "bench_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[int]
    state: Mapped[str] = StateMachineColumn(machine)
    note: Mapped[str] = mapped_column(String(40))


class Recorded(Base):
    __tablename__ = "bench_recorded"

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[int]
    state: Mapped[str] = StateMachineColumn(machine)
    note: Mapped[str] = mapped_column(String(40))


class RecordedTransition(TransitionHistory, Base):
    __tablename__ = "bench_recorded_transitions"
    __records__ = "Recorded.state"


Turn = Callable[[Session], int]

TURN = "CASE state WHEN 'new' THEN 'paid' WHEN 'paid' THEN 'new' ELSE state END"
UPDATES = {
    "Pay": "UPDATE {table} SET state = 'paid' WHERE state = 'new'",
    "Return": "UPDATE {table} SET state = 'new' WHERE state = 'paid'",
    "Turn": f"UPDATE {{table}} SET state = {TURN} WHERE state IN ('new', 'paid')",
}
RECORD = """
INSERT INTO bench_recorded_transitions (record_id, sequence, event, source, target, at)
SELECT id, (SELECT COALESCE(MAX(sequence), 0) + 1 FROM bench_recorded_transitions t WHERE t.record_id = o.id FOR UPDATE),
       :event, state, {target}, UTC_TIMESTAMP(6)
FROM bench_recorded o WHERE {criterion} FOR UPDATE
"""
TARGETS = {
    "Pay": ("'paid'", "state = 'new'"),
    "Return": ("'new'", "state = 'paid'"),
    "Turn": (TURN, "state IN ('new', 'paid')"),
}


def by_hand(name: str) -> Turn:
    return lambda session: session.execute(text(UPDATES[name].format(table="bench_orders"))).rowcount  # type: ignore[attr-defined]


def by_library(name: str, **options: Any) -> Turn:
    return lambda session: fire_where(Order, name, session, true(), **options).moved


def by_hand_with_history(name: str) -> Turn:
    target, criterion = TARGETS[name]

    def turn(session: Session) -> int:
        session.execute(text(RECORD.format(target=target, criterion=criterion)), {"event": name})
        return session.execute(text(UPDATES[name].format(table="bench_recorded"))).rowcount  # type: ignore[attr-defined]

    return turn


def by_library_with_history(name: str, **options: Any) -> Turn:
    return lambda session: fire_where(Recorded, name, session, true(), **options).moved


def main() -> None:
    options = arguments()
    engine = create_engine(options.url, isolation_level="READ COMMITTED")
    with engine.connect() as connection:
        print(
            f"{connection.scalar(text('SELECT VERSION()'))}, {options.rows:,} rows, {options.rounds} rounds of 4 turns"
        )
    for name in options.only.split(","):
        PARTS[name](engine, options)
    engine.dispose()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=5_000)
    parser.add_argument("--only", default=",".join(PARTS), help="parts to run, separated by commas: %(default)s")
    return parser.parse_args()


# --- the turns


def compare(
    engine: Engine, rounds: int, hand: Callable[[str], Turn], library: Callable[[str], Turn], *, there: str, back: str
) -> None:
    """Time both ways there and back, in turns: each goes first as often as the other, and in both directions."""
    taken: dict[str, list[float]] = {"by hand": [], "fire_where": []}
    ways = {"by hand": hand, "fire_where": library}
    moved = set()
    for _ in range(rounds):
        for way, name in (("by hand", there), ("fire_where", back), ("fire_where", there), ("by hand", back)):
            start = time.perf_counter()
            with Session(engine) as session:
                moved.add(ways[way](name)(session))
                session.commit()
            taken[way].append(time.perf_counter() - start)
    medians = {way: statistics.median(times) for way, times in taken.items()}
    for way, times in taken.items():
        print(f"  {way:<12}{medians[way]:8.3f} s  ({min(times):.3f} to {max(times):.3f})")
    print(f"  ratio       {medians['fire_where'] / medians['by hand']:8.3f}    rows a turn: {moved}")


def fill(engine: Engine, model: type[Any], rows: int) -> None:
    """*rows* new rows, doubled on the server."""
    table = model.__tablename__
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(
            text(f"INSERT INTO {table} (id, tenant, note) VALUES (1, 1, 'forty characters of a note of no matter')")
        )
        have = 1
        while have < rows:
            more = min(have, rows - have)
            connection.execute(
                text(
                    f"INSERT INTO {table} (id, tenant, note) SELECT id + {have}, id % 100, note FROM {table} WHERE id <= {more}"
                )
            )
            have += more
    with engine.connect() as connection:
        connection.execute(text(f"ANALYZE TABLE {table}"))


def one_edge(engine: Engine, options: argparse.Namespace) -> None:
    print("an event of one transition")
    fill(engine, Order, options.rows)
    compare(engine, options.rounds, by_hand, by_library, there="Pay", back="Return")


def several_edges(engine: Engine, options: argparse.Namespace) -> None:
    print("an event of several transitions")
    fill(engine, Order, options.rows)
    compare(engine, options.rounds, by_hand, by_library, there="Turn", back="Turn")


def history(engine: Engine, options: argparse.Namespace) -> None:
    rounds = max(1, options.rounds // 2)
    print(
        f"with a history, an event of one transition (by hand: INSERT … SELECT … FOR UPDATE, then UPDATE; {rounds} rounds)"
    )
    fill(engine, Recorded, options.rows)
    compare(engine, rounds, by_hand_with_history, by_library_with_history, there="Pay", back="Return")
    print("with a history, an event of several transitions")
    fill(engine, Recorded, options.rows)
    compare(engine, rounds, by_hand_with_history, by_library_with_history, there="Turn", back="Turn")


# --- memory


def memory(engine: Engine, options: argparse.Namespace) -> None:
    """What the Python process needs while all rows are moved."""
    print("memory of this process while all rows move")
    turns = {
        "fire_where": (Order, by_library("Turn")),
        "in batches": (Order, by_library("Turn", batch_size=options.batch_size)),
        "with a history": (Recorded, by_library_with_history("Turn")),
    }
    for label, (model, turn) in turns.items():
        fill(engine, model, options.rows)
        with Session(engine) as session:
            turn(session)  # caches are filled
            session.rollback()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            tracemalloc.start()
            turn(session)
            session.commit()
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(
            f"  {label:<16} peak of what Python allocated {peak / 2**20:6.2f} MB, process grew by {grown / 2**10:6.2f} MB"
        )


# --- other writers


def write_rows(url: str, rows: int, parent: Connection) -> None:
    """Another server: one row after the other, as fast as it goes, each in a transaction of its own."""
    engine = create_engine(url, isolation_level="READ COMMITTED")
    dice, stalls = random.Random(5), []
    statement = text("UPDATE bench_orders SET tenant = tenant + 1 WHERE id = :id")
    with engine.connect() as connection:
        connection.execute(text("SET SESSION innodb_lock_wait_timeout = 600"))
        connection.commit()
        parent.send("ready")
        while not parent.poll():
            start = time.perf_counter()
            connection.execute(statement, {"id": dice.randint(1, rows)})
            connection.commit()
            stalls.append(time.perf_counter() - start)
    engine.dispose()
    parent.send(stalls)


def settle(engine: Engine) -> None:
    """Wait until the server has purged what a fill left, or 60 s: that is its own work, and no one's batches."""
    left = text("SELECT COUNT FROM information_schema.INNODB_METRICS WHERE NAME = 'trx_rseg_history_len'")
    until = time.monotonic() + 60
    with engine.connect() as connection:
        while (connection.scalar(left) or 0) > 1_000 and time.monotonic() < until:
            connection.rollback()
            time.sleep(0.5)


def batches_by_hand(engine: Engine, rows: int, size: int) -> None:
    """What a careful person writes: ranges of the primary key, each committed."""
    turn = text(UPDATES["Turn"].format(table="bench_orders") + " AND id > :above AND id <= :to")
    with engine.connect() as connection:
        for above in range(0, rows, size):
            connection.execute(turn, {"above": above, "to": above + size})
            connection.commit()


def stalls(engine: Engine, options: argparse.Namespace) -> None:
    """How long another writer waits: alone, beside batches that commit, and beside one UPDATE of everything."""
    print("a writer of single rows, one after the other, and how long each took it")
    fill(engine, Order, options.rows)

    def idle() -> None:
        time.sleep(5)

    def batches() -> None:
        with Session(engine) as session:
            size = options.batch_size
            fire_where(Order, "Turn", session, true(), batch_size=size, progress=lambda *_: session.commit())

    def at_once() -> None:
        with Session(engine) as session:
            fire_where(Order, "Turn", session, true())
            session.commit()

    url = engine.url.render_as_string(hide_password=False)
    ways = {
        "alone": idle,
        f"batch_size={options.batch_size:_}": batches,
        "batches by hand": lambda: batches_by_hand(engine, options.rows, options.batch_size),
        "all at once": at_once,
    }
    in_turns = list(ways.items())[1:3]
    for label, work in [*ways.items(), *in_turns * 2]:
        settle(engine)
        here, there = multiprocessing.get_context("spawn").Pipe()
        process = multiprocessing.get_context("spawn").Process(target=write_rows, args=(url, options.rows, there))
        process.start()
        here.recv()
        start = time.perf_counter()
        work()
        taken = time.perf_counter() - start
        here.send("stop")
        times = sorted(here.recv())
        process.join()
        at = times[int(len(times) * 0.99)]
        print(
            f"  {label:<17} {taken:6.2f} s, {len(times):6} writes: median {statistics.median(times) * 1000:7.2f} ms,"
            f" 99 % within {at * 1000:7.2f} ms, worst {times[-1] * 1000:8.2f} ms"
        )


PARTS: dict[str, Callable[[Engine, argparse.Namespace], None]] = {
    "one_edge": one_edge,
    "several_edges": several_edges,
    "history": history,
    "memory": memory,
    "stalls": stalls,
}

if __name__ == "__main__":
    main()
