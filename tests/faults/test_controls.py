"""The checks see what they are there for: each of these wrong ways of doing it makes them fail."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from sqlalchemy_fsm_mysql import TransactionAborted, fire_key, run_transaction
from sqlalchemy_fsm_mysql.databases.mysql.history import MySQLHistory
from tests.faults.ledger import Job, Move, fresh_jobs, problems
from tests.faults.proxy import Cut
from tests.faults.test_cut_commits import Line, line_to

pytestmark = pytest.mark.servers_only


@pytest.fixture
def keys(engine: Engine) -> list[int]:
    return fresh_jobs(engine, 2)


@pytest.fixture
def line(url: Any, keys: list[int]) -> Iterator[Line]:
    with line_to(url) as line:
        yield line


def fire_and_end(engine: Engine, key: int, end: str) -> list[Move]:
    with Session(engine) as session:
        moved = fire_key(Job, key, "NotReady", session)
        getattr(session, end)()
    return [Move.of(moved)] if end == "commit" else []


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_the_checks_pass_where_all_is_done_right(engine: Engine, keys: list[int], end: str) -> None:
    assert problems(engine, fire_and_end(engine, 1, end)) == []


def test_a_history_written_outside_of_the_transaction_is_found_out(
    engine: Engine, keys: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    within = MySQLHistory.record

    def outside(self: MySQLHistory, connection: Connection, history: Any, parameters: Any) -> int:
        with engine.begin() as other:
            return within(self, other, history, parameters)

    monkeypatch.setattr(MySQLHistory, "record", outside)
    told = fire_and_end(engine, 1, "commit") + fire_and_end(engine, 2, "rollback")
    found = problems(engine, told)

    assert "job 2 was updated 0 times, and has 1 records" in found
    assert "(2, 'NotReady', 'Initializing', 'Initializing') was told 0 times, and is recorded 1 times" in found


def test_a_retry_of_the_statement_instead_of_the_unit_is_found_out(engine: Engine, keys: list[int]) -> None:
    """The server has rolled back the first statement, too; the caller was told of it all the same."""
    meet = threading.Barrier(2)

    def unit(first: int, second: int) -> list[Move]:
        with Session(engine) as session:
            told = [Move.of(fire_key(Job, first, "NotReady", session))]
            meet.wait(10)
            try:
                told.append(Move.of(fire_key(Job, second, "NotReady", session)))
            except TransactionAborted:
                session.rollback()
                told.append(Move.of(fire_key(Job, second, "NotReady", session)))
            session.commit()
            return told

    with ThreadPoolExecutor(2) as pool:
        told = [move for moves in pool.map(unit, [1, 2], [2, 1]) for move in moves]
    found = problems(engine, told)

    assert len(told) == 4
    assert any("was told 2 times, and is recorded 1 times" in what for what in found)


def test_a_unit_repeated_blindly_after_a_lost_commit_is_found_out(line: Line, engine: Engine) -> None:
    """Without a token, "idempotent" is not true: the COMMIT had been applied, and the unit is done twice."""
    line.cut_once(Cut.ANSWER_LOST)
    moved = run_transaction(line.factory, lambda session: fire_key(Job, 1, "NotReady", session), idempotent=True)
    found = problems(engine, [Move.of(moved)])

    assert found == ["(1, 'NotReady', 'Initializing', 'Initializing') was told 1 times, and is recorded 2 times"]


def test_a_commit_repeated_blindly_on_another_connection_is_found_out(line: Line, engine: Engine) -> None:
    """It succeeds, and commits nothing: the work went with the first connection."""
    line.cut_once(Cut.REQUEST_LOST)
    with line.factory() as session:
        told = [Move.of(fire_key(Job, 1, "NotReady", session, token="a blind commit"))]
        with pytest.raises(DBAPIError):
            session.commit()
        session.rollback()
        session.commit()
    found = problems(engine, told)

    assert any(what.endswith("was told, and is lost") for what in found)
    assert "(1, 'NotReady', 'Initializing', 'Initializing') was told 1 times, and is recorded 0 times" in found
