"""Processes that write an old status column while a machine takes it over: old code by plain SQL, new code by events.

Each process has rows of its own, of which it knows the meaning after each of its writes, and all share some. A row of
``id % PARTS == n`` belongs to process *n*; those of ``SHARED`` are everybody's, all others are written by no process.
"""

from __future__ import annotations

import multiprocessing
import random
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, make_url, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import Event, Machine, StateMachineColumn, try_fire_key
from tests.alembic.support import migrating
from tests.servers import make_engine

STATES = ("new", "paid", "cancelled")
PARTS, SHARED = 60, 10
OLD, NEW = 2, 4
PAUSE = 0.005  # seconds between two writes of a process
FOLDED = "CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"

# The old column, its mapping, and the expression that fills it: a third of the rows in each state.
KINDS: dict[str, tuple[str, dict[Any, str]]] = {
    "varchar": (
        f"VARCHAR(20) {FOLDED} NULL DEFAULT 'New'",
        {
            "New": "new",
            "new ": "new",
            None: "new",
            "Paid": "paid",
            "PAID": "paid",
            "Void": "cancelled",
            "": "cancelled",
        },
    ),
    "tinyint": ("TINYINT NOT NULL DEFAULT 1", {1: "new", 2: "paid", 3: "cancelled", 0: "cancelled"}),
    "name": (f"VARCHAR(20) {FOLDED} NOT NULL DEFAULT 'New'", {"New": "new", "Paid": "paid", "Void": "cancelled"}),
    "id": ("INT NOT NULL DEFAULT 10", {10: "new", 20: "paid", 30: "cancelled"}),
}
KEYS = {
    "name": ", FOREIGN KEY (status) REFERENCES order_states (name)",
    "id": ", FOREIGN KEY (status) REFERENCES order_states (id)",
}


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="new",
            states=STATES,
            events=[
                Event("Pay", {"new": "paid"}),
                Event("Cancel", {("new", "paid"): "cancelled"}),
                Event("Reopen", {"cancelled": "new"}),
            ],
        )
    )


TARGETS = {"Pay": "paid", "Cancel": "cancelled", "Reopen": "new"}
SOURCES = {"Pay": ("new",), "Cancel": ("new", "paid"), "Reopen": ("cancelled",)}


def create(engine: Engine, kind: str, rows: int) -> None:
    """The table of somebody else's, with *rows* rows, and a table of states."""
    definition, mapping = KINDS[kind]
    values = list(mapping)
    literals = ["NULL" if value is None else repr(value) for value in values]
    first = [literals[next(i for i, value in enumerate(values) if mapping[value] == state)] for state in STATES]
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"CREATE TABLE order_states (id INT PRIMARY KEY, name VARCHAR(20) {FOLDED} NOT NULL UNIQUE)"
        )
        connection.exec_driver_sql("INSERT INTO order_states VALUES (10, 'New'), (20, 'Paid'), (30, 'Void')")
        connection.exec_driver_sql(
            f"CREATE TABLE orders (id INT PRIMARY KEY AUTO_INCREMENT, status {definition}, pad VARCHAR(200),"
            f" updated_at TIMESTAMP NOT NULL DEFAULT '2020-01-01 00:00:00' ON UPDATE CURRENT_TIMESTAMP"
            f"{KEYS.get(kind, ', KEY by_status (status)')})"
        )
        for begin in range(1, rows + 1, 5000):
            some = range(begin, min(begin + 5000, rows + 1))
            lines = ",".join(f"({i},{first[i % 3]},REPEAT('x',150))" for i in some)
            connection.exec_driver_sql(f"INSERT INTO orders (id, status, pad) VALUES {lines}")


def original(key: int) -> str:
    return STATES[key % 3]


@dataclass
class Report:
    """What one process has done: the meaning of each of its rows, its slowest write in each phase, and its errors."""

    number: int
    known: dict[int, str]
    slowest: dict[int, float] = field(default_factory=dict)
    writes: Counter[int] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)

    def timed(self, phase: int, begin: float) -> None:
        self.slowest[phase] = max(self.slowest.get(phase, 0.0), time.monotonic() - begin)
        self.writes[phase] += 1


def old_code(
    url: str, kind: str, number: int, rows: int, known: dict[int, str], phase: Any, stop: Any, out: Any
) -> None:
    """The PHP service: single statements, each committed, that know of no machine."""
    mapping, report = KINDS[kind][1], Report(number, known)
    spelled = {state: [value for value, one in mapping.items() if one == state] for state in STATES}
    rng = random.Random(number)
    own = range(PARTS + number, rows, PARTS)
    engine = make_engine(make_url(url)).execution_options(isolation_level="AUTOCOMMIT")
    update = text("UPDATE orders SET status = :value WHERE id = :id")
    with engine.connect() as connection:
        while not stop.is_set():
            state, shared = rng.choice(STATES), rng.random() < 0.2
            key = rng.randrange(PARTS, rows, PARTS) + SHARED if shared else rng.choice(own)
            value, now, begin = rng.choice(spelled[state]), phase.value, time.monotonic()
            try:
                if rng.random() < 0.05:
                    key = connection.execute(
                        text("INSERT INTO orders (status) VALUES (:value)"), {"value": value}
                    ).lastrowid
                    shared = False
                else:
                    connection.execute(update, {"value": value, "id": key})
                report.timed(now, begin)
                if not shared:
                    report.known[key] = state
                    read = connection.execute(
                        text("SELECT status FROM orders WHERE id = :id"), {"id": key}
                    ).scalar_one()
                    if mapping.get(read) != state:
                        report.errors.append(f"old code wrote {value!r} to {key} and reads {read!r}")
            except Exception as error:  # noqa: BLE001 - whatever it is, the test wants to see it
                report.errors.append(f"old, phase {now}, {key} to {value!r}: {error!r}"[:500])
            time.sleep(PAUSE)
    out.put(report)


def new_code(
    url: str, kind: str, number: int, rows: int, known: dict[int, str], phase: Any, stop: Any, out: Any
) -> None:
    """The next release: it fires events on the state column, and knows nothing of the old one."""
    report, rng = Report(number, known), random.Random(number)
    own = range(PARTS + number, rows, PARTS)
    engine = make_engine(make_url(url))
    while not stop.is_set():
        event, shared = rng.choice(list(TARGETS)), rng.random() < 0.2
        key = rng.randrange(PARTS, rows, PARTS) + SHARED if shared else rng.choice(own)
        now, begin = phase.value, time.monotonic()
        try:
            with Session(engine) as session:
                if rng.random() < 0.05:
                    order = Order()
                    session.add(order)
                    session.commit()
                    report.known[order.id] = "new"
                    report.timed(now, begin)
                    continue
                moved = bool(try_fire_key(Order, key, event, session))
                session.commit()
            report.timed(now, begin)
            if not shared:
                before = report.known.get(key, original(key))
                if moved != (before in SOURCES[event]):
                    report.errors.append(f"new code: {event} on {key}, which is {before}: {moved}")
                report.known[key] = TARGETS[event] if moved else before
        except Exception as error:  # noqa: BLE001 - whatever it is, the test wants to see it
            name = type(error).__name__
            if name in ("UnknownState", "RowNotFound") and now in FILLING:
                report.refused[name] += 1  # announced: a row that is not filled yet
            else:
                report.errors.append(
                    f"new, phase {now}, {event} on {key}: {error!r} {traceback.format_exc(limit=-1)}"[:700]
                )
        time.sleep(PAUSE)
    engine.dispose()
    out.put(report)


FILLING = (2, 3)
"""The phases in which rows may be not filled yet."""


def adopt(url: str, kind: str) -> None:
    """Run the operation as a revision does; in a process of its own, so that it can be killed."""
    engine = make_engine(make_url(url))
    with migrating(engine) as op:
        op.adopt_column("orders", "status", "state", states=STATES, mapping=KINDS[kind][1], attempts=30)
    engine.dispose()


class Crowd:
    """The processes that run now, and what those that have ended report."""

    def __init__(self, url: Any, kind: str, rows: int) -> None:
        self.url, self.kind, self.rows = url.render_as_string(hide_password=False), kind, rows
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload([__name__])
        self.phase, self.out = self.context.Value("i", 0, lock=False), self.context.Queue()
        self.running: dict[Any, list[tuple[Any, Any]]] = {old_code: [], new_code: []}
        self.known: dict[int, dict[int, str]] = {}
        self.reports: list[Report] = []

    def start(self, code: Any) -> None:
        numbers = range(OLD) if code is old_code else range(OLD, OLD + NEW)
        for number in numbers:
            stop = self.context.Event()
            known = self.known.get(number, {})
            arguments = (self.url, self.kind, number, self.rows, known, self.phase, stop, self.out)
            process = self.context.Process(target=code, args=arguments, daemon=True)
            process.start()
            self.running[code].append((process, stop))

    def stop(self, code: Any) -> None:
        stopping, self.running[code] = self.running[code], []
        for _, stop in stopping:
            stop.set()
        for _ in stopping:
            report = self.out.get(timeout=60)
            self.known[report.number] = report.known
            self.reports.append(report)
        for process, _ in stopping:
            process.join(60)

    def adopting(self) -> Any:
        process = self.context.Process(target=adopt, args=(self.url, self.kind), daemon=True)
        process.start()
        return process

    @property
    def errors(self) -> list[str]:
        return [error for report in self.reports for error in report.errors]

    def slowest(self, numbers: range) -> dict[int, float]:
        """The slowest write of these processes in each phase, in seconds."""
        found: dict[int, float] = {}
        for report in self.reports:
            if report.number in numbers:
                for phase, seconds in report.slowest.items():
                    found[phase] = max(found.get(phase, 0.0), seconds)
        return dict(sorted((phase, round(seconds, 3)) for phase, seconds in found.items()))

    def written(self, numbers: range) -> int:
        return sum(sum(report.writes.values()) for report in self.reports if report.number in numbers)
