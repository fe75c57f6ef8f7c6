"""A machine as a picture, SVG or PNG, by the ``graphviz`` package and Graphviz itself.

The extra ``diagram`` installs the package. The program ``dot`` comes from the system: ``apt install graphviz``,
``brew install graphviz``, or https://graphviz.org/download/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ..errors import GraphvizMissing
from .dot import THEMES, Theme, dot
from .graph import Counts, Graph, Rows

if TYPE_CHECKING:
    from ..machine import Machine


def svg(
    machine: Machine | Graph,
    *,
    counts: Counts | None = None,
    rows: Rows | None = None,
    direction: str = "TB",
    theme: str = "auto",
) -> str:
    """*machine* as SVG text; the arguments are those of ``dot()``.

    *theme* ``"auto"`` is light, and dark where the reader's system is. The same machine gives the same picture with the
    same version of Graphviz.

    Raises: GraphvizMissing, telling what to install.
    """
    chosen = "light" if theme == "auto" else theme
    text = dot(machine, counts=counts, rows=rows, direction=direction, theme=chosen)
    drawn = _draw(text, "svg").decode("utf-8")
    _, _, root = drawn.partition("<svg ")
    opening, _, rest = root.partition(">")
    style = f"\n<style>{_dark_style(THEMES['dark'])}</style>" if theme == "auto" else ""
    return f'<svg class="fsm-diagram" {opening}>{style}{rest}'


def png(
    machine: Machine | Graph,
    *,
    counts: Counts | None = None,
    rows: Rows | None = None,
    direction: str = "TB",
    theme: str = "light",
    dpi: int = 144,
) -> bytes:
    """*machine* as a PNG with *dpi* pixels an inch; else as :func:`svg`, with a *theme* of ``"light"`` or ``"dark"``.

    Raises: GraphvizMissing, telling what to install.
    """
    text = dot(machine, counts=counts, rows=rows, direction=direction, theme=theme)
    return _draw(text.replace("graph [", f"graph [dpi={dpi}, ", 1), "png")


def _draw(text: str, format_: Literal["svg", "png"]) -> bytes:
    try:
        import graphviz  # type: ignore[import-untyped]  # it has no stubs
    except ModuleNotFoundError as error:
        raise GraphvizMissing(
            "the Python package graphviz is", "pip install 'sqlalchemy-fsm-mysql[diagram]'"
        ) from error
    try:
        drawn: bytes = graphviz.Source(text).pipe(format=format_, quiet=True)
    except graphviz.ExecutableNotFound as error:
        raise GraphvizMissing(
            "Graphviz's program 'dot' is",
            "apt install graphviz, brew install graphviz, or https://graphviz.org/download",
        ) from error
    return drawn


def _dark_style(theme: Theme) -> str:
    """What Graphviz writes as attributes, said again for dark screens. It holds in this picture only."""
    rules = {
        ".graph>polygon": f"fill:{theme.paper};stroke:{theme.paper}",
        ".node path,.node polygon": f"fill:{theme.fill};stroke:{theme.border}",
        # The outer border of a final state is drawn last, over the state.
        ".node path[fill=none],.node polygon[fill=none]": f"fill:none;stroke:{theme.border}",
        ".node.begin ellipse": f"fill:{theme.line};stroke:{theme.line}",
        ".node text": f"fill:{theme.text}",
        ".edge path": f"stroke:{theme.line}",
        ".edge polygon": f"fill:{theme.line};stroke:{theme.line}",
        ".edge text": f"fill:{theme.label}",
    }
    colours = {**{f"heat{level}": colour for level, colour in enumerate(theme.heat)}, "strange": theme.strange}
    for name, colour in colours.items():
        rules[f".edge.{name} path"] = f"stroke:{colour}"
        rules[f".edge.{name} polygon"] = f"fill:{colour};stroke:{colour}"
    rules[".node.strange path"] = f"fill:none;stroke:{theme.strange}"
    inside = "".join(
        f"{','.join(f'.fsm-diagram {part}' for part in selector.split(','))}{{{rule}}}"
        for selector, rule in rules.items()
    )
    return f"@media (prefers-color-scheme:dark){{{inside}}}"
