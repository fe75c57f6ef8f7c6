"""A history as SQL: the table that has a row for each transition."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Column, ColumnElement, Select, Table, and_, bindparam, func, select

from .events import KEY, StateRow

# What the caller of a fire gives for its history row; bound as fsm_actor and so on.
ATTRIBUTION = ("actor", "details", "token")
RECORDED = ("event", "source", "target", *ATTRIBUTION)


@dataclass(frozen=True)
class HistorySQL:
    """The table of a history: a history row per transition, keyed by the row's key and a number that counts from 1."""

    table: Table
    row_key: tuple[Column[Any], ...]  # the key of the row that a history row belongs to, in the order of StateRow.key
    cache: dict[Any, Any] = field(default_factory=dict)  # what the backends built from this table

    def of_row(self) -> ColumnElement[bool]:
        """The history rows of one row, by the same parameters as :meth:`StateRow.is_key`."""
        return and_(*(part == bindparam(KEY.format(i), type_=part.type) for i, part in enumerate(self.row_key)))

    def by_token(self) -> Select[Any]:
        """The history row that has the parameter ``fsm_token``, read with a lock."""
        token = self.table.c.token
        return select(self.table).where(token == bindparam("fsm_token", type_=token.type)).with_for_update(read=True)

    def next_sequence(self) -> ColumnElement[int]:
        return func.coalesce(func.max(self.table.c.sequence), 0) + 1

    def own(self, row: StateRow, *, are_locked: bool) -> dict[Column[Any], ColumnElement[Any]]:
        """The key and the next number of each row, where the rows are selected from their table.

        *are_locked* is whether an earlier statement has locked the rows.
        """
        own: dict[Column[Any], ColumnElement[Any]] = dict(zip(self.row_key, row.key, strict=True))
        earlier = self.table.alias("fsm_earlier")
        same = [earlier.c[part.key] == own[part] for part in self.row_key]
        # Neither server looks up a correlated MAX(): it reads, and locks, the whole history of the row. The last entry
        # of the row in the primary key is one look-up on both, on MySQL only if the key's parts are in the ORDER BY.
        order = [column.desc() for column in (*(earlier.c[part.key] for part in self.row_key), earlier.c.sequence)]
        latest = select(earlier.c.sequence).where(*same).order_by(*order).limit(1)
        if not are_locked:
            # A plain read would be of the moment when the statement began, and the statement may have waited since for
            # the rows' locks. Where the rows are locked already, a plain read is right, and a locking read beside the
            # plain one of the rows would be error 1020 of MariaDB.
            latest = latest.with_for_update()
        return {**own, self.table.c.sequence: func.coalesce(latest.scalar_subquery(), 0) + 1}

    def values(self) -> dict[Column[Any], ColumnElement[Any]]:
        """The values of a new history row, besides its number."""
        columns = self.table.c
        values: dict[Column[Any], ColumnElement[Any]] = {
            part: bindparam(KEY.format(i), type_=part.type) for i, part in enumerate(self.row_key)
        }
        for name in RECORDED:
            values[columns[name]] = bindparam(f"fsm_{name}", type_=columns[name].type)
        return values
