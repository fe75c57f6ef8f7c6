"""What the documentation shows, taken at its word: each page's blocks run in their order.

| fence | what is done with it |
|---|---|
| ``python`` | run, in one namespace for each page; if its first line is ``# name.py``, written to a file of this name instead, and if it is ``# name.py, at the end``, added to it |
| ``python server`` | as ``python`` where there is a server, else compiled |
| ``python mariadb`` | as ``python`` where there is a MariaDB, else compiled |
| ``python recipe`` | as ``python mariadb`` in ``./dev ecosystem``, which has the libraries of docs/recipes/; else compiled |
| ``python recipe 2.0`` | the same where SQLAlchemy is 2.0, for a library that does not import on 2.1 |
| ``python transitions`` | as ``python`` in ``./dev peers``, else compiled; so for each of `PEERS` |
| ``python sqlalchemy-fsm 3`` | the same for one major version |
| ``console`` | each line that begins with ``$`` is run by a shell in the page's folder; what follows is what it prints, ``…`` being anything |
| ``console server`` | as ``console`` where there is a server, else nothing |
| ``rst`` | as ``console`` has it built: its first line is ``.. name.rst``, and it is written to this file |
| ``md`` | shown; the page itself has the same, so the site's build runs it |
| ``text``, ``mermaid``, ``{directive}`` | no code |

There is no other kind: a block that is indented and not fenced, or whose fence says nothing, is an error.

On a server, ``sqlite://`` and every URL of ``user:password`` are that server's, with a database of this page's own.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
import warnings
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token
from sqlalchemy import URL, Engine
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser

PROJECT = Path(__file__).parents[2]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]

# The libraries that people come from, by the names that pip knows. `./dev peers` has all of them.
PEERS = ("django-fsm-2", "python-statemachine", "sqlalchemy-fsm", "sqlalchemy-fsm 2", "sqlalchemy-fsm 3", "transitions")
RUNS = (
    *(
        "python",
        "python server",
        "python mariadb",
        "python recipe",
        "python recipe 2.0",
        "console",
        "console server",
        "rst",
    ),
    *(f"python {peer}" for peer in PEERS),
)
SHOWN = ("md", "text", "mermaid")

# Set by ./dev ecosystem.
IS_ECOSYSTEM = os.environ.get("FSM_ECOSYSTEM", "") not in ("", "0")

# The server on which each recipe runs: one, because some of these libraries have one MetaData for the whole process.
RECIPES: dict[Path, URL | None] = {}

FILE = re.compile(r"(?:#|\.\.) ([\w/]+\.(?:py|rst))(, at the end)?\n")
# What a page writes for a server, and in SQLite's place on one.
SERVER_URL = re.compile(r"mysql\+pymysql://user:password@[\w.]+(:\d+)?/\w+")
ASYNC_URL = re.compile(r"mysql\+asyncmy://user:password@[\w.]+(:\d+)?/\w+")
SQLITE_URL = re.compile(r"(?<![\w+])sqlite://(?=[\"'])")
# Not here: they make environments of their own. `./dev newcomer` runs them, in a fresh clone.
ELSEWHERE = ("git clone ", "cd ", "python3 -m venv ", "pip install ", "./dev ", ". ", "source ")


@dataclass
class Page:
    """One page being run: on SQLite when there is no *url*."""

    path: Path
    folder: Path
    url: URL | None = None
    is_mariadb: bool = False
    namespace: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # A library may look for the module of a class or function.
        page = ModuleType("__page__")
        self.namespace = page.__dict__
        sys.modules[page.__name__] = page
        sys_path = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
        here = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environment = {**os.environ, "PATH": here, "PYTHONPATH": sys_path, "COLUMNS": "100", "NO_COLOR": "1"}

    @property
    def where(self) -> str:
        try:
            return str(self.path.relative_to(PROJECT))
        except ValueError:
            return str(self.path)

    def examples(self) -> list[Example]:
        """Every block that is run, in the page's order."""
        parsers = [CodeBlockParser(mark, partial(self.evaluate, mark)) for mark in RUNS]
        return list(Sybil(parsers=parsers, encoding="utf-8").parse(self.path).examples())

    def run(self) -> None:
        """Run all blocks. What was opened is closed, also after a failure."""
        try:
            for example in self.examples():
                example.evaluate()
        finally:
            for value in self.namespace.values():
                if isinstance(value, Engine):
                    value.dispose()

    def evaluate(self, mark: str, example: Example) -> None:
        language, _, needs = mark.partition(" ")
        is_possible = self.can_have(needs)
        line = example.line + example.parsed.line_offset
        if language == "console":
            if is_possible:
                self.type_in(example.parsed, line)
            return
        name = FILE.match(example.parsed)
        if language == "rst":
            assert name, f"{self.where}:{line}: the first line of an rst block names its file, as in '.. index.rst'"
        if name:
            if language == "python":
                compile(example.parsed, name[1], "exec")
            target = self.folder / name[1]
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("a" if name[2] else "w", encoding="utf-8") as file:
                file.write(self.placed(example.parsed))
            return
        code = compile("\n" * line + self.placed(example.parsed), example.path, "exec", dont_inherit=True)
        if is_possible:
            with warnings.catch_warnings():
                if needs.startswith("recipe"):  # what these libraries deprecate is not ours to mend
                    warnings.simplefilter("ignore")
                exec(code, self.namespace)  # noqa: S102 - the page's own code is what is tested

    def can_have(self, needs: str) -> bool:
        if needs in PEERS:
            # Theirs is shown once; what Django has configured stays, so not again on each server.
            return self.url is None and is_installed(*needs.split())
        if needs.startswith("recipe"):
            if needs.endswith("2.0") and not version("SQLAlchemy").startswith("2.0."):
                return False
            return self.is_mariadb and IS_ECOSYSTEM and RECIPES.setdefault(self.path, self.url) == self.url
        return {"": True, "server": self.url is not None, "mariadb": self.is_mariadb}[needs]

    def placed(self, text: str) -> str:
        """*text* with this page's database."""
        if self.url is None:
            return text
        own = self.url.render_as_string(hide_password=False)
        awaited = self.url.set(drivername="mysql+asyncmy").render_as_string(hide_password=False)
        return SQLITE_URL.sub(own, SERVER_URL.sub(own, ASYNC_URL.sub(awaited, text)))

    def type_in(self, text: str, line: int) -> None:
        for command, expected in commands(text):
            if command.startswith(ELSEWHERE):
                continue
            if command.startswith("export "):
                self.environment.update(
                    assignment.split("=", 1) for assignment in shlex.split(self.placed(command))[1:]
                )
                continue
            done = subprocess.run(
                ["bash", "-c", self.placed(command)],
                check=False,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
                timeout=60,
            )
            assert done.returncode == 0 or expected, f"{self.where}:{line}: $ {command}\n{done.stdout}"
            assert not expected or prints(done.stdout, expected), (
                f"{self.where}:{line}: $ {command}\nprinted:\n{done.stdout}\nand not:\n{expected}"
            )


def is_installed(distribution: str, major: str = "") -> bool:
    """Whether the library is to be run here: in ``./dev peers``, which sets FSM_PEERS. Then it has to be installed."""
    return bool(os.environ.get("FSM_PEERS")) and version(distribution).startswith(major)


def commands(text: str) -> list[tuple[str, str]]:
    """Each command of a console block with what it is said to print.

    >>> commands("$ echo a\\na\\n$ cd x\\n")
    [('echo a', 'a\\n'), ('cd x', '')]
    """
    parts = re.split(r"^\$ ", text, flags=re.MULTILINE)
    assert not parts[0].strip(), f"a console block begins with a command: {parts[0]!r}"
    return [(part.partition("\n")[0].strip(), part.partition("\n")[2]) for part in parts[1:]]


def prints(got: str, expected: str) -> bool:
    """Whether *got* is what is expected, but for white space; … stands for anything.

    >>> prints("moved 12 rows\\n", "moved … rows")
    True
    >>> prints("moved 12 rows\\n", "moved … row")
    False
    """
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(expected.replace("…", "...").strip(), got.strip(), flags)


def blocks(text: str) -> list[Token]:
    """All code in a page, as Markdown has it: fenced, or indented by four blanks.

    >>> [(block.type, block.info.strip()) for block in blocks("~~~ text\\na\\n~~~\\n\\n- b\\n\\n      c\\n")]
    [('fence', 'text'), ('code_block', '')]
    """
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    return [token for token in tokens if token.type in {"fence", "code_block"}]


def marks(page: Path) -> set[str]:
    """The kinds of blocks that *page* has: the words after each opening fence, "" where there are none."""
    found = {block.info.strip() for block in blocks(page.read_text(encoding="utf-8"))}
    return {mark for mark in found if not mark.startswith("{")}
