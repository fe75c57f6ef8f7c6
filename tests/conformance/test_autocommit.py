"""An engine in AUTOCOMMIT: each event is a transaction of its own, by every backend."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session

from sqlalchemy_fsm_mysql import GuardNotSatisfied, RowNotFound, TransitionNotAllowed, fire_key
from tests.conformance.session_models import Base, Counted, Order, Payment, Stepped
from tests.conformance.session_support import HIGHEST, create, locks_between, stored
from tests.servers import make_engine


@pytest.fixture
def autocommit(database: Engine) -> Iterator[Engine]:
    engine = make_engine(
        database.url, isolation_level="AUTOCOMMIT", execution_options=dict(database.get_execution_options())
    )
    yield engine
    engine.dispose()


@pytest.fixture
def session(autocommit: Engine) -> Iterator[Session]:
    with Session(autocommit) as session:
        yield session


def test_an_event_is_committed_by_itself(session: Session, database: Engine) -> None:
    key = create(database, Order)
    session.get(Order, key).fire("Ready", session)

    assert stored(database, Order, key) == "Running"


def test_a_rollback_takes_nothing_back_and_memory_says_so(session: Session, database: Engine) -> None:
    order = session.get(Order, create(database, Order))
    order.fire("Ready", session)
    session.rollback()

    assert order.state == "Running"


def test_a_refusal_holds_no_lock(session: Session, database: Engine) -> None:
    key = create(database, Order, state="Deleted")
    with pytest.raises(TransitionNotAllowed):
        session.get(Order, key).fire("Ready", session)

    with Session(database) as other:
        assert fire_key(Order, key, "Delete", other).target == "Deleted"


def test_a_missing_row_is_not_found(session: Session) -> None:
    with pytest.raises(RowNotFound):
        fire_key(Order, HIGHEST, "Ready", session)


def test_guard_and_effect_are_one_with_the_move(session: Session, database: Engine) -> None:
    payment = session.get(Payment, create(database, Payment, total=50))
    with pytest.raises(GuardNotSatisfied):
        payment.fire("Pay", session, amount=80)
    payment.fire("Pay", session, amount=30)

    assert stored(database, Payment, payment.id, "state", "total") == ("Paid", 20)


@pytest.mark.parametrize("model", [Counted, Stepped])
def test_the_version_goes_with_the_event(session: Session, database: Engine, model: type[Counted]) -> None:
    row = session.get(model, create(database, model))
    row.fire("Ready", session)
    row.note = "mine"
    session.commit()

    assert stored(database, model, row.id, "state", "note") == ("Running", "mine")


def test_pending_edits_are_flushed_first(session: Session, database: Engine) -> None:
    payment = session.get(Payment, create(database, Payment, total=1))
    payment.total = 50
    payment.fire("Pay", session, amount=30)

    assert stored(database, Payment, payment.id, "state", "total") == ("Paid", 20)


def test_nobody_writes_between_what_an_event_reads_and_writes(
    session: Session, autocommit: Engine, database: Engine
) -> None:
    key = create(database, Order)

    with locks_between(autocommit, Order, key) as locks:
        fire_key(Order, key, "Ready", session)

    assert all(locks)


def test_events_go_on_after_a_refusal(session: Session, database: Engine) -> None:
    order = session.get(Order, create(database, Order, state="Stopped"))
    with pytest.raises(TransitionNotAllowed):
        order.fire("Ready", session)

    assert order.fire("Delete", session).target == "Deleted"


def test_within_sqlites_savepoint_an_event_is_fired(tmp_path: Path) -> None:
    """A savepoint of SQLite is a transaction, in AUTOCOMMIT too. A server forgets it at once, and SQLAlchemy fails."""
    engine = create_engine(f"sqlite:///{tmp_path / 'fsm.db'}", isolation_level="AUTOCOMMIT")
    Base.metadata.create_all(engine)
    order_key = create(engine, Order)
    with Session(engine) as session:
        with session.begin_nested():
            fire_key(Order, order_key, "Ready", session)
        assert stored(engine, Order, order_key) == "Running"

        with session.begin_nested() as savepoint:
            fire_key(Order, order_key, "Stop", session)
            savepoint.rollback()
        assert stored(engine, Order, order_key) == "Running"
    engine.dispose()
