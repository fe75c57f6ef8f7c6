"""Ways to a server: drivers, what its sql_mode is, in which character set the client speaks, how text is compared."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import pytest
from sqlalchemy import URL, Engine, inspect, select
from sqlalchemy.orm import Session

from tests.evidence.record import record
from tests.fuzz.models import STATES, models
from tests.servers import make_engine, own_database

# Of the whole run, over all ways: 100,000 in ./dev fuzz.
CASES = int(os.environ.get("FSM_FUZZ_CASES", "2000"))
STRICT = "STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"


class Way(NamedTuple):
    name: str
    sql_mode: str
    charset: str
    collation: str


WAYS = [
    Way("utf8mb4, strict", STRICT, "utf8mb4", "utf8mb4_general_ci"),
    Way("utf8mb4, not strict, NO_BACKSLASH_ESCAPES", "NO_BACKSLASH_ESCAPES", "utf8mb4", "utf8mb4_bin"),
    Way("gbk, strict", STRICT, "gbk", "utf8mb4_unicode_ci"),
    Way("gbk, not strict, NO_BACKSLASH_ESCAPES", "NO_BACKSLASH_ESCAPES", "gbk", "gbk_chinese_ci"),
    Way("sjis, strict, NO_BACKSLASH_ESCAPES", f"{STRICT},NO_BACKSLASH_ESCAPES", "sjis", "latin1_swedish_ci"),
    Way("sjis, not strict", "", "sjis", "sjis_japanese_ci"),
]
SHORT = WAYS[:1] + WAYS[3:5]


@dataclass
class Range:
    """A database with the models, and how many cases were tried on it."""

    engine: Engine
    way: Way
    pairs: list[tuple[Any, Any]]
    tried: Counter[str] = field(default_factory=Counter)
    violations: int = 0

    @cached_property
    def states(self) -> frozenset[str]:
        return frozenset(STATES)

    def reset(self) -> None:
        """Each row is in its initial state, as if nothing had been tried."""
        with self.engine.begin() as connection:
            for model, key in self.pairs:
                table = inspect(model).local_table
                connection.execute(table.delete())
                history = model.metadata.tables.get(HISTORIES.get(table.name, ""))
                if history is not None:
                    connection.execute(history.delete())
                column = inspect(model).mapper.primary_key[0]
                connection.execute(table.insert().values({column: key, table.c.amount: 0}))

    def undeclared(self) -> list[str]:
        """What the state columns hold that no machine declares."""
        with Session(self.engine) as session:
            rows = [row for model, _ in self.pairs for row in session.scalars(select(model.state))]
        return [row for row in rows if row not in self.states]


HISTORIES = {"fuzz_plain": "fuzz_plain_history", "fuzz ' \" %s :x \\ `": "fuzz ' history %s"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "way" in metafunc.fixturenames:
        ways = WAYS if "FSM_FUZZ_CASES" in os.environ else SHORT
        metafunc.parametrize("way", ways, ids=[way.name for way in ways], scope="module")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The usual run takes one server, of each of its drivers a share; ./dev fuzz takes all."""
    if "FSM_FUZZ_CASES" in os.environ:
        return
    mine = [item for item in items if "tests/fuzz/" in item.nodeid and hasattr(item, "callspec")]
    servers = [url_of(item) for item in mine if url_of(item) is not None]
    # With --server, the shares of the other servers have none of these tests.
    is_mine = not config.getoption("--server") or 1 in config.getoption("--server")
    first = (servers[0].host, servers[0].port) if servers and is_mine else None
    out = [item for item in mine if (url := url_of(item)) is not None and (url.host, url.port) != first]
    items[:] = [item for item in items if item not in out]


def url_of(item: Any) -> URL | None:
    url = item.callspec.params.get("url") if hasattr(item, "callspec") else None
    return url if isinstance(url, URL) else None  # not pytest's NOTSET, of a test without a target in this run


@contextmanager
def open_range(url: URL, way: Way) -> Iterator[Range]:
    with own_database(url) as own:
        # Set before SQLAlchemy asks for it: its DDL spells a backslash by it.
        mode = {"init_command": f"SET SESSION sql_mode = '{way.sql_mode}'"}
        engine = make_engine(own.update_query_dict({"charset": way.charset}), connect_args=mode)
        pairs = models(way.collation, is_check_quoted="NO_BACKSLASH" not in way.sql_mode)
        pairs[0][0].metadata.create_all(engine)
        made = Range(engine, way, pairs)
        made.reset()
        yield made
        engine.dispose()


@pytest.fixture(scope="module")
def fuzzed(url: URL, way: Way) -> Iterator[Range]:
    with open_range(url, way) as made:
        yield made
        record(
            "fuzz",
            url,
            way=f"{url.get_driver_name()}, {way.name}, {way.collation}",
            cases=made.tried.total(),
            by=dict(made.tried),
            violations=made.violations,
        )
