"""``diagram``: a machine as a table, as Mermaid, DOT, SVG or PNG."""

from __future__ import annotations

import sys
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy.orm import Session

from ..diagram import Counts, Graph, Rows, Times, cells, dot, markdown_table, mermaid, png, svg
from ..errors import GraphvizMissing
from ..machine import Machine
from ..operations.dwell import Dwell, dwell_times
from ..operations.figures import count_rows, count_transitions
from ..operations.lookup import machine_at
from ..orm.mapped import MappedState
from .database import UrlOption, database
from .output import fail, json_text, print_bytes, print_rich, print_text, rich_table
from .status import Status
from .targets import MachineArgument


class Format(str, Enum):
    """The formats of a drawing."""

    TABLE = "table"
    MERMAID = "mermaid"
    DOT = "dot"
    SVG = "svg"
    PNG = "png"
    JSON = "json"


class Direction(str, Enum):
    """The direction of a drawing."""

    LR = "LR"
    TB = "TB"
    RL = "RL"
    BT = "BT"


class ThemeName(str, Enum):
    """The colours of DOT, SVG and PNG."""

    AUTO = "auto"
    LIGHT = "light"
    DARK = "dark"


_BY_SUFFIX = {".md": Format.TABLE, ".mmd": Format.MERMAID, ".dot": Format.DOT, ".gv": Format.DOT}
_BY_SUFFIX |= {f".{kind.value}": kind for kind in (Format.SVG, Format.PNG, Format.JSON)}


def diagram(
    target: MachineArgument,
    format_: Annotated[
        Format | None,
        typer.Option(
            "--format",
            "-f",
            help="The format. By default, the suffix of --output decides; without --output, it is a table.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The file to write: .md .mmd .dot .svg .png .json"),
    ] = None,
    counts: Annotated[
        bool, typer.Option("--counts", help="Show how often the history has each transition. Needs --url.")
    ] = False,
    rows: Annotated[
        bool, typer.Option("--rows", help="Show how many rows are in each state now. Needs --url.")
    ] = False,
    times: Annotated[
        bool,
        typer.Option(
            "--times",
            help="Show the median time that rows stay in each state. Needs --url, and a history or a StateSinceColumn.",
        ),
    ] = False,
    since: Annotated[
        datetime | None,
        typer.Option(
            metavar="TIME", help="Count from this time on, in UTC, such as 2026-01-31 or 2026-01-31T12:00:00."
        ),
    ] = None,
    url: UrlOption = None,
    direction: Annotated[
        Direction | None,
        typer.Option(
            help="The direction: left to right, top to bottom, right to left, bottom to top.", show_default=False
        ),
    ] = None,
    borders: Annotated[
        bool, typer.Option("--borders", help="Show the effects of entering and leaving states and groups.")
    ] = False,
    theme: Annotated[
        ThemeName,
        typer.Option(help="The colours of DOT, SVG and PNG. An SVG that is 'auto' follows the reader's system."),
    ] = ThemeName.AUTO,
) -> None:
    """Draw a machine: its states, events, guards and effects, and on request the numbers of rows and transitions.

    SVG and PNG need Graphviz. The other formats need nothing else installed.
    """
    machine, mapped = machine_at(target)
    kind = format_ or _by_suffix(output)
    if borders and kind in (Format.TABLE, Format.JSON):
        raise typer.BadParameter(
            "a table and JSON have no borders; choose mermaid, dot, svg or png.", param_hint="--borders"
        )
    counts = counts or (since is not None and not times)
    figures = _figures(mapped, url, counts=counts, rows=rows, times=times, since=since)
    if kind is Format.TABLE and output is None and Console().is_terminal:
        print_rich(_rich_table(machine, figures))
        return
    options: dict[str, Any] = {"borders": True} if borders else {}
    if direction is not None:
        options["direction"] = direction.value
    try:
        drawn = _drawn(machine, kind, figures, options, theme)
    except GraphvizMissing as error:
        fail(str(error), Status.USAGE)
    _write(drawn, output)


def _by_suffix(output: Path | None) -> Format:
    if output is None:
        return Format.TABLE
    if output.suffix not in _BY_SUFFIX:
        raise typer.BadParameter(
            f"{output.name}: the suffix is none of {' '.join(_BY_SUFFIX)}; name the format by --format.",
            param_hint="--output",
        )
    return _BY_SUFFIX[output.suffix]


class _Figures(NamedTuple):
    """The figures that a drawing shows; None for those that were not asked for."""

    counts: Counts | None = None
    rows: Rows | None = None
    times: Times | None = None


def _figures(
    mapped: MappedState | None, url: str | None, *, counts: bool, rows: bool, times: bool, since: datetime | None
) -> _Figures:
    if not counts and not rows and not times:
        return _Figures()
    if mapped is None:
        raise typer.BadParameter("a machine by itself has no rows: name the column, as in shop.models:Order.state.")
    has_history = mapped.extras.history is not None
    if counts and not has_history:
        raise typer.BadParameter(f"{mapped.label} has no TransitionHistory to count in.", param_hint="--counts")
    if times and not has_history and (mapped.extras.since is None or since is not None):
        raise typer.BadParameter(
            f"{mapped.label} has no TransitionHistory{'' if since else ' and no StateSinceColumn'}: it has no times.",
            param_hint="--times",
        )
    column: Any = getattr(mapped.model, mapped.attribute)
    with database(url) as engine, Session(engine) as session:
        stays: dict[str, Dwell] = {}
        if times:
            stays = dwell_times(column, session, origin="history" if has_history else "column", since=since)
        return _Figures(
            count_transitions(column, session, since=since) if counts else None,
            count_rows(column, session) if rows else None,
            {state: stay.median for state, stay in stays.items()} if times else None,
        )


def _drawn(
    machine: Machine,
    kind: Format,
    figures: _Figures,
    options: dict[str, Any],
    theme: ThemeName,
) -> str | bytes:
    if kind is Format.TABLE:
        return markdown_table(machine, *figures)
    if kind is Format.MERMAID:
        return mermaid(machine, **figures._asdict(), **options)
    if kind is Format.JSON:
        return _json(machine, figures)
    if kind is Format.SVG:
        return svg(machine, **figures._asdict(), theme=theme.value, **options)
    colours = "light" if theme is ThemeName.AUTO else theme.value
    draw = dot if kind is Format.DOT else png
    return draw(machine, **figures._asdict(), theme=colours, **options)


def _json(machine: Machine, figures: _Figures) -> str:
    counts, rows, times = figures
    graph = Graph.of(machine).with_figures(*figures)
    edges = [
        {
            "event": edge.event,
            "source": edge.source,
            "target": edge.target,
            "guard": edge.guard,
            "effects": list(edge.effects),
            "declared": edge.declared,
            **({} if counts is None else {"count": counts.get((edge.event, edge.source, edge.target), 0)}),
        }
        for edge in graph.edges
    ]
    document = {
        "name": graph.name,
        "states": [*graph.states, *graph.strangers],
        "undeclared": list(graph.strangers),
        "initial": graph.initial,
        "initial_states": list(graph.initial_states),
        "final": list(graph.final),
        "groups": {name: list(states) for name, states in graph.groups.items()},
        "events": list(graph.events),
        "edges": edges,
        **({} if rows is None else {"rows": dict(rows)}),
        **(
            {}
            if times is None
            else {"seconds": {state: time and time.total_seconds() for state, time in times.items()}}
        ),
    }
    return json_text(document)


def _rich_table(machine: Machine, figures: _Figures) -> Table:
    header, *lines = cells(Graph.of(machine), *figures)
    table = rich_table(header, lines, title=machine.name)
    table.title_justify = "center"
    for number, column in enumerate(table.columns):
        column.style = "cyan" if number else "bold"
    return table


def _write(drawn: str | bytes, output: Path | None) -> None:
    # A surrogate, as SQLite can hold one, has no UTF-8.
    data = drawn if isinstance(drawn, bytes) else f"{drawn.rstrip()}\n".encode(errors="backslashreplace")
    if output is not None:
        try:
            output.write_bytes(data)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise typer.BadParameter(f"{output} cannot be written: {reason}", param_hint="--output") from error
    elif isinstance(drawn, str):
        print_text(drawn.rstrip())
    elif sys.stdout is not None and sys.stdout.isatty():
        raise typer.BadParameter(
            "a PNG cannot be shown in a terminal: write it to a file by --output.", param_hint="--format"
        )
    else:
        print_bytes(data)
