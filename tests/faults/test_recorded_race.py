"""The race of the main job with a history and tokens: what was told, the history and the row make one serial order."""

from __future__ import annotations

import os
import random
import secrets
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from sqlalchemy_fsm_mysql import LockTimeout, Moved, TransactionAborted, try_fire_key
from tests.faults.crew import Log, Task, run
from tests.faults.ledger import Job, recorded
from tests.race.checker import Call, Evidence, Recorded, Row, violations
from tests.reference import machine

PROCESSES = 8
FIRES = int(os.environ.get("FSM_RACE_FIRES", "40"))
WEIGHTS = {"NotReady": 9, "Ready": 9, "Delete": 2}  # to and fro; 'Delete' is refused


def race(task: Task, log: Log) -> None:
    """Fire and commit, each fire until it is moved or refused, and write down every attempt."""
    dice = random.Random(task.number)
    with Session(task.engine()) as session:
        for _ in range(task.units):
            key, token = dice.choice(task.keys), secrets.token_hex(16)
            (name,) = dice.choices(list(WEIGHTS), list(WEIGHTS.values()))
            while attempt(task.number, session, key, name, token, log):
                time.sleep(dice.uniform(0, 0.002))


def attempt(number: int, session: Session, key: int, name: str, token: str, log: Log) -> bool:
    """One attempt; whether it has to be made again."""
    said: dict[str, Any]
    begin = time.monotonic_ns()
    try:
        outcome = try_fire_key(Job, key, name, session, token=token)
        session.commit()
    except (TransactionAborted, LockTimeout) as error:
        session.rollback()
        said = {"outcome": "failed", "code": error.code}
    else:
        said = {"outcome": "refused"}
        if isinstance(outcome, Moved):
            said = {
                "outcome": "moved",
                "source": outcome.source,
                "target": outcome.target,
                "sequence": outcome.sequence,
            }
        else:
            said["state"] = outcome.state
    log.tell("call", *Call(number, begin, time.monotonic_ns(), key, name, token=token, **said))
    return said["outcome"] == "failed"


@pytest.mark.servers_only
@pytest.mark.timeout(900)
def test_all_that_was_told_is_in_the_history_and_makes_one_order(tasks: Any, engine: Engine, figures: Any) -> None:
    """Half of the processes are under READ COMMITTED, half under REPEATABLE READ."""
    jobs = [
        replace(task, isolation_level="REPEATABLE READ") if task.number % 2 else task
        for task in tasks(PROCESSES, rows=2, units=FIRES)
    ]
    calls = [Call(*values) for _, *values in run(race, jobs)]
    with Session(engine) as session:
        rows = {job.id: Row(job.state, job.steps) for job in session.scalars(select(Job))}
    history = [
        Recorded(row.record_id, row.sequence, row.event, row.source, row.target, row.token) for row in recorded(engine)
    ]
    outcomes = Counter(call.outcome for call in calls)
    figures(records=len(history), **outcomes)

    assert violations(Evidence(machine, calls, rows, history)) == []
    assert outcomes["moved"] + outcomes["refused"] == PROCESSES * FIRES
    assert outcomes["moved"] == len(history)
    assert outcomes["refused"] > 0
