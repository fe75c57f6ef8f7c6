"""``watched``: the transitions that a machine does not allow, written down by triggers in the mode "watch"."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from ..errors.texts import counted
from ..operations.enforcement import WatchedEdge, watched_edges
from ..operations.lookup import state_at
from .database import UrlOption, database
from .output import JsonOption, print_json, print_table
from .targets import TargetArgument

_COLUMNS = tuple(field.name for field in fields(WatchedEdge))


def watched(target: TargetArgument, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """List the transitions that other programs made and the machine does not allow, the most frequent first.

    Triggers in watch mode record them: enforce_machine(mode="watch"). A transition without a source is a new row. Times
    are in UTC.
    """
    mapped = state_at(target)
    column: Any = getattr(mapped.model, mapped.attribute)
    with database(url) as engine:
        edges = watched_edges(column, engine)
    if as_json:
        print_json([asdict(edge) for edge in edges])
        return
    title = (
        f"{mapped.label}: {counted(sum(edge.times for edge in edges), 'transition')} that the machine does not allow"
    )
    print_table(_COLUMNS, [list(asdict(edge).values()) for edge in edges], title=title)
