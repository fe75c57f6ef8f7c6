"""Workers spread over the nodes: each fires through ``run_transaction`` and logs what it is told, for `tests.race.checker`."""

from __future__ import annotations

import multiprocessing
import random
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from sqlalchemy import URL, Engine, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from sqlalchemy_fsm_mysql import (
    Moved,
    NotWritable,
    OutcomeUnknown,
    Refused,
    TransactionAborted,
    run_transaction,
    try_fire_key,
)
from tests.cluster.nodes import node_engine
from tests.faults.ledger import Job, recorded
from tests.race.checker import Call, Evidence, Recorded, Row
from tests.reference import machine

WEIGHTS = {"NotReady": 9, "Ready": 9, "Delete": 2}
NO_SERVER = 2003  # nobody listens: nothing was sent


@dataclass(frozen=True)
class Assignment:
    """What a worker does: fire for *seconds*, first on the node of its number, then wherever a node answers."""

    number: int
    urls: Sequence[URL]
    keys: Sequence[int]
    seconds: float
    settings: Sequence[str] = ()
    attempts: int = 20
    pause: float = 0.0  # seconds between two fires


@dataclass
class Log:
    """What the workers were told."""

    calls: list[Call] = field(default_factory=list)
    retried: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def counts(self) -> str:
        by_outcome = Counter(call.outcome for call in self.calls)
        said = {
            "fires": len(self.calls),
            "acknowledged": by_outcome["moved"],
            "refused": by_outcome["refused"],
            "retried": self.retried,
            "unknown": by_outcome["unknown"],
            "given up": by_outcome["failed"],
        }
        errors = ", ".join(f"{name} {number}" for name, number in sorted(self.errors.items()))
        return ", ".join(f"{name} {number}" for name, number in said.items()) + (f" ({errors})" if errors else "")


@contextmanager
def workers(assignments: Sequence[Assignment]) -> Iterator[Log]:
    """The workers at work; when the block has ended they are waited for, and the log is complete."""
    context = multiprocessing.get_context("spawn")
    members: list[tuple[Connection, BaseProcess]] = []
    for assignment in assignments:
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(assignment, there), daemon=True)
        process.start()
        there.close()
        members.append((here, process))
    log = Log()
    try:
        for here, _ in members:
            here.recv()  # ready
        for here, _ in members:
            here.send("go")
        yield log
        for here, _ in members:
            part: Log | str = here.recv()
            if isinstance(part, str):
                raise RuntimeError(part)
            log.calls += part.calls
            log.retried += part.retried
            log.errors += part.errors
        log.calls.sort(key=lambda call: call.begin)
    finally:
        for here, process in members:
            here.close()
            process.join(20)
            if process.is_alive():
                process.kill()


def _work(assignment: Assignment, pipe: Connection) -> None:
    try:
        import stamina  # noqa: F401 - so that the first fire does not wait for it

        engines = [node_engine(url, *assignment.settings) for url in assignment.urls]
        pipe.send("ready")
        pipe.recv()
        pipe.send(_fire_for(assignment, engines))
    except Exception as error:  # noqa: BLE001 - whatever it is, it has to be told
        pipe.send(f"worker {assignment.number}: {type(error).__name__}: {error}")


def _fire_for(assignment: Assignment, engines: Sequence[Engine]) -> Log:
    dice, log = random.Random(assignment.number), Log()
    node = assignment.number % len(engines)
    deadline = time.monotonic() + assignment.seconds
    while time.monotonic() < deadline:
        (name,) = dice.choices(list(WEIGHTS), list(WEIGHTS.values()))
        if not _fire(assignment, engines[node], dice.choice(assignment.keys), name, log):
            node = (node + 1) % len(engines)
            time.sleep(0.1)
        time.sleep(assignment.pause)
    return log


def _fire(assignment: Assignment, engine: Engine, key: int, name: str, log: Log) -> bool:
    """Fire once, with a token of its own, and log it; whether the node is worth to be asked again."""
    token = uuid.uuid4().hex
    runs = 0

    def unit(session: Session) -> Moved[Job] | Refused[Job]:
        nonlocal runs
        runs += 1
        return try_fire_key(Job, key, name, session, token=token)

    said: dict[str, Any]
    begin = time.monotonic_ns()
    is_worth_it = True
    try:
        outcome = run_transaction(sessionmaker(engine), unit, attempts=assignment.attempts)
    except OutcomeUnknown as error:
        said, is_worth_it = {"outcome": "unknown", "code": error.code}, False
        log.errors[f"OutcomeUnknown {error.code}"] += 1
    except (TransactionAborted, NotWritable) as error:
        said, is_worth_it = {"outcome": "failed", "code": error.code}, False
        log.errors[f"{type(error).__name__} {error.code}"] += 1
    except DBAPIError as error:
        code = error.orig.args[0] if error.orig is not None and error.orig.args else None
        if code != NO_SERVER:
            raise
        log.errors["no server"] += 1
        return False
    else:
        said = (
            {"outcome": "moved", "source": outcome.source, "target": outcome.target, "sequence": outcome.sequence}
            if isinstance(outcome, Moved)
            else {"outcome": "refused", "state": outcome.state}
        )
    log.retried += max(runs - 1, 0)
    log.calls.append(Call(assignment.number, begin, time.monotonic_ns(), key, name, token=token, **said))
    return is_worth_it


def evidence(engine: Engine, log: Log) -> Evidence:
    """What the workers were told, with what one node holds."""
    with Session(engine) as session:
        rows = {job.id: Row(job.state, job.steps) for job in session.scalars(select(Job))}
    history = [
        Recorded(step.record_id, step.sequence, step.event, step.source, step.target, step.token)
        for step in recorded(engine)
    ]
    return Evidence(machine, log.calls, rows, history)


def lost_and_doubled(found: Evidence) -> tuple[int, int]:
    """How many acknowledged moves are not in the history, and how many are there more than once."""
    recorded_tokens = Counter(row.token for row in found.history or ())
    moved = [call for call in found.calls if call.outcome == "moved"]
    return sum(not recorded_tokens[call.token] for call in moved), sum(recorded_tokens[c.token] > 1 for c in moved)
