"""What a fire costs as things grow; what an import and a mapping cost; what memory a long run takes."""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tracemalloc
from typing import Any

from sqlalchemy import Integer, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import Event, Machine, StateMachineColumn, Transition, fire_key

from . import tables
from .rounds import compared, interleaved, quartiles


def ring(states: int, guards: int) -> Machine:
    """Each state leads to the next; an event that leaves all of them, and one that swaps the first two.

    With *guards*, the swap has as many guarded transitions before the one that is taken.
    """
    names = [f"state {number}" for number in range(states)]
    guarded = [Transition(names[i % 2], names[2 + i % (states - 2)], guard=has_taken(-1 - i)) for i in range(guards)]
    swap = [*guarded, Transition(names[0], names[1]), Transition(names[1], names[0])]
    turn = {name: names[(i + 1) % states] for i, name in enumerate(names)}
    return Machine(initial=names[0], states=names, events=[Event("Turn", turn), Event("Swap", swap)])


def has_taken(steps: int) -> Any:
    """A guard."""
    return lambda order: order.steps == steps


def ring_model(name: str, states: int, guards: int = 0) -> type[Any]:
    class Base(DeclarativeBase):
        """One model."""

    class Order(Base):
        __tablename__ = name
        id: Mapped[int] = mapped_column(primary_key=True)
        steps: Mapped[int] = mapped_column(Integer, default=0)
        state: Mapped[str] = StateMachineColumn(ring(states, guards))

    return Order


def machines(url: str, *, rounds: int, calls: int) -> dict[str, Any]:
    """By the number of states (an event that leaves two of them, and one that leaves all), and of guards."""
    engine = tables.engine_of(url)
    sizes = {"5 states": (5, 0, "Swap"), "50 states": (50, 0, "Swap"), "200 states": (200, 0, "Swap")}
    sizes |= {"200 states, leaving each": (200, 0, "Turn")}
    sizes |= {"5 guards": (5, 5, "Swap"), "20 guards": (5, 20, "Swap")}
    ways: dict[str, Any] = {}
    models, sessions = [], []
    for number, (label, (states, guards, event)) in enumerate(sizes.items()):
        model = ring_model(f"bench_ring_{number}", states, guards)
        model.metadata.drop_all(engine)
        model.metadata.create_all(engine)
        session = Session(engine)
        session.add(model(id=1))
        session.commit()

        def way(model: Any = model, event: str = event, session: Session = session) -> None:
            fire_key(model, 1, event, session)
            session.commit()

        ways[label] = way
        models.append(model)
        sessions.append(session)
    told = compared(interleaved(ways, rounds=rounds, calls=calls), "5 states")
    for session, model in zip(sessions, models, strict=True):
        session.close()
        model.metadata.drop_all(engine)
    engine.dispose()
    return told


def rows(url: str, *, sizes: list[int], rounds: int, calls: int) -> dict[str, Any]:
    """By the number of rows in the table, on rows at random."""
    engine = tables.engine_of(url)
    dice, ways = random.Random(5), {}
    session = Session(engine)
    for size in sizes:
        name = f"bench_rows_{size}"
        tables.fill(engine, size, name)
        model = tables.model(name)

        def way(model: Any = model, size: int = size) -> None:
            fire_key(model, dice.randint(1, size), dice.choice(tables.EVENTS), session)
            session.commit()

        ways[f"{size:,} rows"] = way
    told = compared(interleaved(ways, rounds=rounds, calls=calls), f"{sizes[0]:,} rows")
    session.close()
    with engine.begin() as connection:
        for size in sizes:
            connection.execute(text(f"DROP TABLE bench_rows_{size}"))
    engine.dispose()
    return told


# --- start

IMPORT = """
import gc, sys, time
start = time.process_time()
import sqlalchemy.orm
orm = time.process_time() - start
if "collect" not in sys.argv:
    gc.disable()
start = time.process_time()
from sqlalchemy_fsm_mysql import Event, Machine, StateMachineColumn, fire_key
imported = time.process_time() - start
from sqlalchemy import Integer, String, create_engine
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column, configure_mappers

def seconds(make, number):
    start = time.process_time()
    class Base(DeclarativeBase): pass
    type(f"M{number}", (Base,), {"__tablename__": f"m{number}", "id": mapped_column(Integer, primary_key=True), "state": make()})
    configure_mappers()
    return time.process_time() - start

def machine():
    names = [f"state {number}" for number in range(100)]
    return Machine(initial=names[0], events=[Event(f"Go {i}", {names[i]: names[(i + 1) % 100]}) for i in range(100)])

seconds(lambda: mapped_column(String(32)), 0)
plain = seconds(lambda: mapped_column(String(32)), 1)
stateful = seconds(lambda: StateMachineColumn(machine()), 2)

class Base(DeclarativeBase): pass
class Order(Base):
    __tablename__ = "orders"
    id = mapped_column(Integer, primary_key=True)
    state = StateMachineColumn(Machine(initial="a", events=[Event("Go", {"a": "b"}), Event("Return", {"b": "a"})]))

engine = create_engine("sqlite://")
Base.metadata.create_all(engine)
with Session(engine) as session:
    session.add(Order(id=1))
    session.flush()
    start = time.process_time()
    fire_key(Order, 1, "Go", session)
    first = time.process_time() - start
print([imported * 1e3, (stateful - plain) * 1e3, orm * 1e3, first * 1e3])
"""


def start(*, runs: int) -> dict[str, Any]:
    """CPU milliseconds on top of ``sqlalchemy.orm``, and of a model with 100 states and events on top of one with a String.

    A pass of the garbage collector over SQLAlchemy's objects may fall due during the import; it is told apart. The first
    fire of the process is one on SQLite, which imports the modules of a fire.
    """
    measured = []
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for _ in range(runs + 1):
        for also in ([], ["collect"]):
            command = [sys.executable, "-c", IMPORT, *also]
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            measured.append(json.loads(done.stdout))
    del measured[:2]  # they compiled the modules
    imports, models, orm, first = ([each[i] for each in measured[::2]] for i in range(4))
    collecting = [each[0] for each in measured[1::2]]
    return {
        "import_ms": dict(zip(("median", "low", "high"), quartiles(imports), strict=True)),
        "mapping_ms": dict(zip(("median", "low", "high"), quartiles(models), strict=True)),
        "import_collecting_ms": dict(zip(("median", "low", "high"), quartiles(collecting), strict=True)),
        "orm_ms": dict(zip(("median", "low", "high"), quartiles(orm), strict=True)),
        "first_fire_ms": dict(zip(("median", "low", "high"), quartiles(first), strict=True)),
        "runs": runs,
    }


def memory(url: str, *, fires: int) -> dict[str, Any]:
    """What the process has grown by between the first thousand fires and the last."""
    engine = tables.engine_of(url)
    tables.fill(engine, 1000)
    order = tables.model()
    with Session(engine) as session:

        def some(number: int) -> None:
            for i in range(number):
                fire_key(order, 1 + i % 1000, tables.EVENTS[i % 2], session)
                if i % 10 == 9:
                    session.commit()

        some(1000)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        some(fires)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        tracemalloc.start()
        some(1000)
        first, _ = tracemalloc.get_traced_memory()
        some(3000)
        second, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        session.commit()
    engine.dispose()
    return {"fires": fires, "grown_mib": grown / 1024, "traced_bytes_of_3000": second - first}
