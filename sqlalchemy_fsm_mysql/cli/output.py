"""The output of a command: tables for people at a terminal, plain lines for everything else, JSON where asked for.

All output of values passes through here: :func:`tell` for lines, :func:`print_table`, :func:`print_json` and
:func:`print_text`. A row may hold anything, so no value reaches a terminal as an escape sequence, a second line, or
markup of rich.
"""

from __future__ import annotations

import datetime as dt
import enum
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from ..errors.texts import escaped, stored_form
from .status import Status

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


class OutputLost(Exception):
    """The standard output cannot be written: the disk is full, for example. The message has the reason."""


def tell(text: str, *, err: bool = False) -> None:
    """Write *text*, with unprintable characters as escapes. Line ends in it stay: our own messages have some.

    Raises: OutputLost, of the standard output only. A message that the standard error does not take is lost.
    """
    _write("\n".join(map(escaped, text.split("\n"))), err=err)


def fail(message: str, status: Status) -> NoReturn:
    """End the command with *status*, and *message* on the standard error."""
    tell(message, err=True)
    raise typer.Exit(status)


def print_text(text: str) -> None:
    """Write *text*, which another program may read: as it is, but escaped for a terminal.

    Raises: OutputLost.
    """
    if Console().is_terminal:
        tell(text)
        return
    with _writing():
        typer.echo(text.encode("utf-8", "backslashreplace") + b"\n", nl=False)


def print_bytes(data: bytes) -> None:
    """Write *data*, such as a picture.

    Raises: OutputLost.
    """
    with _writing():
        typer.echo(data, nl=False)


def print_table(header: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> None:
    """A table at a terminal; elsewhere a line for each row, its cells apart by tabs, after a line of the *header*.

    Raises: OutputLost.
    """
    if not Console().is_terminal:
        _write("\n".join("\t".join(map(cell, row)) for row in (header, *rows)))
        return
    print_rich(rich_table(header, rows, title=title))


def rich_table(header: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> Table:
    """A table of rich. Every text in it is a `Text`: rich reads a plain str as markup, ``[red]`` or ``[/x]``."""
    table = Table(title=None if title is None else Text(escaped(title)), title_justify="left")
    for name in header:
        table.add_column(Text(cell(name)))
    for row in rows:
        table.add_row(*(Text(cell(value)) for value in row))
    return table


def print_rich(renderable: RenderableType) -> None:
    """Write *renderable*, whose texts are escaped, to the terminal.

    Raises: OutputLost.
    """
    with _writing():
        Console().print(renderable)


def print_json(document: Any) -> None:
    """Write *document* as :func:`json_text`; where the output is not UTF-8, in ASCII.

    Raises: OutputLost.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    with _writing():
        typer.echo(json_text(document, is_ascii=encoding.lower().replace("-", "") != "utf8"))


def json_text(document: Any, *, is_ascii: bool = False) -> str:
    """*document* as JSON, with times in ISO 8601 and states as they are stored.

    Unprintable characters are written as escapes. A number that JSON has no text for (NaN, infinity) is null.

    >>> print(json_text(["\x9b2J\u202e", float("nan")]))
    [
      "\\u009b2J\\u202e",
      null
    ]
    """
    text = json.dumps(_finite(document), indent=2, ensure_ascii=is_ascii, default=_plain)
    # json.dumps escapes C0 alone, and to a terminal C1 and DEL are control characters, too.
    return "".join(c if c.isprintable() or c == "\n" else _unicode_escape(c) for c in text)


def cell(value: Any) -> str:
    """*value* on one line, unprintable characters as escapes.

    >>> cell("a\\x1b[2Jb\\tc"), cell(None), cell({"card": "visa"})
    ('a\\\\x1b[2Jb\\\\tc', '', '{"card": "visa"}')
    """
    if value is None:
        return ""
    if isinstance(value, (dict, list)):
        value = json.dumps(value, ensure_ascii=False, default=_plain)
    if isinstance(value, enum.Enum):
        value = stored_form(value)
    return escaped(str(value))


def _write(text: str, *, err: bool = False) -> None:
    with _writing(err=err):
        typer.echo(text, err=err)


@contextmanager
def _writing(*, err: bool = False) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        if not err:
            raise
    except OSError as error:
        if not err:
            raise OutputLost(f"The output cannot be written: {error.strerror}.") from error


def _unicode_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))


def _finite(value: Any) -> Any:
    """*value* without the numbers that JSON has no text for; SQLite stores them in a JSON column."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return stored_form(value)
    return value.isoformat() if isinstance(value, (dt.date, dt.time)) else str(value)
