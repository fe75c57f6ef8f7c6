"""A session under test and another one on the same database; a pytest plugin of the modules on the session's rules.

Looking for doctests, pytest imports this before the modules name it as a plugin; nothing here asserts, so:
PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from tests.conformance.session_models import Base


@pytest.fixture(scope="session")
def rules_schema(engine: Engine) -> Iterator[None]:
    Base.metadata.create_all(engine)
    yield
    Base.metadata.drop_all(engine)


@pytest.fixture
def database(backend_engine: Engine, rules_schema: None) -> Engine:
    """The target, with its own backend or with the locking read."""
    return backend_engine


@pytest.fixture
def mine(database: Engine) -> Iterator[Session]:
    """The session under test."""
    with Session(database) as session:
        yield session


@pytest.fixture
def theirs(database: Engine) -> Iterator[Session]:
    """The session of somebody else; each test commits it before the first one writes."""
    with Session(database) as session:
        yield session
