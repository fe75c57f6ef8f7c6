"""Cluster tests run only when they are asked for: ``./dev cluster``, which sets FSM_CLUSTER to ``galera,group``."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from tests.cluster.apart import ApartCluster
from tests.cluster.network import obstacle
from tests.cluster.nodes import KINDS, Cluster
from tests.faults.ledger import Base

ASKED = [kind.strip() for kind in os.environ.get("FSM_CLUSTER", "").split(",") if kind.strip()]

collect_ignore_glob = [] if ASKED else ["test_*.py"]

SECONDS = 3

figures = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session", params=ASKED)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Each cluster that was asked for, in turn, in a network of its own where this machine can build one.

    Elsewhere it is the shared script's: one that runs already is used, and left running.
    """
    if request.param not in KINDS:
        raise pytest.UsageError(f"FSM_CLUSTER={request.param}: there are {', '.join(KINDS)}")
    is_apart = not obstacle()
    cluster = ApartCluster(request.param) if is_apart else Cluster(request.param)
    was_up = not is_apart and cluster.is_up()
    if not was_up:
        cluster.start()
    for node in range(3):
        cluster.prepare(node)
    yield cluster
    if not was_up:
        cluster.stop()


@pytest.fixture
def apart(cluster: Cluster) -> ApartCluster:
    """The cluster, if its nodes can be cut off from each other."""
    if not isinstance(cluster, ApartCluster):
        pytest.skip(f"NOT COVERED BY THIS RUN: pauses and partitions: {obstacle()}")
    return cluster


@pytest.fixture
def seconds() -> float:
    """How long a race lasts: FSM_CLUSTER_SECONDS, as long as the usual run can afford when it is not set."""
    return float(os.environ.get("FSM_CLUSTER_SECONDS", SECONDS))


@pytest.fixture
def database(cluster: Cluster) -> Iterator[Engine]:
    """The first node, on which the tables are new."""
    engine = cluster.engine(0)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def report(request: pytest.FixtureRequest):
    """``report("…")``: a figure for the end of the run."""
    lines = request.config.stash.setdefault(figures, [])
    name = request.node.name
    return lambda line: lines.append(f"{name}: {line}")


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if config.stash.get(figures, []):
        terminalreporter.section("figures of the clusters")
        for line in config.stash[figures]:
            terminalreporter.write_line(line)
