"""What must hold between what callers were told and what the tables hold. The controls make each of these checks fail."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Engine, literal_column, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import Moved, Stateful, StateMachineColumn, TransitionHistory, replay
from sqlalchemy_fsm_mysql.errors import HistoryError
from tests.reference import machine


class Base(DeclarativeBase):
    """The tables of the faults."""


class Job(Stateful, Base):
    """Each UPDATE of a row adds one to its `steps`, so the row itself knows how often it was moved."""

    __tablename__ = "fault_jobs"

    id: Mapped[int] = mapped_column(primary_key=True)
    steps: Mapped[int] = mapped_column(default=0, onupdate=literal_column("fault_jobs.steps + 1"))
    state: Mapped[str] = StateMachineColumn(machine)


class JobStep(TransitionHistory, Base):
    __tablename__ = "fault_job_steps"
    __records__ = "Job.state"


class Move(NamedTuple):
    """One transition, as a caller was told of it, or as the history has it."""

    key: int
    event: str
    source: str
    target: str
    token: str | None = None
    sequence: int | None = None

    @classmethod
    def of(cls, moved: Moved[Any]) -> Move:
        return cls(moved.key, moved.event, str(moved.source), str(moved.target), moved.token, moved.sequence)


def fresh_jobs(engine: Engine, number: int) -> list[int]:
    """The keys of *number* new rows in new tables."""
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all(Job(id=key) for key in range(1, number + 1))
        session.commit()
    return list(range(1, number + 1))


def recorded(engine: Engine) -> list[JobStep]:
    """The whole history, by row and number."""
    with Session(engine) as session:
        return list(session.scalars(select(JobStep).order_by(JobStep.record_id, JobStep.sequence)))


def problems(engine: Engine, told: Sequence[Move], in_doubt: Collection[str] = ()) -> list[str]:
    """Everything that does not hold, when *told* were acknowledged, and *in_doubt* are tokens of which nobody knows."""
    history = recorded(engine)
    with Session(engine) as session:
        jobs = {job.id: job for job in session.scalars(select(Job))}
    return [
        *unreplayable(jobs, history),
        *miscounted(told, history, in_doubt),
        *tokens_not_once(told, history, in_doubt),
    ]


def unreplayable(jobs: dict[int, Job], history: Sequence[JobStep]) -> Iterator[str]:
    """Each row's history is numbered without a gap, is a path of the machine, ends at the row, and is as long as the row counts."""
    of_row: dict[int, list[JobStep]] = defaultdict(list)
    for step in history:
        of_row[step.record_id].append(step)
    for key, job in jobs.items():
        try:
            end = replay(of_row[key]) or machine.initial
        except HistoryError as error:
            yield f"not replayable: {error}"
            continue
        if end != job.state:
            yield f"job {key} is {job.state!r}, and its history ends in {end!r}"
        if job.steps != len(of_row[key]):
            yield f"job {key} was updated {job.steps} times, and has {len(of_row[key])} records"


def miscounted(told: Sequence[Move], history: Sequence[JobStep], in_doubt: Collection[str]) -> Iterator[str]:
    """Edge by edge, as many transitions were told as are recorded."""
    said = Counter(move[:4] for move in told)
    there = Counter(
        (step.record_id, step.event, step.source, step.target) for step in history if step.token not in in_doubt
    )
    for edge in sorted(said.keys() | there.keys()):
        if said[edge] != there[edge]:
            yield f"{edge} was told {said[edge]} times, and is recorded {there[edge]} times"


def tokens_not_once(told: Sequence[Move], history: Sequence[JobStep], in_doubt: Collection[str]) -> Iterator[str]:
    """The token of each transition told is recorded once, at the number told; one in doubt at most once."""
    there = {step.token: step for step in history if step.token is not None}
    for move in told:
        if move.token is None:
            continue
        step = there.get(move.token)
        if step is None:
            yield f"{move} was told, and is lost"
        elif (step.record_id, step.sequence) != (move.key, move.sequence):
            yield f"{move} was told, and is recorded as {step.record_id}, {step.sequence}"
    known = {move.token for move in told} | set(in_doubt)
    for token in there.keys() - known:
        yield f"token {token!r} is recorded, and nobody was told"
