"""The helpers are tested by one driver for each server."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import URL


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not is_repetition(item)]


def is_repetition(item: pytest.Item) -> bool:
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    target = parameters.get("url")
    is_here = Path(__file__).parent in item.path.parents
    return is_here and isinstance(target, URL) and target.drivername not in ("mysql+pymysql", "sqlite")
