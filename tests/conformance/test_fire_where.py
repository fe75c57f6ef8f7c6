"""One event on a set of rows: which rows move, what is told of them, and what the session shows afterwards."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, ForeignKey, String, Uuid, event, exists, func, inspect, select, text, true, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, mapped_column, relationship
from sqlalchemy.orm.exc import StaleDataError

from sqlalchemy_fsm_mysql import (
    ANY,
    Event,
    Machine,
    StateMachineColumn,
    TooManyRows,
    Transition,
    TransitionHistory,
    UnknownEvent,
    fire_where,
    replay,
    try_fire_key,
)
from sqlalchemy_fsm_mysql.core import sets
from tests.conformance.support import stored

machine = Machine(
    initial="new",
    events=[
        Event("Pay", {"new": "paid"}),
        Event("Close", {("new", "paid"): "closed", "closed": "closed"}),
        Event("Reopen", {ANY: "new"}),
        Event("Ship", {"paid": "shipped"}),
        # One transition, whose effect changes what its guard reads.
        Event(
            "Charge",
            [Transition("new", "paid", guard=lambda order, amount: order.total >= amount)],
            effect=lambda order, amount: {"total": order.total - amount},
        ),
        # Several, and the effects change what the guards read.
        Event(
            "Refund",
            [
                Transition("paid", "closed", guard=lambda order, amount: order.total == amount),
                Transition("paid", "paid", guard=lambda order, amount: order.total > amount),
                Transition("shipped", "shipped", effect=lambda order, amount: {"note": "returned"}),
            ],
            effect=lambda order, amount: {"total": order.total - amount},
        ),
    ],
)


class Base(DeclarativeBase):
    """The tables of this module."""


class Customer(Base):
    __tablename__ = "sets_customers"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    orders: Mapped[list[Order]] = relationship(back_populates="customer")


class Order(Base):
    __tablename__ = "sets_orders"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    tenant: Mapped[int] = mapped_column(default=1, index=True)
    state: Mapped[str] = StateMachineColumn(machine)
    total: Mapped[int] = mapped_column(default=0)
    note: Mapped[str] = mapped_column(String(20), default="")
    touched: Mapped[int] = mapped_column(default=0, onupdate=text("touched + 1"))
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("sets_orders.id"))
    customer_id: Mapped[int | None] = mapped_column(ForeignKey(Customer.id))
    customer: Mapped[Customer | None] = relationship(back_populates="orders")
    parent: Mapped[Order | None] = relationship(remote_side=[id])


class Line(Base):
    __tablename__ = "sets_lines"

    order: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine)
    total: Mapped[int] = mapped_column(default=0)
    note: Mapped[str] = mapped_column(String(20), default="")


class Named(Base):
    __tablename__ = "sets_named"

    name: Mapped[str] = mapped_column(String(20), primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)
    total: Mapped[int] = mapped_column(default=0)
    note: Mapped[str] = mapped_column(String(20), default="")


class Device(Base):
    __tablename__ = "sets_devices"

    id: Mapped[uuid.UUID] = mapped_column(Uuid(), primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)
    total: Mapped[int] = mapped_column(default=0)
    note: Mapped[str] = mapped_column(String(20), default="")


class Part(Base):
    """A composite key, of which one part is not what the driver takes."""

    __tablename__ = "sets_parts"

    device: Mapped[uuid.UUID] = mapped_column(Uuid(), primary_key=True)
    name: Mapped[str] = mapped_column(String(20), primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)
    total: Mapped[int] = mapped_column(default=0)
    note: Mapped[str] = mapped_column(String(20), default="")


class Task(Base):
    __tablename__ = "sets_tasks"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(10))
    state: Mapped[str] = StateMachineColumn(machine)
    total: Mapped[int] = mapped_column(default=0)
    note: Mapped[str] = mapped_column(String(20), default="")

    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "task"}


class Print(Task):
    __mapper_args__ = {"polymorphic_identity": "print"}


class Car(Task):
    __tablename__ = "sets_cars"

    id: Mapped[int] = mapped_column(ForeignKey(Task.id), primary_key=True)
    doors: Mapped[int] = mapped_column(default=4)

    __mapper_args__ = {"polymorphic_identity": "car"}


class Counted(Base):
    __tablename__ = "sets_counted"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine)
    total: Mapped[int] = mapped_column(default=0)
    note: Mapped[str] = mapped_column(String(20), default="")
    version: Mapped[int] = mapped_column()

    __mapper_args__ = {"version_id_col": version}


class Stamped(Base):
    """A version that Python makes of the one before."""

    __tablename__ = "sets_stamped"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine)
    total: Mapped[int] = mapped_column(default=0)
    note: Mapped[str] = mapped_column(String(20), default="")
    version: Mapped[str] = mapped_column(String(20))

    __mapper_args__ = {
        "version_id_col": version,
        "version_id_generator": lambda held: f"v{int((held or 'v0')[1:]) + 1}",
    }


class Recorded(Base):
    __tablename__ = "sets_recorded"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine)
    total: Mapped[int] = mapped_column(default=0)
    note: Mapped[str] = mapped_column(String(20), default="")


class RecordedTransition(TransitionHistory, Base):
    __tablename__ = "sets_recorded_transitions"
    __records__ = "Recorded.state"


DEVICES = [uuid.UUID(int=i * 2**64 + 5) for i in range(1, 8)]
SEVEN: dict[type[Any], list[tuple[Any, ...]]] = {
    Order: [(i,) for i in range(1, 8)],
    Line: [(1, 1), (1, 2), (2, 1), (2, 3), (3, 1), (3, 2), (10, 1)],
    Named: [(name,) for name in ("10", "9", "a'b", "b", "c", "d%s", "ß")],
    Device: [(device,) for device in DEVICES],
    Part: [(device, name) for device in DEVICES[:4] for name in ("a", "b")][:7],
    Recorded: [(i,) for i in range(1, 8)],
}
KEYED = pytest.mark.parametrize("model", list(SEVEN), ids=lambda model: model.__name__)


def add(session: Session, *rows: Any) -> None:
    """Store *rows*, and forget them."""
    session.add_all(rows)
    session.flush()
    session.expunge_all()


def seven(session: Session, model: type[Any], states: str = "new new paid new shipped new closed") -> None:
    """Seven rows of *model*, of which 'Close' moves all but the shipped one."""
    names = [column.key for column in inspect(model).primary_key]
    keys = (dict(zip(names, key, strict=True)) for key in SEVEN[model])
    add(
        session,
        *(
            model(**key, state=state, total=10 * i)
            for i, (key, state) in enumerate(zip(keys, states.split(), strict=True), 1)
        ),
    )


def states(session: Session, model: type[Any]) -> list[str]:
    """The stored states, by key."""
    names = [column.name for column in inspect(model).local_table.primary_key]
    rows = stored(session, model).values()
    return [row["state"] for row in sorted(rows, key=lambda row: [row[name] for name in names])]


# --- which rows


def test_without_criteria_it_is_an_error(session, sent):
    with sent() as statements, pytest.raises(TypeError, match=r"true\(\) to move all"):
        fire_where(Order, "Close", session)

    assert statements.number == 0


@pytest.mark.parametrize("criterion", [True, 5, "id > 5", None], ids=repr)
def test_a_criterion_that_is_no_sql_expression_is_an_error(session, criterion):
    with pytest.raises(TypeError, match="criteria are SQL expressions"):
        fire_where(Order, "Close", session, criterion)


def test_an_unknown_event_is_an_error_before_any_sql(session, sent):
    with sent() as statements, pytest.raises(UnknownEvent):
        fire_where(Order, "Explode", session, true())

    assert statements.number == 0


@KEYED
def test_true_stands_for_all_rows_that_the_event_can_move(session, model):
    seven(session, model)

    moved = fire_where(model, "Close", session, true())

    assert (moved.moved, moved.changed) == (6, 5)
    assert moved.by_transition == {("new", "closed"): 4, ("paid", "closed"): 1, ("closed", "closed"): 1}
    assert states(session, model) == ["closed", "closed", "closed", "closed", "shipped", "closed", "closed"]


def test_no_row_at_all_is_no_error(session):
    seven(session, Order)

    moved = fire_where(Order, "Close", session, Order.id > 100)

    assert (moved.moved, dict(moved.by_transition), bool(moved)) == (0, {}, False)


CRITERIA: dict[str, Any] = {
    "an attribute": lambda: [Order.tenant == 2],
    "two criteria": lambda: [Order.tenant == 2, Order.total > 0],
    "a Core column": lambda: [Order.__table__.c.tenant == 2],
    "the state itself": lambda: [Order.tenant == 2, Order.state == "new"],
    "another event's can()": lambda: [Order.tenant == 2, Order.state.can("Pay")],
    "text": lambda: [text("tenant = 2")],
    "a function": lambda: [func.abs(Order.tenant) == 2],
    "a relationship": lambda: [Order.customer.has(Customer.name == "Ada")],
    "a related object": lambda: [Order.customer.has(id=1)],
    "a relationship to the same table": lambda: [Order.parent.has(Order.total == 1)],
    "exists": lambda: [exists().where(Customer.id == Order.customer_id, Customer.name == "Ada")],
    "exists over an entity": lambda: [
        exists(select(Customer).where(Customer.id == Order.customer_id, Customer.name == "Ada"))
    ],
    "a subquery": lambda: [Order.customer_id.in_(select(Customer.id).where(Customer.name == "Ada"))],
    "a Core subquery": lambda: [
        Order.customer_id.in_(select(Customer.__table__.c.id).where(Customer.__table__.c.name == "Ada"))
    ],
    "a subquery on the same table": lambda: [Order.id.in_(select(Order.id).where(Order.tenant == 2))],
    "an alias of the same table": lambda: [
        exists().where((other := aliased(Order)).id == Order.parent_id, other.total == 1)
    ],
    "an aggregate of the same table": lambda: [
        Order.total < select(func.avg(Order.total)).scalar_subquery(),
        Order.tenant == 2,
    ],
    "another table's columns": lambda: [Order.customer_id == Customer.id, Customer.name == "Ada"],
}


@pytest.mark.parametrize("criteria", CRITERIA.values(), ids=CRITERIA)
def test_criteria_are_any_sql_on_the_model(session, criteria):
    add(session, Customer(id=1, name="Ada"), Customer(id=2, name="Grace"), Customer(id=3, name="Ada"))
    add(session, Order(id=1, tenant=1, total=1, customer_id=2))
    add(
        session,
        Order(id=2, tenant=2, total=2, parent_id=1, customer_id=1),
        Order(id=3, tenant=2, total=3, parent_id=1, customer_id=1),
    )
    add(session, Order(id=4, tenant=3, total=900, parent_id=2))

    moved = fire_where(Order, "Close", session, *criteria())

    assert moved.by_transition == {("new", "closed"): 2}
    assert states(session, Order) == ["new", "closed", "closed", "new"]


def test_a_row_that_matches_another_tables_rows_twice_moves_once(session):
    add(session, Customer(id=1, name="Ada"), Customer(id=2, name="Ada"))
    add(session, Order(id=1, total=50), Order(id=2, total=0))

    moved = fire_where(Order, "Reopen", session, Customer.id * 10 <= Order.total)

    assert moved.by_transition == {("new", "new"): 1}


def test_a_subclass_moves_its_own_rows(session):
    add(session, Task(id=1), Print(id=2), Task(id=3), Print(id=4))

    moved = fire_where(Print, "Close", session, Print.id > 0)

    assert moved.moved == 2
    assert states(session, Task) == ["new", "closed", "new", "closed"]


def test_a_base_class_moves_the_rows_of_its_subclasses_too(session):
    add(session, Task(id=1), Print(id=2), Car(id=3))

    assert fire_where(Task, "Close", session, true()).moved == 3


@pytest.mark.parametrize(
    "criteria",
    [lambda: [Car.doors == 2], lambda: [Car.id > 3, Car.doors == 2], lambda: [Car.total == 0, Car.doors == 2]],
    ids=["the table of the subclass", "its key", "both tables"],
)
def test_joined_inheritance_takes_criteria_on_either_table(session, criteria):
    add(session, Task(id=1), Car(id=2, doors=4), Car(id=4, doors=2), Car(id=5, doors=2, state="shipped"))

    moved = fire_where(Car, "Close", session, *criteria())

    assert moved.by_transition == {("new", "closed"): 1}
    assert states(session, Task) == ["new", "new", "closed", "shipped"]


# --- guards, effects, payload


def test_a_guard_decides_row_by_row_although_the_effect_changes_what_it_reads(session):
    seven(session, Order, "new new new new new new paid")

    moved = fire_where(Order, "Charge", session, true(), amount=40)

    assert moved.by_transition == {("new", "paid"): 3}
    assert states(session, Order) == ["new", "new", "new", "paid", "paid", "paid", "paid"]
    assert [row["total"] for row in stored(session, Order).values()] == [10, 20, 30, 0, 10, 20, 70]


@KEYED
def test_each_row_takes_the_first_transition_whose_guard_holds(session, model):
    seven(session, model, "paid paid paid paid shipped new paid")

    moved = fire_where(model, "Refund", session, true(), amount=30)

    assert moved.by_transition == {("paid", "closed"): 1, ("paid", "paid"): 2, ("shipped", "shipped"): 1}
    assert states(session, model) == ["paid", "paid", "closed", "paid", "shipped", "new", "paid"]
    rows = sorted(stored(session, model).values(), key=lambda row: (row["total"], row["state"]))
    assert [(row["total"], row["note"]) for row in rows] == [
        *[(0, ""), (10, ""), (10, ""), (20, ""), (20, "returned"), (40, ""), (60, "")]
    ]


@pytest.mark.parametrize("payload", [{}, {"amount": 1, "currency": "EUR"}, {"sum": 1}], ids=str)
def test_a_payload_that_does_not_fit_is_an_error_before_any_sql(session, sent, payload):
    with sent() as statements, pytest.raises(TypeError, match="its payload is 'amount'"):
        fire_where(Order, "Charge", session, true(), **payload)

    assert statements.number == 0


def test_rows_that_are_not_moved_keep_every_column(session):
    seven(session, Order)
    before = stored(session, Order)

    fire_where(Order, "Charge", session, Order.id < 3, amount=20)

    after = stored(session, Order)
    assert [key for key in before if before[key] != after[key]] == [(2,)]


def test_onupdate_is_part_of_the_statement(session):
    seven(session, Order)

    fire_where(Order, "Close", session, Order.id == 2)

    assert [row["touched"] for row in stored(session, Order).values()] == [0, 1, 0, 0, 0, 0, 0]


# --- batches


@contextmanager
def updates(session: Session) -> Iterator[list[int]]:
    """How many rows each UPDATE of the session touches within the block."""
    rows: list[int] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("UPDATE") and cursor.rowcount:
            rows.append(cursor.rowcount)

    connection = session.connection()
    event.listen(connection, "after_cursor_execute", note)
    yield rows
    event.remove(connection, "after_cursor_execute", note)


@KEYED
@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_batches_move_the_same_rows_in_statements_of_bounded_size(session, model, batch_size):
    seven(session, model)

    with updates(session) as touched:
        moved = fire_where(model, "Close", session, true(), batch_size=batch_size)

    assert moved.by_transition == {("new", "closed"): 4, ("paid", "closed"): 1, ("closed", "closed"): 1}
    assert states(session, model) == ["closed", "closed", "closed", "closed", "shipped", "closed", "closed"]
    assert sum(touched) == 6
    assert max(touched) <= batch_size


@KEYED
@pytest.mark.parametrize("chunk", [1, 3])
def test_rows_that_go_by_their_keys_are_taken_chunk_by_chunk(session, model, chunk, monkeypatch):
    monkeypatch.setattr(sets, "CHUNK", chunk)
    seven(session, model)

    with updates(session) as touched:
        moved = fire_where(model, "Close", session, true(), max_rows=6)

    assert moved.moved == 6
    assert max(touched) <= chunk
    assert states(session, model) == ["closed", "closed", "closed", "closed", "shipped", "closed", "closed"]


def test_batches_count_what_they_move_and_not_what_they_pass(session):
    seven(session, Order)
    told: list[tuple[int, int | None]] = []

    fire_where(Order, "Pay", session, Order.id > 1, batch_size=2, progress=lambda *done: told.append(done))

    assert told == [(1, None), (2, None), (3, None), (3, None)]


def test_progress_without_batches_is_told_once(session):
    seven(session, Order)
    told: list[tuple[int, int | None]] = []

    fire_where(Order, "Pay", session, true(), progress=lambda *done: told.append(done))

    assert told == [(4, None)]


def test_rows_that_come_in_between_move_if_the_walk_has_not_passed_them(session):
    seven(session, Line)
    arrivals = [Line(order=1, number=7), Line(order=3, number=7), Line(order=99, number=7)]

    def arrive(*_: Any) -> None:
        if arrivals:
            session.add(arrivals.pop())
            session.add(arrivals.pop(0))
            session.flush()
            session.add_all(arrivals)
            session.flush()
            arrivals.clear()

    moved = fire_where(Line, "Close", session, true(), batch_size=3, progress=arrive)

    assert moved.by_transition == {("new", "closed"): 6, ("paid", "closed"): 1, ("closed", "closed"): 1}
    assert {key: row["state"] for key, row in stored(session, Line).items() if key[1] == 7} == {
        (1, 7): "new",
        (3, 7): "closed",
        (99, 7): "closed",
    }


def test_progress_may_stop_it_by_an_error(session):
    seven(session, Order)

    def stop(done: int, _: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fire_where(Order, "Pay", session, true(), batch_size=2, progress=stop)

    assert states(session, Order) == ["paid", "paid", "paid", "new", "shipped", "new", "closed"]


def test_progress_may_commit_each_batch(backend_engine, tables, clean):
    with Session(backend_engine) as session:
        seven(session, Order)
        session.commit()

        fire_where(Order, "Pay", session, true(), batch_size=2, progress=lambda *_: session.commit())
        session.rollback()

        assert states(session, Order) == ["paid", "paid", "paid", "paid", "shipped", "paid", "closed"]


@pytest.mark.parametrize("size", ["batch_size", "max_rows"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "10"])
def test_a_size_is_a_positive_number_of_rows(session, size, value):
    with pytest.raises(ValueError, match=f"{size}="):
        fire_where(Order, "Close", session, true(), **{size: value})


@KEYED
def test_more_than_max_rows_is_refused_before_anything_is_changed(session, model):
    seven(session, model)
    before = stored(session, model)

    with updates(session) as touched, pytest.raises(TooManyRows, match="max_rows=5 rows"):
        fire_where(model, "Close", session, true(), max_rows=5)

    assert touched == []
    assert before == stored(session, model)


def test_max_rows_counts_the_rows_that_would_move(session):
    seven(session, Order)

    assert fire_where(Order, "Pay", session, true(), max_rows=4).moved == 4


# --- what the session shows


def test_an_instance_of_a_moved_row_shows_what_the_statement_did(session):
    seven(session, Order, "paid paid paid paid shipped new paid")
    order, other = session.get_one(Order, 4), session.get_one(Order, 6)

    fire_where(Order, "Refund", session, true(), amount=30)

    assert (order.state, order.total, order.touched) == ("paid", 10, 1)
    assert (other.state, other.total, other.touched) == ("new", 60, 0)


def test_an_unflushed_edit_is_flushed_first(session):
    seven(session, Order)
    order = session.get_one(Order, 1)
    order.total = 500

    assert fire_where(Order, "Charge", session, true(), amount=450).moved == 1
    assert (order.total, order.state) == (50, "paid")


def test_edits_that_wait_for_a_flush_are_kept(session):
    seven(session, Order)
    order = session.get_one(Order, 1)
    with session.no_autoflush:
        order.tenant = 9
        fire_where(Order, "Close", session, true())

    assert (order.tenant, order.state) == (9, "closed")
    session.flush()
    assert stored(session, Order)[1,]["tenant"] == 9


def test_a_subclass_instance_shows_what_was_fired_on_the_base_class(session):
    add(session, Print(id=1), Car(id=2))
    rows = session.get_one(Print, 1), session.get_one(Car, 2)

    fire_where(Task, "Close", session, true())

    assert [row.state for row in rows] == ["closed", "closed"]


@pytest.mark.parametrize("loaded", ["before", "within", "after"])
@pytest.mark.parametrize("max_rows", [None, 7], ids=["by criteria", "by keys"])
def test_a_savepoint_that_is_rolled_back_takes_the_instances_along(session, loaded, max_rows):
    seven(session, Order)
    session.connection().exec_driver_sql("SELECT 1")
    orders = [session.get_one(Order, 1)] if loaded == "before" else []

    savepoint = session.begin_nested()
    if loaded == "within":
        orders.append(session.get_one(Order, 1))
    fire_where(Order, "Close", session, true(), max_rows=max_rows)
    orders.append(session.get_one(Order, 1))
    assert orders[0].state == "closed"
    savepoint.rollback()

    assert orders[0].state == "new"


def test_a_rollback_takes_everything_back(backend_engine, tables, clean):
    with Session(backend_engine) as session:
        seven(session, Recorded)
        session.commit()
        row = session.get_one(Recorded, 1)

        fire_where(Recorded, "Close", session, true())
        session.rollback()

        assert row.state == "new"
        assert stored(session, RecordedTransition) == {}


# --- versions


@pytest.mark.parametrize("options", [{}, {"batch_size": 2}, {"max_rows": 9}], ids=str)
def test_a_counted_version_goes_up_in_the_same_statement(session, options):
    add(session, *(Counted(id=i) for i in range(1, 4)), Counted(id=4, state="shipped"))
    row = session.get_one(Counted, 1)

    fire_where(Counted, "Close", session, true(), **options)

    assert [stored["version"] for stored in stored(session, Counted).values()] == [2, 2, 2, 1]
    row.note = "edited"
    session.flush()
    assert (row.state, row.version) == ("closed", 3)


@pytest.mark.parametrize("options", [{}, {"batch_size": 2}, {"max_rows": 9}], ids=str)
def test_a_version_made_by_python_is_made_from_each_rows_own(session, options):
    add(session, *(Stamped(id=i, total=i) for i in range(1, 4)))
    row = session.get_one(Stamped, 2)
    row.note = "twice"
    session.flush()

    moved = fire_where(Stamped, "Charge", session, true(), amount=2, **options)

    assert moved.by_transition == {("new", "paid"): 2}
    assert [stored["version"] for stored in stored(session, Stamped).values()] == ["v1", "v3", "v2"]
    row.note = "edited"
    session.flush()
    assert (row.state, row.version) == ("paid", "v4")


def test_somebody_elses_stale_instance_does_not_overwrite_a_moved_row(backend_engine, tables, clean):
    with Session(backend_engine) as mine, Session(backend_engine) as theirs:
        mine.add(Counted(id=1))
        mine.commit()
        row = theirs.get_one(Counted, 1)
        theirs.commit() if inspect(row).session is None else None
        row.note = "late"
        theirs.connection().exec_driver_sql("SELECT 1")
        if backend_engine.dialect.name == "sqlite":
            theirs.expunge(row)
            theirs.rollback()
        fire_where(Counted, "Close", mine, true())
        mine.commit()
        if backend_engine.dialect.name == "sqlite":
            theirs.add(row)

        with pytest.raises(StaleDataError):
            theirs.flush()


# --- history


@pytest.mark.parametrize("options", [{}, {"batch_size": 2}, {"max_rows": 9}], ids=str)
def test_every_moved_row_gets_its_record(session, options):
    seven(session, Recorded, "paid paid paid paid shipped new paid")

    fire_where(Recorded, "Refund", session, true(), amount=30, actor="batch", details={"run": 7}, **options)
    fire_where(Recorded, "Close", session, Recorded.id != 2, actor="batch", **options)

    rows = session.scalars(
        select(RecordedTransition).order_by(RecordedTransition.record_id, RecordedTransition.sequence)
    ).all()
    assert [(row.record_id, row.sequence, row.event, row.source, row.target) for row in rows] == [
        (1, 1, "Close", "paid", "closed"),
        (3, 1, "Refund", "paid", "closed"),
        (3, 2, "Close", "closed", "closed"),
        (4, 1, "Refund", "paid", "paid"),
        (4, 2, "Close", "paid", "closed"),
        (5, 1, "Refund", "shipped", "shipped"),
        (6, 1, "Close", "new", "closed"),
        (7, 1, "Refund", "paid", "paid"),
        (7, 2, "Close", "paid", "closed"),
    ]
    assert {(row.actor, str(row.details), row.token) for row in rows if row.event == "Refund"} == {
        ("batch", "{'run': 7}", None)
    }
    assert all(row.at is not None for row in rows)


@pytest.mark.parametrize("options", [{}, {"batch_size": 2}], ids=str)
def test_the_history_replays_to_the_state_of_each_row(session, options):
    seven(session, Recorded, "new new new new new new new")
    for name, payload in [
        ("Charge", {"amount": 30}),
        ("Refund", {"amount": 10}),
        ("Close", {}),
        ("Reopen", {}),
        ("Pay", {}),
    ]:
        fire_where(Recorded, name, session, Recorded.id != 2, **payload, **options)

    for row in session.scalars(select(Recorded)):
        assert replay(row.history(session)) in (row.state, None if row.id == 2 else row.state)


# --- what else a server may be


@pytest.fixture
def clean(backend_engine: Engine, tables: None) -> Iterator[None]:
    """For tests that commit: empty tables afterwards."""
    yield
    with backend_engine.begin() as connection:
        connection.execute(update(Order).values(parent_id=None))
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(table.delete())


@pytest.fixture
def seven_orders(backend_engine: Engine, clean: None) -> Engine:
    """The engine, with seven committed orders."""
    with Session(backend_engine) as session:
        seven(session, Order)
        session.commit()
    return backend_engine


def free(engine: Engine, model: type[Any]) -> list[int]:
    """The keys of the rows that nobody has locked."""
    with Session(engine) as session:
        keys = []
        for key in session.scalars(select(model.id).order_by(model.id)).all():
            try:
                session.execute(select(model.id).where(model.id == key).with_for_update(nowait=True))
            except DBAPIError:
                continue
            keys.append(key)
    return keys


@pytest.mark.servers_only
@pytest.mark.parametrize("options", [{}, {"batch_size": 2}, {"max_rows": 2}], ids=str)
@pytest.mark.parametrize(
    "name, payload", [("Pay", {}), ("Close", {}), ("Charge", {"amount": 1})], ids=["one", "several", "guarded"]
)
def test_under_read_committed_it_locks_the_rows_that_it_moves_and_no_others(seven_orders, options, name, payload):
    with Session(seven_orders) as session:
        fire_where(Order, name, session, Order.id.in_([2, 4, 5]), **payload, **options)

        assert free(seven_orders, Order) == [1, 3, 5, 6, 7]


@pytest.mark.servers_only
@pytest.mark.parametrize("options", [{}, {"batch_size": 2}], ids=str)
def test_rows_that_others_have_locked_do_not_hinder_it_when_they_do_not_match(seven_orders, options):
    with Session(seven_orders) as theirs, Session(seven_orders) as session:
        theirs.execute(select(Order).where(Order.id == 7).with_for_update())
        session.execute(text("SET SESSION innodb_lock_wait_timeout = 1"))

        assert fire_where(Order, "Pay", session, Order.id.in_([2, 4]), **options).moved == 2
        session.connection().invalidate()


@pytest.mark.parametrize("options", [{}, {"batch_size": 2}, {"max_rows": 9}], ids=str)
@pytest.mark.parametrize("name, payload", [("Close", {}), ("Charge", {"amount": 1})], ids=["several", "guarded"])
def test_in_autocommit_it_needs_no_commit(seven_orders, options, name, payload):
    engine = seven_orders.execution_options(isolation_level="AUTOCOMMIT")
    with Session(engine) as session:
        moved = fire_where(Order, name, session, true(), **payload, **options)
        session.rollback()

    with Session(seven_orders) as session:
        assert session.scalar(select(func.count()).where(Order.touched == 1)) == moved.moved


def test_in_autocommit_a_refusal_by_max_rows_leaves_nothing_open(seven_orders):
    with Session(seven_orders.execution_options(isolation_level="AUTOCOMMIT")) as session:
        with pytest.raises(TooManyRows):
            fire_where(Order, "Close", session, true(), max_rows=1)
        assert fire_where(Order, "Close", session, true()).moved == 6

    with Session(seven_orders) as session:
        assert fire_where(Order, "Close", session, true()).by_transition == {("closed", "closed"): 6}


@pytest.mark.servers_only
@pytest.mark.parametrize(
    "name, payload, moves", [("Pay", {}, 4), ("Close", {}, 6), ("Charge", {"amount": 1}, 4)], ids=str
)
def test_a_trigger_that_inserts_rows_with_ids_of_their_own_changes_nothing(
    session, backend_engine, name, payload, moves, clean
):
    with backend_engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE sets_log (id INT AUTO_INCREMENT PRIMARY KEY, state VARCHAR(20))")
        for when in ("BEFORE", "AFTER"):
            connection.exec_driver_sql(
                f"CREATE TRIGGER sets_{when} {when} UPDATE ON sets_orders FOR EACH ROW INSERT INTO sets_log (state) VALUES (NEW.state)"
            )
    try:
        with Session(backend_engine) as session:
            seven(session, Order)

            moved = fire_where(Order, name, session, true(), **payload)

            assert (moved.moved, sum(moved.by_transition.values())) == (moves, moves)
            assert session.scalar(text("SELECT COUNT(*) FROM sets_log")) == 2 * moves
            assert [states(session, Order).count(target) for _, target in moved.by_transition if target == "paid"] in (
                [],
                [5],
            )
    finally:
        with backend_engine.begin() as connection:
            for statement in ("DROP TRIGGER sets_BEFORE", "DROP TRIGGER sets_AFTER", "DROP TABLE sets_log"):
                connection.exec_driver_sql(statement)


@pytest.mark.servers_only
def test_without_strict_mode_it_does_the_same(session):
    session.execute(text("SET SESSION sql_mode = ''"))
    seven(session, Order, "paid paid paid paid shipped new paid")

    moved = fire_where(Order, "Refund", session, true(), amount=30)

    assert moved.by_transition == {("paid", "closed"): 1, ("paid", "paid"): 2, ("shipped", "shipped"): 1}
    assert states(session, Order) == ["paid", "paid", "closed", "paid", "shipped", "new", "paid"]
    session.connection().invalidate()


@pytest.mark.servers_only
def test_the_users_session_variables_stay_as_they_are(session):
    seven(session, Order)
    session.execute(text("SET @taken_0 = 'mine', @fsm = 7"))

    fire_where(Order, "Close", session, true())
    fire_where(Order, "Reopen", session, true())

    assert session.execute(text("SELECT @taken_0, @fsm")).one() == ("mine", 7)


@pytest.mark.servers_only
@pytest.mark.parametrize("options", [{}, {"batch_size": 5}], ids=str)
def test_by_transition_is_exact_while_others_fire(backend_engine, clean, options):
    """Each row is moved by exactly one of two, and both know which."""
    keys = range(1, 81)
    with Session(backend_engine) as session:
        session.add_all(Order(id=key) for key in keys)
        session.commit()

    def pay() -> int:
        with Session(backend_engine) as session:
            paid = 0
            for key in reversed(keys):
                paid += bool(try_fire_key(Order, key, "Pay", session))
                session.commit()
            return paid

    def close() -> dict[Any, int]:
        with Session(backend_engine) as session:
            moved = fire_where(Order, "Close", session, true(), progress=lambda *_: session.commit(), **options)
            return dict(moved.by_transition)

    with ThreadPoolExecutor(2) as pool:
        payer, closer = pool.submit(pay), pool.submit(close)
        paid, closed = payer.result(), closer.result()

    assert sum(closed.values()) == len(keys)
    assert closed.get(("paid", "closed"), 0) == paid
    with Session(backend_engine) as session:
        assert set(states(session, Order)) == {"closed"}


@pytest.mark.parametrize("target", ["sqlite"])
def test_an_async_session_awaits_it(target, tmp_path):
    import asyncio

    async def run() -> tuple[Any, str]:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'async.db'}")
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with AsyncSession(engine) as session:
            session.add_all([Order(id=1), Order(id=2)])
            await session.commit()
            order = await session.get_one(Order, 1)
            moved = await fire_where(Order, "Pay", session, Order.id < 2, batch_size=1)
            await session.refresh(order)
            state = order.state
        await engine.dispose()
        return moved.by_transition, state

    assert asyncio.run(run()) == ({("new", "paid"): 1}, "paid")


# --- all or none


@contextmanager
def just_before(session: Session, beginning: str, act: Any) -> Iterator[list[str]]:
    """Call *act* before the first statement of the session that begins so; the texts sent meanwhile."""
    texts: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        is_first = statement.startswith(beginning) and not any(text.startswith(beginning) for text in texts)
        texts.append(statement)
        if is_first:
            act()

    connection = session.connection()
    event.listen(connection, "before_cursor_execute", note)
    yield texts
    event.remove(connection, "before_cursor_execute", note)


@pytest.fixture
def recorded(backend_engine: Engine, clean: None) -> Engine:
    """The engine, with seven committed rows that have a history."""
    with Session(backend_engine) as session:
        seven(session, Recorded)
        session.commit()
    return backend_engine


def history_fits(session: Session, start: dict[int, str]) -> bool:
    """Whether each row's history, from its state at the *start*, leads to the state it has now."""
    rows = session.scalars(select(Recorded)).all()
    return all((replay(row.history(session)) or start[row.id]) == row.state for row in rows)


@pytest.mark.servers_only
@pytest.mark.parametrize("name", ["Pay", "Close"], ids=["one transition", "several"])
@pytest.mark.parametrize("arrives", [(8, "new"), (5, "new")], ids=["a new row", "a row that begins to match"])
def test_a_row_that_begins_to_match_while_the_history_is_written_is_recorded_or_left(recorded, name, arrives):
    """Under READ COMMITTED nothing keeps it away between the two statements."""
    key, state = arrives
    start = dict(zip(range(1, 9), ["new", "new", "paid", "new", "shipped", "new", "closed", "new"], strict=True)) | {
        key: state
    }

    def arrive() -> None:
        with recorded.begin() as connection:
            connection.execute(text("DELETE FROM sets_recorded WHERE id = :id"), {"id": key})
            connection.execute(
                text("INSERT INTO sets_recorded (id, state, total, note) VALUES (:id, :state, 0, '')"),
                arrives and {"id": key, "state": state},
            )

    with Session(recorded) as session:
        with just_before(session, "UPDATE sets_recorded", arrive):
            moved = fire_where(Recorded, name, session, true())
        session.commit()

        assert moved.moved == session.scalar(select(func.count()).select_from(RecordedTransition))
        assert history_fits(session, start)


@pytest.mark.servers_only
@pytest.mark.parametrize(
    "criterion, is_by_keys",
    [
        (lambda: Recorded.id > 0, False),
        (lambda: Recorded.id.in_([1, 2, 3]) & (Recorded.total + 1 > 0) | Recorded.note.is_(None), False),
        (lambda: Recorded.id.between(1, 9) & Recorded.state.can("Pay"), False),
        (lambda: func.abs(Recorded.id) > 0, True),
        (lambda: exists().where(Order.id == Recorded.id) | (Recorded.id > 0), True),
        (lambda: text("id > 0"), True),
    ],
    ids=["a comparison", "an expression", "can()", "a function", "a subquery", "text"],
)
def test_rows_with_a_history_move_as_a_set_when_only_the_row_itself_is_asked(recorded, backend, criterion, is_by_keys):
    if backend == "locking":
        pytest.skip("it always goes by keys")
    with Session(recorded) as session, just_before(session, "nothing", None) as texts:
        moved = fire_where(Recorded, "Close", session, criterion())

        assert moved.moved >= 2
        assert any(statement.startswith("SELECT sets_recorded.id") for statement in texts) == is_by_keys


def explode() -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("options", [{}, {"max_rows": 9}], ids=str)
def test_an_error_on_the_way_leaves_no_row_moved_and_none_recorded(recorded, options, monkeypatch):
    """Whoever goes on after it, and commits, commits no half."""
    monkeypatch.setattr(sets, "CHUNK", 2)
    with Session(recorded) as session:
        row = session.get_one(Recorded, 1)
        with just_before(session, "UPDATE sets_recorded SET state", explode), pytest.raises(ZeroDivisionError):
            fire_where(Recorded, "Close", session, Recorded.id > 0, **options)
        session.commit()

        assert row.state == "new"
        assert states(session, Recorded) == ["new", "new", "paid", "new", "shipped", "new", "closed"]
        assert stored(session, RecordedTransition) == {}


def test_max_rows_counts_before_the_first_batch(session: Session) -> None:
    session.add_all(Order(id=number, total=number) for number in range(1, 8))
    session.flush()
    before = stored(session, Order)

    with pytest.raises(TooManyRows, match="nothing was changed"):
        fire_where(Order, "Pay", session, true(), batch_size=2, max_rows=6)
    assert stored(session, Order) == before

    calls: list[int] = []
    moved = fire_where(
        Order, "Pay", session, true(), batch_size=2, max_rows=7, progress=lambda done, total: calls.append(done)
    )
    assert (moved.moved, calls) == (7, [2, 4, 6, 7])
