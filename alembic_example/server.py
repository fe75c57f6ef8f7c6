"""A server of one release: a process that fires events on random rows."""

from __future__ import annotations

import random
import time
from collections import Counter
from functools import partial
from typing import Any

from sqlalchemy import URL, Engine, create_engine, make_url
from sqlalchemy.orm import Session, sessionmaker

from sqlalchemy_fsm_mysql import run_transaction, try_fire_key

from .jobs import models


def serve(url: str, release: int, rows: int, events: list[str], ready: Any, stop: Any, results: Any) -> None:
    """A server: fire until told to stop; send how often with which outcome, and how long the slowest fire took."""
    _, Job = models(release)
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    rng = random.Random(release)
    engine = connected(url)
    sessions = sessionmaker(engine)
    while not stop.is_set():
        key, event = rng.randint(1, rows), rng.choice(events)
        start = time.perf_counter()
        try:
            outcome = run_transaction(sessions, partial(fire_one, Job, key, event))
            outcomes["moved" if outcome else "refused"] += 1
        except Exception as error:  # noqa: BLE001 - the example shows that there is none
            outcomes[type(error).__name__] += 1
        if ready.is_set():  # the first one connects, and builds its SQL
            slowest = max(slowest, time.perf_counter() - start)
        ready.set()
    engine.dispose()
    results.put((dict(sorted(outcomes.items())), slowest))


def fire_one(model: Any, key: int, event: str, session: Session) -> Any:
    return try_fire_key(model, key, event, session)


def connected(url: str | URL) -> Engine:
    if make_url(url).get_backend_name() == "sqlite":
        return create_engine(url, connect_args={"timeout": 60})
    return create_engine(url, isolation_level="READ COMMITTED")
