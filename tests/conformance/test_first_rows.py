"""``fire_where`` with ``limit=``, ``order_by=`` and ``keys=True``: the first rows of a set, and which ones moved."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, Engine, func, insert, select, true
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    Machine,
    MovedRows,
    StateMachineColumn,
    Transition,
    TransitionHistory,
    fire_where,
)
from tests.conformance.session_support import is_sqlite, statements

Place = Session | Connection

machine = Machine(
    initial="queued",
    events=[
        Event("Start", {("queued", "failed"): "running"}),
        Event(
            "Fail",
            [Transition("running", "failed", guard=lambda job: job.tries < 2), Transition("running", "dead")],
            effect=lambda job: {"tries": job.tries + 1},
        ),
    ],
)


class Base(DeclarativeBase):
    """The tables of this module."""


class Job(Base):
    __tablename__ = "first_jobs"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine)
    priority: Mapped[int] = mapped_column(default=0)
    tries: Mapped[int] = mapped_column(default=0)


class Recorded(Base):
    __tablename__ = "first_recorded"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine)
    priority: Mapped[int] = mapped_column(default=0)
    tries: Mapped[int] = mapped_column(default=0)


class RecordedTransition(TransitionHistory, Base):
    __tablename__ = "first_recorded_transitions"
    __records__ = Recorded.state


@pytest.fixture(params=["session", "connection"])
def place(request: pytest.FixtureRequest, backend_engine: Engine, tables: None) -> Iterator[Place]:
    """Where events are fired; each model has five jobs, 2 of them failed and 4 running."""
    with backend_engine.begin() as connection:
        for model in (Job, Recorded):
            connection.execute(model.__table__.delete())
            rows = [(1, "queued", 5), (2, "failed", 1), (3, "queued", 2), (4, "running", 0), (5, "queued", 9)]
            connection.execute(
                insert(model.__table__),
                [{"id": key, "state": state, "priority": priority} for key, state, priority in rows],
            )
        connection.execute(RecordedTransition.__table__.delete())
    with Session(backend_engine) if request.param == "session" else backend_engine.connect() as opened:
        yield opened


@pytest.mark.parametrize("model", [Job, Recorded])
def test_the_first_rows_in_an_order_move_and_their_keys_are_told(place: Place, model, backend_engine: Engine) -> None:
    moved = fire_where(model, "Start", place, true(), limit=2, order_by=model.priority, keys=True)
    assert moved == MovedRows(
        model,
        "Start",
        2,
        {("failed", "running"): 1, ("queued", "running"): 1},
        keys={2: ("failed", "running"), 3: ("queued", "running")},
    )
    rest = fire_where(model, "Start", place, model.id > 0, limit=9, order_by=[model.priority.desc(), "id"], keys=True)
    place.commit()

    assert list(rest.keys or ()) == [5, 1]
    if model is Recorded:
        with Session(backend_engine) as session:
            recorded = session.scalars(select(RecordedTransition).order_by(RecordedTransition.record_id))
            told = [(row.record_id, row.sequence, row.source) for row in recorded]
        assert told == [(1, 1, "queued"), (2, 1, "failed"), (3, 1, "queued"), (5, 1, "queued")]


def test_without_an_order_the_primary_key_decides(place: Place) -> None:
    assert fire_where(Job, "Start", place, true(), limit=3, keys=True).keys == {
        1: ("queued", "running"),
        2: ("failed", "running"),
        3: ("queued", "running"),
    }
    assert fire_where(Job, "Start", place, true(), limit=1).keys is None


def test_a_limit_is_two_statements(place: Place, backend_engine: Engine) -> None:
    place.execute(select(1))
    with statements(backend_engine) as sent:
        fire_where(Job, "Start", place, true(), limit=3, keys=True)
    assert len(sent) == 2 + is_sqlite(backend_engine)  # SQLite's write lock


def test_keys_of_all_rows_and_of_batches(place: Place) -> None:
    fire_where(Job, "Start", place, Job.id != 5)
    edges = dict.fromkeys((1, 2, 3, 4), ("running", "failed"))
    assert fire_where(Job, "Fail", place, Job.tries < 7, batch_size=2, keys=True).keys == edges
    fire_where(Job, "Start", place, true())
    moved = fire_where(Job, "Fail", place, true(), keys=True)

    assert moved.keys == dict.fromkeys((1, 2, 3, 4, 5), ("running", "failed"))
    assert fire_where(Job, "Fail", place, true(), keys=True).keys == {}
    assert fire_where(Job, "Start", place, true(), max_rows=5, keys=True).moved == 5


def test_a_guarded_event_moves_each_of_the_first_rows_its_own_way(place: Place) -> None:
    fire_where(Job, "Start", place, true())
    place.execute(Job.__table__.update().where(Job.__table__.c.id == 2).values(tries=2))
    moved = fire_where(Job, "Fail", place, true(), limit=3, keys=True)

    assert moved.keys == {1: ("running", "failed"), 2: ("running", "dead"), 3: ("running", "failed")}
    tries = place.execute(select(Job.__table__.c.tries).order_by(Job.__table__.c.id)).scalars().all()
    assert list(tries) == [1, 3, 1, 0, 0]


def test_the_outcome_is_ready_for_json(place: Place) -> None:
    told = fire_where(Job, "Start", place, Job.id == 1, keys=True).to_dict()

    assert told["keys"] == [{"key": 1, "source": "queued", "target": "running"}]
    assert "keys" not in fire_where(Job, "Fail", place, Job.id == 1).to_dict()


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"order_by": Job.priority}, TypeError, "there is no limit="),
        ({"limit": 0}, ValueError, "limit=0; it must be a number of rows, at least 1"),
        ({"limit": 1, "batch_size": 2}, TypeError, "neither batch_size= nor max_rows="),
        ({"limit": 1, "max_rows": 2}, TypeError, "neither batch_size= nor max_rows="),
        ({"limit": 1, "order_by": "nothing"}, TypeError, "it must be an SQL expression"),
        ({"limit": 1, "order_by": Recorded.priority}, TypeError, "order_by= reads first_recorded.priority"),
        ({"keys": 1}, TypeError, "it must be True or False"),
    ],
)
def test_wrong_arguments(place: Place, backend_engine: Engine, wrong, error, message) -> None:
    with statements(backend_engine) as sent, pytest.raises(error, match=message):
        fire_where(Job, "Start", place, true(), **wrong)
    assert sent == []


def test_an_order_by_an_expression(place: Place) -> None:
    moved = fire_where(Job, "Start", place, true(), limit=1, order_by=func.abs(Job.priority - 9), keys=True)
    assert list(moved.keys or ()) == [5]
