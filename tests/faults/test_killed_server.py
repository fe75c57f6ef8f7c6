"""`kill -9` of a durable server in the middle: what was acknowledged is there when it is back, and what is unknown resolves right."""

from __future__ import annotations

import random
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import sessionmaker

from sqlalchemy_fsm_mysql import (
    Moved,
    NotWritable,
    OutcomeUnknown,
    TransactionAborted,
    find_by_token,
    fire_key,
    run_transaction,
)
from tests.faults.conftest import own_server
from tests.faults.crew import Log, Task, crew, moves, told
from tests.faults.durable import Durable, Scripted, version
from tests.faults.ledger import Job, Move, fresh_jobs, problems
from tests.servers import execute, make_engine

WORKERS, CRASHES = 4, 2


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Durable | Scripted]:
    with own_server(request, tmp_path, "kill -9 of a server") as made:
        yield made


def fire_through_crashes(task: Task, log: Log) -> None:
    """A fire and a commit at a time, until the file `stop` is there; after an unknown outcome, ask until there is an answer."""
    dice, factory = random.Random(task.number), sessionmaker(task.engine())
    while not (task.log.parent / "stop").exists():
        key, token = dice.choice(task.keys), secrets.token_hex(16)
        try:
            moved = run_transaction(factory, lambda session: fire_key(Job, key, "NotReady", session, token=token))
        except OutcomeUnknown as error:
            log.tell("unknown", error.token)
            found = ask(factory, error.token)
            log.tell(*(("moved", *Move.of(found)) if found else ("not", token)))
        except (TransactionAborted, NotWritable, DBAPIError):
            log.tell("not", token)
            time.sleep(0.02)
        else:
            log.tell("acknowledged")
            log.tell("moved", *Move.of(moved))


def ask(factory: Any, token: str | None) -> Moved[Job] | None:
    """What became of *token*, as soon as the server can say."""
    assert token is not None
    while True:
        try:
            with factory() as session:
                found: Moved[Job] | None = find_by_token(Job.state, token, session)
                return found
        except (DBAPIError, TransactionAborted):
            time.sleep(0.05)


def test_acknowledged_commits_survive_and_unknown_ones_resolve(
    server: Durable | Scripted, tmp_path: Path, figures: Any
) -> None:
    execute(server.url, "CREATE DATABASE crashes")
    url = server.url.set(database="crashes")
    engine = make_engine(url)
    keys = fresh_jobs(engine, 6)
    tasks = [Task(number, url, tmp_path / f"{number}.log", keys) for number in range(WORKERS)]
    with crew(fire_through_crashes, tasks) as processes:
        for _ in range(CRASHES):
            wait_for_more_moves(tasks, 40)
            server.kill()
            server.start()
        wait_for_more_moves(tasks, 20)
        (tmp_path / "stop").touch()
    engine.dispose()
    lines = told([task.log for task in tasks])
    found_wrong = problems(engine, moves(lines))
    counts = Counter(kind for kind, *_ in lines)
    figures(
        server=version(server),
        crashes=CRASHES,
        acknowledged=counts["acknowledged"],
        unknown=counts["unknown"],
        of_these_applied=counts["moved"] - counts["acknowledged"],
        aborted=counts["not"],
        lost=sum("lost" in what for what in found_wrong),
    )
    engine.dispose()

    assert [values[0] for kind, *values in lines if kind == "failed"] == []
    assert [process.exitcode for process in processes] == [0] * WORKERS
    assert found_wrong == []
    assert counts["acknowledged"] >= 40 * CRASHES


def wait_for_more_moves(tasks: list[Task], number: int) -> None:
    """Until the workers were told of *number* more moves."""

    def so_far() -> int:
        return len(moves(told([task.log for task in tasks if task.log.exists()])))

    enough = so_far() + number
    while so_far() < enough:
        time.sleep(0.05)
