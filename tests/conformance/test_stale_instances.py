"""An instance that others have left behind: events go by the row, and memory learns of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, delete
from sqlalchemy.orm import Session

from sqlalchemy_fsm_mysql import RowNotFound, TransitionNotAllowed, fire_key
from tests.conformance.session_models import Order, Payment
from tests.conformance.session_support import create, move, statements, stored, write


@pytest.fixture(params=[True, False], ids=["expiring", "keeping"])
def session(database: Engine, request: pytest.FixtureRequest) -> Iterator[Session]:
    with Session(database, expire_on_commit=request.param) as session:
        yield session


@pytest.fixture
def stale(session: Session, database: Engine) -> Order:
    """An order that memory has as 'Initializing', and the database as 'Running'."""
    order = session.get(Order, create(database, Order))
    assert order is not None
    move(database, Order, order.id, "Ready")
    return order


def test_it_fires_from_the_rows_state(session: Session, stale: Order) -> None:
    moved = stale.fire("NotReady", session)

    assert (moved.source, moved.target) == ("Running", "Error")


def test_it_shows_the_target_and_not_what_memory_would_have_led_to(session: Session, stale: Order) -> None:
    stale.fire("NotReady", session)

    assert stale.state == "Error"


def test_a_refusal_names_the_rows_state_and_memory_shows_it(session: Session, stale: Order) -> None:
    with statements(session.get_bind()) as sent, pytest.raises(TransitionNotAllowed) as refused:
        stale.fire("Delete", session)
    asked = len(sent)

    with statements(session.get_bind()) as sent:
        assert (refused.value.state, stale.state) == ("Running", "Running")
    assert (sent, asked > 0) == ([], True)


def test_an_event_that_memory_would_refuse_is_fired_all_the_same(
    session: Session, stale: Order, database: Engine
) -> None:
    write(database, Order, stale.id, state="Stopped")
    assert not stale.can_fire("Delete")

    assert stale.fire("Delete", session).target == "Deleted"


def test_edits_of_other_columns_by_others_stay(session: Session, stale: Order, database: Engine) -> None:
    """The event's UPDATE names no column that it does not change."""
    write(database, Order, stale.id, note="theirs")
    stale.fire("Stop", session)
    session.commit()

    assert stored(database, Order, stale.id, "state", "note") == ("Stopped", "theirs")


def test_an_effect_reads_the_row_and_not_memory(session: Session, database: Engine) -> None:
    payment = session.get(Payment, create(database, Payment, total=10))
    assert payment is not None
    write(database, Payment, payment.id, total=100)

    payment.fire("Pay", session, amount=30)

    assert payment.total == 70


@pytest.mark.parametrize("how", ["instance", "key"])
def test_a_deleted_row_is_named(session: Session, stale: Order, database: Engine, how: str) -> None:
    with database.begin() as connection:
        connection.execute(delete(Order.__table__).where(Order.__table__.c.id == stale.id))

    with pytest.raises(RowNotFound) as missing:
        stale.fire("Stop", session) if how == "instance" else fire_key(Order, stale.id, "Stop", session)

    assert (
        f"rules_order {stale.id}: there is no row with this key, so 'Stop' was not fired; create the row first."
        == str(missing.value)
    )


def test_of_an_expired_instance_no_more_is_read_than_asked_for(
    session: Session, stale: Order, database: Engine
) -> None:
    session.expire(stale)
    with statements(database) as sent:
        stale.fire("NotReady", session)

    assert not any(text.startswith("SELECT rules_order.id") for text in sent)
