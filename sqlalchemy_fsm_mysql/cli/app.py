"""The application: its commands, and the options that stand before a command's name."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated

import typer

from .adopt import adopt
from .check import check
from .demo import demo
from .diagram import diagram
from .diff import diff, json_
from .due import due
from .dwell import dwell
from .ending import TRACEBACK, Commands
from .fire import fire
from .fire_where import fire_where
from .history import history
from .output import tell
from .report import report
from .sql import sql
from .watched import watched

_NAME = "sqlalchemy-fsm-mysql"

app = typer.Typer(
    cls=Commands,
    help="Work with the state machines of your models: fire events on rows, list their history, draw a machine,"
    " print its SQL, and check that a database fits it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Otherwise each line of a docstring is a line of the help, however wide the terminal.
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo)
app.command()(diagram)
app.command()(sql)
app.command()(check)
app.command()(report)
app.command()(adopt)
app.command()(watched)
app.command(name="json")(json_)
app.command()(diff)
app.command()(history)
app.command()(fire)
app.command()(fire_where)
app.command()(due)
app.command()(dwell)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        try:
            version = metadata.version(_NAME)
        except metadata.PackageNotFoundError:  # a clone on the path has no metadata
            version = "of a source tree that is not installed"
        tell(f"{_NAME} {version}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
    shows_traceback: Annotated[
        bool, typer.Option(TRACEBACK, help="Print the traceback of an error. It can contain SQL and values.")
    ] = False,
) -> None:
    pass
