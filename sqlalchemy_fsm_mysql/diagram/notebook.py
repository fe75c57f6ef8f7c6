"""A machine as notebooks show it: the picture where Graphviz is installed, else the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..errors import GraphvizMissing
from ..errors.texts import counted
from .escaping import html as escape
from .graph import Graph, graph_of
from .picture import DrawingTimeout, svg
from .table import cells, markdown_table

if TYPE_CHECKING:
    from ..machine import Machine


# Graphviz needs seconds for 100 states and an hour for 300; a notebook shows a machine whenever a cell ends with one.
_PICTURE_EDGES: Final = 150
_PICTURE_SECONDS: Final = 5.0
_TABLE_CELLS: Final = 20_000


def html(machine: Machine | Graph) -> str:
    """*machine* as a piece of HTML: its picture, inline, or its table without Graphviz or where a drawing takes long.

    A machine whose table has more than 20,000 cells is described in a sentence.
    """
    graph = graph_of(machine)
    if len(graph.edges) <= _PICTURE_EDGES:
        try:
            return svg(graph, timeout=_PICTURE_SECONDS)
        except (GraphvizMissing, DrawingTimeout):
            pass
    return f"<p>{escape(_size(graph))}</p>" if _is_large(graph) else html_table(graph)


def markdown(machine: Machine | Graph) -> str:
    """*machine* as a Markdown table, or as a sentence when the table has more than 20,000 cells."""
    graph = graph_of(machine)
    return _size(graph) if _is_large(graph) else markdown_table(graph)


def _is_large(graph: Graph) -> bool:
    return len(graph.states) * len(graph.events) > _TABLE_CELLS


def _size(graph: Graph) -> str:
    return (
        f"A machine with {counted(len(graph.states), 'state')} and {counted(len(graph.events), 'event')}:"
        " too large to show here. markdown_table() and dot() of sqlalchemy_fsm_mysql.diagram have all of it."
    )


def html_table(machine: Machine | Graph) -> str:
    """The state × event table of *machine* in HTML; the descriptions of events are tooltips."""
    graph = graph_of(machine)
    (_, *events), *rows = cells(graph)
    titles = [graph.descriptions.get(event) for event in graph.events]
    head = "".join(
        f'<th scope="col"{_title(title)}>{escape(event)}</th>' for event, title in zip(events, titles, strict=True)
    )
    body = (
        f'<tr><th scope="row">{escape(state)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row)}</tr>'
        for state, *row in rows
    )
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _title(description: str | None) -> str:
    return "" if description is None else f' title="{escape(description)}"'
