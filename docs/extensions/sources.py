"""Python files that a page links are pages of the site: highlighted, with an anchor for each function.

Without it, MyST makes a link to ``../tests/test_x.py#test_y`` a download of the file, and drops the name of the test.
On GitHub the same link opens the file.
"""

from __future__ import annotations

import ast
import html
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)
ROOT = Path(__file__).parents[2]
PREFIX = "source:"
LINK = re.compile(r"\]\((\.\.?/[^)#\s]+\.py)(#\w+)?\)")


def page_of(path: str) -> str:
    """The page of the site that shows the file *path*, which is relative to the repository."""
    return f"source/{path.removesuffix('.py')}"


def mark_links(app: Sphinx, docname: str, content: list[str]) -> None:
    """Write links to Python files as ``source:PATH#NAME``, which MyST leaves alone."""
    folder = posixpath.join(app.srcdir.relative_to(ROOT).as_posix(), posixpath.dirname(docname))

    def marked(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, found[1]))
        if not (ROOT / path).is_file():
            return found[0]
        linked.add(path)
        return f"]({PREFIX}{path}{found[2] or ''})"

    linked = links_of(app).setdefault(docname, set())
    linked.clear()
    content[0] = LINK.sub(marked, content[0])


def links_of(app: Sphinx) -> dict[str, set[str]]:
    """The files that each page links. Kept with Sphinx's environment, as a second build reads changed pages only."""
    if not hasattr(app.env, "source_links"):
        app.env.source_links = {}  # type: ignore[attr-defined]
    return app.env.source_links  # type: ignore[attr-defined, no-any-return]


def resolve_links(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Lead each marked link to the page of its file."""
    for link in doctree.findall(nodes.reference):
        if str(link.get("refuri", "")).startswith(PREFIX):
            path, _, name = link["refuri"].removeprefix(PREFIX).partition("#")
            uri = app.builder.get_relative_uri(docname, page_of(path))
            link["refuri"] = f"{uri}#{name}" if name else uri
            if name and name not in names_in((ROOT / path).read_text(encoding="utf-8")).values():
                logger.warning("%s has no function %s", path, name, location=docname)


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """A page for each file that was linked."""
    for path in sorted(set().union(*links_of(app).values())):
        yield page_of(path), {"title": path, "body": body(app, path)}, "page.html"


def names_in(text: str) -> dict[int, str]:
    """The line on which each function and class of *text* begins, and its name."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.lineno: node.name for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)}


def body(app: Sphinx, path: str) -> str:
    """The file *path* as HTML: each line that begins a function or class has its name as the id."""
    text = (ROOT / path).read_text(encoding="utf-8")
    highlighted = app.builder.highlighter.highlight_block(text, "python", linenos=False)  # type: ignore[attr-defined]
    head, begin, rest = highlighted.partition("<pre>")
    lines = rest.split("\n")
    seen: set[str] = set()
    for number, name in sorted(names_in(text).items()):
        if name in seen:  # a second `work` within another test: a link means the first
            continue
        seen.add(name)
        lines[number - 1] = f'<span id="{html.escape(name)}"></span>{lines[number - 1]}'
    title = html.escape(path).replace("/", "/<wbr>")  # a long path breaks at its folders
    heading = f'<h1 class="source-file">{title}</h1>'
    return f"{heading}\n{head}{begin}" + "\n".join(lines)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the steps above."""
    app.connect("source-read", mark_links)
    app.connect("doctree-resolved", resolve_links)
    app.connect("html-collect-pages", pages)
    return {"version": "1", "parallel_read_safe": False}
