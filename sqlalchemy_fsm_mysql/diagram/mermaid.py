"""A machine as Mermaid, which GitHub, GitLab and many documentation tools draw.

Without figures it is a ``stateDiagram-v2``. Only Mermaid's flowcharts have lines that differ in width and colour, so a
machine with counts is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from typing import TYPE_CHECKING

from .escaping import mermaid as _escaped
from .graph import Arrow, Box, Counts, Graph, Rows, Times, figures_of, graph_of, heat

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


def mermaid(
    machine: Machine | Graph,
    *,
    counts: Counts | None = None,
    rows: Rows | None = None,
    times: Times | None = None,
    direction: str = "LR",
    guards: bool = True,
    effects: bool = True,
    borders: bool = False,
) -> str:
    """*machine* in the language of Mermaid, which GitHub and GitLab draw.

    *counts*, *rows* and *times* are shown as numbers. With *counts*, an arrow is wider and redder the more often it was
    taken. *direction* is LR (left to right), TB (top to bottom), RL or BT. From top to bottom, Mermaid 11 writes the
    labels of two opposite arrows over each other.

    A group is a composite state. Of two groups that overlap, only the larger one is drawn. *guards* and *effects* add
    their names to the arrows, and *borders* adds the effects of `on_enter` and `on_exit` to states and groups.

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
    graph = (
        graph_of(machine)
        .with_details(guards=guards, effects=effects, borders=borders)
        .with_figures(counts, rows, times)
    )
    names = {state: f"s{number}" for number, state in enumerate((*graph.states, *graph.strangers))}
    labels = {state: _state(graph, state, figures_of(state, rows, times)) for state in names}
    lines = _state_diagram(graph, names, labels) if counts is None else _flowchart(graph, names, labels, counts)
    first = "stateDiagram-v2\n    direction " if counts is None else f"{_SPACED}\nflowchart "
    return "\n".join([f"{first}{direction}", *(f"    {line}" for line in lines)])


def _state_diagram(graph: Graph, names: dict[str, str], labels: dict[str, str]) -> Iterator[str]:
    nodes = {state: f'state "{labels[state]}" as {name}' for state, name in names.items()}
    yield from _boxed(graph, names, nodes, ("state {name} {{", "}}"))
    for state in (graph.initial, *graph.initial_states):
        yield f"[*] --> {names[state]}"
    for arrow in graph.arrows():
        yield f"{names[arrow.source]} --> {names[arrow.target]} : {_labels(arrow, None)}"
    for state in graph.final:
        yield f"{names[state]} --> [*]"


def _flowchart(graph: Graph, names: dict[str, str], labels: dict[str, str], counts: Counts) -> Iterator[str]:
    yield "begin(( ))"
    final = frozenset(graph.final)
    nodes = {}
    for state, name in names.items():
        left, right = ("([", "])") if state not in final else ("[[", "]]")
        nodes[state] = f'{name}{left}"{labels[state]}"{right}'
    yield from _boxed(graph, names, nodes, ('subgraph {name} ["{label}"]', "end"))
    begins = (graph.initial, *graph.initial_states)
    for state in begins:
        yield f"begin --> {names[state]}"
    arrows = graph.arrows()
    most = max((arrow.times(counts) for arrow in arrows), default=0)
    for arrow in arrows:
        yield f'{names[arrow.source]} -->|"{_labels(arrow, counts)}"| {names[arrow.target]}'
    yield "classDef begin fill:#8b949e,stroke:#8b949e"
    yield "class begin begin"
    for number, arrow in enumerate(arrows, start=len(begins)):
        style = _LINES[heat(arrow.times(counts), most)]
        yield f"linkStyle {number} {style if arrow.is_declared else f'{style},{_STRANGE_LINE}'}"


def _boxed(graph: Graph, names: Mapping[str, str], nodes: Mapping[str, str], marks: tuple[str, str]) -> Iterator[str]:
    """The nodes: first those in no box, then the boxes with theirs. *marks* open and close a box."""
    boxes = graph.boxes()
    inside = {state for box in boxes for state in graph.groups[box.group]}
    yield from (node for state, node in nodes.items() if state not in inside)
    numbers = count()
    for box in boxes:
        yield from _box(graph, box, nodes, marks, numbers)


def _box(
    graph: Graph, box: Box, nodes: Mapping[str, str], marks: tuple[str, str], numbers: Iterator[int]
) -> Iterator[str]:
    name, label = f"g{next(numbers)}", "<br/>".join(map(_escaped, [box.group, *graph.border_lines(box.group)]))
    opening, closing = marks
    if opening.startswith("state"):
        yield f'state "{label}" as {name}'
    yield opening.format(name=name, label=label)
    for state in box.states:
        yield f"    {nodes[state]}"
    for within in box.boxes:
        yield from (f"    {line}" for line in _box(graph, within, nodes, marks, numbers))
    yield closing.format()


def _state(graph: Graph, state: str, figures: tuple[str, ...]) -> str:
    return "<br/>".join([_escaped(state), *figures, *map(_escaped, graph.border_lines(state))])


def _labels(arrow: Arrow, counts: Counts | None) -> str:
    return "<br/>".join(_escaped(edge.label(counts)) for edge in arrow.edges)
