"""Calls whose criteria differ in their values only: they share their statements, and never their values."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import String, bindparam, func, insert, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import Event, Machine, StateMachineColumn, claim, fire_where
from sqlalchemy_fsm_mysql.orm import criteria
from sqlalchemy_fsm_mysql.orm.mapped import mapped_event
from tests.conformance.session_support import is_sqlite, statements

machine = Machine(
    initial="queued",
    events=[
        Event("Start", {"queued": "running"}),
        Event(
            "Take",
            {"queued": "running"},
            effect=lambda job, worker: {"tries": job.tries + 1, "worker": worker, "began": func.now()},
        ),
        Event("Stop", {("queued", "running"): "stopped"}),
        Event("Reset", {("running", "stopped"): "queued"}),
    ],
)


class Base(DeclarativeBase):
    """The tables of this module."""


class Job(Base):
    __tablename__ = "repeated_jobs"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(10), default="job")
    state: Mapped[str] = StateMachineColumn(machine)
    priority: Mapped[int] = mapped_column(default=0)
    tries: Mapped[int] = mapped_column(default=0)
    worker: Mapped[str | None] = mapped_column(String(10))
    began: Mapped[datetime | None]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "job"}


class Mail(Job):
    __mapper_args__ = {"polymorphic_identity": "mail"}


class Plain(Base):
    __tablename__ = "repeated_plain"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine)
    priority: Mapped[int] = mapped_column(default=0)
    tries: Mapped[int] = mapped_column(default=0)
    worker: Mapped[str | None] = mapped_column(String(10))
    began: Mapped[datetime | None]


@pytest.fixture
def jobs(session: Session) -> Session:
    rows = [{"id": key, "state": "queued", "priority": key % 3} for key in range(1, 10)]
    session.execute(insert(Job.__table__), [{**row, "kind": "mail" if row["id"] > 6 else "job"} for row in rows])
    session.execute(insert(Plain.__table__), rows)
    return session


def running(session: Session, model: Any = Job) -> list[int]:
    table = Job.__table__ if issubclass(model, Job) else model.__table__
    return list(session.execute(select(table.c.id).where(table.c.state == "running").order_by(table.c.id)).scalars())


def shapes(model: Any, event: str) -> int:
    return len(mapped_event(model, event)[1].cache.get("shapes", ()))


def test_each_call_has_its_own_values(jobs: Session) -> None:
    before = shapes(Job, "Start")
    for keys, priority in (([1], 1), ([1, 2, 3, 4], 2), ([5, 6], 0), ([], 1)):
        fire_where(Job, "Start", jobs, Job.id.in_(keys), Job.priority == priority)
    assert running(jobs) == [1, 2, 6]
    assert shapes(Job, "Start") <= before + 1

    fire_where(Job, "Start", jobs, Job.priority == 1, Job.id.in_([4]))
    fire_where(Job, "Start", jobs, Job.id == 7)
    fire_where(Job, "Start", jobs, Job.id > 8)
    assert running(jobs) == [1, 2, 4, 6, 7, 9]


def test_a_class_and_its_subclass_keep_apart(jobs: Session) -> None:
    fire_where(Mail, "Start", jobs, Job.id > 5)
    assert running(jobs) == [7, 8, 9]
    fire_where(Job, "Start", jobs, Job.id > 5)
    assert running(jobs) == [6, 7, 8, 9]


def test_values_that_are_made_at_the_call(jobs: Session) -> None:
    key = 1
    for key in (3, 4):
        fire_where(Job, "Start", jobs, Job.id == bindparam("wanted", callable_=lambda: key))
    assert running(jobs) == [3, 4]


def test_batches_and_limits_of_a_shared_criterion(jobs: Session) -> None:
    for limit in (1, 2):
        fire_where(Job, "Start", jobs, Job.priority >= 1, limit=limit, order_by=Job.priority.desc())
    assert running(jobs) == [2, 5, 8]
    assert fire_where(Job, "Stop", jobs, Job.id < 6, batch_size=2).moved == 5
    assert fire_where(Job, "Stop", jobs, Job.id < 9, batch_size=3).moved == 3


def test_any_number_of_criteria_keeps_a_bounded_number_of_statements(
    jobs: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(criteria, "_SHAPES", 5)
    for number in range(1, 14):
        fire_where(Plain, "Start", jobs, *[Plain.id < 5] * number)
        assert shapes(Plain, "Start") <= 5
    assert running(jobs, Plain) == [1, 2, 3, 4]


def test_claims_share_their_statements_and_not_their_limits(jobs: Session) -> None:
    first = claim(Plain, "Take", jobs, Plain.priority > 0, limit=1, order_by=[Plain.priority, Plain.id], worker="ann")
    others = claim(Plain, "Take", jobs, Plain.priority > 1, limit=5, order_by=[Plain.priority, Plain.id], worker="bob")
    latest = claim(Plain, "Take", jobs, Plain.priority > 0, limit=1, order_by=Plain.id.desc(), worker="cid")

    assert [job.id for job in (*first, *others, *latest)] == [1, 2, 5, 8, 7]
    assert [(job.worker, job.tries, job.state) for job in (first[0], others[0])] == [
        ("ann", 1, "running"),
        ("bob", 1, "running"),
    ]


def test_a_claim_with_effects_is_three_statements_and_shows_what_they_wrote(jobs: Session) -> None:
    jobs.execute(select(1))
    with statements(jobs.get_bind()) as sent:
        claimed = claim(Plain, "Take", jobs, Plain.id < 4, limit=3, worker="ann")
    assert len(sent) == 3 + is_sqlite(jobs.get_bind())  # SQLite's write lock
    with statements(jobs.get_bind()) as sent:
        assert [(job.tries, job.worker, job.priority) for job in claimed] == [
            (1, "ann", 1),
            (1, "ann", 2),
            (1, "ann", 0),
        ]
        assert all(job.began is not None for job in claimed)
    assert sent == []
    assert not jobs.dirty


def test_what_a_claim_shows_is_undone_with_its_savepoint(jobs: Session) -> None:
    savepoint = jobs.begin_nested()
    (job,) = claim(Plain, "Take", jobs, Plain.id == 4, limit=1, worker="ann")
    savepoint.rollback()

    assert (job.state, job.tries, job.worker) == ("queued", 0, None)
