"""How each database answers "what did the event do?": one small contract, :class:`~.base.Backend`, and who fulfils it.

Nobody outside of this folder looks at a dialect's name: ask :func:`backend_of`.
"""

from __future__ import annotations

from sqlalchemy import Connection, Dialect

from .base import Backend
from .mysql import MySQLBackend
from .sqlite import SQLiteBackend

__all__ = ["BACKENDS", "EXECUTION_OPTION", "Backend", "backend_of", "backend_of_dialect"]

EXECUTION_OPTION = "fsm_backend"

BACKENDS: dict[str, Backend] = {
    "locking": Backend(),
    "mysql": MySQLBackend(),
    "mariadb": MySQLBackend(),
    "sqlite": SQLiteBackend(),
}


def backend_of_dialect(dialect: Dialect) -> Backend:
    """The backend that fits *dialect* by default; a database we do not know gets the locking read."""
    return BACKENDS.get(dialect.name, BACKENDS["locking"])


def backend_of(connection: Connection) -> Backend:
    """The backend for *connection*: its dialect's, or the one asked for by the execution option ``fsm_backend``.

    ``create_engine(url, execution_options={"fsm_backend": "locking"})`` chooses the locking read, for proxies and
    servers on which ``LAST_INSERT_ID(expr)`` does not work.

    Raises: ValueError for a backend of another name.
    """
    chosen = connection.get_execution_options().get(EXECUTION_OPTION)
    if chosen is None:
        return BACKENDS.get(connection.dialect.name) or BACKENDS["locking"]
    if chosen not in BACKENDS:
        known = ", ".join(map(repr, BACKENDS))
        raise ValueError(f"execution option {EXECUTION_OPTION}={chosen!r} names no backend; there are {known}")
    return BACKENDS[chosen]
