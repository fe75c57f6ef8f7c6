"""Effects of entering and leaving, in every way a row moves: in the same statement, the most specific first."""

from __future__ import annotations

import pytest
from sqlalchemy import Integer, String
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    ANY,
    Event,
    InvalidMachine,
    Machine,
    StateMachineColumn,
    Transition,
    claim,
    fire_key,
    fire_or_create,
    fire_where,
    force_state,
    try_fire_key,
)
from sqlalchemy_fsm_mysql.databases import database_of
from tests.conformance.support import stored


class Base(DeclarativeBase):
    """The tables of this module."""


def sets(**values):
    return lambda job: values


machine = Machine(
    initial="queued",
    groups={"active": ("running", "paused"), "over": ["done", "failed"], "all": ["active", "over"]},
    events=[
        Event("Start", {"queued": "running"}),
        Event("Pause", {"running": "paused"}, effect=sets(by="event")),
        Event("Resume", {"paused": "running"}),
        Event("Beat", {"running": "running"}),
        Event("Finish", [Transition("active", "done", effect=sets(by="transition"))], effect=sets(by="event")),
        Event("Fail", {"active": "failed"}),
        Event("Retry", {"over": "queued"}),
    ],
    on_enter={
        ANY: lambda job: {"changes": job.changes + 1},
        "all": sets(by="outer", box="all"),
        "active": sets(by="inner"),
        "running": lambda job: {"runs": job.runs + 1},
        "failed": sets(by="state"),
    },
    on_exit={"active": sets(box="left active"), "queued": sets(box="left queued")},
)


class Job(Base):
    __tablename__ = "border_jobs"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine)
    changes: Mapped[int] = mapped_column(default=0)
    runs: Mapped[int] = mapped_column(default=0)
    by: Mapped[str | None] = mapped_column(String(20))
    box: Mapped[str | None] = mapped_column(String(20))


class Plain(Base):
    __tablename__ = "border_plain"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(Machine(initial="queued", events=[Event("Start", {"queued": "running"})]))


VALUES = ("state", "changes", "runs", "by", "box")


def values(session: Session, key: int = 1) -> tuple[object, ...]:
    row = stored(session, Job)[key,]
    return tuple(row[name] for name in VALUES)


@pytest.fixture
def job(session: Session) -> Job:
    job = Job(id=1)
    session.add_all([job, Plain(id=1)])
    session.flush()
    return job


def test_making_a_row_enters_nothing(session, job):
    assert values(session) == ("queued", 0, 0, None, None)


def test_the_most_specific_effect_wins(session, job):
    """A state before a group, an inner group before an outer one; of the same rank, entering before leaving."""
    job.fire("Start")
    assert values(session) == ("running", 1, 1, "inner", "left queued")


def test_a_border_is_crossed_from_outside_to_inside_only(session, job):
    for event in ("Start", "Pause", "Resume", "Beat"):
        job.fire(event)
    assert values(session) == ("running", 3, 2, "event", "left queued")


def test_the_transition_wins_over_the_event_and_the_borders(session, job):
    job.fire("Start")
    job.fire("Finish")
    assert values(session) == ("done", 2, 1, "transition", "left active")


def test_the_state_wins_over_its_groups(session, job):
    job.fire("Start")
    job.fire("Fail")
    assert values(session) == ("failed", 2, 1, "state", "left active")


def test_instance_shows_the_values(session, job):
    job.fire("Start")
    assert (job.changes, job.runs, job.by, job.box) == (1, 1, "inner", "left queued")


def test_key_set_and_claim_write_them(session):
    session.add_all(Job(id=key) for key in (1, 2, 3))
    session.flush()

    fire_key(Job, 1, "Start", session)
    fire_where(Job, "Start", session, Job.id == 2)
    (claimed,) = claim(Job, "Start", session, Job.id == 3, limit=1)

    assert {values(session, key) for key in (1, 2, 3)} == {("running", 1, 1, "inner", "left queued")}
    assert (claimed.runs, claimed.box) == (1, "left queued")


def test_one_statement(session, job, sent):
    """As many as a fire without any effect: by the locking read and on SQLite that is two."""
    with sent() as with_effects:
        fire_key(Job, 1, "Start", session)
    with sent() as without:
        fire_key(Plain, 1, "Start", session)
    assert with_effects.number == without.number


def test_groups_that_are_not_inside_each_other_conflict():
    """Unless what is more specific than both settles it."""
    clash = Machine(
        initial="a",
        events=[Event("Go", {"a": "b"}), Event("Settled", {"a": "b"}, effect=sets(by="event"))],
        groups={"left": ("b", "c"), "right": ("b", "d")},
        states=["a", "b", "c", "d"],
        initial_states=(),
        retired=["c", "d"],
        on_enter={"left": sets(by="left"), "right": sets(by="right")},
    )

    class Own(DeclarativeBase):
        pass

    class Thing(Own):
        __tablename__ = "border_things"
        id: Mapped[int] = mapped_column(primary_key=True)
        by: Mapped[str | None] = mapped_column(String(20))
        state: Mapped[str] = StateMachineColumn(clash)

    state = vars(Thing)["__state_machines__"]["state"]

    with pytest.raises(InvalidMachine, match="on_enter of group 'left' and of group 'right' both set 'by'"):
        state.event("Go")
    assert state.event("Settled").branches[0].effects


@pytest.mark.parametrize(
    ("state", "forced", "expected"),
    [
        ("queued", "running", ("running", 1, 1, "inner", "left queued")),
        ("running", "paused", ("paused", 1, 0, None, None)),
        ("running", "failed", ("failed", 1, 0, "state", "left active")),
        ("failed", "failed", ("failed", 0, 0, None, None)),
    ],
)
def test_forced_states_write_them(session, state, forced, expected):
    job = Job(id=1, state=state)
    session.add(job)
    session.flush()

    force_state(job, forced, session)

    assert values(session) == expected
    assert tuple(getattr(job, name) for name in VALUES) == expected


def test_statement_is_that_of_effects_on_the_transitions(session):
    """So entering costs what the same effects cost when they are written on each transition."""
    stamp, clear = sets(by="entered"), sets(box="left")
    machines = [
        Machine(initial="a", events=[Event("Go", {"a": "b"})], on_enter={"b": stamp}, on_exit={"a": clear}),
        Machine(
            initial="a",
            events=[
                Event("Go", [Transition("a", "b", effect=lambda job: {**stamp(job), **clear(job)})]),
            ],
        ),
    ]
    texts = []
    for same in machines:

        class Own(DeclarativeBase):
            pass

        model = type(
            "Thing",
            (Own,),
            {
                "__tablename__": "border_same",
                "id": mapped_column(Integer, primary_key=True),
                "by": mapped_column(String(20)),
                "box": mapped_column(String(20)),
                "state": StateMachineColumn(same),
            },
        )
        event = vars(model)["__state_machines__"]["state"].event("Go")
        texts.append([str(statement) for statement in database_of(session.connection()).rows.statements(event)])

    assert texts[0] == texts[1]


@pytest.mark.parametrize("exists", [False, True])
def test_fire_or_create_enters_what_the_event_leads_to(session, exists):
    if exists:
        session.add(Job(id=1))
        session.flush()
        session.expunge_all()

    moved = fire_or_create(Job(id=1), "Start", session)

    assert (moved.created, moved.source, moved.target) == (not exists, "queued", "running")
    assert values(session) == ("running", 1, 1, "inner", "left queued")
    assert (moved.instance.runs, moved.instance.box) == (1, "left queued")


def test_keys_write_them(session):
    session.add_all([Job(id=1), Job(id=2)])
    session.flush()
    for key in (1, 2):
        assert try_fire_key(Job, key, "Start", session)
    assert values(session, 1) == values(session, 2) == ("running", 1, 1, "inner", "left queued")


def test_row_in_an_undeclared_state_is_forced_from_outside(session):
    """It enters, and leaves nothing: the machine does not know where it was."""
    if session.get_bind().dialect.name != "sqlite":
        pytest.skip("the ENUM takes no other text")
    connection = session.connection()
    # The pool may give another connection after the rollback, and this one would keep the setting.
    driver = connection.connection.dbapi_connection
    connection.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
    session.connection().exec_driver_sql("INSERT INTO border_jobs (id, state, changes, runs) VALUES (5, 'lost', 0, 0)")

    try:
        force_state(session.get_one(Job, 5), "running", session)

        assert values(session, 5) == ("running", 1, 1, "inner", "all")
    finally:
        session.rollback()
        driver.execute("PRAGMA ignore_check_constraints = OFF")


def test_payload_of_a_border_needs_a_default_to_be_forced(session):
    needs = Machine(
        initial="a",
        events=[Event("Go", {"a": "b"})],
        on_enter={"b": lambda job, by: {"by": by}},
    )

    class Own(DeclarativeBase):
        pass

    class Thing(Own):
        __tablename__ = "border_needs"
        id: Mapped[int] = mapped_column(primary_key=True)
        by: Mapped[str | None] = mapped_column(String(20))
        state: Mapped[str] = StateMachineColumn(needs)

    state = vars(Thing)["__state_machines__"]["state"]

    with pytest.raises(TypeError, match="forcing 'b' writes an effect of on_enter or on_exit that needs 'by'"):
        state.forced_to("b")


@pytest.mark.parametrize(
    ("effect", "told"),
    [
        (lambda job: {"state": "a"}, "its on_enter of 'b' sets 'state', the machine's own state"),
        (lambda job: {"nothing": 1}, "its on_enter of 'b' sets 'nothing', which is not a column attribute"),
        (lambda job: 5, "its on_enter of 'b' returned int"),
    ],
)
def test_border_effect_that_cannot_be_written(effect, told):
    wrong = Machine(initial="a", events=[Event("Go", {"a": "b"})], on_enter={"b": effect})

    class Own(DeclarativeBase):
        pass

    class Thing(Own):
        __tablename__ = "border_wrong"
        id: Mapped[int] = mapped_column(primary_key=True)
        state: Mapped[str] = StateMachineColumn(wrong)

    with pytest.raises(InvalidMachine, match=told):
        vars(Thing)["__state_machines__"]["state"].event("Go")
