"""A machine as a table: a row for each state, a column for each event, in the cell where it leads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors.texts import escaped
from .graph import Counts, Edge, Graph, Rows, graph_of, rows_label

if TYPE_CHECKING:
    from ..machine import Machine

REFUSED = "–"

# What Markdown gives a meaning in running text. An underscore within a word has none.
_SPECIAL = re.compile(r"[\\`*<>\[\]|~&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def markdown_table(machine: Machine | Graph, counts: Counts | None = None, rows: Rows | None = None) -> str:
    """*machine* as a Markdown table that lines up in plain text, too.

    *counts* tells how often each edge was taken, *rows* how many rows each state has now. A dash is an event that the
    state refuses. Several targets are alternatives with their guards, the first that holds wins; effects come after a
    slash.

    >>> from sqlalchemy_fsm_mysql import Event, Machine
    >>> events = [Event("Pay", {"new": "paid"}), Event("Drop", {"new": "void"})]
    >>> print(markdown_table(Machine(initial="new", events=events), {("Pay", "new", "paid"): 1200}))
    |      | Pay          | Drop     |
    |------|--------------|----------|
    | new  | paid × 1,200 | void × 0 |
    | paid | –            | –        |
    | void | –            | –        |
    """
    lines = [[_escaped(cell) for cell in line] for line in cells(graph_of(machine), counts, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    header, *body = (_line([cell.ljust(width) for cell, width in zip(line, widths, strict=True)]) for line in lines)
    rule = "|".join(["", *("-" * (width + 2) for width in widths), ""])
    return "\n".join([header, rule, *body])


def cells(graph: Graph, counts: Counts | None = None, rows: Rows | None = None) -> list[list[str]]:
    """The table's text, a header row of events first, for whoever draws its own lines."""
    graph = graph.with_figures(counts, rows)
    # An undeclared state or event comes from a row, which may hold line ends and escape sequences.
    header = ["", *map(escaped, graph.events)]
    return [
        header,
        *(
            [escaped(_state(state, rows)), *(_cell(graph, state, event, counts) for event in graph.events)]
            for state in (*graph.states, *graph.strangers)
        ),
    ]


def _state(state: str, rows: Rows | None) -> str:
    return state if rows is None else f"{state} ({rows_label(state, rows)})"


def _cell(graph: Graph, state: str, event: str, counts: Counts | None) -> str:
    return ", ".join(_label(edge, counts) for edge in graph.leaving(state, event)) or REFUSED


def _label(edge: Edge, counts: Counts | None) -> str:
    guard = "" if edge.guard is None else f" [{edge.guard}]"
    times = "" if counts is None else f" × {counts.get((edge.event, edge.source, edge.target), 0):,}"
    effects = f" / {', '.join(edge.effects)}" if edge.effects else ""
    return f"{escaped(edge.target)}{guard}{effects}{times}"


def _escaped(cell: str) -> str:
    return _SPECIAL.sub(r"\\\g<0>", cell)


def _line(padded: Sequence[str]) -> str:
    return f"| {' | '.join(padded)} |"
