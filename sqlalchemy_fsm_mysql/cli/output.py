"""How a command prints: tables for people at a terminal, plain lines for everything else, JSON where asked for."""

from __future__ import annotations

import datetime as dt
import enum
import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..errors.texts import stored_form

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for a program to read.")]


def print_table(header: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> None:
    """A table at a terminal; elsewhere a line for each row, its cells apart by tabs, after a line of the *header*."""
    console = Console()
    if not console.is_terminal:
        for row in (header, *rows):
            typer.echo("\t".join(map(cell, row)))
        return
    table = Table(title=title, title_justify="left")
    for name in header:
        table.add_column(name)
    for row in rows:
        table.add_row(*(Text(cell(value)) for value in row))
    console.print(table)


def print_json(document: Any) -> None:
    """*document* as JSON, with times in ISO 8601 and states as they are stored."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False, default=_plain))


def cell(value: Any) -> str:
    """*value* on one line. What a row holds may have been written by anybody: a terminal is not to obey it.

    >>> cell("a\\x1b[2Jb\\tc"), cell(None), cell({"card": "visa"})
    ('a\\\\x1b[2Jb\\\\tc', '', '{"card": "visa"}')
    """
    if value is None:
        return ""
    if isinstance(value, (dict, list)):
        value = json.dumps(value, ensure_ascii=False, default=_plain)
    if isinstance(value, enum.Enum):
        value = stored_form(value)
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return stored_form(value)
    return value.isoformat() if isinstance(value, (dt.date, dt.time)) else str(value)
