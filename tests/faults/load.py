"""A load of units of work that can be checked to the last fire, whatever happens to the workers and the server meanwhile.

A unit fires on a row of the worker's own, which nobody else moves and whose event is always allowed, under the unit's
token; then on some rows of everybody's. So the token tells of the whole unit, refusals included. Some units fire in a
savepoint that is rolled back, and some are rolled back as a whole. What the worker's own instance shows then is compared
with a fresh read.

Everything that is told goes line by line into the worker's log, so a killed worker has told it too.
"""

from __future__ import annotations

import contextlib
import random
import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import stamina
from sqlalchemy import URL, Engine, select
from sqlalchemy.exc import SQLAlchemyError
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
from tests.faults.crew import Log, Task, told
from tests.faults.ledger import Job, JobStep
from tests.faults.wrong import wrong_version
from tests.race.checker import Call, Evidence, Glimpse, Recorded, Row
from tests.reference import machine
from tests.servers import make_engine

# To and fro, never to an end; 'Delete' is refused.
WEIGHTS = {"NotReady": 9, "Ready": 9, "Delete": 2}
OWN_EVENTS = ("NotReady", "Ready")
RESOLVE_WITHIN = 120.0  # seconds
# What a fault may end a unit with, besides an unknown outcome; anything else is a failure of the load.
ALLOWED = (TransactionAborted, LockTimeout, NotWritable)


@dataclass(frozen=True)
class Load(Task):
    """What a worker of this load is given, besides a `Task`: *keys* are everybody's rows, *own* its own.

    *direct* is the server without a proxy before it, *most* the most shared rows of a unit, *shuffled* the share of units that
    lock them in any order, *unusual* the share that are rolled back, wholly or in part. With *units* 0 it goes on until the file ``stop`` lies beside the log.
    """

    own: int = 0
    direct: URL | None = None
    most: int = 5
    shuffled: float = 0.1
    unusual: float = 0.06
    wrong: str = ""
    connect_args: dict[str, Any] = field(default_factory=dict)

    def engine(self) -> Engine:
        return make_engine(self.url, isolation_level=self.isolation_level, connect_args=self.connect_args)

    @property
    def is_over(self) -> bool:
        return (self.log.parent / "stop").exists()


class Worker:
    """One process of the load."""

    def __init__(self, load: Load, log: Log) -> None:
        self.load, self.log = load, log
        self.dice = random.Random(secrets.randbits(64))
        self.factory = sessionmaker(load.engine(), expire_on_commit=False)
        self.asking = sessionmaker(make_engine(load.direct or load.url))

    def run(self) -> None:
        unusual = (self.with_savepoint, self.rolled_back)
        done = 0
        while not (self.load.is_over if not self.load.units else done >= self.load.units):
            is_unusual = self.dice.random() < self.load.unusual
            (self.dice.choice(unusual) if is_unusual else self.plain)()
            done += 1

    # --- units

    def plain(self) -> None:
        keys = self.dice.sample(list(self.load.keys), self.dice.randint(0, self.load.most))
        if self.dice.random() >= self.load.shuffled:  # the others meet in deadlocks
            keys.sort()
        shots = [(self.load.own, self.dice.choice(OWN_EVENTS))]
        shots += [(key, *self.dice.choices(list(WEIGHTS), list(WEIGHTS.values()))) for key in keys]
        token = secrets.token_hex(16)

        def unit(session: Session) -> list[Call]:
            return [
                self.fire(session, key, name, token, is_first=not number) for number, (key, name) in enumerate(shots)
            ]

        self.told(token, shots, unit)

    def with_savepoint(self) -> None:
        """A fire, one more in a savepoint that is rolled back, and a commit; the instance is looked at after both."""
        token, lost = secrets.token_hex(16), secrets.token_hex(16)
        shots = [(self.load.own, self.dice.choice(OWN_EVENTS))]
        seen: list[Any] = []

        def unit(session: Session) -> list[Call]:
            job = session.get_one(Job, self.load.own)
            call = self.fire(session, *shots[0], token, is_first=True)
            savepoint = session.begin_nested()
            within = self.fire(session, job.id, self.dice.choice(OWN_EVENTS), lost, is_first=True)
            savepoint.rollback()
            self.log.tell("call", *within._replace(outcome="failed", source=None, target=None, sequence=None))
            self.look("savepoint", job, session)
            seen[:] = [job]
            return [call]

        if self.told(token, shots, unit):
            with contextlib.suppress(SQLAlchemyError), self.asking() as fresh:
                self.look("commit", seen[0], fresh)

    def rolled_back(self) -> None:
        lost = secrets.token_hex(16)
        with contextlib.suppress(SQLAlchemyError, *ALLOWED), self.factory() as session:
            job = session.get_one(Job, self.load.own)
            call = self.fire(session, job.id, self.dice.choice(OWN_EVENTS), lost, is_first=True)
            session.rollback()
            self.log.tell("call", *call._replace(outcome="failed", source=None, target=None, sequence=None))
            self.look("rollback", job, session)

    # --- what they are made of

    def fire(self, session: Session, key: int, name: str, token: str, *, is_first: bool) -> Call:
        """One fire as a call that ends with it; a move ends with its COMMIT, which `told` adds."""
        begin = time.monotonic_ns()
        said = token if is_first else None
        if self.dice.random() < 0.05:
            outcome = session.get_one(Job, key).try_fire(name, session, token=said, actor=token)
        else:
            outcome = try_fire_key(Job, key, name, session, token=said, actor=token)
        end = time.monotonic_ns()
        return called(self.load.number, begin, end, key, outcome, said)

    def told(self, token: str, shots: Sequence[tuple[int, str]], unit: Callable[[Session], list[Call]]) -> bool:
        """Have *unit* done, and tell what became of it; whether it was acknowledged."""
        begin = time.monotonic_ns()
        self.log.tell("begin", token, begin, shots)
        last: list[Call] = []  # of the last attempt, which is the one that COMMIT was lost of

        def noted(session: Session) -> list[Call]:
            last[:] = []
            last[:] = unit(session)
            return last

        outcome, resolved, code = "moved", None, None
        try:
            run_transaction(self.factory, noted, attempts=100)
        except OutcomeUnknown as error:
            outcome, resolved, code = "unknown", self.ask(token) is not None, error.code
        except ALLOWED as error:
            outcome, code = "failed", error.code
        except SQLAlchemyError:  # nobody listens, or lets one in
            outcome = "failed"
            time.sleep(0.02)
        end = time.monotonic_ns()
        if outcome == "failed":
            calls = [Call(self.load.number, begin, end, *shots[0], "failed", token=token, code=code)]
        else:
            ended = {"end": end, "outcome": outcome, "resolved": resolved, "code": code}
            calls = [call._replace(**ended) if call.outcome == "moved" else call for call in last]
        self.log.tell("unit", token, outcome, calls)
        return outcome == "moved"

    def ask(self, token: str) -> Moved[Job] | None:
        """What became of *token*, as soon as the server can say."""
        return resolved(self.asking, token)

    def look(self, after: str, job: Job, session: Session) -> None:
        shown = job.state
        stored = session.scalars(select(Job.state).where(Job.id == job.id)).one()
        self.log.tell("glimpse", self.load.number, after, job.id, shown, stored)


def called(worker: int, begin: int, end: int, key: int, outcome: Moved[Any] | Refused[Any], token: str | None) -> Call:
    if isinstance(outcome, Refused):
        return Call(worker, begin, end, key, outcome.event, "refused", state=str(outcome.state), token=token)
    source, target = str(outcome.source), str(outcome.target)
    return Call(worker, begin, end, key, outcome.event, "moved", source, target, sequence=outcome.sequence, token=token)


def resolved(factory: sessionmaker[Session], token: str) -> Moved[Job] | None:
    deadline = time.monotonic() + RESOLVE_WITHIN
    while True:
        try:
            with factory() as session:
                found: Moved[Job] | None = find_by_token(Job.state, token, session)
                return found
        except (SQLAlchemyError, *ALLOWED):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def work(load: Load, log: Log) -> None:
    """What a process of the load does."""
    stamina.instrumentation.set_on_retry_hooks([])  # it would print a line for each
    with wrong_version(load.wrong):
        Worker(load, log).run()


# --- afterwards


@dataclass
class Outcome:
    """What became of a load: the evidence for the checker, how much there was of what, the codes of the units that ended
    in an error, and what workers failed with."""

    evidence: Evidence
    counts: Counter[str]
    errors: Counter[int | None]
    failures: list[str]

    @property
    def fires(self) -> int:
        """How many fires were acknowledged, moved or refused."""
        return self.counts["moved"] + self.counts["refused"]


def outcome_of(logs: Sequence[Path], engine: Engine) -> Outcome:
    """Everything that the workers told, with what is stored now.

    A unit that was begun and of which nothing more was told, because its worker was killed, is asked for by its token.
    """
    heard = Heard()
    for number, log in enumerate(logs):
        heard.listen(number, told([log]))
    history = recorded_calls(engine)
    in_doubt = {token: what for token, what in heard.begun.items() if token not in heard.ended}
    of_unit: defaultdict[str | None, list[Recorded]] = defaultdict(list)
    for row, unit in history:
        if unit in in_doubt:
            of_unit[unit].append(row)
    asking, now = sessionmaker(engine), time.monotonic_ns()
    for token, begun in in_doubt.items():
        is_found = resolved(asking, token) is not None
        heard.counts["in doubt"] += 1
        heard.counts["in doubt, applied"] += is_found
        heard.calls += of_killed(*begun, now, token, of_unit[token], is_found=is_found)
    heard.count()
    with Session(engine) as session:
        rows = {key: Row(state, steps) for key, state, steps in session.execute(select(Job.id, Job.state, Job.steps))}
    evidence = Evidence(machine, heard.calls, rows, [row for row, _ in history], glimpses=heard.glimpses)
    return Outcome(evidence, heard.counts, heard.errors, heard.failures)


class Heard:
    """What workers told."""

    def __init__(self) -> None:
        self.begun: dict[str, tuple[int, int, Any]] = {}
        self.ended: set[str] = set()
        self.calls: list[Call] = []
        self.glimpses: list[Glimpse] = []
        self.counts: Counter[str] = Counter()
        self.errors: Counter[int | None] = Counter()
        self.failures: list[str] = []

    def listen(self, number: int, lines: Sequence[tuple[Any, ...]]) -> None:
        for kind, *values in lines:
            if kind == "begin":
                self.begun[values[0]] = (number, values[1], values[2])
            elif kind == "unit":
                self.end(*values)
            elif kind == "call":
                self.calls.append(Call(*values))
            elif kind == "glimpse":
                self.glimpses.append(Glimpse(*values))
            else:
                self.failures.append(str(values[0]))

    def end(self, token: str, outcome: str, calls: list[Any]) -> None:
        made = [Call(*call) for call in calls]
        self.ended.add(token)
        self.calls += made
        self.counts[f"units {outcome}"] += 1
        if outcome != "moved":
            self.errors[made[0].code] += 1

    def count(self) -> None:
        self.counts.update(call.outcome for call in self.calls)
        unknown = [call for call in self.calls if call.outcome == "unknown" and call.token]
        self.counts["unknown, applied"] = sum(bool(call.resolved) for call in unknown)
        self.counts["glimpses"] = len(self.glimpses)


def of_killed(
    worker: int, begin: int, shots: Any, end: int, token: str, rows: Sequence[Recorded], *, is_found: bool
) -> Iterator[Call]:
    """The calls of a unit whose worker was killed: resolved by its token; of a refusal nothing can be known."""
    if not is_found:
        yield Call(worker, begin, end, *shots[0], "unknown", token=token, resolved=False)
    for row in rows if is_found else ():
        edge = (row.source, row.target)
        yield Call(
            *(worker, begin, end, row.key, row.event, "unknown", *edge),
            sequence=row.sequence,
            token=row.token,
            resolved=True,
        )


def recorded_calls(engine: Engine) -> list[tuple[Recorded, str | None]]:
    """The whole history, and of each row the unit that wrote it."""
    step = JobStep
    columns = (step.record_id, step.sequence, step.event, step.source, step.target, step.token, step.actor)
    with Session(engine) as session:
        return [(Recorded(*row[:-1]), row[-1]) for row in session.execute(select(*columns))]
