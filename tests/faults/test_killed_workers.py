"""SIGKILL takes workers in the middle of anything; what they were told before is in the tables, and the rest is whole or not at all."""

from __future__ import annotations

import random
import secrets
import time
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from sqlalchemy_fsm_mysql import find_by_token, fire_key, run_transaction
from tests.faults.crew import Log, Task, moves, start, told
from tests.faults.ledger import Job, Move, problems, recorded

WORKERS, KILLS, ENOUGH = 4, 12, 20


def fire_in_pairs(task: Task, log: Log) -> None:
    """Two rows a unit, each under a token, until killed."""
    dice, factory = random.Random(task.number), sessionmaker(task.engine())
    while True:
        keys, tokens = dice.sample(list(task.keys), 2), [secrets.token_hex(16), secrets.token_hex(16)]
        log.tell("begin", *tokens)

        def unit(session: Session) -> list[Any]:
            return [
                fire_key(Job, key, "NotReady", session, token=token) for key, token in zip(keys, tokens, strict=True)
            ]

        for moved in run_transaction(factory, unit, attempts=100):
            log.tell("moved", *Move.of(moved))


@pytest.mark.servers_only
def test_a_killed_worker_leaves_whole_units_or_none(tasks: Any, engine: Engine, figures: Any) -> None:
    dice, jobs = random.Random(4), tasks(WORKERS + KILLS, rows=8)
    running, waiting = [start(fire_in_pairs, job) for job in jobs[:WORKERS]], jobs[WORKERS:]
    while waiting:
        time.sleep(dice.uniform(0.05, 0.2))
        victim = dice.randrange(WORKERS)
        running[victim].kill()
        running[victim].join()
        running[victim] = start(fire_in_pairs, waiting.pop())
    deadline = time.monotonic() + 60
    while len(moves(told([job.log for job in jobs if job.log.exists()]))) <= ENOUGH and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in running:
        process.kill()
        process.join()

    lines = told([job.log for job in jobs if job.log.exists()])
    assert [values[0] for kind, *values in lines if kind == "failed"] == []
    acknowledged = moves(lines)
    in_doubt = {token for kind, *tokens in lines if kind == "begin" for token in tokens} - {
        move.token for move in acknowledged
    }
    wait_for_the_servers_side(engine, in_doubt)
    figures(killed=KILLS + WORKERS, acknowledged=len(acknowledged), in_doubt=len(in_doubt))

    assert len(acknowledged) > ENOUGH
    assert problems(engine, acknowledged, in_doubt) == []
    # The two of a unit went the same way.
    there = {step.token for step in recorded(engine)}
    pairs = [tokens for kind, *tokens in lines if kind == "begin"]
    assert [pair for pair in pairs if (pair[0] in there) != (pair[1] in there)] == []


def wait_for_the_servers_side(engine: Engine, tokens: set[str]) -> None:
    """The server may still be at the last statement of a worker that is gone: the locking reads wait for it."""
    with Session(engine) as session:
        for token in tokens:
            find_by_token(Job.state, token, session)


def test_the_log_outlives_its_writer(tmp_path: Any) -> None:
    """The instrument itself: a half-written line is no line."""
    log = tmp_path / "1.log"
    writer = Log(log)
    writer.tell("begin", "a")
    writer.file.close()
    with log.open("a") as file:
        file.write('["moved", 1')

    assert told([log]) == [("begin", "a")]
