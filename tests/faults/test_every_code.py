"""Every code of the table in transactions.py, thrown by a wrapped driver at each statement of a fire and at its COMMIT."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from pymysql.err import IntegrityError, error_map
from sqlalchemy import URL, Engine, select, text
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.orm import Session, sessionmaker

from sqlalchemy_fsm_mysql import (
    FireError,
    LockTimeout,
    NotWritable,
    OutcomeUnknown,
    TransactionAborted,
    find_by_token,
    fire_key,
    run_transaction,
)
from sqlalchemy_fsm_mysql.core.failures import Cause, Meaning
from sqlalchemy_fsm_mysql.databases.messages import REFUSED
from sqlalchemy_fsm_mysql.databases.mysql import errors
from tests.evidence.record import record
from tests.faults.ledger import Job, Move, fresh_jobs, problems
from tests.faults.thrower import Throw, Thrower

pytestmark = [pytest.mark.servers_only, pytest.mark.every_driver]

# As the servers' manuals have them, written down a second time: the table is what is tested.
ABORTED = {1213, 1020, 1053, 1206, 1402, 1613, 1614, 3101, 4060, 6002, 6235, 8002, 8005, 8022, 8028, 9007}
ALIVE = {1205, 1317, 1969, 3024, 3572}
READ_ONLY = {1290, 1665, 1836, 1792, 1874, 1047, 3100, 3796, 3797, 3798, 3799}
LOST = {2006, 2013, 2026, 2027, 2055, 1158, 1159, 1160, 1161, 1927, 3032, 3168, 3169, 4031, 8501}
# The node lost the others in the middle of the COMMIT: they may have it.
UNSURE = {1047, 3100}
VALUE = {1048, 1264, 1265, 1267, 1292, 1300, 1364, 1366, 1406, 1525, 1690, 3140, 3854, 3988, 4078, 4079}
DUPLICATE = {1022, 1062, 1169, 1586}
CODES = sorted(ABORTED | ALIVE | READ_ONLY | LOST | VALUE | DUPLICATE)

AT = ["SAVEPOINT", "UPDATE", "INSERT"]


@pytest.fixture
def thrower(url: URL, engine: Engine) -> Iterator[Thrower]:
    fresh_jobs(engine, 2)
    made = Thrower(url)
    yield made
    made.engine.dispose()


def ended(connection: Any) -> None:
    connection.rollback()


def closed(connection: Any) -> None:
    connection.close()


def committed_and_closed(connection: Any) -> None:
    connection.commit()
    connection.close()


def before(code: int) -> Any:
    """What the server has done when it says this."""
    if code in LOST:
        return closed
    return ended if code in ABORTED else lambda connection: None


def outcome_of(thrower: Thrower, code: int, at: str) -> str:
    """The name of the error that a fire raises, and ``goes on`` or ``must roll back``."""
    thrower.throw = None
    with Session(thrower.engine) as session:
        fire_key(Job, 1, "Ready", session)  # the first half
        thrower.throw = Throw(code, at, before(code))
        with pytest.raises(Exception) as error:  # noqa: PT011 - which one it is, is the answer
            fire_key(Job, 2, "Ready", session, token=secrets.token_hex(8))
        assert not isinstance(error.value, FireError) or getattr(error.value, "code", code) == code
        try:
            session.execute(text("SELECT 1"))
        except PendingRollbackError:
            then = "must roll back"
            with pytest.raises(PendingRollbackError):
                session.commit()
        else:
            then = "goes on"
        session.rollback()
    return f"{type(error.value).__name__}, {then}"


def expected(code: int, at: str = "UPDATE") -> str:
    """Of a move whose record could not be written, nothing may be committed, whatever the reason."""
    if code in ALIVE | VALUE | DUPLICATE:
        # An IntegrityError may be a token that is taken, so the token's savepoint has been rolled back.
        is_integrity_error = error_map.get(code) is IntegrityError
        then = "must roll back" if at == "INSERT" and not is_integrity_error else "goes on"
        kind = "LockTimeout" if code in ALIVE else "UniqueViolation" if code in DUPLICATE else "ValueError"
        return f"{kind}, {then}"
    return f"{'NotWritable' if code in READ_ONLY else 'TransactionAborted'}, must roll back"


def found_at(thrower: Thrower, at: str) -> dict[int, str]:
    return {code: outcome_of(thrower, code, at) for code in CODES}


def test_no_code_of_the_table_is_left_out() -> None:
    assert set(CODES) == set(errors.CODES) - {REFUSED}  # a trigger's own, which no driver makes up
    assert errors.MySQLErrors.causes[Cause.UNSURE_AT_COMMIT] - {1180} == UNSURE  # whose meaning is in its text


@pytest.mark.parametrize("at", AT)
def test_an_error_of_a_statement_means_what_the_table_says(thrower: Thrower, engine: Engine, at: str) -> None:
    """Whatever comes, nothing of the first half is committed unless the caller does so."""
    assert found_at(thrower, at) == {code: expected(code, at) for code in CODES}
    assert problems(engine, []) == []
    with Session(engine) as session:
        assert session.scalars(select(Job.state).distinct()).all() == ["Initializing"]


COMMIT = {
    **dict.fromkeys(ABORTED | ALIVE, TransactionAborted),  # a COMMIT that was interrupted has been rolled back
    **dict.fromkeys(READ_ONLY - UNSURE, NotWritable),
    **dict.fromkeys(LOST | UNSURE, OutcomeUnknown),
    **dict.fromkeys(VALUE | DUPLICATE, DBAPIError),  # the driver's: nothing is known of a COMMIT that says this
}


@pytest.mark.parametrize("is_applied", [False, True], ids=["not applied", "applied"])
def test_an_error_of_commit_means_what_the_table_says(thrower: Thrower, engine: Engine, is_applied: bool) -> None:
    """Applied before the answer was lost, or not: the token tells."""
    factory, told = sessionmaker(thrower.engine), []
    for code, kind in COMMIT.items():
        if is_applied and kind is not OutcomeUnknown:
            continue
        token = secrets.token_hex(8)

        def unit(session: Session) -> None:
            fire_key(Job, 1, "NotReady", session, token=token)

        thrower.throw = Throw(code, "COMMIT", committed_and_closed if is_applied else before(code))
        with pytest.raises(kind) as error:
            run_transaction(factory, unit, attempts=1)
        assert not isinstance(error.value, DBAPIError) or code in ALIVE | VALUE | DUPLICATE
        with Session(engine) as session:
            found = find_by_token(Job.state, token, session)
        assert (found is not None) == is_applied
        if found is not None:
            assert error.value.token == token
            told.append(Move.of(found))

    assert problems(engine, told) == []


def test_what_can_be_run_again_is_run_again_and_done_once(thrower: Thrower, engine: Engine) -> None:
    factory, told = sessionmaker(thrower.engine), []
    for at in [*AT, "COMMIT"]:
        for code in sorted(ABORTED | (LOST if at != "COMMIT" else set())):
            thrower.throw = Throw(code, at, before(code))
            token = secrets.token_hex(8)
            moved = run_transaction(factory, lambda session: fire_key(Job, 1, "NotReady", session, token=token))
            assert thrower.throw.is_done
            told.append(Move.of(moved))

    assert problems(engine, told) == []


@pytest.mark.one_server
def test_a_table_of_codes_that_is_off_by_one_is_found_out(
    thrower: Thrower, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: each code with the meaning of the one before it in the table."""
    meanings: list[Meaning] = list(errors.CODES.values())
    monkeypatch.setattr(errors, "CODES", dict(zip(errors.CODES, [*meanings[-1:], *meanings[:-1]], strict=True)))
    wrong = {code for code, said in found_at(thrower, "UPDATE").items() if said != expected(code)}
    record("control", engine, wrong="table of error codes off by one", caught_by=["codes"] if wrong else [])

    assert wrong


def test_a_lock_timeout_leaves_the_first_half_to_be_committed(thrower: Thrower, engine: Engine) -> None:
    with Session(thrower.engine) as session:
        moved = fire_key(Job, 1, "Ready", session)
        thrower.throw = Throw(1205, "UPDATE")
        with pytest.raises(LockTimeout):
            fire_key(Job, 2, "Ready", session)
        session.commit()

    assert problems(engine, [Move.of(moved)]) == []
