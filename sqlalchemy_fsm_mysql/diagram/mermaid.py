"""A machine as Mermaid, which GitHub, GitLab and many documentation tools draw.

Without figures it is a ``stateDiagram-v2``. Only Mermaid's flowcharts have lines that differ in width and colour, so a
machine with counts is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .graph import Arrow, Counts, Graph, Rows, graph_of, heat, rows_label

if TYPE_CHECKING:
    from ..machine import Machine

DIRECTIONS = ("TB", "LR", "BT", "RL")

# At its usual distances Mermaid 11 writes the labels of two opposite arrows over each other.
_SPACED = "---\nconfig:\n  flowchart:\n    nodeSpacing: 60\n    rankSpacing: 120\n---"

# By heat. Of a middle brightness, so that they show on white and on black.
_LINES = (
    "stroke:#8b949e,stroke-width:1px,stroke-dasharray:2 3",
    "stroke:#c08a5a,stroke-width:1.5px",
    "stroke:#cf7f3c,stroke-width:2.5px",
    "stroke:#de7426,stroke-width:3.5px",
    "stroke:#e9661b,stroke-width:5px",
    "stroke:#f05a12,stroke-width:6.5px",
)
_STRANGE_LINE = "stroke:#a371f7,stroke-dasharray:6 4"

# Mermaid reads #code; as the character; what may mean something to it, or to the HTML it makes, is written so.
_SPECIAL = re.compile(r"[^A-Za-z0-9 .,/×–]")


def mermaid(
    machine: Machine | Graph, *, counts: Counts | None = None, rows: Rows | None = None, direction: str = "LR"
) -> str:
    """*machine* in Mermaid's language.

    *counts* tells how often each edge was taken, *rows* how many rows each state has now; both are shown, and with
    *counts* an arrow is the wider and redder the more often it was taken. *direction* is LR (left to right), TB (top to
    bottom), RL or BT; from top to bottom, Mermaid 11 writes the labels of two opposite arrows over each other.

    >>> from sqlalchemy_fsm_mysql import Event, Machine
    >>> print(mermaid(Machine(initial="new", events=[Event("Pay", {"new": "paid"})])))
    stateDiagram-v2
        direction LR
        state "new" as s0
        state "paid" as s1
        [*] --> s0
        s0 --> s1 : Pay
        s1 --> [*]

    Raises: ValueError for another *direction*.
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"direction={direction!r}; there are {', '.join(map(repr, DIRECTIONS))}")
    graph = graph_of(machine).with_figures(counts, rows)
    names = {state: f"s{number}" for number, state in enumerate((*graph.states, *graph.strangers))}
    lines = _state_diagram(graph, names, rows) if counts is None else _flowchart(graph, names, counts, rows)
    first = "stateDiagram-v2\n    direction " if counts is None else f"{_SPACED}\nflowchart "
    return "\n".join([f"{first}{direction}", *(f"    {line}" for line in lines)])


def _state_diagram(graph: Graph, names: dict[str, str], rows: Rows | None) -> Iterator[str]:
    for state, name in names.items():
        yield f'state "{_state(state, rows)}" as {name}'
    yield f"[*] --> {names[graph.initial]}"
    for arrow in graph.arrows():
        yield f"{names[arrow.source]} --> {names[arrow.target]} : {_labels(arrow, None)}"
    for state in graph.final:
        yield f"{names[state]} --> [*]"


def _flowchart(graph: Graph, names: dict[str, str], counts: Counts, rows: Rows | None) -> Iterator[str]:
    yield "begin(( ))"
    for state, name in names.items():
        left, right = ("([", "])") if state not in graph.final else ("[[", "]]")
        yield f'{name}{left}"{_state(state, rows)}"{right}'
    yield f"begin --> {names[graph.initial]}"
    arrows = graph.arrows()
    most = max((arrow.times(counts) for arrow in arrows), default=0)
    for arrow in arrows:
        yield f'{names[arrow.source]} -->|"{_labels(arrow, counts)}"| {names[arrow.target]}'
    yield "classDef begin fill:#8b949e,stroke:#8b949e"
    yield "class begin begin"
    for number, arrow in enumerate(arrows, start=1):
        style = _LINES[heat(arrow.times(counts), most)]
        yield f"linkStyle {number} {style if arrow.is_declared else f'{style},{_STRANGE_LINE}'}"


def _state(state: str, rows: Rows | None) -> str:
    number = "" if rows is None else f"<br/>{rows_label(state, rows)}"
    return f"{_escaped(state)}{number}"


def _labels(arrow: Arrow, counts: Counts | None) -> str:
    return "<br/>".join(_escaped(edge.label(counts)) for edge in arrow.edges)


def _escaped(text: str) -> str:
    return _SPECIAL.sub(lambda found: f"#{ord(found[0])};", text)
