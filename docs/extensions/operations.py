"""The reference shows an operation of Alembic as revisions call it: `op.add_states(table_name, …)`, with its docstring.

`Operations.register_operation` makes a method of `op` of our class method, and moves the docstring there.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from alembic.operations import Operations
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

import sqlalchemy_fsm_mysql.alembic as package

MOVED = "This method is proxied on the"  # what Alembic leaves in the place of the docstring


def describe(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Put the docstring back that Alembic has moved."""
    if lines and lines[0].startswith(MOVED):
        lines[:] = inspect.cleandoc(getattr(Operations, name.rpartition(".")[2]).__doc__).splitlines()


def sign(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Leave out the first parameter, which `op` passes."""
    return signature and re.sub(r"^\(operations: [^,]+, ", "(", signature), returned


def name_op(app: Sphinx, doctree: nodes.document) -> None:
    """Write `op.add_states`, not `classmethod AddStatesOp.add_states`."""
    for signature in doctree.findall(addnodes.desc_signature):
        is_operation = signature.get("module", "").startswith(package.__name__) and "Op." in signature["fullname"]
        if is_operation:
            for part in list(signature.findall(addnodes.desc_annotation))[:1]:
                signature.remove(part)
            for part in signature.findall(addnodes.desc_addname):
                part.children = [nodes.Text("op.")]


def setup(app: Sphinx) -> dict[str, Any]:
    """Work on the operations, before the list of parameters is added to their docstrings."""
    app.connect("autodoc-process-docstring", describe)
    app.connect("autodoc-process-signature", sign)
    app.connect("doctree-read", name_op)
    return {"version": "1", "parallel_read_safe": True}
