"""What is counted of a machine's rows and history, for diagrams."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from sqlalchemy_fsm_mysql import count_rows, count_transitions, fire_key, fire_where, force_state
from tests.conformance.history_models import Order, OrderTransition, Parcel, Plain, Signal, SignalTransition

# Unless every driver is asked for.
ONE_DRIVER = True


@pytest.fixture(scope="module", params=["own"])
def backend(request: pytest.FixtureRequest) -> str:
    """Nothing is counted by a backend."""
    return str(request.param)


@pytest.fixture
def session(mine: Session) -> Session:
    """Nothing is committed; what other modules left is deleted for this transaction."""
    for model in (Order, OrderTransition, Parcel, Signal, SignalTransition):
        mine.execute(delete(model))
    return mine


def test_transitions_are_counted_by_edge_also_forced_ones(session: Session) -> None:
    session.add_all([Order(id=1), Order(id=2), Order(id=3)])
    session.flush()
    fire_key(Order, 1, "Ready", session)
    fire_where(Order, "Ready", session, Order.id > 1)
    fire_key(Order, 1, "Ready", session)
    force_state(session.get_one(Order, 3), "Deleted", session)

    assert count_transitions(Order.state, session) == {
        ("Ready", "Initializing", "Running"): 3,
        ("Ready", "Running", "Running"): 1,
        ("force_state", "Running", "Deleted"): 1,
    }
    assert count_rows(Order.state, session) == {"Initializing": 0, "Running": 2, "Error": 0, "Stopped": 0, "Deleted": 1}


def test_transitions_are_counted_within_a_time(session: Session) -> None:
    session.add(Order(id=1))
    session.flush()
    fire_key(Order, 1, "Ready", session)
    at = session.scalars(select(OrderTransition.at)).one()

    assert count_transitions(Order.state, session, since=at) == {("Ready", "Initializing", "Running"): 1}
    assert count_transitions(Order.state, session, since=at + timedelta(seconds=1)) == {}
    assert count_transitions(Order.state, session, until=at) == {}


def test_members_are_counted_by_the_names_stored(session: Session) -> None:
    session.add(Signal(name="north"))
    session.flush()
    fire_key(Signal, "north", "Go", session)

    assert count_transitions(Signal.light, session) == {("Go", "red", "green"): 1}
    assert count_rows(Signal.light, session) == {"red": 0, "green": 1}


def test_machine_without_history_has_no_transitions_to_count(session: Session) -> None:
    with pytest.raises(TypeError, match="has no TransitionHistory"):
        count_transitions(Plain.state, session)
