"""Processes that fire at once on a user's own rows, and what must hold afterwards whatever the order was.

Each process reports every outcome it got. If all are true, the moves of a row by all processes can be laid end to
end: one path from the state that the row began in to the one that is stored. Had two processes moved it out of the
same state, or another program written past the machine, there would be a gap.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeAlias

from sqlalchemy import URL, Engine, create_engine, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from ..core.target import plain_key
from ..databases import is_embedded, is_in_memory
from ..demo.check import path_problem
from ..errors import HistoryError
from ..errors.texts import row_label, shown, stored_form
from ..orm.calls import try_fire_key
from ..orm.history import replay
from ..orm.mapped import MappedState, attribute_state
from ..orm.units import run_transaction
from ..outcomes import Moved, Refused

__all__ = ["RaceReport", "race"]

# (session, key, event, payload): fires once, and returns what came of it.
Unit: TypeAlias = Callable[..., "Moved[Any] | Refused[Any]"]  # Any: the model of the column

START_WITHIN = 60.0  # seconds, for all processes to import and connect
END_WITHIN = 300.0  # seconds, for all of a process's fires
SHOWN_PROBLEMS = 10
MOST = 1_000_000


@dataclass(slots=True)
class RaceReport:
    """The report of a race.

    - `moved`: the number of moves by ``(key, event, source, target)``, with stored states.
    - `refused`: the number of refusals by ``(key, event, state, reason)``.
    - `again`: how often a unit of work ran again, because the server had ended it.
    - `problems`: the reports that cannot be true; empty after a correct race.
    """

    # Any: a primary key has the type that its model gives it.
    moved: Counter[tuple[Any, str, str, str]] = field(default_factory=Counter)
    # Any: as above.
    refused: Counter[tuple[Any, str, str, str]] = field(default_factory=Counter)
    again: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Raises: AssertionError, telling what cannot be true."""
        if self.problems:
            hidden = len(self.problems) - SHOWN_PROBLEMS
            more = [f"({hidden} more not shown)"] if hidden > 0 else []
            raise AssertionError("\n- ".join(["the race was not fair:", *self.problems[:SHOWN_PROBLEMS], *more]))


def race(
    url: URL | str,
    column: object,
    keys: Iterable[object],
    *,
    events: Sequence[str] | None = None,
    payloads: Mapping[str, Sequence[Mapping[str, object]]] | None = None,
    fire: Unit | None = None,
    processes: int = 4,
    fires: int = 100,
    isolation_level: str | None = "READ COMMITTED",
    seed: int = 0,
    check: bool = True,
) -> RaceReport:
    """Let *processes* new processes fire on the rows *keys* of *column* (``Order.state``) at once, *fires* times each.

    Returns: a `RaceReport`.

    The rows have to be committed. *events* are the events to choose from, by default all; an event that is named
    several times is chosen more often. *payloads* are, by event, the payloads to choose from. *fire* replaces the fire
    by key: a function of a module that is called as ``fire(session, key, event, payload)`` in a transaction of its own,
    and returns the outcome of one fire. *isolation_level* is that of the processes; None is the server's default, and
    SQLite ignores it.

    It checks that each move and each refusal is one that the machine declares, and that the moves of each row are one
    path from the state before to the state after. With a history, it also checks that the history has as many more
    rows, and that it replays.

    The processes import the model's module by its name, so a script needs ``if __name__ == "__main__":``. On SQLite the
    database is a file.

    Raises: AssertionError when a report cannot be true, unless *check* is false: then the problem is in the report's
    ``problems``. RuntimeError when a process failed. TypeError and ValueError for arguments that do not fit.
    """
    mapped = attribute_state(column)
    _require_kinds(keys=keys, events=events, payloads=payloads, fire=fire, isolation_level=isolation_level, seed=seed)
    rows = [mapped.key_parts(key) for key in keys]
    chosen = list(mapped.machine.events if events is None else map(mapped.machine.event_name, events))
    _require(mapped, rows, chosen, payloads or {}, processes, fires)
    target = _url(url)
    _require_shared(target)
    engine = _engine(target, isolation_level)
    try:
        before = _stored(engine, mapped, rows)
        begin = time.monotonic()
        # By name: what is pickled is imported in the process.
        arguments = (mapped.model, mapped.attribute, rows, chosen, payloads or {}, fire)
        report = _run(processes, (target, isolation_level, fires, seed, arguments))
        report.seconds = time.monotonic() - begin
        report.problems = list(_problems(mapped, report, before, _stored(engine, mapped, rows)))
    finally:
        engine.dispose()
    if check:
        report.check()
    return report


@dataclass(frozen=True, slots=True)
class Stored:
    """A row: its state, and how many records its history has."""

    state: str
    records: int
    fault: str | None = None


def _require_kinds(
    *, keys: object, events: object, payloads: object, fire: object, isolation_level: object, seed: object
) -> None:
    """Raises: TypeError for an argument of a wrong kind."""
    for name, values in (("keys", keys), ("events", events)):
        is_none = values is None and name == "events"
        if not is_none and (not isinstance(values, Iterable) or isinstance(values, (str, bytes))):
            raise TypeError(f"{name}={shown(values)}; it must be a list")
    if payloads is not None and not isinstance(payloads, Mapping):
        raise TypeError(f"payloads={shown(payloads)}; it must be a dict, by event")
    if fire is not None and not callable(fire):
        raise TypeError(f"fire={shown(fire)}; it must be a function")
    if isolation_level is not None and not isinstance(isolation_level, str):
        raise TypeError(f"isolation_level={shown(isolation_level)}; it must be a string")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise TypeError(f"seed={shown(seed)}; it must be a whole number")


def _require(
    mapped: MappedState,
    rows: Collection[Any],
    events: Collection[str],
    payloads: Mapping[str, Sequence[Any]],
    processes: int,
    fires: int,
) -> None:
    if not rows or not events:
        raise ValueError(f"nothing to race for: {len(rows)} rows, {len(events)} events")
    numbers: dict[str, object] = {"processes": processes, "fires": fires}
    for name, number in numbers.items():
        if not isinstance(number, int) or isinstance(number, bool):
            raise TypeError(f"{name}={shown(number)}; it must be a whole number")
        if not 1 <= number <= MOST:
            raise ValueError(f"{name}={shown(number)}; both are at least 1, and at most {MOST:,}")
    for event in events:
        names = mapped.machine.payload(event)
        if names and not payloads.get(event):
            raise TypeError(f"{event!r} takes {', '.join(names)}: give payloads={{{event!r}: [{{…}}, …]}}")


def _url(url: object) -> URL:
    if not isinstance(url, (str, URL)):
        raise TypeError(f"url={shown(url)}; it must be a URL")
    try:
        target = make_url(url)
        target.get_dialect()
    except SQLAlchemyError as error:  # the text of a URL can have a password
        raise ValueError(
            f"this is not a URL of a database, or its driver is unknown: {type(error).__name__}"
        ) from error
    return target


def _require_shared(url: URL) -> None:
    if is_in_memory(url):
        raise ValueError("a database in memory is of one process: race on a file, or on a server")
    if url.get_dialect().is_async:
        raise ValueError(f"{url.drivername} is a driver for asyncio: race with one that is not, such as mysql+pymysql")


def _engine(url: URL, isolation_level: str | None) -> Engine:
    if is_embedded(url):  # it has one writer at a time, and the others wait for so many seconds
        return create_engine(url, connect_args={"timeout": END_WITHIN / 5})
    return create_engine(url) if isolation_level is None else create_engine(url, isolation_level=isolation_level)


def _stored(engine: Engine, mapped: MappedState, rows: Sequence[tuple[Any, ...]]) -> dict[Any, Stored]:
    stored = {}
    with Session(engine) as session:
        for parts in rows:
            instance = session.get(mapped.model, parts if len(parts) > 1 else parts[0])
            if instance is None:
                raise ValueError(
                    f"{row_label(mapped.table_name, plain_key(parts))} is not stored: commit it before the race"
                )
            records = [] if mapped.extras.history is None else mapped.extras.history.rows(session, parts, {})
            stored[plain_key(parts)] = Stored(
                stored_form(getattr(instance, mapped.attribute)), len(records), _replayed(records)
            )
    return stored


def _replayed(records: Sequence[Any]) -> str | None:
    try:
        replay(records)
    except HistoryError as error:
        return str(error)
    return None


# --- the processes


def _run(processes: int, task: tuple[Any, ...]) -> RaceReport:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    started: list[tuple[BaseProcess, Connection]] = []
    try:
        for number in range(processes):
            here, there = context.Pipe(duplex=False)
            process: BaseProcess = context.Process(target=_race, args=(number, there, barrier, *task), daemon=True)
            process.start()
            there.close()
            started.append((process, here))
        return _gathered(started)
    finally:
        for process, here in started:
            here.close()
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()


def _gathered(started: Sequence[tuple[BaseProcess, Connection]]) -> RaceReport:
    report, failures = RaceReport(), []
    for process, here in started:
        try:
            report_of_one = here.recv() if here.poll(START_WITHIN + END_WITHIN) else "it did not end in time"
        except (EOFError, OSError):
            process.join(5)
            report_of_one = f"it ended without a report (exit code {process.exitcode})"
        if isinstance(report_of_one, RaceReport):
            report.moved.update(report_of_one.moved)
            report.refused.update(report_of_one.refused)
            report.again += report_of_one.again
        else:
            failures.append(f"{process.name}: {report_of_one}")
    if failures:
        raise RuntimeError("; ".join(failures))
    return report


def _race(
    number: int,
    reports: Connection,
    barrier: Any,  # Any: multiprocessing's barrier has no public type
    url: URL,
    isolation_level: str | None,
    fires: int,
    seed: int,
    arguments: tuple[Any, ...],
) -> None:
    """The work of one process."""
    engine = _engine(url, isolation_level)
    try:
        with engine.connect():
            pass
        barrier.wait(START_WITHIN)
        reports.send(_fired(sessionmaker(engine), random.Random(f"{seed} {number}"), fires, *arguments))
    except Exception as error:  # noqa: BLE001 - the parent process raises it
        barrier.abort()
        reports.send(f"{type(error).__name__}: {error}")
    finally:
        engine.dispose()


def _fired(
    sessions: sessionmaker[Session],
    dice: random.Random,
    fires: int,
    model: type[Any],
    attribute: str,
    rows: Sequence[tuple[Any, ...]],
    events: Sequence[str],
    payloads: Mapping[str, Sequence[Mapping[str, Any]]],
    fire: Unit | None,
) -> RaceReport:
    report, attempts = RaceReport(), 0
    for _ in range(fires):
        key, event = plain_key(dice.choice(rows)), dice.choice(events)
        payload = dict(dice.choice(payloads[event])) if payloads.get(event) else {}

        def work(session: Session) -> Moved[Any] | Refused[Any]:
            nonlocal attempts
            attempts += 1
            if fire is not None:
                return fire(session, key, event, payload)  # noqa: B023 - called before the loop goes on
            return try_fire_key(model, key, event, session, column=attribute, **payload)  # noqa: B023 - as above

        outcome = run_transaction(sessions, work, attempts=100, timeout=END_WITHIN)
        if isinstance(outcome, Moved):
            report.moved[key, outcome.event, stored_form(outcome.source), stored_form(outcome.target)] += 1
        else:
            report.refused[key, outcome.event, stored_form(outcome.state), outcome.reason] += 1
    report.again = attempts - fires
    return report


# --- what must hold


def _problems(
    mapped: MappedState, report: RaceReport, before: Mapping[Any, Stored], after: Mapping[Any, Stored]
) -> Iterator[str]:
    yield from _undeclared(mapped, report)
    for key, begun in before.items():
        label, ended = row_label(mapped.table_name, key), after[key]
        steps = Counter[tuple[str, str, str]]()
        for (moved, event, source, target), times in report.moved.items():
            if moved == key:
                steps[event, source, target] += times
        problem = path_problem(steps, begun.state, ended.state)
        if problem is not None:
            yield (
                f"{label} went from {begun.state!r} to {ended.state!r}, and the moves that were reported are not such"
                f" a path: {problem}"
            )
        if mapped.extras.history is not None and ended.records - begun.records != steps.total():
            more = ended.records - begun.records
            yield f"{label} was moved {steps.total()} times, and its history has {more} records more"
        if ended.fault is not None:
            yield f"its history does not follow: {ended.fault}"


def _undeclared(mapped: MappedState, report: RaceReport) -> Iterator[str]:
    machine, table = mapped.machine, mapped.table_name
    ways = {
        event: [(machine.stored(way.written_sources()[0]), way) for way in machine.transitions(event)]
        for event in machine.events
    }
    for (key, event, source, target), times in report.moved.items():
        if not any((left, machine.stored(way.target)) == (source, target) for left, way in ways.get(event, ())):
            edge = f"{shown(source)} to {shown(target)}"
            yield f"{row_label(table, key)}: {shown(event)} took it from {edge} {times} times, which is not declared"
    for (key, event, state, reason), times in report.refused.items():
        leaving = [way for left, way in ways.get(event, ()) if left == state]
        if bool(leaving) != (reason == "guard") or any(way.guard is None for way in leaving):
            refused = f"{shown(event)} was refused in {shown(state)} {times} times ({reason})"
            yield f"{row_label(table, key)}: {refused}, which is not declared so"
