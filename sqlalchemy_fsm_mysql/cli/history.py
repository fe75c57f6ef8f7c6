"""``history``: the transitions of one row."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from sqlalchemy import select
from sqlalchemy.orm import Session

from ..errors.texts import counted, row_label, stored_form
from ..operations.lookup import state_at
from .database import UrlOption, database
from .output import JsonOption, fail, print_json, print_table
from .status import Status
from .targets import KeyArgument, TargetArgument
from .values import LARGEST, key

_COLUMNS = ("sequence", "at", "event", "source", "target", "actor", "details", "token")


def history(
    target: TargetArgument,
    row: KeyArgument,
    url: UrlOption = None,
    last: Annotated[
        int | None,
        typer.Option(min=1, max=LARGEST, metavar="N", help="Show only the last N transitions.", show_default="all"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the transitions of one row, the oldest first. Times are in UTC.

    The exit status is 3 when the database has neither such a row nor a history of it.
    """
    mapped = state_at(target)
    recorded = mapped.extras.history
    if recorded is None:
        raise typer.BadParameter(f"{mapped.label} has no TransitionHistory, so its transitions are not recorded.")
    identity = key(mapped, row)
    parts = identity if isinstance(identity, tuple) else (identity,)
    with database(url) as engine, Session(engine) as session:
        rows = recorded.rows(session, parts, {})
        parameters = dict(zip(mapped.key_names, parts, strict=True))
        states = select(mapped.row.state).where(mapped.row.is_key())
        found = session.connection(bind_arguments={"mapper": mapped.mapper}).execute(states, parameters).one_or_none()
    if found is None and not rows:
        fail(f"{row_label(mapped.table_name, identity)}: there is no row with this key.", Status.NOT_FOUND)
    lines = [_line(row) for row in (rows if last is None else rows[-last:])]
    if as_json:
        print_json(lines)
        return
    label = row_label(mapped.table_name, identity)
    state = None if found is None else "without a state" if found[0] is None else repr(stored_form(found[0]))
    now = "and is deleted" if state is None else f"and is {state}"
    title = f"{label} was moved {counted(len(rows), 'time')}, {now}"
    print_table(_COLUMNS, [list(line.values()) for line in lines], title=title)


def _line(row: Any) -> dict[str, Any]:  # Any: a class that the model declares
    return {name: getattr(row, name) for name in _COLUMNS}
