"""Every sentence of docs/guarantees.md has a test, and every test that it names is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [DOCS / "guarantees.md", DOCS / "security.md"]
LINK = re.compile(r"\]\((\.\./tests/[^)#]+\.py)(?:#([^)]*))?\)")


@cache
def functions_of(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def promises(page: Path) -> list[str]:
    """The items of the page's lists, each in one piece."""
    text = page.read_text(encoding="utf-8")
    return [re.sub(r"\s+", " ", item) for item in re.findall(r"^- ((?:.+\n)(?:^ +\S.*\n)*)", text, re.MULTILINE)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_the_page_names_is_there(page: Path) -> None:
    links = LINK.findall(page.read_text(encoding="utf-8"))
    gone = [
        f"{path}#{name}"
        for path, name in links
        if not (DOCS / path).exists() or name not in functions_of((DOCS / path).resolve())
    ]

    assert links
    assert gone == []


def test_every_promise_has_a_test() -> None:
    """One cannot have any, and says so."""
    untested = [item for item in promises(PAGES[0]) if not LINK.search(item)]

    assert [item for item in untested if "No test here has one" not in item] == []
