"""Workers take rows: at most so many, in order, none that somebody else holds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import Engine, ForeignKey, String, event, exists, func, inspect, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from sqlalchemy_fsm_mysql import (
    Event,
    InstanceStateError,
    Machine,
    Moved,
    StateMachineColumn,
    TransactionAborted,
    TransactionRequired,
    Transition,
    TransitionHistory,
    UnknownEvent,
    claim,
    on_committed,
    on_moved,
    remove_hook,
)
from tests.conformance.support import stored

machine = Machine(
    initial="waiting",
    events=[
        Event(
            "Start",
            [
                Transition("waiting", "given up", guard=lambda job, worker: job.attempts >= 3),
                Transition("waiting", "running"),
            ],
            effect=lambda job, worker: {"worker": worker, "attempts": job.attempts + 1, "since": func.now()},
        ),
        Event("Take", {"waiting": "running"}),
        Event("Finish", {"running": "done"}),
    ],
)


class Base(DeclarativeBase):
    """The tables of this module."""


class Queue(Base):
    __tablename__ = "claim_queues"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))


class Work:
    """What the events read and write."""

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine)
    priority: Mapped[int] = mapped_column(default=0)
    attempts: Mapped[int] = mapped_column(default=0)
    worker: Mapped[str | None] = mapped_column(String(20))
    since: Mapped[datetime | None]


class Job(Work, Base):
    __tablename__ = "claim_jobs"

    queue_id: Mapped[int | None] = mapped_column(ForeignKey(Queue.id))
    queue: Mapped[Queue | None] = relationship(lazy="joined")
    parts: Mapped[list[Part]] = relationship(lazy="joined")


class Part(Base):
    """A collection that is always loaded with its job."""

    __tablename__ = "claim_parts"

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey(Job.id))


class Plain(Work, Base):
    """Nothing is loaded along with it, and nothing but its state is changed by ``Take``."""

    __tablename__ = "claim_plain"


class Recorded(Base):
    __tablename__ = "claim_recorded"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(10))
    state: Mapped[str] = StateMachineColumn(machine)
    attempts: Mapped[int] = mapped_column(default=0)
    worker: Mapped[str | None] = mapped_column(String(20))
    since: Mapped[datetime | None]
    version: Mapped[int] = mapped_column()

    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "recorded", "version_id_col": version}


class Special(Recorded):
    __mapper_args__ = {"polymorphic_identity": "special"}


class RecordedTransition(TransitionHistory, Base):
    __tablename__ = "claim_recorded_transitions"
    __records__ = "Recorded.state"


@pytest.fixture
def database(backend_engine: Engine, tables: None) -> Iterator[Engine]:
    """The engine with nine committed jobs: three queues of three, the priority against the key."""
    with Session(backend_engine) as session:
        session.add_all(Queue(id=i, name=f"queue {i}") for i in (1, 2, 3))
        session.flush()
        session.add_all(Job(id=i, priority=10 - i, queue_id=1 + i % 3) for i in range(1, 10))
        session.flush()
        session.add_all(Part(id=10 * i + j, job_id=i) for i in (1, 2) for j in (1, 2))
        session.commit()
    yield backend_engine
    with backend_engine.begin() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(table.delete())


@pytest.fixture
def mine(database: Engine) -> Iterator[Session]:
    with Session(database) as session:
        yield session


@pytest.fixture
def theirs(database: Engine) -> Iterator[Session]:
    with Session(database) as session:
        yield session


def ids(jobs: list[Any]) -> list[int]:
    return [inspect(job).identity[0] for job in jobs]


def states(session: Session, model: Any = Job) -> dict[int, str]:
    return {key: row["state"] for (key,), row in stored(session, model).items()}


# --- which rows, how many, in which order


def test_it_takes_at_most_limit_rows_and_moves_no_others(mine):
    jobs = claim(Job, "Take", mine, limit=4)

    assert ids(jobs) == [1, 2, 3, 4]
    assert states(mine) == {i: "running" if i < 5 else "waiting" for i in range(1, 10)}


def test_it_takes_what_there_is_when_that_is_less(mine):
    assert ids(claim(Job, "Take", mine, Job.id > 7, limit=100)) == [8, 9]
    assert claim(Job, "Take", mine, Job.id > 7, limit=100) == []


@pytest.mark.parametrize(
    "order_by, expected",
    [
        (None, [1, 2, 3]),
        (Job.priority, [9, 8, 7]),
        ((Job.queue_id, Job.priority), [9, 6, 3]),
        ([Job.id.desc()], [9, 8, 7]),
    ],
    ids=["the key", "one", "a tuple", "a list"],
)
def test_the_instances_come_in_the_order_asked_for(mine, order_by, expected):
    assert ids(claim(Job, "Take", mine, limit=3, order_by=order_by)) == expected


@pytest.mark.parametrize(
    "criteria",
    [
        lambda: [Job.queue_id == 2],
        lambda: [Job.__table__.c.queue_id == 2],
        lambda: [Job.queue.has(Queue.name == "queue 2")],
        lambda: [exists().where(Queue.id == Job.queue_id, Queue.name == "queue 2")],
        lambda: [Queue.id == Job.queue_id, Queue.name == "queue 2"],
        lambda: [Job.id.in_(select(Job.id).where(Job.queue_id == 2))],
    ],
    ids=["attribute", "Core column", "relationship", "exists", "another table", "subquery on the same table"],
)
def test_criteria_are_any_sql_on_the_model(mine, criteria):
    assert ids(claim(Job, "Take", mine, *criteria(), limit=2)) == [1, 4]


def test_a_subclass_takes_its_own_rows(mine):
    mine.add_all([Recorded(id=1), Special(id=2), Special(id=3)])
    mine.flush()

    assert ids(claim(Special, "Take", mine, limit=9)) == [2, 3]
    assert states(mine, Recorded) == {1: "waiting", 2: "running", 3: "running"}


def test_rows_that_the_event_cannot_move_do_not_count_for_the_limit(mine):
    claim(Job, "Take", mine, Job.id.in_([1, 3]), limit=2)

    assert ids(claim(Job, "Take", mine, limit=3)) == [2, 4, 5]


@pytest.mark.parametrize("limit", [0, -1, 2.5, None, "5"])
def test_a_limit_is_a_positive_number_of_rows(mine, limit):
    with pytest.raises(ValueError, match="limit="):
        claim(Job, "Take", mine, limit=limit)


def test_an_unknown_event_is_an_error(mine):
    with pytest.raises(UnknownEvent):
        claim(Job, "Explode", mine, limit=1)


# --- who holds them


@pytest.mark.servers_only
def test_rows_that_somebody_else_has_claimed_are_passed_over(mine, theirs):
    assert ids(claim(Job, "Take", theirs, limit=2)) == [1, 2]
    assert ids(claim(Job, "Take", mine, limit=2)) == [3, 4]


@pytest.mark.servers_only
def test_rows_that_somebody_else_has_merely_locked_are_passed_over(mine, theirs):
    theirs.execute(select(Job.id).where(Job.id.in_([1, 3])).with_for_update())

    assert ids(claim(Job, "Take", mine, limit=3)) == [2, 4, 5]


@pytest.mark.servers_only
def test_two_workers_in_turns_never_get_the_same_row(mine, theirs):
    taken = [job for session in (mine, theirs) * 3 for job in ids(claim(Job, "Take", session, limit=2))]

    assert sorted(taken) == [1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_a_worker_that_rolls_back_gives_its_rows_back(mine, theirs):
    jobs = claim(Job, "Take", theirs, limit=2)
    theirs.rollback()

    assert jobs[0].state == "waiting"
    theirs.rollback()
    assert ids(claim(Job, "Take", mine, limit=2)) == [1, 2]


def test_a_rolled_back_savepoint_gives_them_back_too(mine):
    mine.connection().exec_driver_sql("SELECT 1")
    savepoint = mine.begin_nested()
    jobs = claim(Job, "Take", mine, limit=2)
    savepoint.rollback()

    assert [job.state for job in jobs] == ["waiting", "waiting"]


def test_committed_rows_are_not_taken_again(mine, theirs):
    claim(Job, "Take", theirs, limit=2)
    theirs.commit()

    assert ids(claim(Job, "Take", mine, limit=2)) == [3, 4]


# --- what the instances show


def test_the_instances_show_the_event_and_its_effects(mine):
    (job,) = claim(Job, "Start", mine, limit=1, worker="w1")

    assert (job.state, job.worker, job.attempts) == ("running", "w1", 1)
    assert job.since is not None


def test_each_row_takes_the_transition_whose_guard_holds(mine):
    mine.get_one(Job, 2).attempts = 3

    jobs = claim(Job, "Start", mine, limit=3, worker="w1")

    assert [(job.id, job.state, job.attempts) for job in jobs] == [
        (1, "running", 1),
        (2, "given up", 4),
        (3, "running", 1),
    ]


def test_an_instance_that_was_read_before_is_read_anew(mine, theirs):
    job = mine.get_one(Job, 1)
    mine.rollback() if mine.connection().dialect.name == "sqlite" else None
    job_priority = job.priority
    mine.commit()
    mine.expire_on_commit = False
    held = mine.get_one(Job, 1)
    mine.commit()
    theirs.get_one(Job, 1).priority = 77
    theirs.commit()
    assert held.priority == job_priority

    (claimed,) = claim(Job, "Take", mine, limit=1)

    assert claimed is held
    assert (held.priority, held.state) == (77, "running")


def test_an_unflushed_edit_is_stored_first(mine):
    mine.get_one(Job, 1).priority = 55

    (job,) = claim(Job, "Take", mine, Job.priority == 55, limit=1)

    assert (job.id, job.priority) == (1, 55)


CLAIMS = {
    "Take": lambda session, model: claim(model, "Take", session, model.id == 1, limit=1),
    "Start": lambda session, model: claim(model, "Start", session, model.id == 1, limit=1, worker="w"),
}


@pytest.mark.parametrize("model", [Plain, Job])
@pytest.mark.parametrize("way", CLAIMS)
def test_an_edit_that_is_not_flushed_survives(mine, theirs, way, model):
    """Where autoflush is off; the other columns are those of the row."""
    plain(mine)
    held = mine.get_one(model, 1)
    with mine.no_autoflush:
        held.priority = 55
        theirs.get_one(model, 1).attempts = 2
        theirs.commit()
        mine.connection()
        (claimed,) = CLAIMS[way](mine, model)

    assert claimed is held
    assert (held.priority, held.attempts, held.state) == (55, 2 if way == "Take" else 3, "running")
    assert stored(mine, model)[1,]["priority"] != 55
    mine.commit()
    assert stored(mine, model)[1,]["priority"] == 55


def test_an_edit_of_an_object_that_is_loaded_along_survives(mine):
    job = mine.get_one(Job, 1)
    queue = job.queue
    with mine.no_autoflush:
        queue.name = "edited"
        claim(Job, "Take", mine, Job.id == 1, limit=1)
        assert job.queue is queue
    mine.commit()

    assert stored(mine, Queue)[queue.id,]["name"] == "edited"


def test_an_edited_instance_with_a_version_is_refused(mine):
    """Its claim makes the version that the edit was made on one of the past."""
    mine.add(Recorded(id=1))
    mine.commit()
    held = mine.get_one(Recorded, 1)
    with mine.no_autoflush:
        held.attempts = 5
        with pytest.raises(InstanceStateError, match="Recorded 1 has edits that are not flushed"):
            claim(Recorded, "Take", mine, limit=1)
        mine.flush()
        assert claim(Recorded, "Take", mine, limit=1) == [held]


REPEATED = Machine(
    initial="running",
    events=[
        Event("Renew", {"running": "running"}, effect=lambda lease, worker: {"worker": worker}),
        Event("Touch", {"running": "running"}),
    ],
)


class Lease(Base):
    __tablename__ = "claim_leases"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    worker: Mapped[int] = mapped_column(default=7)
    note: Mapped[str] = mapped_column(String(10), default="old")
    queue_id: Mapped[int | None] = mapped_column(ForeignKey(Queue.id))
    state: Mapped[str] = StateMachineColumn(REPEATED)


class Joined(Base):
    """The same with a table that each query reads along."""

    __tablename__ = "claim_joined_leases"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    worker: Mapped[int] = mapped_column(default=7)
    note: Mapped[str] = mapped_column(String(10), default="old")
    queue_id: Mapped[int | None] = mapped_column(ForeignKey(Queue.id))
    queue: Mapped[Queue | None] = relationship(lazy="joined")
    state: Mapped[str] = StateMachineColumn(REPEATED)


@pytest.mark.servers_only
@pytest.mark.parametrize("model", [Lease, Joined])
@pytest.mark.parametrize(("name", "payload"), [("Renew", {"worker": 7}), ("Renew", {"worker": 8}), ("Touch", {})])
@pytest.mark.parametrize("is_held", [False, True])
def test_a_claimed_instance_is_never_of_an_old_snapshot(database, theirs, model, name, payload, is_held):
    """Under REPEATABLE READ, an UPDATE that changes nothing makes no version of the row that a plain read would see."""
    theirs.add(model(id=1))
    theirs.commit()
    with Session(database.execution_options(isolation_level="REPEATABLE READ")) as session:
        held = session.get_one(model, 1) if is_held else None
        session.execute(select(func.count()).select_from(Queue)).all()
        theirs.get_one(model, 1).note = "new"
        theirs.commit()
        try:
            (claimed,) = claim(model, name, session, limit=1, **payload)
        except TransactionAborted as error:  # MariaDB refuses a snapshot that is not the latest
            assert error.code == 1020
            return

        assert claimed.note == "new"
        assert claimed.worker == payload.get("worker", 7)
        assert held in (None, claimed)


@pytest.mark.servers_only
def test_a_claim_does_not_lock_the_rows_that_are_loaded_along(mine, theirs):
    claim(Job, "Take", mine, Job.queue_id == 1, limit=1)

    assert len(claim(Job, "Take", theirs, Job.queue_id == 1, limit=1)) == 1
    assert theirs.scalar(select(Queue.name).where(Queue.id == 1).with_for_update(nowait=True)) == "queue 1"


def sent_by(engine: Engine, work: Any) -> tuple[Any, list[str]]:
    """What *work* returns, and the first words of the SELECTs and UPDATEs it sends; SQLite's lock is an UPDATE, too."""
    words: list[str] = []

    def sent(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        words.append(statement.split(maxsplit=1)[0])

    event.listen(engine, "before_cursor_execute", sent)
    try:
        return work(), [word for word in words if word in ("SELECT", "UPDATE")]
    finally:
        event.remove(engine, "before_cursor_execute", sent)


def plain(session: Session) -> None:
    session.add_all(Plain(id=i) for i in (1, 2, 3))
    session.commit()


def test_the_select_that_locks_also_loads_when_only_the_state_changes(database, mine):
    plain(mine)

    jobs, sent = sent_by(database, lambda: claim(Plain, "Take", mine, limit=2))

    assert sent[-2:] == ["SELECT", "UPDATE"]
    assert sent.count("SELECT") == 1
    assert [(job.id, job.state, job.priority) for job in jobs] == [(1, "running", 0), (2, "running", 0)]
    assert not mine.dirty
    assert states(mine, Plain) == {1: "running", 2: "running", 3: "waiting"}


def test_effects_are_read_after_the_move(database, mine):
    plain(mine)

    (job,), sent = sent_by(database, lambda: claim(Plain, "Start", mine, limit=1, worker="w1"))

    assert sent[-3:] == ["SELECT", "UPDATE", "SELECT"]
    assert (job.state, job.worker, job.attempts) == ("running", "w1", 1)


def test_what_somebody_else_has_changed_is_in_a_plain_instance_too(mine, theirs):
    plain(mine)
    mine.expire_on_commit = False
    held = mine.get_one(Plain, 1)
    mine.commit()
    theirs.get_one(Plain, 1).priority = 77
    theirs.commit()
    snapshot = mine.scalar(select(func.count()).select_from(Plain))

    (claimed,) = claim(Plain, "Take", mine, limit=1)

    assert (snapshot, claimed is held, held.priority, held.state) == (3, True, 77, "running")


def test_a_listener_of_loads_sees_the_new_state(mine):
    plain(mine)
    seen: list[str] = []

    def loaded(job: Plain, *_: Any) -> None:
        seen.append(job.state)

    mine.expunge_all()
    event.listen(Plain, "load", loaded)
    try:
        claim(Plain, "Take", mine, limit=2)
    finally:
        event.remove(Plain, "load", loaded)

    assert seen == ["running", "running"]


def test_a_claim_that_is_rolled_back_shows_the_old_state_again(mine):
    plain(mine)
    with mine.begin_nested() as savepoint:
        (job,) = claim(Plain, "Take", mine, limit=1)
        savepoint.rollback()

    assert job.state == "waiting"


def test_collections_that_are_loaded_eagerly_do_not_change_the_number_of_rows(mine):
    jobs = claim(Job, "Take", mine, limit=3)

    assert ids(jobs) == [1, 2, 3]
    assert [len(job.parts) for job in jobs] == [2, 2, 0]


def test_claimed_instances_can_be_edited_and_fired_on(mine, theirs):
    (job,) = claim(Job, "Take", mine, limit=1)
    job.priority = 3
    job.fire("Finish")
    mine.commit()

    assert (theirs.get_one(Job, 1).state, theirs.get_one(Job, 1).priority) == ("done", 3)


def test_the_version_goes_up_with_the_claim(mine):
    mine.add_all([Recorded(id=1), Recorded(id=2)])
    mine.flush()

    (row,) = claim(Recorded, "Take", mine, limit=1)
    row.worker = "w1"
    mine.flush()

    assert [stored["version"] for stored in stored(mine, Recorded).values()] == [3, 1]


# --- history, hooks, sessions


def test_every_claimed_row_gets_its_record(mine):
    mine.add_all([Recorded(id=1), Recorded(id=2, attempts=3), Recorded(id=3)])
    mine.flush()

    claim(Recorded, "Start", mine, limit=2, worker="w1", actor="w1", details={"host": "a"})

    rows = mine.scalars(select(RecordedTransition).order_by(RecordedTransition.record_id)).all()
    assert [
        (row.record_id, row.sequence, row.event, row.source, row.target, row.actor, row.details) for row in rows
    ] == [
        (1, 1, "Start", "waiting", "running", "w1", {"host": "a"}),
        (2, 1, "Start", "waiting", "given up", "w1", {"host": "a"}),
    ]


def test_hooks_are_told_of_each_row_in_order(mine):
    told: list[tuple[str, Any, Any]] = []

    @on_moved(Job.state, event="Start")
    def moved(moved: Moved[Job], session: Session) -> None:
        told.append(
            ("moved", moved.key, (moved.instance.worker, moved.source, moved.target, dict(moved.payload), moved.actor))
        )

    @on_committed(Job.state, event="Start")
    def committed(moved: Moved[Job]) -> None:
        told.append(("committed", moved.key, None))

    try:
        claim(Job, "Start", mine, limit=2, order_by=Job.priority, worker="w1", actor="me")
        assert told == [("moved", key, ("w1", "waiting", "running", {"worker": "w1"}, "me")) for key in (9, 8)]
        mine.commit()
        assert told[2:] == [("committed", 9, None), ("committed", 8, None)]
    finally:
        remove_hook(Job.state, moved)
        remove_hook(Job.state, committed)


def test_in_autocommit_it_is_refused_because_no_lock_would_be_kept(database):
    with Session(database.execution_options(isolation_level="AUTOCOMMIT")) as session:
        with pytest.raises(TransactionRequired, match="AUTOCOMMIT"):
            claim(Job, "Take", session, limit=1)
        assert set(states(session).values()) == {"waiting"}


@pytest.mark.servers_only
def test_it_needs_three_statements_and_one_for_each_further_transition(mine):
    plain(mine)
    texts: list[str] = []
    mine.connection()
    event.listen(mine.connection(), "before_cursor_execute", lambda *said: texts.append(said[2].split()[0]))

    claim(Plain, "Start", mine, limit=5, worker="w")
    assert texts == ["SELECT", "SAVEPOINT", "UPDATE", "SELECT"]
    texts.clear()
    # The query that loads another table along locks nothing, so another one reads the latest columns.
    claim(Job, "Take", mine, limit=5)
    assert texts == ["SELECT", "UPDATE", "SELECT", "SELECT"]


def test_an_async_session_awaits_it(tmp_path):
    async def run() -> list[tuple[int, str]]:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'async.db'}")
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with AsyncSession(engine, expire_on_commit=False) as session:
            session.add_all([Job(id=1), Job(id=2), Job(id=3)])
            await session.commit()
            jobs = await claim(Job, "Take", session, limit=2)
            await session.commit()
            found = [(job.id, job.state) for job in jobs]
        await engine.dispose()
        return found

    assert asyncio.run(run()) == [(1, "running"), (2, "running")]
