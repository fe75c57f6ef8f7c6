"""On which instances an event can be fired: stored ones of the session at hand. All others are refused by name."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, inspect
from sqlalchemy.orm import Session, make_transient

from sqlalchemy_fsm_mysql import InstanceStateError, RowNotFound
from tests.conformance.session_models import Order
from tests.conformance.session_support import create, statements, stored


def refused(instance: Order, session: Session | None) -> str:
    """The message of the refusal; nothing may have been sent."""
    with pytest.raises(InstanceStateError) as error:
        instance.fire("Ready", session)
    with pytest.raises(InstanceStateError):
        instance.try_fire("Ready", session)
    return str(error.value)


def test_a_transient_instance_is_refused(mine: Session, database: Engine) -> None:
    with statements(database) as sent:
        message = refused(Order(), mine)

    assert message.startswith("the transient Order without a key is not stored")
    assert sent == []


def test_a_transient_instance_without_a_session_is_refused() -> None:
    assert refused(Order(), None).startswith("the transient Order without a key is in no session")
    assert refused(Order(id=5), None).startswith("the transient Order 5 is in no session")


def test_a_pending_instance_is_flushed_and_fired(mine: Session, database: Engine) -> None:
    order = Order(note="new")
    mine.add(order)

    moved = order.fire("Ready", mine)
    mine.commit()

    assert (moved.source, moved.target) == ("Initializing", "Running")
    assert stored(database, Order, order.id, "state", "note") == ("Running", "new")


def test_a_pending_instance_in_another_state_is_fired_from_there(mine: Session) -> None:
    order = Order(state="Stopped")
    mine.add(order)

    assert ((moved := order.fire("Delete")).source, moved.target) == ("Stopped", "Deleted")


def test_without_autoflush_a_pending_instance_is_refused(mine: Session) -> None:
    order = Order(id=5)
    mine.add(order)

    with mine.no_autoflush:
        message = refused(order, mine)

    assert message == "the pending Order 5 is not stored: flush it first"
    assert inspect(order).pending


def test_a_detached_instance_is_refused(mine: Session, database: Engine) -> None:
    key = create(database, Order)
    order = mine.get(Order, key)
    mine.expunge(order)

    assert refused(order, mine).startswith(f"the detached Order {key} is not stored")
    assert refused(order, None).startswith(f"the detached Order {key} is in no session")


def test_an_instance_of_a_closed_session_is_refused(mine: Session, database: Engine) -> None:
    order = mine.get(Order, create(database, Order))
    mine.close()

    assert "is in no session" in refused(order, None)


def test_an_instance_merged_back_is_fired(mine: Session, database: Engine) -> None:
    order = mine.get(Order, create(database, Order))
    mine.expunge(order)

    merged = mine.merge(order)

    assert merged.fire("Ready", mine).target == "Running"


def test_an_instance_made_transient_is_refused(mine: Session, database: Engine) -> None:
    order = mine.get(Order, create(database, Order))
    make_transient(order)

    assert "the transient Order" in refused(order, mine)


def test_an_instance_of_another_session_is_refused(mine: Session, theirs: Session, database: Engine) -> None:
    key = create(database, Order)
    order = theirs.get(Order, key)

    assert f"the persistent Order {key} belongs to another session: fire with that one" == refused(order, mine)
    assert order.state == "Initializing"


def test_a_pending_instance_of_another_session_is_refused(mine: Session, theirs: Session) -> None:
    order = Order()
    theirs.add(order)

    assert "belongs to another session" in refused(order, mine)


def test_an_instance_marked_for_deletion_is_deleted_first_and_refused(mine: Session, database: Engine) -> None:
    order = mine.get(Order, create(database, Order))
    mine.delete(order)

    assert "the deleted Order" in refused(order, mine)


def test_without_autoflush_an_instance_marked_for_deletion_is_refused(mine: Session, database: Engine) -> None:
    key = create(database, Order)
    order = mine.get(Order, key)
    mine.delete(order)

    with mine.no_autoflush:
        message = refused(order, mine)
    mine.rollback()

    assert f"the persistent Order {key} is marked for deletion in this session" == message
    assert stored(database, Order, key) == "Initializing"


def test_a_deleted_instance_is_refused(mine: Session, database: Engine) -> None:
    order = mine.get(Order, create(database, Order))
    mine.delete(order)
    mine.flush()

    assert "the deleted Order" in refused(order, mine)


def test_after_a_rollback_a_deleted_instance_is_fired(mine: Session, database: Engine) -> None:
    order = mine.get(Order, create(database, Order))
    mine.delete(order)
    mine.flush()
    mine.rollback()

    assert order.fire("Ready", mine).target == "Running"


def test_a_row_that_this_session_deleted_by_core_is_not_found(mine: Session, database: Engine) -> None:
    order = mine.get(Order, create(database, Order))
    mine.connection().execute(Order.__table__.delete().where(Order.__table__.c.id == order.id))

    with pytest.raises(RowNotFound):
        order.fire("Ready", mine)


def test_the_instances_own_session_is_the_default(mine: Session, database: Engine) -> None:
    key = create(database, Order)
    mine.get(Order, key).fire("Ready")
    mine.commit()

    assert stored(database, Order, key) == "Running"
