"""What of a fire's CPU goes where: from the statement by hand to `fire_key`, one step more at a time, in turns.

    python -m benchmarks.stages mysql+mysqldb://root@127.0.0.1:3306/test

The database of the URL is written to: tables bench_… are dropped and created. Reaches into the library, whose steps they are.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from functools import partial

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from sqlalchemy_fsm_mysql import fire_key
from sqlalchemy_fsm_mysql.core import fires
from sqlalchemy_fsm_mysql.core.fires import Fire
from sqlalchemy_fsm_mysql.orm.mapped import mapped_event
from sqlalchemy_fsm_mysql.orm.sessions import Writer

from . import tables
from .rounds import interleaved, spread
from .tables import EVENTS


def main() -> None:
    engine = tables.engine_of(sys.argv[1])
    tables.fill(engine, 10)
    order, session = tables.model(), Session(engine)
    for event in EVENTS:
        fire_key(order, 1, event, session)
    session.commit()
    clauses = {event: text(tables.by_hand(event, parameter=":id")) for event in EVENTS}
    texts = {event: tables.by_hand(event) for event in EVENTS}
    ready = {event: Fire(*mapped_event(order, event), 1, {"fsm_key_0": 1}) for event in EVENTS}

    def connection(event: str) -> Connection:
        return Writer(session, mapped_event(order, event)[0]).connection(ready[event].event)

    stages: dict[str, Callable[[str], object]] = {
        "nothing but begin and commit": lambda event: session.connection(),
        "the text, by the session's connection": lambda event: (
            session.connection().exec_driver_sql(texts[event], (1,)).lastrowid
        ),
        "the text, by the connection that get_bind() finds for the class": lambda event: (
            connection(event).exec_driver_sql(texts[event], (1,)).lastrowid
        ),
        "the text, by the cursor of that connection": lambda event: by_cursor(connection(event), texts[event]),
        "a fire that is ready: all but what comes before": lambda event: fires.fire(connection(event), ready[event]),
        "fire_key": lambda event: fire_key(order, 1, event, session),
        "by hand: Session.execute(text(…))": lambda event: session.execute(clauses[event], {"id": 1}).lastrowid,
    }

    def by_cursor(on: Connection, statement: str) -> int:
        cursor = on.connection.cursor()
        cursor.execute(statement, (1,))
        remembered: int = cursor.lastrowid
        cursor.close()
        return remembered

    def committed(stage: Callable[[str], object], event: itertools.cycle[str]) -> None:
        stage(next(event))
        session.commit()

    ways = {name: partial(committed, stage, itertools.cycle(EVENTS)) for name, stage in stages.items()}
    for name, taken in interleaved(ways, rounds=400, calls=10).items():
        figures = spread(taken)
        print(f"{name:<66}{figures.cpu:6.0f} µs ({figures.cpu_low:.0f} to {figures.cpu_high:.0f})")
    session.close()
    engine.dispose()


if __name__ == "__main__":
    main()
