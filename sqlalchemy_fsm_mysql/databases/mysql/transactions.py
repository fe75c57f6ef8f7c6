"""The transactions of MySQL and MariaDB."""

from __future__ import annotations

from typing import ClassVar

from sqlalchemy import Connection, Table, TextClause, text
from sqlalchemy.exc import DBAPIError

from ..transactions import Transactions

__all__ = ["MariaDBTransactions", "MySQLTransactions"]

# Enough to begin with; a table that has more of them is in use by the whole application.
_MOST_USERS = 3

_LOCKS = text(
    "SELECT DISTINCT t.PROCESSLIST_ID, t.PROCESSLIST_USER, t.PROCESSLIST_HOST, FLOOR(e.TIMER_WAIT / 1000000000000)"
    " FROM performance_schema.metadata_locks AS l"
    " JOIN performance_schema.threads AS t ON t.THREAD_ID = l.OWNER_THREAD_ID"
    " LEFT JOIN performance_schema.events_transactions_current AS e ON e.THREAD_ID = t.THREAD_ID AND e.STATE = 'ACTIVE'"
    " WHERE l.OBJECT_TYPE = 'TABLE' AND l.OBJECT_SCHEMA = COALESCE(:schema, DATABASE()) AND l.OBJECT_NAME = :table"
    " AND l.LOCK_STATUS = 'GRANTED' AND t.PROCESSLIST_ID <> CONNECTION_ID()"
    " ORDER BY 4 DESC LIMIT :most"
)
# MariaDB shows who has locked a table only with the plugin METADATA_LOCK_INFO, which is not loaded by default.
_OPEN = text(
    "SELECT p.ID, p.USER, p.HOST, TIMESTAMPDIFF(SECOND, x.trx_started, NOW())"
    " FROM information_schema.INNODB_TRX AS x JOIN information_schema.PROCESSLIST AS p ON p.ID = x.trx_mysql_thread_id"
    " WHERE p.ID <> CONNECTION_ID()"
    " ORDER BY p.DB = COALESCE(:schema, DATABASE()) DESC, x.trx_started LIMIT :most"
)


class MySQLTransactions(Transactions):
    """A statement that fails leaves the transaction alive, unless the server says otherwise by the error's number."""

    ends_on_any_error = False

    _USERS: ClassVar[tuple[str, TextClause]] = ("", _LOCKS)

    def ends_on_lock_wait(self, connection: Connection) -> bool:
        try:
            return bool(connection.execute(text("SELECT @@innodb_rollback_on_timeout")).scalar())
        except DBAPIError:
            return False

    def users_of(self, connection: Connection, table: Table) -> list[str]:
        how_sure, query = self._USERS
        where = {"schema": connection.schema_for_object(table), "table": table.name, "most": _MOST_USERS}
        try:
            found = connection.execute(query, where).all()
        except DBAPIError:  # without SELECT on performance_schema, or the privilege PROCESS
            return []
        return [
            f"{how_sure}connection {number} of {user}@{host}{'' if age is None else f', open for {age} s'}"
            for number, user, host, age in found
        ]


class MariaDBTransactions(MySQLTransactions):
    """As MySQL's; the table that a transaction uses is not shown, so all open transactions are named, as a guess."""

    _USERS = ("perhaps ", _OPEN)
