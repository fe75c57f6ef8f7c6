"""A history row exists if and only if the transition was committed, whichever function fired."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from concurrent import futures
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import Engine, String, create_engine, func, inspect, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, mapped_column, registry

from sqlalchemy_fsm_mysql import (
    InvalidMachine,
    RowNotFound,
    StateMachineColumn,
    TooManyRows,
    TransactionRequired,
    TransitionHistory,
    TransitionNotAllowed,
    claim,
    fire_key,
    fire_where,
    force_state,
    replay,
    try_fire_key,
)
from sqlalchemy_fsm_mysql.core import sets
from sqlalchemy_fsm_mysql.errors import HistoryError
from tests.conformance.history_models import (
    Base,
    Device,
    Light,
    LinkChange,
    Order,
    OrderTransition,
    Parcel,
    ParcelTransition,
    Payment,
    PaymentTransition,
    Plain,
    PowerChange,
    Signal,
    SignalTransition,
    Truck,
    Vehicle,
    VehicleTransition,
)
from tests.conformance.session_support import create
from tests.conformance.session_support import stored as stored_row
from tests.conformance.support import Sent, counting
from tests.reference import machine
from tests.servers import make_engine


def steps(engine: Engine, key: int) -> list[tuple[int, str, str, str]]:
    """The committed history of an order, read by plain SQL."""
    history = OrderTransition.__table__.c
    query = select(history.sequence, history.event, history.source, history.target)
    with engine.connect() as connection:
        found = connection.execute(query.where(history.record_id == key).order_by(history.sequence))
        return [tuple(row) for row in found]


def new_orders(engine: Engine, number: int, **values: Any) -> list[int]:
    return [create(engine, Order, **values) for _ in range(number)]


def sent_by(session: Session, work: Callable[[], Any]) -> int:
    """How many statements the database gets from *work*."""
    with counting(session.connection()) as sent:
        work()
    assert isinstance(sent, Sent)
    return sent.number


# --- every function that fires


def by_fire(session: Session, key: int) -> None:
    session.get_one(Order, key).fire("Ready", session)


def by_fire_key(session: Session, key: int) -> None:
    fire_key(Order, key, "Ready", session)


def by_try_fire_key(session: Session, key: int) -> None:
    assert try_fire_key(Order, key, "Ready", session)


def by_fire_where(session: Session, key: int) -> None:
    assert fire_where(Order, "Ready", session, Order.id == key)


def by_batches(session: Session, key: int) -> None:
    assert fire_where(Order, "Ready", session, Order.id == key, batch_size=1000)


def by_max_rows(session: Session, key: int) -> None:
    assert fire_where(Order, "Ready", session, Order.id == key, max_rows=1)


def by_claim(session: Session, key: int) -> None:
    assert claim(Order, "Ready", session, Order.id == key, limit=1)


DOORS = [by_fire, by_fire_key, by_try_fire_key, by_fire_where, by_batches, by_max_rows, by_claim]
every_door = pytest.mark.parametrize("door", DOORS)


@every_door
def test_whatever_fires_writes_the_history(mine: Session, database: Engine, door: Callable[..., None]) -> None:
    key = create(database, Order)
    door(mine, key)
    mine.commit()

    assert steps(database, key) == [(1, "Ready", "Initializing", "Running")]


@every_door
def test_a_rolled_back_move_leaves_no_history(mine: Session, database: Engine, door: Callable[..., None]) -> None:
    key = create(database, Order)
    door(mine, key)
    mine.rollback()

    assert steps(database, key) == []


@every_door
def test_a_savepoints_rollback_takes_its_history_along_and_the_number_is_used_again(
    mine: Session, database: Engine, door: Callable[..., None]
) -> None:
    key = create(database, Order)
    mine.execute(update(Order.__table__).where(Order.id == key).values(note="SQLite's savepoints need a transaction"))
    savepoint = mine.begin_nested()
    door(mine, key)
    savepoint.rollback()
    fire_key(Order, key, "Stop", mine)
    mine.commit()

    assert steps(database, key) == [(1, "Stop", "Initializing", "Stopped")]


def test_a_refused_event_leaves_no_history(mine: Session, database: Engine) -> None:
    key = create(database, Order, state="Deleted")
    with pytest.raises(TransitionNotAllowed):
        fire_key(Order, key, "Ready", mine)
    assert not fire_where(Order, "Ready", mine, Order.id == key)
    assert claim(Order, "Ready", mine, Order.id == key, limit=5) == []
    mine.commit()

    assert steps(database, key) == []


def test_an_event_on_a_missing_row_leaves_no_history(mine: Session, database: Engine) -> None:
    with pytest.raises(RowNotFound):
        fire_key(Order, 2**31 - 1, "Ready", mine)
    mine.commit()

    assert steps(database, 2**31 - 1) == []


def test_too_many_rows_leave_no_history(mine: Session, database: Engine) -> None:
    keys = new_orders(database, 3)
    with pytest.raises(TooManyRows):
        fire_where(Order, "Ready", mine, Order.id.in_(keys), max_rows=2)
    mine.commit()

    assert [steps(database, key) for key in keys] == [[]] * 3


def test_a_transition_back_to_its_own_state_is_recorded(mine: Session, database: Engine) -> None:
    key = create(database, Order)
    fire_key(Order, key, "NotReady", mine)
    mine.commit()

    assert steps(database, key) == [(1, "NotReady", "Initializing", "Initializing")]


def test_the_outcome_tells_the_number(mine: Session, database: Engine) -> None:
    key = create(database, Order)

    assert [fire_key(Order, key, event, mine).sequence for event in ("Ready", "NotReady", "Stop")] == [1, 2, 3]


def test_rows_of_different_sources_are_recorded_each_with_its_own(mine: Session, database: Engine) -> None:
    fresh, running, deleted = (create(database, Order, state=state) for state in ("Initializing", "Running", "Deleted"))
    moved = fire_where(Order, "Stop", mine, Order.id.in_([fresh, running, deleted]), actor="night shift")
    mine.commit()

    assert moved.by_transition == {("Initializing", "Stopped"): 1, ("Running", "Stopped"): 1}
    assert steps(database, fresh) == [(1, "Stop", "Initializing", "Stopped")]
    assert steps(database, running) == [(1, "Stop", "Running", "Stopped")]
    assert steps(database, deleted) == []


def test_numbers_go_on_over_one_row_and_many(mine: Session, database: Engine) -> None:
    key = create(database, Order)
    fire_key(Order, key, "Ready", mine)
    fire_where(Order, "NotReady", mine, Order.id == key)
    claim(Order, "Ready", mine, Order.id == key, limit=1)
    force_state(mine.get_one(Order, key), "Deleted", mine)
    mine.commit()

    assert [step[0] for step in steps(database, key)] == [1, 2, 3, 4]
    assert "Deleted" == replay(mine.get_one(Order, key).history(mine)) == stored_row(database, Order, key)


@pytest.mark.parametrize(
    "fire",
    [
        lambda session, key, said: fire_key(Order, key, "Ready", session, **said),
        lambda session, key, said: fire_where(Order, "Ready", session, Order.id == key, **said),
        lambda session, key, said: claim(Order, "Ready", session, Order.id == key, limit=1, **said),
        lambda session, key, said: force_state(session.get_one(Order, key), "Running", session, **said),
    ],
    ids=["fire_key", "fire_where", "claim", "force_state"],
)
def test_actor_and_details_are_kept_with_the_transition(
    mine: Session, database: Engine, fire: Callable[..., Any]
) -> None:
    key = create(database, Order)
    fire(mine, key, {"actor": "Zoë", "details": {"why": ["paid", 3, None]}})
    mine.commit()
    (record,) = mine.get_one(Order, key).history(mine)

    assert (record.actor, record.details, record.token) == ("Zoë", {"why": ["paid", 3, None]}, None)


def test_without_details_the_column_is_null_and_not_json_null(mine: Session, database: Engine) -> None:
    key = create(database, Order)
    fire_key(Order, key, "Ready", mine)

    history = OrderTransition.__table__.c
    assert (
        mine.scalar(
            select(func.count()).where(history.record_id == key, history.details.is_(None), history.actor.is_(None))
        )
        == 1
    )


# --- what it costs


def test_a_recorded_fire_is_two_statements(mine: Session, database: Engine, backend: str) -> None:
    key = create(database, Order)
    # SQLite: BEGIN, lock, read, write, number, record.
    expected = 6 if database.dialect.name == "sqlite" else {"own": 2, "locking": 4}[backend]

    assert expected == sent_by(mine, lambda: fire_key(Order, key, "Ready", mine))


@pytest.mark.parametrize("sweep", [fire_where, claim])
def test_a_set_is_recorded_in_a_constant_number_of_statements(
    mine: Session, database: Engine, sweep: Callable[..., Any]
) -> None:
    """As many for forty rows as for two: what counts are the branches taken, here two."""
    limits = {"limit": 100} if sweep is claim else {}

    def fire(number: int) -> int:
        keys = [*new_orders(database, number // 2), *new_orders(database, number // 2, state="Running")]
        number_sent = sent_by(mine, lambda: sweep(Order, "Stop", mine, Order.id.in_(keys), **limits))
        mine.rollback()
        return number_sent

    assert fire(2) == fire(40) <= 10


def test_more_rows_than_a_chunk_are_recorded_too(
    mine: Session, database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sets, "CHUNK", 3)
    keys = new_orders(database, 8)
    moved = fire_where(Order, "Ready", mine, Order.id.in_(keys))
    mine.commit()

    assert moved.moved == 8
    assert [len(steps(database, key)) for key in keys] == [1] * 8


# --- keys and types


def test_a_composite_key_is_copied_part_by_part_with_its_types(mine: Session, database: Engine) -> None:
    depot, number = create(database, Parcel, depot="Zürich")
    fire_key(Parcel, (depot, number), "Ready", mine)
    mine.commit()
    (record,) = mine.get_one(Parcel, (depot, number)).history(mine)

    assert (depot, number, 1) == (record.record_depot, record.record_number, record.sequence)
    assert [part.name for part in inspect(ParcelTransition).primary_key] == [
        "record_depot",
        "record_number",
        "sequence",
    ]


def test_rows_of_a_composite_key_are_numbered_apart(mine: Session, database: Engine) -> None:
    for number in (1, 2):
        mine.add(Parcel(depot="numbered apart", number=number))
    mine.flush()
    fire_where(Parcel, "Ready", mine, Parcel.depot == "numbered apart")
    fire_where(Parcel, "Stop", mine, Parcel.depot == "numbered apart")

    for number in (1, 2):
        assert [record.sequence for record in mine.get_one(Parcel, ("numbered apart", number)).history(mine)] == [1, 2]


def test_a_text_key_of_another_name_and_enum_states_come_back_as_they_were(mine: Session, database: Engine) -> None:
    signal = Signal(name="north gate")
    mine.add(signal)
    signal.fire("Go", mine)
    signal.fire("Halt", mine)
    records = signal.history(mine)

    assert [(row.source, row.target) for row in records] == [(Light.RED, Light.GREEN), (Light.GREEN, Light.RED)]
    assert [row.record_name for row in records] == ["north gate"] * 2
    assert Light.RED is replay(records)
    assert isinstance(SignalTransition.__table__.c.record_name.type, String)


def test_a_subclass_is_recorded_in_the_history_of_its_parent(mine: Session, database: Engine) -> None:
    key = create(database, Truck)
    truck = mine.get_one(Truck, key)
    truck.fire("Ready", mine)
    fire_key(Vehicle, key, "Stop", mine)
    fire_where(Truck, "Delete", mine, Truck.id == key)

    assert [record.event for record in truck.history(mine)] == ["Ready", "Stop", "Delete"]
    assert {VehicleTransition} == {type(record) for record in truck.history(mine)}


def test_two_machines_of_a_model_keep_two_histories(mine: Session, database: Engine) -> None:
    device = mine.get_one(Device, create(database, Device))
    device.fire("Switch", mine)
    device.fire("Connect", mine)
    device.fire("Switch", mine)

    assert [(PowerChange, 1), (PowerChange, 2)] == [
        (type(row), row.sequence) for row in device.history(mine, column="power")
    ]
    assert [(LinkChange, 1)] == [(type(row), row.sequence) for row in device.history(mine, column=Device.link)]


def test_which_of_two_histories_has_to_be_said(mine: Session, database: Engine) -> None:
    device = mine.get_one(Device, create(database, Device))
    with pytest.raises(TypeError, match="2 machines of Device have a history: name one by column="):
        device.history(mine)


def test_guards_and_effects_are_recorded_by_where_they_led(mine: Session, database: Engine) -> None:
    payment = mine.get_one(Payment, create(database, Payment))
    payment.fire("Refund", mine, amount=30)
    payment.fire("Refund", mine, amount=70)

    assert [(row.source, row.target) for row in payment.history(mine)] == [("Paid", "Paid"), ("Paid", "Refunded")]
    assert {PaymentTransition} == {type(row) for row in payment.history(mine)}
    assert replay(payment.history(mine)) == "Refunded"


def test_the_table_has_the_types_and_keys_that_are_promised(database: Engine, schemas: None) -> None:
    table = inspect(database).get_columns(OrderTransition.__tablename__)
    columns = {column["name"]: column for column in table}
    unique = inspect(database).get_unique_constraints(OrderTransition.__tablename__)

    assert inspect(database).get_pk_constraint(OrderTransition.__tablename__)["constrained_columns"] == [
        "record_id",
        "sequence",
    ]
    assert [constraint["column_names"] for constraint in unique] == [["token"]]
    assert {"actor", "details", "token"} == {name for name, column in columns.items() if column["nullable"]}
    if database.dialect.name != "sqlite":
        assert columns["at"]["type"].fsp == 6


# --- the clock


def test_the_time_is_the_databases_in_utc_with_fractions(mine: Session, database: Engine) -> None:
    order = mine.get_one(Order, create(database, Order))
    before = datetime.now(timezone.utc).replace(tzinfo=None)
    for _ in range(5):
        order.fire("NotReady", mine)
        time.sleep(0.001)
    times = [record.at for record in order.history(mine)]

    assert times == sorted(times)
    assert all(abs(at - before) < timedelta(minutes=5) for at in times)
    assert any(at.microsecond % 1_000_000 for at in times)
    assert all(at.tzinfo is None for at in times)


@pytest.mark.servers_only
def test_the_sessions_time_zone_does_not_matter(mine: Session, database: Engine) -> None:
    order = mine.get_one(Order, create(database, Order))
    mine.execute(text("SET time_zone = '+09:00'"))
    order.fire("Ready", mine)
    (record,) = order.history(mine)
    mine.execute(text("SET time_zone = DEFAULT"))

    assert abs(record.at - datetime.now(timezone.utc).replace(tzinfo=None)) < timedelta(minutes=5)


@pytest.mark.servers_only
def test_microseconds_are_stored(mine: Session, database: Engine) -> None:
    order = mine.get_one(Order, create(database, Order))
    for _ in range(10):
        order.fire("NotReady", mine)

    assert any(record.at.microsecond % 1000 for record in order.history(mine))


# --- reading


def test_history_comes_oldest_first_and_only_of_the_row(mine: Session, database: Engine) -> None:
    one, other = (mine.get_one(Order, key) for key in new_orders(database, 2))
    for order, event in ((one, "Ready"), (other, "Stop"), (one, "Stop")):
        order.fire(event, mine)

    assert [record.event for record in one.history()] == ["Ready", "Stop"]
    assert [record.event for record in other.history(mine)] == ["Stop"]


@pytest.mark.servers_only
def test_the_newest_record_is_found_by_the_key_alone(mine: Session, database: Engine) -> None:
    """No sort: the primary key is read backwards."""
    table = OrderTransition.__table__
    query = select(table.c.event).where(table.c.record_id == 7).order_by(table.c.sequence.desc()).limit(1)
    compiled = query.compile(database, compile_kwargs={"literal_binds": True})
    explain = "EXPLAIN" if database.dialect.is_mariadb else "EXPLAIN FORMAT=TRADITIONAL"
    (plan,) = mine.connection().exec_driver_sql(f"{explain} {compiled}").mappings()

    assert plan["key"] == "PRIMARY" or "no matching row" in str(plan["Extra"]).lower()
    assert "filesort" not in str(plan["Extra"])


def test_a_model_without_history_has_none_to_list(mine: Session, database: Engine) -> None:
    plain = mine.get_one(Plain, create(database, Plain))
    with pytest.raises(TypeError, match="Plain has no TransitionHistory"):
        plain.history(mine)


def test_an_async_session_writes_and_lists_history(tmp_path: Any) -> None:
    async def work() -> list[tuple[str, int]]:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/async.db")
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with AsyncSession(engine) as session:
            order = Order()
            session.add(order)
            await order.fire("Ready", session)
            await session.commit()
            await fire_where(Order, "Stop", session, Order.state == "Running")
            await session.commit()
        async with AsyncSession(engine) as session:
            order = (await session.scalars(select(Order))).one()
            records = await order.history(session)
        await engine.dispose()
        return [(record.event, record.sequence) for record in records]

    assert asyncio.run(work()) == [("Ready", 1), ("Stop", 2)]


# --- a connection in AUTOCOMMIT


@every_door
def test_autocommit_is_refused_before_anything_is_written(
    database: Engine, schemas: None, door: Callable[..., None]
) -> None:
    key = create(database, Order)
    with Session(database) as session:
        session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        session.get(Order, key)
        with pytest.raises(TransactionRequired, match="has a history.*AUTOCOMMIT.*READ COMMITTED"):
            door(session, key)

    assert (stored_row(database, Order, key), steps(database, key)) == ("Initializing", [])


def test_autocommit_is_refused_before_any_statement(database: Engine, schemas: None) -> None:
    key = create(database, Order)
    with Session(database) as session:
        session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})

        def fire() -> None:
            with pytest.raises(TransactionRequired):
                fire_key(Order, key, "Ready", session)

        assert sent_by(session, fire) == 0


def test_an_engine_that_was_created_in_autocommit_is_refused(url: Any, database: Engine, schemas: None) -> None:
    key = create(database, Order)
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with Session(engine) as session, pytest.raises(TransactionRequired):
        fire_key(Order, key, "Ready", session)
    engine.dispose()


# --- replay


def test_a_history_replays_to_the_state(mine: Session, database: Engine) -> None:
    order = mine.get_one(Order, create(database, Order))
    for event in ("NotReady", "Ready", "NotReady", "Ready", "Stop", "Delete", "Delete"):
        order.fire(event, mine)

    assert "Deleted" == replay(order.history(mine)) == order.state


def test_nothing_replays_to_nothing() -> None:
    assert replay([]) is None


def test_what_is_no_history_cannot_be_replayed() -> None:
    with pytest.raises(TypeError, match=r"replay\(\) takes rows of a TransitionHistory"):
        replay([object()])


def record(sequence: int, event: str, source: str, target: str) -> OrderTransition:
    return OrderTransition(record_id=42, sequence=sequence, event=event, source=source, target=target)


READY, STOP = record(1, "Ready", "Initializing", "Running"), record(2, "Stop", "Running", "Stopped")


@pytest.mark.parametrize(
    ("rows", "first", "message"),
    [
        ([STOP], 0, "its number is 2, and 1 was expected"),
        ([READY, record(3, "Stop", "Running", "Stopped")], 1, "its number is 3, and 2 was expected"),
        ([READY, READY], 1, "its number is 1, and 2 was expected"),
        (
            [READY, record(2, "Stop", "Error", "Stopped")],
            1,
            "it leaves 'Error', and the row before it led to 'Running'",
        ),
        (
            [READY, record(2, "Delete", "Running", "Deleted")],
            1,
            "the machine has no 'Delete' from 'Running' to 'Deleted'",
        ),
        (
            [READY, record(2, "Stop", "Running", "Error"), STOP],
            1,
            "the machine has no 'Stop' from 'Running' to 'Error'",
        ),
        ([record(1, "Vanish", "Running", "Error")], 0, "the machine has no 'Vanish' from 'Running' to 'Error'"),
        (
            [record(1, "force_state", "Lost", "Running"), record(2, "force_state", "Error", "Running")],
            1,
            "it leaves 'Error'",
        ),
    ],
)
def test_the_first_record_that_does_not_fit_is_named(rows: list[OrderTransition], first: int, message: str) -> None:
    with pytest.raises(
        HistoryError, match=re.escape(f"recorded_ordertransition (42, {rows[first].sequence}): {message}")
    ) as error:
        replay(rows)

    assert rows[first] is error.value.row


def test_a_forced_state_is_no_fault_of_the_history() -> None:
    assert (
        replay([record(1, "force_state", "Deleted", "Initializing"), record(2, "Ready", "Initializing", "Running")])
        == "Running"
    )


def test_a_record_taken_out_by_hand_is_noticed(mine: Session, database: Engine) -> None:
    order = mine.get_one(Order, create(database, Order))
    for event in ("Ready", "NotReady", "Ready"):
        order.fire(event, mine)
    mine.delete(order.history(mine)[1])

    with pytest.raises(HistoryError, match="its number is 3, and 2 was expected"):
        replay(order.history(mine))


# --- concurrency in small; the races are in tests/race and tests/faults


@pytest.mark.servers_only
@pytest.mark.parametrize("sizes", [{}, {"batch_size": 10}, {"max_rows": 2}], ids=str)
def test_a_set_that_waited_for_a_row_numbers_on_from_what_was_committed_meanwhile(
    mine: Session, database: Engine, sizes: dict[str, int]
) -> None:
    """The statement had begun, and had numbered another row, before the COMMIT: its snapshot of the history is too old."""
    first, second = sorted(new_orders(database, 2))
    fire_key(Order, second, "NotReady", mine)

    def sweep() -> None:
        with Session(database) as session:
            fire_where(Order, "Ready", session, Order.id.in_([first, second]), **sizes)
            session.commit()

    with futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(sweep)
        with suppress(futures.TimeoutError):
            waiting.result(0.1)
        mine.commit()
        waiting.result(10)

    assert [[number for number, *_ in steps(database, key)] for key in (first, second)] == [[1], [1, 2]]


LONG = 3000
NEXT: dict[str, Callable[[Session, Any], Any]] = {
    "fire_key": lambda session, key: fire_key(Order, key, "NotReady", session),
    "force_state": lambda session, key: force_state(session.get_one(Order, key), "Running", session),
    "a set": lambda session, key: fire_where(Order, "NotReady", session, Order.id.in_([key])),
    "a set by keys": lambda session, key: fire_where(Order, "NotReady", session, Order.id == key, max_rows=1),
    "a set whose criterion may change": lambda session, key: fire_where(
        Order, "NotReady", session, Order.id.between(key, key), func.now() > "2000-01-01"
    ),
    "claim": lambda session, key: claim(Order, "NotReady", session, Order.id.in_([key, 0]), limit=2),
}


@pytest.mark.servers_only
@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
@pytest.mark.parametrize("way", NEXT)
def test_the_next_number_costs_one_look_up_however_long_the_history_is(
    database: Engine, way: str, isolation: str
) -> None:
    key = create(database, Order)
    row = {"record_id": key, "event": "NotReady", "source": "Initializing", "target": "Initializing"}
    rows = [{**row, "sequence": i, "at": datetime(2026, 1, 1)} for i in range(1, LONG + 1)]  # noqa: DTZ001
    with database.begin() as connection:
        connection.execute(OrderTransition.__table__.insert(), rows)
    with Session(database.execution_options(isolation_level=isolation)) as session:
        # A machine with little to do may have read the statistics of the new table already, or not.
        session.connection().exec_driver_sql("FLUSH LOCAL STATUS")
        NEXT[way](session, key)
        status = session.connection().exec_driver_sql("SHOW SESSION STATUS LIKE 'Handler_read%%'")
        reads = sum(int(value) for _, value in status)
        session.commit()

    assert reads < 100
    assert [number for number, *_ in steps(database, key)][-2:] == [LONG, LONG + 1]


@pytest.mark.servers_only
def test_a_number_once_written_is_not_written_again(mine: Session, database: Engine) -> None:
    """The primary key holds it, whoever writes."""
    key = create(database, Order)
    fire_key(Order, key, "Ready", mine)
    mine.add(OrderTransition(record_id=key, sequence=1, event="Ready", source="a", target="b", at=datetime(2026, 1, 1)))  # noqa: DTZ001
    with pytest.raises(IntegrityError):
        mine.flush()


# --- declaration


@pytest.fixture
def declared() -> type[DeclarativeBase]:
    class Fresh(DeclarativeBase):
        """Nothing in it yet."""

    return Fresh


def model_of(base: Any, name: str = "Job") -> Any:
    return type(
        name,
        (base,),
        {
            "__tablename__": name.lower(),
            "__annotations__": {"id": Mapped[int]},
            "id": mapped_column(primary_key=True),
            "state": StateMachineColumn(machine),
        },
    )


def history_of(base: Any, records: Any, name: str = "JobStep", **members: Any) -> Any:
    return type(name, (TransitionHistory, base), {"__tablename__": f"{name}_steps", "__records__": records, **members})


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ("Job.state", "JobStep.__records__ = 'Job.state' names no mapped class: declare the model first"),
        ("state", "names no mapped class"),
        (None, "JobStep.__records__ = None"),
        (42, "JobStep.__records__ = 42"),
    ],
)
def test_a_history_names_a_column_that_is_there(declared: Any, records: Any, message: str) -> None:
    with pytest.raises(InvalidMachine, match=re.escape(message)):
        history_of(declared, records)


def test_a_history_of_a_column_that_is_no_state_is_refused(declared: Any) -> None:
    Job = model_of(declared)
    with pytest.raises(InvalidMachine, match="'id' is not a state machine of Job"):
        history_of(declared, Job.id)


def test_a_column_has_one_history(declared: Any) -> None:
    model_of(declared)
    history_of(declared, "Job.state")
    with pytest.raises(InvalidMachine, match="JobStep2: Job.state has a history already, JobStep"):
        history_of(declared, "Job.state", "JobStep2")


def test_two_models_of_one_name_have_to_be_told_apart(declared: Any) -> None:
    first = model_of(declared)
    second = type(
        "Job",
        (declared,),
        {
            "__module__": "elsewhere",
            "__tablename__": "job2",
            "__annotations__": {"id": Mapped[int]},
            "id": mapped_column(primary_key=True),
            "state": StateMachineColumn(machine),
        },
    )
    with pytest.raises(InvalidMachine, match="names 2 mapped classes"):
        history_of(declared, "Job.state")

    assert history_of(declared, second.state).__records__ is second.state
    assert history_of(declared, first.state, "FirstStep").__records__ is first.state


def test_the_mixin_comes_before_the_base(declared: Any) -> None:
    Job = model_of(declared)
    with pytest.raises(InvalidMachine, match="JobStep: write TransitionHistory before the declarative base"):
        type("JobStep", (declared, TransitionHistory), {"__tablename__": "jobstep", "__records__": Job.state})


def test_own_columns_shared_by_histories_come_from_an_abstract_base(declared: Any) -> None:
    class Audit(TransitionHistory):
        tenant: Mapped[str | None] = mapped_column(String(20))

    model_of(declared)
    Step = type("JobStep", (Audit, declared), {"__tablename__": "jobstep", "__records__": "Job.state"})

    assert {"tenant", "record_id", "sequence", "token"} <= set(Step.__table__.c.keys())


def test_a_history_is_mapped_by_a_registrys_decorator_too() -> None:
    mapper_registry = registry()

    @mapper_registry.mapped
    class Job:
        __tablename__ = "job"
        id: Mapped[int] = mapped_column(primary_key=True)
        state: Mapped[str] = StateMachineColumn(machine)

    @mapper_registry.mapped
    class JobStep(TransitionHistory):
        __tablename__ = "job_step"
        __records__ = Job.state

    assert [part.name for part in JobStep.__table__.primary_key] == ["record_id", "sequence"]


def test_by_a_registrys_decorator_the_column_has_to_be_given_itself() -> None:
    with pytest.raises(InvalidMachine, match="'Job.state' names no mapped class.*give its attribute"):
        type("JobStep", (TransitionHistory,), {"__tablename__": "job_step", "__records__": "Job.state"})


def test_a_base_of_dataclasses_has_histories_too() -> None:
    class Fresh(MappedAsDataclass, DeclarativeBase):
        pass

    class Job(Fresh):
        __tablename__ = "job"
        id: Mapped[int] = mapped_column(primary_key=True)
        state: Mapped[str] = StateMachineColumn(machine)

    class JobStep(TransitionHistory, Fresh):
        __tablename__ = "job_step"
        __records__ = "Job.state"

    engine = create_engine("sqlite://")
    Fresh.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Job(id=1, state="Running"))
        fire_key(Job, 1, "Stop", session)
        assert [step.event for step in session.get_one(Job, 1).history(session)] == ["Stop"]


def test_a_column_of_the_historys_own_needs_a_default_in_the_database() -> None:
    class Fresh(DeclarativeBase):
        pass

    model_of(Fresh)
    Step = history_of(Fresh, "Job.state", shard=mapped_column(String(10), nullable=False, server_default="one"))
    engine = create_engine("sqlite://")
    Fresh.metadata.create_all(engine)
    with Session(engine) as session:
        job = Fresh.registry._class_registry["Job"](id=1)
        session.add(job)
        job.fire("Ready", session)
        assert session.scalars(select(Step.shard)).all() == ["one"]


def test_a_state_that_the_machine_no_longer_has_stays_readable(mine: Session, database: Engine) -> None:
    order = mine.get_one(Order, create(database, Order))
    order.fire("Ready", mine)
    history = OrderTransition.__table__
    mine.execute(update(history).where(history.c.record_id == order.id).values(source="Initializing", event="Legacy"))
    mine.connection().exec_driver_sql(f"UPDATE {history.name} SET target = 'Retired' WHERE record_id = {order.id}")

    assert [(row.event, row.source, row.target) for row in order.history(mine)] == [
        ("Legacy", "Initializing", "Retired")
    ]


def test_a_model_of_the_same_machine_is_not_recorded(mine: Session, database: Engine) -> None:
    """A history belongs to the column, not to its machine."""
    key = create(database, Plain)
    assert fire_key(Plain, key, "Ready", mine).sequence is None
    assert Plain.state.type.machine is Order.state.type.machine


@pytest.mark.servers_only
def test_an_actor_is_any_text_in_a_database_of_another_character_set(database: Engine) -> None:
    """MariaDB 10.11 makes databases in latin1 by default."""
    name = f"{database.url.database}_latin1"
    with database.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} CHARACTER SET latin1"))
    engine = make_engine(database.url.set(database=name))
    try:
        Order.metadata.create_all(engine, tables=[Order.__table__, OrderTransition.__table__])
        with Session(engine) as session:
            session.add(Order(id=1))
            session.flush()
            assert fire_key(Order, 1, "Ready", session, actor="Łukasz 😀").actor == "Łukasz 😀"
            assert [row.actor for row in session.get_one(Order, 1).history()] == ["Łukasz 😀"]
            by_actor = select(OrderTransition.event).where(OrderTransition.actor == "Łukasz 😀")
            assert session.scalars(by_actor).all() == ["Ready"]
    finally:
        engine.dispose()
        with database.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(text(f"DROP DATABASE {name}"))
