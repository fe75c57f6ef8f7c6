"""A machine as a table: a row for each state, a column for each event, in the cell where it leads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors.texts import escaped
from .escaping import markdown
from .graph import Counts, Edge, Graph, Rows, Times, figures_of, graph_of

if TYPE_CHECKING:
    from ..machine import Machine

REFUSED = "–"

# Blanks that line up the columns are for people; of a table with more cells than this they are most of the text.
_ALIGNED_CELLS = 100_000


def markdown_table(
    machine: Machine | Graph, counts: Counts | None = None, rows: Rows | None = None, times: Times | None = None
) -> str:
    """*machine* as a Markdown table: a row for each state, a column for each event, the target state in each cell.

    *counts* adds how often each transition was taken, *rows* how many rows each state has now, *times* how long rows
    stay in each state. A dash means that the state refuses the event. Several targets are alternatives with their
    guards, and the first whose guard is true is taken. Effects follow after a slash. The columns line up in plain text,
    unless the table has more than 100,000 cells.

    >>> from sqlalchemy_fsm_mysql import Event, Machine
    >>> events = [Event("Pay", {"new": "paid"}), Event("Drop", {"new": "void"})]
    >>> print(markdown_table(Machine(initial="new", events=events), {("Pay", "new", "paid"): 1200}))
    |      | Pay          | Drop     |
    |------|--------------|----------|
    | new  | paid × 1,200 | void × 0 |
    | paid | –            | –        |
    | void | –            | –        |
    """
    lines = cells(graph_of(machine), counts, rows, times)
    lines = [[cell if cell is REFUSED else markdown(cell) for cell in line] for line in lines]
    is_aligned = len(lines) * len(lines[0]) <= _ALIGNED_CELLS
    widths = [max(map(len, column)) if is_aligned else 1 for column in zip(*lines, strict=True)]
    header, *body = (_line([cell.ljust(width) for cell, width in zip(line, widths, strict=True)]) for line in lines)
    rule = "|".join(["", *("-" * (width + 2) for width in widths), ""])
    return "\n".join([header, rule, *body])


def cells(
    graph: Graph, counts: Counts | None = None, rows: Rows | None = None, times: Times | None = None
) -> list[list[str]]:
    """The texts of the table, with a header row of events first, for callers that draw their own lines."""
    graph = graph.with_figures(counts, rows, times)
    # An undeclared state or event comes from a row, which may hold line ends and escape sequences.
    header = ["", *map(escaped, graph.events)]
    return [
        header,
        *(
            [escaped(_state(state, rows, times)), *_line_of(graph, state, counts)]
            for state in (*graph.states, *graph.strangers)
        ),
    ]


def _state(state: str, rows: Rows | None, times: Times | None) -> str:
    figures = figures_of(state, rows, times)
    return f"{state} ({', '.join(figures)})" if figures else state


def _line_of(graph: Graph, state: str, counts: Counts | None) -> list[str]:
    """The cells of *state*; most of a large table's are refusals, and cost nothing."""
    line = [REFUSED] * len(graph.events)
    for event, edges in graph.from_state(state).items():
        line[graph.position[event]] = ", ".join(_label(edge, counts) for edge in edges)
    return line


def _label(edge: Edge, counts: Counts | None) -> str:
    guard = "" if edge.guard is None else f" [{edge.guard}]"
    times = "" if counts is None else f" × {counts.get((edge.event, edge.source, edge.target), 0):,}"
    effects = f" / {', '.join(edge.effects)}" if edge.effects else ""
    return f"{escaped(edge.target)}{guard}{effects}{times}"


def _line(padded: Sequence[str]) -> str:
    return f"| {' | '.join(padded)} |"
