"""The plugin for pytest, in a run of its own: a user's models, a user's tests, a server."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from sqlalchemy import URL, inspect

from tests.servers import make_engine

ROOT = Path(__file__).parents[2]
MODELS = """
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy_fsm_mysql import Event, Machine, StateMachineColumn, Stateful, TransitionHistory, on_committed

class Base(DeclarativeBase):
    pass

class Order(Stateful, Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(Machine(initial="new", events=[Event("Pay", {"new": "paid"})]))

class OrderTransition(TransitionHistory, Base):
    __tablename__ = "order_transitions"
    __records__ = "Order.state"

mails = []

@on_committed(Order.state)
def send_mail(moved):
    mails.append(moved.key)
"""
TESTS = """
from pathlib import Path
import pytest
from shop import Order, mails
from sqlalchemy_fsm_mysql.errors import TransitionNotAllowed

@pytest.mark.parametrize("turn", [1, 2])
def test_pay(fsm_session, turn):
    mails.clear()
    order = Order(id=1)  # the same key in both turns: the first left nothing behind
    fsm_session.add(order)
    assert order.fire("Pay").sequence == 1
    fsm_session.commit()
    assert mails == [1]
    with pytest.raises(TransitionNotAllowed):
        order.fire("Pay")
    fsm_session.rollback()
    assert order.state == "paid"

def test_a_second_connection_sees_none_of_it(fsm_engine, fsm_session):
    Path("database.txt").write_text(fsm_engine.url.database)
    fsm_session.add(Order(id=2))
    fsm_session.commit()
    with fsm_engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT COUNT(*) FROM orders").scalar() == 0
"""


def run_pytest(
    folder: Path, *arguments: str, models: str = "shop:Base", **environment: str
) -> subprocess.CompletedProcess[str]:
    (folder / "shop.py").write_text(MODELS)
    (folder / "test_shop.py").write_text(TESTS)
    (folder / "pytest.ini").write_text(f"[pytest]\nfsm_models = {models}\npythonpath = .\n")
    # Installed, pytest finds the plugin by its entry point; in a plain checkout it is named.
    found = any(each.name == "sqlalchemy-fsm-mysql" for each in entry_points(group="pytest11"))
    named = [] if found else ["-p", "sqlalchemy_fsm_mysql.testing.plugin"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *named, *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


@pytest.mark.servers_only
def test_session_is_rolled_back_after_each_test(url: URL, tmp_path: Path) -> None:
    """Tests fire, commit and are refused on a real server, in a database that is gone afterwards."""
    done = run_pytest(tmp_path, f"--fsm-url={url.render_as_string(hide_password=False)}")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
    engine = make_engine(url)
    assert (tmp_path / "database.txt").read_text() not in inspect(engine).get_schema_names()
    engine.dispose()


def test_no_models_named_is_an_error_that_says_what_to_write(tmp_path: Path) -> None:
    tests = tmp_path / "test_metadata.py"
    tests.write_text("def test_metadata(fsm_metadata):\n    pass\n")

    done = run_pytest(tmp_path, tests.name, models="")

    assert done.returncode == 1
    assert "add 'fsm_models = shop.models:Base'" in done.stdout
