"""The Python of README.md and docs/*.md runs: each file's blocks in order, in one namespace, on SQLite in memory.

A block marked ``python server`` needs a server, and is compiled only.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

PROJECT = Path(__file__).parents[2]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]
SERVER = "python server"

every_page = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(PROJECT)) for page in PAGES])


def compiles(example: Example) -> None:
    """What a block for servers has to do here; a SyntaxError names its line in the page."""
    line = example.line + example.parsed.line_offset
    compile("\n" * line + example.parsed, example.path, "exec", dont_inherit=True)


EXAMPLES = Sybil(parsers=[PythonCodeBlockParser(), CodeBlockParser(SERVER, compiles)])


@every_page
def test_every_example_of_the_page_runs(page: Path) -> None:
    """A failure's traceback names the page and the line in it."""
    for example in EXAMPLES.parse(page).examples():
        example.evaluate()


@every_page
def test_no_example_is_passed_over(page: Path) -> None:
    """A block is Python that runs, or Python for a server; a misspelt mark would hide it."""
    marks = re.findall(r"^\s*(?:`{3,}|~{3,})\s*(py.*)$", page.read_text(encoding="utf-8"), re.MULTILINE | re.IGNORECASE)

    assert set(marks) <= {"python", SERVER}
