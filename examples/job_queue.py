"""A job queue on claim(): workers take jobs under a lease, and the jobs of a dead worker go to others.

A worker takes a few jobs and commits: from then on the jobs are its own until the lease ends, and no lock is held while
it works. It finishes each job in a transaction together with what the job does to the database, so both happen or
neither. A worker that dies, or that is slower than its lease, loses its jobs: `requeue` gives them to others, and the
guard of "Finish" refuses the late one. Effects outside of the database can happen twice; a job should bear that.

The index serves the claim: by state, and within it in the order in which jobs are taken. Without it each claim would
sort, and so lock, all waiting jobs, and the other workers would find none.

Every unit of work goes through `run_transaction`. `requeue` reaches the rows by that index and a worker reaches its own
by the primary key, so one of the two can be the server's choice in a deadlock: it is run again.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Index, String, func, literal_column
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from sqlalchemy_fsm_mysql import (
    Event,
    Machine,
    Stateful,
    StateMachineColumn,
    Transition,
    claim,
    fire_where,
    run_transaction,
)

ATTEMPTS = 5


class Base(DeclarativeBase):
    pass


def in_seconds(seconds: Any) -> Any:
    """So many seconds from now, by the database's clock: the workers' own need not agree."""
    return func.timestampadd(literal_column("SECOND"), seconds, func.utc_timestamp())


def lease(job: type[Job], worker: str, seconds: int) -> dict[str, Any]:
    """The columns that taking a job writes."""
    return {"worker": worker, "lease_until": in_seconds(seconds), "attempts": job.attempts + 1}


machine = Machine(
    initial="waiting",
    events=[
        Event("Start", {"waiting": "running"}, effect=lease),
        Event("Finish", [Transition("running", "done", guard=lambda job, worker: job.worker == worker)]),
        Event(
            "Requeue",
            [
                Transition("running", "failed", guard=lambda job: job.attempts >= ATTEMPTS),
                Transition("running", "waiting"),
            ],
            effect=lambda job: {"worker": None, "lease_until": None},
        ),
    ],
)


class Job(Stateful, Base):
    __tablename__ = "jobs"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)
    worker: Mapped[str | None] = mapped_column(String(40))
    lease_until: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(default=0)

    __table_args__ = (Index("ix_jobs_state", "state", "id"),)


def take(session: Session, worker: str, *, limit: int, seconds: int) -> list[Job]:
    """Take up to *limit* jobs for *seconds*, the oldest first. They are the worker's own once this is committed."""
    return claim(Job, "Start", session, limit=limit, worker=worker, seconds=seconds)


def finish(session: Session, job_id: int, worker: str) -> bool:
    """Whether the job was still this worker's, and is done now; false when the lease has passed to another."""
    return bool(session.get_one(Job, job_id).try_fire("Finish", session, worker=worker))


def requeue(session: Session) -> int:
    """Give back the jobs whose lease has ended; how many.

    Any process may call ``run_transaction(factory, requeue)``, as often as it likes.
    """
    return fire_where(Job, "Requeue", session, Job.lease_until < func.utc_timestamp(), batch_size=1_000).moved


def work(
    factory: sessionmaker[Session],
    worker: str,
    do: Callable[[Session, int], Any],
    *,
    limit: int = 10,
    seconds: int = 60,
) -> int:
    """Work until no job is waiting; how many were done.

    *do* gets the session in which the job is finished, and is called again when the server ends that transaction.
    """

    def take_some(session: Session) -> list[int]:
        return [job.id for job in take(session, worker, limit=limit, seconds=seconds)]

    def do_one(session: Session, job_id: int) -> bool:
        is_mine = finish(session, job_id, worker)
        if is_mine:
            do(session, job_id)
        return is_mine

    done = 0
    while mine := run_transaction(factory, take_some):
        for job_id in mine:
            done += run_transaction(factory, partial(do_one, job_id=job_id))
    return done
