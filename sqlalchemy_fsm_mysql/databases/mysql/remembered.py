"""Whether LAST_INSERT_ID() can be read again within the statement that sets it.

MySQL and MariaDB evaluate ``LAST_INSERT_ID()`` for each row: after ``LAST_INSERT_ID(expr)`` in the same statement it is
the value of *expr*. OceanBase evaluates it once, before the statement, and gives the value of an earlier one. There
a guarded event would take the branch of another fire, so the library moves such rows by other statements.
"""

from __future__ import annotations

from typing import Final
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Dialect, text

__all__ = ["is_remembered_at_once"]

# Two rows: the answer is right for both only if the function is evaluated for each.
_PROBE = text("SELECT LAST_INSERT_ID(n) = LAST_INSERT_ID() FROM (SELECT 1 AS n UNION ALL SELECT 2) AS fsm_probe")
# The server's answer, asked once for each dialect, and so for each engine.
_ANSWERS: Final[WeakKeyDictionary[Dialect, bool]] = WeakKeyDictionary()


def is_remembered_at_once(connection: Connection) -> bool:
    """Whether the server of *connection* can read a remembered value within the same statement."""
    answer = _ANSWERS.get(connection.dialect)
    if answer is None:
        answer = _ANSWERS[connection.dialect] = all(connection.scalars(_PROBE).all())
    return answer
