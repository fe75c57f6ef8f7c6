"""One process: a fire and its commit beside the same by hand and beside the peers; an open transaction; the wire."""

from __future__ import annotations

import itertools
from typing import Any

from sqlalchemy import bindparam, case, func, literal_column, text, update
from sqlalchemy.orm import Session

from sqlalchemy_fsm_mysql import fire_key

from . import tables
from .contestants import PEERS, available
from .delay import delayed
from .rounds import compared, interleaved
from .tables import EVENTS, MOVED, OFFSET, STATES, TARGETS

LIBRARY = ("fire_key", "fire", "fire_key_autocommit", "fire_key_history", "fire_key_token")


def one_fire(url: str, *, rounds: int, calls: int, only: list[str] | None = None) -> dict[str, Any]:
    """One fire and commit, each contestant on a row of its own. The base of `fire` is the session that holds the object."""
    names = only or ["driver", "driver_autocommit", "by_hand", "by_hand_holding", *LIBRARY, *PEERS]
    engine = tables.engine_of(url)
    tables.fill(engine, 1000)
    made, missing = available(names, url)
    events = itertools.cycle(EVENTS)  # an even number of calls: each contestant's row goes there and back

    def firing(number: int, contestant: Any) -> Any:
        return lambda: contestant.fire(next(events), number)

    ways = {name: firing(number, contestant) for number, (name, contestant) in enumerate(made.items(), start=1)}
    taken = interleaved(ways, rounds=rounds, calls=calls)
    for contestant in made.values():
        contestant.close()
    engine.dispose()
    bases = {name: "by_hand_holding" if name == "fire" else "by_hand" for name in made}
    told = compared(taken, bases)
    for name, figures in told.items():
        figures["label"], figures["safe"] = made[name].label, made[name].is_safe
    return {"contestants": told, "missing": missing}


def far_away(url: str, *, rounds: int, calls: int, seconds: float) -> dict[str, Any]:
    """`fire_key` in AUTOCOMMIT beside the driver with UPDATE and COMMIT, with a round trip of some length."""
    with delayed(url, seconds) as slow:
        told = one_fire(slow, rounds=rounds, calls=calls, only=["driver", "by_hand", "fire_key", "fire_key_autocommit"])
    contestants = told["contestants"]
    ratio = contestants["fire_key_autocommit"]["wall"] / contestants["driver"]["wall"]
    return {"seconds": seconds, "contestants": contestants, "autocommit_to_driver": ratio}


def in_transaction(url: str, *, rounds: int, calls: int) -> dict[str, Any]:
    """`fire` on a loaded object within an open transaction, beside the hand-written Core statement."""
    engine = tables.engine_of(url)
    tables.fill(engine, 10)
    order = tables.model()
    session, by_hand = Session(engine), Session(engine)
    loaded = session.get(order, 1)
    statements = {event: core_statement(order.__table__, event) for event in EVENTS}
    events = itertools.cycle(EVENTS)
    connection = by_hand.connection()

    def core() -> None:
        result: Any = by_hand.execute(statements[next(events)], {"key": 2})
        tables.source_of(result.lastrowid)

    def core_on_connection() -> None:
        result = connection.execute(statements[next(events)], {"key": 2})
        tables.source_of(result.lastrowid)

    ways = {
        "core": core,
        "core_on_connection": core_on_connection,
        "fire": lambda: loaded.fire(next(events), session),
        "fire_key": lambda: fire_key(order, 1, next(events), session),
    }
    told = compared(interleaved(ways, rounds=rounds, calls=calls), "core")
    for one in (session, by_hand):
        one.rollback()
        one.close()
    engine.dispose()
    return told


def core_statement(table: Any, event: str) -> Any:
    """The statement as one would write it with SQLAlchemy's Core; its parameter is ``key``."""
    state, targets = table.c.state, TARGETS[event]
    codes = {s: literal_column(str(i + MOVED if s in targets else i)) for i, s in enumerate(STATES, start=1)}
    code = case(codes, value=state, else_=literal_column("99")) + literal_column(str(OFFSET))
    return (
        update(table)
        .where(table.c.id == bindparam("key"), func.last_insert_id(code) >= literal_column(str(OFFSET + MOVED)))
        .values(state=case(targets, value=state, else_=state))
    )


def on_the_wire(url: str) -> dict[str, float]:
    """Statements that the server counts for a fire, without COMMIT."""
    engine = tables.engine_of(url)
    tables.fill(engine, 10)
    counted = {}
    for name, options in {
        "fire_key": {},
        "history": {"history": True},
        "token": {"history": True, "token": True},
    }.items():
        order = tables.model(history="history" in options)
        if "history" in options:
            tables.create_history(engine, order)
        with Session(engine) as session:
            fire_key(order, 1, "Ready", session)  # connected
            before = questions(session)
            for number in range(10):
                given = {"token": f"token {number}"} if "token" in options else {}
                fire_key(order, 1, EVENTS[number % 2], session, **given)
            counted[name] = (questions(session) - before - 1) / 10
            session.commit()
    engine.dispose()
    return counted


def questions(session: Session) -> int:
    return int(session.execute(text("SHOW SESSION STATUS LIKE 'Questions'")).one()[1])
