"""`fire_key` in the text of a page is a link to the reference, once in each section."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

import sqlalchemy_fsm_mysql as package
from sqlalchemy_fsm_mysql import testing

# `op.add_states`; enforce_machine and release_machine are functions as well, and those are linked.
OPERATIONS = {
    "ops": (
        "AddStatesOp.add_states",
        "MigrateStatesOp.migrate_states",
        "DropStatesOp.drop_states",
        "ConvertStatesOp.convert_states",
    ),
    "adoption": (
        "AdoptColumnOp.adopt_column",
        "AbandonAdoptionOp.abandon_adoption",
        "FinishAdoptionOp.finish_adoption",
    ),
    "since": ("AddSinceColumnOp.add_since_column",),
}
# Errors that few programs catch are imported from the module.
ERRORS = ("GraphvizMissing", "HistoryError", "MigrationRefused", "OutcomeHidden", "RowFailed")
NAMES = {
    **{
        name.rpartition(".")[2]: f"sqlalchemy_fsm_mysql.alembic.{module}.{name}"
        for module, names in OPERATIONS.items()
        for name in names
    },
    **{name: f"sqlalchemy_fsm_mysql.errors.{name}" for name in ERRORS},
    **{name: f"sqlalchemy_fsm_mysql.testing.{name}" for name in testing.__all__},
    **{name: f"sqlalchemy_fsm_mysql.{name}" for name in package.__all__},
    **{
        name: f"sqlalchemy_fsm_mysql.Stateful.{name}"
        for name in ("fire", "try_fire", "can_fire", "available_events", "possible_events")
    },
}
PAGES = ("tutorial", "guide/", "recipes/", "moving/", "why/", "production", "troubleshooting", "testing", "evolution")
MORE = (
    "reference/",
    "enforcement",
    "scaling",
    "clusters",
    "proxies",
    "databases",
    "drivers",
    "doctor",
    "observability",
    "diagrams",
    "guarantees",
    "security",
    "glossary",
)
CODE = re.compile(r"(?:[\w.]+\.)?(\w+)(?:\(.*\))?", re.DOTALL)


def link(app: Sphinx, doctree: nodes.document) -> None:
    """Make each first `name` of a section a reference that Sphinx resolves."""
    if not app.env.docname.startswith((*PAGES, *MORE)):
        return
    seen: set[tuple[int, str]] = set()
    for literal in list(doctree.findall(nodes.literal)):
        found = CODE.fullmatch(literal.astext())
        full = NAMES.get(found[1]) if found else None
        around = list(ancestors(literal))
        if full is None or any(
            isinstance(each, nodes.reference | nodes.title | addnodes.pending_xref) for each in around
        ):
            continue
        section = next((each for each in around if isinstance(each, nodes.section)), doctree)
        if (id(section), full) in seen:
            continue
        seen.add((id(section), full))
        target = addnodes.pending_xref("", refdomain="py", reftype="obj", reftarget=full, refdoc=app.env.docname)
        target["refexplicit"] = True
        literal.replace_self(target)
        target += literal


def ancestors(node: nodes.Node) -> Any:
    """The nodes around *node*, the nearest first."""
    while (node := node.parent) is not None:
        yield node


def setup(app: Sphinx) -> dict[str, Any]:
    """Link when a page has been read."""
    app.connect("doctree-read", link)
    return {"version": "1", "parallel_read_safe": True}
