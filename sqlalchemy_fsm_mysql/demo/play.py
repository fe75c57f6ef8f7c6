"""The demo from its first line to its exit status."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.text import Text
from sqlalchemy import Engine

from ..databases.urls import shown_url
from ..errors.texts import counted
from ..operations.signals import Signals
from .check import Contest, Finding, Stored, findings
from .orders import TABLE, machine
from .race import END_WITHIN, START_WITHIN, Race, racing, stored_orders
from .screen import GREY, NOTE, RED, Show, Snapshot, contest_table, show_findings, show_table, showing, verdict
from .stage import stage

LOOK_EVERY = 0.2  # seconds


def play(
    console: Console, *, url: str | None, workers: int, rows: int, seconds: float, server: str | None = None
) -> int:
    """Race, show, check. Returns the exit status: 0 when every check passes, else 1.

    Raises: NoStage when the database cannot be used.
    """
    has_begun = False
    try:
        with stage(url, rows, server) as engine:
            _introduce(console, engine, workers, rows, seconds)
            with racing(engine.url, workers, seconds) as race:
                _wait_for_all(console, race, workers)
                has_begun = True
                took = _watch(console, engine, race, seconds) if not race.problems else 0.0
            stored = stored_orders(engine)
    except KeyboardInterrupt:
        if not has_begun:
            console.print("Ended before the race began; its table is dropped.")
        raise
    console.print()
    show_table(console, machine, race.tally)
    found = findings(machine, race.tally, stored, begun_with=rows, lost_workers=tuple(race.problems))
    rate = race.tally.fired / took if took else 0.0
    show_findings(console, found, f"{race.tally.fired:,} fires ({rate:,.0f} a second)")
    contest = Contest.of(race.tally, stored)
    console.print(contest_table(contest))
    if contest.naive_lost:
        console.print(NOTE)
    return _verdict(console, found, contest)


def _introduce(console: Console, engine: Engine, workers: int, rows: int, seconds: float) -> None:
    console.print(
        Text.assemble(
            (f"{workers} process{'es' * (workers > 1)}, {counted(rows, 'order')}, {seconds:g} seconds.", "bold"),
            " A deleted order is replaced by a new one. The processes fire random events, each twice: in one"
            " column by the library, in another by naive code, which reads, decides and writes.",
        )
    )
    console.print(Text(f"Table {TABLE} in {shown_url(engine.url)}", GREY), soft_wrap=True)


def _wait_for_all(console: Console, race: Race, workers: int) -> None:
    """Return once every process is connected, or one has ended."""
    until = time.monotonic() + START_WITHIN
    with console.status(f"Starting {workers} processes …"):
        while race.ready < workers and not race.problems:
            if time.monotonic() > until:
                race.problems.append(f"only {race.ready} of {workers} processes were ready within {START_WITHIN:.0f} s")
            race.receive(0.05)


def _watch(console: Console, engine: Engine, race: Race, seconds: float) -> float:
    """Start the race and show it to its end; how long it took, in seconds.

    Ctrl-C or SIGTERM ends the race early. It raises nothing here, because an exception could lose a report that has
    just come.
    """
    is_enough = Signals()
    with is_enough.listening():
        begin = time.monotonic()
        race.go.set()
        with showing(console) as show:
            _show_until_over(engine, race, show, begin, seconds, is_enough)
        race.enough.set()
        took = time.monotonic() - begin
        race.receive(END_WITHIN)
    if not race.is_over:
        race.problems += [f"{process.name} did not end" for process in race.workers.values()]
    return took


def _show_until_over(
    engine: Engine, race: Race, show: Show, begin: float, seconds: float, is_enough: Callable[[], bool]
) -> None:
    earlier = [(begin, 0)]
    while not race.is_over and not is_enough() and time.monotonic() < begin + seconds + END_WITHIN:
        race.receive(LOOK_EVERY)
        now = time.monotonic()
        earlier = [*earlier, (now, race.tally.fired)][-6:]
        (since, fired), elapsed = earlier[0], now - begin
        orders = stored_orders(engine)
        show(
            Snapshot(
                elapsed=elapsed,
                seconds=seconds,
                tally=race.tally,
                live={key: row for key, row in orders.items() if row.state != "Deleted"},
                states=_states(orders),
                per_second=(race.tally.fired - fired) / (now - since),
                contest=Contest.of(race.tally, orders),
            )
        )


def _states(orders: Mapping[int, Stored]) -> dict[str, int]:
    counts = Counter(row.state for row in orders.values())
    return {str(state): counts.pop(str(state), 0) for state in machine.states} | dict(counts)


def _verdict(console: Console, found: list[Finding], contest: Contest) -> int:
    failed = sum(not finding.holds for finding in found)
    if failed:
        console.print(Text(f"{failed} of {len(found)} checks failed.", f"bold {RED}"))
        return 1
    console.print(verdict(contest))
    return 0
