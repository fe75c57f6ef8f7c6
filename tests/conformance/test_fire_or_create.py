"""A row that may not be there yet: one upsert creates it or moves it, says which, and never touches another row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import Column, Engine, ForeignKey, Integer, String, Table, delete, func, literal_column, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.orm.exc import ObjectDeletedError

from sqlalchemy_fsm_mysql import (
    Event,
    GuardNotSatisfied,
    KeyConflict,
    Machine,
    Moved,
    StateMachineColumn,
    TokenConflict,
    Transition,
    TransitionHistory,
    TransitionNotAllowed,
    UnknownState,
    fire_key,
    fire_or_create,
    on_moved,
    remove_hook,
    replay,
    run_transaction,
)
from tests.conformance.support import Sent, stored
from tests.reference import CELLS, MOVES, STATES, machine

payable = Machine(
    initial="Open",
    events=[
        Event(
            "Pay",
            [
                Transition("Open", "Paid", guard=lambda bill, amount: bill.balance <= amount),
                Transition("Open", "Open", guard=lambda bill, amount: amount > 0),
            ],
            effect=lambda bill, amount: {"balance": bill.balance - amount},
        )
    ],
)


class Base(DeclarativeBase):
    """The tables of this module."""


class Elsewhere(DeclarativeBase):
    """What maps a table that it did not create."""


class Device(Base):
    """A text key, a second unique key, a version, and columns with defaults."""

    __tablename__ = "upsert_devices"

    id: Mapped[str] = mapped_column(String(20), primary_key=True)
    serial: Mapped[str] = mapped_column(String(20), unique=True)
    state: Mapped[str] = StateMachineColumn(machine)
    note: Mapped[str] = mapped_column(String(20), default="none")
    seen_at: Mapped[datetime | None] = mapped_column(onupdate=func.now())
    version: Mapped[int] = mapped_column()
    __mapper_args__ = {"version_id_col": version}


class DeviceTransition(TransitionHistory, Base):
    __tablename__ = "upsert_device_transitions"
    __records__ = Device.state


class Numbered(Base):
    """An AUTO_INCREMENT key."""

    __tablename__ = "upsert_numbered"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine, storage="varchar")
    steps: Mapped[int] = mapped_column(default=0)


class Plain(Base):
    """A composite key, and nothing else."""

    __tablename__ = "upsert_plain"

    tenant: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine)


class Counted(Base):
    """A column that text of its own counts up."""

    __tablename__ = "upsert_counted"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine)
    steps: Mapped[int] = mapped_column(default=0, onupdate=literal_column("steps + 1"))


class Bill(Base):
    __tablename__ = "upsert_bills"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    serial: Mapped[str] = mapped_column(String(20), unique=True)
    state: Mapped[str] = StateMachineColumn(payable)
    balance: Mapped[int]


# A table that lets any state in, and the class that maps it.
odd = Table("upsert_odd", Base.metadata, Column("id", Integer, primary_key=True), Column("state", String(20)))


class Odd(Elsewhere):
    __tablename__ = "upsert_odd"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)


class Thing(Base):
    __tablename__ = "upsert_things"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)


class Part(Thing):
    __tablename__ = "upsert_parts"

    id: Mapped[int] = mapped_column(ForeignKey(Thing.id), primary_key=True)


def device(key: str = "a", serial: str = "s-1", **options: Any) -> Device:
    return Device(id=key, serial=serial, **options)


@pytest.fixture
def committed(backend_engine: Engine, tables: None) -> Iterator[Engine]:
    """For tests that commit: the tables they write are emptied afterwards."""
    yield backend_engine
    with Session(backend_engine) as session:
        for model in (DeviceTransition, Device, Plain):
            session.execute(delete(model))
        session.commit()


@pytest.mark.parametrize("event", ["NotReady", "Ready", "Stop"])
def test_a_missing_row_is_created_where_the_event_leads_from_the_initial_state(session: Session, event: str) -> None:
    new = Plain(tenant=1, number=2)

    moved = fire_or_create(new, event, session)

    target = MOVES["Initializing", event]
    assert (moved.created, moved.source, moved.target, moved.key) == (True, "Initializing", target, (1, 2))
    assert moved.instance is new
    assert stored(session, Plain) == {(1, 2): {"tenant": 1, "number": 2, "state": target}}


@pytest.mark.parametrize(("state", "event"), CELLS, ids="-".join)
def test_an_existing_row_moves_as_by_fire(session: Session, state: str, event: str) -> None:
    session.add(Plain(tenant=1, number=2, state=state))
    session.flush()
    target = CELLS[state, event]

    if target is None:
        with pytest.raises(TransitionNotAllowed) as refused:
            fire_or_create(Plain(tenant=1, number=2), event, session)
        assert refused.value.state == state
    else:
        moved = fire_or_create(Plain(tenant=1, number=2), event, session)
        assert (moved.created, moved.source, moved.target) == (False, state, target)
    assert stored(session, Plain)[1, 2]["state"] == (target or state)


def test_an_event_that_the_initial_state_refuses_creates_nothing(session: Session) -> None:
    with pytest.raises(TransitionNotAllowed, match="'Initializing'"):
        fire_or_create(device(), "Delete", session)

    assert stored(session, Device) == {}


def test_an_existing_row_keeps_its_other_columns(session: Session) -> None:
    fire_or_create(device(note="first"), "Ready", session)
    session.expunge_all()

    moved = fire_or_create(device(serial="s-2", note="second"), "Stop", session)

    row = stored(session, Device)["a",]
    assert (row["serial"], row["note"], row["state"]) == ("s-1", "first", "Stopped")
    assert (moved.instance.serial, moved.instance.note, moved.instance.state) == ("s-1", "first", "Stopped")


def test_a_refused_row_is_left_untouched(session: Session) -> None:
    fire_or_create(device(), "Stop", session)
    fire_or_create(device(), "Delete", session)
    before = stored(session, Device)

    with pytest.raises(TransitionNotAllowed):
        fire_or_create(device(note="other"), "Ready", session)

    assert stored(session, Device) == before


def test_the_version_counts_the_moves_and_the_next_flush_goes_through(session: Session) -> None:
    new = device()
    fire_or_create(new, "Ready", session)
    created = stored(session, Device)["a",]["version"]
    new.note = "edited"
    session.flush()

    fire_or_create(device(), "Stop", session)
    new.note = "again"
    session.flush()

    assert stored(session, Device)["a",]["version"] == created + 3


@pytest.mark.parametrize("event", ["Ready", "Stop"])
def test_a_row_with_another_unique_value_is_never_moved(session: Session, event: str) -> None:
    fire_or_create(device("a", "s-1"), "Ready", session)
    before = stored(session, Device)

    with pytest.raises(KeyConflict, match="'b'"):
        fire_or_create(device("b", "s-1"), event, session)

    assert stored(session, Device) == before


def test_a_guarded_event_creates_only_where_its_guard_holds(session: Session) -> None:
    with pytest.raises(GuardNotSatisfied):
        fire_or_create(Bill(id=1, serial="b-1", balance=5), "Pay", session, amount=0)
    assert stored(session, Bill) == {}

    moved = fire_or_create(Bill(id=1, serial="b-1", balance=5), "Pay", session, amount=3)

    assert (moved.created, moved.target, moved.instance.balance) == (True, "Open", 2)


def test_a_guarded_event_moves_no_row_with_another_unique_value(session: Session) -> None:
    fire_or_create(Bill(id=1, serial="b-1", balance=5), "Pay", session, amount=3)

    with pytest.raises(KeyConflict):
        fire_or_create(Bill(id=2, serial="b-1", balance=5), "Pay", session, amount=3)

    assert stored(session, Bill)[1,]["balance"] == 2


def test_a_guarded_event_moves_an_existing_row(session: Session) -> None:
    fire_or_create(Bill(id=1, serial="b-1", balance=5), "Pay", session, amount=3)

    moved = fire_or_create(Bill(id=1, serial="other", balance=9), "Pay", session, amount=3)

    assert (moved.created, moved.target, stored(session, Bill)[1,]["balance"]) == (False, "Paid", -1)


def test_an_automatic_number_is_not_taken_for_an_answer(session: Session) -> None:
    created = fire_or_create(Numbered(id=7), "Ready", session)
    moved = fire_or_create(Numbered(id=7), "Stop", session)

    assert (created.created, moved.created, moved.source) == (True, False, "Running")


def test_text_that_counts_up_is_no_obstacle(session: Session) -> None:
    fire_or_create(Counted(id=1), "Ready", session)

    moved = fire_or_create(Counted(id=1), "Stop", session)

    assert (moved.created, moved.target) == (False, "Stopped")


def test_an_earlier_answer_on_the_connection_is_not_taken_for_this_one(session: Session) -> None:
    """MySQL leaves LAST_INSERT_ID() as it was when a row is created without an automatic number."""
    for number in range(3):
        first = fire_or_create(Plain(tenant=1, number=number), "Ready", session)
        again = fire_or_create(Plain(tenant=1, number=number), "Ready", session)
        assert (first.created, again.created) == (True, False)


@pytest.mark.servers_only
def test_a_table_with_triggers_says_the_same(session: Session, committed: Engine) -> None:
    """Triggers hide LAST_INSERT_ID(expr) from the statement's own answer."""
    with committed.begin() as connection:
        for when in ("BEFORE UPDATE", "AFTER INSERT"):
            name = f"upsert_{when.split()[0].lower()}"
            connection.execute(text(f"CREATE TRIGGER {name} {when} ON upsert_plain FOR EACH ROW SET @seen = 1"))
    try:
        created = fire_or_create(Plain(tenant=1, number=1), "Ready", session)
        moved = fire_or_create(Plain(tenant=1, number=1), "Stop", session)
        stays = fire_or_create(Plain(tenant=1, number=1), "Stop", session)
        with pytest.raises(TransitionNotAllowed):
            fire_or_create(Plain(tenant=1, number=1), "Ready", session)
        assert [created.created, moved.created, stays.created] == [True, False, False]
        assert [moved.source, stays.source] == ["Running", "Stopped"]
    finally:
        session.rollback()
        with committed.begin() as connection:
            for name in ("upsert_before", "upsert_after"):
                connection.execute(text(f"DROP TRIGGER {name}"))


@pytest.mark.servers_only
def test_it_is_one_statement_and_after_a_creation_one_look(
    session: Session, backend: str, sent: Callable[[], AbstractContextManager[Sent]]
) -> None:
    if backend == "locking":
        pytest.skip("the locking read fires first, and inserts where there is no row")
    fire_or_create(Plain(tenant=9, number=9), "Ready", session)
    numbers = []
    for new in (Plain(tenant=1, number=1), Plain(tenant=1, number=1), Numbered(id=1), Numbered(id=1)):
        session.expunge_all()
        with sent() as statements:
            fire_or_create(new, "Ready", session)
        numbers.append(statements.number)

    assert numbers == [2, 1, 1, 1]


def test_the_history_begins_with_the_creation(session: Session) -> None:
    new = device()
    created = fire_or_create(new, "Ready", session, actor="ada")
    moved = fire_or_create(device(), "Stop", session)

    records = new.history()
    assert (created.sequence, moved.sequence) == (1, 2)
    assert [(row.source, row.target, row.actor) for row in records] == [
        ("Initializing", "Running", "ada"),
        ("Running", "Stopped", None),
    ]
    assert replay(records) == "Stopped"


def test_a_replays_instance_shows_what_the_row_holds_by_now(session: Session) -> None:
    fire_or_create(device(), "Ready", session, token="create-2")
    fire_key(Device, "a", "Stop", session)
    session.expunge_all()
    again = fire_or_create(device(), "Ready", session, token="create-2")

    assert (again.replayed, again.target) == (True, "Running")
    assert again.instance.__dict__["state"] == "Stopped"
    assert again.instance in session


def test_a_replay_on_a_row_that_is_gone_has_no_instance(session: Session) -> None:
    fire_or_create(device(), "Ready", session, token="create-3")
    session.expunge_all()
    session.execute(delete(Device))
    again = fire_or_create(device(), "Ready", session, token="create-3")

    assert (again.replayed, again.instance) == (True, None)
    assert not list(session)


def test_a_token_creates_once(session: Session) -> None:
    first = fire_or_create(device(), "Ready", session, token="create-1")
    second = fire_or_create(device(), "Ready", session, token="create-1")
    with pytest.raises(TokenConflict):
        fire_or_create(device("b", "s-2"), "Ready", session, token="create-1")

    assert (first.replayed, second.replayed, second.sequence) == (False, True, 1)
    assert set(stored(session, Device)) == {("a",)}


def test_hooks_are_told_that_the_row_was_created(session: Session) -> None:
    heard: list[tuple[bool, Any]] = []

    @on_moved(Device.state)
    def hear(moved: Moved[Device], _: Session) -> None:
        heard.append((moved.created, moved.target))

    try:
        fire_or_create(device(), "Ready", session)
        fire_or_create(device(), "Stop", session)
    finally:
        remove_hook(Device.state, hear)

    assert heard == [(True, "Running"), (False, "Stopped")]


def test_an_object_that_the_session_holds_is_the_one_told(session: Session) -> None:
    held = device()
    fire_or_create(held, "Ready", session)

    moved = fire_or_create(device(), "Stop", session)

    assert moved.instance is held
    assert held.state == "Stopped"


def test_a_pending_object_is_not_inserted_besides(session: Session) -> None:
    new = device()
    session.add(new)

    moved = fire_or_create(new, "Ready", session)
    session.flush()

    assert (moved.created, new.state, len(stored(session, Device))) == (True, "Running", 1)


def test_a_stored_object_is_fired(session: Session) -> None:
    new = device()
    fire_or_create(new, "Ready", session)

    moved = fire_or_create(new, "Stop", session)

    assert (moved.created, moved.source) == (False, "Running")


def test_a_created_object_is_used_like_any_other(session: Session) -> None:
    new = device()
    fire_or_create(new, "Ready", session)

    assert (new.state, new.note) == ("Running", "none")
    assert new.fire("Stop", session).source == "Running"


def test_after_a_rollback_nothing_is_there(session: Session) -> None:
    fire_or_create(device(), "Ready", session)
    session.rollback()

    assert stored(session, Device) == {}
    assert fire_or_create(device(), "Ready", session).created


def test_after_a_savepoints_rollback_nothing_is_there(session: Session) -> None:
    new = device()
    with session.begin_nested() as savepoint:
        fire_or_create(new, "Ready", session)
        savepoint.rollback()

    assert session.get(Device, "a") is None
    with pytest.raises(ObjectDeletedError):
        _ = new.state
    assert fire_or_create(device(), "Ready", session).created


def test_a_version_of_the_objects_own_is_moved_on(session: Session) -> None:
    """Whether it was created by one statement or inserted and fired on, the next flush finds the row."""
    new = device(version=5)
    fire_or_create(new, "Ready", session)
    new.note = "mine"
    session.flush()

    assert stored(session, Device)["a",]["note"] == "mine"


def test_an_incomplete_key_is_refused_before_any_statement(
    session: Session, sent: Callable[[], AbstractContextManager[Sent]]
) -> None:
    with sent() as statements, pytest.raises(TypeError, match="number"):
        fire_or_create(Plain(tenant=1), "Ready", session)

    assert statements.number == 0


@pytest.mark.parametrize("nothing", [Plain, (1, 2), None])
def test_what_is_no_instance_is_refused(session: Session, nothing: object) -> None:
    with pytest.raises(TypeError, match="a new instance with its key is needed"):
        fire_or_create(nothing, "Ready", session)


def test_a_state_of_its_own_is_refused(session: Session) -> None:
    with pytest.raises(ValueError, match="'Running'"):
        fire_or_create(device(state="Running"), "Stop", session)


def test_a_model_of_several_tables_is_refused(session: Session) -> None:
    with pytest.raises(TypeError, match="several tables"):
        fire_or_create(Part(id=1), "Ready", session)


def test_a_row_in_an_undeclared_state_is_not_touched(session: Session) -> None:
    session.execute(odd.insert().values(id=1, state="Odd"))

    with pytest.raises(UnknownState) as unknown:
        fire_or_create(Odd(id=1), "Ready", session)

    assert unknown.value.state == "Odd"
    assert session.execute(select(odd.c.state)).scalar_one() == "Odd"


def test_two_at_once_create_one_row(committed: Engine) -> None:
    """The second waits for the first, and then finds its row. A deadlock of two insertions is run again."""

    def create(number: int) -> bool:
        def work(session: Session) -> bool:
            return fire_or_create(Plain(tenant=3, number=number), "Stop", session).created

        return run_transaction(sessionmaker(committed), work, attempts=20)

    with futures.ThreadPoolExecutor(4) as pool:
        created = list(pool.map(create, [n for n in range(6) for _ in range(4)]))

    assert created.count(True) == 6
    with Session(committed) as session:
        states = session.scalars(select(Plain.state).where(Plain.tenant == 3)).all()
    assert states == ["Stopped"] * 6


def test_every_declared_state_is_covered_by_the_cells() -> None:
    assert {state for state, _ in CELLS} == set(STATES)
