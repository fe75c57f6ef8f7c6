"""Eight processes fire by every function there is, some of it rolled back, and the history tells exactly what they were told."""

from __future__ import annotations

import os
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from sqlalchemy_fsm_mysql import (
    FSMError,
    LockTimeout,
    Moved,
    Refused,
    TransactionAborted,
    TransitionNotAllowed,
    claim,
    fire_or_create,
    fire_where,
    force_state,
    run_transaction,
    try_fire_key,
)
from tests.faults.crew import Log, Task, run
from tests.faults.ledger import Job, Move, problems, recorded
from tests.reference import EVENTS, STATES

# 60 in CI.
SECONDS = float(os.environ.get("FSM_RACE_SECONDS", "3"))

# A report: who moved what, as far as the caller was told; a set is told by edges and how many rows took each.
Report = list[tuple[Any, ...]]


class GaveUp(Exception):
    """The caller has changed its mind: all is rolled back."""


def by_key(session: Session, dice: random.Random, task: Task, actor: str) -> Report:
    outcome = try_fire_key(
        Job, dice.choice(task.keys), dice.choice(EVENTS), session, actor=actor, token=some_token(dice)
    )
    return one(outcome)


def by_instance(session: Session, dice: random.Random, task: Task, actor: str) -> Report:
    job = session.get_one(Job, dice.choice(task.keys))
    return one(job.try_fire(dice.choice(EVENTS), session, actor=actor))


def twice(session: Session, dice: random.Random, task: Task, actor: str) -> Report:
    """One savepoint that is kept, and one that is not."""
    name = dice.choice(EVENTS)
    with session.begin_nested():
        report = one(try_fire_key(Job, dice.choice(task.keys), name, session, actor=actor))
    lost = session.begin_nested()
    try_fire_key(Job, dice.choice(task.keys), name, session, actor="rolled back")
    lost.rollback()
    return report


def by_force(session: Session, dice: random.Random, task: Task, actor: str) -> Report:
    job = session.get_one(Job, dice.choice(task.keys))
    return one(force_state(job, dice.choice(STATES), session, actor=actor))


def by_set(session: Session, dice: random.Random, task: Task, actor: str) -> Report:
    keys, name = dice.sample(list(task.keys), 3), dice.choice(EVENTS)
    sizes: dict[str, Any] = dice.choice([{}, {"batch_size": 10}, {"max_rows": 3}])
    rows = fire_where(Job, name, session, Job.id.in_(keys), actor=actor, **sizes)
    return [("edge", name, source, target, number) for (source, target), number in rows.by_transition.items()]


def by_claim(session: Session, dice: random.Random, task: Task, actor: str) -> Report:
    name = dice.choice(EVENTS)
    jobs = claim(Job, name, session, Job.state != "Deleted", limit=2, actor=actor)
    return [("claimed", name, job.id, job.state) for job in jobs]


def by_creation(session: Session, dice: random.Random, task: Task, actor: str) -> Report:
    """On a row that may not be there yet; a new one has counted its first step itself."""
    job = Job(id=dice.randrange(1, 2 * len(task.keys)), steps=1)
    try:
        return one(fire_or_create(job, dice.choice(EVENTS), session, actor=actor, token=some_token(dice)))
    except TransitionNotAllowed:
        return []


WAYS: list[Callable[..., Report]] = [by_key, by_instance, twice, by_force, by_set, by_claim, by_creation]


def some_token(dice: random.Random) -> str | None:
    return secrets.token_hex(16) if dice.random() < 0.5 else None


def one(outcome: Moved[Any] | Refused[Any]) -> Report:
    return [("moved", *Move.of(outcome))] if isinstance(outcome, Moved) else []


def mix(task: Task, log: Log) -> None:
    dice, factory = random.Random(task.number), sessionmaker(task.engine())
    end = time.monotonic() + task.seconds
    while time.monotonic() < end:
        way, gives_up = dice.choice(WAYS), dice.random() < 0.1
        actor = "rolled back" if gives_up else way.__name__

        def unit(session: Session) -> Report:
            report = way(session, dice, task, actor)
            if gives_up:
                raise GaveUp
            return report

        try:
            report = run_transaction(factory, unit, attempts=3)
        except (GaveUp, TransactionAborted, LockTimeout):
            log.tell("nothing")
        except FSMError as error:
            log.tell("failed", repr(error))
            return
        else:
            log.tell("unit", way.__name__)
            for line in report:
                log.tell(*line)


@pytest.mark.servers_only
@pytest.mark.timeout(max(120, SECONDS * 2 + 60))
def test_the_history_tells_exactly_what_callers_were_told(tasks: Any, engine: Engine, figures: Any) -> None:
    """Half of the processes are under READ COMMITTED, half under REPEATABLE READ."""
    jobs = [
        replace(task, isolation_level="REPEATABLE READ") if task.number % 2 else task
        for task in tasks(8, rows=20, seconds=SECONDS)
    ]
    lines = run(mix, jobs)
    history = recorded(engine)
    one_by_one = [Move(*values) for kind, *values in lines if kind == "moved"]
    figures(
        records=len(history),
        **Counter(line[1] if line[0] == "unit" else "undone" for line in lines if line[0] in ("unit", "nothing")),
    )

    # The sets and claims are told by edge, the others one by one; together they are the whole history.
    sets = Counter({(e, s, t): 0 for _, e, s, t, _ in (line for line in lines if line[0] == "edge")})
    for _, name, source, target, number in (line for line in lines if line[0] == "edge"):
        sets[name, source, target] += number
    assert sets == Counter((row.event, row.source, row.target) for row in history if row.actor == "by_set")
    assert Counter(line[1:] for line in lines if line[0] == "claimed") == Counter(
        (row.event, row.record_id, row.target) for row in history if row.actor == "by_claim"
    )
    told_otherwise = [
        Move(row.record_id, row.event, row.source, row.target) for row in history if row.actor in ("by_set", "by_claim")
    ]
    assert problems(engine, [*one_by_one, *told_otherwise]) == []
    assert {way.__name__ for way in WAYS} == {line[1] for line in lines if line[0] == "unit"}
    assert "rolled back" not in {row.actor for row in history}
