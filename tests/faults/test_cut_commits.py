"""The connection is cut around COMMIT, on both sides of it: nothing acknowledged is lost, nothing is done twice, and every
unknown outcome resolves right."""

from __future__ import annotations

import random
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import stamina
from sqlalchemy import URL, Engine
from sqlalchemy.orm import Session, sessionmaker

from sqlalchemy_fsm_mysql import Moved, OutcomeUnknown, find_by_token, fire_key, run_transaction
from tests.faults.ledger import Job, Move, fresh_jobs, problems, recorded
from tests.faults.proxy import UNKNOWN, Cut, proxy, unencrypted
from tests.servers import make_engine

pytestmark = [pytest.mark.servers_only, pytest.mark.every_driver]

UNITS = 60


class Line:
    """A connection through a proxy that cuts as `plan` says, at each COMMIT."""

    def __init__(self, factory: sessionmaker[Session]) -> None:
        self.factory = factory
        self.plan: Callable[[str], Cut] = lambda statement: Cut.NEVER
        self.cuts: list[Cut] = []

    def cut_once(self, cut: Cut, at: str = "COMMIT") -> None:
        """At the next statement that begins with *at*."""
        left = [cut]
        self.plan = lambda statement: left.pop() if left and statement.startswith(at) else Cut.NEVER

    def cut_at_random(self, dice: random.Random) -> None:
        """At each COMMIT, and at one UPDATE in ten."""
        at_commit = [cut for cut in Cut if cut is not Cut.BEFORE]

        def plan(statement: str) -> Cut:
            if statement == "COMMIT":
                return dice.choice(at_commit)
            return Cut.BEFORE if statement.startswith("UPDATE") and dice.random() < 0.1 else Cut.NEVER

        self.plan = plan


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """The attempts are as asked for, without the waits between them."""
    with stamina.set_testing(True, attempts=1000, cap=True):
        yield


@pytest.fixture
def keys(engine: Engine) -> list[int]:
    return fresh_jobs(engine, 5)


@contextmanager
def line_to(url: URL) -> Iterator[Line]:
    line = Line(sessionmaker())
    with proxy(url, lambda statement: line.plan(statement)) as between:
        engine = make_engine(between.url, connect_args=unencrypted(url))
        line.factory.configure(bind=engine)
        line.cuts = between.cuts
        yield line
        engine.dispose()


@pytest.fixture
def line(url: URL, keys: list[int]) -> Iterator[Line]:
    with line_to(url) as line:
        run_transaction(line.factory, lambda session: session.get(Job, 1))  # the pool has a connection
        line.cuts.clear()
        yield line


def resolved(engine: Engine, token: str | None) -> Moved[Any] | None:
    """What another connection, to the server itself, finds."""
    assert token is not None
    with Session(engine) as session:
        return find_by_token(Job.state, token, session)


# --- one cut at a time


@pytest.mark.parametrize(
    ("cut", "is_there"),
    [(Cut.REQUEST_LOST, False), (Cut.ANSWER_LOST, True), (Cut.AT_ONCE, None)],
    ids=lambda v: getattr(v, "name", ""),
)
def test_a_commit_that_is_cut_is_an_unknown_outcome_that_resolves_right(
    line: Line, engine: Engine, cut: Cut, is_there: bool | None
) -> None:
    token, runs = secrets.token_hex(16), []

    def unit(session: Session) -> Moved[Job]:
        runs.append(1)
        return fire_key(Job, 1, "Ready", session, token=token)

    line.cut_once(cut)
    with pytest.raises(OutcomeUnknown) as error:
        run_transaction(line.factory, unit)
    found = resolved(engine, error.value.token)

    assert ([cut], 1, [token]) == (line.cuts, len(runs), error.value.tokens)
    assert is_there is None or (found is not None) == is_there
    assert problems(engine, [Move.of(found)] if found else []) == []


def test_a_cut_before_the_commit_is_no_unknown_outcome_and_the_unit_is_run_again(line: Line, engine: Engine) -> None:
    line.cut_once(Cut.BEFORE, at="INSERT INTO FAULT_JOB_STEPS")
    moved = run_transaction(line.factory, lambda session: fire_key(Job, 1, "Ready", session))

    assert (line.cuts, len(recorded(engine))) == ([Cut.NEVER], 1)
    assert problems(engine, [Move.of(moved)]) == []


def test_a_cut_after_the_commit_is_found_by_the_next_unit_and_does_not_hurt_it(line: Line, engine: Engine) -> None:
    line.cut_once(Cut.AFTERWARDS)
    told = [
        Move.of(run_transaction(line.factory, lambda session: fire_key(Job, 1, "Ready", session))) for _ in range(3)
    ]

    assert line.cuts == [Cut.AFTERWARDS, Cut.NEVER, Cut.NEVER]
    assert problems(engine, told) == []


@pytest.mark.parametrize("cut", [Cut.REQUEST_LOST, Cut.ANSWER_LOST, Cut.AT_ONCE], ids=lambda cut: cut.name)
def test_an_idempotent_unit_is_done_once_whatever_became_of_its_commit(line: Line, engine: Engine, cut: Cut) -> None:
    token = secrets.token_hex(16)
    line.cut_once(cut)
    moved = run_transaction(
        line.factory, lambda session: fire_key(Job, 1, "NotReady", session, token=token), idempotent=True
    )

    assert cut is Cut.AT_ONCE or moved.replayed == (cut is Cut.ANSWER_LOST)
    assert problems(engine, [Move.of(moved)]) == []


# --- many, by chance


def test_of_many_commits_cut_at_random_none_is_lost_and_none_is_doubled(
    line: Line, engine: Engine, keys: list[int], figures: Any
) -> None:
    dice = random.Random(5)
    line.cut_at_random(random.Random(6))
    told: list[Move] = []
    counts: Counter[str] = Counter()
    for _ in range(UNITS):
        key, token = dice.choice(keys), secrets.token_hex(16)
        try:
            moved = run_transaction(
                line.factory, lambda session: fire_key(Job, key, "NotReady", session, token=token), attempts=20
            )
        except OutcomeUnknown as error:
            found = resolved(engine, error.token)
            counts["unknown"] += 1
            counts["applied" if found else "not_applied"] += 1
            told += [Move.of(found)] if found else []
        else:
            counts["acknowledged"] += 1
            told.append(Move.of(moved))
    found_wrong = problems(engine, told)
    figures(
        units=UNITS,
        **counts,
        lost=sum("lost" in what for what in found_wrong),
        doubled=len(recorded(engine)) - len(told),
    )

    assert found_wrong == []
    assert counts["unknown"] == sum(cut in UNKNOWN for cut in line.cuts)
    assert counts["applied"] > 0 < counts["not_applied"]


def test_of_many_idempotent_units_each_is_done_once(line: Line, engine: Engine, keys: list[int], figures: Any) -> None:
    dice = random.Random(7)
    line.cut_at_random(random.Random(8))
    told: list[Move] = []
    for _ in range(UNITS // 2):
        key, tokens = dice.choice(keys), [secrets.token_hex(16), secrets.token_hex(16)]

        def unit(session: Session) -> list[Moved[Job]]:
            return [fire_key(Job, key, "NotReady", session, token=token) for token in tokens]

        told += [Move.of(moved) for moved in run_transaction(line.factory, unit, attempts=50, idempotent=True)]
    figures(units=UNITS // 2, cut=sum(cut in UNKNOWN for cut in line.cuts), doubled=len(recorded(engine)) - len(told))

    assert problems(engine, told) == []
