"""The checks of timed events: the column that holds since when, and the index that finds the rows that are due."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Column

from ...databases.catalogue import TableFacts
from ...errors import InvalidMachine
from ...orm.mapped import MappedState
from ...sql.events import Due
from ..findings import Finding, label_of, names_of

__all__ = ["of_due"]


def of_due(mapped: MappedState, facts: TableFacts) -> Iterator[Finding]:
    """Whether the since column is there, and whether an index finds the due rows of each timed event."""
    since = mapped.row.since
    if since is not None and since.name.lower() not in {name.lower() for name in facts.columns}:
        what = f"there is no column {label_of(since)}, which every change of the state writes"
        yield Finding("error", "no since column", what, "add it before this release runs; without it, every fire fails")
        return
    table, state = names_of(mapped.column)
    indexes = [tuple(name.lower() for name in index) for index in facts.indexes]
    wanted: dict[str, list[str]] = {}
    for name, due in _timed(mapped):
        if isinstance(due.moment, Column):  # an index on an expression is the application's own affair
            wanted.setdefault(due.moment.name, []).append(name)
    for column, events in wanted.items():
        if not any(index[:2] == (state.lower(), column.lower()) for index in indexes):
            what = (
                f"no index on {table} begins with ({state}, {column}), so looking for the rows on which"
                f" {', '.join(map(repr, events))} is due reads every row in the state"
            )
            advice = f"CREATE INDEX ix_{table}_{column} ON {table} ({state}, {column})"
            yield Finding("warning", "no due index", what, advice)


def _timed(mapped: MappedState) -> Iterator[tuple[str, Due]]:
    for event in mapped.machine.events.values():
        if event.is_timed:
            try:
                due = mapped.event(event.name).due
            except InvalidMachine:
                continue  # told by `of_events`
            if due is not None:
                yield event.name, due
