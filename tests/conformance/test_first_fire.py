"""The first fire of a process: the modules that do it are imported by it, and what must hear of earlier events is there.

Each function here is a test's program, run in a process of its own that has declared a model and fired nothing.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import URL, Engine, create_engine, event, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import Event, Machine, Stateful, StateMachineColumn, fire_key

pytestmark = pytest.mark.one_driver

LIBRARY = "sqlalchemy_fsm_mysql"


class Base(DeclarativeBase):
    """The model of this module."""


class Order(Base, Stateful):
    __tablename__ = "first_fire_orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(
        Machine(initial="new", events=[Event("Pay", {"new": "paid"}), Event("Cancel", {"new": "gone"})]),
        enforced=True,
    )


def loaded() -> set[str]:
    """The modules of the library that this process has imported, without the library's name."""
    return {name.removeprefix(f"{LIBRARY}.") for name in sys.modules if name.startswith(f"{LIBRARY}.")}


def within_the_event_before_commit(engine: Engine) -> None:
    """SQLAlchemy is calling the listeners of the event: another one could not be added now."""

    @event.listens_for(Session, "before_commit")
    def pay(session: Session) -> None:
        if not session.info.setdefault("is_paid", False):
            session.info["is_paid"] = True
            fire_key(Order, 1, "Pay", session)

    with Session(engine) as session:
        session.get(Order, 1)
        session.commit()
        assert session.get_one(Order, 1).state == "paid"


def within_a_savepoint_that_is_rolled_back(engine: Engine) -> None:
    """The session, its transaction and the savepoint are older than the import."""
    with Session(engine) as session:
        order = session.get_one(Order, 1)
        with session.begin_nested() as savepoint:
            assert order.fire("Pay", session).target == "paid"
            assert order.state == "paid"
            savepoint.rollback()
        assert order.state == "new"


def after_a_statement_that_a_trigger_refused(engine: Engine) -> None:
    """The error is the library's, although nothing of the library was called."""
    with Session(engine) as session:
        session.execute(update(Order).where(Order.id == 1).values(state="paid"))  # an edge of the machine
        try:
            session.execute(update(Order).where(Order.id == 1).values(state="gone"))
        except Exception as error:  # noqa: BLE001 - to import its class would be to import more than a declaration does
            assert type(error).__name__ == "RefusedByDatabase", repr(error)
        else:
            raise AssertionError("the trigger refused nothing")
        session.rollback()
        assert fire_key(Order, 1, "Pay", session).source == "new"


def loads_no_other_database(engine: Engine) -> None:
    """A fire imports the parts of its own database, and of these only the ones that it asks."""
    with Session(engine) as session:
        fire_key(Order, 1, "Pay", session)
    others = {"mysql", "sqlite"} - {engine.dialect.name}
    unneeded = {f"databases.{part}" for part in ("catalogue", "history", "sets", "triggers", "upsert")}
    unneeded |= {name for name in loaded() for other in others if name.startswith(f"databases.{other}.")}
    # The one tells SQLite's errors from others. The other is imported by every declaration.
    assert loaded() & unneeded <= {"databases.sqlite.driver", "databases.mysql.types"}


PROGRAMS: list[Callable[[Engine], None]] = [
    within_the_event_before_commit,
    within_a_savepoint_that_is_rolled_back,
    after_a_statement_that_a_trigger_refused,
    loads_no_other_database,
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_first_fire_of_a_process(program: Callable[[Engine], None], url: URL, tables: Any) -> None:
    with create_engine(url).begin() as connection:
        connection.execute(Order.__table__.delete())
        connection.execute(Order.__table__.insert(), {"id": 1})
    script = (
        "import sys; from sqlalchemy import create_engine; from tests.conformance import test_first_fire as tested\n"
        "assert 'orm.firing' not in tested.loaded()\n"
        f"tested.{program.__name__}(create_engine(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, url.render_as_string(hide_password=False)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr[-2000:]) == (0, "")
