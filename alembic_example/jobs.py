"""The program, release by release. A real one has one models.py, and these are its versions in the repository."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_fsm_mysql import Event, Machine, StateMachineColumn, TransitionHistory

RELEASES = range(1, 6)


def machine(release: int) -> Machine:
    """The machine of a release: 2 adds a state, 3 to 5 rename one."""
    failed = "Error" if release < 4 else "Failed"
    events = [
        Event("Fail", {("Running", failed): failed}),
        Event("Repair", {failed: "Running"}),
    ]
    if release >= 2:
        events += [Event("Pause", {"Running": "Paused"}), Event("Resume", {"Paused": "Running"})]
    # 3 understands what 4 will write, and 4 what 3 has written.
    aliases = {3: {"Failed": "Error"}, 4: {"Error": "Failed"}}
    return Machine(initial="Running", events=events, aliases=aliases.get(release))


def models(release: int) -> tuple[Any, Any]:
    """``(Base, Job)`` as the program of this release declares them."""

    class Base(DeclarativeBase):
        """The tables of one release."""

    class Job(Base):
        __tablename__ = "jobs"

        id: Mapped[int] = mapped_column(primary_key=True)
        state: Mapped[str] = StateMachineColumn(machine(release))

    class JobTransition(TransitionHistory, Base):
        __tablename__ = "job_transitions"
        __records__ = Job.state

    return Base, Job
