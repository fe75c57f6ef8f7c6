"""Several processes that fire at once: on one row, on many, through a delaying proxy; and updates that were lost."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from sqlalchemy import text

from . import tables
from .contestants import CONTESTANTS, Contestant
from .rounds import quartiles
from .tables import EVENTS

Order = tuple[str, str, int, float, float]
"""What a worker is told: whose turn, the URL, the number of rows, when to begin by time.time(), for how many seconds."""


def worker(number: int, parent: Connection) -> None:
    """Fire as one contestant after the other, as told, and report (moves, CPU seconds) of each turn."""
    made: dict[tuple[str, str], Contestant] = {}
    dice = random.Random(number)
    while (told := parent.recv()) is not None:
        name, url, rows, begin, seconds = told
        if (name, url) not in made:
            made[name, url] = CONTESTANTS[name](url, counting=True)
            made[name, url].fire(EVENTS[0], 1)  # connected, and caches filled
            parent.send("ready")
            continue
        contestant = made[name, url]
        time.sleep(max(0.0, begin - time.time()))
        moves, cpu, end = 0, time.process_time(), begin + seconds
        while time.time() < end:
            contestant.fire(dice.choice(EVENTS), dice.randint(1, rows))
            moves += 1
        parent.send((moves, time.process_time() - cpu))
    for contestant in made.values():
        contestant.close()


@contextmanager
def crew(size: int) -> Iterator[list[Connection]]:
    """*size* workers."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for number in range(size):
        here, there = context.Pipe()
        process = context.Process(target=worker, args=(number, there), daemon=True)
        process.start()
        there.close()  # so that recv() ends if the process does
        pipes.append(here)
        processes.append(process)
    try:
        yield pipes
        for pipe in pipes:
            pipe.send(None)
        for process in processes:
            process.join(10)
    finally:
        for process in processes:
            process.terminate()


def told(pipes: Sequence[Connection], order: Order) -> list[Any]:
    """What the workers answer to *order*."""
    for pipe in pipes:
        pipe.send(order)
    return [pipe.recv() for pipe in pipes]


def race(
    engine: Any, pipes: Sequence[Connection], ways: dict[str, str], *, rows: int, rounds: int, seconds: float, base: str
) -> dict[str, dict[str, Any]]:
    """*ways* is contestant: URL. Moves a second, CPU of a move, how many moves the rows do not know of; ratios to *base*."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    costs: dict[str, list[float]] = {name: [] for name in ways}
    lost: dict[str, int] = dict.fromkeys(ways, 0)
    moved: dict[str, int] = dict.fromkeys(ways, 0)
    order, dice = list(ways), random.Random(5)
    for name in order:
        for pipe in pipes:  # one after the other: they create what is missing
            told([pipe], (name, ways[name], rows, 0.0, 0.0))
    for _ in range(rounds):
        dice.shuffle(order)
        for name in order:
            with engine.begin() as connection:
                connection.execute(text(f"UPDATE {tables.TABLE} SET state = 'Running', steps = 0 WHERE steps <> 0"))
            answers = told(pipes, (name, ways[name], rows, time.time() + 0.1, seconds))
            moves = sum(number for number, _ in answers)
            with engine.begin() as connection:
                known = int(connection.scalar(text(f"SELECT SUM(steps) FROM {tables.TABLE}")) or 0)
            rates[name].append(moves / seconds)
            costs[name].append(sum(cpu for _, cpu in answers) / max(1, moves) * 1e6)
            moved[name] += moves
            lost[name] += moves - known
    result = {}
    for name in ways:
        rate, low, high = quartiles(rates[name])
        ratio, ratio_low, ratio_high = quartiles([a / b for a, b in zip(rates[name], rates[base], strict=True)])
        result[name] = {
            "rate": rate,
            "rate_low": low,
            "rate_high": high,
            "cpu": quartiles(costs[name])[0],
            "ratio": ratio,
            "ratio_low": ratio_low,
            "ratio_high": ratio_high,
            "base": base,
            "moves": moved[name],
            "lost": lost[name],
            "rounds": rounds,
        }
    return result
