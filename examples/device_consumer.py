"""A consumer of device messages, as from Kafka or MQTT: thousands of events a second by one asyncio process.

    python -m examples.device_consumer mysql+asyncmy://user:password@host/shop --messages 50000

It makes the tables in that database, sends itself as many messages for 10,000 devices, consumes them, and prints its
rate. :class:`Log` stands for the broker: partitions, messages with offsets, and a committed offset for each partition,
from which a consumer that starts again is served. With aiokafka, ``read`` is ``getmany`` and ``commit`` is ``commit``.

Four things make it safe:

- **Acknowledgement after the outcome.** An offset is committed when all messages before it have an outcome, since a
  commit stands for all of them. The messages of a process that dies are delivered again.
- **Tokens.** A message's partition and offset are the token of its fire, so a message that is delivered again moves
  nothing, and the outcome of a COMMIT that was lost is found out by asking again.
- **Order.** The messages of one device wait for each other. Those of other devices do not.
- **Back-pressure.** With `MOST_IN_FLIGHT` messages without an outcome, no further ones are read: a slow database slows
  the reading down, and fills no memory.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import delete, insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_fsm_mysql import (
    Coalescer,
    Event,
    FSMError,
    Machine,
    NotWritable,
    OutcomeUnknown,
    StateMachineColumn,
    TransactionAborted,
    TransitionHistory,
)

MOST_IN_FLIGHT = 1_024
LONGEST_WAIT = 1.0  # seconds, between two attempts at one message while the database is away


class Base(DeclarativeBase):
    pass


class Device(Base):
    __tablename__ = "consumed_devices"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="offline",
            events=[
                Event("Connect", {("offline", "faulty"): "online"}),
                Event("Lose", {("online", "faulty"): "offline"}),
                Event("Fail", {"online": "faulty"}),
            ],
        )
    )


class DeviceTransition(TransitionHistory, Base):
    __tablename__ = "consumed_device_transitions"
    __records__ = "Device.state"


@dataclass(frozen=True, slots=True)
class Message:
    partition: int
    offset: int
    device: int
    event: str

    @property
    def token(self) -> str:
        return f"{self.partition}-{self.offset}"


class Log:
    """The broker: messages by partition, and for each partition the offset up to which its messages are done."""

    def __init__(self, partitions: int) -> None:
        self.messages: list[list[Message]] = [[] for _ in range(partitions)]
        self.committed = [0] * partitions

    def send(self, device: int, event: str) -> None:
        """Add a message; those of one device are in one partition, and so in order."""
        partition = device % len(self.messages)
        self.messages[partition].append(Message(partition, len(self.messages[partition]), device, event))

    async def read(self, positions: list[int], most: int) -> list[Message]:
        """At most *most* messages from *positions* on, which are moved behind them; none when all are read."""
        found: list[Message] = []
        share = max(1, most // len(positions))
        for partition, position in enumerate(positions):
            several = self.messages[partition][position : position + min(share, most - len(found))]
            positions[partition] += len(several)
            found += several
        await asyncio.sleep(0)  # where a real client waits for the network
        return found

    def commit(self, partition: int, offset: int) -> None:
        self.committed[partition] = offset


@dataclass(slots=True)
class Progress:
    """The messages of one partition in the order of their offsets, and which of them have an outcome."""

    waiting: deque[Message] = field(default_factory=deque)
    done: set[int] = field(default_factory=set)

    def finish(self, message: Message) -> int | None:
        """Note that *message* is done; the offset to commit, None where an earlier message is not done."""
        self.done.add(message.offset)
        offset = None
        while self.waiting and self.waiting[0].offset in self.done:
            offset = self.waiting.popleft().offset + 1
            self.done.remove(offset - 1)
        return offset


class Consumer:
    """Reads messages from *log*, and fires their events by *fires*."""

    def __init__(self, log: Log, fires: Coalescer[AsyncEngine]) -> None:
        self.log, self.fires = log, fires
        self.stopping = asyncio.Event()
        self.moved = self.refused = 0
        self.rejected: list[Message] = []  # for people to look at: no such device, or no such event
        self._progress = [Progress() for _ in log.committed]
        self._last: dict[int, asyncio.Task[None]] = {}  # of each device with messages in flight
        self._room = asyncio.Semaphore(MOST_IN_FLIGHT)
        self._given_up: set[int] = set()  # devices with a message that has no outcome, while the consumer stops

    async def run(self) -> None:
        """Consume until all is read, or :meth:`stop`.

        Every message that was read has an outcome then, unless the database is away: a message without one is not
        acknowledged, nor is any later one of its device.
        """
        positions = list(self.log.committed)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._drain)
            while not self.stopping.is_set():
                messages = await self.log.read(positions, MOST_IN_FLIGHT // 4)
                if not messages:
                    return
                for message in messages:
                    await self._room.acquire()
                    self._begin(message)

    def stop(self) -> None:
        """Read no further messages, as at SIGTERM."""
        self.stopping.set()

    async def _drain(self) -> None:
        while self._last:
            await asyncio.wait(self._last.values())

    def _begin(self, message: Message) -> None:
        self._progress[message.partition].waiting.append(message)
        task = asyncio.create_task(self._handle(message, self._last.get(message.device)))
        self._last[message.device] = task

    async def _handle(self, message: Message, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        try:
            if message.device in self._given_up or not await self._fire(message):
                self._given_up.add(message.device)
                return
            offset = self._progress[message.partition].finish(message)
            if offset is not None:
                self.log.commit(message.partition, offset)
        finally:
            self._room.release()
            if self._last[message.device] is asyncio.current_task():
                del self._last[message.device]

    async def _fire(self, message: Message) -> bool:
        """Fire until there is an outcome; false when the consumer stops before there is one.

        The token makes a further attempt safe, whatever became of the one before.
        """
        wait = 0.01
        while True:
            try:
                outcome = await self.fires.try_fire_key(Device, message.device, message.event, token=message.token)
            except (OutcomeUnknown, TransactionAborted, NotWritable, DBAPIError):  # the database is away, or was
                if self.stopping.is_set():
                    return False
                await asyncio.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT)
            except FSMError:  # the message is wrong, and will be wrong the next time
                self.rejected.append(message)
                return True
            else:
                self.moved += bool(outcome)
                self.refused += not outcome
                return True


def fill(log: Log, messages: int, devices: int) -> None:
    """Send *messages* for *devices*, each of which connects, fails and is lost in turns."""
    events = ("Connect", "Fail", "Lose")
    for number in range(messages):
        log.send(number % devices + 1, events[number // devices % 3])


async def make_tables(engine: AsyncEngine, devices: int) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(delete(DeviceTransition))
        await connection.execute(delete(Device))
        keys = [{"id": key} for key in range(1, devices + 1)]
        for first in range(0, devices, 1_000):
            await connection.execute(insert(Device), keys[first : first + 1_000])


async def consume(url: str, messages: int, devices: int) -> tuple[Consumer, float]:
    """Consume as many messages, and return the consumer and the seconds that it took."""
    engine = create_async_engine(url, isolation_level="READ COMMITTED")
    await make_tables(engine, devices)
    log = Log(partitions=8)
    fill(log, messages, devices)
    async with Coalescer(engine) as fires:
        consumer = Consumer(log, fires)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, consumer.stop)
        began = time.perf_counter()
        await consumer.run()
        took = time.perf_counter() - began
    await engine.dispose()
    return consumer, took


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Consume messages of devices, and print the rate.")
    parser.add_argument(
        "url", help="such as mysql+asyncmy://user:password@host/shop; its consumed_… tables are emptied"
    )
    parser.add_argument("--messages", type=int, default=50_000)
    parser.add_argument("--devices", type=int, default=10_000)
    given = parser.parse_args(arguments)
    consumer, took = asyncio.run(consume(given.url, given.messages, given.devices))
    figures = consumer.fires.figures
    done = consumer.moved + consumer.refused
    sys.stdout.write(
        f"{done:,} messages in {took:.1f} s: {done / took:,.0f} a second\n"
        f"{consumer.moved:,} moved, {consumer.refused:,} refused, {len(consumer.rejected):,} rejected\n"
        f"{figures.packets:,} packets of {figures.mean_size:.0f} fires, the slowest {figures.longest * 1000:.0f} ms\n"
    )


if __name__ == "__main__":
    main()
