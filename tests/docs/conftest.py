"""The pages are run with one driver on each server: what differs between drivers is the conformance suite's work.

A page whose Python asks for a server is run on each. Any other is run on the first: there only the URL differs from
SQLite. So is one that starts processes, which takes its time.
"""

from __future__ import annotations

import os

import pytest
from sqlalchemy import URL

from tests.docs.pages import marks

if os.environ.get("FSM_PEERS"):
    # It works only if it is imported before any class is mapped.
    import sqlalchemy_fsm  # noqa: F401


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    pages = {item: item.callspec.params for item in items if item.path.parent.name == "docs" and on_server(item)}
    urls = list(dict.fromkeys(each["url"] for each in pages.values() if each["url"].get_driver_name() == "pymysql"))
    extra = {
        item
        for item, given in pages.items()
        if given["url"] not in urls or (given["url"] != urls[0] and not is_for_each(marks(given["path"])))
    }
    if extra:
        items[:] = [item for item in items if item not in extra]
        config.hook.pytest_deselected(items=list(extra))


def is_for_each(marks: set[str]) -> bool:
    needs_server = {"python server", "python mariadb", "python recipe", "python recipe 2.0"}
    return "console server" not in marks and bool(marks & needs_server)


def on_server(item: pytest.Item) -> bool:
    # With SQLite as the only target there is no server, and pytest's own mark for that in its place.
    return hasattr(item, "callspec") and isinstance(item.callspec.params.get("url"), URL)
