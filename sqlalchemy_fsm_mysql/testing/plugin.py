"""Fixtures for pytest, which finds them by itself: a private server, and a session whose work is rolled back.

Name the models once, in ``pytest.ini`` or in the table ``[tool.pytest.ini_options]`` of ``pyproject.toml``::

    fsm_models = shop.models:Base

Then a test that asks for ``fsm_session`` has a session on a real server, with all tables, and leaves nothing behind. A
server is started at the first such test, unless ``--fsm-url`` or the variable ``FSM_URL`` names one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

# SQLAlchemy and the rest of the library are imported by the fixtures: pytest loads this module in each run.
if TYPE_CHECKING:
    from sqlalchemy import URL, Engine, MetaData
    from sqlalchemy.orm import Session

__all__ = ["fsm_engine", "fsm_metadata", "fsm_session", "fsm_url"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--fsm-url`` and the setting ``fsm_models``."""
    group = parser.getgroup("sqlalchemy-fsm-mysql")
    group.addoption("--fsm-url", metavar="URL", help="the server for fsm_url; without it, one is started")
    parser.addini(
        "fsm_models", "module:Base of the models whose tables fsm_engine creates", type="linelist", default=[]
    )


@pytest.fixture(scope="session")
def fsm_url(pytestconfig: pytest.Config) -> Iterator[URL]:
    """The URL of an empty database for this run, on the server of ``--fsm-url`` or FSM_URL, or on a private server.

    The private server is a ``mysqld`` or ``mariadbd`` of this machine, or seekdb from its wheel. At the end the
    database is dropped, and the private server stopped. A fixture of this name in a ``conftest.py`` replaces this one.
    """
    from sqlalchemy import make_url

    from .servers import ServerUnavailable, any_server, own_database

    named = pytestconfig.getoption("--fsm-url") or os.environ.get("FSM_URL")
    if named:
        with own_database(make_url(named)) as url:
            yield url
        return
    try:
        with any_server() as server, own_database(server) as url:
            yield url
    except ServerUnavailable as error:
        pytest.fail(f"{error}\nor name a server by --fsm-url=mysql+pymysql://user:password@host/", pytrace=False)


@pytest.fixture(scope="session")
def fsm_metadata(pytestconfig: pytest.Config) -> list[MetaData]:
    """The metadata whose tables ``fsm_engine`` creates, of the bases that the setting ``fsm_models`` names."""
    from pkgutil import resolve_name

    names: list[str] = pytestconfig.getini("fsm_models")
    if not names:
        pytest.fail("the setting fsm_models is missing: add 'fsm_models = shop.models:Base' to pytest's", pytrace=False)
    found = map(resolve_name, names)
    return [getattr(base, "metadata", base) for base in found]


@pytest.fixture(scope="session")
def fsm_engine(fsm_url: URL, fsm_metadata: list[MetaData]) -> Iterator[Engine]:
    """An engine under READ COMMITTED on a database that has the tables of ``fsm_metadata``."""
    from sqlalchemy import create_engine

    engine = create_engine(fsm_url, isolation_level="READ COMMITTED")
    for metadata in fsm_metadata:
        metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def fsm_session(fsm_engine: Engine) -> Iterator[Session]:
    """A session whose work is rolled back after the test, even the work that it commits.

    Its ``commit()`` releases a savepoint, and the functions of ``on_committed`` are called then.
    """
    from sqlalchemy.orm import Session

    from .hooks import hooks_follow_session

    with fsm_engine.connect() as connection, hooks_follow_session():
        outer = connection.begin()
        try:
            with Session(connection, join_transaction_mode="create_savepoint") as session:
                yield session
        finally:
            # An error that has ended the server's transaction leaves nothing to roll back.
            if outer.is_active:
                outer.rollback()
