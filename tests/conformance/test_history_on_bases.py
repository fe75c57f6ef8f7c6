"""A history on a base that brings a primary key, on dataclass bases, its repr; and retention: pruning, erasing an actor."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import BigInteger, Engine, Integer, String, create_engine, delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, declared_attr, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    InvalidMachine,
    Machine,
    Stateful,
    StateMachineColumn,
    TransactionRequired,
    TransitionHistory,
    check_database,
    erase_actor,
    fire_key,
    fire_where,
    prune_history,
    replay,
    run_transaction,
)
from sqlalchemy_fsm_mysql.errors import HistoryError

ONE_DRIVER = True

machine = Machine(
    initial="new",
    events=[Event("Pay", {"new": "paid"}), Event("Back", {"paid": "new"}), Event("Ship", {"paid": "shipped"})],
)


class Base(DeclarativeBase):
    """A surrogate key for every table, as many applications have it."""

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)


class Order(Stateful, Base):
    __tablename__ = "based_orders"
    state: Mapped[str] = StateMachineColumn(machine)


class OrderTransition(TransitionHistory, Base):
    __tablename__ = "based_order_transitions"
    __records__ = "Order.state"


class DataBase(MappedAsDataclass, DeclarativeBase):
    metadata = Base.metadata


class Note(Stateful, DataBase):
    __tablename__ = "based_notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine, init=False)


class NoteTransition(TransitionHistory, DataBase):
    __tablename__ = "based_note_transitions"
    __records__ = Note.state
    why: Mapped[str | None] = mapped_column(String(20), default=None)


class Keyed(MappedAsDataclass, DeclarativeBase):
    """A dataclass base that brings a key by a function."""

    metadata = Base.metadata

    @declared_attr
    def id(cls) -> Mapped[int]:
        return mapped_column(primary_key=True, init=False)


class Paper(Stateful, Keyed):
    __tablename__ = "based_papers"
    state: Mapped[str] = StateMachineColumn(machine, init=False)


class PaperTransition(TransitionHistory, Keyed):
    __tablename__ = "based_paper_transitions"
    __records__ = "Paper.state"


@pytest.fixture
def order(session: Session) -> Order:
    order = Order()
    session.add(order)
    session.flush()
    return order


@pytest.mark.parametrize("history", [OrderTransition, PaperTransition])
def test_the_surrogate_key_is_primary_and_the_numbers_are_unique(history: Any, session: Session) -> None:
    table = history.__table__
    unique = {tuple(one.columns.keys()) for one in table.constraints if type(one).__name__ == "UniqueConstraint"}

    assert [column.name for column in table.primary_key] == ["id"]
    assert ("record_id", "sequence") in unique
    assert not table.c.record_id.nullable
    assert not table.c.sequence.nullable


def test_every_way_of_firing_writes_the_history(session: Session, order: Order) -> None:
    """One row, a key, a set, a token, and the numbers of each."""
    other = Order()
    session.add(other)
    order.fire("Pay", actor="ada", token="t1")
    assert fire_key(Order, order.id, "Back", session).sequence == 2
    assert order.fire("Pay", token="t1").replayed
    assert fire_where(Order, "Pay", session, Order.id.in_([order.id, other.id])).moved == 2

    assert [(row.sequence, row.event) for row in order.history()] == [(1, "Pay"), (2, "Back"), (3, "Pay")]
    assert [(row.sequence, row.event) for row in other.history()] == [(1, "Pay")]
    assert replay(order.history()) == "paid"
    ids = session.scalars(select(OrderTransition.id)).all()
    assert len(set(ids)) == 4


def test_the_database_refuses_a_number_twice(session: Session, order: Order) -> None:
    order.fire("Pay")
    (row,) = order.history()
    again = OrderTransition(record_id=row.record_id, sequence=1, event="Pay", source="new", target="paid", at=row.at)

    with pytest.raises(IntegrityError), session.begin_nested():
        session.add(again)
        session.flush()


def test_the_doctor_finds_nothing_wrong(session: Session) -> None:
    found = [one for one in check_database(Order.state, session.connection()) if one.severity == "error"]

    assert [one for one in found if "history" in one.kind] == []


@pytest.mark.parametrize("model", [Order, Note, Paper])
def test_a_history_row_shows_itself_without_sql(session: Session, model: Any) -> None:
    row = model(id=7) if model is Note else model()
    session.add(row)
    row.fire("Pay")
    (entry,) = row.history()
    shown = f"record_id={row.id}, sequence=1, event='Pay', source='new', target='paid')"

    assert repr(entry) == f"{model.__name__}Transition({shown}"
    session.expire(entry)
    assert repr(entry) == f"{model.__name__}Transition()"


class Text(DeclarativeBase):
    """Keys that Python makes."""

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)


class Plain(DeclarativeBase):
    """Keys that nothing makes."""

    id: Mapped[str] = mapped_column(String(20), primary_key=True)


@pytest.mark.parametrize("base, why", [(Text, "Python makes, once"), (Plain, "neither a default nor AUTO_INCREMENT")])
def test_a_key_that_the_database_does_not_make_is_refused(base: type[DeclarativeBase], why: str) -> None:
    class Owner(Stateful, base):  # type: ignore[valid-type, misc]
        __tablename__ = "based_owners"
        state: Mapped[str] = StateMachineColumn(machine)

    with pytest.raises(InvalidMachine, match=rf"OwnerTransition inherits the primary key 'id'.*{why}"):

        class OwnerTransition(TransitionHistory, base):  # type: ignore[valid-type, misc]
            __tablename__ = "based_owner_transitions"
            __records__ = Owner.state


def test_an_attribute_of_the_key_may_be_annotated(session: Session) -> None:
    """For type checkers: record_id: Mapped[int]."""

    class Local(DeclarativeBase):
        pass

    class Thing(Stateful, Local):
        __tablename__ = "based_things"
        id: Mapped[int] = mapped_column(primary_key=True)
        state: Mapped[str] = StateMachineColumn(machine)

    class ThingTransition(TransitionHistory[str], Local):
        __tablename__ = "based_thing_transitions"
        __records__ = "Thing.state"
        record_id: Mapped[int]

    assert [column.name for column in ThingTransition.__table__.primary_key] == ["record_id", "sequence"]


@pytest.mark.servers_only
def test_a_counting_history_is_not_sent_in_a_packet(database: Engine) -> None:
    """The packet's answer has the AUTO_INCREMENT key, and not the number: the fire is refused, not numbered wrongly."""
    options = {"isolation_level": "AUTOCOMMIT", "fsm_one_packet": True}
    url = database.url
    engine = create_engine(url, connect_args={"client_flag": 1 << 16} if url.get_driver_name() == "pymysql" else {})
    Base.metadata.create_all(engine)
    try:
        with engine.connect().execution_options(**options) as connection:
            connection.execute(Order.__table__.insert(), {"id": 4711})
            with pytest.raises(TransactionRequired, match="AUTO_INCREMENT"):
                fire_key(Order, 4711, "Pay", connection)
            connection.execute(Order.__table__.delete())
    finally:
        engine.dispose()


# --- retention


@pytest.fixture
def old(session: Session) -> tuple[Order, Order]:
    """Two orders: the first has five moves, of which three are a year old; the second has one, which is as old."""
    orders = Order(), Order()
    session.add_all(orders)
    for event in ("Pay", "Back", "Pay", "Back", "Pay"):
        orders[0].fire(event, actor="ada", details={"by": "ada"})
    orders[1].fire("Pay", actor="Ada")
    first, second = (order.id for order in orders)
    year_ago = session.scalar(select(OrderTransition.at).limit(1)) - timedelta(days=365)
    is_old = (OrderTransition.record_id == first) & (OrderTransition.sequence <= 3) | (
        OrderTransition.record_id == second
    )
    session.execute(
        update(OrderTransition).where(is_old).values(at=year_ago), execution_options={"synchronize_session": False}
    )
    session.expire_all()
    return orders


def test_pruning_leaves_the_last_history_row_of_each_row(session: Session, old: tuple[Order, Order]) -> None:
    assert prune_history(Order.state, session, older_than=timedelta(days=300)) == 3
    assert prune_history(Order.state, session, older_than=timedelta(days=300)) == 0

    assert [row.sequence for row in old[0].history()] == [4, 5]
    assert [row.sequence for row in old[1].history()] == [1]
    assert fire_key(Order, old[0].id, "Back", session).sequence == 6
    assert fire_key(Order, old[1].id, "Back", session).sequence == 2
    assert replay(old[0].history(), pruned=True) == "new"
    with pytest.raises(HistoryError, match="its number is 4, and 1 was expected"):
        replay(old[0].history())


def test_pruning_stops_at_its_limit(session: Session, old: tuple[Order, Order]) -> None:
    assert prune_history(Order.state, session, older_than=timedelta(0), limit=2) == 2
    assert [row.sequence for row in old[0].history()] == [3, 4, 5]


def test_an_actor_is_erased_by_the_exact_name(session: Session, old: tuple[Order, Order]) -> None:
    """'Ada' is another person than 'ada', whatever the collation."""
    assert erase_actor(Order.state, "ada", session, replacement="erased", details=True, limit=2) == 2
    assert erase_actor(Order.state, "ada", session, details=True) == 3
    assert erase_actor(Order.state, "ada", session, details=True) == 0

    rows = old[0].history()
    assert [row.actor for row in rows] == ["erased", "erased", None, None, None]
    assert {row.details for row in rows} == {None}
    assert [row.actor for row in old[1].history()] == ["Ada"]
    assert replay(rows) == "paid"


def test_a_deleted_row_leaves_its_history(session: Session, old: tuple[Order, Order]) -> None:
    """A row that is made again with the same key continues the numbers."""
    key = old[1].id
    session.execute(delete(Order).where(Order.id == key))
    session.expunge(old[1])
    assert session.scalars(select(OrderTransition.sequence).where(OrderTransition.record_id == key)).all() == [1]

    again = Order(id=key)
    session.add(again)
    session.flush()
    assert again.fire("Pay").sequence == 2


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda s: prune_history(Order.state, s, older_than=3), "older_than=3; it must be a timedelta"),
        (lambda s: prune_history(Order.state, s, older_than=timedelta(-1)), "cannot be negative"),
        (
            lambda s: prune_history(Order.state, s, older_than=timedelta(), limit=0),
            "limit=0; it must be a number of rows",
        ),
        (
            lambda s: prune_history(Order.state, s, older_than=timedelta(), limit="x"),
            "limit='x'; it must be a number of rows",
        ),
        (lambda s: prune_history("state", s, older_than=timedelta()), "is not a state column"),
        (lambda s: erase_actor(Order.state, None, s), "actor=None; it must be a string"),
        (lambda s: erase_actor(Order.state, "a", s, replacement=3), "replacement=3; it must be a string"),
        (lambda s: erase_actor(Order.state, "a", s, replacement="a"), "is the name itself"),
        (lambda s: erase_actor(Order.state, "a", s, replacement="a" * 256), "longer than 255"),
    ],
)
def test_wrong_arguments_are_refused(session: Session, call: Any, error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        call(session)


def test_units_of_work_prune_a_large_history(database: Any) -> None:
    """As the docstring shows it, on committed rows."""
    from sqlalchemy.orm import sessionmaker

    Base.metadata.create_all(database)
    sessions = sessionmaker(database)
    try:
        with sessions.begin() as session:
            order = Order()
            session.add(order)
            for event in ("Pay", "Back", "Pay", "Back"):
                order.fire(event)
            key = order.id
        while run_transaction(sessions, lambda s: prune_history(Order.state, s, older_than=timedelta(0), limit=1)):
            pass
        with sessions() as session:
            assert [row.sequence for row in session.get_one(Order, key).history()] == [4]
    finally:
        with sessions.begin() as session:
            session.execute(delete(OrderTransition))
            session.execute(delete(Order))
