"""Behind a proxy that shares server connections, an outcome is still the outcome of the caller's own fire."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
from sqlalchemy import URL, Engine, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    FSMError,
    Machine,
    Moved,
    Refused,
    StateMachineColumn,
    TransitionHistory,
    fire_or_create,
    fire_where,
    replay,
    try_fire_key,
)
from sqlalchemy_fsm_mysql.databases.transactions import Transactions
from tests.faults.pooling import pooling_proxy
from tests.faults.proxy import unencrypted
from tests.servers import make_engine

pytestmark = [pytest.mark.servers_only, pytest.mark.every_driver]

WORKERS, FIRES, SETS = 4, 40, 30
AROUND = {"a": "b", "b": "c", "c": "a"}
LEVELS = ["AUTOCOMMIT", "READ COMMITTED"]


class Base(DeclarativeBase):
    """The tables of this module."""


machine = Machine(
    initial="a",
    events=[Event("Go", AROUND), Event("Up", {"a": "b", "b": "c"}), Event("Down", {"c": "a"})],
)


class Plain(Base):
    __tablename__ = "pooled_plain"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine)


class Enforced(Base):
    """With the library's own triggers, which hide the outcome from the UPDATE's answer."""

    __tablename__ = "pooled_enforced"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine, enforced=True)


class Touched(Base):
    """With a trigger of the application's, of which the library does not know."""

    __tablename__ = "pooled_touched"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    touched: Mapped[int] = mapped_column(default=0)
    state: Mapped[str] = StateMachineColumn(machine)


class Recorded(Base):
    __tablename__ = "pooled_recorded"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = StateMachineColumn(machine, enforced=True)


class RecordedStep(TransitionHistory, Base):
    __tablename__ = "pooled_recorded_steps"
    __records__ = Recorded.state


EVERY: list[type[Any]] = [Plain, Enforced, Touched]
TOUCH = "CREATE TRIGGER pooled_touch BEFORE UPDATE ON pooled_touched FOR EACH ROW SET NEW.touched = OLD.touched + 1"


@pytest.fixture
def rows(engine: Engine) -> Iterator[list[int]]:
    """A row of each table for each worker, all in the state 'a'."""
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql(TOUCH)
    keys = list(range(1, WORKERS + 1))
    with Session(engine) as session:
        session.add_all(model(id=key) for model in (*EVERY, Recorded) for key in keys)
        session.commit()
    yield keys
    Base.metadata.drop_all(engine)


@contextmanager
def pooled(url: URL, level: str, **how: Any) -> Iterator[Engine]:
    """An engine that reaches the server through a pooling proxy."""
    with pooling_proxy(url, **how) as proxy:
        engine = make_engine(proxy.url, isolation_level=level, connect_args=unencrypted(url))
        yield engine
        engine.dispose()


def at_once(keys: list[int], work: Callable[[int], None]) -> None:
    """*work* for each key, each in a thread of its own."""
    errors: list[BaseException] = []

    def guarded(key: int) -> None:
        try:
            work(key)
        except BaseException as error:  # noqa: BLE001 - for the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(key,)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if errors:
        raise errors[0]


def stored(engine: Engine, model: type[Any], key: int) -> str:
    with Session(engine) as session:
        state: str = session.scalars(select(model.state).where(model.id == key)).one()
        return state


def shown(outcome: Moved[Any] | Refused[Any]) -> tuple[str, ...]:
    return (outcome.source, outcome.target) if isinstance(outcome, Moved) else (outcome.state,)


def test_the_proxy_hands_one_clients_id_to_another(url: URL) -> None:
    """The control: without that, the tests of this module would prove nothing."""
    with pooled(url, "AUTOCOMMIT") as engine, engine.connect() as one, engine.connect() as other:
        seen = set()
        for number in range(1, 60):
            client = (one, other)[number % 2]
            client.execute(text("SELECT LAST_INSERT_ID(:number)"), {"number": number})
            seen.add(client.execute(text("SELECT LAST_INSERT_ID()")).scalar_one() == number)

    assert seen == {True, False}


def test_a_transaction_keeps_its_connection(url: URL) -> None:
    with pooled(url, "READ COMMITTED") as engine, engine.connect() as one, engine.connect() as other:
        for client in (one, other):  # from here on the server knows of a transaction
            client.execute(text("SELECT COUNT(*) FROM information_schema.innodb_trx"))
        seen = set()
        for number in range(1, 40):
            client = (one, other)[number % 2]
            client.execute(text("SELECT LAST_INSERT_ID(:number)"), {"number": number})
            seen.add(client.execute(text("SELECT LAST_INSERT_ID()")).scalar_one() == number)

    assert seen == {True}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("model", EVERY, ids=lambda model: model.__name__)
def test_every_outcome_is_that_of_the_callers_own_fire(
    url: URL, engine: Engine, rows: list[int], figures: Any, model: type[Any], level: str
) -> None:
    counts: Counter[str] = Counter()

    def work(key: int) -> None:
        state = "a"
        for number in range(FIRES):
            event = ("Go", "Down")[number % 2]  # 'Down' is refused in 'a' and 'b'
            expected = (state, AROUND[state]) if event == "Go" or state == "c" else (state,)
            with Session(pool) as session:
                outcome = try_fire_key(model, key, event, session)
                session.commit()
            counts["right" if shown(outcome) == expected else "wrong"] += 1
            state = expected[-1]

    with pooled(url, level) as pool:
        at_once(rows, work)
    figures(**counts)

    assert counts == {"right": WORKERS * FIRES}


@pytest.mark.parametrize("level", LEVELS)
def test_a_set_counts_its_own_branches(url: URL, engine: Engine, rows: list[int], figures: Any, level: str) -> None:
    """Two clients at once, so that each finds the other's counters if it finds any but its own."""
    counts: Counter[str] = Counter()
    expected = {("a", "b"): 1, ("b", "c"): 1}

    def work(first: int) -> None:
        for _ in range(SETS):
            with Session(engine) as direct:
                mine = {"one": first, "two": first + 1}
                direct.execute(text("UPDATE pooled_plain SET state = 'a' WHERE id = :one"), mine)
                direct.execute(text("UPDATE pooled_plain SET state = 'b' WHERE id = :two"), mine)
                direct.commit()
            with Session(pool) as session:
                moved = fire_where(Plain, "Up", session, Plain.id.in_([first, first + 1]))
                session.commit()
            counts["right" if dict(moved.by_transition) == expected else "wrong"] += 1

    with pooled(url, level) as pool:
        at_once([rows[0], rows[2]], work)
    figures(**counts)

    assert counts == {"right": 2 * SETS}


def upserts(pool: Engine, model: type[Any], keys: list[int]) -> Counter[str]:
    """How many of the upserts of new rows, each three times on its way around, were told rightly."""
    counts: Counter[str] = Counter()

    def work(key: int) -> None:
        for number in range(FIRES // 2):
            new = key * 1000 + number
            for expected in ("b", "c", "a"):  # the first time it is created, on the way from the initial state
                try:
                    with Session(pool) as session:
                        outcome = fire_or_create(model(id=new), "Go", session)
                        session.commit()
                except FSMError as error:
                    counts[type(error).__name__] += 1
                    continue
                is_right = (outcome.target, outcome.created) == (expected, expected == "b")
                counts["right" if is_right else "wrong"] += 1

    at_once(keys, work)
    return counts


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("model", [Plain, Enforced], ids=lambda model: model.__name__)
def test_an_upsert_tells_created_from_moved(
    url: URL, engine: Engine, rows: list[int], figures: Any, model: type[Any], level: str
) -> None:
    with pooled(url, level) as pool:
        counts = upserts(pool, model, rows)
    figures(**counts)

    assert counts == {"right": WORKERS * (FIRES // 2) * 3}


def test_without_the_transaction_an_upsert_reads_the_answer_of_others(
    url: URL, engine: Engine, rows: list[int], figures: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a version of the library that sends the second look by itself is found out."""
    monkeypatch.setattr(Transactions, "together", lambda self, connection: nullcontext())
    with pooled(url, "AUTOCOMMIT") as pool:
        counts = upserts(pool, Enforced, rows)
    figures(**counts)

    assert counts["right"] < counts.total()


def test_transactions_with_a_history_and_tokens_are_as_without_the_proxy(
    url: URL, engine: Engine, rows: list[int]
) -> None:
    numbers: list[int | None] = []

    def work(key: int) -> None:
        for number in range(FIRES // 2):
            for _ in range(2):  # the second time it is a replay
                with Session(pool) as session:
                    outcome = try_fire_key(Recorded, key, "Go", session, token=f"{key} {number}")
                    session.commit()
            numbers.append(outcome.sequence if isinstance(outcome, Moved) else None)

    with pooled(url, "READ COMMITTED") as pool:
        at_once(rows, work)

    with Session(engine) as session:
        for key in rows:
            record = session.get_one(Recorded, key)
            assert replay(record.history()) == record.state
    assert sorted(map(str, numbers)) == sorted(map(str, [*range(1, FIRES // 2 + 1)] * WORKERS))


def test_a_trigger_that_appears_later_is_no_reason_for_a_wrong_outcome(
    url: URL, engine: Engine, rows: list[int]
) -> None:
    """The library has seen the table without triggers. The fire that meets the first one says so if it cannot know."""
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER pooled_touch")
    told: list[str] = []
    with pooled(url, "AUTOCOMMIT") as pool:
        state = "a"
        for number in range(30):
            if number == 5:
                with engine.begin() as connection:
                    connection.exec_driver_sql(TOUCH)
            with pool.connect() as other, Session(pool) as session:
                other.execute(text("SELECT LAST_INSERT_ID(5)"))
                try:
                    outcome = try_fire_key(Touched, 1, "Go", session)
                    told.append("right" if shown(outcome) == (state, AROUND[state]) else f"wrong: {outcome}")
                except FSMError as error:
                    told.append(type(error).__name__)
            state = AROUND[state]
            assert stored(engine, Touched, 1) == state

    assert set(told) == {"right", "OutcomeHidden"}
    assert told.count("OutcomeHidden") == 1
