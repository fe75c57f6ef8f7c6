"""What a person at a terminal sees, and what their shell offers."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest
from sqlalchemy import create_engine
from typer.testing import CliRunner

from sqlalchemy_fsm_mysql.cli.app import app

COMMANDS = ["demo", "diagram", "sql", "history", "fire", "fire-where"]


@pytest.fixture
def stock(shop, tmp_path):
    """A database of the shop's; what is drawn does not depend on which."""
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    engine = create_engine(url)
    shop.Base.metadata.create_all(engine)
    engine.dispose()
    return url


def at_terminal(*arguments: str, **environment: str) -> str:
    """What the command prints at a terminal, which reads and shows both outputs."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "sqlalchemy_fsm_mysql", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "COLUMNS": "120", "TERM": "xterm", "DATABASE_URL": "", **environment},
    )
    os.close(theirs)
    printed = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        printed += part
    os.close(ours)
    assert process.wait(30) == 0, printed
    return printed.decode()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_it_does_and_how_it_ends(run, command):
    answer = run(command, "--help")

    assert answer.status == 0
    assert "Usage: " in answer.told


def test_commands_are_listed(run):
    told = run("--help").told
    assert all(f" {command} " in told for command in COMMANDS)
    assert "--install-completion" in told


def test_history_is_a_table_at_a_terminal_and_obeys_no_row(shop, stock, session):
    session.add(shop.Order(id=7))
    session.flush()
    session.get_one(shop.Order, 7).fire("Ready", actor="ann\x1b[2J[red]")
    session.commit()
    printed = at_terminal("history", f"{shop.__name__}:Order.state", "7", DATABASE_URL=stock)

    assert "sequence" in printed
    assert "└──" in printed
    assert "ann\\x1b[2J[red]" in printed
    assert "\x1b[2J" not in printed
    assert "shop_orders 7 was moved 1 time, and is 'Running'" in printed


def test_fire_where_shows_a_bar_at_a_terminal(shop, stock, session):
    session.add_all([shop.Order() for _ in range(50)])
    session.commit()
    printed = at_terminal(
        "fire-where", f"{shop.__name__}:Order.state", "Stop", "--all", "--yes", "--batch-size", "10", DATABASE_URL=stock
    )

    assert "50/50" in printed
    assert "━" in printed
    assert "Stop: 50 rows of shop_orders were moved." in printed


def completing(typed: str) -> dict[str, str]:
    """What bash says when someone has *typed* arguments and presses Tab."""
    return {
        "_SQLALCHEMY_FSM_MYSQL_COMPLETE": "complete_bash",
        "COMP_WORDS": f"sqlalchemy-fsm-mysql {typed}",
        "COMP_CWORD": str(len(typed.split(" "))),
    }


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("fire {shop}:Order.state 7 ", {"NotReady", "Ready", "Stop", "Delete"}),
        ("fire {shop}:Order.state 7 S", {"Stop"}),
        ("fire nowhere:Order 7 ", set()),
        ("fire-where {shop}:Payment.state R", {"Refund"}),
        ("diagram {shop}:machine --format ", {"table", "mermaid", "dot", "svg", "png", "json"}),
        ("hi", {"history"}),
    ],
)
def test_what_a_shell_may_offer(shop, typed, offered):
    asked = completing(typed.format(shop=shop.__name__))
    result = CliRunner().invoke(app, [], prog_name="sqlalchemy-fsm-mysql", env=asked)

    assert set(result.output.split()) == offered


@pytest.mark.long
def test_shell_asks_and_is_answered(shop):
    done = subprocess.run(
        [sys.executable, "-m", "sqlalchemy_fsm_mysql"],
        env={**os.environ, **completing(f"fire {shop.__name__}:Order.state 7 S")},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.stdout.split(), done.stderr) == (["Stop"], "")
