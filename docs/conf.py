"""How Sphinx makes the pages; ``./dev docs`` runs it with -n and -W, so a link that leads nowhere is an error."""

from __future__ import annotations

import os
import sys
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "sqlalchemy_fsm_mysql"
author = "the sqlalchemy_fsm_mysql authors"
project_copyright = author
about = metadata("sqlalchemy-fsm-mysql")
release = version = about["Version"]
# The repository's address, from [project.urls] of pyproject.toml; empty until it is known.
urls = dict(line.split(", ", 1) for line in about.get_all("Project-URL") or [])
repository = urls.get("Repository", "")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sqlalchemy_fsm_mysql.sphinxext",
    "sources",
    "search_words",
    "operations",
    "parameters",
    "code_links",
    "mermaid_blocks",
    "about",
]
html_theme = "furo"
html_title = "sqlalchemy_fsm_mysql"
html_static_path = ["static"]
html_logo, html_favicon = "static/logo.svg", "static/favicon.svg"
html_css_files, html_js_files = ["site.css"], ["site.js"]
# Where the pages are read: Read the Docs names it.
html_domain_indices = False  # the modules are listed by the reference, each with what it has
html_baseurl = os.environ.get("READTHEDOCS_CANONICAL_URL", "")
html_theme_options = {
    "sidebar_hide_name": True,
    # White code on a white page has no border.
    "light_css_variables": {"color-code-background": "#f6f8fa"},
}
if repository:
    html_theme_options |= {"source_repository": repository, "source_branch": "main", "source_directory": "docs/"}
copybutton_exclude = ".linenos, .gp, .go"  # the prompt and the output of a console
# Both have a contrast of 4.5 and more: tests/browser/test_documentation.py measures it.
pygments_style, pygments_dark_style = "github-light", "github-dark"

myst_heading_anchors = 3
# source: is a link to a Python file of the repository, see extensions/sources.py.
myst_url_schemes = {"http": None, "https": None, "mailto": None, "source": None}
myst_enable_extensions = ["deflist", "tasklist"]
myst_enable_checkboxes = True  # the boxes of the production checklist can be ticked in a browser

# A `name` in a docstring is code. As a link it would be guessed at: several classes have a `.source`.
default_role = "code"
# A longer signature has a line for each parameter.
python_maximum_signature_line_length = 88
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False

# The pages are built without a network, so without the inventories of other projects: what is SQLAlchemy's or Python's
# cannot be a link, and is not looked for. A :func:, :class: or link of ours that leads nowhere is an error.
nitpick_ignore_regex = [
    ("py:.*", r"(sqlalchemy|alembic|Operations)\b.*"),
    ("py:.*", r"(typing|collections|enum|datetime|logging|pathlib|pickle|contextlib|functools)\b.*"),
    # Imported for type checkers only, so autodoc has just the name: all are SQLAlchemy's or aliases of its types.
    (
        "py:class",
        r"Async(Session|Engine|Connection)|async_sessionmaker|sessionmaker|Session|AnySession|(Sync|Async)Place|ColumnElement|_?ColumnExpression(OrLiteral)?Argument|_CT",
    ),
    ("py:class", r"([\w.]+\.)?([EFGHKMRSV]|M_co)"),  # type variables
    ("py:.*", r"(alembic\.[\w.]+\.)?Operations(\.\w+)?"),  # which Alembic names in what it makes of our docstrings
    # Aliases and parts of ours that a signature names, and whose own page nobody needs.
    (
        "py:class",
        r"([\w.]+\.)?(Allowed|InitialStates|Mode|Groups|Borders|Box|AllOf|Times|StateColumn|_Outcomes|MissingData|Later)",
    ),
    ("py:class", r"([\w.]+\.)?(Annotated|Starlette|Scaffold|Handler)"),  # Python's, and those of web frameworks
    # OpenTelemetry's, stamina's, Hypothesis's, and an alias of ours.
    (
        "py:class",
        r"(Tracer|Meter)Provider|RetryDetails|SearchStrategy|RuleBasedStateMachine|State|URL|MetaData|Engine|pytest\..*",
    ),
]


def setup(app: Any) -> None:
    """Connect the step below. The site loads nothing from elsewhere: extensions/mermaid_blocks.py ships Mermaid."""
    app.connect("source-read", enter_repository)


def enter_repository(_app: Any, _page: str, source: list[str]) -> None:
    """Show the repository's address in the commands that clone it."""
    if repository:
        source[0] = source[0].replace("git clone REPOSITORY", f"git clone {repository}")
