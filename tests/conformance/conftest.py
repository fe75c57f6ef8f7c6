"""What the conformance suite stands on: every target, on a server by both backends, and a session that is rolled back.

A module names its tables by a ``Base``; they are created once per target. A test works in one transaction that is never
committed, so each finds the tables empty; what it asks of the table by Core comes from the database, not from memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from sqlalchemy import URL, Engine
from sqlalchemy.orm import Session

from tests.conformance import history_models, session_models
from tests.conformance.support import Sent, counting
from tests.conftest import has_every_pair
from tests.servers import is_by_usual_driver, make_engine

BACKENDS: dict[str, dict[str, str]] = {"own": {}, "locking": {"fsm_backend": "locking"}}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The locking read runs on a server by one driver; SQLite has no row locks to read with."""
    senseless = {item for item in items if is_senseless(item) or not is_usual_backend(config, item)}
    if not config.getoption("--all-drivers"):
        senseless |= {item for item in items if is_repetition(item)}
    if senseless:
        items[:] = [item for item in items if item not in senseless]


def is_repetition(item: pytest.Item) -> bool:
    """Whether the module says that one driver for each server will do, and this is the other."""
    url, _ = target_of(item)
    is_other = url is not None and not is_by_usual_driver(url)
    return is_other and bool(getattr(getattr(item, "module", None), "ONE_DRIVER", False))


def is_usual_backend(config: pytest.Config, item: pytest.Item) -> bool:
    """Whether this run has the item's backend on its server; the library's own it has on each."""
    url, backend = target_of(item)
    is_own = backend != "locking" or url is None or url.get_backend_name() == "sqlite"
    return is_own or has_every_pair(config, url)


def is_senseless(item: pytest.Item) -> bool:
    url, backend = target_of(item)
    wants_one = backend == "locking" or item.get_closest_marker("one_driver") is not None
    if not wants_one or url is None:
        return False
    return not is_by_usual_driver(url) or (backend == "locking" and url.get_backend_name() == "sqlite")


def target_of(item: pytest.Item) -> tuple[URL | None, str | None]:
    """Where *item* runs, and by which backend, if it is asked for either."""
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    url = parameters.get("url")
    return url if isinstance(url, URL) else None, parameters.get("backend")


@pytest.fixture(scope="module", params=list(BACKENDS))
def backend(request: pytest.FixtureRequest) -> str:
    """How the database is asked: as the library chooses, or by the locking read."""
    return str(request.param)


@pytest.fixture(scope="module")
def tables(url: URL, request: pytest.FixtureRequest) -> Iterator[None]:
    """The tables of the module's ``Base``, in the run's own database."""
    engine = make_engine(url)
    metadata = request.module.Base.metadata
    metadata.create_all(engine)
    yield
    metadata.drop_all(engine)
    engine.dispose()


@pytest.fixture(scope="module")
def backend_engine(engine: Engine, backend: str) -> Iterator[Engine]:
    """The target's engine with the backend at hand."""
    if not BACKENDS[backend]:
        yield engine
        return
    # Not engine.execution_options(): SQLAlchemy 2.0.30 takes no listeners on the connections of an engine of an engine.
    chosen = make_engine(engine.url, execution_options=BACKENDS[backend])
    yield chosen
    chosen.dispose()


@pytest.fixture
def session(backend_engine: Engine, tables: None) -> Iterator[Session]:
    """A session whose work is never committed."""
    with Session(backend_engine) as session:
        yield session


@pytest.fixture
def sent(session: Session) -> Callable[[], AbstractContextManager[Sent]]:
    """``with sent() as statements: …`` counts, at the database, what the session sends meanwhile."""

    @contextmanager
    def counted() -> Iterator[Sent]:
        with counting(session.connection()) as statements:
            yield statements

    return counted


@pytest.fixture(scope="session")
def schemas(engine: Engine) -> Iterator[None]:
    """The tables of the modules that commit, once per target."""
    models = (session_models, history_models)
    for module in models:
        module.Base.metadata.create_all(engine)
    yield
    for module in models:
        module.Base.metadata.drop_all(engine)


@pytest.fixture
def database(backend_engine: Engine, schemas: None) -> Engine:
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
