"""Several statements as one transaction, on a connection in AUTOCOMMIT too; and giving a transaction up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from sqlalchemy import Connection, Engine, Table
from sqlalchemy.exc import InvalidRequestError

__all__ = ["Transactions", "at_level", "is_autocommit"]

# In the info of a connection in AUTOCOMMIT, while it has a transaction of ours.
_IS_OPEN = "fsm_is_open"


class Transactions:
    """The transactions of a database with row locks."""

    begin: ClassVar[str] = "START TRANSACTION"
    ends_on_any_error: ClassVar[bool] = True
    """Whether any failed statement ends the transaction, back to the last savepoint.

    PostgreSQL does so: COMMIT then rolls back, and reports no error. Of an unknown database the same is assumed.
    """

    @contextmanager
    def together(self, connection: Connection) -> Iterator[None]:
        """Run the block's statements in one transaction; the caller's own, unless *connection* is in AUTOCOMMIT.

        A block within a block joins its transaction: the servers commit an open one when another begins.
        """
        if not is_autocommit(connection) or self.is_together(connection):
            yield
            return
        info = connection.info
        info[_IS_OPEN] = True
        try:
            connection.exec_driver_sql(self.begin)
            try:
                yield
            except BaseException:
                if not connection.invalidated:
                    connection.exec_driver_sql("ROLLBACK")
                raise
            connection.exec_driver_sql("COMMIT")
        finally:
            del info[_IS_OPEN]

    def is_together(self, connection: Connection) -> bool:
        """Whether a block of :meth:`together` has begun a transaction on *connection*, which is in AUTOCOMMIT."""
        return bool(connection.info.get(_IS_OPEN))

    def ends_on_lock_wait(self, connection: Connection) -> bool:
        """Whether the server ends the whole transaction when a statement has waited too long for a lock."""
        return False

    def users_of(self, connection: Connection, table: Table) -> list[str]:
        """The connections of other transactions that DDL on *table* waits for, described for people.

        Empty where the account may not see them, and in a database that does not show them.
        """
        return []

    def abandon(self, connection: Connection) -> None:
        """Make sure that nothing of this transaction is committed: every later statement needs a rollback first."""
        connection.invalidate()


def is_autocommit(connection: Connection | Engine) -> bool:
    """Whether every statement on *connection* commits by itself."""
    level = connection.get_execution_options().get("isolation_level")
    if level is None:  # SQLAlchemy has no public name for the level that create_engine() was given
        level = getattr(connection.dialect, "_on_connect_isolation_level", None)
    if level is not None:
        return bool(level == "AUTOCOMMIT")
    if isinstance(connection, Engine) or connection.invalidated:
        return False
    # connect_args={"autocommit": True} goes past SQLAlchemy; mysqlclient and PyMySQL answer without asking the server.
    asked = getattr(connection.connection.dbapi_connection, "get_autocommit", None)
    return bool(asked()) if asked is not None else _begins_no_transaction(connection.connection.driver_connection)


def at_level(engine: Engine, level: str) -> Engine:
    """*engine* with the isolation *level*: the same pool, options and listeners."""
    try:
        return engine.execution_options(isolation_level=level)
    except InvalidRequestError:
        # SQLAlchemy before 2.0.31 sets the level of an engine of execution_options() in a listener, and refuses
        # listeners on an engine that is made of such a one.
        options = engine.get_execution_options()
        while hasattr(engine, "_proxied"):
            engine = engine._proxied  # noqa: SLF001 - there is no public way from it to the engine
        return engine.execution_options(**{**options, "isolation_level": level})


def _begins_no_transaction(driver: Any) -> bool:
    """Whether *driver* is sqlite3's with ``isolation_level=None``, and no transaction is open on it."""
    if not hasattr(driver, "isolation_level") or not hasattr(driver, "in_transaction"):
        return False
    is_off = driver.isolation_level is None or getattr(driver, "autocommit", None) is True  # that from Python 3.12 on
    return is_off and not driver.in_transaction
