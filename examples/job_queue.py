"""A job queue on claim() and timed events: leases, attempts, back-off, priorities, unique jobs, snoozing, cancelling.

A worker takes a few jobs and commits: from then on the jobs are its own until the lease ends, and no lock is held while
it works. It finishes each job in a transaction together with what the job does to the database, so both happen or
neither. A worker that dies, or that is slower than its lease, loses its jobs: the timed event "Rescue" gives them to
others, and the guard of "Finish" refuses the late one. Effects outside of the database can happen twice; a job should
bear that.

A job that fails, that is rescued or that snoozes is "scheduled" for a later time, and the timed event "Ready" makes it
"waiting" again. Any number of processes may run the timed events: `tend`, or the command
``sqlalchemy-fsm-mysql due examples.job_queue:Job.state --every 5``.

The index serves the claim: by state, and within it in the order in which jobs are taken. Without it each claim would
sort, and so lock, all waiting jobs, and the other workers would find none.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Index, String, func
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from sqlalchemy_fsm_mysql import (
    Event,
    Leased,
    Machine,
    Stateful,
    StateMachineColumn,
    Transition,
    claim,
    extend_lease,
    fire_due,
    fire_key,
    run_transaction,
    try_fire_key,
    utc_in,
)
from sqlalchemy_fsm_mysql.orm.since import Timestamp

ATTEMPTS = 5
LEASE = timedelta(seconds=60)


class Base(DeclarativeBase):
    pass


def is_its(job: type[Job], worker: str) -> Any:
    """The guard of all that only the job's worker may do."""
    return job.worker == worker


def later(job: type[Job], error: str | None = None) -> dict[str, Any]:
    """Give the job back, to be tried again after 0.25 s, 0.5 s, 1 s, …: twice as long after each attempt."""
    wait = func.power(2, job.attempts) * 0.125
    return {"worker": None, "lease_until": None, "run_at": utc_in(wait), "error": error}


def over(job: type[Job]) -> dict[str, Any]:
    """The end of a job: another one may have its unique name."""
    return {"worker": None, "lease_until": None, "unique_name": None}


def is_last(job: type[Job]) -> Any:
    """Whether no attempt is left."""
    return job.attempts >= job.most_attempts


machine = Machine(
    initial="waiting",
    initial_states=["scheduled"],
    events=[
        Event("Start", {"waiting": "running"}, effect=lambda job: {"attempts": job.attempts + 1, "error": None}),
        Event("Finish", [Transition("running", "done", guard=is_its)]),
        # An attempt that failed, and one whose worker was not heard of again.
        Event(
            "Fail",
            [Transition("running", "failed", guard=is_last), Transition("running", "scheduled")],
            guard=is_its,
            effect=later,
        ),
        Event(
            "Rescue",
            [Transition("running", "failed", guard=is_last), Transition("running", "scheduled")],
            after=lambda job: job.lease_until,
            effect=later,
        ),
        # A worker that cannot do the job yet, such as one with so many calls a minute. No attempt is lost.
        Event(
            "Snooze",
            [Transition("running", "scheduled", guard=is_its)],
            effect=lambda job, seconds: {
                "worker": None,
                "lease_until": None,
                "run_at": utc_in(seconds),
                "attempts": job.attempts - 1,
            },
        ),
        Event("Ready", {"scheduled": "waiting"}, after=lambda job: job.run_at),
        Event("Cancel", {("waiting", "scheduled", "running"): "cancelled"}),
        Event("Retry", {("failed", "cancelled"): "waiting"}, effect=lambda job: {"attempts": 0}),
    ],
    on_enter=dict.fromkeys(("done", "failed", "cancelled"), over),
)


class Job(Leased, Stateful, Base):
    __tablename__ = "jobs"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)
    priority: Mapped[int] = mapped_column(default=0)  # the lowest first
    attempts: Mapped[int] = mapped_column(default=0)
    most_attempts: Mapped[int] = mapped_column(default=ATTEMPTS)
    run_at: Mapped[datetime | None] = mapped_column(Timestamp())
    unique_name: Mapped[str | None] = mapped_column(String(100), unique=True)
    error: Mapped[str | None] = mapped_column(String(200))

    __table_args__ = (
        Index("ix_jobs_waiting", "state", "priority", "id"),
        Index("ix_jobs_lease", "state", "lease_until"),
        Index("ix_jobs_run_at", "state", "run_at"),
    )


def enqueue(
    session: Session, *, unique_name: str | None = None, after: timedelta | None = None, **values: Any
) -> Job | None:
    """A new job, *after* so long from now; None when a job of the same *unique_name* is waiting or at work."""
    job = Job(unique_name=unique_name, **values)
    if after is not None:
        job = Job(unique_name=unique_name, state="scheduled", run_at=utc_in(after), **values)
    try:
        with session.begin_nested():
            session.add(job)
    except IntegrityError:
        if unique_name is None:
            raise
        return None
    return job


def take(session: Session, worker: str, *, limit: int, lease: timedelta = LEASE) -> list[Job]:
    """Take up to *limit* jobs, the most urgent first. They are the worker's own once this is committed."""
    order = (Job.priority, Job.id)
    return claim(Job, "Start", session, limit=limit, order_by=order, lease=lease, worker=worker)


def finish(session: Session, job_id: int, worker: str) -> bool:
    """Whether the job was still this worker's, and is done now; false when it was rescued or cancelled meanwhile."""
    return bool(try_fire_key(Job, job_id, "Finish", session, worker=worker))


def fail(session: Session, job_id: int, worker: str, error: str) -> bool:
    """Whether the job was still this worker's, and is scheduled for its next attempt, or has failed for good."""
    return bool(try_fire_key(Job, job_id, "Fail", session, worker=worker, error=error[:200]))


def snooze(session: Session, job_id: int, worker: str, wait: timedelta) -> bool:
    """Whether the job was still this worker's, and is put off without the loss of an attempt."""
    return bool(try_fire_key(Job, job_id, "Snooze", session, worker=worker, seconds=wait.total_seconds()))


def cancel(session: Session, job_id: int) -> None:
    """Cancel the job, also while it runs: its worker's next heartbeat is false, and "Finish" is refused.

    Raises: TransitionNotAllowed when it is over.
    """
    fire_key(Job, job_id, "Cancel", session)


def beat(factory: sessionmaker[Session], job: Job) -> bool:
    """The heartbeat of a long job, in a transaction of its own; false when the worker must stop."""
    return run_transaction(factory, lambda session: extend_lease(job, session))


def tend(session: Session) -> int:
    """Rescue the jobs whose lease has ended, and make those ready whose time has come; how many."""
    return fire_due(Job, session, limit=1_000).moved


def work(
    factory: sessionmaker[Session],
    worker: str,
    do: Callable[[Session, int], Any],
    *,
    limit: int = 10,
    lease: timedelta = LEASE,
) -> int:
    """Work until no job is waiting; how many were done.

    *do* gets the session in which the job is finished, and is called again when the server ends that transaction. When
    it raises, what it did is rolled back, and the job is tried again later.
    """

    def take_some(session: Session) -> list[int]:
        return [job.id for job in take(session, worker, limit=limit, lease=lease)]

    def do_one(session: Session, job_id: int) -> bool:
        is_mine = finish(session, job_id, worker)
        if is_mine:
            do(session, job_id)
        return is_mine

    done = 0
    while mine := run_transaction(factory, take_some):
        for job_id in mine:
            try:
                done += run_transaction(factory, partial(do_one, job_id=job_id))
            except Exception as error:  # noqa: BLE001 - whatever the job raises is one failed attempt
                name = type(error).__name__
                run_transaction(factory, partial(fail, job_id=job_id, worker=worker, error=name))
    return done
