"""Leases: written by the claim, extended by a heartbeat, and due when they expire, all by the database's clock."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import Index, String, func, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    InstanceStateError,
    Leased,
    Machine,
    StateMachineColumn,
    Transition,
    TransitionHistory,
    claim,
    extend_lease,
    fire_due,
)
from sqlalchemy_fsm_mysql.sql.clock import utc_ago, utc_in, utc_now

HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)


class Base(DeclarativeBase):
    """The tables of this module."""


machine = Machine(
    initial="waiting",
    events=[
        Event("Start", {"waiting": "running"}, effect=lambda job: {"attempts": job.attempts + 1}),
        Event("Finish", [Transition("running", "done", guard=lambda job, worker: job.worker == worker)]),
        Event(
            "Rescue",
            {"running": "waiting"},
            after=lambda job: job.lease_until,
            effect=lambda job: {"worker": None, "lease_until": None},
        ),
        Event("Assign", {"waiting": "running"}, effect=lambda job, worker: {"note": worker}),
    ],
)


class Job(Leased, Base):
    __tablename__ = "leased_jobs"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine)
    attempts: Mapped[int] = mapped_column(default=0)
    note: Mapped[str] = mapped_column(String(20), default="")
    version: Mapped[int] = mapped_column(default=1)
    __table_args__ = (Index("ix_leased_jobs", "state", "lease_until"),)
    __mapper_args__ = {"version_id_col": version}


class JobTransition(TransitionHistory, Base):
    __tablename__ = "leased_job_transitions"
    __records__ = "Job.state"


class Dataclass(MappedAsDataclass, DeclarativeBase):
    """Dataclass models."""


class Task(Leased, Dataclass):
    __tablename__ = "leased_tasks"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(Machine(initial="a", events=[Event("Go", {"a": "b"})]), init=False)


class Plain(Base):
    __tablename__ = "leased_plain"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(Machine(initial="a", events=[Event("Go", {"a": "b"})]))


@pytest.fixture
def jobs(session: Session) -> list[Job]:
    """Three jobs of worker w1, for a minute."""
    session.add_all(Job(id=key) for key in (1, 2, 3))
    session.flush()
    return claim(Job, "Start", session, limit=3, lease=MINUTE, worker="w1")


def left(session: Session, job: Job) -> timedelta:
    """The time until the lease ends."""
    until, now = session.execute(select(Job.lease_until, utc_now()).where(Job.id == job.id)).one()
    return until - now


def history(session: Session) -> int | None:
    return session.scalar(select(func.count()).select_from(JobTransition))


def test_a_claim_writes_the_lease_with_the_state(session, jobs):
    assert [(job.id, job.state, job.worker, job.attempts, job.version) for job in jobs] == [
        (key, "running", "w1", 1, 2) for key in (1, 2, 3)
    ]
    assert all(MINUTE - 5 * SECOND < left(session, job) <= MINUTE for job in jobs)
    assert history(session) == 3


def test_a_heartbeat_extends_it_and_leaves_no_trace(session, jobs):
    job, other, _ = jobs
    assert extend_lease(job) is True
    assert extend_lease(job, lease=HOUR) is True
    assert HOUR - 5 * SECOND < left(session, job) <= HOUR
    assert left(session, other) <= MINUTE
    assert (job.lease_until - other.lease_until) > 50 * MINUTE
    assert (history(session), job.version) == (3, 2)
    job.note = "flushed"
    session.flush()


def test_a_lease_that_has_passed_on_is_not_extended(session, jobs):
    job, finished, rescued = jobs
    finished.fire("Finish", worker="w1")
    session.execute(update(Job.__table__).where(Job.id == 3).values(lease_until=utc_ago(SECOND)))
    session.expire_all()
    assert fire_due(Job, session).by_transition == {("running", "waiting"): 1}
    assert (rescued.worker, rescued.lease_until) == (None, None)
    assert [extend_lease(one) for one in (job, finished, rescued)] == [True, False, False]

    (taken,) = claim(Job, "Start", session, limit=1, lease=MINUTE, worker="w2")
    assert (taken.id, taken.attempts) == (3, 2)
    assert extend_lease(taken) is True
    assert extend_lease(taken, worker="w1") is False
    assert taken.try_fire("Finish", worker="w1").reason == "guard"


def test_a_lease_that_has_not_expired_is_not_due(session, jobs):
    assert fire_due(Job, session).moved == 0
    assert jobs[0].try_fire("Rescue").failed == ("after",)
    session.execute(update(Job.__table__).values(lease_until=utc_in(timedelta(seconds=2))))
    assert fire_due(Job, session).moved == 0


def test_a_payload_of_the_same_name_gets_the_worker(session):
    session.add(Job(id=9))
    (job,) = claim(Job, "Assign", session, limit=1, lease=MINUTE, worker="w9")
    assert (job.worker, job.note) == ("w9", "w9")


def test_a_claim_without_a_lease_writes_none(session):
    session.add(Job(id=9))
    (job,) = claim(Job, "Start", session, limit=1)
    assert (job.worker, job.lease_until) == (None, None)
    with pytest.raises(TypeError, match="was not claimed with lease= in this process"):
        extend_lease(job)
    assert extend_lease(job, lease=MINUTE, worker="w1") is False


def test_another_session_and_a_connection(session, jobs, engine):
    """The heartbeat's own transaction: here on the same connection, as the rows are not committed."""
    with Session(session.connection()) as heart:
        assert extend_lease(jobs[0], heart, lease=HOUR) is True
    assert extend_lease(jobs[1], session.connection(), lease=HOUR) is True
    assert all(left(session, job) > 50 * MINUTE for job in jobs[:2])


@pytest.mark.parametrize("zone", ["+13:00", "-11:00"])
def test_the_time_zone_of_the_session_changes_nothing(session, jobs, zone):
    if session.get_bind().dialect.name == "sqlite":
        pytest.skip("SQLite has no time zone of a session")
    connection = session.connection()
    before = connection.exec_driver_sql("SELECT @@time_zone").scalar_one()
    try:
        connection.exec_driver_sql(f"SET time_zone = '{zone}'")
        extend_lease(jobs[0])
        assert MINUTE - 5 * SECOND < left(session, jobs[0]) <= MINUTE
        assert fire_due(Job, session).moved == 0
    finally:
        connection.exec_driver_sql(f"SET time_zone = '{before}'")


@pytest.mark.parametrize(
    ("given", "error", "problem"),
    [
        ({"lease": 60, "worker": "w"}, TypeError, "lease=60; it must be a timedelta"),
        ({"lease": timedelta(0), "worker": "w"}, ValueError, "it must be above 0"),
        ({"lease": MINUTE}, TypeError, "a lease belongs to a worker"),
        ({"lease": MINUTE, "worker": ""}, ValueError, "1 to 64 characters"),
        ({"lease": MINUTE, "worker": "w" * 65}, ValueError, "1 to 64 characters"),
    ],
)
def test_wrong_terms(session, given, error, problem):
    with pytest.raises(error, match=problem):
        claim(Job, "Start", session, limit=1, **given)


def test_a_model_that_is_not_leased(session):
    with pytest.raises(TypeError, match="have Plain inherit from Leased"):
        claim(Plain, "Go", session, limit=1, lease=MINUTE, worker="w")
    with pytest.raises(InstanceStateError):
        extend_lease(Job(id=1), session, lease=MINUTE, worker="w")


def test_a_dataclass_model():
    assert Task.__table__.c.lease_until.nullable
    assert Task(id=1).id == 1


@pytest.mark.servers_only
def test_async(url, engine, tables):
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    async def work() -> bool:
        own = create_async_engine(url.set(drivername=f"{engine.dialect.name}+asyncmy"))
        try:
            async with AsyncSession(own) as session:
                session.add(Job(id=1))
                (job,) = await claim(Job, "Start", session, limit=1, lease=MINUTE, worker="w1")
                return await extend_lease(job, session)
        finally:
            await own.dispose()

    assert asyncio.run(work())
