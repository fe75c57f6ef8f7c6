"""Comparing states byte by byte, whatever the collation of their column.

``CASE state WHEN 'paid'`` follows the column's collation, in which 'Paid', 'paid ' and 'pàid' may be equal to 'paid'. A
column that this library creates as an ENUM has a binary collation. A VARCHAR is often older than the machine, and has
any collation. The text of these expressions is the database's: `databases/syntax.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, String, and_, literal, literal_column
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.visitors import InternalTraversal

__all__ = ["ExactName", "exact_text", "needs_no_quoting", "state_literal"]

_NEEDS_NO_QUOTING = re.compile(r"[A-Za-z0-9_ .:,+/-]*")


class exact_text(FunctionElement[str]):  # noqa: N801 - a SQL function, written like func.now
    """The text of a column, for comparison with `ExactName`."""

    type = String()
    inherit_cache = True
    name = "exact_text"


class ExactName(ColumnElement[str]):
    """The name of a state, for comparison with `exact_text`."""

    type = String()
    inherit_cache = True
    _traverse_internals = [("name", InternalTraversal.dp_string)]  # noqa: RUF012 - as SQLAlchemy's elements have it

    def __init__(self, name: str) -> None:
        self.name = name


def needs_no_quoting(name: str) -> bool:
    """Whether *name* in quotes is the same literal for every server, sql_mode and character set."""
    return _NEEDS_NO_QUOTING.fullmatch(name) is not None


def state_literal(name: str) -> ColumnElement[str]:
    """The stored name of a declared state in a cached statement: a literal when nothing in it needs quoting.

    With literals, the row's key is the only parameter of a fire, whatever the number of states. A name with a quote, a
    backslash or a percent sign is bound, because its literal would depend on the server's sql_mode.

    >>> print(state_literal("Running"))
    'Running'
    """
    if needs_no_quoting(name):
        return literal_column(f"'{name}'", String())
    return literal(name, String())


def folds(state: ColumnElement[Any]) -> bool:
    """Whether two texts may be equal in the collation of the column *state*; not in that of an ENUM of ours."""
    return getattr(state.type, "storage", "") == "varchar"


def compared(state: ColumnElement[Any]) -> ColumnElement[Any]:
    """The column *state* as the subject of a CASE whose WHENs are made by :func:`name_in`."""
    return exact_text(state) if folds(state) else state


def only_exactly(
    criterion: ColumnElement[bool], state: ColumnElement[Any], names: Iterable[str]
) -> ColumnElement[bool]:
    """*criterion* over the column *state*, without rows whose text only the collation finds equal to one of *names*.

    The criterion itself is kept, because it can use an index on the state.
    """
    if not folds(state):
        return criterion
    return and_(criterion, exact_text(state).in_([ExactName(name) for name in names]))


def name_in(state: ColumnElement[Any], name: str) -> ColumnElement[str]:
    """The name of a state as a WHEN of a CASE over the column *state*."""
    return ExactName(name) if folds(state) else state_literal(name)
