"""The application: which commands there are."""

from __future__ import annotations

import typer

from .check import check
from .demo import demo
from .diagram import diagram
from .diff import diff, json_
from .fire import fire, history
from .fire_where import fire_where
from .sql import sql

app = typer.Typer(
    help="State machines that live in the MySQL row: watch them at work, draw them, read the SQL they send, and"
    " fire events on your rows.",
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
app.command(name="json")(json_)
app.command()(diff)
app.command()(history)
app.command()(fire)
app.command()(fire_where)


@app.callback()
def _commands() -> None:
    """Without this, typer would make an application of one command that command itself."""
