"""How many examples are drawn, and the databases that they run on."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import URL, Engine

from tests.property.machines import STATES, Spec, mapped
from tests.servers import make_engine

# Thousands in a full run: FSM_EXAMPLES=2000 pytest tests/property
EXAMPLES = int(os.environ.get("FSM_EXAMPLES", "8"))

settings.register_profile(
    "property",
    parent=settings.get_profile("project") if "project" in settings._profiles else None,
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The locking read runs on each server by one driver, and never on SQLite, which has no row locks."""
    for item in list(items):
        chosen = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        url = chosen.get("url")
        if chosen.get("way") == "locking" and isinstance(url, URL) and url.drivername != "mysql+pymysql":
            items.remove(item)


@pytest.fixture(scope="module", params=["own", "locking"])
def way(request: pytest.FixtureRequest) -> str:
    """How the database is asked: as the library chooses, or by the locking read."""
    return str(request.param)


@pytest.fixture(scope="module")
def database(url: URL, way: str) -> Iterator[Engine]:
    """An engine with one table and its history, in which every machine finds its states."""
    options = {"fsm_backend": "locking"} if way == "locking" else {}
    engine = make_engine(url, execution_options=options)
    with mapped(Spec.of_all(STATES), history=True) as model:
        model.metadata.create_all(engine)
        yield engine
        model.metadata.drop_all(engine)
    engine.dispose()
