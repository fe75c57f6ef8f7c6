"""The transactions of MySQL and MariaDB."""

from __future__ import annotations

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from ..transactions import Transactions

__all__ = ["MySQLTransactions"]


class MySQLTransactions(Transactions):
    """A statement that fails leaves the transaction alive, unless the server says otherwise by the error's number."""

    ends_on_any_error = False

    def ends_on_lock_wait(self, connection: Connection) -> bool:
        try:
            return bool(connection.execute(text("SELECT @@innodb_rollback_on_timeout")).scalar())
        except DBAPIError:
            return False
