"""Sets of rows: `fire_where` beside the statements by hand and a loop of fires; `claim` beside SKIP LOCKED by hand."""

from __future__ import annotations

import multiprocessing
import random
import time
from multiprocessing.connection import Connection
from typing import Any

from sqlalchemy import Engine, select, text, update
from sqlalchemy.orm import Session

from sqlalchemy_fsm_mysql import claim, fire_key

from . import million_rows as million
from . import prices, tables
from .rounds import quartiles

BATCH = 20  # jobs in one claim


def turns(engine: Engine, ways: dict[str, Any], *, rounds: int, name: str) -> dict[str, Any]:
    """Seconds for all rows by each of *ways*, in turns that go there and back, and the ratio to the first."""
    taken: dict[str, list[float]] = {way: [] for way in ways}
    first = next(iter(ways))
    for number in range(2 * rounds):
        for way in list(ways) if number % 2 else reversed(list(ways)):
            start = time.perf_counter()
            with Session(engine) as session:
                ways[way](name)(session)
                session.commit()
            taken[way].append(time.perf_counter() - start)
    told: dict[str, Any] = {}
    for way, times in taken.items():
        seconds, low, high = quartiles(times)
        ratio, ratio_low, ratio_high = quartiles([a / b for a, b in zip(times, taken[first], strict=True)])
        told[way] = {"seconds": seconds, "low": low, "high": high}
        told[way] |= {"ratio": ratio, "ratio_low": ratio_low, "ratio_high": ratio_high}
    return told


def sets(url: str, *, rows: int, rounds: int, history: bool = True) -> dict[str, Any]:
    """An event of several transitions on all of *rows* rows, and the same by hand; what a loop of fires would take."""
    engine = tables.engine_of(url)
    million.fill(engine, million.Order, rows)
    told: dict[str, Any] = {"rows": rows}
    ways = {"by hand": million.by_hand, "fire_where": million.by_library}
    told["plain"] = turns(engine, ways, rounds=rounds, name="Turn")
    sample = min(rows, 3000)
    with Session(engine) as session:
        fire_key(million.Order, 1, "Turn", session)
        start = time.perf_counter()
        for key in range(1, sample + 1):
            fire_key(million.Order, key, "Turn", session)
        session.commit()
        told["loop_seconds"] = (time.perf_counter() - start) / sample * rows
    told["loop_ratio"] = told["loop_seconds"] / told["plain"]["fire_where"]["seconds"]
    if history:
        million.fill(engine, million.Recorded, rows)
        ways = {"by hand": million.by_hand_with_history, "fire_where": million.by_library_with_history}
        told["history"] = turns(engine, ways, rounds=max(1, rounds // 2), name="Turn")
    million.Base.metadata.drop_all(engine)
    engine.dispose()
    return told


# --- claims


def take_by_hand(session: Session) -> int:
    """As one would write it: lock the first that are free, in `claim`'s order, move them, hand the objects out."""
    table = million.Order
    free = select(table).where(table.state == "new").order_by(table.id).limit(BATCH).with_for_update(skip_locked=True)
    jobs = session.scalars(free).all()
    if jobs:
        moved = update(table.__table__).where(table.__table__.c.id.in_([job.id for job in jobs])).values(state="paid")
        session.execute(moved)
    return len(jobs)


def take_by_library(session: Session) -> int:
    return len(claim(million.Order, "Pay", session, limit=BATCH))


def queue_by_hand(session: Session) -> int:
    ids = prices.take_by_hand(session)
    session.commit()
    if ids:
        prices.finish_by_hand(session, ids)
    return len(ids)


def queue_by_library(session: Session) -> int:
    ids = prices.take_by_library(session)
    session.commit()
    if ids:
        prices.finish_by_library(session, ids)
    return len(ids)


TAKE = {
    "by hand": take_by_hand,
    "claim": take_by_library,
    "queue by hand": queue_by_hand,
    "queue": queue_by_library,
}


def taker(url: str, parent: Connection) -> None:
    """Take jobs in the way told until none is left."""
    engine = tables.engine_of(url)
    with Session(engine) as session:
        session.execute(text("SELECT 1"))
    while (told := parent.recv()) is not None:
        way, begin = told
        time.sleep(max(0.0, begin - time.time()))
        number, cpu = 0, time.process_time()
        while True:
            with Session(engine) as session:
                taken = TAKE[way](session)
                session.commit()
            if not taken:
                break
            number += taken
        parent.send((number, time.time(), time.process_time() - cpu))
    engine.dispose()


def claims(url: str, *, jobs: int, workers: int, rounds: int) -> dict[str, Any]:
    """Seconds until *workers* processes have taken *jobs* jobs, each once."""
    engine = tables.engine_of(url)
    million.fill(engine, million.Order, jobs)
    with engine.begin() as connection:
        connection.execute(text("CREATE INDEX bench_state ON bench_orders (state)"))
    renew = "UPDATE bench_orders SET state = 'new'"
    told = race(engine, url, ("by hand", "claim"), renew, jobs=jobs, workers=workers, rounds=rounds)
    million.Base.metadata.drop_all(engine)
    engine.dispose()
    return told | {"limit": BATCH}


def queue(url: str, *, jobs: int, workers: int, rounds: int) -> dict[str, Any]:
    """Seconds until *workers* processes have taken *jobs* jobs of a table of 15 columns by tens, and finished them."""
    engine = tables.engine_of(url)
    prices.fill_jobs(engine, jobs)
    renew = "UPDATE bench_jobs SET state = 'available', attempt = 0"
    told = race(engine, url, ("queue by hand", "queue"), renew, jobs=jobs, workers=workers, rounds=rounds)
    prices.Base.metadata.drop_all(engine)
    engine.dispose()
    return told | {"limit": prices.BATCH}


def race(
    engine: Engine, url: str, ways: tuple[str, str], renew: str, *, jobs: int, workers: int, rounds: int
) -> dict[str, Any]:
    """Seconds of *workers* processes for all *jobs*, in each of *ways*, and the ratio to the first way."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for _ in range(workers):
        here, there = context.Pipe()
        process = context.Process(target=taker, args=(url, there), daemon=True)
        process.start()
        there.close()
        pipes.append(here)
        processes.append(process)
    taken: dict[str, list[float]] = {way: [] for way in ways}
    dice = random.Random(5)
    for _ in range(rounds):
        for way in dice.sample(ways, len(ways)):
            with engine.begin() as connection:
                connection.execute(text(renew))
            begin = time.time() + 0.2
            for pipe in pipes:
                pipe.send((way, begin))
            answers = [pipe.recv() for pipe in pipes]
            if sum(number for number, _, _ in answers) != jobs:
                raise AssertionError(f"{way}: {answers} are not {jobs} jobs")
            taken[way].append(max(end for _, end, _ in answers) - begin)
    for pipe in pipes:
        pipe.send(None)
    for process in processes:
        process.join(10)
    told: dict[str, Any] = {"jobs": jobs, "workers": workers}
    for way, times in taken.items():
        ratio, low, high = quartiles([a / b for a, b in zip(times, taken[ways[0]], strict=True)])
        told[way] = {"seconds": quartiles(times)[0], "ratio": ratio, "ratio_low": low, "ratio_high": high}
    return told
