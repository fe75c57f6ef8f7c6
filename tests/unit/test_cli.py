"""The command line: its help, its SQL, and what it says when it is called wrongly."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from sqlalchemy_fsm_mysql.cli.app import app
from sqlalchemy_fsm_mysql.cli.sql import broken

ORDERS = "sqlalchemy_fsm_mysql.demo:Order.state"
MODELS = """
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy_fsm_mysql import Event, Machine, StateMachineColumn, Transition

refund = Machine(initial="Paid", events=[
    Event("Refund", [Transition("Paid", "Refunded", guard=lambda order, amount: order.total == amount)],
          effect=lambda order, amount: {"total": order.total - amount}),
    Event("Mark", {"Refunded": "it's over"}),
])

class Base(DeclarativeBase):
    pass

class Payment(Base):
    __tablename__ = "payments"
    id: Mapped[int] = mapped_column(primary_key=True)
    total: Mapped[int]
    state: Mapped[str] = StateMachineColumn(refund)

class Double(Base):
    __tablename__ = "doubles"
    id: Mapped[int] = mapped_column(primary_key=True)
    one: Mapped[str] = StateMachineColumn(refund.__class__(initial="a", events=[Event("Go", {"a": "b"})]))
    two: Mapped[str] = StateMachineColumn(refund.__class__(initial="a", events=[Event("Go", {"a": "b"})]))

class Plain(Base):
    __tablename__ = "plain"
    id: Mapped[int] = mapped_column(primary_key=True)
"""


def run(*arguments):
    """The exit status, and what was printed, without boxes and line breaks."""
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join(re.sub("[│╭╮╰╯─]", " ", result.output).split())


@pytest.fixture
def shop(tmp_path, monkeypatch, request):
    """The name of a module in the current directory, another for each test."""
    name = f"shop_{request.node.name.partition('[')[0]}_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield name
    sys.modules.pop(name, None)


def test_without_arguments_it_shows_the_commands():
    _, out = run()
    assert "demo" in out
    assert "sql" in out


@pytest.mark.parametrize("command", ["demo", "sql"])
def test_help_of_a_command(command):
    status, out = run(command, "--help")
    assert status == 0
    assert "Usage" in out


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_it_says_what_to_install(missing):
    script = f"import sys; sys.modules[{missing!r}] = None; from sqlalchemy_fsm_mysql.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)

    assert done.returncode == 2
    assert "pip install 'sqlalchemy-fsm-mysql[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


# demo


@pytest.mark.parametrize(
    "wrong",
    [["--workers", "0"], ["--rows", "0"], ["--seconds", "0"], ["--workers", "many"], ["--url", "sqlite://"]],
)
def test_wrong_options_of_the_demo_are_refused(wrong):
    status, out = run("demo", *wrong)
    assert status == 2
    assert wrong[0] in out


# sql


def test_statement_of_each_event_is_printed():
    status, out = run("sql", ORDERS)
    assert status == 0
    assert out.count("-- always: UPDATE fsm_demo_orders SET") == 4
    assert "-- NotReady: Initializing -> Initializing -- Running, Error -> Error" in out
    assert "-- :fsm_key_0 the row's key, fsm_demo_orders.id" in out


def test_statement_of_one_event():
    _, out = run("sql", ORDERS, "--event", "Delete")
    assert "WHEN 'Stopped' THEN 'Deleted' WHEN 'Deleted' THEN 'Deleted' ELSE fsm_demo_orders.state END" in out
    assert "NotReady" not in out


@pytest.mark.parametrize(
    ("dialect", "has"),
    [
        ("mysql", "last_insert_id("),
        ("mariadb", "last_insert_id("),
        ("sqlite", "-- always: takes the write lock, and changes nothing: UPDATE"),
    ],
)
def test_statement_of_a_dialect(dialect, has):
    status, out = run("sql", ORDERS, "--dialect", dialect)
    assert status == 0
    assert has in out


def test_bound_parameters_are_explained(shop):
    status, out = run("sql", f"{shop}:Payment.state")
    assert status == 0
    assert re.search(r"-- :fsm_0_amount +payload 'amount'", out)
    assert re.search(r"""-- :param_1 +always "it's over\"""", out)
    assert "-- Refund: Paid [guard] -> Refunded" in out


def test_attribute_may_be_left_out_when_there_is_one_machine(shop):
    assert run("sql", f"{shop}:Payment") == run("sql", f"{shop}:Payment.state")


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("{shop}", "is not of the form module:Model.state"),
        ("{shop}:", "is not of the form"),
        ("nowhere.models:Order.state", "there is no module 'nowhere'"),
        ("{shop}:Order.state", "has no Order; it has Payment, Double"),
        ("{shop}:Payment.status", "is not a state machine; there is Payment.state"),
        ("{shop}:Payment.total", "is not a state machine; there is Payment.state"),
        ("{shop}:Double", "has several machines: name one of Double.one, Double.two"),
        ("{shop}:Plain", "is not a mapped class with a StateMachineColumn"),
        ("{shop}:refund", "is not a mapped class with a StateMachineColumn"),
    ],
)
def test_target_that_names_no_state_is_told(shop, target, says):
    status, out = run("sql", target.format(shop=shop))
    assert status == 2
    assert says in out


def test_module_that_lacks_an_import_is_told(shop, tmp_path):
    (tmp_path / f"{shop}.py").write_text("import not_installed_anywhere\n")
    status, out = run("sql", f"{shop}:Payment.state")
    assert status == 2
    assert f"{shop} imports not_installed_anywhere, which is not installed" in out


def test_module_that_fails_is_told(shop, tmp_path):
    (tmp_path / f"{shop}.py").write_text("1 / 0\n")
    status, out = run("sql", f"{shop}:Payment.state")
    assert status == 2
    assert "raised ZeroDivisionError: division by zero" in out


def test_unknown_event_is_told():
    status, out = run("sql", ORDERS, "--event", "Halt")
    assert status == 2
    assert "has no event 'Halt'; it has 'NotReady', 'Ready', 'Stop', 'Delete'" in out


def test_unknown_dialect_is_told():
    status, out = run("sql", ORDERS, "--dialect", "oracle")
    assert status == 2
    assert "oracle" in out
    assert "sqlite" in out


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE `SET WHERE` SET a='it''s WHEN AND' WHERE \"x AND y\" = 'back\\' WHERE'",
        "SELECT CASE a WHEN 1 THEN CASE WHEN b AND c THEN 2 ELSE 3 END ELSE 4 END FROM t WHERE a = 1",
    ],
)
def test_line_breaks_change_blanks_only(statement):
    quoted = re.compile(r"""'(?:[^'\\]|''|\\.)*'|"[^"]*"|`[^`]*`""")
    assert " ".join(broken(statement).split()) == statement
    assert quoted.findall(broken(statement)) == quoted.findall(statement)
