"""One function for each medium: it escapes a text, so that the medium shows it unchanged and reads no markup in it.

A state or an event that the machine does not declare comes from a row, and a row may hold anything. So control
characters are spelled out first, everywhere.

>>> markdown("a|b"), mermaid("a]"), dot('say "x"'), html("<b>")
('a\\\\|b', 'a#93;', 'say \\\\"x\\\\"', '&lt;b&gt;')
"""

from __future__ import annotations

import re
from html import escape
from typing import Final

from ..errors.texts import escaped

# The characters that Markdown gives a meaning in running text. An underscore within a word has none.
_MARKDOWN: Final = re.compile(r"[\\`*<>\[\]|~&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")

# Mermaid reads #code; as the character. Letters of any script mean nothing to it, nor to the HTML that it makes.
_MERMAID: Final = re.compile(r"[^\w .,/×–]|_")


def markdown(text: str) -> str:
    """*text* in a cell of a Markdown table."""
    return _MARKDOWN.sub(r"\\\g<0>", escaped(text))


def mermaid(text: str) -> str:
    """*text* within a quoted string of Mermaid, or in a label."""
    return _MERMAID.sub(lambda found: f"#{ord(found[0])};", escaped(text))


def dot(text: str) -> str:
    """*text* within a quoted string of DOT, where ``&lt;`` stands for ``<``, and a backslash begins an escape."""
    return escaped(text).replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")


def html(text: str) -> str:
    """*text* in HTML, within an element or a quoted attribute."""
    return escape(escaped(text))
