"""SQLModel: StateField, a history, and the errors for the ways that SQLModel does not take."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, MetaData

from sqlalchemy_fsm_mysql import (
    Event,
    InvalidMachine,
    Machine,
    StateAssignmentError,
    Stateful,
    StateMachineColumn,
    StateType,
    TransitionHistory,
    fire_key,
)

sqlmodel = pytest.importorskip("sqlmodel")
Field, SQLModel, Session = sqlmodel.Field, sqlmodel.SQLModel, sqlmodel.Session

from sqlalchemy_fsm_mysql.orm.sqlmodel import StateField  # noqa: E402 - not without SQLModel


class Status(enum.Enum):
    NEW = "new"
    PAID = "paid"


machine = Machine(initial="new", events=[Event("Pay", {"new": "paid"}), Event("Ship", {"paid": "shipped"})])
statuses = Machine(initial=Status.NEW, states=Status, events=[Event("Pay", {Status.NEW: Status.PAID})])


def model(name: str, annotation: Any, field: Any, *bases: type[Any]) -> Any:
    """A table model with the annotated *field* as its state."""
    body = {
        "__annotations__": {"id": int | None, "state": annotation},
        "__module__": __name__,
        "__tablename__": f"eco_{name.lower()}",
        "id": Field(default=None, primary_key=True),
        "state": field,
    }
    return type(SQLModel)(name, (*bases, SQLModel), body, table=True)


Order = model("SqlmodelOrder", str, StateField(machine), Stateful)
Paper = model("SqlmodelPaper", Status, StateField(statuses, storage="varchar"), Stateful)


class SqlmodelTransition(TransitionHistory, SQLModel, table=True):
    __tablename__ = "eco_sqlmodel_transitions"
    __records__ = "SqlmodelOrder.state"


@pytest.fixture
def session(engine: Engine, tables: Callable[[MetaData], None]) -> Any:
    chosen = MetaData()
    for kind in (Order, Paper, SqlmodelTransition):
        kind.__table__.to_metadata(chosen)
    tables(chosen)
    with Session(engine) as session:
        yield session


def test_a_field_is_a_state_column(session: Any) -> None:
    """As one of SQLAlchemy's own models: initial state, NOT NULL, default in the DDL, methods, protection, history."""
    column = Order.__table__.c.state
    assert isinstance(column.type, StateType)
    assert (column.nullable, column.server_default.arg) == (False, "new")

    order = Order()
    assert order.state == "new"
    session.add(order)
    assert order.fire("Pay", actor="ada").target == "paid"
    session.commit()
    session.refresh(order)
    assert order.model_dump() == {"id": order.id, "state": "paid"}
    assert fire_key(Order, order.id, "Ship", session).sequence == 2
    session.refresh(order)
    with pytest.raises(StateAssignmentError):
        order.state = "new"
    order.sqlmodel_update({"state": "shipped"})
    assert [(row.source, row.target, row.actor) for row in order.history()] == [
        ("new", "paid", "ada"),
        ("paid", "shipped", None),
    ]
    assert session.exec(sqlmodel.select(Order).where(Order.state.can("Ship"))).all() == []


def test_a_field_has_members_of_an_enum(session: Any) -> None:
    paper = Paper()
    session.add(paper)

    assert (paper.state, paper.fire("Pay").target) == (Status.NEW, Status.PAID)
    session.commit()
    session.refresh(paper)
    assert paper.state is Status.PAID
    assert Paper.model_json_schema()["$defs"]["Status"]["enum"] == ["new", "paid"]


@pytest.mark.parametrize("bases", [(), (Stateful,)], ids=["plain", "Stateful"])
@pytest.mark.parametrize("way", ["default", "sa_column"])
def test_a_column_that_sqlmodel_would_drop_is_refused(way: str, bases: tuple[type[Any], ...]) -> None:
    """SQLModel makes a VARCHAR of it, without an error."""
    column = StateMachineColumn(machine)
    field = column if way == "default" else Field(default="new", sa_column=column)

    with pytest.raises(InvalidMachine, match=r"StateField\(machine\)"):
        model(f"Wrong{way}{len(bases)}", str, field, *bases)


def test_stateful_without_a_state_column_is_refused() -> None:
    with pytest.raises(InvalidMachine, match=r"no state column; its columns are 'id', 'state'.*StateField"):
        model("WrongNone", str, Field(default="new"), Stateful)


def test_a_field_takes_a_machine() -> None:
    with pytest.raises(TypeError, match="takes a Machine first"):
        StateField("new")
