"""A column that old code still uses: comparisons with the spellings that its collation takes for equal go on working."""

from __future__ import annotations

import pytest
from sqlalchemy import String, select, text
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import Event, Machine, StateMachineColumn, UnknownState, try_fire_key

machine = Machine(initial="new", states=["new", "paid"], events=[Event("Pay", {"new": "paid"})])


class Base(DeclarativeBase):
    """The tables of this module."""


class Old(Base):
    __tablename__ = "old_spellings"

    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str] = StateMachineColumn(machine, storage="varchar", protected=False)
    name: Mapped[str] = mapped_column(String(20), default="")


class Guarded(Base):
    __tablename__ = "old_spellings_guarded"

    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str] = StateMachineColumn(machine, storage="varchar")


@pytest.fixture(autouse=True)
def folding(engine, tables) -> None:
    """The column as it was before the machine: in a collation that folds case, and without a CHECK."""
    if engine.dialect.name == "sqlite":
        return
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE old_spellings"))
        connection.execute(
            text(
                "CREATE TABLE old_spellings (id INT PRIMARY KEY, name VARCHAR(20) DEFAULT '',"
                " status VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NOT NULL)"
            )
        )


@pytest.fixture
def rows(session: Session) -> None:
    session.execute(text("INSERT INTO old_spellings (id, status, name) VALUES (1, 'paid', ''), (2, 'new', '')"))


def test_old_code_compares_with_its_own_spelling(session, engine, rows):
    """What the database finds is its collation's matter: SQLite tells case apart."""
    found = [1] if engine.dialect.name != "sqlite" else []

    assert session.scalars(select(Old.id).where(Old.status == "Paid")).all() == found
    assert session.scalars(select(Old.id).where(Old.status.in_(["PAID", "on hold"]))).all() == found
    assert session.scalars(select(Old.id).where(Old.status != "archived").order_by(Old.id)).all() == [1, 2]
    for mixed in (["new", "PAID"], ("PAID", "new"), {"new", "PAID", "on hold"}):
        assert session.scalars(select(Old.id).where(Old.status.in_(mixed)).order_by(Old.id)).all() == [*found, 2]
        assert session.scalars(select(Old.id).where(Old.status.not_in(mixed))).all() == ([] if found else [1])
    assert session.scalars(select(Old.id).where(Old.status == "paid")).all() == [1]


@pytest.mark.servers_only  # on SQLite, a CHECK of the column refuses the other spelling
def test_events_still_tell_spellings_apart(session, rows):
    session.execute(text("UPDATE old_spellings SET status = 'New' WHERE id = 2"))

    assert session.scalars(select(Old.id).where(Old.status.can("Pay"))).all() == []
    with pytest.raises(UnknownState):
        try_fire_key(Old, 2, "Pay", session)


def test_a_protected_column_refuses_a_misspelling(session):
    with pytest.raises(StatementError, match="'Paid' is not a state of this machine"):
        session.scalars(select(Guarded.id).where(Guarded.status == "Paid")).all()
