"""Servers of several releases of one program, at work on the same rows: each is a process with a machine of its own.

The program renames the state 'Error' to 'Failed'. The recipe is in docs/evolution.md; what a release knows is here.
"""

from __future__ import annotations

import multiprocessing
import random
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import URL, make_url
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from sqlalchemy_fsm_mysql import (
    Event,
    Machine,
    StateMachineColumn,
    TransitionHistory,
    run_transaction,
    try_fire_key,
)
from tests.servers import make_engine

ROWS = 60
# What each release writes, and what it understands besides.
RELEASES: dict[str, tuple[str, dict[str, str]]] = {
    "before": ("Error", {}),
    "knows both": ("Error", {"Failed": "Error"}),
    "writes the other": ("Failed", {"Error": "Failed"}),
    "after": ("Failed", {}),
}
EVENTS = ("Fail", "Repair", "Stop", "Start")


def program(release: str) -> tuple[Any, Any]:
    """The model and the history of a release."""
    failed, aliases = RELEASES[release]

    class Base(DeclarativeBase):
        pass

    class Order(Base):
        __tablename__ = "orders"
        id: Mapped[int] = mapped_column(primary_key=True)
        state: Mapped[str] = StateMachineColumn(
            Machine(
                initial="Running",
                events=[
                    Event("Fail", {("Running", failed): failed}),
                    Event("Repair", {failed: "Running"}),
                    Event("Stop", {("Running", failed): "Stopped"}),
                    Event("Start", {"Stopped": "Running"}),
                ],
                aliases=aliases,
            )
        )

    class OrderTransition(TransitionHistory, Base):
        __tablename__ = "order_transitions"
        __records__ = Order.state

    return Order, OrderTransition


def serve(url: str, release: str, seed: int, fires: Any, stop: Any, results: Any) -> None:
    """Fire random events on random rows until told to stop; send what happened: outcomes by name, and errors."""
    outcomes: Counter[str] = Counter()
    errors: list[str] = []
    Order, _ = program(release)
    engine = make_engine(make_url(url))
    sessions = sessionmaker(engine)
    rng = random.Random(seed)

    def fire(session: Session) -> bool:
        return bool(try_fire_key(Order, key, event, session, actor=release))

    while not stop.is_set():
        key, event = rng.randint(1, ROWS), rng.choice(EVENTS)
        try:
            outcomes["moved" if run_transaction(sessions, fire) else "refused"] += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, the test wants to see it
            errors.append(f"{release}: {event} on {key}: {error!r}\n{traceback.format_exc(limit=-2)}")
            outcomes[type(error).__name__] += 1
        fires.value += 1
    engine.dispose()
    results.put((outcomes, errors))


class Fleet:
    """The servers that run now."""

    def __init__(self, url: URL) -> None:
        self.url = url.render_as_string(hide_password=False)
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload([__name__])
        self.servers: list[tuple[Any, Any, Any]] = []
        self.results = self.context.Queue()
        self.outcomes: Counter[str] = Counter()
        self.errors: list[str] = []
        self._seeds = iter(range(1_000_000))

    def start(self, release: str, number: int) -> None:
        for _ in range(number):
            fires, stop = self.context.Value("L", 0, lock=False), self.context.Event()
            arguments = (self.url, release, next(self._seeds), fires, stop, self.results)
            process = self.context.Process(target=serve, args=arguments, daemon=True)
            process.start()
            self.servers.append((process, fires, stop))

    def work(self, fires: int) -> None:
        """Wait until each of the servers has fired *fires* times more."""
        wanted = [count.value + fires for _, count, _ in self.servers]
        deadline = time.monotonic() + 120
        while any(count.value < least for (_, count, _), least in zip(self.servers, wanted, strict=True)):
            assert time.monotonic() < deadline, [count.value for _, count, _ in self.servers]
            time.sleep(0.01)

    def stop(self, number: int | None = None) -> None:
        """Stop the *number* that run longest, or all."""
        stopping, self.servers = self.servers[:number], self.servers[len(self.servers[:number]) :]
        for _, _, stop in stopping:
            stop.set()
        for _ in stopping:
            outcomes, errors = self.results.get(timeout=60)
            self.outcomes += outcomes
            self.errors += errors
        for process, _, _ in stopping:
            process.join()

    def deploy(self, release: str, fires: int, number: int = 8) -> None:
        """Half of the servers get the release, then the other half."""
        for _ in range(2):
            self.stop(number // 2)
            self.start(release, number // 2)
            self.work(fires)


@contextmanager
def fleet(url: URL) -> Iterator[Fleet]:
    running = Fleet(url)
    try:
        yield running
    finally:
        running.stop()
