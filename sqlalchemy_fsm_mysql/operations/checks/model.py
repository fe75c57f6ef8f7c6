"""The checks of a model's events and of its key."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, String

from ...databases import database_of
from ...errors import InvalidMachine
from ...orm.mapped import MappedState
from ..findings import Finding, label_of

__all__ = ["of_events", "of_key"]


def of_events(mapped: MappedState) -> Iterator[Finding]:
    """Whether the SQL of every event can be built: guards and effects are called at an event's first use."""
    for name in mapped.machine.events:
        try:
            mapped.event(name)
        except InvalidMachine as error:
            for problem in error.problems:
                yield Finding("error", "event", problem, "change the declaration: this event cannot be fired")


def of_key(mapped: MappedState, connection: Connection) -> Iterator[Finding]:
    """Whether two texts can be the key of one row."""
    catalogue = database_of(connection).catalogue
    for part in mapped.row.key:
        facts = catalogue.column(connection, part) if isinstance(part.type, String) else None
        if facts is not None and facts.is_text and facts.collation is not None and not facts.is_exact:
            what = (
                f"the key {label_of(part)} has the collation {facts.collation}, in which different texts are equal: "
                "fire_key(…, 'ABC') moves the row 'abc', and the session's instance of that row is stale"
            )
            advice = "pass keys as the row stores them, or use a collation that compares every difference"
            yield Finding("note", "text key", what, advice)
