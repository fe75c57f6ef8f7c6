"""A Sphinx extension: the directive ``fsm-diagram`` draws a machine of your code in your documentation.

In ``conf.py``, with the extra ``sphinx``: ``extensions = ["sqlalchemy_fsm_mysql.sphinxext"]``. Then::

    .. fsm-diagram:: shop.models:Order.state
       :format: graphviz
       :caption: The life of an order

``:format:`` is ``graphviz`` (drawn by Sphinx's own extension of that name), ``table``, or ``mermaid`` (drawn by
``sphinxcontrib.mermaid``, which must be among the extensions). ``:direction:`` is TB, LR, BT or RL, ``:theme:`` of
Graphviz ``light`` or ``dark``; ``:caption:``, ``:alt:``, ``:align:`` and ``:name:`` are as for a figure. A page is
built again when the module that it draws has changed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

try:
    from docutils import nodes
    from docutils.parsers.rst import directives
    from sphinx.ext.graphviz import align_spec, figure_wrapper, graphviz
    from sphinx.util.docutils import SphinxDirective
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "Sphinx is not installed. Install the extra 'sphinx': pip install 'sqlalchemy-fsm-mysql[sphinx]'",
        name=error.name,
    ) from error

from .diagram import Graph, cells, dot, mermaid
from .diagram.dot import THEMES
from .diagram.mermaid import DIRECTIONS
from .machine import Machine
from .operations.lookup import NotFound, machine_at

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.util.typing import ExtensionMetadata

FORMATS = ("graphviz", "table", "mermaid")


def _one_of(values: tuple[str, ...]) -> Callable[[str], str]:
    """An option that takes one of *values*, in capitals or not."""
    by_lower_case = {value.lower(): value for value in values}
    return lambda argument: by_lower_case[directives.choice(argument, tuple(by_lower_case))]


class FSMDiagram(SphinxDirective):
    """``fsm-diagram``: its argument is ``module:Model.state`` or ``module:machine``."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Callable[[str], object]]] = {
        "format": _one_of(FORMATS),
        "direction": _one_of(DIRECTIONS),
        "theme": _one_of(tuple(THEMES)),
        "caption": directives.unchanged,
        "alt": directives.unchanged,
        "align": align_spec,
        "name": directives.unchanged,
        "class": directives.class_option,
    }

    def run(self) -> list[nodes.Node]:
        (target,) = self.arguments
        try:
            machine, _ = machine_at(target)
        except NotFound as error:
            raise self.error(f"fsm-diagram: {error}") from error
        module = sys.modules[target.partition(":")[0]]
        if module.__file__ is not None:
            self.env.note_dependency(module.__file__)
        draw = {"graphviz": self._graphviz, "table": self._table, "mermaid": self._mermaid}
        return draw[self.options.get("format", "graphviz")](machine)

    def _graphviz(self, machine: Machine) -> list[nodes.Node]:
        node = graphviz()
        node["code"] = dot(
            machine, direction=self.options.get("direction", "TB"), theme=self.options.get("theme", "light")
        )
        # Sphinx asks for the node's own folder.
        node["options"] = {"docname": self.env.docname}
        node["alt"] = self.options.get("alt", _described(machine))
        node["classes"] = self.options.get("class", [])
        if "align" in self.options:
            node["align"] = self.options["align"]
        if "caption" not in self.options:
            self.add_name(node)
            return [node]
        figure = figure_wrapper(self, node, self.options["caption"])
        self.add_name(figure)
        return [figure]

    def _table(self, machine: Machine) -> list[nodes.Node]:
        head, *rows = cells(Graph.of(machine))
        table = nodes.table()
        if "caption" in self.options:
            table += nodes.title(text=self.options["caption"])
        group = nodes.tgroup(cols=len(head))
        group += [nodes.colspec(colwidth=max(len(row[i]) for row in (head, *rows)) or 1) for i in range(len(head))]
        group["stub"] = 1
        group += nodes.thead("", _row(head))
        group += nodes.tbody("", *map(_row, rows))
        table += group
        self.add_name(table)
        return [table]

    def _mermaid(self, machine: Machine) -> list[nodes.Node]:
        if "sphinxcontrib.mermaid" not in self.env.app.extensions:
            raise self.error("fsm-diagram: :format: mermaid needs sphinxcontrib.mermaid among the extensions")
        from sphinxcontrib.mermaid import mermaid as mermaid_node  # type: ignore[import-not-found,import-untyped,unused-ignore]

        node = mermaid_node()
        node["code"] = mermaid(machine, direction=self.options.get("direction", "LR"))
        node["options"] = {}
        if "alt" in self.options:
            node["alt"] = self.options["alt"]
        if "align" in self.options:
            node["align"] = self.options["align"]
        return [node] if "caption" not in self.options else [figure_wrapper(self, node, self.options["caption"])]


def _row(texts: list[str]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", nodes.paragraph(text=text)) for text in texts))


def _described(machine: Machine) -> str:
    """The machine for those who do not see the picture."""
    graph = Graph.of(machine)
    edges = "; ".join(f"{edge.source} to {edge.target} by {edge.event}" for edge in graph.edges)
    return f"State machine, initially {graph.initial}: {edges}"


def setup(app: Sphinx) -> ExtensionMetadata:
    """The entry point that Sphinx calls."""
    app.setup_extension("sphinx.ext.graphviz")
    app.add_directive("fsm-diagram", FSMDiagram)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
