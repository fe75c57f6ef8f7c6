"""Names and rows that are escape sequences, second lines, and markup: no command passes them on.

The rows are written by hand, past the library, into a table without CHECK.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from tests.cli.test_terminal import at_terminal

# A title, a cleared screen, a second line, 8-bit CSI, a turned direction, markup of rich, and of Markdown and HTML.
STRANGER = "\x1b]0;pwned\x07\x1b[2J\n# forged\x9b2J\u202e[red][/x]|<b>"
KEYS = {"[/]": "new", "esc\x1b]0;pwned\x07\x1b[2J": "new", "stranger": STRANGER}
STEERING = re.compile("\x1b\\]|\x1b\\[[0-9;]*J|[\x07\x80-\x9f\u202e]|^# forged", re.MULTILINE)

AT = datetime(2026, 1, 1, tzinfo=timezone.utc).replace(tzinfo=None)

COMMANDS = {
    "table": ["diagram", "Doc.state", "--rows", "--counts"],
    "mermaid": ["diagram", "Doc.state", "--rows", "--counts", "-f", "mermaid"],
    "dot": ["diagram", "Doc.state", "--rows", "--counts", "-f", "dot"],
    "drawing as JSON": ["diagram", "Doc.state", "--rows", "--counts", "-f", "json"],
    "machine": ["diagram", "machine"],
    "history": ["history", "Doc.state", "stranger"],
    "history of a key that is markup": ["history", "Doc.state", "[/]"],
    "history of a key that is an escape": ["history", "Doc.state", "esc\x1b]0;pwned\x07\x1b[2J"],
    "history as JSON": ["history", "Doc.state", "stranger", "--json"],
    "no row": ["history", "Doc.state", STRANGER],
    "move": ["fire", "Doc.state", "esc\x1b]0;pwned\x07\x1b[2J", "Go"],
    "move as JSON": ["fire", "Doc.state", "esc\x1b]0;pwned\x07\x1b[2J", "Go", "--json"],
    "unknown state": ["fire", "Doc.state", "stranger", "Go"],
    "unknown state as JSON": ["fire", "Doc.state", "stranger", "Go", "--json"],
    "unknown event": ["fire", "Doc.state", "[/]", STRANGER],
    "payload": ["fire", "Doc.state", "[/]", "Go", f"{STRANGER}=1"],
    "token": ["fire", "Doc.state", "[/]", "Go", "--token", STRANGER],
    "actor": ["fire", "Doc.state", "[/]", "Go", "--actor", STRANGER],
    "set": ["fire-where", "Doc.state", "Odd [/nope]", "--all", "--yes"],
    "set as JSON": ["fire-where", "Doc.state", "Odd [/nope]", "--all", "--yes", "--json"],
    "count": ["fire-where", "Doc.state", "Odd [/nope]", "--all", "--dry-run"],
    "condition": ["fire-where", "Doc.state", "Go", "--where", f"{STRANGER}=1"],
    "doctor": ["check", "Doc.state"],
    "doctor as JSON": ["check", "Doc.state", "--json"],
    "SQL": ["sql", "Doc.state"],
    "machine as JSON": ["json", "machine"],
    "target": ["diagram", f"nothing{STRANGER}"],
    "file": ["diagram", "machine", "-o", f"{STRANGER}.exe"],
    "format": ["diagram", "machine", "-f", STRANGER],
    "option": ["diagram", "machine", f"--{STRANGER}"],
    "command": [STRANGER],
    "URL": ["check", "Doc.state", "--url", f"mysql+pymysql://{STRANGER}:x@127.0.0.1:1/x"],
    "file of SQLite": ["check", "Doc.state", "--url", f"sqlite:///{STRANGER}"],
}


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """The name of the module."""
    name = f"hostile_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(Path(__file__).with_name("hostile_models.txt").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    yield name
    sys.modules.pop(name, None)


@pytest.fixture
def rows(hostile, tmp_path):
    """The URL of a database with hostile rows, and a history that is no better."""
    url = f"sqlite:///{tmp_path / 'hostile.db'}"
    engine = create_engine(url)
    models = importlib.import_module(hostile)
    models.Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE hostile_docs"))
        columns = "name VARCHAR(100) PRIMARY KEY, amount NUMERIC, weight FLOAT, size BIGINT, note VARCHAR(20)"
        connection.execute(text(f"CREATE TABLE hostile_docs ({columns}, state VARCHAR(64) NOT NULL)"))
        for key, state in KEYS.items():
            connection.execute(text("INSERT INTO hostile_docs (name, state) VALUES (:n, :s)"), {"n": key, "s": state})
        history = models.DocTransition.__table__
        step = {"event": STRANGER, "source": "new", "target": STRANGER, "actor": STRANGER, "token": STRANGER}
        step |= {
            "record_name": "stranger",
            "sequence": 1,
            "at": AT,
            "details": {STRANGER: STRANGER, "nan": float("nan")},
        }
        connection.execute(history.insert(), [step])
    engine.dispose()
    return url


def arguments_of(name, hostile):
    """The command, whose second word is a column or a machine of the module."""
    command, *rest = COMMANDS[name]
    return [command, *(f"{hostile}:{rest[0]}", *rest[1:])] if rest else [command]


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("is_terminal", [True, False], ids=["terminal", "pipe"])
def test_no_command_passes_on_what_a_row_or_a_caller_says(run, hostile, rows, name, is_terminal):
    arguments = arguments_of(name, hostile)
    answer = run(*arguments, DATABASE_URL=rows, **({"TTY_COMPATIBLE": "1"} if is_terminal else {}))

    assert answer.status in {0, 1, 2, 3, 4}
    assert not STEERING.search(answer.out + answer.err)
    assert "Traceback" not in answer.err
    if "JSON" in name:
        json.loads(answer.out, parse_constant=pytest.fail)


def test_names_that_are_markup_are_shown_as_they_are(run, hostile, rows):
    at_a_terminal = {"DATABASE_URL": rows, "TTY_COMPATIBLE": "1"}
    drawn = run("diagram", f"{hostile}:machine", **at_a_terminal)
    swept = run("fire-where", f"{hostile}:Doc.state", "Odd [/nope]", "--all", "--yes", **at_a_terminal)

    assert drawn.status == swept.status == 0
    assert all(name in drawn.out for name in ("m[/x] [red]", "Odd [/nope]", "[red]x", "`|*_<b>"))
    assert "Odd [/nope]: 2 rows of hostile_docs were moved." in swept.err


@pytest.mark.long
def test_a_real_terminal_gets_no_sequence_of_a_row(hostile, rows):
    printed = at_terminal("diagram", f"{hostile}:Doc.state", "--rows", DATABASE_URL=rows)
    printed += at_terminal("history", f"{hostile}:Doc.state", "stranger", DATABASE_URL=rows)

    assert "pwned" in printed
    assert not STEERING.search(printed)
