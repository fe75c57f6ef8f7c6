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


def is_repetition(item: pytest.Item) -> bool:
    url = item.callspec.params.get("url") if isinstance(item, pytest.Function) and hasattr(item, "callspec") else None
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
