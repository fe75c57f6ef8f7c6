"""What a page is about, for search engines and for links in chats: its first sentences, as the description."""

from __future__ import annotations

import html
import re
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

LONGEST = 160
ENOUGH = 50


def description(title: str, texts: list[str]) -> str:
    """As many whole sentences of *texts* as fit; the title before them where they say little.

    >>> description("Guards", ["A guard is a condition. It is SQL."])
    'Guards: A guard is a condition. It is SQL.'
    """
    sentences = [each for text in texts for each in re.split(r"(?<=[.?!:]) (?=[A-Z`])", " ".join(text.split()))]
    chosen = ""
    for sentence in sentences:
        if chosen and len(chosen) + 1 + len(sentence) > LONGEST:
            break
        chosen = f"{chosen} {sentence}".strip()
        if len(chosen) > LONGEST:
            chosen = chosen[: LONGEST - 2].rsplit(" ", 1)[0].rstrip(",;:") + " …"
            break
    return f"{title}: {chosen}" if len(chosen) < ENOUGH else chosen


def paragraphs(doctree: nodes.document) -> list[str]:
    """The text of the paragraphs of prose; of those of docstrings where there are no others."""
    found: dict[bool, list[str]] = {False: [], True: []}
    for each in doctree.findall(nodes.paragraph):
        within, is_said, is_docstring = each.parent, True, False
        while within is not None:
            is_said = is_said and not isinstance(within, nodes.table | addnodes.compact_paragraph | nodes.list_item)
            is_docstring = is_docstring or isinstance(within, addnodes.desc)
            within = within.parent
        text = each.astext().strip()
        if is_said and text and not text.startswith("Guide:"):  # a page of the reference: its links to the guides
            found[is_docstring].append(text)
    return found[False] or found[True]


def describe(app: Sphinx, page: str, _template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Write the description, and what a chat shows of a link, into the head of the page."""
    title = re.sub(r"<[^>]*>", "", html.unescape(context.get("title", ""))) or app.config.project
    said = paragraphs(doctree) if doctree is not None else []
    if not said:
        said = [f"A page of the documentation of {app.config.project}, state machines in MySQL and MariaDB rows."]
    text = description(title, said)
    tags = {"og:type": "website", "og:site_name": app.config.project, "og:title": title, "og:description": text}
    if address := app.config.html_baseurl:
        tags["og:url"] = f"{address.rstrip('/')}/{app.builder.get_target_uri(page)}"
    head = [f'<meta name="description" content="{html.escape(text)}">']
    head += [f'<meta property="{name}" content="{html.escape(value)}">' for name, value in tags.items()]
    context["metatags"] = context.get("metatags", "") + "\n    " + "\n    ".join(head)


def setup(app: Sphinx) -> dict[str, Any]:
    """Describe each page when it is written."""
    app.connect("html-page-context", describe)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
