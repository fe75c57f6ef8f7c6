"""A database that holds every writer to the machine, and on which all ways to fire work as ever."""

from __future__ import annotations

import enum
import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Connection,
    Engine,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    event,
    func,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    ANY,
    Event,
    FireError,
    Machine,
    RefusedByDatabase,
    Stateful,
    StateMachineColumn,
    StateType,
    Transition,
    TransitionHistory,
    TransitionNotAllowed,
    claim,
    enforce_machine,
    find_by_token,
    fire_key,
    fire_or_create,
    fire_where,
    force_state,
    release_machine,
    replay,
    try_fire_key,
)
from sqlalchemy_fsm_mysql.errors import LockTimeout, TableBusy
from sqlalchemy_fsm_mysql.operations import enforcement
from sqlalchemy_fsm_mysql.operations.enforcement import own_triggers, permitted
from tests.conformance.models import ODD_STATES, long_machines, odd_machine
from tests.conformance.support import Sent
from tests.reference import MOVES, REFUSALS, STATES, machine


class Base(DeclarativeBase):
    """The tables of this module."""


class Order(Stateful, Base):
    __tablename__ = "enforced_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine, enforced=True, initial_states=ANY)
    total: Mapped[int] = mapped_column(default=0)


class Strict(Stateful, Base):
    """Rows begin where the machine begins."""

    __tablename__ = "enforced_strict"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine, enforced=True)


class Imported(Base):
    """Rows may also begin in one more state."""

    __tablename__ = "enforced_imported"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine, enforced=True, initial_states=["Deleted"])


class Varchar(Base):
    __tablename__ = "enforced_varchar"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine, storage="varchar", enforced=True, initial_states=ANY)


class Recorded(Stateful, Base):
    __tablename__ = "enforced_recorded"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine, enforced=True)


class RecordedTransition(TransitionHistory, Base):
    __tablename__ = "enforced_transitions"
    __records__ = Recorded.state


class Task(Base):
    """Single-table inheritance."""

    __tablename__ = "enforced_tasks"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(10))
    state: Mapped[str] = StateMachineColumn(machine, enforced=True)
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "task"}


class Print(Task):
    __mapper_args__ = {"polymorphic_identity": "print"}


class Vehicle(Base):
    """Joined inheritance, the state in the parent's table."""

    __tablename__ = "enforced_vehicles"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(10))
    state: Mapped[str] = StateMachineColumn(machine, enforced=True)
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "vehicle"}


class Car(Vehicle):
    __tablename__ = "enforced_cars"

    id: Mapped[int] = mapped_column(ForeignKey(Vehicle.id), primary_key=True)
    __mapper_args__ = {"polymorphic_identity": "car"}


class Light(enum.Enum):
    RED = "red"
    GREEN = "green"


class Crossing(Base):
    """Two machines on one row, with odd names for table and column."""

    __tablename__ = "enforced 100% `crossing's`"

    id: Mapped[int] = mapped_column(primary_key=True)
    cars: Mapped[Light] = StateMachineColumn(
        Machine(initial=Light.RED, states=Light, events=[Event("Go", {Light.RED: Light.GREEN})]),
        name='it\'s 50% "state": new',
        enforced=True,
    )
    phase: Mapped[str] = StateMachineColumn(machine, enforced=True)


class Odd(Base):
    __tablename__ = "enforced_odd"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(odd_machine, enforced=True, initial_states=ANY)


class Long(Base):
    __tablename__ = "enforced_long"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(long_machines[255], enforced=True, initial_states=ANY)


# Error is being renamed to Failed; nothing leads to Broken any more.
changing_machine = Machine(
    initial="Running",
    events=[Event("Fail", {"Running": "Failed"}), Event("Repair", {("Failed", "Broken"): "Running"})],
    aliases={"Error": "Failed", "Up": "Running"},
    retired=["Broken"],
)


class Changing(Base):
    __tablename__ = "enforced_changing"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(changing_machine, enforced=True, initial_states=ANY)


class Guarded(Stateful, Base):
    """An event with a guard and an effect, and one that an upsert can take."""

    __tablename__ = "enforced_guarded"

    id: Mapped[int] = mapped_column(primary_key=True)
    total: Mapped[int] = mapped_column(default=100)
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="Paid",
            events=[
                Event(
                    "Refund",
                    [Transition("Paid", "Refunded", guard=lambda row, amount: row.total == amount)],
                    effect=lambda row, amount: {"total": row.total - amount},
                ),
                Event("Ship", {"Paid": "Shipped"}),
            ],
        ),
        enforced=True,
    )


def write(session: Session | Connection, model: Any, key: int, state: str, *, column: str = "state") -> None:
    """A statement of one's own, past the library."""
    table = model.__table__
    session.execute(update(table).where(table.c.id == key).values({table.c[column]: text("':x'".replace(":x", state))}))


def states(session: Session, model: Any) -> dict[int, str]:
    table = model.__table__
    return {row.id: row.state for row in session.execute(select(table.c.id, table.c.state))}


@pytest.fixture
def rows(session: Session) -> dict[str, int]:
    """An order in each state, by state."""
    session.execute(insert(Order.__table__), [{"id": n, "state": state} for n, state in enumerate(STATES, start=1)])
    return {state: n for n, state in enumerate(STATES, start=1)}


# --- what is refused, and how it is told


def test_a_raw_update_along_no_edge_is_refused_and_both_states_are_named(
    session: Session, rows: dict[str, int]
) -> None:
    with pytest.raises(RefusedByDatabase) as refused:
        write(session, Order, rows["Deleted"], "Running")

    error = refused.value
    assert (error.column, error.source, error.target, error.is_new) == (
        "enforced_orders.state",
        "Deleted",
        "Running",
        False,
    )
    assert str(error) == (
        "the database refused 'Deleted' to 'Running' in enforced_orders.state: its triggers know no such transition."
    )
    assert error.__cause__ is not None
    assert states(session, Order)[rows["Deleted"]] == "Deleted"


def test_the_servers_own_message_names_both_states(session: Session, rows: dict[str, int]) -> None:
    """For whoever has no Python between them and the server."""
    with pytest.raises(RefusedByDatabase) as refused:
        write(session, Order, rows["Stopped"], "Error")

    assert "enforced_orders.state: 'Stopped' to 'Error' is no transition" in str(refused.value.__cause__)


def test_the_transaction_lives_on(session: Session, rows: dict[str, int]) -> None:
    write(session, Order, rows["Running"], "Stopped")
    with pytest.raises(RefusedByDatabase):
        write(session, Order, rows["Deleted"], "Running")
    fire_key(Order, rows["Error"], "Ready", session)

    assert states(session, Order) == {1: "Initializing", 2: "Stopped", 3: "Running", 4: "Stopped", 5: "Deleted"}


def test_exactly_the_machines_edges_are_let_through(session: Session, rows: dict[str, int]) -> None:
    allowed = {(source, target) for (source, _), target in MOVES.items()} | {(state, state) for state in STATES}
    found = set()
    for source in STATES:
        for target in STATES:
            with session.begin_nested() as savepoint:
                try:
                    write(session, Order, rows[source], target)
                    found.add((source, target))
                except RefusedByDatabase:
                    continue
                savepoint.rollback()

    assert found == allowed


def test_other_columns_of_any_row_may_be_written(session: Session, rows: dict[str, int]) -> None:
    session.execute(update(Order.__table__).values(total=5))
    session.execute(update(Order.__table__).values(state=Order.__table__.c.state, total=6))

    assert set(session.scalars(select(Order.__table__.c.total))) == {6}


def test_a_new_row_begins_in_the_initial_state_or_where_an_upsert_puts_it(session: Session) -> None:
    table = Strict.__table__
    for number, state in enumerate(("Initializing", "Running", "Stopped")):
        session.execute(insert(table).values(id=number + 1, state=state))
    for state in ("Error", "Deleted"):
        with pytest.raises(RefusedByDatabase) as refused:
            session.execute(insert(table).values(id=9, state=state))
        assert (refused.value.source, refused.value.target, refused.value.is_new) == (None, state, True)

    assert len(states(session, Strict)) == 3


def test_a_target_behind_a_guard_is_no_state_to_begin_in(session: Session) -> None:
    """An INSERT has no row to ask the guard of."""
    session.execute(insert(Guarded.__table__).values(id=1, state="Shipped"))
    with pytest.raises(RefusedByDatabase):
        session.execute(insert(Guarded.__table__).values(id=2, state="Refunded"))


def test_more_states_to_begin_in_are_declared(session: Session) -> None:
    session.execute(insert(Imported.__table__).values(id=1, state="Deleted"))
    with pytest.raises(RefusedByDatabase):
        session.execute(insert(Imported.__table__).values(id=2, state="Error"))


def test_an_undeclared_state_to_begin_in_is_refused_in_python() -> None:
    with pytest.raises(ValueError, match="'Lost'"):
        StateMachineColumn(machine, enforced=True, initial_states=["Lost"])


def test_a_flush_tells_it_by_the_librarys_error(session: Session) -> None:
    session.add(Strict(id=1, state="Deleted"))
    with pytest.raises(RefusedByDatabase) as refused:
        session.flush()

    assert isinstance(refused.value, FireError)
    assert str(refused.value) == (
        "the database refused a new row in 'Deleted' in enforced_strict.state: its triggers know no such initial state."
    )
    session.rollback()


def test_it_survives_pickling(session: Session, rows: dict[str, int]) -> None:
    with pytest.raises(RefusedByDatabase) as refused:
        write(session, Order, rows["Deleted"], "Running")
    copy = pickle.loads(pickle.dumps(refused.value))  # noqa: S301 - its own bytes

    assert (copy.source, copy.target, str(copy)) == ("Deleted", "Running", str(refused.value))


@pytest.mark.servers_only
def test_an_error_of_another_trigger_is_left_alone(session: Session, rows: dict[str, int]) -> None:
    statement = "SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = 30045, MESSAGE_TEXT = 'somebody else says so'"
    with pytest.raises(Exception, match="somebody else") as raised:
        session.execute(text(statement))

    assert not isinstance(raised.value, RefusedByDatabase)


def test_a_fire_that_the_database_refuses_says_which_row(session: Session) -> None:
    """As when the triggers are an older machine's."""

    class Newer(DeclarativeBase):
        pass

    class NewerOrder(Stateful, Newer):
        __tablename__ = "enforced_orders"
        id: Mapped[int] = mapped_column(primary_key=True)
        total: Mapped[int] = mapped_column(default=0)
        state: Mapped[str] = StateMachineColumn(
            Machine(
                initial="Initializing",
                states=STATES,
                events=[*machine.events.values(), Event("Kill", {ANY: "Deleted"})],
            )
        )

    session.execute(insert(Order.__table__).values(id=1, state="Running"))
    with pytest.raises(RefusedByDatabase) as refused:
        fire_key(NewerOrder, 1, "Kill", session)

    error = refused.value
    assert (error.model, error.key, error.event) == (NewerOrder, 1, "Kill")
    assert "enforced_orders 1" in str(error)
    with pytest.raises(RefusedByDatabase):
        fire_where(NewerOrder, "Kill", session, NewerOrder.id == 1)
    assert states(session, Order) == {1: "Running"}


# --- every way to fire


@pytest.mark.parametrize(("source", "event"), MOVES)
def test_a_declared_event_moves(session: Session, rows: dict[str, int], source: str, event: str) -> None:
    moved = session.get_one(Order, rows[source]).fire(event, session)

    assert (moved.source, moved.target) == (source, MOVES[source, event])
    assert states(session, Order)[rows[source]] == MOVES[source, event]


@pytest.mark.parametrize(("source", "event"), REFUSALS)
def test_a_refused_event_is_refused_by_the_machine_as_ever(
    session: Session, rows: dict[str, int], source: str, event: str
) -> None:
    with pytest.raises(TransitionNotAllowed) as refused:
        fire_key(Order, rows[source], event, session)

    assert refused.value.state == source
    assert not try_fire_key(Order, rows[source], event, session)


def test_a_set_of_rows_moves(session: Session, rows: dict[str, int]) -> None:
    moved = fire_where(Order, "Stop", session, Order.id > 0)

    assert (moved.moved, moved.by_transition[("Running", "Stopped")]) == (4, 1)
    assert set(states(session, Order).values()) == {"Stopped", "Deleted"}


def test_a_recorded_set_of_rows_moves(session: Session) -> None:
    session.execute(insert(Recorded.__table__), [{"id": n, "state": "Running"} for n in (1, 2, 3)])
    moved = fire_where(Recorded, "NotReady", session, Recorded.id < 3)
    history = session.get_one(Recorded, 1).history(session)

    assert (moved.moved, states(session, Recorded)) == (2, {1: "Error", 2: "Error", 3: "Running"})
    assert [(row.event, row.source, row.target) for row in history] == [("NotReady", "Running", "Error")]


def test_rows_are_claimed(session: Session, rows: dict[str, int]) -> None:
    claimed = claim(Order, "NotReady", session, Order.state == "Running", limit=3)

    assert [(order.id, order.state) for order in claimed] == [(rows["Running"], "Error")]


def test_a_row_is_created_or_moved_by_one_upsert(session: Session) -> None:
    created = fire_or_create(Strict(id=1), "Ready", session)
    moved = fire_or_create(Strict(id=1), "Stop", session)
    session.execute(update(Strict.__table__).values(state="Deleted"))
    with pytest.raises(TransitionNotAllowed):
        fire_or_create(Strict(id=1), "Stop", session)

    assert (created.created, created.target, moved.created, moved.source) == (True, "Running", False, "Running")
    assert states(session, Strict) == {1: "Deleted"}


def test_a_row_is_created_by_an_event_with_a_guard(session: Session) -> None:
    created = fire_or_create(Guarded(id=1, total=30), "Refund", session, amount=30)

    assert (created.created, created.target, states(session, Guarded)) == (True, "Refunded", {1: "Refunded"})


def test_a_token_counts_once(session: Session) -> None:
    session.add(Recorded(id=1))
    session.flush()
    first = fire_key(Recorded, 1, "Ready", session, token="a")
    again = fire_key(Recorded, 1, "Ready", session, token="a")
    found = find_by_token(Recorded.state, "a", session)

    assert (first.replayed, again.replayed, again.target) == (False, True, "Running")
    assert found is not None
    assert found.target == "Running"


def test_history_follows_and_replays(session: Session) -> None:
    row = Recorded(id=1)
    session.add(row)
    session.flush()
    for name in ("Ready", "NotReady", "Stop", "Delete"):
        row.fire(name, session)
    force_state(row, "Running", session)
    history = row.history(session)

    assert replay(history) == "Running" == row.state
    assert [entry.event for entry in history] == ["Ready", "NotReady", "Stop", "Delete", "force_state"]


def test_guards_are_the_events_business_and_not_the_triggers(session: Session) -> None:
    session.add_all([Guarded(id=1), Guarded(id=2)])
    session.flush()
    assert not try_fire_key(Guarded, 1, "Refund", session, amount=30)
    write(session, Guarded, 1, "Refunded")  # the edge is there: nobody asks the guard
    moved = fire_key(Guarded, 2, "Refund", session, amount=100)

    assert (moved.target, states(session, Guarded)) == ("Refunded", {1: "Refunded", 2: "Refunded"})


@pytest.mark.parametrize("model", [Print, Car], ids=["single", "joined"])
def test_inheritance_is_held_to_it_too(session: Session, model: Any) -> None:
    session.add(model(id=1))
    session.flush()
    moved = fire_key(model, 1, "Stop", session)
    table = model.state.property.columns[0].table
    with pytest.raises(RefusedByDatabase):
        session.execute(update(table).values(state="Running"))

    assert moved.target == "Stopped"


def test_two_machines_on_a_row_are_held_each_to_its_own(session: Session) -> None:
    table, cars = Crossing.__table__, Crossing.cars.property.columns[0]
    session.add(Crossing(id=1))
    session.flush()
    fire_key(Crossing, 1, "Go", session)
    fire_key(Crossing, 1, "Stop", session)
    with pytest.raises(RefusedByDatabase, match="'GREEN' to 'RED'|'green' to 'red'"):
        session.execute(update(table).values({cars: Light.RED}))
    with pytest.raises(RefusedByDatabase, match="'Stopped' to 'Error'"):
        session.execute(update(table).values(phase="Error"))


# --- spellings, odd names, many states


@pytest.mark.parametrize(
    ("source", "target", "is_allowed"),
    [
        ("Up", "Error", True),
        ("Up", "Failed", True),
        ("Running", "Error", True),
        ("Error", "Failed", True),
        ("Failed", "Error", True),
        ("Broken", "Up", True),
        ("Error", "Running", True),
        ("Running", "Broken", False),
        ("Error", "Broken", False),
        ("Broken", "Error", False),
    ],
)
def test_aliases_and_retired_states_count(session: Session, source: str, target: str, *, is_allowed: bool) -> None:
    table = Changing.__table__
    session.execute(insert(table).values({"id": 1, "state": text(f"'{source}'")}))
    try:
        write(session, Changing, 1, target)
        assert is_allowed
    except RefusedByDatabase as error:
        assert (is_allowed, error.source, error.target) == (False, source, target)


def test_a_row_with_an_alias_fires(session: Session) -> None:
    session.execute(insert(Changing.__table__).values({"id": 1, "state": text("'Error'")}))

    assert fire_key(Changing, 1, "Repair", session).target == "Running"


def test_states_of_any_spelling_are_told_apart(session: Session) -> None:
    table = Odd.__table__
    session.execute(insert(table), [{"id": n, "state": state} for n, state in enumerate(ODD_STATES, start=1)])
    for number, state in enumerate(ODD_STATES, start=1):
        for target in (ODD_STATES[(number + 1) % len(ODD_STATES)], ODD_STATES[number - 2]):
            if target in {ODD_STATES[0], state}:
                continue  # an event leads there from everywhere
            with pytest.raises(RefusedByDatabase) as refused:
                session.execute(update(table).where(table.c.id == number).values(state=target))
            assert (refused.value.source, refused.value.target) == (state, target)
    for number in range(1, len(ODD_STATES)):
        assert fire_key(Odd, number, "Next", session).target == ODD_STATES[number]


def test_a_machine_of_255_states_is_enforced(session: Session) -> None:
    session.execute(insert(Long.__table__).values(id=1, state="state 100"))
    with pytest.raises(RefusedByDatabase):
        write(session, Long, 1, "state 102")

    assert fire_key(Long, 1, "Next", session).target == "state 101"


def test_long_states_are_named_as_far_as_the_message_holds(engine: Engine) -> None:
    names = [f"{letter * 62}{number:02}" for number, letter in enumerate("ABC")]
    column = StateType(
        Machine(initial=names[0], states=names, events=[Event("Go", dict(zip(names, names[1:], strict=False)))])
    )
    with own_table(engine, column, "a_table_with_a_name_that_has_64_characters_and_so_leaves_no_room") as (
        table,
        connection,
    ):
        enforce_machine(table.c.state, connection)
        connection.execute(insert(table).values(id=1))
        with pytest.raises(RefusedByDatabase) as refused:
            connection.execute(update(table).values(state=names[2]))
    error = refused.value

    assert (error.source or "")[:20] == "A" * 20
    assert (error.target or "")[:20] == "C" * 20


@pytest.mark.servers_only
@pytest.mark.parametrize(
    "made",
    [
        "VARCHAR(80) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci",
        "VARCHAR(80) CHARACTER SET ucs2 COLLATE ucs2_general_ci",
        "ENUM('Initializing','Running','Error','Stopped','Deleted') CHARACTER SET latin1 COLLATE latin1_general_ci",
    ],
)
def test_a_column_that_was_there_before_is_compared_by_bytes(engine: Engine, made: str) -> None:
    """Whatever its collation holds to be equal, in whatever character set, and without a CHECK."""
    with own_table(engine, StateType(machine)) as (table, connection):
        connection.execute(text("DROP TABLE enforced_later"))
        connection.execute(text(f"CREATE TABLE enforced_later (id INT PRIMARY KEY, state {made})"))
        enforce_machine(table.c.state, connection)
        connection.execute(text("INSERT INTO enforced_later VALUES (1, 'Initializing')"))
        connection.execute(text("UPDATE enforced_later SET state = 'Running'"))
        for value in (
            "'Deleted'",
            "NULL",
            "''",
            "'Error|Error>Running'",
            "'Error>Running'",
            "'Error|Running>Stopped'",
        ):
            with pytest.raises((DBAPIError, RefusedByDatabase)):
                connection.execute(text(f"UPDATE enforced_later SET state = {value}"))
        if not made.startswith("ENUM"):  # which makes 'Running' of them
            for value in ("running", "Running ", "STOPPED", "Rünning"):
                with pytest.raises(RefusedByDatabase) as refused:
                    connection.execute(text("UPDATE enforced_later SET state = :value"), {"value": value})
                assert refused.value.target == value
        connection.execute(text("UPDATE enforced_later SET state = 'Stopped'"))
        assert connection.scalar(text("SELECT state FROM enforced_later")) == "Stopped"


# --- the way through


def test_force_state_goes_through(session: Session, rows: dict[str, int]) -> None:
    order = session.get_one(Order, rows["Deleted"])
    moved = force_state(order, "Running", session, actor="Ada")

    assert (moved.source, moved.target, states(session, Order)[order.id]) == ("Deleted", "Running", "Running")


def test_force_state_from_an_alias_goes_through(session: Session) -> None:
    session.execute(insert(Changing.__table__).values({"id": 1, "state": text("'Error'")}))
    moved = force_state(session.get_one(Changing, 1), "Broken", session)

    assert (moved.source, states(session, Changing)) == ("Failed", {1: "Broken"})


def test_force_state_goes_through_on_a_connection_that_has_reflected_a_table(
    session: Session, rows: dict[str, int]
) -> None:
    """SQLAlchemy calls no listener for errors of such a connection."""
    order = session.get_one(Order, rows["Deleted"])
    inspect(session.connection()).get_columns(Order.__tablename__)

    assert force_state(order, "Running", session).source == "Deleted"
    with pytest.raises(RefusedByDatabase):
        fire_refused(session, rows["Stopped"])


def fire_refused(session: Session, key: int) -> None:
    """An event of a machine that the triggers are not of."""

    class Newer(DeclarativeBase):
        pass

    class NewerOrder(Newer):
        __tablename__ = Order.__tablename__
        id: Mapped[int] = mapped_column(primary_key=True)
        state: Mapped[str] = StateMachineColumn(
            Machine(
                initial="Initializing", states=STATES, events=[*machine.events.values(), Event("Kill", {ANY: "Error"})]
            )
        )

    fire_key(NewerOrder, key, "Kill", session)


def test_nothing_else_goes_through_after_it(session: Session, rows: dict[str, int]) -> None:
    """Not the same edge, on the same connection, of the same row."""
    order = session.get_one(Order, rows["Deleted"])
    force_state(order, "Running", session)
    fire_key(Order, order.id, "Stop", session)
    fire_key(Order, order.id, "Delete", session)
    with pytest.raises(RefusedByDatabase):
        write(session, Order, order.id, "Running")


def test_an_edge_that_the_machine_has_needs_no_way_through(
    session: Session, rows: dict[str, int], sent: Callable[[], AbstractContextManager[Sent]]
) -> None:
    order = session.get_one(Order, rows["Running"])
    with sent() as plain:
        force_state(order, "Error", session)
    with sent() as past:
        force_state(order, "Initializing", session)

    assert plain.number < past.number


def test_only_the_permitted_edge_is_let_through_and_only_so_many_rows(session: Session, engine: Engine) -> None:
    connection, table = session.connection(), Order.__table__
    session.execute(insert(table), [{"id": n, "state": "Deleted"} for n in (1, 2, 3)])
    with permitted(Order.state, connection, "Deleted", "Running", rows=2):
        with pytest.raises(RefusedByDatabase):
            write(session, Order, 1, "Error")
        write(session, Order, 1, "Running")
        write(session, Order, 2, "Running")
        if engine.dialect.name != "sqlite":
            with pytest.raises(RefusedByDatabase):
                write(session, Order, 3, "Running")
    with pytest.raises(RefusedByDatabase):
        write(session, Order, 3, "Running")

    assert states(session, Order) == {1: "Running", 2: "Running", 3: "Deleted"}


def test_the_way_is_closed_after_an_error(session: Session, rows: dict[str, int]) -> None:
    connection = session.connection()
    with pytest.raises(ZeroDivisionError), permitted(Order.state, connection, "Deleted", "Running", rows=1):
        raise ZeroDivisionError
    with pytest.raises(RefusedByDatabase):
        write(session, Order, rows["Deleted"], "Running")


def test_it_is_for_one_column_of_one_table(session: Session, engine: Engine) -> None:
    session.execute(insert(Order.__table__).values(id=1, state="Deleted"))
    session.execute(insert(Varchar.__table__).values(id=1, state="Deleted"))
    with permitted(Order.state, session.connection(), "Deleted", "Running", rows=1), pytest.raises(RefusedByDatabase):
        write(session, Varchar, 1, "Running")


@pytest.mark.parametrize("rows", [0, -1, True, "1"])
def test_a_number_of_rows_is_wanted(session: Session, rows: Any) -> None:
    with pytest.raises(ValueError, match="rows"):
        permitted(Order.state, session.connection(), "Deleted", "Running", rows=rows)


# --- putting them there and taking them away


@contextmanager
def own_table(engine: Engine, type_: StateType, name: str = "enforced_later") -> Iterator[tuple[Table, Connection]]:
    """A table of the test's own, and a connection in AUTOCOMMIT: a trigger commits anyhow."""
    metadata = MetaData()
    initial = type_.machine.stored(type_.machine.initial)
    state = Column("state", type_, nullable=False, server_default=initial)
    table = Table(name, metadata, Column("id", Integer, primary_key=True), state)
    metadata.create_all(engine)
    try:
        with engine.connect() as connection:
            yield table, connection.execution_options(isolation_level="AUTOCOMMIT")
    finally:
        metadata.drop_all(engine)


def test_it_is_put_on_a_table_that_is_there_and_taken_away(engine: Engine) -> None:
    with own_table(engine, StateType(machine)) as (table, connection):
        connection.execute(insert(table).values(id=1))
        connection.execute(update(table).values(state="Deleted"))
        for _ in range(2):
            enforce_machine(table.c.state, connection)
        assert sorted(one.kind for one in own_triggers(connection, table.c.state)) == ["insert", "update"]
        with pytest.raises(RefusedByDatabase):
            connection.execute(update(table).values(state="Running"))
        for _ in range(2):
            release_machine(table.c.state, connection)
        connection.execute(update(table).values(state="Running"))
        assert own_triggers(connection, table.c.state) == []


def test_an_engine_will_do_and_a_session_will_not(engine: Engine) -> None:
    with own_table(engine, StateType(machine)) as (table, connection):
        enforce_machine(table.c.state, engine)
        assert len(own_triggers(connection, table.c.state)) == 2
        with Session(engine) as session, pytest.raises(TypeError, match="Connection or an Engine"):
            enforce_machine(table.c.state, session)  # type: ignore[arg-type]
        release_machine(table.c.state, engine)


def test_another_machine_takes_the_place_without_a_gap(engine: Engine) -> None:
    """When it ends in the middle, what both allow is allowed; when it is run again, it goes on."""
    wider = Machine(
        initial="Initializing",
        states=STATES,
        events=[*machine.events.values(), Event("Revive", {"Deleted": "Running"})],
    )
    with own_table(engine, StateType(machine)) as (table, connection):
        enforce_machine(table.c.state, connection)
        other = table.to_metadata(type(table.metadata)())
        other.c.state.type = StateType(wider)
        names = []

        def note(conn: Any, cursor: Any, statement: str, *_: Any) -> None:
            if " TRIGGER " in statement[:60]:
                names.append(statement[: statement.index(" ")])

        event.listen(engine, "before_cursor_execute", note)
        try:
            enforce_machine(other.c.state, connection)
        finally:
            event.remove(engine, "before_cursor_execute", note)
        assert names == ["CREATE", "CREATE", "DROP", "DROP"]
        connection.execute(insert(table).values(id=1))
        for state in ("Stopped", "Deleted", "Running"):
            connection.execute(update(table).values(state=state))
        assert len(own_triggers(connection, table.c.state)) == 2


def test_a_table_that_is_missing_is_the_servers_error(engine: Engine) -> None:
    table = Table("enforced_nowhere", MetaData(), Column("state", StateType(machine)))
    with engine.connect() as connection, pytest.raises(Exception, match="enforced_nowhere"):
        enforce_machine(table.c.state, connection)


@pytest.mark.parametrize("column", [None, Order, Order.total, "state"])
def test_what_holds_no_state_cannot_be_enforced(engine: Engine, column: Any) -> None:
    with pytest.raises(TypeError):
        enforce_machine(column, engine)


@pytest.mark.long
@pytest.mark.servers_only
def test_it_gives_up_when_the_table_is_held(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enforcement, "LOCK_ATTEMPTS", 2)
    with own_table(engine, StateType(machine)) as (table, connection), engine.connect() as other:
        number = other.scalar(text("SELECT CONNECTION_ID()"))
        other.execute(select(func.count()).select_from(table))  # an open transaction holds the table's definition
        with pytest.raises(TableBusy, match=r"1205.*nothing was changed") as busy:
            enforce_machine(table.c.state, connection, lock_wait_timeout=1)
        assert any(f"connection {number} of " in user for user in busy.value.users)
        assert own_triggers(connection, table.c.state) == []
        other.rollback()
        enforce_machine(table.c.state, connection)

        other.execute(select(func.count()).select_from(table))
        with pytest.raises(LockTimeout, match=rf"connection {number} of .*nothing was changed"):
            release_machine(table.c.state, connection, lock_wait_timeout=1)
        other.rollback()
        assert len(own_triggers(connection, table.c.state)) == 2
        assert connection.execute(text("SELECT @@lock_wait_timeout")).scalar() != 1


@pytest.mark.servers_only
def test_a_wait_in_the_middle_leaves_no_trigger_behind(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that begins between the two CREATE TRIGGER makes the second one wait."""
    monkeypatch.setattr(enforcement, "LOCK_ATTEMPTS", 1)
    with own_table(engine, StateType(machine)) as (table, connection), engine.connect() as other:

        def use_table(conn: Any, cursor: Any, statement: str, *_: Any) -> None:
            is_second = statement.startswith("CREATE TRIGGER") and "BEFORE INSERT" in statement
            if is_second and not other.in_transaction():
                other.execute(select(func.count()).select_from(table))

        def leave_table(conn: Any, cursor: Any, statement: str, *_: Any) -> None:
            if statement.startswith("DROP TRIGGER") and other.in_transaction():
                other.rollback()

        event.listen(engine, "before_cursor_execute", use_table)
        event.listen(engine, "before_cursor_execute", leave_table)
        try:
            with pytest.raises(TableBusy, match="nothing was changed"):
                enforce_machine(table.c.state, connection, lock_wait_timeout=1)
        finally:
            event.remove(engine, "before_cursor_execute", use_table)
            event.remove(engine, "before_cursor_execute", leave_table)
        assert own_triggers(connection, table.c.state) == []


@pytest.mark.servers_only
def test_a_moved_fire_costs_a_second_look(
    session: Session, backend: str, rows: dict[str, int], sent: Callable[[], AbstractContextManager[Sent]]
) -> None:
    """A trigger hides what LAST_INSERT_ID(expr) says from the statement's own answer."""
    if backend == "locking":
        pytest.skip("the locking read asks first")
    with sent() as moved:
        fire_key(Order, rows["Running"], "Stop", session)
    with sent() as refused:
        try_fire_key(Order, rows["Deleted"], "Ready", session)

    assert (moved.number, refused.number) == (2, 1)
