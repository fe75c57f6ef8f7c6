"""Eight workers drain a queue: no job is lost and none is done twice, also when workers are killed in the middle."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any

import pytest
from sqlalchemy import URL, Engine, String, create_engine, func, insert, literal, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from examples import job_queue
from examples.job_queue import Base, Job, take, tend, work
from sqlalchemy_fsm_mysql import Moved, Refused, claim, run_transaction
from sqlalchemy_fsm_mysql.sql.clock import utc_in
from tests.race.conftest import PROCESSES
from tests.race.load import Job as TeamJob

LIMIT = 10
# In a full run: FSM_JOBS=100000 FSM_KILLS=20
JOBS = int(os.environ.get("FSM_JOBS", "250"))
KILLS = int(os.environ.get("FSM_KILLS", "2"))
LONG, SHORT = timedelta(hours=1), timedelta(seconds=1)

pytestmark = [pytest.mark.servers_only, pytest.mark.timeout(3600)]


class Log(DeclarativeBase):
    """Apart from the queue's tables."""


class Done(Log):
    """A line for each time that a job was done, written in the transaction that finishes it."""

    __tablename__ = "jobs_done"

    id: Mapped[int] = mapped_column(primary_key=True)
    job: Mapped[int]
    worker: Mapped[str] = mapped_column(String(40))


# --- what a worker does


def note(session: Session, job_id: int, worker: str) -> None:
    session.execute(insert(Done).values(job=job_id, worker=worker))


def at_once(session: Session, worker: str) -> int:
    """Take jobs and finish them in one transaction, the rows locked meanwhile; how many."""
    jobs = take(session, worker, limit=LIMIT, lease=LONG)
    for job in jobs:
        job.fire("Finish", session, worker=worker)
        note(session, job.id, worker)
    return len(jobs)


def by_hand(session: Session, worker: str) -> int:
    """What people write without locks. It is wrong, so the count must show it."""
    ids = session.scalars(select(Job.id).where(Job.state == "waiting").order_by(Job.id).limit(LIMIT)).all()
    session.execute(update(Job).where(Job.id.in_(ids)).values(state="done"))
    for job_id in ids:
        note(session, job_id, worker)
    return len(ids)


def racing(session: Session, unit: Callable[[Session, str], int], dice: random.Random) -> Any:
    """*unit* as one of tests.race.load: moved when there were jobs."""
    is_any = unit(session, str(dice.random()))
    session.commit()
    return Moved(Job, 0, "Start", "waiting", "done") if is_any else Refused(Job, 0, "Start", "done", "state")


def race_at_once(session: Session, key: int, name: str, dice: random.Random) -> Any:
    return racing(session, at_once, dice)


def race_by_hand(session: Session, key: int, name: str, dice: random.Random) -> Any:
    return racing(session, by_hand, dice)


def drain_at_once(factory: sessionmaker[Session], worker: str) -> int:
    return run_transaction(factory, partial(at_once, worker=worker))


def drain_by_lease(factory: sessionmaker[Session], worker: str) -> int:
    """Take, commit, and then do the jobs one by one."""
    return work(factory, worker, lambda session, job_id: note(session, job_id, worker), limit=LIMIT, lease=SHORT)


def drain(url: URL, worker: str, unit: Callable[[sessionmaker[Session], str], int]) -> None:
    """A process of its own, until all jobs are done."""
    engine = create_engine(url, isolation_level="READ COMMITTED")
    factory = sessionmaker(engine)
    is_left = True
    while is_left:
        if unit(factory, worker):
            continue
        with factory() as session:
            is_left = left(session) > 0
        time.sleep(0.02)


def left(session: Session) -> int:
    """How many jobs are not done."""
    return (
        session.scalar(select(func.count()).select_from(Job).where(Job.state.in_(["waiting", "scheduled", "running"])))
        or 0
    )


# --- the tests


@pytest.fixture
def queue(url: URL, engine: Engine) -> Iterator[sessionmaker[Session]]:
    """JOBS waiting jobs, on each server by one driver."""
    if url.drivername != "mysql+pymysql":
        pytest.skip("one driver a server")
    for base in (Base, Log):
        base.metadata.drop_all(engine)
        base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(Job).values(id=1))
        have = 1
        while have < JOBS:
            columns = (Job.state, Job.attempts, Job.most_attempts, Job.priority)
            rows = select(Job.id + literal(have), *columns).where(Job.id <= JOBS - have)
            have += connection.execute(
                insert(Job).from_select(["id", *(column.key for column in columns)], rows)
            ).rowcount
    yield sessionmaker(engine)
    for base in (Base, Log):
        base.metadata.drop_all(engine)


def done(queue: sessionmaker[Session]) -> Counter[int]:
    """How often each job was done."""
    with queue() as session:
        return Counter(session.scalars(select(Done.job)))


def team_job(url: URL, unit: Any, jobs: int) -> TeamJob:
    """Each process may do three times its share of *jobs*."""
    return TeamJob(url, 3 * jobs // LIMIT // PROCESSES, [0], unit, "READ COMMITTED")


def test_workers_drain_a_queue_with_none_lost_and_none_doubled(racers, url, queue):
    racers.race(team_job(url, race_at_once, JOBS))

    assert done(queue) == Counter(range(1, JOBS + 1))
    with queue() as session:
        assert [tuple(row) for row in session.execute(select(Job.state, Job.attempts).distinct())] == [("done", 1)]
        assert len(set(session.scalars(select(Done.worker)))) > 1


def test_taking_jobs_without_a_lock_is_found_out(racers, url, queue):
    """The control: were the count blind, this would pass unseen."""
    racers.race(team_job(url, race_by_hand, min(JOBS, 250)))

    assert max(done(queue).values()) > 1


Start = Callable[[int], BaseProcess]
UNITS = (drain_at_once, drain_by_lease)


@pytest.fixture
def start(url: URL) -> Iterator[Start]:
    """Start worker number so and so, of either kind in turns; those that are left at the end are killed."""
    context = multiprocessing.get_context("spawn")
    started: list[BaseProcess] = []

    def start(number: int) -> BaseProcess:
        process = context.Process(target=drain, args=(url, f"worker {number}", UNITS[number % 2]), daemon=True)
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


def wait_until_done(queue: sessionmaker[Session], number: int) -> None:
    with queue() as session:
        while (session.scalar(select(func.count()).select_from(Done)) or 0) < number:
            session.rollback()
            time.sleep(0.01)


def test_workers_that_are_killed_lose_no_job_and_double_none(queue, start):
    """Half of them hold their jobs by locks, which go with them; half by a lease, which ends."""
    with queue.begin() as session:  # a worker that takes jobs and is never seen again
        take(session, "gone", limit=LIMIT, lease=SHORT)
    running = [start(number) for number in range(PROCESSES)]
    for kill in range(KILLS):
        wait_until_done(queue, JOBS * (kill + 1) // (2 * KILLS + 1))
        victim = running.pop(0)
        victim.kill()
        victim.join()
        running.append(start(PROCESSES + kill))
    given_back = 0
    while any(process.is_alive() for process in running):
        given_back += run_transaction(queue, tend)
        time.sleep(0.05)

    assert {process.exitcode for process in running} == {0}
    assert given_back >= LIMIT
    assert done(queue) == Counter(range(1, JOBS + 1))
    with queue() as session:
        assert session.scalars(select(Job.state).distinct()).all() == ["done"]


def test_a_job_given_up_too_often_fails(queue):
    with queue.begin() as session:
        session.execute(update(Job).where(Job.id == 1).values(attempts=4))
        claim(Job, "Start", session, Job.id < 3, limit=2, worker="slow", lease=SHORT)
        session.execute(update(Job).where(Job.id < 3).values(lease_until=utc_in(-SHORT)))
        assert tend(session) == 2

        columns = (Job.id, Job.state, Job.worker, Job.lease_until, Job.attempts)
        rows = session.execute(select(*columns).where(Job.id < 3).order_by(Job.id))
        assert rows.all() == [(1, "failed", None, None, 5), (2, "scheduled", None, None, 1)]


def flaky(session: Session, job_id: int, worker: str) -> None:
    """Every third job fails at its first attempt, and every seventh always."""
    attempts = session.scalar(select(Job.attempts).where(Job.id == job_id)) or 0
    if job_id % 7 == 0 or (job_id % 3 == 0 and attempts == 1):
        raise LookupError(job_id)
    note(session, job_id, worker)


def drain_flaky(factory: sessionmaker[Session], worker: str) -> int:
    return work(factory, worker, partial(flaky, worker=worker), limit=LIMIT)


def test_jobs_that_fail_are_tried_again_and_no_attempt_leaves_half_its_work(url, queue):
    """Eight workers on flaky jobs with two attempts each: all that can be done is done once, the others have failed."""
    with queue.begin() as session:
        session.execute(update(Job).values(most_attempts=2))
    context = multiprocessing.get_context("spawn")
    running = [context.Process(target=drain, args=(url, f"worker {n}", drain_flaky), daemon=True) for n in range(4)]
    for process in running:
        process.start()
    while any(process.is_alive() for process in running):
        run_transaction(queue, tend)
        time.sleep(0.05)

    assert {process.exitcode for process in running} == {0}
    assert done(queue) == Counter(key for key in range(1, JOBS + 1) if key % 7)
    with queue() as session:
        ended = session.execute(select(Job.id, Job.state, Job.attempts, Job.error)).all()
    for key, state, attempts, error in ended:
        if key % 7 == 0:
            assert (state, attempts, error) == ("failed", 2, "LookupError")
        else:
            assert (state, attempts, error) == ("done", 2 if key % 3 == 0 else 1, None)


# --- what one job goes through


def test_urgent_jobs_go_first(queue):
    with queue.begin() as session:
        session.execute(update(Job).where(Job.id == 17).values(priority=-5))
        assert [job.id for job in take(session, "w", limit=3)] == [17, 1, 2]


def test_a_unique_job_is_there_once_until_it_is_over(queue):
    with queue.begin() as session:
        job = job_queue.enqueue(session, unique_name="report 7", priority=-1)
        assert job is not None
        assert job_queue.enqueue(session, unique_name="report 7") is None
        (mine,) = take(session, "w", limit=1)
        assert (mine.id, job_queue.enqueue(session, unique_name="report 7")) == (job.id, None)
        assert job_queue.finish(session, mine.id, "w")
        assert job_queue.enqueue(session, unique_name="report 7") is not None


def test_a_job_of_a_later_time_waits_for_it(queue):
    with queue.begin() as session:
        job = job_queue.enqueue(session, after=timedelta(hours=1), priority=-1)
        assert (job.state, tend(session)) == ("scheduled", 0)
        session.execute(update(Job).where(Job.id == job.id).values(run_at=utc_in(-SHORT)))
        assert tend(session) == 1
        assert [one.id for one in take(session, "w", limit=1)] == [job.id]


def test_snoozing_loses_no_attempt(queue):
    with queue.begin() as session:
        (mine,) = take(session, "w", limit=1)
        assert not job_queue.snooze(session, mine.id, "another", LONG)
        assert job_queue.snooze(session, mine.id, "w", LONG)
        session.refresh(mine)
        assert (mine.state, mine.attempts, mine.worker) == ("scheduled", 0, None)
        assert mine.run_at > session.scalar(select(utc_in(timedelta(minutes=59))))


def test_cancelling_a_running_job_stops_its_worker(queue):
    with queue.begin() as session:
        (mine,) = take(session, "w", limit=1)
        key = mine.id
    assert job_queue.beat(queue, mine)
    with queue.begin() as session:
        job_queue.cancel(session, key)
    assert not job_queue.beat(queue, mine)
    with queue.begin() as session:
        assert not job_queue.finish(session, key, "w")
        assert not job_queue.fail(session, key, "w", "late")
        assert session.get_one(Job, key).state == "cancelled"
