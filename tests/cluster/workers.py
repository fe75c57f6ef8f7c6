"""Workers spread over the nodes: each fires through ``run_transaction`` and logs what it is told, for `tests.race.checker`."""

from __future__ import annotations

import multiprocessing
import random
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from sqlalchemy import URL, Engine, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from sqlalchemy_fsm_mysql import (
    LockTimeout,
    Moved,
    NotWritable,
    OutcomeUnknown,
    Refused,
    TransactionAborted,
    find_by_token,
    run_transaction,
    try_fire_key,
)
from tests.cluster.nodes import node_engine
from tests.faults.ledger import Job, JobStep, recorded
from tests.race.checker import Call, Evidence, Recorded, Row
from tests.reference import machine

WEIGHTS = {"NotReady": 9, "Ready": 9, "Delete": 2}
# A call that fails so has sent nothing: nobody listens, or accepts a connection and then says nothing.
NO_CONNECTION = (2003, 2013)


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
    pairs: float = 0.0  # how many of the units fire on two rows
    looks: float = 0.0  # after how many of the moves the row is read on another node
    options: Mapping[str, Any] = field(default_factory=dict)  # of the engine
    late_savepoints: bool = True  # whether a unit may set one after it has written, as a second fire with a token does


class Look(NamedTuple):
    """A plain read on another node, begun after a move was acknowledged."""

    begin: int
    key: int
    sequence: int  # of the move
    seen: int  # how many moves the row shows

    @property
    def is_stale(self) -> bool:
        return self.seen < self.sequence


@dataclass
class Log:
    """What the workers were told."""

    calls: list[Call] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
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
            log.looks += part.looks
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
        import stamina  # here, so that the first fire does not wait for it

        stamina.instrumentation.set_on_retry_hooks([])  # it would print a line for each
        engines = [node_engine(url, *assignment.settings, **assignment.options) for url in assignment.urls]
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
        rows = 2 if len(assignment.keys) > 1 and dice.random() < assignment.pairs else 1
        keys = dice.sample(list(assignment.keys), rows)
        names = dice.choices(list(WEIGHTS), list(WEIGHTS.values()), k=rows)
        shots = [(key, name, uuid.uuid4().hex) for key, name in zip(keys, names, strict=True)]
        if not _fire(assignment, engines[node], shots, log):
            node = (node + 1) % len(engines)
            time.sleep(0.1)
        elif dice.random() < assignment.looks:
            _look(engines[(node + 1) % len(engines)], log)
        time.sleep(assignment.pause)
    return log


def _fire(assignment: Assignment, engine: Engine, shots: Sequence[tuple[int, str, str]], log: Log) -> bool:
    """Fire once on each row, all in one unit, and log each; whether the node is worth to be asked again."""
    runs = 0

    def unit(session: Session) -> list[Moved[Job] | Refused[Job]]:
        nonlocal runs
        runs += 1
        later = "token" if assignment.late_savepoints else "actor"
        return [
            try_fire_key(Job, key, name, session, **{later if number else "token": token})
            for number, (key, name, token) in enumerate(shots)
        ]

    said: list[dict[str, Any]]
    begin = time.monotonic_ns()
    is_worth_it = False
    try:
        outcomes = run_transaction(sessionmaker(engine), unit, attempts=assignment.attempts)
    except OutcomeUnknown as error:
        said = [{"outcome": "unknown", "code": error.code}] * len(shots)
        log.errors[f"OutcomeUnknown {error.code}"] += 1
    except (TransactionAborted, LockTimeout, NotWritable) as error:
        said = [{"outcome": "failed", "code": error.code}] * len(shots)
        log.errors[f"{type(error).__name__} {error.code}"] += 1
    except DBAPIError as error:
        code = error.orig.args[0] if error.orig is not None and error.orig.args else None
        if code not in NO_CONNECTION:
            raise
        said = [{"outcome": "failed", "code": code}] * len(shots)
        log.errors["no server"] += 1
    else:
        said, is_worth_it = [_said(outcome) for outcome in outcomes], True
    log.retried += max(runs - 1, 0)
    end = time.monotonic_ns()
    log.calls += [
        Call(assignment.number, begin, end, key, name, token=token, **what)
        for (key, name, token), what in zip(shots, said, strict=True)
    ]
    return is_worth_it


def _said(outcome: Moved[Job] | Refused[Job]) -> dict[str, Any]:
    if isinstance(outcome, Refused):
        return {"outcome": "refused", "state": outcome.state}
    return {
        "outcome": "moved",
        "source": outcome.source,
        "target": outcome.target,
        "sequence": outcome.sequence,
    }


def _look(other: Engine, log: Log) -> None:
    """Read the row of the last call, if that moved it, on another node."""
    call = log.calls[-1]
    if call.outcome != "moved" or call.sequence is None:
        return
    begin = time.monotonic_ns()
    with suppress(SQLAlchemyError), Session(other) as session:
        seen = session.scalars(select(Job.steps).where(Job.id == call.key)).one()
        log.looks.append(Look(begin, call.key, call.sequence, seen))


def resolve(engine: Engine, log: Log) -> int:
    """Ask for each unknown call by its token, and complete it; how many had applied."""
    by_token = {token_of(step): step for step in recorded(engine)}
    applied = 0
    with Session(engine) as session:
        for number, call in enumerate(log.calls):
            if call.outcome != "unknown":
                continue
            step = by_token.get(call.token)
            found = find_by_token(Job.state, call.token or "", session)
            assert step is None or step.token is None or found is not None
            known = {"source": step.source, "target": step.target, "sequence": step.sequence} if step else {}
            log.calls[number] = call._replace(resolved=step is not None, **known)
            applied += step is not None
    return applied


def token_of(step: JobStep) -> str | None:
    """What a call is known by in the history: its token, or the actor's name in its place."""
    return step.token or step.actor


def evidence(engine: Engine, log: Log) -> Evidence:
    """What the workers were told, with what one node holds."""
    with Session(engine) as session:
        rows = {job.id: Row(job.state, job.steps) for job in session.scalars(select(Job))}
    history = [
        Recorded(step.record_id, step.sequence, step.event, step.source, step.target, token_of(step))
        for step in recorded(engine)
    ]
    return Evidence(machine, log.calls, rows, history)


def lost_and_doubled(found: Evidence) -> tuple[int, int]:
    """How many acknowledged moves are not in the history, and how many are there more than once."""
    recorded_tokens = Counter(row.token for row in found.history or ())
    moved = [call for call in found.calls if call.outcome == "moved"]
    return sum(not recorded_tokens[call.token] for call in moved), sum(recorded_tokens[c.token] > 1 for c in moved)
