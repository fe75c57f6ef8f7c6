"""The helpers are tested by one driver for each server, and the races, which start processes, on one server."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sqlalchemy import URL


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    raced: list[int | None] = []
    items[:] = [item for item in items if not is_repetition(item, raced)]


def is_repetition(item: pytest.Item, raced: list[int | None]) -> bool:
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    target = parameters.get("url")
    if Path(__file__).parent not in item.path.parents or not isinstance(target, URL):
        return False
    if target.drivername not in ("mysql+pymysql", "sqlite"):
        return True
    if "race" not in item.name or target.drivername == "sqlite" or "FSM_RACE_FIRES" in os.environ:
        return False
    raced[:] = raced or [target.port]
    return target.port != raced[0]
