"""Orders and payments whose guards read each other's rows, and processes that send one while they void the other."""

from __future__ import annotations

import multiprocessing
from typing import Any

from sqlalchemy import URL, Engine, create_engine, exists, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from sqlalchemy_fsm_mysql import Event, Machine, StateMachineColumn, run_transaction, try_fire_key
from tests.faults.wrong import wrong_version

PAIRS = 4


class Base(DeclarativeBase):
    """The tables of this module."""


class Order(Base):
    __tablename__ = "fault_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="open",
            events=[
                Event(
                    "Send",
                    {"open": "sent"},
                    guard=lambda order: exists().where(Payment.id == order.id, Payment.state == "paid"),
                )
            ],
        )
    )


class Payment(Base):
    __tablename__ = "fault_payments"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="paid",
            events=[
                Event(
                    "Void",
                    {"paid": "void"},
                    guard=lambda payment: ~exists().where(Order.id == payment.id, Order.state == "sent"),
                )
            ],
        )
    )


def sent_without_payment(engine: Engine, wrong: str, orders: int) -> tuple[int, int]:
    """Of so many *orders*, how many are sent with a void payment, and how many of the fires moved a row."""
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all(model(id=key) for model in (Order, Payment) for key in range(1, orders + 1))
        session.commit()
    processes = multiprocessing.get_context("spawn")
    moved = processes.Queue()
    team = []
    barriers = [processes.Barrier(2, timeout=60) for _ in range(PAIRS)]  # kept until every process has its own
    for pair, barrier in enumerate(barriers):
        keys = range(1 + pair, orders + 1, PAIRS)
        team += [
            processes.Process(target=_race, args=(engine.url, event, keys, barrier, moved, wrong))
            for event in ("Send", "Void")
        ]
    for process in team:
        process.start()
    fires = sum(moved.get(timeout=90) for _ in team)
    for process in team:
        process.join(60)
    with Session(engine) as session:
        voided = exists().where(Payment.id == Order.id, Payment.state == "void")
        bad = len(session.scalars(select(Order.id).where(Order.state == "sent", voided)).all())
    Base.metadata.drop_all(engine)
    return bad, fires


def _race(url: URL, event: str, keys: Any, barrier: Any, moved: Any, wrong: str) -> None:
    engine = create_engine(url, isolation_level="READ COMMITTED")
    sessions = sessionmaker(engine)
    model: Any = Order if event == "Send" else Payment
    fires = 0
    with wrong_version(wrong):
        for key in keys:
            barrier.wait()
            fires += run_transaction(sessions, lambda s, k=key: bool(try_fire_key(model, k, event, s)), attempts=30)
    moved.put(fires)
    engine.dispose()
