"""A machine in DOT, the language of Graphviz."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors.texts import escaped
from .graph import Arrow, Counts, Graph, Rows, graph_of, heat, rows_label
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


def dot(
    machine: Machine | Graph,
    *,
    counts: Counts | None = None,
    rows: Rows | None = None,
    direction: str = "TB",
    theme: str = "light",
) -> str:
    """*machine* in DOT; needs nothing installed.

    *counts* and *rows* are shown as by ``mermaid()``. *direction* is TB (top to bottom), LR, BT or RL,
    *theme* ``"light"`` or ``"dark"``. The initial state has an arrow from a dot, final states have a double border.
    Dashed is what the machine does not declare.

    Raises: ValueError for another *direction* or *theme*.
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"direction={direction!r}; there are {', '.join(map(repr, DIRECTIONS))}")
    if theme not in THEMES:
        raise ValueError(f"theme={theme!r}; there are {', '.join(map(repr, THEMES))}")
    graph = graph_of(machine).with_figures(counts, rows)
    lines = [*_settings(direction, THEMES[theme]), *_states(graph, rows, THEMES[theme])]
    lines += _arrows(graph, counts, THEMES[theme])
    return "\n".join([f"digraph {_quoted(graph.name or 'machine')} {{", *(f"  {line};" for line in lines), "}", ""])


def _settings(direction: str, theme: Theme) -> Iterator[str]:
    yield f'graph [rankdir={direction}, bgcolor="{theme.paper}", pad=0.3, nodesep=0.5, ranksep=0.6]'
    yield (
        f'node [shape=box, style="rounded,filled", fillcolor="{theme.fill}", color="{theme.border}",'
        f' fontcolor="{theme.text}", fontname="Helvetica,Arial,sans-serif", fontsize=13, margin="0.2,0.1"]'
    )
    yield (
        f'edge [color="{theme.line}", fontcolor="{theme.label}", fontname="Helvetica,Arial,sans-serif", fontsize=11,'
        " arrowsize=0.8]"
    )


def _states(graph: Graph, rows: Rows | None, theme: Theme) -> Iterator[str]:
    yield f'{_BEGIN} [shape=point, width=0.15, label="", color="{theme.line}", fillcolor="{theme.line}", class=begin]'
    for state in graph.states:
        double = ", peripheries=2" if state in graph.final else ""
        yield f"{_quoted(state)} [label={_quoted(*_state(state, rows))}{double}]"
    for state in graph.strangers:
        strange = f'style="rounded,dashed", color="{theme.strange}", class=strange'
        yield f"{_quoted(state)} [label={_quoted(*_state(state, rows))}, {strange}]"
    yield f"{_BEGIN} -> {_quoted(graph.initial)}"


def _state(state: str, rows: Rows | None) -> tuple[str, ...]:
    return (state,) if rows is None else (state, rows_label(state, rows))


def _arrows(graph: Graph, counts: Counts | None, theme: Theme) -> Iterator[str]:
    arrows = graph.arrows()
    most = 0 if counts is None else max((arrow.times(counts) for arrow in arrows), default=0)
    for arrow in arrows:
        # The blank keeps the text off the line.
        label = _quoted(*(f" {edge.label(counts)} " for edge in arrow.edges))
        looks = "".join(f", {look}" for look in _looks(arrow, counts, most, theme))
        yield f"{_quoted(arrow.source)} -> {_quoted(arrow.target)} [label={label}{looks}]"


def _looks(arrow: Arrow, counts: Counts | None, most: int, theme: Theme) -> Iterator[str]:
    if counts is not None:
        level = heat(arrow.times(counts), most)
        yield f"penwidth={_WIDTHS[level]}"
        if arrow.is_declared:
            yield f'color="{theme.heat[level]}", class=heat{level}'
    if not arrow.is_declared:
        yield f'style=dashed, color="{theme.strange}", class=strange'


def _quoted(*lines: str) -> str:
    """*lines* as one DOT string. Graphviz takes ``&lt;`` for ``<`` in it, and a backslash begins an escape."""
    quoted = (escaped(line).replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;") for line in lines)
    return '"' + "\\n".join(quoted) + '"'
