"""A state column of numbers: the values of an Enum class of ints, in SMALLINT or INT with a CHECK."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, Integer, String, case, func, insert, literal, select, text, true, type_coerce, update
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, mapped_column
from typer import BadParameter

from sqlalchemy_fsm_mysql import (
    Coalescer,
    Event,
    InvalidMachine,
    Machine,
    RefusedByDatabase,
    Stateful,
    StateMachineColumn,
    StateSinceColumn,
    StateType,
    Transition,
    TransitionHistory,
    TransitionNotAllowed,
    UnknownState,
    check_database,
    claim,
    count_rows,
    count_transitions,
    dwell_times,
    find_by_token,
    fire_due,
    fire_key,
    fire_keys,
    fire_or_create,
    fire_where,
    force_state,
    replay,
    try_fire_key,
)
from sqlalchemy_fsm_mysql.cli.values import typed
from sqlalchemy_fsm_mysql.sql.clock import utc_ago
from tests.conformance.support import stored
from tests.conformance.test_packets import packing


class Base(DeclarativeBase):
    """The tables of this module."""


class S(enum.IntEnum):
    """Declared in another order than that of the numbers."""

    CANCELLED = 9
    NEW = 1
    PAID = 2
    SENT = -3


class Wide(enum.Enum):
    LOW = -70_000
    HIGH = 70_000


machine = Machine(
    initial=S.NEW,
    states=S,
    events=[
        Event("Pay", {S.NEW: S.PAID}),
        Event("Send", [Transition(S.PAID, S.SENT, guard=lambda order: order.total > 0)]),
        Event("Take", {S.NEW: S.NEW}, effect=lambda order: {"total": order.total + 1}),
        Event("Cancel", {(S.NEW, S.PAID): S.CANCELLED}),
        Event("Expire", {S.NEW: S.CANCELLED}, after=timedelta(minutes=15)),
        Event("Follow", {S.SENT: S.SENT}, effect=lambda order: {"other": S.PAID}),
    ],
    groups={"open": (S.NEW, S.PAID)},
    aliases={"FRESH": S.NEW},
)
plain = Machine(initial=S.NEW, states=S, events=[Event("Go", {S.NEW: (S.PAID)}), Event("Leave", {S.PAID: S.SENT}),
                                                 Event("End", {S.PAID: S.CANCELLED})])  # fmt: skip
wide = Machine(initial=Wide.LOW, states=Wide, events=[Event("Lift", {Wide.LOW: Wide.HIGH})])


class Order(Stateful, Base):
    __tablename__ = "integer_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[S] = StateMachineColumn(machine, storage="integer")
    state_since = StateSinceColumn(of="state")
    other: Mapped[S] = StateMachineColumn(plain, storage="integer")
    total: Mapped[int] = mapped_column(default=0)


class Recorded(Stateful, Base):
    """With a history, and triggers."""

    __tablename__ = "integer_recorded"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[S] = StateMachineColumn(plain, storage="integer", enforced=True, initial_states=[S.PAID])


class Transitions(TransitionHistory, Base):
    __tablename__ = "integer_transitions"
    __records__ = Recorded.state


class Weight(Base):
    __tablename__ = "integer_weights"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[Wide] = StateMachineColumn(wide, storage="integer")


@pytest.fixture
def order(session: Session) -> Order:
    order = Order(id=1)
    session.add(order)
    session.flush()
    return order


def raw(session: Session, model: Any = Order, attribute: str = "state") -> dict[int, int]:
    """The numbers of all rows as the database has them."""
    column = model.__table__.c[attribute]
    rows = session.connection().execute(select(model.__table__.c.id, type_coerce(column, Integer())))
    return {int(key): int(value) for key, value in rows}


def test_a_row_holds_the_numbers_and_python_the_members(session, order):
    assert order.state is S.NEW
    assert raw(session) == {1: 1}

    session.expire(order)

    assert order.state is S.NEW
    assert session.scalars(select(Order.state)).all() == [S.NEW]


def test_each_way_to_fire_one_row(session, order):
    moved = order.fire("Pay", session)

    assert (moved.source, moved.target, order.state) == (S.NEW, S.PAID, S.PAID)
    assert raw(session) == {1: 2}
    assert fire_key(Order, 1, "Cancel", session).target is S.CANCELLED
    refused = try_fire_key(Order, 1, "Pay", session)
    assert (bool(refused), refused.state, refused.allowed_from) == (False, S.CANCELLED, [S.NEW])
    with pytest.raises(TransitionNotAllowed, match="it is 'CANCELLED'; 'Pay' leaves 'NEW'"):
        order.fire("Pay", session)
    assert raw(session) == {1: 9}


def test_a_guard_refuses_and_lets_through(session, order):
    order.fire("Pay", session)

    assert not order.try_fire("Send", session)

    order.total = 1
    assert order.fire("Send", session).target is S.SENT
    assert raw(session) == {1: -3}


def test_effects_write_the_state_of_another_machine_as_a_number(session, order):
    order.fire("Pay", session)
    order.total = 5
    order.fire("Send", session)

    order.fire("Follow", session, column=Order.state)

    assert raw(session, attribute="other") == {1: 2}


def test_sets_move_rows_of_several_sources(session):
    session.add_all([Order(id=1), Order(id=2), Order(id=3, state=S.PAID), Order(id=4, state=S.SENT)])
    session.flush()

    moved = fire_where(Order, "Cancel", session, true())

    assert moved.by_transition == {(S.NEW, S.CANCELLED): 2, (S.PAID, S.CANCELLED): 1}
    assert raw(session) == {1: 9, 2: 9, 3: 9, 4: -3}
    assert session.get_one(Order, 3).state is S.CANCELLED


def test_guarded_sets_and_batches(session):
    session.add_all([Order(id=i, state=S.PAID, total=i % 2) for i in range(1, 6)])
    session.flush()

    moved = fire_where(Order, "Send", session, true(), batch_size=2)

    assert moved.by_transition == {(S.PAID, S.SENT): 3}
    assert raw(session) == {1: -3, 2: 2, 3: -3, 4: 2, 5: -3}


def test_a_recorded_set_writes_the_names_into_the_history(session):
    session.add_all([Recorded(id=1), Recorded(id=2), Recorded(id=3, state=S.PAID)])
    session.flush()

    fire_where(Recorded, "Go", session, true(), actor="night")

    rows = session.connection().execute(text("SELECT record_id, source, target, actor FROM integer_transitions"))
    assert sorted(map(tuple, rows)) == [(1, "NEW", "PAID", "night"), (2, "NEW", "PAID", "night")]
    assert raw(session, Recorded) == {1: 2, 2: 2, 3: 2}


def test_workers_claim_rows(session):
    session.add_all([Recorded(id=1), Recorded(id=2)])
    session.flush()

    (claimed,) = claim(Recorded, "Go", session, true(), limit=1, order_by=Recorded.id)

    assert (claimed.id, claimed.state) == (1, S.PAID)
    assert raw(session, Recorded) == {1: 2, 2: 1}
    assert [(row.source, row.target) for row in claimed.history(session)] == [(S.NEW, S.PAID)]


@pytest.mark.parametrize(("event", "target"), [("Pay", S.PAID), ("Take", S.NEW)])
def test_a_missing_row_is_created_and_an_existing_one_moved(session, event, target):
    """Pay is one statement on the servers; Take has an effect, and is fired on a row that is inserted first."""
    made = fire_or_create(Order(id=7), event, session)

    assert (made.created, made.target) == (True, target)
    assert raw(session) == {7: target.value}

    session.expunge_all()
    again = fire_or_create(Order(id=7), "Cancel", session)
    assert (again.created, again.source, again.target) == (False, target, S.CANCELLED)
    with pytest.raises(TransitionNotAllowed, match="it is 'CANCELLED'; 'Pay' leaves 'NEW'"):
        fire_or_create(Order(id=7), "Pay", session)
    assert raw(session) == {7: 9}


def test_timed_events_are_fired(session, order):
    session.add(Order(id=2))
    session.flush()
    session.connection().execute(
        text("UPDATE integer_orders SET state_since = '2020-01-01 00:00:00.000000' WHERE id = 2")
    )

    assert session.scalars(select(Order.id).where(Order.state.due("Expire"))).all() == [2]
    assert fire_due(Order, session).by_transition == {(S.NEW, S.CANCELLED): 1}
    assert raw(session) == {1: 1, 2: 9}


def test_a_row_stays_in_its_state_since_its_last_move(session):
    """A timed event is early, then due; the move writes the column; stays are by name, from column and history."""
    session.add_all([Order(id=1), Order(id=2), Order(id=3, state=S.PAID), Recorded(id=1)])
    session.flush()
    rows = Order.__table__
    session.execute(update(rows).where(rows.c.id > 1).values(state_since=utc_ago(timedelta(hours=1))))
    before = dict(session.execute(select(Order.id, Order.state_since)).all())

    early = try_fire_key(Order, 1, "Expire", session)
    fired = fire_due(Order, session)
    fire_key(Order, 3, "Go", session, column=Order.other)  # the other machine's move is none of this column's
    fire_key(Recorded, 1, "Go", session)
    fire_key(Recorded, 1, "Leave", session)

    assert (early.reason, early.failed, early.state) == ("guard", ("after",), S.NEW)
    assert fired.by_transition == {(S.NEW, S.CANCELLED): 1}
    assert raw(session) == {1: 1, 2: 9, 3: 2}
    since = dict(session.execute(select(Order.id, Order.state_since)).all())
    assert (since[1], since[3]) == (before[1], before[3])
    assert since[2] > before[2] + timedelta(minutes=59)
    assert fire_due(Order, session).moved == 0
    times = dwell_times(Order.state, session)
    assert {state: stay.count for state, stay in times.items()} == {"CANCELLED": 1, "NEW": 1, "PAID": 1, "SENT": 0}
    assert times["PAID"].oldest > timedelta(minutes=59) > times["CANCELLED"].oldest
    ended = dwell_times(Recorded.state, session, origin="history")
    assert {state: stay.count for state, stay in ended.items() if stay.count} == {"PAID": 1}


def test_the_history_replays_and_its_tokens_are_found(session):
    row = Recorded(id=1)
    session.add(row)
    session.flush()

    row.fire("Go", session, token="t-1")
    again = fire_key(Recorded, 1, "Go", session, token="t-1")
    force_state(row, S.NEW, session, actor="ops")

    assert (again.replayed, again.source, again.target) == (True, S.NEW, S.PAID)
    found = find_by_token(Recorded.state, "t-1", session)
    assert (found.source, found.target) == (S.NEW, S.PAID)
    assert [(h.event, h.source, h.target) for h in row.history(session)] == [
        ("Go", S.NEW, S.PAID),
        ("force_state", S.PAID, S.NEW),
    ]
    assert replay(row.history(session)) is S.NEW
    assert count_transitions(Recorded.state, session) == {("Go", "NEW", "PAID"): 1, ("force_state", "PAID", "NEW"): 1}
    assert count_rows(Recorded.state, session) == {"CANCELLED": 0, "NEW": 1, "PAID": 0, "SENT": 0}


def test_triggers_refuse_by_number_and_let_force_state_through(session):
    row = Recorded(id=1, state=S.PAID)
    session.add(row)
    session.flush()
    connection = session.connection()

    for statement in (
        "UPDATE integer_recorded SET state = 1 WHERE id = 1",
        "INSERT INTO integer_recorded (id, state) VALUES (2, 9)",
        "UPDATE integer_recorded SET state = 5 WHERE id = 1",
    ):
        with pytest.raises((RefusedByDatabase, DBAPIError)) as refused, connection.begin_nested():
            connection.execute(text(statement))
        assert isinstance(refused.value, RefusedByDatabase)
    connection.execute(text("UPDATE integer_recorded SET state = -3 WHERE id = 1"))

    assert raw(session, Recorded) == {1: -3}
    assert force_state(row, S.NEW, session).source is S.SENT
    assert raw(session, Recorded) == {1: 1}


def test_an_undeclared_number_is_an_unknown_state_and_can_be_repaired(session, order):
    connection = session.connection()
    if connection.dialect.name == "sqlite":
        connection.execute(text("PRAGMA ignore_check_constraints = ON"))
    elif connection.dialect.is_mariadb:
        connection.execute(text("SET SESSION check_constraint_checks = 0"))
    else:
        pytest.skip("MySQL has no switch for CHECK constraints")
    connection.execute(text("UPDATE integer_orders SET state = 77"))
    for switch in ("PRAGMA ignore_check_constraints = OFF", "SET SESSION check_constraint_checks = 1"):
        if switch.startswith("PRAGMA") == (connection.dialect.name == "sqlite"):
            connection.execute(text(switch))

    with pytest.raises(UnknownState) as unknown:
        fire_key(Order, 1, "Pay", session)
    session.expire(order)

    assert (unknown.value.state, order.state) == ("77", "77")
    assert force_state(order, S.NEW, session, column=Order.state).source == "77"
    assert raw(session) == {1: 1}


CONDITIONS: dict[str, tuple[Any, list[int]]] = {
    "==": (Order.state == S.PAID, [2]),
    "!=": (Order.state != S.PAID, [1, 3, 4]),
    "in": (Order.state.in_([S.NEW, S.SENT]), [1, 3]),
    "not in": (Order.state.not_in([S.NEW, S.SENT]), [2, 4]),
    "<": (Order.state < S.PAID, [1, 3]),
    "between": (Order.state.between(S.NEW, S.PAID), [1, 2]),
    "is distinct from": (Order.state.is_distinct_from(S.NEW), [2, 3, 4]),
    "can": (Order.state.can("Cancel"), [1, 2]),
    "can, guarded": (Order.state.can("Send"), [2]),
    "after": (Order.state.after("Pay") == S.PAID, [1, 2]),
    "in_group": (Order.state.in_group("open"), [1, 2]),
    "case": (case((Order.state == S.NEW, 1), else_=0) == 1, [1]),
    "nullif": (func.nullif(Order.state, S.NEW).is_(None), [1]),
    "coalesce": (func.coalesce(Order.state, S.NEW) == S.SENT, [3]),
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_comparisons(session, name):
    states = {1: S.NEW, 2: S.PAID, 3: S.SENT, 4: S.CANCELLED}
    session.add_all([Order(id=key, state=state, total=1) for key, state in states.items()])
    session.flush()
    condition, expected = CONDITIONS[name]

    assert session.scalars(select(Order.id).where(condition).order_by(Order.id)).all() == expected


def test_what_returns_a_state_returns_the_member(session):
    session.add_all([Order(id=1), Order(id=2, state=S.PAID)])
    session.flush()
    other = aliased(Order)

    assert session.scalar(select(func.max(Order.state))) is S.PAID
    assert session.execute(select(other.state, other.state.after("Pay")).order_by(other.id)).all() == [
        (S.NEW, S.PAID),
        (S.PAID, S.PAID),
    ]
    assert dict(session.execute(select(Order.state, func.count()).group_by(Order.state)).all()) == {S.NEW: 1, S.PAID: 1}
    assert session.scalar(select(case((Order.id == 2, Order.state))).where(Order.id == 2)) is S.PAID


@pytest.mark.parametrize("operator", ["like", "startswith", "contains", "concat"])
def test_operators_of_text_are_refused(operator):
    with pytest.raises(TypeError, match="stores numbers: compare it with states"):
        getattr(Order.state, operator)("P%")


@pytest.mark.parametrize("value", [2, "PAYED", "2"])
def test_what_is_no_state_is_refused(session, value):
    with pytest.raises((StatementError, ValueError), match="is not a state of this machine"):
        session.scalars(select(Order).where(Order.state == value)).all()
    with pytest.raises(ValueError, match="is not a state of this machine"):
        Order(state=value)


def test_the_database_takes_no_other_number(session):
    with pytest.raises(DBAPIError), session.begin_nested():
        session.execute(text("INSERT INTO integer_weights (id, state) VALUES (1, 3)"))
    assert stored(session, Weight) == {}


def test_large_numbers_are_stored_in_int(session):
    session.execute(insert(Weight).values(id=1))
    session.execute(text("INSERT INTO integer_weights (id) VALUES (2)"))

    fire_where(Weight, "Lift", session, Weight.id == 2)

    assert raw(session, Weight) == {1: -70_000, 2: 70_000}
    assert session.scalars(select(Weight.state).order_by(Weight.id)).all() == [Wide.LOW, Wide.HIGH]


def test_the_doctor_finds_nothing_wrong(session):
    for attribute in (Order.state, Order.other, Recorded.state, Weight.state):
        findings = check_database(attribute, session.connection())
        assert [one for one in findings if one.kind not in {"durability", "isolation level", "snapshot isolation"}
                and one.severity == "error"] == []  # fmt: skip
        assert not {one.kind for one in findings} & {"any state", "default", "wrong type", "states missing"}


# --- declarations


class Texts(enum.Enum):
    NEW = "new"
    PAID = "paid"


class Truths(enum.Enum):
    NO = False
    YES = True


class Huge(enum.Enum):
    SMALL = 1
    HUGE = 2**31


@pytest.mark.parametrize(
    ("states", "problem"),
    [
        (["new", "paid"], "'new', 'paid' has no such number"),
        (Texts, "Texts.NEW.*has no such number"),
        (Truths, "has no such number"),
        (Huge, "HUGE.*has no such number"),
    ],
)
def test_a_machine_without_ints_is_refused(states, problem):
    first, second = states
    other = Machine(initial=first, states=states, events=[Event("Go", {first: second})])

    with pytest.raises(ValueError, match=problem):
        StateMachineColumn(other, storage="integer")


def test_two_states_of_one_number_are_refused():
    one, two = enum.Enum("One", {"A": 1}), enum.Enum("Two", {"B": 1})
    other = Machine(initial=one.A, states=[one.A, two.B], events=[Event("Go", {one.A: two.B})])

    with pytest.raises(ValueError, match="two states have the same one"):
        StateType(other, storage="integer")


@pytest.mark.parametrize("default", ["NEW", "7"])
def test_a_default_of_the_database_that_is_no_number_of_a_state_is_refused(default):
    class Separate(DeclarativeBase):
        pass

    with pytest.raises(InvalidMachine, match="server_default .* is not a state"):

        class Wrong(Separate):
            __tablename__ = "wrong_default"
            id: Mapped[int] = mapped_column(primary_key=True)
            state: Mapped[S] = StateMachineColumn(plain, storage="integer", server_default=default)


def test_a_literal_and_a_text_beside_it_compile(session, order):
    statement = select(Order.id).where(Order.state == literal(S.NEW, Order.state.type), literal("x", String) == "x")

    assert session.scalars(statement).all() == [1]


@pytest.mark.parametrize("type_", [Order.__table__.c.state.type, StateType(plain)], ids=["numbers", "names"])
def test_the_command_line_takes_the_names_of_members(type_):
    assert typed("PAID", type_, "state") is S.PAID
    with pytest.raises(BadParameter, match="state is one of CANCELLED, NEW, PAID, SENT, not '2'"):
        typed("2", type_, "state")


class Shared(Base):
    """Old code still reads and writes the numbers."""

    __tablename__ = "integer_shared"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[S] = StateMachineColumn(plain, storage="integer", protected=False)


def test_old_code_compares_a_column_that_is_not_protected_with_numbers(session):
    session.add_all([Shared(id=1), Shared(id=2, state=S.PAID)])
    session.flush()

    assert session.scalars(select(Shared.id).where(Shared.state == 2)).all() == [2]
    assert session.scalars(select(Shared.id).where(Shared.state.in_([1, 9]))).all() == [1]
    assert session.scalars(select(Shared.id).where(Shared.state == S.PAID)).all() == [2]
    with pytest.raises(StatementError, match="is not a state"):
        session.scalars(select(Shared.id).where(Shared.state == "PAYED")).all()


@pytest.fixture
def committed(database: Engine, tables: None) -> Iterator[Engine]:
    """The engine, with rows that are committed, and taken away at the end."""
    with Session(database) as session:
        session.add_all([Recorded(id=901), Recorded(id=902, state=S.PAID), Recorded(id=903)])
        session.commit()
    yield database
    with database.begin() as connection:
        connection.execute(text("DELETE FROM integer_transitions"))
        connection.execute(text("DELETE FROM integer_recorded"))


def test_many_keys_have_an_outcome_each(session):
    session.add_all([Recorded(id=1), Recorded(id=2, state=S.PAID)])
    session.flush()

    moved, refused, missing = fire_keys(Recorded, [1, 2, 77], "Go", session)

    assert (moved.source, moved.target) == (S.NEW, S.PAID)
    assert (bool(refused), refused.state) == (False, S.PAID)
    assert (bool(missing), missing.key) == (False, 77)
    assert raw(session, Recorded) == {1: 2, 2: 2}
    rows = session.connection().execute(text("SELECT record_id, source, target FROM integer_transitions"))
    assert [tuple(row) for row in rows] == [(1, "NEW", "PAID")]


@pytest.mark.servers_only
def test_fires_in_one_packet_write_numbers_and_names(committed, backend):
    """The UPDATE, the history row and COMMIT go to the server together."""
    if backend == "locking":
        pytest.skip("the locking read is never one packet")
    engine = packing(committed.url)
    with engine.connect() as connection:
        moved = fire_key(Recorded, 901, "Go", connection)

        assert (moved.source, moved.target) == (S.NEW, S.PAID)
        assert not try_fire_key(Recorded, 902, "Go", connection)
        states = (
            connection.execute(text("SELECT state FROM integer_recorded WHERE id > 900 ORDER BY id")).scalars().all()
        )
        history = connection.execute(text("SELECT record_id, source, target FROM integer_transitions")).all()
    engine.dispose()
    assert states == [2, 2, 1]
    assert [tuple(row) for row in history] == [(901, "NEW", "PAID")]


def test_a_coalescer_gives_each_caller_its_outcome(committed):
    with Coalescer(committed) as fires:
        moved, refused = fires.fire_key(Recorded, 903, "Go"), fires.try_fire_key(Recorded, 902, "Go")

    assert (moved.source, moved.target, refused.state) == (S.NEW, S.PAID, S.PAID)
