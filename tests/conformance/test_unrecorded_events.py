"""Events that are left out of the history: heartbeats."""

from __future__ import annotations

import pytest
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    Machine,
    StateMachineColumn,
    TransitionHistory,
    claim,
    fire_key,
    fire_where,
    on_moved,
    replay,
)
from tests.conformance.support import stored


class Base(DeclarativeBase):
    """The tables of this module."""


machine = Machine(
    initial="idle",
    groups={"alive": ("idle", "busy")},
    events=[
        Event("Work", {"idle": "busy"}),
        Event(
            "Beat",
            {"idle": "idle", "busy": "busy"},
            effect=lambda worker: {"beats": worker.beats + 1},
            recorded=False,
        ),
        Event("Rest", {"busy": "idle"}),
    ],
)


class Worker(Base):
    __tablename__ = "unrecorded_workers"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine)
    beats: Mapped[int] = mapped_column(default=0)


class WorkerTransition(TransitionHistory, Base):
    __tablename__ = "unrecorded_transitions"
    __records__ = "Worker.state"


heard: list[tuple[str, int | None]] = []


@on_moved(Worker.state)
def hear(moved, session):
    heard.append((moved.event, moved.sequence))


@pytest.fixture
def worker(session: Session) -> Worker:
    heard.clear()
    worker = Worker(id=1)
    session.add(worker)
    session.flush()
    return worker


def test_history_has_no_row_of_it_by_any_function(session, worker):
    worker.fire("Work")
    worker.fire("Beat")
    fire_key(Worker, 1, "Beat", session)
    fire_where(Worker, "Beat", session, Worker.id == 1)
    fire_where(Worker, "Beat", session, Worker.id == 1, batch_size=1)
    claim(Worker, "Beat", session, Worker.id == 1, limit=1)
    worker.fire("Rest")

    history = worker.history(session)

    assert [(row.sequence, row.event) for row in history] == [(1, "Work"), (2, "Rest")]
    assert replay(history) == "idle"
    assert stored(session, Worker)[1,]["beats"] == 5


def test_hooks_hear_of_it(session, worker):
    worker.fire("Beat")
    assert heard == [("Beat", None)]


def test_it_costs_no_more_than_without_a_history(session, worker, sent):
    with sent() as beat:
        fire_key(Worker, 1, "Beat", session)
    with sent() as recorded:
        fire_key(Worker, 1, "Work", session)
    assert beat.number < recorded.number


def test_token_needs_a_history_row(session, worker):
    with pytest.raises(TypeError, match="'Beat' is declared with recorded=False"):
        worker.fire("Beat", token="once")
