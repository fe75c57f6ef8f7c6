"""What the helpers for users' tests, figures, diagrams and observers are to a type checker."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, sessionmaker
from typing_extensions import assert_type

from sqlalchemy_fsm_mysql import Machine, Moved, Refused, count_rows, count_transitions
from sqlalchemy_fsm_mysql.diagram import dot, markdown_table, mermaid, png, svg
from sqlalchemy_fsm_mysql.observation import Attempt, observe
from sqlalchemy_fsm_mysql.testing import (
    Cell,
    HookCall,
    RaceReport,
    assert_moves,
    assert_refused,
    every_cell,
    frozen_hooks,
    race,
    sqlite_engine,
    sqlite_session,
    state_machine_for,
)
from tests.typing.models import Base, Order


def of_a_row(order: Order, session: Session, asynchronous: AsyncSession) -> None:
    assert_type(assert_moves(order, "Stop", "Stopped"), Moved[Order])
    assert_type(assert_moves(order, "Stop", "Stopped", session, actor="ada", amount=3), Moved[Order])
    awaited_1 = assert_moves(order, "Stop", "Stopped", asynchronous)
    _ = assert_type(awaited_1, Coroutine[Any, Any, Moved[Order]])
    assert_type(assert_refused(order, "Stop"), Refused[Order])
    assert_type(assert_refused(order, "Stop", "guard", session), Refused[Order])
    awaited_2 = assert_refused(order, "Stop", None, asynchronous)
    _ = assert_type(awaited_2, Coroutine[Any, Any, Refused[Order]])


def of_a_machine(machine: Machine) -> None:
    assert_type(every_cell(machine), list[Cell])
    assert_type(markdown_table(machine), str)
    assert_type(mermaid(machine, counts={("Stop", "a", "b"): 1}, rows={"a": 2}), str)
    assert_type(dot(machine, theme="dark"), str)
    assert_type(svg(machine), str)
    assert_type(png(machine, dpi=72), bytes)


def of_a_column(session: Session, asynchronous: AsyncSession, sessions: sessionmaker[Session]) -> None:
    assert_type(count_rows(Order.state, session), dict[str, int])
    awaited_3 = count_rows(Order.state, asynchronous)
    _ = assert_type(awaited_3, Coroutine[Any, Any, dict[str, int]])
    assert_type(count_transitions(Order.state, session), dict[tuple[str, str, str], int])
    awaited_4 = count_transitions(Order.state, asynchronous)
    _ = assert_type(awaited_4, Coroutine[Any, Any, dict[tuple[str, str, str], int]])
    assert_type(race("mysql://localhost", Order.state, [1]), RaceReport)
    state_machine_for(Order.state, sessions).TestCase  # noqa: B018 - that it is there
    with frozen_hooks(Order.state) as calls:
        assert_type(calls, list[HookCall])


def of_a_database() -> None:
    with sqlite_engine(Base) as engine:
        assert_type(engine, Engine)
    with sqlite_session(Base, expire_on_commit=False) as session:
        assert_type(session, Session)


@observe
@contextmanager
def look(attempt: Attempt) -> Generator[None, None, None]:
    yield
    assert_type(attempt.outcome, str)
    assert_type(attempt.rows, int)
