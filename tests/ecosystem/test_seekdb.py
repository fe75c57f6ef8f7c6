"""OceanBase's seekdb, from its wheel: the same outcomes where it differs from MySQL, and a race of processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from pymysql.constants import CLIENT
from sqlalchemy import Engine, create_engine, exists, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, mapped_column, sessionmaker

from sqlalchemy_fsm_mysql import (
    Coalescer,
    Event,
    FSMError,
    Machine,
    Moved,
    Refused,
    RefusedByDatabase,
    Stateful,
    StateMachineColumn,
    TransactionRequired,
    Transition,
    TransitionHistory,
    find_by_token,
    fire_key,
    fire_keys,
    fire_or_create,
    fire_where,
    force_state,
    replay,
    run_transaction,
    try_fire_key,
    unlocked,
)
from sqlalchemy_fsm_mysql.databases.mysql.remembered import is_remembered_at_once
from sqlalchemy_fsm_mysql.testing import seekdb

machine = Machine(
    initial="new",
    events=[
        Event("Pay", {"new": "paid"}),
        Event("Back", {"paid": "new"}),
        Event("Cancel", {("new", "paid"): "cancelled"}),
        Event(
            "Refund",
            [
                Transition("paid", "refunded", guard=lambda order, amount: order.total == amount),
                Transition("paid", "paid", guard=lambda order, amount: order.total > amount),
            ],
            effect=lambda order, amount: {"total": order.total - amount},
        ),
    ],
)


class Base(DeclarativeBase):
    pass


class Order(Stateful, Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    total: Mapped[int] = mapped_column(default=100)
    state: Mapped[str] = StateMachineColumn(machine, enforced=True)


class OrderTransition(TransitionHistory, Base):
    __tablename__ = "order_transitions"
    __records__ = "Order.state"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    pytest.importorskip("pylibseekdb")
    with seekdb() as url:
        engine = create_engine(url, isolation_level="READ COMMITTED")
        Base.metadata.create_all(engine)
        yield engine
        engine.dispose()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with Session(engine) as session:
        session.execute(text("DELETE FROM order_transitions"))
        session.execute(text("DELETE FROM orders"))
        session.add_all([Order(id=number) for number in range(1, 11)])
        session.commit()
        yield session
        session.rollback()


def test_the_server_is_asked_for_what_it_has(engine: Engine) -> None:
    with engine.connect() as connection:
        assert not is_remembered_at_once(connection)
        made = connection.exec_driver_sql("SHOW CREATE TABLE orders").one()[1]
    assert "utf8mb4_bin" in made
    assert "ascii" not in made


def test_the_number_of_a_history_row_is_its_own(session: Session) -> None:
    """Within a transaction and after other fires: what the INSERT answers there is no number."""
    sequences = [fire_key(Order, 1, event, session).sequence for event in ("Pay", "Back", "Pay")]
    session.commit()
    sequences += [fire_key(Order, 2, "Pay", session).sequence, fire_key(Order, 1, "Back", session).sequence]

    assert sequences == [1, 2, 3, 1, 4]
    assert [row.sequence for row in session.get_one(Order, 1).history()] == [1, 2, 3, 4]


def test_a_guarded_fire_takes_its_own_branch(session: Session) -> None:
    """LAST_INSERT_ID() without an argument is there the value of an earlier statement: another fire's branch."""
    for key in (1, 2):
        fire_key(Order, key, "Pay", session)
    whole = fire_key(Order, 1, "Refund", session, amount=100)
    part = fire_key(Order, 2, "Refund", session, amount=30)
    too_much = try_fire_key(Order, 2, "Refund", session, amount=71)

    assert (whole.target, part.target) == ("refunded", "paid")
    assert isinstance(too_much, Refused)
    assert too_much.reason == "guard"
    rows = session.execute(select(Order.id, Order.state, Order.total).where(Order.id < 3).order_by(Order.id)).all()
    assert rows == [(1, "refunded", 0), (2, "paid", 70)]


def test_a_set_of_guarded_rows_takes_the_branch_of_each(session: Session) -> None:
    fire_where(Order, "Pay", session, Order.id <= 4)
    session.execute(text("UPDATE orders SET total = 30 WHERE id IN (2, 3)"))

    moved = fire_where(Order, "Refund", session, Order.id <= 5, amount=30)

    assert moved.by_transition == {("paid", "paid"): 2, ("paid", "refunded"): 2}
    for order in session.scalars(select(Order).where(Order.id <= 4)):
        assert replay(order.history()) == order.state


def test_many_keys_have_an_outcome_each(session: Session) -> None:
    fire_key(Order, 1, "Pay", session)

    outcomes = fire_keys(Order, [1, 2, 99], "Pay", session)

    assert [type(outcome).__name__ for outcome in outcomes] == ["Refused", "Moved", "Missing"]


def test_an_upsert_creates_moves_and_is_refused(session: Session) -> None:
    made = fire_or_create(Order(id=50), "Cancel", session)
    session.commit()
    moved = fire_or_create(Order(id=1), "Cancel", session)
    session.commit()

    assert (made.created, moved.created) == (True, False)
    assert isinstance(try_fire_key(Order, 50, "Pay", session), Refused)


def test_a_token_gives_the_first_outcome_again(session: Session) -> None:
    first = fire_key(Order, 1, "Pay", session, token="t1")
    session.commit()
    again = fire_key(Order, 1, "Pay", session, token="t1")

    assert isinstance(again, Moved)
    assert (first.replayed, again.replayed, again.target) == (False, True, "paid")


def test_the_triggers_refuse_other_writers_and_not_the_library(session: Session) -> None:
    with pytest.raises(RefusedByDatabase):
        session.execute(text("UPDATE orders SET state = 'refunded' WHERE id = 1"))
    session.rollback()

    assert fire_key(Order, 1, "Pay", session).target == "paid"
    force_state(session.get_one(Order, 1), "new", session)
    assert replay(session.get_one(Order, 1).history()) == "new"


def test_one_packet_is_refused_and_a_coalescer_sends_statements(engine: Engine, session: Session) -> None:
    """There the answers of a packet repeat each other: numbers of history rows and branches would be wrong."""
    options = {"isolation_level": "AUTOCOMMIT", "execution_options": {"fsm_one_packet": True}}
    packing = create_engine(engine.url, connect_args={"client_flag": CLIENT.MULTI_STATEMENTS}, **options)
    with Session(packing) as other, pytest.raises(TransactionRequired, match="evaluates LAST_INSERT_ID"):
        fire_key(Order, 1, "Pay", other)
    with Coalescer(packing, max_wait=timedelta(milliseconds=20)) as fires, ThreadPoolExecutor(8) as pool:
        for event in ("Pay", "Back"):
            assert [
                moved.sequence for moved in pool.map(lambda key: fires.fire_key(Order, key, event), range(1, 9))
            ] == [1 if event == "Pay" else 2] * 8
    packing.dispose()

    for key in range(1, 9):
        assert replay(session.get_one(Order, key).history()) == "new"


def test_what_locks_nothing_there_is_refused(engine: Engine, session: Session) -> None:
    """EXISTS, IN and aggregates; a scalar subquery keeps the rows that it reads locked, and unlocked() asks for no lock."""
    other = aliased(OrderTransition)
    there = exists().where(other.record_id == Order.id)
    fire_key(Order, 1, "Pay", session)
    session.commit()

    with pytest.raises(FSMError, match="does not keep the locks of those rows"):
        fire_where(Order, "Back", session, there)
    assert fire_where(Order, "Back", session, unlocked(there)).moved == 1
    session.commit()
    number = select(other.sequence).where(other.record_id == Order.id, other.sequence == 1).scalar_subquery()
    assert fire_where(Order, "Pay", session, number == 1).moved == 1
    with Session(engine) as writer, pytest.raises(OperationalError, match="1205"):
        writer.connection().detach()  # no later session gets this limit
        writer.execute(text("SET ob_trx_lock_timeout = 300000"))
        writer.execute(text("UPDATE order_transitions SET actor = 'x' WHERE record_id = 1 AND sequence = 1"))


def test_a_token_is_looked_for_by_firing_again(engine: Engine, session: Session) -> None:
    """A locking read does not wait there for a row that is not committed; the INSERT with the same token does."""
    first = fire_key(Order, 1, "Pay", session, token="t2")
    with Session(engine) as other:
        with pytest.raises(FSMError, match="Fire again with the same token"):
            find_by_token(Order.state, "t2", other)
        with ThreadPoolExecutor(1) as pool:
            again = pool.submit(fire_key, Order, 1, "Pay", other, token="t2")
            time.sleep(0.5)
            assert not again.done()
            session.commit()
            moved = again.result(timeout=30)

    assert (moved.replayed, moved.sequence, first.sequence) == (True, 1, 1)


def test_processes_lose_no_move(engine: Engine, session: Session) -> None:
    """Four processes fire on one row: the history has each move that one of them was told, and replays to the state."""
    program = (
        "import sys; from sqlalchemy import create_engine; from sqlalchemy.orm import sessionmaker\n"
        "from sqlalchemy_fsm_mysql import run_transaction, try_fire_key\n"
        "from tests.ecosystem.test_seekdb import Order\n"
        "sessions = sessionmaker(create_engine(sys.argv[1], isolation_level='READ COMMITTED'))\n"
        "fires = ['Pay', 'Back'] * 30\n"
        "print(sum(bool(run_transaction(sessions, lambda s: try_fire_key(Order, 3, e, s), attempts=20)) for e in fires))\n"
    )
    url = engine.url.render_as_string(hide_password=False)
    crew = [subprocess.Popen([sys.executable, "-c", program, url], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    told = sum(int(process.communicate(timeout=100)[0]) for process in crew)

    with sessionmaker(engine)() as other:
        history = other.get_one(Order, 3).history()
        assert (len(history), replay(history)) == (told, other.get_one(Order, 3).state)
        assert told > 30


def test_a_unit_is_run_again(engine: Engine, session: Session) -> None:
    assert run_transaction(sessionmaker(engine), lambda each: fire_key(Order, 1, "Pay", each)).target == "paid"


def test_the_server_ends_with_a_killed_process() -> None:
    pytest.importorskip("pylibseekdb")
    program = (
        "import os, signal, sys\nfrom sqlalchemy_fsm_mysql.testing import seekdb\n"
        "with seekdb() as url:\n    print(url.query['unix_socket'], flush=True)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    number = done.stdout.split("uds-")[1].split("-")[0]

    until = time.monotonic() + 20
    while (alive := serving(number)) and time.monotonic() < until:
        time.sleep(0.2)

    assert not alive


def serving(parent: str) -> list[str]:
    """The commands of the servers, alive, whose sockets are of the process *parent*."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended since
            command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if "pylibseekdb/seekdb" in command and f"uds-{parent}-" in command:
                found.append(command)
    return found
