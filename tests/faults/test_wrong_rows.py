"""Each small wrong version of how rows are found and reported is found out, and nothing is found in the right one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Delete,
    Engine,
    Integer,
    String,
    Table,
    TypeDecorator,
    Update,
    create_engine,
    insert,
    select,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import StaticPool

from sqlalchemy_fsm_mysql import (
    Event,
    FSMError,
    Machine,
    StateMachineColumn,
    StateType,
    TransactionAborted,
    TransitionHistory,
    UnknownState,
    claim,
    fire_key,
    fire_or_create,
    fire_where,
)
from tests.faults.wrong_rows import WRONG

pytestmark = [pytest.mark.servers_only]

LONG = 2000


class Picky(TypeDecorator[str]):
    impl = String(20)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        if value == "bad":
            raise LookupError
        return value


def machine() -> Machine:
    return Machine(
        initial="new",
        events=[
            Event("Start", {"new": "running"}),
            Event("Finish", {"running": "done"}),
            Event("Seat", {"new": "running"}, effect=lambda row, seat: {"seat": seat}),
            Event("Sort", {"new": "running"}, effect=lambda row, kind: {"kind": kind}),
            Event("Touch", {"new": "new"}),
            Event("Keep", {"new": "new"}, effect=lambda row, worker: {"worker": worker}),
        ],
    )


def models() -> tuple[Any, Any, Any]:
    """Fresh classes: a statement that a wrong version has built is kept by its class."""

    class Base(DeclarativeBase):
        pass

    class Row(Base):
        __tablename__ = "wrong_rows"

        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        note: Mapped[str | None] = mapped_column(String(20))
        seat: Mapped[str | None] = mapped_column(String(20), unique=True)
        kind: Mapped[str | None] = mapped_column(Picky())
        worker: Mapped[int] = mapped_column(default=7)
        state: Mapped[str] = StateMachineColumn(machine(), storage="varchar")

    class Step(TransitionHistory, Base):
        __tablename__ = "wrong_steps"
        __records__ = Row.state

    class Legacy(Base):
        __table__ = Table(
            "wrong_legacy",
            Base.metadata,
            Column("id", Integer, primary_key=True, autoincrement=False),
            Column("VERSION", Integer, nullable=False, key="version"),
            Column("status", StateType(machine()), nullable=False, default="new"),
        )
        __mapper_args__ = {"version_id_col": __table__.c.version}

    return Row, Step, Legacy


@pytest.fixture
def made(engine: Engine) -> Iterator[tuple[Engine, Any, Any, Any]]:
    Row, Step, Legacy = models()
    Row.metadata.drop_all(engine)
    Row.metadata.create_all(engine)
    yield engine, Row, Step, Legacy
    Row.metadata.drop_all(engine)


def done_again(engine: Engine, row: Any, step: Any, legacy: Any) -> list[str]:
    """A job that is done on the primary is new on the replica still."""
    replica = create_engine("sqlite://", poolclass=StaticPool)
    row.metadata.create_all(replica)
    for one, state in ((engine, "done"), (replica, "new")):
        with one.begin() as connection:
            connection.execute(insert(row).values(id=1, worker=7, state=state))

    class Routing(Session):
        def get_bind(self, mapper: Any = None, clause: Any = None, **options: Any) -> Any:
            return engine if self._flushing or isinstance(clause, (Update, Delete)) else replica

    with Routing() as session:
        claim(row, "Start", session, limit=1)
        session.commit()
    replica.dispose()
    with Session(engine) as session:
        state = session.scalar(select(row.state))
    return [] if state == "done" else [f"a job that was done is {state}"]


def moves_that_were_none(engine: Engine, row: Any, step: Any, legacy: Any) -> list[str]:
    with warnings.catch_warnings(), Session(engine) as session:
        warnings.simplefilter("ignore")
        session.add(legacy(id=1))
        session.commit()
        try:
            moved = fire_or_create(legacy(id=1), "Start", session)
        except FSMError as error:  # the answer depends on what the server's session remembers of earlier statements
            return [f"of a row that is there: {error}"]
        stored = session.connection().scalar(select(legacy.__table__.c.status))
    return [] if (stored, moved.created) == ("running", False) else [f"{moved} was reported of a row that is {stored}"]


def missing_rows(engine: Engine, row: Any, step: Any, legacy: Any) -> list[str]:
    """The row is there, and its state is NULL."""
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE wrong_rows MODIFY state VARCHAR(20) NULL")
        connection.exec_driver_sql("INSERT INTO wrong_rows (id, worker, state) VALUES (1, 7, NULL)")
    with Session(engine) as session:
        try:
            fire_key(row, 1, "Start", session)
        except UnknownState:
            return []
        except FSMError as error:
            return [f"of a row that holds NULL: {error}"]
    return ["a row that holds NULL was moved"]


def lost_edits(engine: Engine, row: Any, step: Any, legacy: Any) -> list[str]:
    with Session(engine) as session:
        session.add(row(id=1))
        session.commit()
        held = session.get_one(row, 1)
        with session.no_autoflush:
            held.note = "edited"
            claim(row, "Start", session, limit=1)
        session.commit()
        return [] if held.note == "edited" else [f"the edited note is {held.note}"]


def old_snapshots(engine: Engine, row: Any, step: Any, legacy: Any) -> list[str]:
    """A claim whose UPDATE changes nothing in the row, under REPEATABLE READ."""
    with Session(engine) as other, Session(engine.execution_options(isolation_level="REPEATABLE READ")) as session:
        other.add(row(id=1, note="old"))
        other.commit()
        session.execute(select(row.id)).all()
        other.get_one(row, 1).note = "new"
        other.commit()
        try:
            (claimed,) = claim(row, "Keep", session, limit=1, worker=7)
        except TransactionAborted:  # MariaDB refuses a snapshot that is not the latest
            pytest.skip("the server refuses an old snapshot")
        return [] if claimed.note == "new" else [f"the claimed instance shows {claimed.note}"]


def long_reads(engine: Engine, row: Any, step: Any, legacy: Any) -> list[str]:
    with Session(engine) as session:
        session.add(row(id=1))
        session.flush()
        one = {"record_id": 1, "event": "Touch", "source": "new", "target": "new", "at": datetime(2026, 1, 1)}  # noqa: DTZ001
        session.execute(insert(step.__table__), [{**one, "sequence": i} for i in range(1, LONG + 1)])
        connection = session.connection()
        connection.exec_driver_sql("FLUSH LOCAL STATUS")
        fire_where(row, "Touch", session, row.note.is_(None))
        status = connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Handler_read%%'")
        reads = sum(int(value) for _, value in status)
    return [] if reads < 100 else [f"{reads} reads for one move"]


def raised(fire: Callable[[], Any]) -> list[str]:
    try:
        fire()
    except (FSMError, TypeError, ValueError):
        return []
    except Exception as error:  # noqa: BLE001 - which one it is, is the answer
        return [f"{type(error).__name__} was raised"]
    return ["nothing was raised"]


def foreign_duplicates(engine: Engine, row: Any, step: Any, legacy: Any) -> list[str]:
    with Session(engine) as session:
        session.add_all([row(id=1, seat="A"), row(id=2)])
        session.flush()
        return raised(lambda: fire_key(row, 2, "Seat", session, seat="A"))


def foreign_errors(engine: Engine, row: Any, step: Any, legacy: Any) -> list[str]:
    with Session(engine) as session:
        session.add(row(id=1))
        session.flush()
        return raised(lambda: fire_key(row, 1, "Sort", session, kind="bad"))


CHECKS = [
    done_again,
    moves_that_were_none,
    missing_rows,
    lost_edits,
    old_snapshots,
    long_reads,
    foreign_duplicates,
    foreign_errors,
]


@pytest.mark.parametrize(("wrong", "check"), list(zip([name for name in WRONG if name], CHECKS, strict=True)))
def test_a_wrong_version_is_found_out(made: tuple[Any, ...], wrong: str, check: Callable[..., list[str]]) -> None:
    if wrong == "binds without a net" and not made[0].dialect.positional:
        pytest.skip("SQLAlchemy binds the values of this driver's statements itself")
    if wrong == "loads an old snapshot" and not getattr(made[0].dialect, "is_mariadb", False):
        pytest.skip("MySQL's UPDATE of the claimed row makes a version of it that a plain read sees")
    with WRONG[wrong]():
        found = check(*made)

    assert found


@pytest.mark.parametrize("check", CHECKS)
def test_nothing_is_found_in_the_right_version(made: tuple[Any, ...], check: Callable[..., list[str]]) -> None:
    assert check(*made) == []
