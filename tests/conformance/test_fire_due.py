"""``fire_due``: every timed event on the rows that are due, oldest first, each row once whatever the number of servers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from threading import Thread

import pytest
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Engine,
    Index,
    SmallInteger,
    String,
    delete,
    func,
    insert,
    literal,
    literal_column,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from sqlalchemy_fsm_mysql import (
    Event,
    Machine,
    StateMachineColumn,
    StateSinceColumn,
    TransactionRequired,
    Transition,
    TransitionHistory,
    UnknownEvent,
    fire_due,
    on_moved,
    remove_hook,
    run_transaction,
)
from sqlalchemy_fsm_mysql.orm import lanes
from sqlalchemy_fsm_mysql.orm.since import Timestamp
from sqlalchemy_fsm_mysql.sql.clock import utc_ago

HOUR, MINUTE, DAY = timedelta(hours=1), timedelta(minutes=1), timedelta(days=1)


class Base(DeclarativeBase):
    """The tables of this module."""


machine = Machine(
    initial="pending",
    events=[
        Event("Pay", {"pending": "paid"}),
        Event("Expire", {("pending", "paid"): "expired"}, after=HOUR),
        Event("Archive", {"expired": "archived"}, after=DAY),
        Event(
            "Remind",
            [Transition("pending", "pending", guard=lambda order: order.reminders < 3)],
            effect=lambda order: {"reminders": order.reminders + 1},
            after=lambda order: order.due_at,
        ),
    ],
)


class Order(Base):
    __tablename__ = "due_orders"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine)
    state_since: Mapped[datetime] = StateSinceColumn()
    due_at: Mapped[datetime | None] = mapped_column(Timestamp())
    reminders: Mapped[int] = mapped_column(default=0)
    __table_args__ = (Index("ix_due_orders", "state", "state_since"), Index("ix_due_orders_at", "state", "due_at"))


class OrderTransition(TransitionHistory, Base):
    __tablename__ = "due_order_transitions"
    __records__ = "Order.state"


class Timer(Base):
    """Timed events of two states, and no history."""

    __tablename__ = "due_timers"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="on", events=[Event("Ring", {("on", "snoozed"): "rung"}, after=HOUR)], initial_states=["snoozed"]
        )
    )
    state_since: Mapped[datetime] = StateSinceColumn()
    note: Mapped[str] = mapped_column(String(10), default="")
    __table_args__ = (Index("ix_due_timers", "state", "state_since"),)


class Plain(Base):
    """No timed event."""

    __tablename__ = "due_plain"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(Machine(initial="a", events=[Event("Go", {"a": "b"})]))


TABLE = Order.__table__


def put(session: Session, key: int, state: str = "pending", ago: timedelta = 2 * HOUR, due: timedelta | None = None):
    """A row that has been in its state for *ago*, and whose reminder was due *due* ago."""
    session.execute(
        insert(TABLE).values(
            id=key, state=state, state_since=utc_ago(ago), due_at=literal(None) if due is None else utc_ago(due)
        )
    )


def states(session: Session) -> dict[int, str]:
    return {key: state for key, state in session.execute(select(TABLE.c.id, TABLE.c.state))}  # noqa: C416 - no dict takes Rows


@pytest.fixture
def heard() -> Iterator[list[tuple[int, str]]]:
    """The keys and events that a hook hears of."""
    moves: list[tuple[int, str]] = []

    @on_moved(Order.state)
    def hear(moved, session):
        moves.append((moved.key, moved.event))

    yield moves
    remove_hook(Order.state, hear)


def test_due_rows_move_and_others_do_not(session):
    put(session, 1)
    put(session, 2, "paid", 3 * HOUR)
    put(session, 3, "expired", 2 * DAY)
    put(session, 4, ago=HOUR - MINUTE)
    put(session, 5, "archived", 9 * DAY)

    moved = fire_due(Order, session)

    assert moved.by_transition == {
        ("pending", "expired"): 1,
        ("paid", "expired"): 1,
        ("expired", "archived"): 1,
    }
    assert (moved.moved, moved.event) == (3, "Expire, Archive, Remind")
    assert states(session) == {1: "expired", 2: "expired", 3: "archived", 4: "pending", 5: "archived"}
    assert not fire_due(Order, session)


def test_history_and_hooks(session, heard):
    for key in (1, 2):
        put(session, key, ago=key * 2 * HOUR)
    fire_due(Order, session, actor="worker", details={"run": 1})

    assert heard == [(2, "Expire"), (1, "Expire")]
    rows = session.scalars(select(OrderTransition).order_by(OrderTransition.record_id)).all()
    assert [(row.record_id, row.event, row.source, row.target, row.actor) for row in rows] == [
        (1, "Expire", "pending", "expired", "worker"),
        (2, "Expire", "pending", "expired", "worker"),
    ]
    assert rows[0].details == {"run": 1}


def test_instances_show_it(session):
    put(session, 1)
    order = session.get_one(Order, 1)
    before = order.state_since
    fire_due(Order, session)
    assert order.state == "expired"
    assert order.state_since > before


def test_one_event_and_criteria(session):
    put(session, 1)
    put(session, 2)
    put(session, 3, "expired", 2 * DAY)
    assert fire_due(Order, session, Order.id > 1, event="Expire").event == "Expire"
    assert states(session) == {1: "pending", 2: "expired", 3: "expired"}


def test_a_limit_takes_the_oldest(session, heard):
    for key in range(1, 7):
        put(session, key, ago=key * HOUR)
    assert [fire_due(Order, session, limit=2, event="Expire").moved for _ in range(4)] == [2, 2, 2, 0]
    assert [key for key, _ in heard] == [6, 5, 4, 3, 2, 1]


def test_no_event_waits_for_the_end_of_another(session, heard, monkeypatch):
    """One event has always more due rows than a call may move, and the other's rows move all the same."""
    monkeypatch.setattr(lanes, "BATCH", 2)
    for key in range(1, 9):
        put(session, key, ago=9 * DAY)
    put(session, 20, "expired", 2 * DAY)
    put(session, 21, "expired", 2 * DAY)

    fire_due(Order, session, limit=4)
    assert Counter(event for _, event in heard) == {"Expire": 2, "Archive": 2}


def test_a_limit_of_one_begins_with_the_longest_overdue(session, heard):
    """Whatever the order of the events: overdue by 23 hours goes before overdue by one, and that before 30 minutes."""
    put(session, 1, ago=timedelta(minutes=90))
    put(session, 2, "expired", DAY + HOUR)
    put(session, 3, "paid", 24 * HOUR)
    for _ in range(3):
        assert fire_due(Order, session, limit=1).moved == 1
    assert heard == [(3, "Expire"), (2, "Archive"), (1, "Expire")]


def test_a_row_that_stays_due_does_not_starve_the_others(session, heard):
    """A call of one row at a time meets the row that stays due, then the others, then that row again."""
    put(session, 1, ago=MINUTE, due=9 * DAY)
    put(session, 2, ago=2 * HOUR)
    put(session, 3, "expired", 2 * DAY)
    for _ in range(4):
        assert fire_due(Order, session, limit=1).moved == 1
    assert heard == [(1, "Remind"), (3, "Archive"), (2, "Expire"), (1, "Remind")]


class Account(Base):
    """An event whose guard or effect fails on some rows, and a unique key that its effect can break."""

    __tablename__ = "due_accounts"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="open",
            events=[
                Event(
                    "Close",
                    [Transition("open", "closed", guard=lambda account: func.abs(account.amount) < 100)],
                    effect=lambda account: {"slot": account.wanted},
                    after=HOUR,
                )
            ],
        )
    )
    state_since: Mapped[datetime] = StateSinceColumn()
    amount: Mapped[int] = mapped_column(BigInteger, default=1)
    wanted: Mapped[int] = mapped_column(default=0)
    slot: Mapped[int | None] = mapped_column(SmallInteger, CheckConstraint("slot < 1000"), unique=True)
    __table_args__ = (Index("ix_due_accounts", "state", "state_since"),)


UNCOUNTABLE = -(2**63)  # every server and SQLite refuse to compute its abs()


@pytest.mark.parametrize("batch", [1, 7, 500])
@pytest.mark.parametrize("limit", [None, 3])
def test_a_poisoned_row_is_reported_and_the_others_move(session, monkeypatch, batch, limit):
    """An effect that breaks a unique key, a CHECK, and the range of the column: those rows stay, all others move."""
    monkeypatch.setattr(lanes, "BATCH", batch)
    table = Account.__table__
    wanted = {key: key for key in range(1, 21)} | {4: 3, 9: 2_000, 13: 3}
    since = {key: utc_ago(2 * HOUR + timedelta(minutes=60 - key)) for key in wanted}
    for key, slot in wanted.items():
        session.execute(insert(table).values(id=key, state="open", state_since=since[key], wanted=slot))

    errors, moved = {}, 0
    for _ in range(1 if limit is None else 9):
        rows = fire_due(Account, session, limit=limit)
        moved += rows.moved
        errors |= {error.key: error for error in rows.errors}

    assert moved == 17
    assert {key: type(error).__name__ for key, error in errors.items()} == {
        4: "UniqueViolation",
        9: "RowFailed",
        13: "UniqueViolation",
    }
    assert errors[9].event == "Close"
    assert errors[9].__cause__ is not None
    assert str(errors[9]).startswith(
        "due_accounts 9: a guard, an effect, a hook or a constraint failed while 'Close' was fired"
    )
    left = session.scalars(select(table.c.id).where(table.c.state == "open").order_by(table.c.id)).all()
    assert left == [4, 9, 13]


@pytest.mark.parametrize("batch", [1, 3, 500])
def test_a_row_whose_guard_fails_is_reported_and_the_others_move(session, monkeypatch, batch):
    """The SELECT that locks the rows fails on row 4, and with it every statement that judges that row."""
    monkeypatch.setattr(lanes, "BATCH", batch)
    amounts = dict.fromkeys(range(1, 11), 1) | {4: UNCOUNTABLE, 7: 500}
    for key, amount in amounts.items():
        session.execute(
            insert(Account.__table__).values(
                id=key, state="open", state_since=utc_ago((20 - key) * HOUR), amount=amount, wanted=key
            )
        )
    rows = fire_due(Account, session)

    assert [(error.key, type(error).__name__) for error in rows.errors] == [(4, "RowFailed")]
    assert rows.moved == 8
    table = Account.__table__
    assert session.scalars(select(table.c.id).where(table.c.state == "open").order_by(table.c.id)).all() == [4, 7]
    assert fire_due(Account, session, limit=1).moved == 0


def test_a_statement_that_fails_on_every_row_is_an_error(session):
    """A missing column is no row's fault: the call raises, and nothing is tried row by row."""
    session.execute(insert(Timer.__table__).values(id=1, state="on", state_since=utc_ago(2 * HOUR)))
    with pytest.raises(DBAPIError):
        fire_due(Timer, session, literal_column("no_such_column") == 1)


def test_a_failing_row_is_told_in_json(session):
    table = Account.__table__
    session.execute(insert(table).values(id=1, state="open", state_since=utc_ago(2 * HOUR), wanted=5_000))
    told = fire_due(Account, session).to_dict()
    assert told["moved"] == 0
    assert [(one["key"], one["event"]) for one in told["errors"]] == [(1, "Close")]


@pytest.mark.parametrize("batch", [1, 2, 500])
def test_a_row_that_stays_due_is_fired_once_a_call(session, heard, monkeypatch, batch):
    monkeypatch.setattr(lanes, "BATCH", batch)
    for key in range(1, 6):
        put(session, key, ago=MINUTE, due=HOUR)
    assert [fire_due(Order, session).moved for _ in range(4)] == [5, 5, 5, 0]
    assert Counter(heard) == {(key, "Remind"): 3 for key in range(1, 6)}


def test_many_batches(session, monkeypatch):
    monkeypatch.setattr(lanes, "BATCH", 3)
    for key in range(1, 24):
        put(session, key, ("pending", "paid")[key % 2], 2 * HOUR)
    assert fire_due(Order, session).by_transition == {("pending", "expired"): 11, ("paid", "expired"): 12}


def test_wrong_calls(session):
    with pytest.raises(ValueError, match="limit=0; it must be a number of rows"):
        fire_due(Order, session, limit=0)
    with pytest.raises(
        ValueError, match="event 'Pay' of Order.state has no after=, so it is never due: use fire_where"
    ):
        fire_due(Order, session, event="Pay")
    with pytest.raises(TypeError, match="Plain has no timed event"):
        fire_due(Plain, session)
    with pytest.raises(UnknownEvent):
        fire_due(Order, session, event="Nothing")


def test_autocommit_keeps_no_lock(backend_engine, tables):
    with (
        backend_engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        Session(connection) as session,
        pytest.raises(TransactionRequired),
    ):
        fire_due(Order, session)


@pytest.fixture
def committed(backend_engine: Engine, tables: None) -> Iterator[Engine]:
    """The engine, for tests that commit."""
    yield backend_engine
    with backend_engine.begin() as connection:
        connection.execute(delete(OrderTransition.__table__))
        connection.execute(delete(TABLE))


def test_rows_that_others_have_locked_are_passed_over(committed):
    if committed.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    with Session(committed) as mine, Session(committed) as theirs:
        for key in range(1, 5):
            put(mine, key, ago=key * 2 * HOUR)
        mine.commit()
        assert fire_due(Order, theirs, limit=2).moved == 2
        assert fire_due(Order, mine).moved == 2
        theirs.rollback()
        mine.commit()
        assert states(mine) == {1: "expired", 2: "expired", 3: "pending", 4: "pending"}


def test_the_search_makes_no_snapshot(committed):
    """Under REPEATABLE READ, MariaDB refuses to lock a row that has changed since a plain read (error 1020)."""
    if committed.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    strict = committed.execution_options(isolation_level="REPEATABLE READ")
    table = Timer.__table__
    with Session(strict) as mine, Session(committed) as theirs:
        theirs.execute(insert(table).values(id=1, state="on", state_since=utc_ago(9 * HOUR)))
        theirs.execute(insert(table).values(id=2, state="snoozed", state_since=utc_ago(3 * HOUR)))
        theirs.execute(insert(table).values(id=3, state="snoozed", state_since=utc_ago(2 * HOUR)))
        theirs.commit()

        @on_moved(Timer.state, source="on")
        def change_another(moved, session):
            theirs.execute(update(table).where(table.c.id == 3).values(note="changed"))
            theirs.commit()

        try:
            assert fire_due(Timer, mine).moved == 3
            mine.commit()
        finally:
            remove_hook(Timer.state, change_another)
            mine.rollback()
            theirs.execute(delete(table))
            theirs.commit()


def test_each_row_once_with_any_number_of_servers(committed):
    rows, workers = 300, 4
    with Session(committed) as session:
        for key in range(1, rows + 1):
            put(session, key, ("pending", "paid")[key % 2], 2 * HOUR + timedelta(seconds=key))
        session.commit()
    counts: list[int] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            while True:
                # docs/guide/time.md: the servers may end one of two workers by a deadlock.
                moved = run_transaction(
                    sessionmaker(committed), lambda session: fire_due(Order, session, limit=20).moved, attempts=20
                )
                counts.append(moved)
                with Session(committed) as session:
                    if not moved and not session.scalar(
                        select(func.count()).select_from(TABLE).where(TABLE.c.state.in_(["pending", "paid"]))
                    ):
                        return
        except BaseException as error:  # noqa: BLE001 - told by the test
            errors.append(error)

    threads = [Thread(target=work) for _ in range(1 if committed.dialect.name == "sqlite" else workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert errors == []
    assert sum(counts) == rows
    with Session(committed) as session:
        assert Counter(states(session).values()) == {"expired": rows}
        assert session.scalar(select(func.count()).select_from(OrderTransition)) == rows


def test_a_batch_reads_about_as_many_rows_as_it_moves(committed):
    """By the server's own counters: 30 rows are due, and 3,000 are not."""
    if committed.dialect.name == "sqlite":
        pytest.skip("SQLite counts no reads")
    with Session(committed) as session:
        session.execute(insert(TABLE), [{"id": key, "state": "pending"} for key in range(1, 3_001)])
        session.execute(update(TABLE).where(TABLE.c.id <= 30).values(state_since=utc_ago(2 * HOUR)))
        session.commit()
        session.connection().exec_driver_sql("ANALYZE TABLE due_orders").all()
        fire_due(Order, session, Order.id < 0)  # builds the statements
        session.commit()

        def reads() -> int:
            status = session.connection().exec_driver_sql("SHOW SESSION STATUS LIKE 'Handler_read%%'")
            return sum(int(number) for _, number in status)

        before = reads()
        own = reads() - before
        before = reads()
        assert fire_due(Order, session, event="Expire").moved == 30
        assert reads() - before - own < 30 * 12
