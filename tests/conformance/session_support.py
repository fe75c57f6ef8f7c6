"""What these tests do behind the session's back: make rows, read them, move them, count statements."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, NullPool, create_engine, event, inspect, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

HIGHEST = 2**31


def is_sqlite(engine: Engine) -> bool:
    return engine.dialect.name == "sqlite"


def create(engine: Engine, model: type[Any], **values: Any) -> Any:
    """A new row, committed; its key, as ``Session.get()`` takes it."""
    parts = inspect(model).primary_key
    key = {part.key: secrets.randbelow(HIGHEST) for part in parts if part.key not in values}
    with Session(engine) as session:
        row = model(**key, **values)
        session.add(row)
        session.commit()
        identity = inspect(row).identity
    return identity if len(identity) > 1 else identity[0]


def stored(engine: Engine, model: type[Any], key: Any, *names: str) -> Any:
    """What a new transaction reads of the row: the state, or the columns of *names*."""
    with Session(engine) as session:
        row = session.get(model, key)
        values = tuple(getattr(row, name) for name in names or ("state",))
    return values if len(values) > 1 else values[0]


def write(engine: Engine, model: type[Any], key: Any, **values: Any) -> None:
    """Another process's plain UPDATE, committed."""
    table = inspect(model).local_table
    with engine.begin() as connection:
        connection.execute(table.update().where(table.c.id == key).values(**values))


def move(engine: Engine, model: type[Any], key: Any, *events: str) -> None:
    """Another process fires, and commits."""
    with Session(engine) as session:
        row = session.get(model, key)
        for name in events:
            row.fire(name, session)
        session.commit()


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    """The texts of what is sent to the database within the block."""
    texts: list[str] = []

    def note(connection: Connection, cursor: Any, statement: str, *_: Any) -> None:
        texts.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield texts
    finally:
        event.remove(engine, "before_cursor_execute", note)


def is_locked(engine: Engine, model: type[Any], key: Any) -> bool:
    """Whether another transaction keeps the row from being written now."""
    table = inspect(model).local_table
    if is_sqlite(engine):
        statement: Any = text("BEGIN IMMEDIATE")
        engine = create_engine(engine.url, connect_args={"timeout": 0}, poolclass=NullPool)
    else:
        statement = select(table.c.id).where(table.c.id == key).with_for_update(nowait=True)
    with engine.connect() as connection:
        try:
            connection.execute(statement)
        except DBAPIError:
            return True
        connection.rollback()
        return False


@contextmanager
def locks_between(engine: Engine, model: type[Any], key: Any) -> Iterator[list[bool]]:
    """Whether the row is locked after each SELECT that is sent by *engine* within the block."""
    found: list[bool] = []
    is_looking = False

    def look(connection: Connection, cursor: Any, statement: str, *_: Any) -> None:
        nonlocal is_looking
        if statement.startswith("SELECT") and not is_looking:
            is_looking = True
            found.append(is_locked(engine, model, key))
            is_looking = False

    event.listen(engine, "after_cursor_execute", look)
    try:
        yield found
    finally:
        event.remove(engine, "after_cursor_execute", look)
