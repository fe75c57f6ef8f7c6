"""``due``: fire the timed events of a model on the rows that are due, once or as a worker."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.orm import sessionmaker

from ..errors.texts import counted, escaped
from ..operations.due import log, run_due
from ..operations.lookup import state_at
from ..orm.due import timed_events
from .database import UrlOption, database
from .output import JsonOption, fail, print_json, tell
from .status import Status
from .targets import ActorOption, TargetArgument, event_at, require_history
from .values import LARGEST


def due(
    target: TargetArgument,
    url: UrlOption = None,
    every: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=86_400,
            metavar="SECONDS",
            help="Run as a worker: sleep until the next row is due, but at most this long.",
            show_default="fire once on all due rows, and end",
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=LARGEST, metavar="N", help="The most rows that one transaction moves.")
    ] = 500,
    event: Annotated[
        str | None, typer.Option("--event", "-e", metavar="EVENT", help="Only this event.", show_default="all")
    ] = None,
    ready_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Touch this file after each batch, and remove it at the end and while the database cannot be used.",
            show_default=False,
        ),
    ] = None,
    actor: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fire the timed events of a model on the rows that are due, by the database's clock.

    Any number of these commands can run at once. Each batch is committed by itself, and is logged as a line on the
    standard error. Hooks are called. A worker (--every) ends after its batch at SIGTERM or Ctrl-C, and waits while the
    database cannot be used.

    The exit status is 0 when it is done, also after SIGTERM; 1 when some rows failed (without --every); 2 when the call
    is wrong; and 4 when the database cannot be reached or used at the beginning.
    """
    mapped = state_at(target)
    if event is not None:
        event = event_at(mapped, event).name
    try:
        timed_events(mapped.model, event, mapped.attribute)
    except (TypeError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    require_history(mapped, actor=actor)
    with database(url) as engine, _lines():
        rows = run_due(
            sessionmaker(engine),
            mapped.model,
            event=event,
            column=mapped.attribute,
            every=None if every is None else timedelta(seconds=every),
            limit=limit,
            actor=actor,
            ready_file=ready_file,
        )
    if as_json:
        print_json(rows.to_dict())
    failed = f" {counted(len(rows.errors), 'row')} failed." if rows.errors else ""
    done = f"{rows.event}: {counted(rows.moved, 'row')} of {mapped.table_name} were moved.{failed}"
    if rows.errors and every is None:
        fail(escaped(done), Status.REFUSED)
    tell(escaped(done), err=True)


@contextmanager
def _lines() -> Iterator[None]:
    """Within the block, the worker's log is written to the standard error."""
    handler, level = logging.StreamHandler(), log.level
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
