"""History rows on MySQL and MariaDB: one INSERT, whose answer is the history row's number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import BigInteger, Connection, Executable, func, insert, select

from ...errors import FSMError
from ...sql.clock import utc_now
from ...sql.code import NUMBER, NUMBERED
from ...sql.events import number
from ...sql.history import HistorySQL
from ..history import HistoryStatements
from ..ready import ReadyStatement, built_once
from .remembered import has_full_locks

__all__ = ["MySQLHistory", "MySQLLockingHistory"]


class MySQLLockingHistory(HistoryStatements):
    """For the locking read: two statements, and the read takes a lock.

    Under REPEATABLE READ, a plain read would not see the history rows that were committed after the snapshot.
    """

    def require_waiting(self, connection: Connection) -> None:
        if not has_full_locks(connection):
            raise FSMError(
                "find_by_token() would miss a COMMIT in flight: a locking read of this server, which is neither MySQL "
                "nor MariaDB, does not wait for it. Fire again with the same token, which waits, and returns the first "
                "outcome if there is one"
            )

    @built_once
    def read_number(self, history: HistorySQL) -> Executable:
        return select(history.next_sequence()).where(history.of_row()).with_for_update()


class MySQLHistory(MySQLLockingHistory):
    """One INSERT … SELECT, which remembers the number by ``LAST_INSERT_ID(expr)``."""

    def record(self, connection: Connection, history: HistorySQL, parameters: Mapping[str, Any]) -> int:
        answer, _ = self.ready_insert(history).answer(connection, parameters)
        if answer >= NUMBERED:
            return answer & NUMBER
        # A trigger or an AUTO_INCREMENT column of the history's table hides the number. OceanBase's INSERT reports none
        # within a transaction, and does not remember it either. The new history row has the row's highest number.
        return int(connection.execute(self.read_last(history), parameters).scalar_one())

    def record_statements(self, history: HistorySQL) -> list[Executable]:
        return [self.insert_numbered(history)]

    @built_once
    def ready_insert(self, history: HistorySQL) -> ReadyStatement:
        """:meth:`insert_numbered`, compiled once for each dialect."""
        return ReadyStatement(self.insert_numbered(history))

    @built_once
    def read_last(self, history: HistorySQL) -> Executable:
        """A read of the number of the row's last history row."""
        return select(func.max(history.table.c.sequence)).where(history.of_row())

    @built_once
    def insert_numbered(self, history: HistorySQL) -> Executable:
        """The INSERT of a history row with the next number of its row."""
        columns = history.table.c
        # The operators of bits are unsigned in every sql_mode; a subtraction is not.
        remembered = func.last_insert_id(history.next_sequence().bitwise_or(number(NUMBERED)), type_=BigInteger())
        sequence = remembered.bitwise_and(number(NUMBER))
        values = {**history.values(), columns.sequence: sequence, columns.at: utc_now()}
        rows = select(*values.values()).where(history.of_row())
        return insert(history.table).from_select(list(values), rows)
