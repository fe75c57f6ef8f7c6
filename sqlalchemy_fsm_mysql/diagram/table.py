"""A machine as a table: a row for each state, a column for each event, in the cell where it leads."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..machine import Machine
from .graph import Counts, Edge, Graph

REFUSED = "–"

# What Markdown gives a meaning in running text. An underscore within a word has none.
_SPECIAL = re.compile(r"[\\`*<>\[\]|~&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def markdown_table(machine: Machine | Graph, counts: Counts | None = None) -> str:
    """*machine* as a Markdown table that lines up in plain text, too.

    *counts* tells how often each edge was taken. A dash is an event that the state refuses. Several targets
    are alternatives with their guards, the first that holds wins.

    >>> from sqlalchemy_fsm_mysql import Event
    >>> events = [Event("Pay", {"new": "paid"}), Event("Drop", {"new": "void"})]
    >>> print(markdown_table(Machine(initial="new", events=events), {("Pay", "new", "paid"): 1200}))
    |      | Pay          | Drop     |
    |------|--------------|----------|
    | new  | paid × 1,200 | void × 0 |
    | paid | –            | –        |
    | void | –            | –        |
    """
    graph = machine if isinstance(machine, Graph) else Graph.of(machine)
    rows = [[_escaped(cell) for cell in row] for row in cells(graph, counts)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    header, *body = (_line([cell.ljust(width) for cell, width in zip(row, widths, strict=True)]) for row in rows)
    rule = "|".join(["", *("-" * (width + 2) for width in widths), ""])
    return "\n".join([header, rule, *body])


def cells(graph: Graph, counts: Counts | None = None) -> list[list[str]]:
    """The table's text, a header row of events first, for whoever draws its own lines."""
    header = ["", *graph.events]
    return [
        header,
        *([state, *(_cell(graph, state, event, counts) for event in graph.events)] for state in graph.states),
    ]


def _cell(graph: Graph, state: str, event: str, counts: Counts | None) -> str:
    return ", ".join(_label(edge, counts) for edge in graph.leaving(state, event)) or REFUSED


def _label(edge: Edge, counts: Counts | None) -> str:
    guard = "" if edge.guard is None else f" [{edge.guard}]"
    times = "" if counts is None else f" × {counts.get((edge.event, edge.source, edge.target), 0):,}"
    return f"{edge.target}{guard}{times}"


def _escaped(cell: str) -> str:
    return _SPECIAL.sub(r"\\\g<0>", cell)


def _line(padded: Sequence[str]) -> str:
    return f"| {' | '.join(padded)} |"
