"""History rows on MySQL and MariaDB: one INSERT, whose answer is the history row's number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Executable, func, insert, select

from ...sql.clock import utc_now
from ...sql.history import HistorySQL
from ..history import HistoryStatements
from ..ready import ReadyStatement, built_once

__all__ = ["MySQLHistory", "MySQLLockingHistory"]


class MySQLHistory(HistoryStatements):
    """One INSERT … SELECT, which remembers the number by ``LAST_INSERT_ID(expr)``."""

    def record(self, connection: Connection, history: HistorySQL, parameters: Mapping[str, Any]) -> int:
        result = self.ready_insert(history).execute(connection, parameters)
        return int(result.lastrowid or connection.execute(select(func.last_insert_id())).scalar_one())

    def record_statements(self, history: HistorySQL) -> list[Executable]:
        return [self.insert_numbered(history)]

    @built_once
    def ready_insert(self, history: HistorySQL) -> ReadyStatement:
        """:meth:`insert_numbered`, compiled once for each dialect."""
        return ReadyStatement(self.insert_numbered(history))

    @built_once
    def insert_numbered(self, history: HistorySQL) -> Executable:
        """The INSERT of a history row with the next number of its row."""
        columns = history.table.c
        sequence = func.last_insert_id(history.next_sequence())
        values = {**history.values(), columns.sequence: sequence, columns.at: utc_now()}
        rows = select(*values.values()).where(history.of_row())
        return insert(history.table).from_select(list(values), rows)


class MySQLLockingHistory(HistoryStatements):
    """For the locking read: two statements, and the read takes a lock.

    Under REPEATABLE READ, a plain read would not see the history rows that were committed after the snapshot.
    """

    @built_once
    def read_number(self, history: HistorySQL) -> Executable:
        return select(history.next_sequence()).where(history.of_row()).with_for_update()
