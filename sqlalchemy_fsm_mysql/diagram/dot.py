"""A machine in DOT, the language of Graphviz."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from .escaping import dot as escape
from .graph import Arrow, Box, Counts, Graph, Rows, Times, figures_of, graph_of, heat, heats_of
from .mermaid import DIRECTIONS

if TYPE_CHECKING:
    from ..machine import Machine


@dataclass(frozen=True, slots=True)
class Theme:
    """The colours of a drawing: paper, states, lines, and lines by their heat."""

    paper: str
    fill: str
    border: str
    text: str
    line: str
    label: str
    strange: str
    heat: tuple[str, ...]


THEMES: Mapping[str, Theme] = {
    "light": Theme(
        paper="#ffffff",
        fill="#eaf1fb",
        border="#4a6fa5",
        text="#1b1f24",
        line="#57606a",
        label="#24292f",
        strange="#8250df",
        heat=("#afb8c1", "#c9a27e", "#d68a4c", "#db6d28", "#cf4a0c", "#b62324"),
    ),
    "dark": Theme(
        paper="#0d1117",
        fill="#1b2a41",
        border="#7aa2e3",
        text="#f0f6fc",
        line="#8b949e",
        label="#c9d1d9",
        strange="#bc8cff",
        heat=("#484f58", "#7d5a3c", "#a8652b", "#d47616", "#f0883e", "#ff7b54"),
    ),
}
_WIDTHS = ("0.8", "1.2", "2.0", "3.0", "4.2", "5.5")

# No state's name has a blank at its edge.
_BEGIN = '" begin"'
# Graphviz reads no name of more than 16,384 bytes.
_NAME_CHARACTERS, _CHARACTERS = 256, 1_000


def dot(
    machine: Machine | Graph,
    *,
    counts: Counts | None = None,
    rows: Rows | None = None,
    times: Times | None = None,
    direction: str = "TB",
    theme: str = "light",
    guards: bool = True,
    effects: bool = True,
    borders: bool = False,
) -> str:
    """*machine* in DOT, the language of Graphviz. Graphviz itself is not needed.

    *counts*, *rows* and *times* are shown as by ``mermaid()``; *times* also colours the borders of the states.
    *direction* is TB (top to bottom), LR, BT or RL. *theme* is ``"light"`` or ``"dark"``. The initial state has an
    arrow from a dot, and final states have a double border. A dashed line is a transition or a state that the machine
    does not declare. A group is a box. Of two groups that overlap, only the larger one is drawn. *guards* and *effects*
    add their names to the arrows, and *borders* adds the effects of `on_enter` and `on_exit` to states and boxes.
    Descriptions of events are tooltips.

    Raises: ValueError for another *direction* or *theme*.
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"direction={direction!r}; there are {', '.join(map(repr, DIRECTIONS))}")
    if theme not in THEMES:
        raise ValueError(f"theme={theme!r}; there are {', '.join(map(repr, THEMES))}")
    graph = (
        graph_of(machine)
        .with_details(guards=guards, effects=effects, borders=borders)
        .with_figures(counts, rows, times)
    )
    lines = [*_settings(direction, THEMES[theme]), *_states(graph, rows, times, THEMES[theme])]
    lines += _arrows(graph, counts, THEMES[theme])
    name = _quoted((graph.name or "machine")[:_NAME_CHARACTERS])
    return "\n".join([f"digraph {name} {{", *(f"  {line}" for line in lines), "}", ""])


def _settings(direction: str, theme: Theme) -> Iterator[str]:
    yield f'graph [rankdir={direction}, bgcolor="{theme.paper}", pad=0.3, nodesep=0.5, ranksep=0.6];'
    yield (
        f'node [shape=box, style="rounded,filled", fillcolor="{theme.fill}", color="{theme.border}",'
        f' fontcolor="{theme.text}", fontname="Helvetica,Arial,sans-serif", fontsize=13, margin="0.2,0.1"];'
    )
    yield (
        f'edge [color="{theme.line}", fontcolor="{theme.label}", fontname="Helvetica,Arial,sans-serif", fontsize=11,'
        " arrowsize=0.8];"
    )


def _states(graph: Graph, rows: Rows | None, times: Times | None, theme: Theme) -> Iterator[str]:
    yield f'{_BEGIN} [shape=point, width=0.15, label="", color="{theme.line}", fillcolor="{theme.line}", class=begin];'
    boxes = graph.boxes()
    inside = {state for box in boxes for state in graph.groups[box.group]}
    final = frozenset(graph.final)
    hot = heats_of(times or {})
    looks = {state: ", peripheries=2" if state in final else "" for state in graph.states}
    # The border of a state shows by its colour how long rows stay in it.
    looks |= {
        state: f'{looks.get(state, "")}, color="{theme.heat[h]}", penwidth={_WIDTHS[h]}' for state, h in hot.items()
    }
    nodes = {state: _node(graph, state, figures_of(state, rows, times), looks[state]) for state in graph.states}
    for state in graph.states:
        if state not in inside:
            yield nodes[state]
    numbers = count()
    for box in boxes:
        yield from _cluster(graph, box, nodes, theme, numbers)
    for state in graph.strangers:
        strange = f'style="rounded,dashed", color="{theme.strange}", class=strange'
        yield f"{_quoted(state)} [label={_quoted(*_state(graph, state, figures_of(state, rows, times)))}, {strange}];"
    yield f"{_BEGIN} -> {_quoted(graph.initial)};"
    for state in graph.initial_states:
        yield f"{_BEGIN} -> {_quoted(state)};"


def _node(graph: Graph, state: str, figures: tuple[str, ...], looks: str) -> str:
    return f"{_quoted(state)} [label={_quoted(*_state(graph, state, figures))}{looks}];"


def _cluster(graph: Graph, box: Box, nodes: Mapping[str, str], theme: Theme, numbers: Iterator[int]) -> Iterator[str]:
    """A group; Graphviz draws a box around a subgraph whose name begins with ``cluster``."""
    label = _quoted(box.group, *graph.border_lines(box.group))
    yield f"subgraph cluster_{next(numbers)} {{"
    yield (
        f'  graph [label={label}, labeljust=l, style="rounded,dashed", color="{theme.line}",'
        f' fontcolor="{theme.label}", fontname="Helvetica,Arial,sans-serif", fontsize=11];'
    )
    for state in box.states:
        yield f"  {nodes[state]}"
    for within in box.boxes:
        yield from (f"  {line}" for line in _cluster(graph, within, nodes, theme, numbers))
    yield "}"


def _state(graph: Graph, state: str, figures: tuple[str, ...]) -> tuple[str, ...]:
    return (state, *figures, *graph.border_lines(state))


def _arrows(graph: Graph, counts: Counts | None, theme: Theme) -> Iterator[str]:
    arrows = graph.arrows()
    most = 0 if counts is None else max((arrow.times(counts) for arrow in arrows), default=0)
    for arrow in arrows:
        # The blank keeps the text off the line.
        label = _quoted(*(f" {edge.label(counts)} " for edge in arrow.edges))
        looks = "".join(f", {look}" for look in (*_looks(arrow, counts, most, theme), *_tooltip(graph, arrow)))
        yield f"{_quoted(arrow.source)} -> {_quoted(arrow.target)} [label={label}{looks}];"


def _tooltip(graph: Graph, arrow: Arrow) -> Iterator[str]:
    events = dict.fromkeys(edge.event for edge in arrow.edges)
    texts = [f"{event}: {graph.descriptions[event]}" for event in events if event in graph.descriptions]
    if texts:
        yield f"tooltip={_quoted(*texts)}, labeltooltip={_quoted(*texts)}"


def _looks(arrow: Arrow, counts: Counts | None, most: int, theme: Theme) -> Iterator[str]:
    if counts is not None:
        level = heat(arrow.times(counts), most)
        yield f"penwidth={_WIDTHS[level]}"
        if arrow.is_declared:
            yield f'color="{theme.heat[level]}", class=heat{level}'
    if not arrow.is_declared:
        yield f'style=dashed, color="{theme.strange}", class=strange'


def _fitted(line: str) -> str:
    """*line*, cut when Graphviz would not read it: a string of its language has at most 16,384 bytes."""
    return line if len(line) <= _CHARACTERS else f"{line[:200]}… ({len(line):,} characters)"


def _quoted(*lines: str) -> str:
    """*lines* as one DOT string."""
    return '"' + "\\n".join(map(escape, map(_fitted, lines))) + '"'
