"""The libraries that users have beside this one, each as it is installed; a test of one that is not there is skipped.

One driver for each server: what differs between drivers is the conformance suite's work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL, Engine, MetaData


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not is_repetition(item)]
    # Real workers take seconds to start, and what they do to a connection is the driver's matter: one server is enough.
    limits = {url_of(item): item for item in items if item.path.name == "test_time_limits.py"}
    others = list(limits)[1:]
    items[:] = [item for item in items if item.path.name != "test_time_limits.py" or url_of(item) not in others]


def url_of(item: pytest.Item) -> object:
    return item.callspec.params.get("url") if isinstance(item, pytest.Function) and hasattr(item, "callspec") else None


def is_repetition(item: pytest.Item) -> bool:
    url = url_of(item)
    here = Path(__file__).parent in item.path.parents
    return here and isinstance(url, URL) and url.drivername not in ("mysql+pymysql", "sqlite")


@pytest.fixture
def tables(engine: Engine) -> Iterator[Callable[[MetaData], None]]:
    """Creates the tables of a MetaData, and drops them after the test."""
    created: list[MetaData] = []

    def create(metadata: MetaData) -> None:
        created.append(metadata)
        metadata.drop_all(engine)
        metadata.create_all(engine)

    yield create
    for metadata in created:
        metadata.drop_all(engine)
