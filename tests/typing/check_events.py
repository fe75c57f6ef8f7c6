"""The names of events, checked where a model says which there are."""

# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import enum
from typing import Literal

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from typing_extensions import assert_type

from sqlalchemy_fsm_mysql import Event, Guard, Machine, Moved, Stateful, StateMachineColumn, Transition
from tests.typing.models import Order


class Does(str, enum.Enum):
    START = "Start"
    STOP = "Stop"


def is_idle(job: type[Job]) -> object:
    return job.load == 0


jobs = Machine(
    initial="idle",
    groups={"known": ("idle", "busy"), "all": ["known"]},
    initial_states={"idle"},
    events=[
        Event(Does.START, {"idle": "busy"}, guard={"idle": is_idle, "free": Guard(is_idle, "the job has work")}),
        Event("Stop", [Transition(["busy"], "idle"), Transition("known", "idle")], description="stop it"),
    ],
    on_enter={"busy": lambda job: {"load": job.load + 1}},
)


class Base(DeclarativeBase):
    pass


class Job(Stateful[Literal["Start", "Stop"]], Base):
    __tablename__ = "typed_jobs"
    id: Mapped[int] = mapped_column(primary_key=True)
    load: Mapped[int]
    state: Mapped[str] = StateMachineColumn(jobs)


class Task(Stateful[Does], Base):
    __tablename__ = "typed_tasks"
    id: Mapped[int] = mapped_column(primary_key=True)
    load: Mapped[int]
    state: Mapped[str] = StateMachineColumn(jobs)


def of_literals(job: Job, session: Session) -> None:
    assert_type(job.fire("Start", session), Moved[Job])
    job.fire("Strat", session)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    job.can_fire("Halt")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def of_an_enum(task: Task) -> None:
    assert_type(task.fire(Does.START), Moved[Task])
    task.try_fire("Start")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


def of_any_text(order: Order, event: str) -> None:
    assert_type(order.fire(event), Moved[Order])
    assert_type(order.fire(Does.START), Moved[Order])


def possible(order: Order, session: Session) -> None:
    assert_type(order.possible_events(), list[str])
    assert_type(order.possible_events(session, amount=30), list[str])


async def possible_later(order: Order, session: AsyncSession) -> None:
    assert_type(await order.possible_events(session, amount=30), list[str])
