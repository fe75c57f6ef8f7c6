"""How statements write and compare states: exactly, whatever the storage and the collation of their column.

A column with ``storage="integer"`` has a number for each state. All other code deals with the states' names, and this
module writes the numbers in their place.

``CASE state WHEN 'paid'`` follows the column's collation, in which 'Paid', 'paid ' and 'pàid' may be equal to 'paid'. A
column that this library creates as an ENUM has a binary collation. A VARCHAR is often older than the machine, and has
any collation. The text of these expressions is the database's: `databases/syntax.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Integer, String, and_, case, literal, literal_column
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.visitors import InternalTraversal
from sqlalchemy.types import TypeEngine

__all__ = [
    "DefinedText",
    "ExactName",
    "bound_state",
    "defined_state",
    "exact_text",
    "needs_no_quoting",
    "recorded",
    "state_literal",
    "storable",
    "stored_text",
    "written_state",
]

_NEEDS_NO_QUOTING = re.compile(r"[A-Za-z0-9_ .:,+/-]*")


class exact_text(FunctionElement[str]):  # noqa: N801 - a SQL function, written like func.now
    """The text of a column, for comparison with `ExactName`."""

    type: TypeEngine[Any] = String()
    inherit_cache: bool | None = True
    name = "exact_text"


class ExactName(ColumnElement[str]):
    """The name of a state, for comparison with `exact_text`."""

    type: TypeEngine[Any] = String()
    inherit_cache: bool | None = True
    _traverse_internals = [("name", InternalTraversal.dp_string)]  # noqa: RUF012 - as SQLAlchemy's elements have it

    def __init__(self, name: str) -> None:
        self.name = name


class DefinedText(ColumnElement[str]):
    """The name of a state as a literal in DDL, which the database keeps, and shows again to any connection."""

    type: TypeEngine[Any] = String()
    inherit_cache = False

    def __init__(self, name: str) -> None:
        self.name = name


def defined_state(state: str, *, is_number: bool, is_script: bool) -> ColumnElement[Any]:
    """The stored value *state* in the CHECK of a column: a number, or a text, in a script as its client sends it."""
    if is_number:
        return literal_column(str(int(state)), Integer())
    return literal(state, String()) if is_script else DefinedText(state)


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


def name_in(state: ColumnElement[Any], name: str) -> ColumnElement[Any]:
    """The name of a state as a WHEN of a CASE over the column *state*."""
    return ExactName(name) if folds(state) else written_state(state, name)


def numbers_of(state: ColumnElement[Any]) -> Mapping[str, int] | None:
    """The number of each state's name in the column *state*; None for a column of texts."""
    numbers: Mapping[str, int] | None = getattr(state.type, "numbers", None)
    return numbers


def storable(state: ColumnElement[Any], names: Iterable[str]) -> list[str]:
    """Those of *names* that the column *state* can store: an alias, which is another name, has no number."""
    numbers = numbers_of(state)
    return [name for name in names if numbers is None or name in numbers]


def stored_text(state: ColumnElement[Any], name: str) -> str:
    """The value of the state *name* in the column *state*, as a text: its number, or the name itself."""
    numbers = numbers_of(state)
    return name if numbers is None or name not in numbers else str(numbers[name])


def written_state(state: ColumnElement[Any], name: str) -> ColumnElement[Any]:
    """The state *name* as a value of the column *state* in a cached statement; see :func:`state_literal`."""
    numbers = numbers_of(state)
    return state_literal(name) if numbers is None else literal_column(str(numbers[name]), Integer())


def bound_state(state: ColumnElement[Any], name: str) -> ColumnElement[Any]:
    """The state *name* as a value of the column *state*, as a bound parameter where it is a text."""
    return literal(name, String()) if numbers_of(state) is None else written_state(state, name)


def recorded(state: ColumnElement[Any], value: ColumnElement[Any]) -> ColumnElement[Any]:
    """*value*, a state of the column *state*, as a history row has it: by its name."""
    numbers = numbers_of(state)
    if numbers is None:
        return value
    return case(*((written_state(state, name), state_literal(name)) for name in numbers), value=value, else_=None)
