"""A machine as a picture, SVG or PNG, by the ``graphviz`` package and Graphviz itself.

The extra ``diagram`` installs the package. The program ``dot`` comes from the system: ``apt install graphviz``,
``brew install graphviz``, or https://graphviz.org/download/.
"""

from __future__ import annotations

import math
import subprocess
from typing import TYPE_CHECKING, Literal

from ..errors import FSMError, GraphvizMissing
from ..errors.texts import shown
from .dot import THEMES, Theme, dot
from .graph import Counts, Graph, Rows, Times

if TYPE_CHECKING:
    from ..machine import Machine


_DPI = range(10, 1201)


class DrawingTimeout(FSMError, TimeoutError):
    """Graphviz was stopped because the drawing took too long. A table shows a machine of any size."""


def svg(
    machine: Machine | Graph,
    *,
    counts: Counts | None = None,
    rows: Rows | None = None,
    times: Times | None = None,
    direction: str = "TB",
    theme: str = "auto",
    borders: bool = False,
    timeout: float | None = 60.0,
) -> str:
    """*machine* as SVG text. The arguments are those of ``dot()``, and *timeout*.

    *timeout* is in seconds; None means no limit. Graphviz draws 50 states in less than one second, and hundreds of
    states in hours. The *theme* ``"auto"`` is light, and dark where the reader's system is dark. The same machine gives
    the same picture with the same version of Graphviz.

    Raises: GraphvizMissing, which names the missing package. DrawingTimeout, a TimeoutError, after *timeout* seconds.
    """
    chosen = "light" if theme == "auto" else theme
    text = dot(machine, counts=counts, rows=rows, times=times, direction=direction, theme=chosen, borders=borders)
    drawn = _draw(text, "svg", timeout).decode("utf-8")
    _, _, root = drawn.partition("<svg ")
    opening, _, rest = root.partition(">")
    style = f"\n<style>{_dark_style(THEMES['dark'])}</style>" if theme == "auto" else ""
    return f'<svg class="fsm-diagram" {opening}>{style}{rest}'


def png(
    machine: Machine | Graph,
    *,
    counts: Counts | None = None,
    rows: Rows | None = None,
    times: Times | None = None,
    direction: str = "TB",
    theme: str = "light",
    dpi: int = 144,
    borders: bool = False,
    timeout: float | None = 60.0,
) -> bytes:
    """*machine* as the bytes of a PNG with *dpi* pixels an inch. The other arguments are those of :func:`svg`.

    The *theme* is ``"light"`` or ``"dark"``.

    Raises: as :func:`svg`; ValueError for a *dpi* that is not a whole number from 10 to 1200.
    """
    if type(dpi) is not int or dpi not in _DPI:
        raise ValueError(f"dpi={shown(dpi)}: give a whole number from {_DPI[0]} to {_DPI[-1]}")
    text = dot(machine, counts=counts, rows=rows, times=times, direction=direction, theme=theme, borders=borders)
    return _draw(text.replace("graph [", f"graph [dpi={dpi}, ", 1), "png", timeout)


def _draw(text: str, format_: Literal["svg", "png"], timeout: float | None) -> bytes:
    given: object = timeout
    if given is not None and not (isinstance(given, (int, float)) and 0 < given < math.inf):
        raise ValueError(f"timeout={shown(timeout)}: give seconds, or None for no limit")
    try:
        import graphviz  # type: ignore[import-untyped]  # it has no stubs
    except ModuleNotFoundError as error:
        raise GraphvizMissing(
            "the Python package graphviz is", "pip install 'sqlalchemy-fsm-mysql[diagram]'"
        ) from error
    # graphviz.Source.pipe() has no time limit, so the program is run here.
    command = [str(graphviz.DOT_BINARY), f"-T{format_}"]
    try:
        done = subprocess.run(command, input=text.encode(), capture_output=True, check=True, timeout=timeout)  # noqa: S603 - no shell
    except subprocess.TimeoutExpired as error:
        raise DrawingTimeout(
            f"Graphviz is stopped after {timeout} seconds; show the machine as a table, or give a longer timeout"
        ) from error
    except FileNotFoundError as error:
        raise GraphvizMissing(
            "Graphviz's program 'dot' is",
            "apt install graphviz, brew install graphviz, or https://graphviz.org/download",
        ) from error
    return done.stdout


def _dark_style(theme: Theme) -> str:
    """The attributes that Graphviz writes, once more for dark screens. They apply to this picture only."""
    rules = {
        ".graph>polygon": f"fill:{theme.paper};stroke:{theme.paper}",
        ".cluster path,.cluster polygon": f"fill:{theme.paper};stroke:{theme.line}",
        ".cluster text": f"fill:{theme.label}",
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
