"""Eight processes take from one account: never below zero, and to the cent what was taken is gone."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import URL, Engine, Numeric, func, insert, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import Event, Machine, Moved, Refused, StateMachineColumn, Transition, try_fire_key
from tests.race.conftest import PROCESSES
from tests.race.load import Job, make_engine
from tests.servers import SQLITE

# 1,000 for each process in a full run
FIRES = int(os.environ.get("FSM_BALANCE_FIRES", "60"))
MEAN = Decimal("5.005")


def amount_of(dice: random.Random) -> Decimal:
    return Decimal(dice.randint(1, 1000)) / 100


class Base(DeclarativeBase):
    """The tables of this race."""


class Account(Base):
    __tablename__ = "race_accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="open",
            events=[
                Event(
                    "Withdraw",
                    [
                        Transition("open", "empty", guard=lambda account, amount: account.balance == amount),
                        Transition("open", "open", guard=lambda account, amount: account.balance >= amount),
                    ],
                    effect=lambda account, amount: {"balance": account.balance - amount},
                )
            ],
        )
    )
    balance: Mapped[Decimal] = mapped_column(Numeric(12, 2))


class Withdrawal(Base):
    """What a process took, written in the same transaction."""

    __tablename__ = "race_withdrawals"

    id: Mapped[int] = mapped_column(primary_key=True)
    amount: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    left: Mapped[Decimal] = mapped_column(Numeric(12, 2))


# --- units of work, as for tests.race.load.Job


def log(session: Session, key: int, amount: Decimal) -> None:
    left = session.scalars(select(Account.balance).where(Account.id == key)).one()
    session.execute(insert(Withdrawal).values(amount=amount, left=left))


def withdraw(session: Session, key: int, _: str, dice: random.Random) -> Any:
    """The check and the withdrawal in one statement."""
    amount = amount_of(dice)
    outcome = try_fire_key(Account, key, "Withdraw", session, amount=amount)
    if outcome:
        log(session, key, amount)
    session.commit()
    return outcome


def read_then_write(session: Session, key: int, _: str, dice: random.Random) -> Any:
    """What people write without it. It is wrong, so the sum must show it."""
    amount = amount_of(dice)
    balance = session.scalars(select(Account.balance).where(Account.id == key)).one()
    if balance < amount:
        session.commit()
        return Refused(Account, key, "Withdraw", "open", "guard")
    time.sleep(0.001)
    session.execute(update(Account).where(Account.id == key).values(balance=balance - amount))
    log(session, key, amount)
    session.commit()
    return Moved(Account, key, "Withdraw", "open", "open")


# --- the tests


@pytest.fixture
def sqlite(tmp_path):
    return SQLITE.set(database=str(tmp_path / "balance.db"))


@pytest.fixture
def account(url: URL) -> Iterator[tuple[URL, Decimal]]:
    """On each server by one driver: an account that lasts for about half of the fires."""
    if url.drivername != "mysql+pymysql":
        pytest.skip("one driver a server")
    with_tables(engine := make_engine(url), Base.metadata.create_all)
    yield url, opened(engine, FIRES)
    with_tables(engine, Base.metadata.drop_all)


def with_tables(engine: Engine, act: Any) -> None:
    act(engine)
    engine.dispose()


def opened(engine: Engine, fires: int) -> Decimal:
    balance = round(MEAN * fires * PROCESSES / 2, 2)
    with Session(engine) as session:
        session.add(Account(id=1, balance=balance))
        session.commit()
    engine.dispose()
    return balance


def books(url: URL) -> tuple[Decimal, Decimal, Decimal]:
    """The balance now, the sum of what was taken, and the lowest balance that anybody saw."""
    engine = make_engine(url)
    with Session(engine) as session:
        balance = session.scalars(select(Account.balance)).one()
        sums = select(func.sum(Withdrawal.amount), func.min(Withdrawal.left))
        taken, lowest = session.execute(sums).one()
    engine.dispose()
    return balance, taken, lowest


def seen(calls: list[Any]) -> set[str]:
    return {call.outcome for call in calls} - {"failed"}


@pytest.mark.servers_only
@pytest.mark.timeout(900)
@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ"])
def test_a_guarded_balance_never_goes_below_zero_and_adds_up_to_the_cent(racers, account, level):
    url, start = account

    calls = racers.race(Job(url, FIRES, [1], withdraw, level))

    balance, taken, lowest = books(url)
    assert balance + taken == start
    assert lowest >= 0
    assert seen(calls) == {"moved", "refused"}


@pytest.mark.servers_only
@pytest.mark.timeout(900)
def test_a_balance_that_is_read_and_then_written_does_not_add_up(racers, account):
    """The control: were the books blind, this would pass unseen."""
    url, start = account

    racers.race(Job(url, FIRES // 4 + 1, [1], read_then_write, "READ COMMITTED"))

    balance, taken, _ = books(url)
    assert balance + taken != start


@pytest.mark.timeout(900)
def test_a_guarded_balance_adds_up_on_sqlite_too(racers, sqlite):
    fires = FIRES // 4 + 1
    with_tables(engine := make_engine(sqlite), Base.metadata.create_all)
    start = opened(engine, fires)

    calls = racers.race(Job(sqlite, fires, [1], withdraw))

    balance, taken, lowest = books(sqlite)
    assert balance + taken == start
    assert lowest >= 0
    assert seen(calls) == {"moved", "refused"}
