"""The contract of a statement that inserts a row or fires on the row that is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from sqlalchemy import Connection

from ..sql.code import Created, Reading
from ..sql.events import EventSQL

__all__ = ["Upsert"]


class Upsert(Protocol):
    """One statement for ``fire_or_create``, for events without guards and effects."""

    def can_upsert(self, connection: Connection) -> bool:
        """Whether the server of *connection* can do it."""
        ...

    def upsert(
        self,
        connection: Connection,
        event: EventSQL,
        names: tuple[str, ...],
        target: str,
        parameters: Mapping[str, Any],
    ) -> Reading | Created:
        """Insert a row in the state *target* with values for the columns *names*, or fire on the row with its key.

        The reading is ``NoRow`` when another row, with another key, has one of the new row's unique values.
        """
        ...
