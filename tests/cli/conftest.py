"""A shop's module in the current directory, its database, and the command line as its operator calls it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import URL, create_engine
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from sqlalchemy_fsm_mysql.cli.app import app

MODELS = Path(__file__).with_name("shop_models.txt")


class Answer:
    """What a command printed, and its exit status."""

    def __init__(self, result: Any) -> None:
        self.status, self.out, self.err = result.exit_code, result.stdout, result.stderr

    @property
    def told(self) -> str:
        """Both outputs in one line, without boxes."""
        return " ".join(f"{self.out} {self.err}".translate(dict.fromkeys(map(ord, "│╭╮╰╯─"), " ")).split())


Run = Callable[..., Answer]


@pytest.fixture
def run() -> Run:
    """``run("fire", …)`` calls the command line in this process."""

    def call(*arguments: Any, stdin: str | None = None, **environment: str) -> Answer:
        wide = {"COLUMNS": "300", "TERMINAL_WIDTH": "300", "DATABASE_URL": "", **environment}
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin, env=wide)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return Answer(result)

    return call


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module in the current directory, another for each test."""
    name = f"shop_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODELS.read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    yield importlib.import_module(name)
    sys.modules.pop(name, None)


@pytest.fixture
def stock(shop: ModuleType, url: URL) -> Iterator[str]:
    """The URL of a database with the shop's tables."""
    engine = create_engine(url)
    shop.Base.metadata.drop_all(engine)
    shop.Base.metadata.create_all(engine)
    yield url.render_as_string(hide_password=False)
    shop.Base.metadata.drop_all(engine)
    engine.dispose()


@pytest.fixture
def session(shop: ModuleType, stock: str) -> Iterator[Session]:
    """A session of the operator's colleague."""
    engine = create_engine(stock)
    with Session(engine) as session:
        yield session
    engine.dispose()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A command sends what the library sends, so one driver for each server will do."""
    items[:] = [item for item in items if not is_repetition(item)]


def is_repetition(item: pytest.Item) -> bool:
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    target = parameters.get("url")
    is_here = Path(__file__).parent in item.path.parents
    return is_here and isinstance(target, URL) and target.drivername not in ("mysql+pymysql", "sqlite")
