"""What a session does before an event and shows after it, and what a refusal is judged on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, inspect
from sqlalchemy.orm import Session

from sqlalchemy_fsm_mysql import (
    GuardNotSatisfied,
    Refused,
    StateAssignmentError,
    TransitionNotAllowed,
    UnknownState,
    fire_key,
)
from tests.conformance.session_models import Metered, Order, Payment
from tests.conformance.session_support import create, is_sqlite, locks_between, move, statements, stored, write

# --- before the event


def test_the_event_sees_edits_not_flushed_yet(mine: Session, database: Engine) -> None:
    """The guard reads what the session has only in memory."""
    payment = mine.get(Payment, create(database, Payment, total=1))
    payment.total = 50

    payment.fire("Pay", mine, amount=30)

    assert (payment.total, payment.state) == (20, "Paid")


def test_fire_key_flushes_too(mine: Session, database: Engine) -> None:
    key = create(database, Payment, total=1)
    payment = mine.get(Payment, key)
    payment.total = 50

    fire_key(Payment, key, "Pay", mine, amount=50)

    assert (payment.total, payment.state) == (0, "Paid")


def test_without_autoflush_the_event_sees_what_is_stored(mine: Session, database: Engine) -> None:
    payment = mine.get(Payment, create(database, Payment, total=1))
    payment.total = 50

    with mine.no_autoflush, pytest.raises(GuardNotSatisfied):
        payment.fire("Pay", mine, amount=30)

    assert payment.total == 50, "the edit waits for its flush"


@pytest.mark.parametrize("how", ["no_autoflush", "autoflush=False"])
def test_without_autoflush_other_edits_wait_for_their_flush(database: Engine, how: str) -> None:
    key = create(database, Order)
    with Session(database, autoflush=how == "no_autoflush") as session:
        order = session.get(Order, key)
        order.note = "mine"
        with session.no_autoflush:
            order.fire("Stop", session)

        assert (order.note, order in session.dirty) == ("mine", True)
        session.commit()

    assert stored(database, Order, key, "state", "note") == ("Stopped", "mine")


def test_no_edit_of_the_state_waits_for_a_flush(mine: Session, database: Engine) -> None:
    """What is not assigned cannot be dirty, so the event never meets such an edit."""
    order = mine.get(Order, create(database, Order))

    with pytest.raises(StateAssignmentError):
        order.state = "Running"

    assert order not in mine.dirty


# --- after it moved


def test_the_new_state_is_known_without_a_select(mine: Session, database: Engine) -> None:
    order = mine.get(Order, create(database, Order))
    order.fire("Ready", mine)

    with statements(database) as sent:
        assert order.state == "Running"

    assert sent == []


def test_the_new_state_of_an_expired_instance_is_known_without_a_select(mine: Session, database: Engine) -> None:
    order = mine.get(Order, create(database, Order))
    mine.commit()
    order.fire("Ready", mine)

    with statements(database) as sent:
        assert order.state == "Running"

    assert sent == []


def test_fire_key_brings_the_instance_of_the_row_up_to_date(mine: Session, database: Engine) -> None:
    key = create(database, Order)
    order = mine.get(Order, key)
    fire_key(Order, key, "Ready", mine)

    with statements(database) as sent:
        assert order.state == "Running"

    assert sent == []


def test_what_the_event_leaves_alone_is_not_read_again(mine: Session, database: Engine) -> None:
    order = mine.get(Order, create(database, Order, note="as it was"))
    order.fire("Ready", mine)

    with statements(database) as sent:
        assert order.note == "as it was"

    assert sent == []


def test_what_an_effect_changed_is_read_again(mine: Session, database: Engine) -> None:
    payment = mine.get(Payment, create(database, Payment, total=70))

    payment.fire("Pay", mine, amount=30)

    assert payment.total == 40


def test_an_effect_keeps_edits_of_other_columns(mine: Session, database: Engine) -> None:
    key = create(database, Payment, total=70)
    payment = mine.get(Payment, key)
    payment.note = "mine"

    with mine.no_autoflush:
        payment.fire("Pay", mine, amount=30)
    mine.commit()

    assert stored(database, Payment, key, "total", "note") == (40, "mine")


@pytest.mark.parametrize("column", ["by_sql", "was", "by_python", "by_computation", "by_trigger"])
def test_what_every_update_changes_is_read_again(mine: Session, database: Engine, column: str) -> None:
    key = create(database, Metered)
    metered = mine.get(Metered, key)
    before = getattr(metered, column)

    metered.fire("Stop", mine)
    shown = getattr(metered, column)
    mine.commit()

    assert before != shown
    assert stored(database, Metered, key, column) == shown


def test_what_every_update_changes_is_made_of_the_row_before_the_event(mine: Session, database: Engine) -> None:
    """MySQL assigns from left to right: the state goes last."""
    metered = mine.get_one(Metered, create(database, Metered))

    metered.fire("Stop", mine)

    assert (metered.was, metered.state) == ("Initializing", "Stopped")


def test_a_mapped_expression_of_the_state_is_read_again(mine: Session, database: Engine) -> None:
    """As after a flush, which expires a column_property()."""
    order = mine.get(Order, create(database, Order))
    assert order.is_stopped in (False, 0)

    order.fire("Stop", mine)

    assert order.is_stopped in (True, 1)


def test_a_refusal_changes_nothing_in_memory(mine: Session, database: Engine) -> None:
    order = mine.get(Order, create(database, Order, state="Deleted"))
    order.note = "mine"

    with mine.no_autoflush, statements(database) as sent:
        refused = order.try_fire("Ready", mine)
        after_the_fire = len(sent)
        assert (order.state, order.note, order in mine.dirty) == ("Deleted", "mine", True)

    assert isinstance(refused, Refused)
    assert after_the_fire == len(sent)


# --- what a refusal is judged on


@pytest.fixture
def repeatable(database: Engine) -> Iterator[Session]:
    """A session under REPEATABLE READ: its first read is a snapshot, and stays it."""
    # Of the connection: before 2.0.31 SQLAlchemy cannot set it on an engine that has other execution options.
    with database.connect() as connection:
        connection.execution_options(isolation_level="REPEATABLE READ")
        # Where this is ON the server refuses to look past the snapshot: test_aborted_transactions.py.
        has_choice = connection.exec_driver_sql("SHOW VARIABLES LIKE 'innodb_snapshot_isolation'").first()
        if has_choice:
            connection.exec_driver_sql("SET SESSION innodb_snapshot_isolation = OFF")
        connection.commit()
        with Session(connection) as session:
            yield session
        if has_choice:
            connection.exec_driver_sql("SET SESSION innodb_snapshot_isolation = DEFAULT")


@pytest.mark.servers_only
@pytest.mark.parametrize("by_key", [False, True], ids=["fire", "fire_key"])
def test_a_refusal_names_the_committed_state_not_the_snapshots(
    repeatable: Session, database: Engine, by_key: bool
) -> None:
    key = create(database, Order)
    order = repeatable.get_one(Order, key)
    move(database, Order, key, "Stop", "Delete")

    with pytest.raises(TransitionNotAllowed) as refused:
        fire_key(Order, key, "Ready", repeatable) if by_key else order.fire("Ready", repeatable)

    assert (refused.value.state, order.state) == ("Deleted", "Deleted")


@pytest.mark.servers_only
def test_a_refusal_after_a_self_transition_names_the_committed_state(repeatable: Session, database: Engine) -> None:
    """A row that the self transition left unchanged gets no new version: a plain read would show the snapshot."""
    key = create(database, Order)
    order = repeatable.get_one(Order, key)
    move(database, Order, key, "Stop")
    moved = order.fire("Stop", repeatable)

    with pytest.raises(TransitionNotAllowed) as refused:
        order.fire("Ready", repeatable)

    assert (moved.source, moved.target) == ("Stopped", "Stopped")
    assert (refused.value.state, order.state) == ("Stopped", "Stopped")


@pytest.mark.servers_only
def test_an_event_moves_the_committed_state_not_the_snapshots(repeatable: Session, database: Engine) -> None:
    key = create(database, Order)
    order = repeatable.get_one(Order, key)
    move(database, Order, key, "Ready")

    moved = order.fire("NotReady", repeatable)

    assert (moved.source, moved.target, order.state) == ("Running", "Error", "Error")


@pytest.mark.servers_only
def test_an_undeclared_state_is_named_as_committed_not_as_in_the_snapshot(
    repeatable: Session, database: Engine
) -> None:
    """MySQL without strict mode stores '' for what an ENUM does not have; the second look reads it with a lock."""
    key = create(database, Order)
    order = repeatable.get_one(Order, key)
    with database.begin() as connection:
        connection.exec_driver_sql("SET SESSION sql_mode = ''")
        connection.exec_driver_sql(f"UPDATE rules_order SET state = 'Nowhere' WHERE id = {key}")
        connection.exec_driver_sql("SET SESSION sql_mode = DEFAULT")

    with pytest.raises(UnknownState) as unknown:
        order.fire("Ready", repeatable)

    assert unknown.value.state == ""


def test_a_refusal_sees_this_transactions_own_moves(mine: Session, database: Engine) -> None:
    order = mine.get(Order, create(database, Order))
    order.fire("Stop", mine)

    with pytest.raises(TransitionNotAllowed) as refused:
        order.fire("Ready", mine)

    assert refused.value.state == "Stopped"


def test_a_refusal_names_what_others_committed_meanwhile(mine: Session, database: Engine) -> None:
    key = create(database, Order)
    order = mine.get(Order, key)
    mine.commit()
    assert order.state == "Initializing"
    if is_sqlite(database):
        mine.rollback()
    move(database, Order, key, "Stop")

    with pytest.raises(TransitionNotAllowed) as refused:
        order.fire("Ready", mine)

    assert (refused.value.state, order.state) == ("Stopped", "Stopped")


def test_a_row_moved_by_hand_fires_from_its_real_state(mine: Session, database: Engine) -> None:
    key = create(database, Order)
    order = mine.get(Order, key)
    write(database, Order, key, state="Running")

    assert order.fire("NotReady", mine).target == "Error"
    assert not inspect(order).modified


def test_nobody_writes_between_what_an_event_reads_and_writes(mine: Session, database: Engine) -> None:
    """One statement leaves no room for that; of two, the first one locks."""
    key = create(database, Order)

    with locks_between(database, Order, key) as locks:
        fire_key(Order, key, "Ready", mine)

    assert all(locks)
