"""Faults for a cluster under load: one after the other, each mended before the next, with some calm in between."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

import pymysql

from tests.cluster.apart import ApartCluster
from tests.cluster.network import NODES

# Seconds that a fault lasts: a Galera node misses another after 1 s, a group's member after 5.
SHORTEST, LONGEST = {"galera": 3.0, "group": 7.0}, 10.0
CALM = 2.0


@contextmanager
def killed(cluster: ApartCluster, dice: random.Random) -> Iterator[None]:
    """SIGKILL on one node; afterwards it is started on its data."""
    node = dice.choice(NODES)
    cluster.kill(node)
    yield
    cluster.bring_back(node)


@contextmanager
def paused(cluster: ApartCluster, dice: random.Random) -> Iterator[None]:
    """SIGSTOP on one node: it stalls in the middle of something, and continues there when the others have gone on."""
    node = dice.choice(NODES)
    cluster.pause(node)
    try:
        yield
    finally:
        cluster.resume(node)


@contextmanager
def parted(cluster: ApartCluster, dice: random.Random) -> Iterator[None]:
    """One node without the others, or two nodes that only the third sees; clients reach all three."""
    if dice.random() < 0.5:
        cluster.network.isolate(dice.choice(NODES))
    else:
        cluster.network.separate(dice.sample(NODES, 2))
    try:
        yield
    finally:
        cluster.network.heal()


@contextmanager
def crashed(cluster: ApartCluster, dice: random.Random) -> Iterator[None]:
    """SIGKILL on all nodes within a second; afterwards the one that knows most founds the cluster anew."""
    for node in dice.sample(NODES, len(NODES)):
        cluster.kill(node)
        time.sleep(dice.uniform(0, 0.3))
    yield
    cluster.bring_all_back()


FAULTS: Mapping[str, Callable[[ApartCluster, random.Random], AbstractContextManager[None]]] = {
    "kill": killed,
    "pause": paused,
    "partition": parted,
    "crash": crashed,
}


def least(kind: str, names: Sequence[str]) -> float:
    """How many seconds one of each of *names* takes, about."""
    return len(names) * (CALM + SHORTEST[kind] + 3.0)


STUCK = "could not be mended"


def plague(cluster: ApartCluster, names: list[str], seconds: float, seed: int = 1) -> Counter[str]:
    """Faults of *names*, at random, until *seconds* are over, at least one of each; how many there were of each.

    It ends early with one of `STUCK` when a node does not come back.
    """
    dice, done, left = random.Random(seed), Counter[str](), list(names)
    deadline = time.monotonic() + seconds
    while left or time.monotonic() < deadline:
        time.sleep(CALM)
        name = left.pop(0) if left else dice.choice(names)
        shortest = SHORTEST[cluster.kind] if name != "crash" else 0.0
        longest = max(shortest, min(LONGEST, deadline - time.monotonic()))
        done[name] += 1
        try:
            with FAULTS[name](cluster, dice):
                time.sleep(dice.uniform(shortest, longest))
            for node in NODES:
                cluster.rejoin(node)
        except (TimeoutError, RuntimeError, pymysql.MySQLError) as error:
            print(f"{name}: {type(error).__name__}: {error}")
            done[STUCK] += 1
            break
    return done
