"""Questions to a server that speaks MySQL's protocol, each asked once for each engine; never for its name.

MySQL and MariaDB evaluate ``LAST_INSERT_ID()`` for each row: after ``LAST_INSERT_ID(expr)`` in the same statement it is
the value of *expr*. OceanBase evaluates it once, before the statement, and gives the value of an earlier one. There
a guarded event would take the branch of another fire, so the library moves such rows by other statements.

OceanBase also rewrites EXISTS, IN and aggregates into joins that lock nothing, and its locking reads pass over rows
that are not committed. No statement of one connection shows that. So the server is asked whether it knows ``FOR
SHARE``: MySQL and the proxies before it do, and MariaDB, which does not, has answered the first question.
"""

from __future__ import annotations

from typing import Final
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Dialect, text
from sqlalchemy.exc import DBAPIError, NotSupportedError, ProgrammingError

__all__ = ["has_full_locks", "is_remembered_at_once"]

# Two rows: the answer is right for both only if the function is evaluated for each.
_REMEMBERED: Final = text(
    "SELECT LAST_INSERT_ID(n) = LAST_INSERT_ID() FROM (SELECT 1 AS n UNION ALL SELECT 2) AS fsm_probe"
)
_SHARED: Final = text("SELECT 1 AS n FROM (SELECT 1) AS fsm_probe FOR SHARE")
# The server's answers, by dialect, and so by engine.
_IS_REMEMBERED: Final[WeakKeyDictionary[Dialect, bool]] = WeakKeyDictionary()
_HAS_FULL_LOCKS: Final[WeakKeyDictionary[Dialect, bool]] = WeakKeyDictionary()


def is_remembered_at_once(connection: Connection) -> bool:
    """Whether the server of *connection* can read a remembered value within the same statement."""
    answer = _IS_REMEMBERED.get(connection.dialect)
    if answer is None:
        answer = _IS_REMEMBERED[connection.dialect] = all(connection.scalars(_REMEMBERED).all())
    return answer


def has_full_locks(connection: Connection) -> bool:
    """Whether the server of *connection* locks the rows of every form of subquery, and waits for those in flight."""
    answer = _HAS_FULL_LOCKS.get(connection.dialect)
    if answer is not None:
        return answer
    is_certain = True
    try:
        answer = is_remembered_at_once(connection)
    except DBAPIError as error:  # a proxy may not take the question
        if error.connection_invalidated:
            raise
        is_certain = answer = False
    answer = answer or _is_known(connection)
    if answer or is_certain:
        _HAS_FULL_LOCKS[connection.dialect] = answer
    return answer


def _is_known(connection: Connection) -> bool:
    try:
        connection.execute(_SHARED).all()
    except (NotSupportedError, ProgrammingError):
        return False
    return True
