"""``due``: timed events on the rows that are due, once, and as a worker that a supervisor starts and stops."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import create_engine, func, insert, select
from sqlalchemy.orm import Session

from sqlalchemy_fsm_mysql.sql.clock import utc_ago
from tests.cli.due_models import HOUR, MINUTE, MODELS


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module with timed events in the current directory."""
    name = f"timed_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    yield importlib.import_module(name)
    sys.modules.pop(name, None)


@pytest.fixture
def place(module, url):
    """The URL of a database with three rows that are due, one that is not, and one whose effect fails."""
    engine = create_engine(url)
    module.Base.metadata.drop_all(engine)
    module.Base.metadata.create_all(engine)
    with engine.begin() as connection:
        for key, ago, number in (
            (1, 2 * HOUR, 0),
            (2, 3 * HOUR, 0),
            (3, 2 * HOUR, 0),
            (4, MINUTE, 0),
            (5, 4 * HOUR, 7),
        ):
            table = module.Ticket.__table__
            connection.execute(insert(table).values(id=key, state="open", state_since=utc_ago(ago), number=number))
    yield url.render_as_string(hide_password=False)
    module.Base.metadata.drop_all(engine)
    engine.dispose()


def states(module, url) -> dict[str, int]:
    engine = create_engine(url)
    with Session(engine) as session:
        found = session.execute(select(module.Ticket.state, func.count()).group_by(module.Ticket.state)).all()
    engine.dispose()
    return dict(map(tuple, found))


def test_once(run, module, place):
    answer = run("due", f"{module.__name__}:Ticket.state", "-u", place, "--limit", "2", "--event", "Close", "--json")

    assert answer.status == 1
    assert "Close: 3 rows of timed_tickets were moved. 1 row failed." in answer.told
    told = json.loads(answer.out)
    assert (told["moved"], [one["key"] for one in told["errors"]]) == (3, [5])
    assert states(module, place) == {"open": 2, "closed": 3}


def test_wrong_calls(run, module, place):
    target = f"{module.__name__}:Ticket.state"
    assert (run("due", target, "-u", place, "--event", "Nothing").status, states(module, place)) == (2, {"open": 5})
    answer = run("due", target, "-u", place, "--event", "Reopen")
    assert (answer.status, "'Reopen' of Ticket.state has no after=" in answer.told) == (2, True)
    answer = run("due", f"{module.__name__}:Plain.state", "-u", place)
    assert (answer.status, "Plain has no timed event" in answer.told) == (2, True)
    assert run("due", target, "-u", place, "--every", "0").status == 2
    assert run("due", target, "-u", place, "--actor", "me").status == 2  # no history would keep it


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_ends_cleanly_at_a_signal(module, place, tmp_path, number):
    """It is ready, has moved what was due, fires the next row at its time, and ends with status 0 after a signal."""
    ready = tmp_path / "ready"
    command = [sys.executable, "-m", "sqlalchemy_fsm_mysql", "due", f"{module.__name__}:Ticket.state", "-u", place]
    root = str(Path(__file__).parents[2])
    worker = subprocess.Popen(
        [*command, "--every", "1", "--ready-file", str(ready)],
        cwd=tmp_path,
        env={"PYTHONPATH": root, "PATH": ""},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        end = time.monotonic() + 60
        while not ready.exists() and worker.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        assert states(module, place) == {"open": 2, "closed": 3}
        engine = create_engine(place)
        with engine.begin() as connection:
            connection.execute(insert(module.Ticket.__table__).values(id=6, state="open", state_since=utc_ago(HOUR)))
        engine.dispose()
        while states(module, place) != {"open": 2, "closed": 4} and time.monotonic() < end:
            time.sleep(0.1)
        worker.send_signal(number)
        _, told = worker.communicate(timeout=60)
    finally:
        worker.kill()
        worker.communicate()

    assert (worker.returncode, ready.exists()) == (0, False), told
    lines = told.splitlines()
    assert sum("INFO timed_tickets: " in line and "moved" in line for line in lines) == 2
    assert sum("WARNING timed_tickets 5: " in line for line in lines) == 1  # in each round, told once
    assert lines[-1] == "Close: 4 rows of timed_tickets were moved. 1 row failed."


def test_a_database_that_is_not_there(run, module):
    answer = run(
        "due", f"{module.__name__}:Ticket.state", "-u", "mysql+pymysql://root@127.0.0.1:1/none", "--every", "1"
    )
    assert answer.status == 4


def test_how_long_rows_stay(run, module, place):
    target = f"{module.__name__}:Ticket.state"
    answer = run("dwell", target, "-u", place)
    assert answer.status == 0
    assert answer.out.splitlines() == ["state\tstays\tmedian\tp95\toldest", "open\t5\t2 h\t4 h\t4 h", "closed\t0\t\t\t"]
    told = json.loads(run("dwell", target, "-u", place, "--json").out)
    assert (told["open"]["count"], told["closed"]["median"]) == (5, None)
    assert run("dwell", target, "-u", place, "--history").status == 2
    assert run("dwell", f"{module.__name__}:Plain.state", "-u", place).status == 2


def test_a_diagram_shows_how_long_rows_stay(run, module, place):
    target = f"{module.__name__}:Ticket.state"
    drawn = run("diagram", target, "-u", place, "--times", "--rows", "-f", "dot").out
    assert r'"open" [label="open\n5 rows\n2 h", color="#b62324"' in drawn
    assert r'"closed" [label="closed\n0 rows"];' in drawn
    assert 'state "open<br/>2 h" as s0' in run("diagram", target, "-u", place, "--times", "-f", "mermaid").out
    assert "| open (2 h) " in run("diagram", target, "-u", place, "--times").out
    told = json.loads(run("diagram", target, "-u", place, "--times", "-f", "json").out)
    assert 7100 < told["seconds"]["open"] < 7300
    assert run("diagram", f"{module.__name__}:Plain.state", "-u", place, "--times").status == 2
