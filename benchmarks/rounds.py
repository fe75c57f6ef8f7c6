"""Timing in interleaved rounds: whatever slows the machine down for a while slows all contestants down."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Spread:
    """Medians with the quartiles around them, in microseconds for each call unless said otherwise."""

    wall: float
    wall_low: float
    wall_high: float
    cpu: float
    cpu_low: float
    cpu_high: float
    rounds: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """The median, and the quartiles below and above."""
    if len(values) < 4:
        return statistics.median(values), min(values), max(values)
    low, middle, high = statistics.quantiles(values, n=4)
    return middle, low, high


def spread(taken: list[tuple[float, float]]) -> Spread:
    """Of the (wall, CPU) seconds of each round."""
    wall, wall_low, wall_high = (value * 1e6 for value in quartiles([wall for wall, _ in taken]))
    cpu, cpu_low, cpu_high = (value * 1e6 for value in quartiles([cpu for _, cpu in taken]))
    return Spread(wall, wall_low, wall_high, cpu, cpu_low, cpu_high, len(taken))


def interleaved(
    ways: Mapping[str, Callable[[], object]], *, rounds: int, calls: int
) -> dict[str, list[tuple[float, float]]]:
    """Call each of *ways* *calls* times a round, in another order each round; (wall, CPU) seconds of a call by round."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    order, dice = list(ways), random.Random(5)
    for way in ways.values():  # caches are filled
        for _ in range(calls):
            way()
    gc.collect()
    for _ in range(rounds):
        dice.shuffle(order)
        for name in order:
            way = ways[name]
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(calls):
                way()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            taken[name].append((wall / calls, cpu / calls))
    return taken


def compared(
    taken: Mapping[str, list[tuple[float, float]]], base: Mapping[str, str] | str
) -> dict[str, dict[str, Any]]:
    """Each way's figures, and its ratio to its *base*: the median of what the rounds show, with quartiles."""
    told = {}
    for name, times in taken.items():
        told[name] = spread(times).as_dict()
        other = base if isinstance(base, str) else base.get(name)
        if other is None or other not in taken:
            continue
        for i, unit in enumerate(("wall", "cpu")):
            ratios = [mine[i] / theirs[i] for mine, theirs in zip(times, taken[other], strict=True)]
            middle, low, high = quartiles(ratios)
            told[name] |= {f"{unit}_ratio": middle, f"{unit}_ratio_low": low, f"{unit}_ratio_high": high, "base": other}
    return told
