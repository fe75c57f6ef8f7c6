"""What fire_or_create reports is what it did: columns under other keys, text as onupdate, and errors that are no conflict."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Column, ForeignKey, Integer, String, Table, func, literal_column, select, text
from sqlalchemy.exc import IntegrityError, PendingRollbackError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    FireError,
    Machine,
    StateMachineColumn,
    StateType,
    TransitionHistory,
    TransitionNotAllowed,
    fire_or_create,
    replay,
)
from sqlalchemy_fsm_mysql.databases import MYSQL

machine = Machine(
    initial="new",
    events=[
        Event("Pay", {"new": "paid"}),
        Event("Ship", {"paid": "shipped"}),
        Event("Look", {("new", "paid"): "paid"}, effect=lambda order: {"total": order.total + 1}),
    ],
)


class Base(DeclarativeBase):
    """Columns whose keys are not their names, as ``column_reflect`` makes them of a legacy schema."""


def legacy(name: str, *more: Any, state_key: str | None = "state") -> Table:
    key = "state" if state_key else "STATUS"
    return Table(
        f"legacy_{name}",
        Base.metadata,
        Column("ID", Integer, primary_key=True, autoincrement=False, key="id"),
        Column("STATUS", StateType(machine), nullable=False, default="new", key=key),
        Column("TOTAL", Integer, nullable=False, default=0, key="total"),
        *more,
    )


class State(Base):
    __table__ = legacy("state")


class Text(Base):
    """Text that names a column beside a number with a point, which names no table."""

    __table__ = legacy("text", Column("touched", Integer, default=0, onupdate=text("touched + 1.0")))


class TableText(Base):
    __table__ = legacy(
        "table_text", Column("touched", Integer, default=0, onupdate=text("legacy_table_text.touched + 1"))
    )


class Literal(Base):
    __table__ = legacy("literal", Column("touched", Integer, default=0, onupdate=literal_column("touched + 1")))


class Timed(Base):
    __table__ = legacy("timed", Column("SEEN_AT", String(40), onupdate=func.now(), key="seen_at"))


class Versioned(Base):
    """Only the version has a key of its own."""

    __table__ = legacy("version", Column("VERSION", Integer, nullable=False, key="version"), state_key=None)
    __mapper_args__ = {"version_id_col": __table__.c.version}
    state = __table__.c.STATUS


class VersionedStep(TransitionHistory, Base):
    __tablename__ = "legacy_version_steps"
    __records__ = "Versioned.state"


LEGACY: list[Any] = [State, Text, TableText, Literal, Timed, Versioned]


@pytest.fixture(autouse=True)
def no_dropped_columns() -> Iterator[None]:
    """SQLAlchemy only warns of names that are no column's."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def state_of(session: Session, model: Any) -> Any:
    return (
        session.connection()
        .execute(select(model.__table__.c["state" if "state" in model.__table__.c else "STATUS"]))
        .scalar_one()
    )


@pytest.mark.parametrize("model", LEGACY)
def test_an_existing_row_moves_where_columns_have_keys_of_their_own(session: Session, model: Any) -> None:
    session.add(model(id=1))
    session.flush()
    session.expunge_all()

    moved = fire_or_create(model(id=1), "Pay", session)

    assert (moved.created, moved.source, moved.target) == (False, "new", "paid")
    assert state_of(session, model) == "paid"
    with pytest.raises(TransitionNotAllowed):
        fire_or_create(model(id=1), "Pay", session)
    assert fire_or_create(model(id=1), "Ship", session).target == state_of(session, model)


@pytest.mark.parametrize("model", LEGACY)
def test_a_new_row_is_created_where_columns_have_keys_of_their_own(session: Session, model: Any) -> None:
    moved = fire_or_create(model(id=1), "Look", session)

    assert (moved.created, moved.source, moved.target, moved.instance.total) == (True, "new", "paid", 1)
    assert state_of(session, model) == "paid"
    fire_or_create(model(id=1), "Look", session)
    assert moved.instance.total == 2


def test_the_version_of_such_a_column_is_counted_and_its_history_replays(session: Session) -> None:
    created = fire_or_create(Versioned(id=1), "Pay", session).instance.version
    row = fire_or_create(Versioned(id=1), "Ship", session).instance

    assert (row.version, replay(row.history(session))) == (created + 1, "shipped")


@pytest.mark.parametrize("model", [Text, TableText, Literal])
def test_text_as_onupdate_counts_once_for_each_move(session: Session, model: Any) -> None:
    fire_or_create(model(id=1), "Pay", session)
    before = fire_or_create(model(id=1), "Ship", session).instance.touched

    with pytest.raises(TransitionNotAllowed):
        fire_or_create(model(id=1), "Ship", session)

    row = session.get_one(model, 1, populate_existing=True)
    assert (before, row.touched) in {(1, 1), (2, 2)}  # a creation is a move, too, where it takes two statements


# --- errors that are no conflict of keys


class User(Base):
    __tablename__ = "legacy_users"

    id: Mapped[int] = mapped_column(primary_key=True)


class Order(Base):
    __tablename__ = "legacy_orders"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    user_id: Mapped[int] = mapped_column(ForeignKey(User.id))
    total: Mapped[int] = mapped_column(default=0)
    state: Mapped[str] = StateMachineColumn(machine)


@pytest.mark.servers_only
@pytest.mark.parametrize("event", ["Pay", "Look"])
def test_a_foreign_key_is_reported_as_one(session: Session, event: str) -> None:
    """By an event in one statement and by one in several alike."""
    with pytest.raises(IntegrityError, match="1452"):
        fire_or_create(Order(id=1, user_id=99), event, session)

    assert session.connection().execute(select(func.count()).select_from(Order)).scalar_one() == 0


@pytest.mark.parametrize("event", ["Pay", "Look"])
@pytest.mark.parametrize(
    ("values", "message"), [({"user_id": None}, "cannot store a value"), ({}, "no value|cannot store")]
)
def test_a_missing_value_is_a_value_error(session: Session, event: str, values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"legacy_orders 1: .*({message})"):
        fire_or_create(Order(id=1, **values), event, session)


# --- answers


@pytest.mark.servers_only
def test_an_answer_that_is_neither_is_no_creation(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """The statement has changed a row and remembered nothing: the second one of a creation would be told otherwise."""
    if session.get_bind().get_execution_options():  # the locking read has no upsert
        pytest.skip("only the one statement has such an answer")
    from sqlalchemy.dialects import mysql

    table = Timed.__table__

    def forgets(self: Any, event: Any, names: Any, target: str) -> Any:
        return mysql.insert(table).values(id=1, state=target).on_duplicate_key_update({"total": table.c.total + 1})

    fire_or_create(Timed(id=1), "Pay", session)
    monkeypatch.setattr(type(MYSQL.upsert), "upsert_statement", forgets)

    with pytest.raises(FireError, match="legacy_timed 1: the upsert of 'Pay' answers by row count 2 and no outcome"):
        fire_or_create(Timed(id=1), "Pay", session)
    with pytest.raises(PendingRollbackError):
        session.commit()
