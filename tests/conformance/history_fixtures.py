"""The tables with a history on the target at hand, and two sessions on it; a pytest plugin."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from tests.conformance.history_models import Base


@pytest.fixture(scope="session")
def recorded_schema(engine: Engine) -> Iterator[None]:
    Base.metadata.create_all(engine)
    yield
    Base.metadata.drop_all(engine)


@pytest.fixture
def database(backend_engine: Engine, recorded_schema: None) -> Engine:
    """The target, with its own backend or with the locking read."""
    return backend_engine


@pytest.fixture
def mine(database: Engine) -> Iterator[Session]:
    """The session under test."""
    with Session(database) as session:
        yield session


@pytest.fixture
def theirs(database: Engine) -> Iterator[Session]:
    """The session of somebody else."""
    with Session(database) as session:
        yield session
