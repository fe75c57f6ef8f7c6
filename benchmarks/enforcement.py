"""What triggers cost: a fire and its COMMIT with and without, and the UPDATE of many rows, in turns, in one run.

    python benchmarks/enforcement.py mysql+mysqldb://root@127.0.0.1:3306/test [--fires 2000] [--rounds 5] [--rows 100000]

The database of the URL is written to: tables bench_held_… are dropped and created. A durable server gives the figures
that matter. Printed are medians of the rounds with the lowest and the highest.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, create_engine, insert, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import ANY, Event, Machine, StateMachineColumn, fire_key


def ring(size: int) -> Machine:
    """A machine that goes round *size* states."""
    names = [f"state{number:03}" for number in range(size)]
    return Machine(initial=names[0], events=[Event("Next", dict(zip(names, [*names[1:], names[0]], strict=True)))])


class Base(DeclarativeBase):
    """The tables of the benchmark."""


def model(size: int, *, enforced: bool) -> Any:
    """A class with a machine of *size* states."""
    name = f"bench_held_{size}_{'with' if enforced else 'without'}"
    column: Any = StateMachineColumn(ring(size), enforced=enforced, initial_states=ANY)
    namespace = {"__tablename__": name, "id": mapped_column(primary_key=True), "state": column}
    return type(name, (Base,), namespace | {"__annotations__": {"id": Mapped[int]}})


def fires(engine: Engine, row: Any, number: int) -> float:
    """Microseconds for one fire and its COMMIT."""
    with Session(engine) as session:
        began = time.perf_counter()
        for _ in range(number):
            fire_key(row, 1, "Next", session)
            session.commit()
        return (time.perf_counter() - began) / number * 1e6


def rows(engine: Engine, row: Any, target: str) -> float:
    """Milliseconds for one UPDATE of all rows and its COMMIT."""
    with engine.begin() as connection:
        began = time.perf_counter()
        connection.execute(update(row.__table__).values(state=target))
    return (time.perf_counter() - began) * 1e3


def shown(values: list[float]) -> str:
    return f"{statistics.median(values):8.0f} ({min(values):.0f} to {max(values):.0f})"


def filled(engine: Engine, pairs: dict[int, list[Any]], number: int) -> None:
    """The tables, each with so many rows."""
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    some = [{"id": key} for key in range(1, number + 1)]
    with engine.begin() as connection:
        for row in (row for pair in pairs.values() for row in pair):
            for i in range(0, number, 10_000):
                connection.execute(insert(row.__table__), some[i : i + 10_000])


def compare(label: str, pair: list[Any], rounds: int, measure: Callable[[Any, int], float]) -> None:
    """Measure both of *pair* in turns, and print what comes out."""
    taken: dict[Any, list[float]] = {row: [] for row in pair}
    for i in range(rounds):
        for row in pair:
            taken[row].append(measure(row, i))
    without, held = (statistics.median(taken[row]) for row in pair)
    print(f"{label}: without {shown(taken[pair[0]])}, with {shown(taken[pair[1]])}, {held - without:+.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--fires", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=100_000)
    given = parser.parse_args()
    engine = create_engine(given.url, isolation_level="READ COMMITTED")
    pairs = {size: [model(size, enforced=enforced) for enforced in (False, True)] for size in (5, 50, 250)}
    filled(engine, pairs, given.rows)
    with engine.connect() as connection:
        print(connection.scalar(text("SELECT VERSION()")))

    def all_rows(row: Any, i: int) -> float:
        states = row.state.type.machine.states
        return rows(engine, row, states[(i + 1) % len(states)])

    for size, pair in pairs.items():
        compare(f"{size:3} states, ms for {given.rows} rows", pair, given.rounds, all_rows)
    filled(engine, pairs, 1)
    for size, pair in pairs.items():
        compare(f"{size:3} states, µs a fire", pair, given.rounds, lambda row, _: fires(engine, row, given.fires))
    Base.metadata.drop_all(engine)


if __name__ == "__main__":
    main()
