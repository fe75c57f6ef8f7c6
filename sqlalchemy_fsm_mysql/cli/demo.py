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
    server: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Start a server for the demo, instead of --url: 'seekdb' (pip install pylibseekdb, Python 3.11+;"
            " neither root nor Docker is needed) or 'installed', a mysqld or mariadbd of this machine.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="The number of processes.")] = 8,
    rows: Annotated[int, typer.Option(min=1, max=1000, help="The number of rows (orders).")] = 4,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="The length of the race in seconds.")] = 6,
) -> None:
    """Let several processes fire events on the same rows, and check that no update is lost.

    The exit status is 0 when every check passes, 1 when one fails, 2 when the call is wrong, and 4 when the database
    cannot be reached or used.
    """
    from ..demo.play import play
    from ..demo.stage import SERVERS, NoDatabase, NoStage

    if server is not None and (url is not None or server not in SERVERS):
        problem = "it starts a server, and --url names one: give one of them" if url is not None else "no such server"
        raise typer.BadParameter(f"{problem}; there are {', '.join(SERVERS)}", param_hint="--server")
    try:
        status = play(Console(), url=url, workers=workers, rows=rows, seconds=seconds, server=server)
    except NoDatabase as error:
        fail(str(error), Status.DATABASE)
    except NoStage as error:
        raise typer.BadParameter(str(error), param_hint="--url") from error
    raise typer.Exit(status)
