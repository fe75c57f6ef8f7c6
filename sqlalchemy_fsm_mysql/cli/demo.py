"""``demo``: the main job, on nothing but Python."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from .output import fail
from .status import Status

# typer reads these annotations at run time, so nothing here is imported for type checkers only.


def demo(
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="A database to race in, such as mysql+pymysql://root@127.0.0.1:3306/test; the demo has a"
            " table of its own there, and drops it at the end. Without it: a temporary SQLite file.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that race.")] = 8,
    rows: Annotated[int, typer.Option(min=1, max=1000, help="Orders that they race for.")] = 4,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="How long they race.")] = 6,
) -> None:
    """Let processes race events on a few shared rows, watch them, and check their reports.

    The exit status is 0 when every check passes, 1 when one fails, 2 when the call is wrong, and 4 when the database
    cannot be reached or used.
    """
    from ..demo.play import play
    from ..demo.stage import NoDatabase, NoStage

    try:
        status = play(Console(), url=url, workers=workers, rows=rows, seconds=seconds)
    except NoDatabase as error:
        fail(str(error), Status.DATABASE)
    except NoStage as error:
        raise typer.BadParameter(str(error), param_hint="--url") from error
    raise typer.Exit(status)
