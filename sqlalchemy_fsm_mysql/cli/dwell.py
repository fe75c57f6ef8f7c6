"""``dwell``: how long rows stay in each state."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer
from sqlalchemy.orm import Session

from ..diagram.graph import duration
from ..operations.dwell import Dwell, Origin, dwell_times
from ..operations.lookup import state_at
from .database import UrlOption, database
from .output import JsonOption, print_json, print_table
from .targets import TargetArgument


def dwell(
    target: TargetArgument,
    url: UrlOption = None,
    history: Annotated[
        bool,
        typer.Option(
            "--history",
            help="Measure the stays that have ended, by the history. The default is the rows as they are now.",
        ),
    ] = False,
    since: Annotated[
        datetime | None,
        typer.Option(metavar="TIME", help="Only stays that ended at this time or later, in UTC. Implies --history."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show how long rows stay in each state: their number, the median, the 95th percentile and the longest.

    By default, the command measures the rows that are in each state now, by the StateSinceColumn. Without such a
    column, it measures the stays in the history.
    """
    mapped = state_at(target)
    origin: Origin | None = "history" if history or since is not None else None
    if origin == "history" and mapped.extras.history is None:
        raise typer.BadParameter(f"{mapped.label} has no TransitionHistory.", param_hint="--history")
    if origin is None and mapped.extras.history is None and mapped.extras.since is None:
        raise typer.BadParameter(
            f"{mapped.label} has no StateSinceColumn and no TransitionHistory, which record when a row changes."
        )
    with database(url) as engine, Session(engine) as session:
        found = dwell_times(getattr(mapped.model, mapped.attribute), session, origin=origin, since=since)
    if as_json:
        print_json({state: stay.to_dict() for state, stay in found.items()})
        return
    print_table(("state", "stays", "median", "p95", "oldest"), [_line(state, stay) for state, stay in found.items()])


def _line(state: str, stay: Dwell) -> tuple[Any, ...]:
    times = (stay.median, stay.p95, stay.oldest)
    return (state, stay.count, *("" if time is None else duration(time) for time in times))
