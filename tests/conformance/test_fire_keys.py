"""``fire_keys``: one event on many rows by their keys, with an outcome for each, in a session and on a connection."""

from __future__ import annotations

import itertools
import random
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, String, event, func, insert, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    Machine,
    Missing,
    Moved,
    Refused,
    Stateful,
    StateMachineColumn,
    Transition,
    TransitionHistory,
    UniqueViolation,
    UnknownEvent,
    UnknownState,
    fire_key,
    fire_keys,
    on_committed,
    on_moved,
    remove_hook,
)
from sqlalchemy_fsm_mysql.observation import observe, stop_observing
from tests.conformance.session_support import is_locked, is_sqlite, statements
from tests.reference import machine

Place = Session | Connection


class Base(DeclarativeBase):
    """The tables of this module."""


class Order(Stateful, Base):
    """The reference machine, without a history."""

    __tablename__ = "many_orders"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine)


class Recorded(Stateful, Base):
    """The reference machine, with a history."""

    __tablename__ = "many_recorded"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine)


class RecordedTransition(TransitionHistory, Base):
    __tablename__ = "many_recorded_transitions"
    __records__ = Recorded.state


class Account(Stateful, Base):
    """Guards that choose between transitions and read what an effect writes, a unique column, and a version."""

    __tablename__ = "many_accounts"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="open",
            events=[
                Event(
                    "Pay",
                    [
                        Transition("open", "settled", guard=lambda account, amount: account.debt <= amount),
                        Transition("open", "open", guard=lambda account, amount: account.debt < 100),
                        Transition("dormant", "open"),
                    ],
                    effect=lambda account, amount: {"debt": account.debt - amount},
                ),
                Event("Name", {"open": "open"}, effect=lambda account, name: {"name": name}),
                Event("Sleep", {"open": "dormant"}),
            ],
        )
    )
    debt: Mapped[int] = mapped_column(default=0)
    name: Mapped[str | None] = mapped_column(String(20), unique=True)
    version: Mapped[int] = mapped_column(default=1)
    __mapper_args__ = {"version_id_col": version}


class AccountTransition(TransitionHistory, Base):
    __tablename__ = "many_account_transitions"
    __records__ = Account.state


class Label(Stateful, Base):
    """A key of two parts, one of them text under the server's default collation, which folds case."""

    __tablename__ = "many_labels"
    shop: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(20), primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)


@pytest.fixture(params=["session", "connection"])
def place(request: pytest.FixtureRequest, backend_engine: Engine, tables: None) -> Iterator[Place]:
    """Where events are fired: a session, or a connection. The rows are gone after the test."""
    with Session(backend_engine) if request.param == "session" else backend_engine.connect() as opened:
        yield opened
    with backend_engine.begin() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(table.delete())


def add(engine: Engine, model: Any, *rows: dict[str, Any]) -> None:
    with engine.begin() as connection:
        connection.execute(insert(model.__table__), list(rows))


def states(engine: Engine, model: Any) -> dict[Any, str]:
    with Session(engine) as session:
        return {row.id: row.state for row in session.scalars(select(model))}


def steps(engine: Engine, history: Any) -> list[tuple[Any, ...]]:
    columns = history.__table__.c
    rows = select(columns.record_id, columns.sequence, columns.event, columns.source, columns.target, columns.actor)
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(rows.order_by(columns.record_id, columns.sequence))]


def is_own(engine: Engine) -> bool:
    return not is_sqlite(engine) and "fsm_backend" not in engine.get_execution_options()


def test_each_key_has_its_outcome_in_the_order_given(place: Place, backend_engine: Engine) -> None:
    add(
        backend_engine,
        Order,
        {"id": 1, "state": "Running"},
        {"id": 2, "state": "Deleted"},
        {"id": 4, "state": "Error"},
        {"id": 5, "state": "Initializing"},
    )
    outcomes = fire_keys(Order, [4, 3, 2, 1, 5], "Ready", place)
    place.commit()

    assert outcomes == [
        Moved(Order, 4, "Ready", "Error", "Running"),
        Missing(Order, 3, "Ready"),
        Refused(Order, 2, "Ready", "Deleted", "state", ["Initializing", "Running", "Error"]),
        Moved(Order, 1, "Ready", "Running", "Running"),
        Moved(Order, 5, "Ready", "Initializing", "Running"),
    ]
    assert [bool(outcome) for outcome in outcomes] == [True, False, False, True, True]
    assert states(backend_engine, Order) == {1: "Running", 2: "Deleted", 4: "Running", 5: "Running"}


def test_a_thousand_keys_are_two_statements_and_with_a_history_three(place: Place, backend_engine: Engine) -> None:
    for model, number in ((Order, 2), (Recorded, 3)):
        rows = [{"id": key, "state": ("Initializing", "Running", "Error")[key % 3]} for key in range(1, 1001)]
        add(backend_engine, model, *rows)
        place.commit()
        with statements(backend_engine) as sent:
            outcomes = fire_keys(model, range(1, 1001), "Stop", place, **({"actor": "ann"} if number == 3 else {}))
        place.commit()
        assert all(outcomes)
        assert len(sent) == number + is_sqlite(backend_engine)  # SQLite's write lock
        assert set(states(backend_engine, model).values()) == {"Stopped"}
    recorded = steps(backend_engine, RecordedTransition)

    assert len(recorded) == 1000
    assert recorded[0] == (1, 1, "Stop", "Running", "Stopped", "ann")
    assert recorded[1] == (2, 1, "Stop", "Error", "Stopped", "ann")


def test_guards_choose_each_rows_transition_by_what_the_row_was(place: Place, backend_engine: Engine) -> None:
    debts = {1: 10, 2: 60, 3: 500, 4: 49}
    add(backend_engine, Account, *({"id": key, "state": "open", "debt": debt} for key, debt in debts.items()))
    add(backend_engine, Account, {"id": 5, "state": "dormant", "debt": 70})
    with statements(backend_engine) as sent:
        outcomes = fire_keys(Account, [1, 2, 3, 4, 5], "Pay", place, amount=50)
    place.commit()

    told = [(one.target, one.sequence) if isinstance(one, Moved) else (one.reason, one.state) for one in outcomes]
    assert told == [("settled", 1), ("open", 1), ("guard", "open"), ("settled", 1), ("open", 1)]
    assert [getattr(one, "source", None) for one in outcomes] == ["open", "open", None, "open", "dormant"]
    if is_own(backend_engine):
        # Besides the question that is asked once for each engine, which the first guarded event of a run asks.
        assert len([one for one in sent if "fsm_probe" not in one]) == 3
    with Session(backend_engine) as session:
        rows = {row.id: (row.debt, row.version) for row in session.scalars(select(Account))}
    assert rows == {1: (-40, 2), 2: (10, 2), 3: (500, 1), 4: (-1, 2), 5: (20, 2)}
    assert [step[:5] for step in steps(backend_engine, AccountTransition)] == [
        (1, 1, "Pay", "open", "settled"),
        (2, 1, "Pay", "open", "open"),
        (4, 1, "Pay", "open", "settled"),
        (5, 1, "Pay", "dormant", "open"),
    ]


def test_the_number_of_a_history_row_is_in_the_outcome(place: Place, backend_engine: Engine) -> None:
    add(backend_engine, Recorded, {"id": 1, "state": "Running"}, {"id": 2, "state": "Running"})
    fire_key(Recorded, 2, "NotReady", place)
    place.commit()
    outcomes = fire_keys(Recorded, [1, 2], "Ready", place)
    again = fire_keys(Recorded, [2, 1], "Stop", place)

    assert [one.sequence for one in (*outcomes, *again) if isinstance(one, Moved)] == [1, 2, 3, 2]


def test_a_key_given_twice_is_fired_on_twice(place: Place, backend_engine: Engine) -> None:
    add(backend_engine, Recorded, {"id": 1, "state": "Stopped"}, {"id": 2, "state": "Deleted"})
    outcomes = fire_keys(Recorded, [1, 2, 1, 3, 3], "Delete", place)
    place.commit()

    assert outcomes == [
        Moved(Recorded, 1, "Delete", "Stopped", "Deleted", sequence=1),
        Moved(Recorded, 2, "Delete", "Deleted", "Deleted", sequence=1),
        Moved(Recorded, 1, "Delete", "Deleted", "Deleted", sequence=2),
        Missing(Recorded, 3, "Delete"),
        Missing(Recorded, 3, "Delete"),
    ]


def test_more_keys_than_a_statement_takes(place: Place, backend_engine: Engine) -> None:
    add(backend_engine, Order, *({"id": key, "state": "Running"} for key in range(2100)))
    outcomes = fire_keys(Order, range(2099, -2, -1), "Stop", place)

    assert [one.key for one in outcomes] == list(range(2099, -2, -1))
    assert sum(map(bool, outcomes)) == 2100


def test_text_keys_find_the_row_that_the_collation_finds(place: Place, backend_engine: Engine) -> None:
    add(
        backend_engine,
        Label,
        {"shop": 1, "name": "abc", "state": "Stopped"},
        {"shop": 1, "name": "xyz", "state": "Running"},
    )
    keys = [(1, "ABC"), (1, "abc"), (1, "xyz"), (2, "abc")]
    outcomes = fire_keys(Label, keys, "Delete", place)

    assert [one.key for one in outcomes] == keys
    told = [(type(one), getattr(one, "source", None)) for one in outcomes]
    folds = [(Moved, "Stopped"), (Moved, "Deleted")]
    assert told[:2] == ([(Missing, None), (Moved, "Stopped")] if is_sqlite(backend_engine) else folds)
    assert told[2:] == [(Refused, None), (Missing, None)]


def test_a_row_in_an_undeclared_state_stops_all(place: Place, backend_engine: Engine) -> None:
    add(backend_engine, Order, {"id": 1, "state": "Running"}, {"id": 2, "state": "Running"})
    mode = "PRAGMA ignore_check_constraints = ON" if is_sqlite(backend_engine) else "SET SESSION sql_mode = ''"
    with backend_engine.connect() as connection:
        connection.execute(text(mode))
        connection.execute(text("UPDATE many_orders SET state = 'gone' WHERE id = 2"))
        connection.commit()
        connection.invalidate()  # it stays in that mode
    with pytest.raises(UnknownState) as error:
        fire_keys(Order, [1, 2], "Stop", place)
    place.commit()

    assert error.value.key == 2
    with backend_engine.connect() as connection:
        assert connection.scalar(text("SELECT state FROM many_orders WHERE id = 1")) == "Running"


def test_an_error_of_the_update_leaves_all_rows_and_the_transaction_alive(place: Place, backend_engine: Engine) -> None:
    add(backend_engine, Account, {"id": 1, "state": "open"}, {"id": 2, "state": "open"})
    with pytest.raises(UniqueViolation):
        fire_keys(Account, [1, 2], "Name", place, name="same")
    outcomes = fire_keys(Account, [1], "Name", place, name="same")
    place.commit()

    assert (bool(outcomes[0]), len(steps(backend_engine, AccountTransition))) == (True, 1)


def test_an_error_in_a_later_part_takes_the_earlier_ones_back(place: Place, backend_engine: Engine) -> None:
    add(backend_engine, Account, *({"id": key, "state": "open"} for key in range(1001)))
    add(backend_engine, Account, {"id": 2000, "state": "settled", "name": "same"})
    with pytest.raises(UniqueViolation):
        fire_keys(Account, [1, 1], "Name", place, name="same")
    fire_keys(Account, range(1001), "Sleep", place)
    place.commit()

    assert len(steps(backend_engine, AccountTransition)) == 1001
    with Session(backend_engine) as session:
        assert session.scalar(select(func.count()).where(Account.name == "same")) == 1


@pytest.mark.servers_only
def test_without_their_history_rows_nothing_can_be_committed(place: Place, backend_engine: Engine) -> None:
    add(backend_engine, Recorded, {"id": 1, "state": "Running"})

    def fail(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT"):
            raise RuntimeError("as asked for")

    event.listen(backend_engine, "before_cursor_execute", fail)
    try:
        with pytest.raises(RuntimeError):
            fire_keys(Recorded, [1], "Stop", place)
    finally:
        event.remove(backend_engine, "before_cursor_execute", fail)
    with pytest.raises(Exception, match=r"(?i)rolled back|rollback"):
        place.commit()
    place.rollback()

    assert states(backend_engine, Recorded) == {1: "Running"}


def test_hooks_are_called_once_all_have_moved(place: Place, backend_engine: Engine) -> None:
    add(backend_engine, Recorded, *({"id": key, "state": "Running"} for key in (1, 2, 3)))
    heard: list[Any] = []

    @on_moved(Recorded.state)
    def moved_hook(moved: Moved[Any], where: Any) -> None:
        heard.append((moved.key, moved.sequence, where is place))

    @on_committed(Recorded.state)
    def committed_hook(moved: Moved[Any]) -> None:
        heard.append((moved.key, "committed"))

    try:
        fire_keys(Recorded, [3, 1, 9], "Stop", place)
        assert heard == [(3, 1, True), (1, 1, True)]
        place.commit()
    finally:
        remove_hook(Recorded.state, moved_hook)
        remove_hook(Recorded.state, committed_hook)

    assert heard[2:] == [(3, "committed"), (1, "committed")]


def test_an_observer_hears_of_one_set(place: Place, backend_engine: Engine) -> None:
    add(backend_engine, Order, {"id": 1, "state": "Running"})
    heard: list[Any] = []

    @observe
    @contextmanager
    def observer(attempt: Any) -> Iterator[None]:
        yield
        heard.append((attempt.operation, attempt.rows))

    try:
        fire_keys(Order, [1, 2], "Stop", place)
    finally:
        stop_observing(observer)

    assert heard == [("fire_keys", 1)]


def test_no_keys_are_no_statement(place: Place, backend_engine: Engine) -> None:
    with statements(backend_engine) as sent:
        assert fire_keys(Order, [], "Stop", place) == []
    assert sent == []


def test_wrong_arguments(place: Place, backend_engine: Engine) -> None:
    with statements(backend_engine) as sent:
        for keys in ("ab", b"ab", {1: 2}, 7, None):
            with pytest.raises(TypeError, match="takes several keys"):
                fire_keys(Order, keys, "Stop", place)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="is int, and the key '1' is str"):
            fire_keys(Order, [1, "1"], "Stop", place)
        with pytest.raises(UnknownEvent):
            fire_keys(Order, [1], "Nothing", place)
        with pytest.raises(TypeError, match="has no 'token'"):
            fire_keys(Order, [1], "Stop", place, token="once")
    assert sent == []


@pytest.mark.servers_only
def test_a_refused_row_is_locked_until_the_end(backend_engine: Engine, place: Place) -> None:
    add(backend_engine, Order, {"id": 1, "state": "Deleted"}, {"id": 2, "state": "Running"})
    fire_keys(Order, [1, 2], "Stop", place)

    assert is_locked(backend_engine, Order, 1)
    place.rollback()
    assert not is_locked(backend_engine, Order, 1)


def test_the_sessions_instances_show_what_was_seen(backend_engine: Engine, tables: None, place: Place) -> None:
    add(backend_engine, Order, {"id": 1, "state": "Running"}, {"id": 2, "state": "Running"})
    with Session(backend_engine, expire_on_commit=False) as session:
        one, two = session.get_one(Order, 1), session.get_one(Order, 2)
        session.commit()
        with backend_engine.begin() as connection:
            fire_keys(Order, [2], "Stop", connection)
            fire_keys(Order, [2], "Delete", connection)
        outcomes = fire_keys(Order, [1, 2], "Stop", session)
        with statements(backend_engine) as sent:
            assert (one.state, two.state) == ("Stopped", "Deleted")
            assert isinstance(outcomes[0], Moved)
            assert outcomes[0].instance is one
        session.rollback()
        assert one.state == "Running"
    assert len(sent) == 0


def test_in_autocommit_all_or_none_is_committed(backend_engine: Engine, tables: None, place: Place) -> None:
    add(backend_engine, Order, {"id": 1, "state": "Running"}, {"id": 2, "state": "Running"})
    with backend_engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        outcomes = fire_keys(Order, [1, 2, secrets.randbelow(1000) + 10], "Stop", connection)
    assert [bool(one) for one in outcomes] == [True, True, False]
    assert states(backend_engine, Order) == {1: "Stopped", 2: "Stopped"}


@pytest.mark.servers_only
def test_many_callers_on_the_same_rows_agree_with_the_history(backend_engine: Engine, place: Place) -> None:
    """Each outcome is a history row of its number, and each row's history leads from state to state."""
    add(backend_engine, Recorded, *({"id": key, "state": "Running"} for key in range(8)))
    engine = backend_engine.execution_options(isolation_level="READ COMMITTED")

    def caller(number: int) -> list[Any]:
        dice, told = random.Random(number), []
        for _ in range(6):
            keys = dice.sample(range(10), 6)
            with engine.begin() as connection:
                told += fire_keys(Recorded, keys, dice.choice(("Ready", "NotReady")), connection)
        return told

    with ThreadPoolExecutor(3) as pool:
        told = [one for outcomes in pool.map(caller, range(3)) for one in outcomes]
    moved = sorted((one.key, one.sequence, one.event, one.source, one.target) for one in told if one)
    recorded = [step[:5] for step in steps(backend_engine, RecordedTransition)]

    assert moved == recorded
    assert {one.key for one in told if not one} == {8, 9}
    for one, following in itertools.pairwise(recorded):
        assert one[0] != following[0] or (one[1] + 1, one[4]) == (following[1], following[3])
