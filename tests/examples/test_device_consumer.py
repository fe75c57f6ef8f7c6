"""The consumer of the documentation: each message once, whatever happens to the process that handles it."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Engine, func, select, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from examples import device_consumer
from examples.device_consumer import Base, Consumer, Device, DeviceTransition, Log, fill, main, make_tables
from sqlalchemy_fsm_mysql import Coalescer, replay
from tests.servers import is_installed

pytestmark = [
    pytest.mark.servers_only,
    pytest.mark.skipif(not is_installed("asyncmy"), reason="the consumer needs asyncmy, a driver for asyncio"),
]

ROOT = Path(__file__).parents[2]
MESSAGES, DEVICES = 900, 60


@pytest.fixture
def address(url: URL, engine: Engine) -> Iterator[str]:
    """The database for asyncio; its tables are dropped afterwards."""
    if url.get_driver_name() == "mysqldb":
        pytest.skip("the consumer has a driver of its own, so one run a server is enough")
    yield url.set(drivername="mysql+asyncmy").render_as_string(hide_password=False)
    Base.metadata.drop_all(engine)


def consumed(address: str, work: Callable[[Consumer], Awaitable[None]], *, log: Log, is_new: bool = True) -> Consumer:
    """A consumer of *log*, after *work* with it."""

    async def run() -> Consumer:
        engine = create_async_engine(address)
        if is_new:
            await make_tables(engine, DEVICES)
        async with Coalescer(engine) as fires:
            consumer = Consumer(log, fires)
            await asyncio.wait_for(work(consumer), 60)
        await engine.dispose()
        return consumer

    return asyncio.run(run())


def filled() -> Log:
    log = Log(partitions=4)
    fill(log, MESSAGES, DEVICES)
    return log


def recorded(engine: Engine) -> int:
    """The number of history rows; each device's are numbered without a gap, and lead to its state."""
    history: Any = DeviceTransition  # its attribute record_id is made with the mapping
    with Session(engine) as session:
        steps = session.scalars(select(history).order_by(history.record_id, history.sequence)).all()
        states = {row.id: row.state for row in session.execute(select(Device.id, Device.state))}
    for key, rows in groupby(steps, lambda step: step.record_id):
        assert replay(rows) == states[key]
    assert len({step.token for step in steps}) == len(steps)
    return len(steps)


def test_it_prints_its_rate_and_each_message_has_moved_its_device(
    address: str, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    main([address, "--messages", str(MESSAGES), "--devices", str(DEVICES)])

    rate, outcomes, packets = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"900 messages in [\d.]+ s: [\d,]+ a second", rate)
    assert outcomes == "900 moved, 0 refused, 0 rejected"
    assert re.match(r"\d+ packets of \d+ fires", packets)
    assert recorded(engine) == MESSAGES


def test_the_messages_of_a_killed_process_are_delivered_again_and_move_nothing_twice(
    address: str, engine: Engine
) -> None:
    command = [sys.executable, "-m", "examples.device_consumer", address, "--messages", "200000", "--devices", "60"]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end and not _is_under_way(engine):
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    time.sleep(0.5)  # the server may still be at the last packet
    before, log = recorded(engine), Log(partitions=8)
    fill(log, before + 600, DEVICES)
    consumer = consumed(address, Consumer.run, log=log, is_new=False)

    assert before > 100
    assert (consumer.moved, consumer.refused) == (before + 600, 0)
    assert recorded(engine) == before + 600


def _is_under_way(engine: Engine) -> bool:
    query = text(
        "SELECT count(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = :name"
    )
    with engine.connect() as connection:
        is_there = connection.scalar(query, {"name": DeviceTransition.__tablename__})
        return bool(is_there) and (connection.scalar(select(func.count()).select_from(DeviceTransition)) or 0) > 100


def test_a_consumer_that_is_stopped_leaves_nothing_half_done(address: str, engine: Engine) -> None:
    log = filled()

    async def until_some(consumer: Consumer) -> None:
        task = asyncio.create_task(consumer.run())
        while consumer.moved < 100:  # noqa: ASYNC110 - the consumer has no event for it
            await asyncio.sleep(0.001)
        consumer.stop()
        await task

    first = consumed(address, until_some, log=log)
    assert sum(log.committed) == first.moved == recorded(engine)
    second = consumed(address, Consumer.run, log=log, is_new=False)

    assert (first.moved + second.moved, sum(log.committed)) == (MESSAGES, MESSAGES)
    assert recorded(engine) == MESSAGES


def test_a_database_that_answers_late_keeps_messages_in_the_log(
    address: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another transaction holds a row: the batch with it waits, and nothing is read beyond the limit."""
    monkeypatch.setattr(device_consumer, "MOST_IN_FLIGHT", 40)
    log, read = filled(), [0]
    original = log.read

    async def counting(positions: list[int], most: int) -> list[device_consumer.Message]:
        messages = await original(positions, most)
        read[0] += len(messages)
        return messages

    monkeypatch.setattr(log, "read", counting)

    async def work(consumer: Consumer) -> None:
        with engine.begin() as connection:
            connection.execute(select(Device.id).with_for_update())
            task = asyncio.create_task(consumer.run())
            await asyncio.sleep(0.5)
            assert (consumer.moved, sum(log.committed)) == (0, 0)
            assert 40 <= read[0] <= 50
        await task

    consumer = consumed(address, work, log=log)
    assert (consumer.moved, sum(log.committed), recorded(engine)) == (MESSAGES, MESSAGES, MESSAGES)


def test_a_message_that_is_wrong_is_set_aside_and_holds_up_no_other(address: str, engine: Engine) -> None:
    log = Log(partitions=2)
    log.send(1, "Connect")
    log.send(1, "Explode")  # no such event
    log.send(10**6, "Connect")  # no such device
    log.send(1, "Connect")  # refused: it is online
    log.send(2, "Connect")
    consumer = consumed(address, Consumer.run, log=log)

    assert (consumer.moved, consumer.refused, len(consumer.rejected)) == (2, 1, 2)
    assert (sum(log.committed), recorded(engine)) == (5, 2)


def test_without_a_database_it_stops_and_acknowledges_nothing(address: str) -> None:
    log, away = filled(), "mysql+asyncmy://root@127.0.0.1:1/test"

    async def work(consumer: Consumer) -> None:
        task = asyncio.create_task(consumer.run())
        await asyncio.sleep(0.3)
        consumer.stop()
        await task

    consumer = consumed(away, work, log=log, is_new=False)
    assert (consumer.moved, consumer.refused, consumer.rejected, sum(log.committed)) == (0, 0, [], 0)
