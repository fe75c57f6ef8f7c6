"""A database in memory for a test. SQLite has one writer at a time: it shows what a machine does, not how it races."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, MetaData, StaticPool, create_engine, event
from sqlalchemy.orm import Session

from ..errors.texts import shown

__all__ = ["sqlite_engine", "sqlite_session"]


@contextmanager
def sqlite_engine(*bases: Any, **options: Any) -> Iterator[Engine]:  # Any: a base is a class of any metaclass
    """An engine on a database in memory that has the tables of *bases*. The database ends with the ``with`` block.

    *bases* are declarative bases or ``MetaData``. All threads and sessions see the same database, so an application
    under test can have sessions of its own. They share one connection, so use one after the other. Foreign keys are
    enforced. *options* go to ``create_engine``.

    Raises: TypeError for a value that is not a declarative base.
    """
    for base in bases:
        if not isinstance(base if isinstance(base, MetaData) else getattr(base, "metadata", None), MetaData):
            raise TypeError(f"a declarative base or MetaData is needed, not {shown(base)}")
    engine = create_engine(
        "sqlite://", **{"poolclass": StaticPool, "connect_args": {"check_same_thread": False}} | options
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:  # Any: the driver's connection
        connection.execute("PRAGMA foreign_keys = ON")

    try:
        for base in bases:
            metadata = base if isinstance(base, MetaData) else base.metadata
            metadata.create_all(engine)
        yield engine
    finally:
        engine.dispose()


@contextmanager
def sqlite_session(*bases: Any, **options: Any) -> Iterator[Session]:  # Any: a base is a class of any metaclass
    """A session on a database in memory that has the tables of *bases*. *options* go to the ``Session``.

    As a fixture of pytest::

        @pytest.fixture
        def session():
            with sqlite_session(Base) as session:
                yield session
    """
    with sqlite_engine(*bases) as engine, Session(engine, **options) as session:
        yield session
