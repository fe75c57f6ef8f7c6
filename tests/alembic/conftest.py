"""A project per test, on every target: each server by one driver, and SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL, Engine

from tests.alembic.support import Project, drop_all
from tests.conftest import database_of
from tests.servers import make_engine


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The DDL is the servers' matter, and not the drivers': each server has one."""
    if not config.getoption("--all-drivers"):
        items[:] = [item for item in items if not _is_second_driver(item)]


def _is_second_driver(item: pytest.Item) -> bool:
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    url = parameters.get("url")
    return "tests/alembic" in str(item.path) and isinstance(url, URL) and url.get_driver_name() == "mysqldb"


@pytest.fixture(scope="module")
def engine(url: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A database of these tests' own, as each begins and ends by dropping all tables."""
    with database_of(url, tmp_path_factory) as own:
        engine = make_engine(own)
        yield engine
        engine.dispose()


@pytest.fixture
def project(engine: Engine, tmp_path: Path) -> Iterator[Project]:
    """An empty project on an empty database."""
    drop_all(engine)
    yield Project(tmp_path / "migrations", engine)
    drop_all(engine)
