"""Bad input ends with the documented status and a message: no traceback, no SQL, no password, no new file."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from sqlalchemy_fsm_mysql.cli.app import app
from sqlalchemy_fsm_mysql.cli.status import Status
from tests.cli.test_hostile_rows import hostile  # noqa: F401 - a fixture

PAGE = Path(__file__).parents[2] / "docs" / "command_line.md"
PAY = ["fire", "Doc.state", "a", "Pay"]
DEEP = "[" * 60_000
LONG = "9" * 5000

USAGE = {
    "an actor of 256 characters": ["fire", "Doc.state", "a", "Go", "--actor", "x" * 256],
    "an actor that is half a character": ["fire", "Doc.state", "a", "Go", "--actor", "\ud800"],
    "an empty token": ["fire", "Doc.state", "a", "Go", "--token", ""],
    "a token of 65 characters": ["fire", "Doc.state", "a", "Go", "--token", "x" * 65],
    "a token of two lines": ["fire", "Doc.state", "a", "Go", "--token", "a\nb"],
    "details that are no JSON": ["fire", "Doc.state", "a", "Go", "--details", "{"],
    "details NaN": ["fire", "Doc.state", "a", "Go", "--details", '{"a": NaN}'],
    "deep details": ["fire", "Doc.state", "a", "Go", "--details", DEEP],
    "details of 5,000 digits": ["fire", "Doc.state", "a", "Go", "--details", LONG],
    "details with half a character": ["fire", "Doc.state", "a", "Go", "--details", '"\\ud800"'],
    "a key that is no UTF-8": ["fire", "Doc.state", "\udcff\udcfe", "Go"],
    "a key of 66 bits": ["fire", "Number.state", "9" * 20, "Go"],
    "a key of 5,000 digits": ["fire", "Number.state", LONG, "Go"],
    "a key that is SQL": ["fire", "Number.state", "1 or 1=1", "Go"],
    "a list for a number": [*PAY, "amount:=[1]", "note=x"],
    "an object for a number": [*PAY, 'amount:={"a": 1}', "note=x"],
    "a list for a text": [*PAY, "amount=1", "note:=[1]"],
    "NaN for a number": [*PAY, "amount:=NaN", "note=x"],
    "Infinity for a number": [*PAY, "amount:=Infinity", "note=x"],
    "typed NaN": [*PAY, "amount=NaN", "note=x"],
    "a number of 400 digits": [*PAY, "amount=" + "9" * 400, "note=x"],
    "an exponent of a million": [*PAY, "amount=1e999999", "note=x"],
    "deep payload": [*PAY, f"amount:={DEEP}", "note=x"],
    "payload of an option's name": [*PAY, "amount=1", "note=x", "actor=y"],
    "an attribute of Python": [*PAY, "amount=1", "note=x", "__class__=y"],
    "a condition that is SQL": ["fire-where", "Doc.state", "Go", "--where", "size=1 or 1=1", "--dry-run"],
    "a condition on an attribute": ["fire-where", "Doc.state", "Go", "--where", "metadata=1", "--dry-run"],
    "a condition on NaN": ["fire-where", "Doc.state", "Go", "--where", "weight=nan", "--dry-run"],
    "a condition on infinity": ["fire-where", "Doc.state", "Go", "--where", "weight<inf", "--dry-run"],
    "a condition of 66 bits": ["fire-where", "Doc.state", "Go", "--where", "size<" + "9" * 20, "--dry-run"],
    "an empty condition": ["fire-where", "Doc.state", "Go", "--where", "", "--dry-run"],
    "a set's actor": ["fire-where", "Doc.state", "Go", "--all", "--yes", "--actor", "x" * 256],
    "a set's details": ["fire-where", "Doc.state", "Go", "--all", "--yes", "--details", "NaN"],
    "a set's payload": ["fire-where", "Doc.state", "Pay", "amount:=[1]", "note=x", "--all", "--yes"],
    "a batch of 25 digits": ["fire-where", "Doc.state", "Go", "--all", "--yes", "--batch-size", "9" * 25],
    "a limit of 25 digits": ["fire-where", "Doc.state", "Go", "--all", "--yes", "--max-rows", "9" * 25],
    "a history of 25 digits": ["history", "Doc.state", "a", "--last", "9" * 25],
    "an empty target": ["sql", ""],
    "a relative target": ["sql", "Order..state"],
    "a target in Python's own": ["sql", "Doc.__init__.__globals__"],
    "no year": ["diagram", "Doc.state", "--since", "x"],
    "a folder for a document": ["diff", "/tmp", "/tmp"],
    "an empty document": ["diff", "/dev/null", "/dev/null"],
    "a deep document": ["diff", "deep.json", "deep.json"],
    "a document that is no UTF-8": ["diff", "binary.json", "binary.json"],
    "a file in no folder": ["diagram", "machine", "-o", "/nonexistent/x.md"],
    "a suffix of no format": ["diagram", "machine", "-o", "x.exe"],
    "no URL": ["check", "Doc.state", "--url", ""],
    "a URL that is none": ["check", "Doc.state", "--url", "junk"],
    "a port that is none": ["check", "Doc.state", "--url", "mysql+pymysql://u:sesame@127.0.0.1:http/x"],
    "a port too large": ["check", "Doc.state", "--url", "mysql+pymysql://u:sesame@127.0.0.1:99999/x"],
    "no database": ["check", "Doc.state", "--url", "mysql+pymysql://u:sesame@127.0.0.1"],
    "a password with @": ["check", "Doc.state", "--url", "mysql+pymysql://u:p@ss/sesame@127.0.0.1:1/x"],
    "an unknown option": ["check", "Doc.state", "--url", "mysql+pymysql://u:sesame@127.0.0.1:1/x?nope=1"],
    "a certificate that is not there": [
        "check",
        "Doc.state",
        "--url",
        "mysql+pymysql://u:sesame@127.0.0.1:1/x?ssl_ca=/nope",
    ],
    "an unknown charset": ["check", "Doc.state", "--url", "mysql+pymysql://u:sesame@127.0.0.1:1/x?charset=klingon"],
    "a host of 50,000 characters": ["check", "Doc.state", "--url", "mysql+pymysql://u:sesame@" + "a" * 50_000 + "/x"],
    "a driver that is not installed": ["check", "Doc.state", "--url", "oracle+nothing://u:sesame@h/x"],
    "a driver for asyncio": ["check", "Doc.state", "--url", "mysql+aiomysql://u:sesame@h/x"],
    "a race of nobody": ["demo", "--workers", "0"],
    "the JSON of nothing": ["json", "Doc..state"],
    "a report on no database": ["report", "--url", "junk"],
    "an adoption in no database": ["adopt", "Doc.state", "--url", "junk"],
    "no timed event": ["due", "Doc.state"],
    "no row at a time": ["due", "Doc.state", "--limit", "0"],
    "stays since no time": ["dwell", "Doc.state", "--since", "x"],
    "watched in no database": ["watched", "Doc.state", "--url", "junk"],
    "an unknown command": ["fly"],
    "an unknown option of the program": ["--fly"],
}
DATABASE = {
    "no server": ["check", "Doc.state", "--url", "mysql+pymysql://u:sesame@127.0.0.1:1/x"],
    "a password in an option": ["check", "Doc.state", "--url", "mysql+pymysql://u@127.0.0.1:1/x?password=sesame"],
    "no such file": ["check", "Doc.state", "--url", "sqlite:///nothing.db"],
    "a folder": ["check", "Doc.state", "--url", "sqlite:////tmp"],
    "a file of another kind": ["check", "Doc.state", "--url", f"sqlite:///{sys.executable}"],
    "no such file, fire": ["fire", "Doc.state", "a", "Go", "--url", "sqlite:///nothing.db"],
    "no such file, history": ["history", "Doc.state", "a", "--url", "sqlite:///nothing.db"],
}


def is_told(answer, status):
    """Whether *answer* ends with *status* and a message, and shows nothing that it must not."""
    shown = answer.out + answer.err
    secrets = [word for word in ("Traceback", "sesame", "UPDATE ", "INSERT ", "SELECT ", "[SQL") if word in shown]
    return (answer.status, secrets, bool(answer.err.strip())) == (status, [], True)


@pytest.fixture
def docs(hostile, tmp_path):  # noqa: F811 - the fixture
    """The URL of a database with one row, in a folder with documents."""
    url = f"sqlite:///{tmp_path / 'docs.db'}"
    models = __import__(hostile)
    engine = create_engine(url)
    models.Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(models.Doc(name="a"))
        session.commit()
    engine.dispose()
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\0")
    return url


TARGETED = {"fire", "fire-where", "history", "check", "sql", "diagram", "adopt", "due", "dwell", "watched"}


def called(arguments, hostile):  # noqa: F811
    command, *rest = arguments
    is_target = rest and command in TARGETED and rest[0]
    return [command, f"{hostile}:{rest[0]}", *rest[1:]] if is_target else arguments


@pytest.mark.parametrize("what", USAGE)
def test_a_wrong_call_is_status_2(run, hostile, docs, what):  # noqa: F811
    answer = run(*called(USAGE[what], hostile), DATABASE_URL=docs)

    assert is_told(answer, Status.USAGE), (answer.status, answer.out, answer.err[-600:])
    assert run("history", f"{hostile}:Doc.state", "a", DATABASE_URL=docs).out.splitlines()[1:] == []


@pytest.mark.parametrize("what", DATABASE)
def test_a_database_that_cannot_be_used_is_status_4_and_no_file_is_made(run, hostile, docs, what):  # noqa: F811
    answer = run(*called(DATABASE[what], hostile))

    assert is_told(answer, Status.DATABASE), (answer.status, answer.out, answer.err[-600:])
    assert not Path("nothing.db").exists()


def test_an_error_of_a_hook_is_status_70_and_its_traceback_is_shown_on_request(run, hostile, docs):  # noqa: F811
    from sqlalchemy_fsm_mysql import on_moved, remove_hook

    models = __import__(hostile)

    @on_moved(models.Doc.state)
    def hook(moved, session):
        raise ZeroDivisionError("by the hook")

    fire = ["fire", f"{hostile}:Doc.state", "a", "Go"]
    try:
        answer, shown = run(*fire, DATABASE_URL=docs), run("--traceback", *fire, DATABASE_URL=docs)
    finally:
        remove_hook(models.Doc.state, hook)

    assert is_told(answer, Status.UNEXPECTED)
    assert "ZeroDivisionError: by the hook" in answer.err
    assert shown.status == Status.UNEXPECTED


def test_every_command_has_a_wrong_call():
    """A command that is new has to be called in a wrong way here, too."""
    import typer.main

    assert set(typer.main.get_command(app).commands) - {call[0] for call in USAGE.values()} == set()


def test_the_version_is_printed(run):
    assert re.fullmatch(
        r"sqlalchemy-fsm-mysql (\d+\.\d+\.\d+|of a source tree that is not installed)\n", run("--version").out
    )


# --- in a shell of its own


def shell(command, *, url="", **environment):
    """The exit status and both outputs of *command*, in which FSM is the program."""
    program = f"{sys.executable} -m sqlalchemy_fsm_mysql"
    done = subprocess.run(
        ["bash", "-c", command.replace("FSM", program)],
        capture_output=True,
        check=False,
        timeout=60,
        env={**os.environ, "DATABASE_URL": url, "COLUMNS": "100", **environment},
    )
    return done.returncode, (done.stdout + done.stderr).decode("utf-8", "backslashreplace")


@pytest.mark.long
@pytest.mark.parametrize("arguments", ["sql {m}:Doc.state", "json {m}:machine", "diagram {m}:machine", "--help"])
def test_a_closed_pipe_is_status_141(hostile, arguments):  # noqa: F811
    # The reader ends before the first byte is written.
    status, printed = shell(f"set -o pipefail; (sleep 2; FSM {arguments.format(m=hostile)}) | true")

    assert (status, "Traceback" in printed, "Exception ignored" in printed) == (Status.CLOSED_PIPE, False, False), (
        printed
    )


@pytest.mark.long
def test_a_full_disk_is_status_5(hostile, docs):  # noqa: F811
    status, printed = shell(f"FSM fire {hostile}:Doc.state a Go > /dev/full", url=docs)

    assert (status, printed) == (Status.OUTPUT, "The output cannot be written: No space left on device.\n")
    assert shell(f"FSM fire {hostile}:Doc.state a Go > /dev/full", url=docs)[0] == Status.OUTPUT
    assert shell("FSM --help > /dev/full")[0] == Status.OUTPUT


@pytest.mark.long
def test_a_closed_output_does_not_fail_the_command(hostile, docs):  # noqa: F811
    assert shell(f"FSM fire {hostile}:Doc.state a Go >&-", url=docs)[0] == Status.DONE


@pytest.mark.long
@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "cp1252"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["ascii", "cp1252", "C"],
)
def test_an_encoding_that_lacks_a_character_writes_its_escape(hostile, docs, environment):  # noqa: F811
    fire = f"FSM fire {hostile}:Doc.state a Go --actor Łukasz-ключ"
    assert shell(fire, url=docs, **environment)[0] == Status.DONE
    plain = shell(f"FSM history {hostile}:Doc.state a", url=docs, **environment)
    as_json = shell(f"FSM history {hostile}:Doc.state a --json", url=docs, **environment)

    assert (plain[0], as_json[0]) == (Status.DONE, Status.DONE)
    assert "\\u0141ukasz-\\u043a\\u043b\\u044e\\u0447" in as_json[1]
    # For an ASCII stream typer writes UTF-8 instead.
    assert "\u0141ukasz-\u043a" in plain[1] or "ukasz-\\u043a" in plain[1]
    status, refused = shell(f"FSM fire {hostile}:Doc.state ключ Go", url=docs, **environment)
    assert (status, "Traceback" in refused) == (Status.NOT_FOUND, False)


@pytest.mark.long
@pytest.mark.parametrize("closes_input", [True, False], ids=["no terminal", "Ctrl-C"])
def test_the_question_of_fire_where_ends_without_an_answer(hostile, docs, closes_input):  # noqa: F811
    process = subprocess.Popen(
        [sys.executable, "-m", "sqlalchemy_fsm_mysql", "fire-where", f"{hostile}:Doc.state", "Go", "--all"],
        stdin=subprocess.DEVNULL if closes_input else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "DATABASE_URL": docs},
        # A job in the background of a shell ignores SIGINT, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    if not closes_input:
        question = b""
        while b"[y/N]" not in question:
            question += os.read(process.stderr.fileno(), 4096)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=30)

    assert process.returncode == (Status.REFUSED if closes_input else Status.INTERRUPTED), printed
    assert b"Traceback" not in printed


# --- the page


def test_every_exit_status_stands_in_the_page():
    table = PAGE.read_text().partition("## Exit statuses")[2].partition("\n## ")[0]
    documented = {int(number) for number in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}

    assert documented == {status.value for status in Status}


def test_every_option_stands_in_the_section_of_its_command():
    import typer.main

    group = typer.main.get_command(app)
    page = PAGE.read_text()
    sections = re.split(r"^##+ ", page, flags=re.MULTILINE)
    of_command = {name: one for one in sections for name in re.findall(r"`([\w-]+)`", one.partition("\n")[0])}
    common = options_in(next(one for one in sections if one.startswith("Options of all commands")))

    for name, command in group.commands.items():
        options = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
        documented = options_in(of_command[name])
        assert documented <= options, name
        assert {option for option in options if option.startswith("-")} <= documented | common, name
        assert re.search(rf"^\| (`.*, )?`{name}[ `]", page, re.MULTILINE), name
    assert {option for one in group.params for option in one.opts} <= common


def options_in(section):
    """The options in the first cells of the tables of *section*."""
    cells = re.findall(r"^\| (`-.+?) \|", section, re.MULTILINE)
    return {option for cell in cells for option in re.findall(r"`(--?[a-z-]+)`", cell)}
