"""A machine as notebooks show it: the picture where Graphviz is installed, else the table."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from ..errors import GraphvizMissing
from .graph import Graph, graph_of
from .picture import svg
from .table import cells

if TYPE_CHECKING:
    from ..machine import Machine


def html(machine: Machine | Graph) -> str:
    """*machine* as a piece of HTML: its picture, inline, or without Graphviz its table."""
    try:
        return svg(machine)
    except GraphvizMissing:
        return html_table(machine)


def html_table(machine: Machine | Graph) -> str:
    """The state × event table of *machine* in HTML."""
    (_, *events), *rows = cells(graph_of(machine))
    head = "".join(f'<th scope="col">{escape(event)}</th>' for event in events)
    body = (
        f'<tr><th scope="row">{escape(state)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row)}</tr>'
        for state, *row in rows
    )
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
