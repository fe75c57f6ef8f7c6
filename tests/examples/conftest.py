"""The web examples are run on one server by one driver: what differs between those is the conformance suite's work."""

from __future__ import annotations

import pytest
from sqlalchemy import URL


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    web = [item for item in items if item.path.name == "test_web.py"]
    given = {item: item.callspec.params.get("url") for item in web if hasattr(item, "callspec")}
    urls = {item: url for item, url in given.items() if isinstance(url, URL)}
    extra = {item for item, url in urls.items() if url != next(iter(urls.values()))}
    items[:] = [item for item in items if item not in extra]
    config.hook.pytest_deselected(items=list(extra))
