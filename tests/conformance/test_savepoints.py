"""After a rollback, or a savepoint's, memory never shows a state that the database does not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError, PendingRollbackError, SAWarning
from sqlalchemy.orm import Session

from sqlalchemy_fsm_mysql import TransitionNotAllowed, fire_key
from tests.conformance.session_models import Metered, Order
from tests.conformance.session_support import create, is_sqlite, move, statements, stored

Fire = Callable[[Order, str, Session], Any]


def by_instance(order: Order, event: str, session: Session) -> Any:
    return order.fire(event, session)


def by_key(order: Order, event: str, session: Session) -> Any:
    return fire_key(Order, order.id, event, session)


every_way = pytest.mark.parametrize("fire", [by_instance, by_key])


def loaded(session: Session, engine: Engine, **values: Any) -> Order:
    """An order of the session's, whose transaction has begun with a write."""
    # pysqlite begins a transaction at the first write only: a savepoint before that would be the transaction itself.
    order = session.get(Order, create(engine, Order, **values))
    assert order is not None
    order.note = "written first"
    session.flush()
    return order


# --- the transaction


@every_way
@pytest.mark.parametrize("expire_on_commit", [True, False])
def test_after_a_rollback_the_state_is_as_stored(database: Engine, fire: Fire, expire_on_commit: bool) -> None:
    with Session(database, expire_on_commit=expire_on_commit) as session:
        order = loaded(session, database)
        fire(order, "Stop", session)
        session.rollback()

        assert order.state == "Initializing"


@pytest.mark.parametrize("expire_on_commit", [True, False])
def test_after_a_commit_and_a_rollback_the_state_is_the_committed_one(database: Engine, expire_on_commit: bool) -> None:
    with Session(database, expire_on_commit=expire_on_commit) as session:
        order = loaded(session, database)
        order.fire("Ready", session)
        session.commit()
        order.fire("Stop", session)
        session.rollback()

        assert order.state == "Running"


@pytest.mark.parametrize("expire_on_commit", [True, False])
def test_after_a_commit_the_state_is_the_new_one(database: Engine, expire_on_commit: bool) -> None:
    with Session(database, expire_on_commit=expire_on_commit) as session:
        order = loaded(session, database)
        order.fire("Ready", session)
        session.commit()

        with statements(database) as sent:
            assert order.state == "Running"
        assert expire_on_commit == bool(sent)


def test_a_row_made_and_fired_in_a_rolled_back_transaction_is_transient_again(mine: Session) -> None:
    order = Order()
    mine.add(order)
    order.fire("Ready", mine)
    mine.rollback()

    assert order not in mine


# --- a savepoint


@every_way
@pytest.mark.parametrize("expire_on_commit", [True, False])
def test_after_a_savepoints_rollback_the_state_is_as_stored(
    database: Engine, fire: Fire, expire_on_commit: bool
) -> None:
    with Session(database, expire_on_commit=expire_on_commit) as session:
        order = loaded(session, database)
        savepoint = session.begin_nested()
        fire(order, "Stop", session)
        savepoint.rollback()

        assert order.state == "Initializing"
        session.commit()
        assert stored(database, Order, order.id) == "Initializing"


@every_way
def test_a_move_before_the_savepoint_outlives_its_rollback(mine: Session, database: Engine, fire: Fire) -> None:
    order = loaded(mine, database)
    fire(order, "Ready", mine)
    savepoint = mine.begin_nested()
    fire(order, "Stop", mine)
    savepoint.rollback()

    assert order.state == "Running"
    mine.commit()
    assert stored(database, Order, order.id) == "Running"


@every_way
def test_a_released_savepoint_keeps_its_move(mine: Session, database: Engine, fire: Fire) -> None:
    order = loaded(mine, database)
    with mine.begin_nested():
        fire(order, "Stop", mine)

    with statements(database) as sent:
        assert order.state == "Stopped"
    assert sent == []


@every_way
def test_after_a_released_savepoint_the_transactions_rollback_takes_all_back(
    mine: Session, database: Engine, fire: Fire
) -> None:
    order = loaded(mine, database)
    with mine.begin_nested():
        fire(order, "Stop", mine)
    mine.rollback()

    assert order.state == "Initializing"


@every_way
def test_a_released_savepoint_goes_with_the_one_around_it(mine: Session, database: Engine, fire: Fire) -> None:
    order = loaded(mine, database)
    outer = mine.begin_nested()
    with mine.begin_nested():
        fire(order, "Stop", mine)
    outer.rollback()

    assert order.state == "Initializing"


@pytest.mark.parametrize(("rolled_back", "state"), [(1, "Initializing"), (2, "Running"), (3, "Error")])
def test_three_savepoints_deep_the_state_is_that_of_the_one_rolled_back_to(
    mine: Session, database: Engine, rolled_back: int, state: str
) -> None:
    order = loaded(mine, database)
    savepoints = []
    for event in ("Ready", "NotReady", "Stop"):
        savepoints.append(mine.begin_nested())
        order.fire(event, mine)

    savepoints[rolled_back - 1].rollback()

    assert state == order.state
    mine.commit()
    assert state == stored(database, Order, order.id)


def test_a_savepoint_next_to_a_rolled_back_one_keeps_its_move(mine: Session, database: Engine) -> None:
    key = create(database, Order)
    kept, lost = loaded(mine, database), mine.get(Order, key)
    with mine.begin_nested():
        kept.fire("Stop", mine)
    savepoint = mine.begin_nested()
    lost.fire("Stop", mine)
    savepoint.rollback()

    assert (kept.state, lost.state) == ("Stopped", "Initializing")


def test_a_failed_statement_in_a_savepoint_takes_the_move_back(mine: Session, database: Engine) -> None:
    order = loaded(mine, database)
    taken = create(database, Order) if not is_sqlite(database) else order.id
    savepoint = mine.begin_nested()
    order.fire("Stop", mine)
    with pytest.raises(IntegrityError), savepoint:
        mine.connection().execute(Order.__table__.insert().values(id=taken))

    assert order.state == "Initializing"


def test_a_failed_flush_in_a_savepoint_hides_the_move_at_once(mine: Session, database: Engine) -> None:
    """The flush has rolled back to the savepoint already; that is as far as SQLAlchemy lets a session go on."""
    order = loaded(mine, database)
    savepoint = mine.begin_nested()
    order.fire("Stop", mine)
    mine.add(Order(id=order.id))
    with pytest.warns(SAWarning, match="conflicts with persistent instance"), pytest.raises(IntegrityError):
        mine.flush()

    with pytest.raises(PendingRollbackError):
        order.state  # noqa: B018 - reading it is the test
    savepoint.rollback()
    assert order.state == "Initializing"


@every_way
def test_what_the_event_changed_besides_the_state_is_taken_back_too(
    mine: Session, database: Engine, fire: Fire
) -> None:
    loaded(mine, database)
    if is_sqlite(database):
        mine.commit()
    metered = mine.get(Metered, create(database, Metered))
    assert metered is not None
    metered.note = "written first"
    mine.flush()
    before = metered.by_sql
    savepoint = mine.begin_nested()
    metered.fire("Stop", mine)
    assert before != metered.by_sql
    savepoint.rollback()

    assert (before, "no") == (metered.by_sql, metered.by_computation)


def test_an_instance_loaded_after_the_fire_by_key_goes_with_the_savepoint(mine: Session, database: Engine) -> None:
    key = create(database, Order)
    loaded(mine, database)
    savepoint = mine.begin_nested()
    fire_key(Order, key, "Stop", mine)
    order = mine.get(Order, key)
    assert order is not None
    assert order.state == "Stopped"
    savepoint.rollback()

    assert order.state == "Initializing"


def test_an_instance_garbage_collected_meanwhile_does_no_harm(mine: Session, database: Engine) -> None:
    key = loaded(mine, database).id
    savepoint = mine.begin_nested()
    mine.get(Order, key).fire("Stop", mine)  # type: ignore[union-attr]
    mine.expunge_all()
    savepoint.rollback()

    assert mine.get(Order, key).state == "Initializing"  # type: ignore[union-attr]


def test_a_row_made_and_fired_in_a_rolled_back_savepoint_is_transient_again(mine: Session, database: Engine) -> None:
    loaded(mine, database)
    savepoint = mine.begin_nested()
    order = Order()
    mine.add(order)
    order.fire("Ready", mine)
    savepoint.rollback()

    assert order not in mine


@every_way
def test_a_refusals_observation_of_an_own_move_goes_with_the_savepoint(
    mine: Session, database: Engine, fire: Fire
) -> None:
    """Memory learns the state from the refusal; what it learned was made in the savepoint, and goes with it."""
    order = loaded(mine, database)
    savepoint = mine.begin_nested()
    with mine.no_autoflush:
        mine.connection().execute(Order.__table__.update().where(Order.id == order.id).values(state="Deleted"))
    with pytest.raises(TransitionNotAllowed):
        fire(order, "Ready", mine)
    assert order.state == "Deleted"
    savepoint.rollback()

    assert order.state == "Initializing"


@pytest.mark.servers_only
def test_a_refusals_observation_of_anothers_move_stays_true_after_the_savepoint(
    mine: Session, database: Engine
) -> None:
    order = mine.get(Order, create(database, Order))
    assert order is not None
    savepoint = mine.begin_nested()
    move(database, Order, order.id, "Stop")
    with pytest.raises(TransitionNotAllowed):
        order.fire("Ready", mine)
    savepoint.rollback()

    assert order.state == "Stopped"


def test_a_row_fired_and_deleted_in_a_rolled_back_savepoint_is_as_stored(mine: Session, database: Engine) -> None:
    order = loaded(mine, database)
    savepoint = mine.begin_nested()
    order.fire("Stop", mine)
    mine.delete(order)
    mine.flush()
    savepoint.rollback()

    assert order.state == "Initializing"


def test_the_session_moves_on_after_a_savepoints_rollback(mine: Session, database: Engine) -> None:
    order = loaded(mine, database)
    savepoint = mine.begin_nested()
    order.fire("Stop", mine)
    savepoint.rollback()

    assert ((moved := order.fire("Ready", mine)).source, moved.target) == ("Initializing", "Running")
    mine.commit()
    assert stored(database, Order, order.id) == "Running"
