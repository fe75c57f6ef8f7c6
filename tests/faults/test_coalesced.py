"""Packets, ends of units and coalescers beside ordinary units of work, on the same rows: killed workers, cuts inside of a
packet, deadlocks, and callers that give up. Nothing that was acknowledged is lost, nothing happens twice, and no outcome is wrong."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from sqlalchemy_fsm_mysql import (
    Coalescer,
    FireError,
    Moved,
    OutcomeUnknown,
    TransactionAborted,
    TransactionRequired,
    commit_with_fire_key,
    fire_key,
    run_transaction,
    try_commit_with_fire_key,
    try_fire_key,
)
from tests.faults.crew import Log, Task, Work, moves, start, told
from tests.faults.ledger import Job, Move, fresh_jobs, problems
from tests.faults.pooling import pooling_proxy
from tests.faults.proxy import Cut, proxy, unencrypted
from tests.faults.test_killed_workers import wait_for_the_servers_side
from tests.servers import is_installed, make_engine

pytestmark = pytest.mark.servers_only

SECONDS = float(os.environ.get("FSM_RACE_SECONDS", "4"))
EVENTS = ("NotReady", "Ready", "NotReady", "Ready", "Delete")
MULTI_STATEMENTS = 1 << 16
ROWS, LEAST = 12, 300


@dataclass(frozen=True)
class Packed(Task):
    """A worker's task, with the driver's arguments for a connection that a proxy can read."""

    connect_args: dict[str, Any] = field(default_factory=dict)

    def packing(self) -> Engine:
        asked = {"fsm_one_packet": True}
        return make_engine(
            self.url, isolation_level="AUTOCOMMIT", execution_options=asked, connect_args=self.connect_args
        )

    def engine(self) -> Engine:
        return make_engine(self.url, connect_args=self.connect_args)

    def ending(self) -> Engine:
        return make_engine(self.url, execution_options={"fsm_one_packet": True}, connect_args=self.connect_args)

    @property
    def is_over(self) -> bool:
        return (self.log.parent / "stop").exists()


def fire_and_tell(task: Packed, log: Log, fire: Callable[[int, str, str], Any], dice: random.Random) -> None:
    """Fire once under a token, and write down what came of it; a token without a line after it is in doubt."""
    token = secrets.token_hex(16)
    key, name = dice.choice(list(task.keys)), dice.choice(EVENTS)
    log.tell("begin", token)
    try:
        outcome = fire(key, name, token)
    except OutcomeUnknown as error:
        assert error.token == token
        log.tell("unknown", token)
    except TransactionAborted:
        log.tell("nothing", token)
    except (DBAPIError, FireError):  # no connection to be had
        log.tell("error", token)
        time.sleep(0.02)
    else:
        if isinstance(outcome, Moved):
            # A replay is the first outcome of this very token: its answer was lost.
            log.tell("moved", *Move.of(outcome))
        else:
            log.tell("nothing", token)


def by_packets(task: Packed, log: Log) -> None:
    dice, engine = random.Random(secrets.randbits(64)), task.packing()

    def fire(key: int, name: str, token: str) -> Any:
        with engine.connect() as connection:
            return try_fire_key(Job, key, name, connection, token=token)

    while not task.is_over:
        fire_and_tell(task, log, fire, dice)


def by_threads(task: Packed, log: Log) -> None:
    """A coalescer that six threads call."""
    lock, telling = threading.Lock(), log.tell

    def tell(*values: Any) -> None:
        with lock:
            telling(*values)

    log.tell = tell  # type: ignore[method-assign]
    with Coalescer(task.engine(), max_batch=16, max_wait=timedelta(milliseconds=1)) as fires:

        def work() -> None:
            dice = random.Random(secrets.randbits(64))
            while not task.is_over:
                fire_and_tell(task, log, lambda key, name, token: fires.try_fire_key(Job, key, name, token=token), dice)

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def by_tasks(task: Packed, log: Log) -> None:
    """A coalescer that twenty tasks call, some of which give up."""
    asyncio.run(_tasks(task, log))


async def _tasks(task: Packed, log: Log) -> None:
    engine = create_async_engine(task.url.set(drivername="mysql+asyncmy"))
    async with Coalescer(engine, max_batch=16, max_wait=timedelta(milliseconds=1)) as fires:

        async def work() -> None:
            dice = random.Random(secrets.randbits(64))
            while not task.is_over:
                token, key, name = secrets.token_hex(16), dice.choice(list(task.keys)), dice.choice(EVENTS)
                log.tell("begin", token)
                patience = dice.choice((0.002, 30.0, 30.0, 30.0))  # seconds
                try:
                    outcome = await asyncio.wait_for(_fired(fires, key, name, token), patience)
                except asyncio.TimeoutError:
                    log.tell("cancelled", token)
                    continue
                except OutcomeUnknown:
                    log.tell("unknown", token)
                    continue
                except (DBAPIError, FireError):
                    log.tell("error", token)
                    await asyncio.sleep(0.02)
                    continue
                log.tell(*(("moved", *Move.of(outcome)) if isinstance(outcome, Moved) else ("nothing", token)))

        await asyncio.gather(*(work() for _ in range(20)))
    await engine.dispose()


async def _fired(fires: Any, key: int, name: str, token: str) -> Any:
    return await fires.try_fire_key(Job, key, name, token=token)


def by_units(task: Packed, log: Log) -> None:
    """Two rows a unit, in any order: with each other and with batches, such units end in deadlocks."""
    dice, factory = random.Random(secrets.randbits(64)), sessionmaker(task.engine())
    while not task.is_over:
        keys, tokens = dice.sample(list(task.keys), 2), [secrets.token_hex(16), secrets.token_hex(16)]
        name = dice.choice(EVENTS)
        log.tell("begin", tokens[0])
        log.tell("begin", tokens[1])

        def unit(session: Session) -> list[Any]:
            first = fire_key(Job, keys[0], name, session, token=tokens[0])
            time.sleep(0.002)
            return [first, fire_key(Job, keys[1], name, session, token=tokens[1])]

        try:
            for moved in run_transaction(factory, unit, attempts=3):
                log.tell("moved", *Move.of(moved))
        except (FireError, DBAPIError):  # unknown or nothing: in doubt
            time.sleep(0.01)


def by_ends(task: Packed, log: Log) -> None:
    """One or two fires, the last in one packet with COMMIT: in a session, on a connection, or as a unit that runs again."""
    dice, engine = random.Random(secrets.randbits(64)), task.ending()
    while not task.is_over:
        number, name = dice.choice((1, 2, 2)), dice.choice(EVENTS)
        keys, tokens = dice.sample(list(task.keys), number), [secrets.token_hex(16) for _ in range(number)]
        for token in tokens:
            log.tell("begin", token)
        runs: list[Any] = []
        try:
            outcomes = end_once(engine, dice, list(zip(keys, tokens, strict=True)), name, runs)
        except OutcomeUnknown as error:
            # Where a unit runs again, its last fire can be a replay, which says nothing about the COMMIT that was lost.
            assert tokens[-1] in error.tokens or len(runs) > 1
            for token in tokens:
                log.tell("unknown", token)
        except (FireError, DBAPIError):  # nothing, or in doubt
            time.sleep(0.01)
        else:
            is_committed = bool(outcomes[-1])  # else the unit is rolled back
            for token, outcome in zip(tokens, outcomes, strict=True):
                is_moved = is_committed and isinstance(outcome, Moved)
                log.tell(*(("moved", *Move.of(outcome)) if is_moved else ("nothing", token)))


def end_once(
    engine: Engine, dice: random.Random, fires: list[tuple[int, str]], name: str, runs: list[Any]
) -> list[Any]:
    """The outcomes of one unit; *runs* gets an entry each time that it runs."""

    def unit(place: Any) -> list[Any]:
        runs.append(place)
        *before, (key, token) = fires
        outcomes = [try_fire_key(Job, one, name, place, token=its) for one, its in before]
        return [*outcomes, try_commit_with_fire_key(Job, key, name, place, token=token)]

    factory: Any = dice.choice((sessionmaker(engine), engine))
    if dice.random() < 0.5:
        return run_transaction(factory, unit, attempts=3, idempotent=dice.random() < 0.5)
    with factory.connect() if factory is engine else factory() as place:
        return unit(place)


def by_async_ends(task: Packed, log: Log) -> None:
    """Ends in asyncio, whose callers may give up within the packet."""
    asyncio.run(_async_ends(task, log))


async def _async_ends(task: Packed, log: Log) -> None:
    url = task.url.set(drivername="mysql+asyncmy")
    engine = create_async_engine(url, execution_options={"fsm_one_packet": True}, pool_size=10)

    async def ended(key: int, name: str, token: str) -> Any:
        async with AsyncSession(engine) as session:
            return await try_commit_with_fire_key(Job, key, name, session, token=token)

    async def work() -> None:
        dice = random.Random(secrets.randbits(64))
        while not task.is_over:
            token, key, name = secrets.token_hex(16), dice.choice(list(task.keys)), dice.choice(EVENTS)
            log.tell("begin", token)
            try:
                outcome = await asyncio.wait_for(ended(key, name, token), dice.choice((0.002, 0.01, 30.0, 30.0)))
            except asyncio.TimeoutError:
                log.tell("cancelled", token)
            except OutcomeUnknown:
                log.tell("unknown", token)
            except (DBAPIError, FireError):
                log.tell("error", token)
                await asyncio.sleep(0.02)
            else:
                log.tell(*(("moved", *Move.of(outcome)) if isinstance(outcome, Moved) else ("nothing", token)))

    await asyncio.gather(*(work() for _ in range(4)))
    await engine.dispose()


WORKERS: tuple[Work, ...] = (  # type: ignore[assignment]
    by_packets,
    by_ends,
    by_ends,
    by_async_ends,
    by_threads,
    by_tasks,
    by_units,
)


@contextmanager
def cutting(url: URL, share: float) -> Iterator[Any]:
    """A proxy that cuts a share of the packets that commit, at any place."""
    dice, places = random.Random(7), [cut for cut in Cut if cut not in (Cut.NEVER, Cut.BEFORE)]

    def choose(statement: str) -> Cut:
        is_commit = statement.endswith("COMMIT") and (statement == "COMMIT" or "FAULT_JOBS" in statement)
        return dice.choice(places) if is_commit and dice.random() < share else Cut.NEVER

    with proxy(url, choose) as between:
        yield between


@pytest.mark.parametrize("share", [0.0, 0.1], ids=["kills", "kills and cuts"])
def test_no_outcome_is_lost_doubled_or_wrong(
    url: URL, engine: Engine, tmp_path: Any, figures: Any, share: float
) -> None:
    keys = fresh_jobs(engine, ROWS)
    arguments = unencrypted(url)
    if url.get_driver_name() == "pymysql":
        arguments["client_flag"] = MULTI_STATEMENTS
    works = [work for work in WORKERS if work not in (by_tasks, by_async_ends) or is_installed("asyncmy")]
    dice, running, number = random.Random(5), [], 0
    with cutting(url, share) as between:
        first = Packed(0, between.url, tmp_path / "0.log", keys, connect_args=arguments)

        def started(work: Work) -> tuple[Any, Work]:
            nonlocal number
            number += 1
            return start(work, replace(first, number=number, log=tmp_path / f"{number}.log")), work

        running = [started(work) for work in works]
        end = time.monotonic() + SECONDS
        killed = 0
        while time.monotonic() < end or len(moves(told(sorted(tmp_path.glob("*.log"))))) < LEAST:
            time.sleep(dice.uniform(0.3, 0.6))
            victim = dice.randrange(len(running))
            running[victim][0].kill()
            running[victim][0].join()
            running[victim] = started(running[victim][1])
            killed += 1
            if time.monotonic() > end + 60:
                break
        (tmp_path / "stop").touch()
        for process, _ in running:
            process.join(60)
        alive = [process for process, _ in running if process.is_alive()]
        for process in alive:
            process.kill()
    lines = told(sorted(tmp_path.glob("*.log")))
    assert [values[0] for kind, *values in lines if kind == "failed"] == []
    assert not alive
    acknowledged = moves(lines)
    begun = {values[0] for kind, *values in lines if kind == "begin"}
    nothing = {values[0] for kind, *values in lines if kind == "nothing"}
    in_doubt = begun - nothing - {move.token for move in acknowledged}
    with suppress(DBAPIError):
        wait_for_the_servers_side(engine, in_doubt)
    unknown = sum(kind == "unknown" for kind, *_ in lines)
    cancelled = sum(kind == "cancelled" for kind, *_ in lines)
    figures(killed=killed, acknowledged=len(acknowledged), nothing=len(nothing), unknown=unknown, cancelled=cancelled)

    assert len(acknowledged) >= LEAST
    assert problems(engine, acknowledged, in_doubt) == []


def test_a_proxy_without_multi_statements_is_told_and_coalescers_go_on(url: URL, engine: Engine) -> None:
    """The proxy does not announce them, so its server takes the packet for one statement, and runs none of it."""
    keys = fresh_jobs(engine, 6)
    arguments = unencrypted(url)
    if url.get_driver_name() == "pymysql":
        arguments["client_flag"] = MULTI_STATEMENTS
    with pooling_proxy(url) as between:
        task = Packed(0, between.url, Path("unused"), keys, connect_args=arguments)
        packing, ordinary = task.packing(), task.engine()
        with packing.connect() as connection, pytest.raises(TransactionRequired, match="one statement"):
            fire_key(Job, keys[0], "Ready", connection)
        ending = task.ending()
        with Session(ending) as session:  # sent again statement by statement, with the COMMIT apart
            ended = [commit_with_fire_key(Job, keys[0], "Ready", session, token=token) for token in (None, "t", "t")]
        with Coalescer(ordinary, max_wait=timedelta(milliseconds=30)) as fires, ThreadPoolExecutor(6) as threads:
            moved = list(threads.map(lambda key: fires.fire_key(Job, key, "Ready"), keys[1:]))
        packing.dispose()
        ending.dispose()
        ordinary.dispose()
    assert [(str(one.source), str(one.target), one.sequence) for one in moved] == [("Initializing", "Running", 1)] * 5
    assert [(one.sequence, one.replayed) for one in ended] == [(1, False), (2, False), (2, True)]
    assert problems(engine, [Move.of(one) for one in (*ended[:2], *moved)]) == []
