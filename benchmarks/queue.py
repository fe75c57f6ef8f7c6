"""The job queue of examples/ beside SKIP LOCKED by hand: jobs a second, one by one and in batches of 10.

    python -m benchmarks.queue mysql+mysqldb://root@127.0.0.1:3306/test [--jobs 2000] [--rounds 7] [--workers 1]

The database of the URL is written to: the table jobs is dropped and created. A job is taken under a lease, and finished
in another transaction. By hand that is a SELECT … FOR UPDATE SKIP LOCKED and an UPDATE of the rows, COMMIT, and an UPDATE
of each job that is still the worker's, COMMIT: what one writes with a SQLAlchemy session. Both take turns in one run, on
the same table; printed are the medians of jobs a second, and the median of the turns' ratios with its quartiles.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from functools import partial

from sqlalchemy import Engine, create_engine, insert, select, text, update
from sqlalchemy.orm import Session, sessionmaker

from examples.job_queue import LEASE, Base, Job, finish, take
from sqlalchemy_fsm_mysql import run_transaction
from sqlalchemy_fsm_mysql.sql.clock import utc_in


def take_by_hand(session: Session, worker: str, limit: int) -> list[int]:
    free = select(Job).where(Job.state == "waiting").order_by(Job.priority, Job.id).limit(limit)
    jobs = session.scalars(free.with_for_update(skip_locked=True)).all()
    keys = [job.id for job in jobs]
    if keys:
        values = {"state": "running", "worker": worker, "lease_until": utc_in(LEASE), "attempts": Job.attempts + 1}
        session.execute(update(Job.__table__).where(Job.id.in_(keys)).values(values))
    return keys


def finish_by_hand(session: Session, key: int, worker: str) -> bool:
    mine = update(Job.__table__).where(Job.id == key, Job.state == "running", Job.worker == worker)
    done = {"state": "done", "worker": None, "lease_until": None, "unique_name": None}
    return session.execute(mine.values(done)).rowcount == 1


def take_by_library(session: Session, worker: str, limit: int) -> list[int]:
    return [job.id for job in take(session, worker, limit=limit)]


WAYS = {"by hand": (take_by_hand, finish_by_hand), "library": (take_by_library, finish)}


def drain(factory: sessionmaker[Session], worker: str, way: str, limit: int) -> int:
    """Take and finish until no job is waiting; how many."""
    taking, finishing = WAYS[way]
    done = 0
    while keys := run_transaction(factory, partial(taking, worker=worker, limit=limit)):
        for key in keys:
            done += run_transaction(factory, lambda session, key=key: finishing(session, key, worker))  # type: ignore[misc]
    return done


def work(url: str, number: int, way: str, limit: int, begin: float) -> None:
    factory = sessionmaker(create_engine(url, isolation_level="READ COMMITTED"))
    with factory() as session:
        session.execute(text("SELECT 1"))
    time.sleep(max(0.0, begin - time.time()))
    drain(factory, f"w{number}", way, limit)


def turn(url: str, way: str, limit: int, jobs: int, workers: int) -> tuple[float, float]:
    """Jobs a second, and jobs a second of this process's CPU time (0 with several workers)."""
    engine = create_engine(url, isolation_level="READ COMMITTED")
    fill(engine, 3 if workers == 1 else jobs)
    by_cpu = 0.0
    if workers == 1:
        factory = sessionmaker(engine)
        drain(factory, "w0", way, limit)  # connected, and caches filled
        fill(engine, jobs)
        began, cpu = time.perf_counter(), time.process_time()
        done = drain(factory, "w0", way, limit)
        rate, by_cpu = done / (time.perf_counter() - began), done / (time.process_time() - cpu)
    else:
        context = multiprocessing.get_context("spawn")
        begin = time.time() + 3 + workers
        crew = [context.Process(target=work, args=(url, n, way, limit, begin)) for n in range(workers)]
        for process in crew:
            process.start()
        for process in crew:
            process.join()
        rate = jobs / (time.time() - begin)
    with engine.connect() as connection:
        states = connection.execute(text("SELECT state, COUNT(*) FROM jobs GROUP BY state")).all()
    engine.dispose()
    if [tuple(row) for row in states] != [("done", jobs)]:
        raise SystemExit(f"{way}: {states}")
    return rate, by_cpu


def fill(engine: Engine, jobs: int) -> None:
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM jobs"))
        connection.execute(insert(Job), [{} for _ in range(jobs)])


def _ratio(rates: dict[str, list[tuple[float, float]]], which: int) -> str:
    """The median of the turns' ratios, with its quartiles."""
    ratios = [mine[which] / other[which] for mine, other in zip(rates["library"], rates["by hand"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--jobs", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    engine = create_engine(args.url)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    for limit in (1, 10):
        rates: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for number in range(args.rounds):
            for way in sorted(WAYS, reverse=bool(number % 2)):
                rates[way].append(turn(args.url, way, limit, args.jobs, args.workers))
        each = ", ".join(f"{way} {statistics.median(one for one, _ in found):,.0f}/s" for way, found in rates.items())
        line = f"batches of {limit}, {args.workers} worker(s): {each}; ratio {_ratio(rates, 0)}"
        print(f"{line}, of CPU time {_ratio(rates, 1)}" if args.workers == 1 else line, flush=True)
    Base.metadata.drop_all(engine)


if __name__ == "__main__":
    main()
