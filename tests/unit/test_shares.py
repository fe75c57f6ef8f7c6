"""`./dev tests`: a run for each database, what it says of servers that are not there, and what it says at the end."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import shares
from tests.servers import NoServer
from tests.shares import Share

FEW = ("tests/unit/test_quick.py", "-k", "race")


def no_servers():
    raise NoServer("No MySQL or MariaDB server was found.\n  Docker: no engine answers")


@pytest.fixture
def run(monkeypatch, capfd):
    """A run of the shares in this process: its exit status and what it printed."""
    monkeypatch.delenv("FSM_TEST_URLS", raising=False)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["tests.shares", *arguments])
        monkeypatch.setenv("FSM_TEST_URLS", "")
        return shares.main(), "".join(capfd.readouterr())

    return run


@pytest.mark.long
def test_quick_profile_without_a_server_tests_sqlite_and_fails(monkeypatch, run):
    monkeypatch.setattr(shares, "servers", no_servers)
    status, printed = run("--quick", *FEW)

    assert status == 4, printed
    assert "Docker: no engine answers" in printed
    assert "goes on with SQLite alone" in printed
    assert "without a database: 1 passed" in printed
    assert "NOT COVERED BY THIS RUN: MySQL 9.7, MariaDB 11.8, MariaDB 10.11." in printed
    assert "left out by the quick profile: races" in printed
    assert "all passed on SQLite\nFAILED: no server was tested" in printed


def test_all_tests_without_a_server_are_an_error(monkeypatch, run):
    monkeypatch.setattr(shares, "servers", no_servers)
    status, printed = run(*FEW)

    assert status == 4
    assert "passed" not in printed


def test_a_named_server_that_does_not_answer_is_an_error_without_its_password():
    done = subprocess.run(
        [sys.executable, "-m", "tests.shares", "--quick", *FEW],
        cwd=Path(__file__).parents[2],
        env={"PATH": "", "FSM_TEST_URLS": "mysql+pymysql://root:hush@127.0.0.1:1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 4
    assert "127.0.0.1:1 does not answer" in done.stdout
    assert "hush" not in done.stdout + done.stderr


def share(folder, number, name, status, log, skipped):
    one = Share(number, name, folder)
    one.process = SimpleNamespace(returncode=status)
    one.log.write_text(log)
    one.summary.write_text(json.dumps({"skipped": skipped, "missing_drivers": ["mysqldb"]}))
    return one


def test_the_end_adds_up_the_shares(tmp_path, capsys):
    options = argparse.Namespace(quick=False, rest=[])
    sqlite = share(tmp_path, 0, "SQLite", 0, "..\n== 2 passed, 1 skipped in 0.10s ==\n", {"no Docker": 1})
    server = share(tmp_path, 1, "mysql97", 1, ".F [ 50%]\n", {"no Docker": 2})
    found = [SimpleNamespace(name="mysql97", version="9.7.1")]
    status = shares.report([sqlite, server], found, options)
    lines = capsys.readouterr().out.splitlines()

    assert (sqlite.result, server.progress) == ("2 passed, 1 skipped in 0.10s", "mysql97 50 %")
    assert status == 1
    assert "covered: mysql97 9.7.1" in lines
    assert "skipped 3: no Docker" in lines
    assert lines[-1].startswith("FAILED on mysql97")


def test_a_share_without_tests_is_an_error_unless_a_part_was_asked_for(tmp_path):
    none = share(tmp_path, 1, "mysql97", 5, "no tests ran in 0.01s\n", {})

    assert not none.is_green(argparse.Namespace(rest=[]))
    assert none.is_green(argparse.Namespace(rest=["tests/unit"]))


LEAVES_A_THREAD = """\
import threading

from tests import conftest


def test_leaves_a_thread():
    conftest.SECONDS_TO_END = 1
    threading.Thread(target=threading.Event().wait, name="left").start()
"""


def test_a_run_ends_though_a_test_has_left_a_thread(tmp_path):
    file = tmp_path / "test_left.py"
    file.write_text(LEAVES_A_THREAD)

    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "tests.conftest",
            "-c",
            "pyproject.toml",
            "-p",
            "no:cacheprovider",
            file,
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert "1 passed" in done.stdout
    assert "Timeout (0:00:01)!" in done.stderr
    assert done.returncode == 1
