"""Processes that do one job each and write down what they are told, line by line, so that a killed one has told it too."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import stamina  # noqa: F401 - imported here so that each worker need not
from sqlalchemy import URL, Engine
from sqlalchemy.orm import configure_mappers

from tests.faults.ledger import Move
from tests.servers import DRIVERS, MODULES, installed_drivers, make_engine

# One process imports everything once, and forks for each worker: starting ten costs less than a second.
configure_mappers()
for driver in installed_drivers(DRIVERS):
    importlib.import_module(MODULES[driver])
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.faults.crew"])


@dataclass(frozen=True)
class Task:
    """What a worker is given: where the database is, which rows there are, and how much to do."""

    number: int
    url: URL
    log: Path
    keys: Sequence[int]
    units: int = 0
    seconds: float = 0.0
    isolation_level: str = "READ COMMITTED"

    def engine(self) -> Engine:
        return make_engine(self.url, isolation_level=self.isolation_level)


class Log:
    """What a worker was told; each line is with the operating system before the next call."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("a", buffering=1)

    def tell(self, kind: str, *values: Any) -> None:
        self.file.write(json.dumps([kind, *values]) + "\n")


Work = Callable[[Task, Log], None]


def told(paths: Sequence[Path]) -> list[tuple[Any, ...]]:
    """Every complete line of the logs."""
    lines = (line for path in paths for line in path.read_text().splitlines(keepends=True))
    return [tuple(json.loads(line)) for line in lines if line.endswith("\n")]


def moves(lines: Sequence[tuple[Any, ...]]) -> list[Move]:
    return [Move(*values) for kind, *values in lines if kind == "moved"]


def start(work: Work, task: Task) -> BaseProcess:
    process = CONTEXT.Process(target=_work, args=(work, task), name=f"worker {task.number}", daemon=True)
    process.start()
    return process


@contextmanager
def crew(work: Work, tasks: Sequence[Task]) -> Iterator[list[BaseProcess]]:
    """A process for each task, waited for at the end of the block."""
    processes = [start(work, task) for task in tasks]
    try:
        yield processes
        for process in processes:
            process.join(60)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()


def run(work: Work, tasks: Sequence[Task]) -> list[tuple[Any, ...]]:
    """Have all the tasks done at once; all that was told.

    Raises: RuntimeError when a worker fails or hangs.
    """
    with crew(work, tasks) as processes:
        pass
    lines = told([task.log for task in tasks])
    failed = [f"{process.name} ended with {process.exitcode}" for process in processes if process.exitcode]
    failed += [str(values[0]) for kind, *values in lines if kind == "failed"][:1]  # the others' are alike
    if failed:
        raise RuntimeError("\n".join(failed))
    return lines


def _work(work: Work, task: Task) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    log = Log(task.log)
    try:
        work(task, log)
    except Exception:  # noqa: BLE001 - whatever it is, it has to be told
        log.tell("failed", traceback.format_exc())
        raise SystemExit(1) from None
