"""The calls in the tables of docs/moving/, and whether what they name exists.

A row has code of another library, and code of ours. Each piece is parsed as Python, and looked up in a `World`: its names,
its attributes, and whether a call's arguments fit the signature. What the calls do is for tests/docs/test_peers.py.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

from tests.docs.pages import PROJECT

CODE = re.compile(r"`([^`]+)`|<code>(.+?)</code>|(?<![\w.])(\d+\.\d+):")
# Python itself, which a row may speak of.
PYTHON = ("if", "~")
UNKNOWN = object()
# The end of the heading of a table of calls.
OURS = ("| after |", "| here |", "| this library |")


@dataclass(frozen=True)
class Piece:
    """One piece of code in a table: of a version of the other library, if the row says which."""

    text: str
    version: str = ""
    is_ours: bool = False

    def __str__(self) -> str:
        return f"{self.version}: {self.text}" if self.version else self.text


@dataclass(frozen=True)
class World:
    """What there is: *names* that a reader of the page has, *owners* whose attributes a row may name alone, and
    *callables* of whose arguments a row may name one alone, as in ``source="*"``."""

    names: Mapping[str, Any]
    owners: tuple[Any, ...] = ()
    callables: tuple[Callable[..., Any], ...] = ()

    def missing(self, text: str) -> list[str]:
        """What *text* names and is not here.

        >>> world = World({"sorted": sorted, "text": ""}, owners=(str,), callables=(sorted,))
        >>> world.missing('sorted(text.split(), key="…")'), world.missing("key="), world.missing("upper()")
        ([], [], [])
        >>> world.missing("sorted(nothing)"), world.missing("sorted(text, blank=1)"), world.missing("blank=")
        (['nothing'], ["sorted(): got an unexpected keyword argument 'blank'"], ['blank='])
        >>> world.missing("text.louder()"), world.missing("louder()")
        (['text.louder'], ['louder'])
        """
        if text in PYTHON:
            return []
        if keyword := re.match(r"(\w+)=(?!=)", text):
            value = text[keyword.end() :] or "None"
            fits = any(keyword[1] in inspect.signature(each).parameters for each in self.callables)
            return [*Reader(self).read(value), *([] if fits else [f"{keyword[1]}="])]
        return Reader(self).read(text)


class Reader(ast.NodeVisitor):
    """Walks one piece of code, and collects what it does not find."""

    def __init__(self, world: World) -> None:
        self.world, self.lost, self.own = world, [], set()

    def read(self, text: str) -> list[str]:
        for node in parsed(text).body:
            self.see(node)
        return self.lost

    def see(self, node: ast.AST) -> Any:
        """The object that *node* stands for, or UNKNOWN."""
        method = getattr(self, f"see_{type(node).__name__.lower()}", None)
        if method is not None:
            return method(node)
        for child in ast.iter_child_nodes(node):
            self.see(child)
        return UNKNOWN

    def see_name(self, node: ast.Name) -> Any:
        if node.id in self.own:
            return UNKNOWN
        if node.id in self.world.names:
            return self.world.names[node.id]
        if hasattr(builtins, node.id):
            return getattr(builtins, node.id)
        for owner in self.world.owners:
            if hasattr(owner, node.id):
                return getattr(owner, node.id)
        self.lost.append(node.id)
        return UNKNOWN

    def see_attribute(self, node: ast.Attribute) -> Any:
        owner = self.see(node.value)
        if owner is UNKNOWN:
            return UNKNOWN
        if not hasattr(owner, node.attr):
            self.lost.append(ast.unparse(node))
            return UNKNOWN
        return getattr(owner, node.attr)

    def see_call(self, node: ast.Call) -> Any:
        called = self.see(node.func)
        for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
            self.see(argument)
        if called is UNKNOWN or not has_signature(called):
            return UNKNOWN
        # A … of its own stands for any more arguments, or for none.
        given = [each for each in node.args if not (isinstance(each, ast.Constant) and each.value is ...)]
        try:
            inspect.signature(called).bind_partial(*given, **{str(each.arg): each for each in node.keywords})
        except TypeError as error:
            self.lost.append(f"{ast.unparse(node.func)}(): {error}")
        return UNKNOWN

    def see_lambda(self, node: ast.Lambda) -> Any:
        self.own |= {argument.arg for argument in node.args.args}
        return self.see(node.body)

    def see_classdef(self, node: ast.ClassDef) -> Any:
        for child in (*node.decorator_list, *node.bases):
            self.see(child)

    def see_functiondef(self, node: ast.FunctionDef) -> Any:
        for child in node.decorator_list:
            self.see(child)


def has_signature(called: Any) -> bool:
    try:
        inspect.signature(called)
    except (TypeError, ValueError):
        return False
    return True


def parsed(text: str) -> ast.Module:
    """*text* as Python: … is any value, a decorator stands before something, and a class has a body."""
    code = text.replace("…", "...")
    if code.startswith("@"):
        code += "\ndef decorated(): pass"
    elif code.endswith(":"):
        code += " pass"
    return compile(code, text, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def rows_of_calls(text: str) -> Iterator[str]:
    """The rows of the tables in which *text* has calls of another library and ours: the heading of the second column.

    >>> list(rows_of_calls("| before | here |\\n|---|---|\\n| `a()` | `b()` |\\n\\n| you have | page |\\n|---|---|\\n| c | d |\\n"))
    ['| `a()` | `b()` |']
    """
    for table in re.findall(r"^\|.*\n\|-.*\n(?:\|.*\n?)*", text, re.MULTILINE):
        heading, _, *rows = table.splitlines()
        if heading.endswith(OURS):
            yield from rows


def pieces(page: Path) -> Iterator[Piece]:
    """All code in the tables of *page*, a row after another."""
    for row in rows_of_calls(page.read_text(encoding="utf-8")):
        # The only bars within a cell are written &#124;.
        _, theirs, ours, _ = row.split("|")
        for cell in (theirs, ours):
            version = ""
            for match in CODE.finditer(cell):
                version = match[3] or version
                if not match[3]:
                    yield Piece(unescape(match[1] or match[2]), version, is_ours=cell is ours)


MOVING = {path.stem.removeprefix("from-"): path for path in (PROJECT / "docs" / "moving").glob("from-*.md")}
