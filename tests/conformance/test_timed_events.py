"""Timed events: refused before their time by the database's clock, in the statement that would move the row."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from sqlalchemy import TIMESTAMP, DateTime, Index, func, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    GuardNotSatisfied,
    InvalidMachine,
    Machine,
    StateMachineColumn,
    StateSinceColumn,
    Transition,
    claim,
    fire_key,
    fire_or_create,
    fire_where,
    try_fire_key,
)
from sqlalchemy_fsm_mysql.orm.since import Timestamp
from sqlalchemy_fsm_mysql.sql.clock import utc_ago, utc_now
from tests.conformance.support import RAISING, WAYS

HOUR = timedelta(hours=1)


class Base(DeclarativeBase):
    """The tables of this module."""


machine = Machine(
    initial="pending",
    events=[
        Event("Pay", {"pending": "paid"}),
        Event("Expire", {("pending", "paid"): "expired"}, after=HOUR),
        Event(
            "Remind",
            [Transition("pending", "pending", guard={"unpaid": lambda order: order.reminders < 2})],
            effect=lambda order: {"reminders": order.reminders + 1},
            after=lambda order: order.due_at,
        ),
        Event("Archive", {"expired": "archived"}, after=timedelta(days=36_525)),
    ],
)


class Order(Base):
    __tablename__ = "timed_orders"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine)
    state_since: Mapped[datetime] = StateSinceColumn()
    due_at: Mapped[datetime | None] = mapped_column(Timestamp())
    reminders: Mapped[int] = mapped_column(default=0)
    __table_args__ = (Index("ix_timed_orders_due", "state", "state_since"), Index("ix_timed_due_at", "state", "due_at"))


def age(session: Session, by: timedelta, column: str = "state_since") -> None:
    """Have every row be in its state, or due, since *by* ago."""
    session.flush()
    session.execute(update(Order.__table__).values({column: utc_ago(by)}))
    session.expire_all()


def outcome(way, session, event="Expire"):
    """Whether the row moved, and else the guards that were not true."""
    try:
        moved = WAYS[way](session, Order, 1, event)
    except GuardNotSatisfied as error:
        assert way in RAISING
        return error.failed
    return True if moved else moved.failed


@pytest.fixture
def order(session: Session) -> Order:
    order = Order(id=1)
    session.add(order)
    session.flush()
    return order


@pytest.mark.parametrize("way", WAYS)
def test_an_early_fire_is_refused_by_the_guard_after(session, order, way):
    age(session, HOUR - timedelta(seconds=20))
    assert outcome(way, session) == ("after",)
    age(session, HOUR)
    assert outcome(way, session) is True


@pytest.mark.parametrize("way", WAYS)
def test_a_function_gives_the_moment(session, order, way):
    assert outcome(way, session, "Remind") == ("after",)  # no moment is none that has come
    age(session, -timedelta(seconds=20), "due_at")
    assert outcome(way, session, "Remind") == ("after",)
    age(session, timedelta(0), "due_at")
    assert outcome(way, session, "Remind") is True


def test_all_guards_that_are_not_true_are_named(session, order):
    order.reminders = 2
    session.flush()
    assert try_fire_key(Order, 1, "Remind", session).failed == ("unpaid", "after")
    age(session, HOUR, "due_at")
    assert try_fire_key(Order, 1, "Remind", session).failed == ("unpaid",)


def test_a_change_of_the_state_begins_the_time_anew(session, order):
    age(session, HOUR)
    order.fire("Pay", session)
    assert order.try_fire("Expire", session).failed == ("after",)


def test_the_longest_time(session, order):
    age(session, HOUR)
    order.fire("Expire", session)
    assert order.try_fire("Archive", session).failed == ("after",)
    age(session, timedelta(days=36_525))
    assert order.fire("Archive", session)


def test_queries_follow(session, order):
    session.add(Order(id=2))
    age(session, HOUR)
    fire_key(Order, 2, "Pay", session)

    assert order.possible_events() == ["Pay", "Expire"]
    assert session.get_one(Order, 2).possible_events() == []
    for criterion in (Order.state.can("Expire"), Order.state.due("Expire")):
        assert session.scalars(select(Order.id).where(criterion)).all() == [1]
    assert session.execute(select(Order.id, Order.state.after("Expire")).order_by(Order.id)).all() == [
        (1, "expired"),
        (2, "paid"),
    ]
    other = aliased(Order)
    assert session.scalars(select(other.id).where(other.state.due("Expire"))).all() == [1]


def test_due_leaves_the_other_guards_out(session, order):
    order.reminders = 2
    age(session, HOUR, "due_at")
    assert session.scalars(select(Order.state.due("Remind"))).all() == [1]
    assert session.scalars(select(Order.state.can("Remind"))).all() == [0]


def test_due_is_asked_of_timed_events_only():
    with pytest.raises(
        ValueError, match=r"event 'Pay' has no after=, so it is never due; the timed events are 'Expire'"
    ):
        Order.state.due("Pay")
    with pytest.raises(TypeError, match="needs? the mapped class"):
        Order.__table__.c.state.due("Expire")


@pytest.mark.parametrize("options", [{}, {"batch_size": 1}, {"max_rows": 5}])
def test_sets_move_due_rows_only(session, order, options):
    session.add(Order(id=2))
    age(session, HOUR)
    fire_key(Order, 2, "Pay", session)
    assert fire_where(Order, "Expire", session, Order.id > 0, **options).by_transition == {("pending", "expired"): 1}


def test_claims_take_due_rows_only(session, order):
    assert claim(Order, "Expire", session, limit=5) == []
    age(session, HOUR)
    assert claim(Order, "Expire", session, limit=5) == [order]


def test_an_upsert_is_refused_before_the_time(session, order):
    with pytest.raises(GuardNotSatisfied) as refused:
        fire_or_create(Order(id=5), "Expire", session)
    assert refused.value.failed == ("after",)
    assert session.scalar(select(func.count()).select_from(Order)) == 1
    age(session, HOUR)
    session.expunge(order)
    assert fire_or_create(Order(id=1), "Expire", session).target == "expired"


@pytest.mark.parametrize("zone", ["+13:00", "-11:00"])
def test_the_time_zone_of_the_session_changes_nothing(session, order, zone):
    if session.get_bind().dialect.name == "sqlite":
        pytest.skip("SQLite has no time zone of a session")
    connection = session.connection()
    before = connection.exec_driver_sql("SELECT @@time_zone").scalar_one()
    try:
        age(session, HOUR - timedelta(seconds=20))
        age(session, -timedelta(seconds=20), "due_at")
        connection.exec_driver_sql(f"SET time_zone = '{zone}'")
        assert [try_fire_key(Order, 1, name, session).failed for name in ("Expire", "Remind")] == [("after",)] * 2
        age(session, HOUR)
        age(session, timedelta(0), "due_at")
        assert try_fire_key(Order, 1, "Remind", session)
        assert try_fire_key(Order, 1, "Expire", session)
    finally:
        connection.exec_driver_sql(f"SET time_zone = '{before}'")


def test_the_index_is_used(session):
    session.add_all(Order(id=key) for key in range(1, 300))
    session.flush()
    session.execute(update(Order.__table__).where(Order.id < 4).values(state_since=utc_ago(HOUR)))
    session.execute(update(Order.__table__).where(Order.id < 4).values(due_at=utc_ago(HOUR)))
    for event, index in (("Expire", "ix_timed_orders_due"), ("Remind", "ix_timed_due_at")):
        query = select(Order.__table__.c.id).where(Order.state.due(event))
        compiled = query.compile(session.get_bind(), compile_kwargs={"literal_binds": True})
        is_sqlite = session.get_bind().dialect.name == "sqlite"
        explain = "EXPLAIN QUERY PLAN" if is_sqlite else "EXPLAIN FORMAT=TRADITIONAL"
        rows = [dict(row) for row in session.connection().exec_driver_sql(f"{explain} {compiled}").mappings()]
        assert index in str(rows)
        if not is_sqlite:
            assert [row["type"] for row in rows] == ["range"]


def mapped_with(machine: Machine, **columns):
    class Own(DeclarativeBase):
        pass

    class Thing(Own):
        __tablename__ = "timed_things"
        id: Mapped[int] = mapped_column(primary_key=True)
        at: Mapped[datetime] = mapped_column(columns.get("type", DateTime()))
        state: Mapped[str] = StateMachineColumn(machine)

    return vars(Thing)["__state_machines__"]["state"]


def timed(after, **options) -> Machine:
    return Machine(initial="new", events=[Event("Expire", {"new": "gone"}, after=after, **options)])


def test_a_time_since_needs_the_column():
    with pytest.raises(
        InvalidMachine,
        match=r"event 'Expire' is due 1:00:00 after the row has entered its state, and Thing\.state has no column with"
        r" that time: add state_since: Mapped\[datetime\] = StateSinceColumn\(\)",
    ):
        mapped_with(timed(HOUR))


def test_a_function_needs_none():
    assert mapped_with(timed(lambda thing: thing.at)).event("Expire").named_guards == ("after",)


@pytest.mark.parametrize(
    ("after", "options", "problem"),
    [
        (lambda thing: HOUR, {}, "its after returned timedelta; it has to return a SQL expression"),
        (lambda thing: thing.nothing, {}, "its after raised AttributeError"),
        (lambda thing: func.max(thing.at), {}, "its after calls the aggregate max"),
        (
            lambda thing: thing.at,
            {"type": TIMESTAMP()},
            "its after reads 'at', a TIMESTAMP, which MySQL shows in the time",
        ),
    ],
)
def test_a_function_that_gives_no_moment_is_refused(after, options, problem):
    with pytest.raises(InvalidMachine, match=problem):
        mapped_with(timed(after), **options).event("Expire")


def test_the_clock_of_the_database_has_the_time(session):
    """Not that of this process: what a statement compares is computed by the server."""
    now, ago = session.execute(select(utc_now(), utc_ago(HOUR))).one()
    assert abs((now - ago) - HOUR) <= timedelta(milliseconds=1)
