"""A real driver's connection that raises the driver's own error, with a number that the test chooses, at a statement that it chooses.

Around the real thing, and not in its place: what is not chosen reaches the server, and before the error is raised the server is
brought to where it would be, its transaction rolled back or its connection closed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pymysql.err import error_map
from sqlalchemy import URL, Engine

from tests.servers import make_engine


@dataclass
class Throw:
    """The error *code* at the next statement that begins with *at*, or at ``COMMIT``.

    *before* is done to the driver's connection first.
    """

    code: int
    at: str
    before: Callable[[Any], None] = lambda connection: None
    is_done: bool = False


class Thrower:
    """Makes an engine on *url* whose connections do what `throw` says."""

    def __init__(self, url: URL, **options: Any) -> None:
        self.throw: Throw | None = None
        dialect = url.get_dialect()()
        self.driver = dialect.import_dbapi()
        arguments, keywords = dialect.create_connect_args(url)

        def connect() -> ThrowingConnection:
            return ThrowingConnection(self.driver.connect(*arguments, **keywords), self)

        self.engine: Engine = make_engine(url, creator=connect, **options)

    def pass_through(self, statement: str, connection: Any) -> None:
        """Raise, if this statement is the one.

        Raises: the driver's error.
        """
        throw = self.throw
        if throw is None or throw.is_done or not statement.upper().startswith(throw.at):
            return
        throw.is_done = True
        throw.before(connection)
        raise self.error(throw.code)

    def error(self, code: int) -> Exception:
        """The driver's own error of this number; PyMySQL keeps the table of classes, mysqlclient's is the same."""
        kind = getattr(self.driver, error_map.get(code, self.driver.OperationalError).__name__)
        error: Exception = kind(code, f"thrown in a test: error {code}")
        return error


class ThrowingConnection:
    """The driver's connection, and what else the dialect asks of it."""

    def __init__(self, real: Any, thrower: Thrower) -> None:
        self._real, self._thrower = real, thrower

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def cursor(self, *how: Any) -> ThrowingCursor:
        return ThrowingCursor(self._real.cursor(*how), self)

    def commit(self) -> None:
        self._thrower.pass_through("COMMIT", self._real)
        self._real.commit()


class ThrowingCursor:
    def __init__(self, real: Any, connection: ThrowingConnection) -> None:
        self._real, self._connection = real, connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def execute(self, statement: str, *parameters: Any) -> Any:
        if statement != "COMMIT":  # which SQLAlchemy sends when it sets a new connection's isolation level
            self._connection._thrower.pass_through(statement, self._connection._real)
        return self._real.execute(statement, *parameters)
