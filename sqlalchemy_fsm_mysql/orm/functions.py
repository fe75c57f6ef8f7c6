"""SQL functions that return one of their arguments: for a state column, the result has the column's type.

SQLAlchemy gives ``func.max()`` and ``func.coalesce()`` the type of their arguments, but not the functions listed in
``NAMES``. So ``func.nullif(Order.state, "new")`` would be text, and bytes with some drivers. The functions here have
the type of a state column among their arguments; without one, they are SQLAlchemy's untyped functions.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import BindParameter, ColumnElement, literal
from sqlalchemy.sql import coercions, roles
from sqlalchemy.sql.functions import GenericFunction, _registry

from .column import StateType

__all__ = ["NAMES"]

NAMES: Final = ("any_value", "first_value", "greatest", "if", "ifnull", "lag", "last_value", "lead", "least", "nullif")


class _OfArguments(GenericFunction[Any]):
    """A function whose result is one of its arguments."""

    _register = False
    inherit_cache = True

    def __init__(self, *arguments: Any, **options: Any) -> None:
        parsed: list[Any] = [
            coercions.expect(roles.ExpressionElementRole, one, name=self.name, apply_propagate_attrs=self)
            for one in arguments
        ]
        type_ = next((one.type for one in parsed if isinstance(one.type, StateType)), None)
        if type_ is not None:
            parsed = [_as_state(one, type_) for one in parsed]
            options.setdefault("type_", type_)
        super().__init__(*parsed, **options)


def _as_state(argument: ColumnElement[Any], type_: StateType) -> ColumnElement[Any]:
    """*argument* with the type of a state if it is a literal state, such as a member of an Enum."""
    if isinstance(argument, BindParameter) and argument.unique and type_.machine.declares(argument.value):
        return literal(argument.value, type_)
    return argument


# An application may have registered a function of the same name; that one stays.
for _name in NAMES:
    if _name not in _registry["_default"]:
        type(
            _name, (_OfArguments,), {"__module__": __name__, "name": _name, "identifier": _name, "inherit_cache": True}
        )
