"""The application: which commands there are."""

from __future__ import annotations

import typer

from .demo import demo
from .diagram import diagram
from .sql import sql

app = typer.Typer(
    help="State machines that live in the MySQL row: watch them at work, and read the SQL they send.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo)
app.command()(diagram)
app.command()(sql)


@app.callback()
def _commands() -> None:
    """Without this, typer would make an application of one command that command itself."""
