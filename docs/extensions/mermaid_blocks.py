"""A Mermaid block has its drawing below it. Mermaid comes with the site, and only a page with such a block loads it.

The script and its licence are copied from the package sphinx-immaterial to ``_static``, so a page asks no other host
for it. static/mermaid_blocks.js draws. Without JavaScript the block is there as text.
"""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

PACKAGE = "sphinx-immaterial"
FOLDER = "sphinx_immaterial/bundles/mermaid"
# Each file of the package, and its name in _static.
FILES = {"mermaid.min.js": "mermaid.min.js", "LICENSE": "mermaid.LICENSE.txt"}


def bundled(name: str) -> Path:
    """The file *name* of the package, which is not imported: it is a theme, and needs more than its files."""
    try:
        path = Path(str(distribution(PACKAGE).locate_file(f"{FOLDER}/{name}")))
    except PackageNotFoundError:
        message = f"{PACKAGE} has Mermaid for the site: pip install {PACKAGE}, or build the site with ./dev docs"
        raise ExtensionError(message) from None
    if not path.is_file():
        raise ExtensionError(f"{PACKAGE} {distribution(PACKAGE).version} has no {FOLDER}/{name}")
    return path


def ship(app: Sphinx) -> None:
    """Copy Mermaid to the site before a page is written, because the page's link has the file's checksum."""
    if app.builder.format != "html":
        return
    target = Path(app.outdir) / "_static"
    target.mkdir(parents=True, exist_ok=True)
    for name, shipped in FILES.items():
        shutil.copyfile(bundled(name), target / shipped)


def load(app: Sphinx, _page: str, _template: str, _context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Load Mermaid on a page with a block. It has 2.7 MB, so the rest of the page does not wait: async."""
    blocks = doctree.findall(nodes.literal_block) if doctree is not None else ()
    if any(block.get("language") == "mermaid" for block in blocks):
        app.add_js_file("mermaid.min.js", loading_method="async")
        app.add_js_file("mermaid_blocks.js", loading_method="defer")


def setup(app: Sphinx) -> dict[str, Any]:
    """Show the text of a block as it is, for the reader who pastes it, and load what draws it."""
    app.add_lexer("mermaid", TextLexer)
    app.connect("builder-inited", ship)
    app.connect("html-page-context", load)
    return {"version": "1", "parallel_read_safe": True}
