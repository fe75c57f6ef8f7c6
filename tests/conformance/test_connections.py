"""Fires on a Core Connection in the place of a session: the same statements, outcomes, history, hooks and errors.

The cases of the first part run in both places, so a difference between them fails here.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, insert, select, text, update
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    GuardNotSatisfied,
    Machine,
    Moved,
    Refused,
    RowNotFound,
    StateMachineColumn,
    StateSinceColumn,
    TokenConflict,
    TooManyRows,
    TransactionAborted,
    TransactionRequired,
    TransitionNotAllowed,
    UnknownEvent,
    UnknownState,
    claim,
    find_by_token,
    fire_due,
    fire_key,
    fire_or_create,
    fire_where,
    force_state,
    on_committed,
    on_moved,
    remove_hook,
    run_transaction,
    try_fire_key,
)
from sqlalchemy_fsm_mysql.observation import Attempt, observe, stop_observing
from sqlalchemy_fsm_mysql.sql.clock import utc_ago
from tests.conformance import session_models as rules
from tests.conformance.history_models import (
    Order,
    OrderTransition,
    Parcel,
    Payment,
    Plain,
    Signal,
    Truck,
    VehicleTransition,
)
from tests.conformance.session_support import HIGHEST, create, is_sqlite, statements, stored

Place = Session | Connection


class TimedBase(DeclarativeBase):
    """The table of a timed event."""


class Timer(TimedBase):
    __tablename__ = "connection_timers"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(
        Machine(initial="running", events=[Event("Ring", {"running": "rung"}, after=timedelta(hours=1))])
    )
    state_since: Mapped[datetime] = StateSinceColumn()


@pytest.fixture(params=["session", "connection"])
def place(request: pytest.FixtureRequest, database: Engine) -> Iterator[Place]:
    """Where events are fired: a session, or a connection."""
    with Session(database) if request.param == "session" else database.connect() as opened:
        yield opened


@contextmanager
def hooked(register: Callable[[Any], Any], column: Any, function: Callable[..., Any]) -> Iterator[None]:
    register(function)
    try:
        yield
    finally:
        remove_hook(column, function)


def steps(engine: Engine, history: Any, key: Any) -> list[tuple[Any, ...]]:
    columns = history.__table__.c
    rows = select(columns.sequence, columns.event, columns.source, columns.target, columns.actor, columns.token)
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(rows.where(columns.record_id == key).order_by("sequence"))]


# --- one row


def test_a_key_moves_and_nothing_is_committed_before_commit(place: Place, database: Engine) -> None:
    key = create(database, Order)
    moved = fire_key(Order, key, "Ready", place, actor="ann", details={"by": "hand"})

    assert moved == Moved(Order, key, "Ready", "Initializing", "Running", actor="ann", sequence=1)
    assert moved.details == {"by": "hand"}
    assert stored(database, Order, key) == "Initializing"
    place.commit()
    assert stored(database, Order, key) == "Running"
    assert steps(database, OrderTransition, key) == [(1, "Ready", "Initializing", "Running", "ann", None)]


def test_a_rollback_takes_the_move_and_its_history_row_back(place: Place, database: Engine) -> None:
    key = create(database, Order)
    fire_key(Order, key, "Ready", place)
    place.rollback()

    assert (stored(database, Order, key), steps(database, OrderTransition, key)) == ("Initializing", [])


def test_a_refusal_is_an_error_or_a_value(place: Place, database: Engine) -> None:
    key = create(database, Order)
    with pytest.raises(TransitionNotAllowed, match=f"recorded_order {key} refused 'Delete': it is 'Initializing'"):
        fire_key(Order, key, "Delete", place)
    refused = try_fire_key(Order, key, "Delete", place)

    assert refused == Refused(Order, key, "Delete", "Initializing", "state", ["Stopped", "Deleted"])


def test_guards_effects_and_payload(place: Place, database: Engine) -> None:
    key = create(database, Payment)
    with pytest.raises(GuardNotSatisfied):
        fire_key(Payment, key, "Refund", place, amount=101)
    assert fire_key(Payment, key, "Refund", place, amount=30).target == "Paid"
    assert fire_key(Payment, key, "Refund", place, amount=70).payload == {"amount": 70}
    with pytest.raises(TypeError, match="needs 'amount'"):
        fire_key(Payment, key, "Refund", place)
    place.commit()

    assert stored(database, Payment, key, "state", "total") == ("Refunded", 0)


def test_a_missing_row_and_an_unknown_event(place: Place) -> None:
    with pytest.raises(RowNotFound):
        fire_key(Order, HIGHEST + 5, "Ready", place)
    with pytest.raises(UnknownEvent):
        fire_key(Order, 1, "Nothing", place)
    with pytest.raises(TypeError, match="is int, and the key '1' is str"):
        fire_key(Order, "1", "Ready", place)


def test_a_state_that_is_not_declared(place: Place, database: Engine) -> None:
    key, table = create(database, rules.Order), rules.Order.__table__.name
    mode = "PRAGMA ignore_check_constraints = ON" if is_sqlite(database) else "SET SESSION sql_mode = ''"
    with database.connect() as connection:
        connection.execute(text(mode))
        connection.execute(text(f"UPDATE {table} SET state = 'gone' WHERE id = {key}"))
        connection.commit()
        connection.invalidate()  # it stays in that mode
    with pytest.raises(UnknownState):
        fire_key(rules.Order, key, "Ready", place)


def test_composite_keys_enums_and_inheritance(place: Place, database: Engine) -> None:
    parcel = create(database, Parcel, depot=secrets.token_hex(4))
    signal = secrets.token_hex(4)
    with database.begin() as connection:
        connection.execute(insert(Signal.__table__).values(signal_name=signal))
    truck = create(database, Truck)
    assert fire_key(Parcel, parcel, "Ready", place).key == parcel
    assert fire_key(Signal, signal, "Go", place).target is Signal.light.type.machine.states[1]
    assert fire_key(Truck, truck, "Ready", place).target == "Running"
    place.commit()

    assert steps(database, VehicleTransition, truck)[0][:2] == (1, "Ready")


@pytest.mark.parametrize("model", [rules.Counted, rules.Stamped, rules.Stepped])
def test_the_version_of_the_row_is_a_new_one(place: Place, database: Engine, model: Any) -> None:
    key = create(database, model)
    before = stored(database, model, key, "version")
    fire_key(model, key, "Ready", place)
    place.commit()

    assert stored(database, model, key, "version") != before
    with Session(database) as session:
        session.get_one(model, key).note = "edited"
        session.commit()


# --- tokens


def test_a_token_is_answered_by_the_first_outcome(place: Place, database: Engine) -> None:
    key, token = create(database, Order), secrets.token_hex(8)
    first = fire_key(Order, key, "Ready", place, token=token)
    place.commit()
    again = fire_key(Order, key, "Ready", place, token=token)
    found = find_by_token(Order.state, token, place)

    assert (first.replayed, again.replayed, again.sequence, found) == (False, True, 1, again)
    with pytest.raises(TokenConflict):
        fire_key(Order, key, "Stop", place, token=token)
    assert find_by_token(Order.state, secrets.token_hex(8), place) is None


# --- hooks


def test_hooks_get_the_place_and_committed_ones_run_after_commit(place: Place, database: Engine) -> None:
    key, heard = create(database, Order), []

    def moved_hook(moved: Moved[Any], where: Any) -> None:
        heard.append((moved.event, where is place))
        if moved.event == "Ready":
            fire_key(Order, key, "Stop", where)

    def committed_hook(moved: Moved[Any]) -> None:
        heard.append((moved.event, "committed"))

    with (
        hooked(on_moved(Order.state), Order.state, moved_hook),
        hooked(on_committed(Order.state), Order.state, committed_hook),
    ):
        fire_key(Order, key, "Ready", place)
        place.rollback()
        assert heard == [("Ready", True), ("Stop", True)]
        fire_key(Order, key, "Ready", place)
        savepoint = place.begin_nested()
        fire_key(Order, key, "Delete", place)
        savepoint.rollback()
        place.commit()

    assert heard[2:] == [
        ("Ready", True),
        ("Stop", True),
        ("Delete", True),
        ("Ready", "committed"),
        ("Stop", "committed"),
    ]


def test_observers_hear_of_it(place: Place, database: Engine) -> None:
    key, heard = create(database, Order), []

    @observe
    @contextmanager
    def observer(attempt: Attempt) -> Iterator[None]:
        yield
        heard.append((attempt.operation, attempt.key, attempt.outcome))

    try:
        fire_key(Order, key, "Ready", place)
        try_fire_key(Order, key, "Delete", place)
        fire_where(Order, "Stop", place, Order.id == key)
    finally:
        stop_observing(observer)

    assert heard == [("fire", key, "moved"), ("fire", key, "refused"), ("fire_where", None, "moved")]


# --- sets


def test_a_set_moves_with_its_history(place: Place, database: Engine) -> None:
    keys = sorted(create(database, Order) for _ in range(3))
    fire_key(Order, keys[0], "Ready", place)
    rows = fire_where(Order, "Stop", place, Order.id.in_(keys), actor="ann")
    place.commit()

    assert rows.by_transition == {("Running", "Stopped"): 1, ("Initializing", "Stopped"): 2}
    assert [len(steps(database, OrderTransition, key)) for key in keys] == [2, 1, 1]


def test_a_set_in_batches_and_with_a_limit(place: Place, database: Engine) -> None:
    keys = [create(database, Plain) for _ in range(3)]
    with pytest.raises(TooManyRows):
        fire_where(Plain, "Ready", place, Plain.id.in_(keys), max_rows=2)
    assert fire_where(Plain, "Ready", place, Plain.id.in_(keys), batch_size=2).moved == 3


def test_timed_events(place: Place, database: Engine) -> None:
    TimedBase.metadata.create_all(database)
    heard: list[Any] = []
    try:
        with database.begin() as connection:
            since = utc_ago(timedelta(hours=2))
            connection.execute(insert(Timer.__table__).values(id=1, state="running", state_since=since))
        with hooked(on_moved(Timer.state), Timer.state, lambda *heard_of: heard.append(heard_of)):
            assert fire_due(Timer, place).by_transition == {("running", "rung"): 1}
        place.commit()
        assert stored(database, Timer, 1) == "rung"
        assert [(moved.key, where is place) for moved, where in heard] == [(1, True)]
    finally:
        place.rollback()
        TimedBase.metadata.drop_all(database)


# --- a row that may be missing


def test_values_create_a_row_or_find_one(place: Place, database: Engine) -> None:
    key = secrets.randbelow(HIGHEST)
    created = fire_or_create(Order, {"id": key, "note": "new"}, "Ready", place)
    moved = fire_or_create(Order, {"id": key, "note": "other"}, "Stop", place)
    place.commit()

    assert (created.created, created.target, moved.created, moved.source) == (True, "Running", False, "Running")
    assert (created.instance, moved.instance) == (None, None)
    assert stored(database, Order, key, "state", "note") == ("Stopped", "new")
    assert [step[0] for step in steps(database, OrderTransition, key)] == [1, 2]


def test_a_refused_creation_leaves_no_row(place: Place, database: Engine) -> None:
    key = secrets.randbelow(HIGHEST)
    with pytest.raises(TransitionNotAllowed):
        fire_or_create(Order, {"id": key}, "Delete", place)
    with pytest.raises(GuardNotSatisfied):
        fire_or_create(Payment, {"id": key, "total": 5}, "Refund", place, amount=6)
    place.commit()

    with Session(database) as session:
        assert (session.get(Order, key), session.get(Payment, key)) == (None, None)


def test_a_creation_is_fired_under_a_token_once(place: Place, database: Engine) -> None:
    key, token = secrets.randbelow(HIGHEST), secrets.token_hex(8)
    outcomes = [fire_or_create(Order, {"id": key}, "Ready", place, token=token) for _ in range(2)]

    assert [outcome.replayed for outcome in outcomes] == [False, True]


def test_values_that_fit_no_row(place: Place) -> None:
    with pytest.raises(TypeError, match="needs the whole key of Order: id is not set"):
        fire_or_create(Order, {"note": "x"}, "Ready", place)
    with pytest.raises(TypeError, match="Order has no column 'nonsense'; it has id, state, note"):
        fire_or_create(Order, {"id": 1, "nonsense": 2}, "Ready", place)
    with pytest.raises(ValueError, match="creates from the initial state 'Initializing', and 'Stopped' was given"):
        fire_or_create(Order, {"id": 1, "state": "Stopped"}, "Ready", place)
    with pytest.raises(TypeError, match="are a dict of its attributes"):
        fire_or_create(Order, [("id", 1)], "Ready", place)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="an instance, an event and a session; or a model"):
        fire_or_create(Order, "Ready")  # type: ignore[call-overload]


# --- a connection alone


def test_a_session_is_needed_where_instances_are(database: Engine) -> None:
    order = Order(id=1)
    with database.connect() as connection:
        for call in (
            lambda: claim(Order, "Ready", connection, limit=1),  # type: ignore[call-overload]
            lambda: order.fire("Ready", connection),  # type: ignore[call-overload]
            lambda: force_state(order, "Running", connection),  # type: ignore[call-overload]
            lambda: order.history(connection),  # type: ignore[call-overload]
            lambda: fire_or_create(order, "Ready", connection),  # type: ignore[call-overload]
        ):
            with pytest.raises(TypeError, match=r"a session is needed, got .*take a connection"):
                call()
        with pytest.raises(TypeError, match="a session or a Connection is needed"):
            fire_key(Order, 1, "Ready", database)  # type: ignore[call-overload]


def test_the_statements_are_those_of_a_session(database: Engine) -> None:
    key = create(database, Plain)
    with database.connect() as connection, statements(database) as sent:
        fire_key(Plain, key, "Ready", connection)
    with Session(database) as session, statements(database) as sent_by_session:
        fire_key(Plain, key, "Ready", session)

    assert sent == sent_by_session


def test_in_autocommit_each_fire_is_committed(database: Engine) -> None:
    key, heard = create(database, Plain), []
    with (
        database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        hooked(on_committed(Plain.state), Plain.state, heard.append),
    ):
        fire_key(Plain, key, "Ready", connection)
        assert stored(database, Plain, key) == "Running"
        assert [moved.target for moved in heard] == ["Running"]
        with pytest.raises(TransactionRequired):
            fire_key(Order, key, "Ready", connection)
        with pytest.raises(TransactionRequired):
            fire_due(Timer, connection)


def test_run_transaction_commits_what_a_connection_fires(database: Engine) -> None:
    key, token = create(database, Order), secrets.token_hex(8)
    moved = run_transaction(database, lambda connection: fire_key(Order, key, "Ready", connection, token=token))

    assert (moved.target, stored(database, Order, key)) == ("Running", "Running")


@pytest.mark.servers_only
def test_after_a_deadlock_nothing_of_the_transaction_can_be_committed(database: Engine) -> None:
    key, other = create(database, Order), create(database, Order)
    with database.connect() as connection:
        fire_key(Order, key, "Ready", connection)
        connection.connection.dbapi_connection.rollback()  # type: ignore[union-attr]  # as the server does
        with pytest.raises(DBAPIError):
            connection.execute(text("SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'deadlock'"))
        with pytest.raises(PendingRollbackError):
            fire_key(Order, other, "Ready", connection)
        with pytest.raises(PendingRollbackError):
            connection.commit()
        connection.rollback()
        fire_key(Order, other, "Stop", connection)
        connection.commit()

    assert (stored(database, Order, key), stored(database, Order, other)) == ("Initializing", "Stopped")


@pytest.mark.servers_only
def test_a_fire_after_an_earlier_deadlock_names_it(database: Engine) -> None:
    key = create(database, Order)
    with database.connect() as connection:
        connection.execute(update(Order.__table__).values(note="x").where(Order.__table__.c.id == key))
        connection.connection.dbapi_connection.rollback()  # type: ignore[union-attr]  # as the server does
        with suppress(DBAPIError):
            connection.execute(text("SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'deadlock'"))
        with pytest.raises(TransactionAborted) as error:
            fire_key(Order, key, "Ready", connection)

    assert error.value.code == 1213


def test_a_listener_of_the_connection_hears_the_statement(database: Engine) -> None:
    key, heard = create(database, Plain), []

    def before_execute(connection: Connection, clause: Any, *_: Any) -> None:
        heard.append(clause)

    with database.connect() as connection:
        event.listen(connection, "before_execute", before_execute)
        fire_key(Plain, key, "Ready", connection)

    assert heard
