"""States in any script: stored, moved, compared and told as they are written, in both storages."""

from __future__ import annotations

import pytest
from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    Machine,
    StateMachineColumn,
    TransitionHistory,
    TransitionNotAllowed,
    fire_key,
    fire_where,
    force_state,
    replay,
)

STATES = ["offen", "überfällig", "已支付", "оплачен", "مدفوع", "支払い済み", "🚀"]


class Base(DeclarativeBase):
    """The tables of this module."""


machine = Machine(
    initial="offen",
    events=[
        Event("Next", dict(zip(STATES, [*STATES[1:], "offen"], strict=True))),
        Event("Close", {tuple(STATES[1:]): "offen"}),
    ],
    groups={"bezahlt ✓": STATES[2:]},
)


class Bill(Base):
    __tablename__ = "script_bills"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)


class Text(Base):
    __tablename__ = "script_texts"
    # MariaDB converts the texts of a CHECK to the table's character set, and refuses (1918) what does not fit in.
    __table_args__ = {"mysql_charset": "utf8mb4", "mariadb_charset": "utf8mb4"}
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine, storage="varchar")


class BillTransition(TransitionHistory, Base):
    __tablename__ = "script_bill_transitions"
    __records__ = "Bill.state"


@pytest.fixture(params=[Bill, Text])
def model(request: pytest.FixtureRequest) -> type[Bill | Text]:
    return request.param


def test_every_state_is_moved_from_and_to(session: Session, model):
    session.add(model(id=1))
    session.flush()

    outcomes = [fire_key(model, 1, "Next", session) for _ in STATES]

    assert [(moved.source, moved.target) for moved in outcomes] == list(
        zip(STATES, [*STATES[1:], "offen"], strict=True)
    )


@pytest.mark.parametrize("state", STATES)
def test_state_is_found_by_itself_alone(session: Session, model, state):
    session.add_all(model(id=number, state=other) for number, other in enumerate(STATES, start=1))
    session.flush()

    assert session.scalars(select(model.state).where(model.state == state)).all() == [state]
    assert session.scalar(select(model.state.after("Next")).where(model.state == state)) is not None


def test_refusal_tells_the_state(session: Session, model):
    session.add(model(id=1))
    session.flush()

    with pytest.raises(TransitionNotAllowed, match="it is 'offen'; 'Close' leaves 'überfällig', '已支付'"):
        fire_key(model, 1, "Close", session)


def test_sets_and_forced_states(session: Session, model):
    session.add_all(model(id=number, state=state) for number, state in enumerate(STATES, start=1))
    session.flush()

    moved = fire_where(model, "Close", session, model.id <= 4)
    force_state(session.get(model, 1), "已支付", session)

    assert moved.by_transition == {(state, "offen"): 1 for state in STATES[1:4]}
    assert session.get(model, 1).state == "已支付"


def test_history_replays(session: Session):
    session.add(Bill(id=1))
    session.flush()
    for _ in range(3):
        fire_key(Bill, 1, "Next", session)

    records = session.get(Bill, 1).history(session)

    assert [record.target for record in records] == STATES[1:4]
    assert replay(records) == STATES[3]
