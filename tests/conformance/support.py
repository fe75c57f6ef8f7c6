"""What the conformance tests ask of a database, and the ways to fire."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any

from sqlalchemy import Connection, inspect, select
from sqlalchemy.orm import Session
from sqlalchemy.util import await_only

from sqlalchemy_fsm_mysql import Moved, Refused, TransitionNotAllowed, fire_key, try_fire_key
from tests.servers import questions


@dataclass
class Sent:
    """How many statements the database got, known once they were counted."""

    number: int = -1


@contextmanager
def counting(connection: Connection) -> Iterator[Sent]:
    """Count the statements that *connection* sends: by the server's questions, or by SQLite's own trace."""
    sent = Sent()
    if connection.dialect.name != "sqlite":
        before = questions(connection)
        yield sent
        sent.number = questions(connection) - before
        return
    driver: Any = connection.connection.driver_connection
    traced: list[str] = []
    _waited_for(driver.set_trace_callback(traced.append))
    yield sent
    _waited_for(driver.set_trace_callback(None))
    sent.number = len(traced)


def _waited_for(answer: Any) -> Any:
    return await_only(answer) if isawaitable(answer) else answer


def stored(session: Session, model: Any) -> dict[Any, dict[str, Any]]:
    """Every row of the model's table as the database has it, by key; nothing is flushed, nothing comes from memory."""
    table = inspect(model).local_table
    keys = [column.name for column in table.primary_key]
    rows = session.connection().execute(select(table)).mappings()
    return {tuple(row[key] for key in keys): dict(row) for row in rows}


# A way fires on the row of a key; the answer is an outcome, whether refusals are raised or returned.
Way = Callable[[Session, Any, Any, str], "Moved[Any] | Refused[Any]"]


def by_fire(session: Session, model: Any, key: Any, event: str) -> Any:
    return session.get_one(model, key).fire(event, session)


def by_try_fire(session: Session, model: Any, key: Any, event: str) -> Any:
    return session.get_one(model, key).try_fire(event)


def by_fire_key(session: Session, model: Any, key: Any, event: str) -> Any:
    return fire_key(model, key, event, session)


def by_try_fire_key(session: Session, model: Any, key: Any, event: str) -> Any:
    return try_fire_key(model, key, event, session)


WAYS: dict[str, Way] = {
    "fire": by_fire,
    "try_fire": by_try_fire,
    "fire_key": by_fire_key,
    "try_fire_key": by_try_fire_key,
}
RAISING = {"fire", "fire_key"}


def refusal(fire: Callable[[], Any]) -> tuple[Any, list[Any]]:
    """The state observed and the states that the event leaves, whether *fire* raises its refusal or returns it."""
    try:
        refused = fire()
    except TransitionNotAllowed as error:
        return error.state, error.allowed_from
    assert isinstance(refused, Refused)
    return refused.state, list(refused.allowed_from)
