"""A history as SQL: the table with a history row for each transition."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Column, ColumnElement, Select, Table, and_, bindparam, func, select

from .events import KEY, StateRow

# The columns whose values the caller of a fire gives; bound as fsm_actor, fsm_details and fsm_token.
ATTRIBUTION = ("actor", "details", "token")
RECORDED = ("event", "source", "target", *ATTRIBUTION)


@dataclass(frozen=True, eq=False, repr=False)
class HistorySQL:
    """The table of a history. The key of a history row is the row's key and a number that counts from 1."""

    table: Table
    row_key: tuple[Column[Any], ...]  # the key of the row that a history row belongs to, in the order of StateRow.key
    cache: dict[Any, Any] = field(default_factory=dict)  # the statements that are built from this table

    def of_row(self) -> ColumnElement[bool]:
        """The history rows of one row, by the same parameters as :meth:`StateRow.is_key`."""
        return and_(*(part == bindparam(KEY.format(i), type_=part.type) for i, part in enumerate(self.row_key)))

    def by_token(self) -> Select[Any]:
        """The history row that has the parameter ``fsm_token``, read with a lock."""
        token = self.table.c.token
        return select(self.table).where(token == bindparam("fsm_token", type_=token.type)).with_for_update(read=True)

    def next_sequence(self) -> ColumnElement[int]:
        """The number of a row's next history row, for a SELECT under :meth:`of_row`."""
        return func.coalesce(func.max(self.table.c.sequence), 0) + 1

    def own(self, row: StateRow, *, are_locked: bool) -> dict[Column[Any], ColumnElement[Any]]:
        """The key and the next number of each row, for an INSERT … SELECT from the rows' table.

        *are_locked* is whether an earlier statement has locked the rows.
        """
        own: dict[Column[Any], ColumnElement[Any]] = dict(zip(self.row_key, row.key, strict=True))
        # A plain read shows the moment when the statement began, and the statement may have waited for the rows' locks
        # since then. Where the rows are locked already, a plain read is right; there, MariaDB refuses a locking read
        # beside the plain read of the rows (error 1020).
        latest = self._latest(row)
        return {**own, self.table.c.sequence: _following(latest if are_locked else latest.with_for_update())}

    def following(self, row: StateRow) -> ColumnElement[int]:
        """The number of each row's next history row, for a SELECT that locks the rows.

        FOR SHARE, because FOR UPDATE would need a right to change the history.
        """
        return _following(self._latest(row).with_for_update(read=True)).label("fsm_sequence")

    def _latest(self, row: StateRow) -> Select[Any]:
        """The number of each row's last history row, for a subquery beside the rows."""
        earlier = self.table.alias("fsm_earlier")
        same = [earlier.c[part.key] == key for part, key in zip(self.row_key, row.key, strict=True)]
        # For a correlated MAX(), both servers read, and lock, the whole history of the row. With ORDER BY and LIMIT 1
        # they read only the last entry of the row in the primary key; MySQL needs the key's parts in the ORDER BY, too.
        order = [column.desc() for column in (*(earlier.c[part.key] for part in self.row_key), earlier.c.sequence)]
        return select(earlier.c.sequence).where(*same).order_by(*order).limit(1)

    def values(self) -> dict[Column[Any], ColumnElement[Any]]:
        """The values of a new history row, besides its number."""
        columns = self.table.c
        values: dict[Column[Any], ColumnElement[Any]] = {
            part: bindparam(KEY.format(i), type_=part.type) for i, part in enumerate(self.row_key)
        }
        for name in RECORDED:
            values[columns[name]] = bindparam(f"fsm_{name}", type_=columns[name].type)
        return values


def _following(latest: Select[Any]) -> ColumnElement[int]:
    return func.coalesce(latest.scalar_subquery(), 0) + 1
