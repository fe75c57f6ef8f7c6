"""Refuses columns that cannot be a state column, and effects that bypass another machine of the row.

Both would move the row without the identity map, the history or the hooks. So they are refused when the class is
mapped, or when the event is built.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from sqlalchemy import Column, ColumnElement
from sqlalchemy.orm import Mapper

from ..core.target import EXTRAS, Extras
from ..errors import InvalidMachine
from ..errors.texts import shown
from ..sql.exact import bound_state
from .column import StateType

__all__ = ["other_state", "require_place", "require_unset"]


def require_place(mapper: Mapper[Any], attribute: str, column: Column[Any]) -> None:
    """Check that *column*, which *mapper* maps as *attribute*, can be moved by events.

    Raises: InvalidMachine with every problem.
    """
    problems = [f"{mapper.class_.__name__}.{attribute} {problem}" for problem in _problems(mapper, column)]
    if problems:
        raise InvalidMachine(problems, column.type.machine.name)  # type: ignore[attr-defined]  # a StateType


def _problems(mapper: Mapper[Any], column: Column[Any]) -> Iterator[str]:
    if column in mapper.primary_key:
        yield (
            "is a part of the primary key, so a fire would change the row's identity: map another key, as by "
            '__mapper_args__ = {"primary_key": [id]} where the table needs the state in its own'
        )
    if mapper.polymorphic_on is column:
        yield "is polymorphic_on, so a fire would change the row's class: use another column as the discriminator"
    if column is mapper.version_id_col:
        yield "is version_id_col: use another column as the version"
    if column.onupdate is not None or column.server_onupdate is not None:
        yield "has an onupdate, which would bypass the machine: declare an event"
    if column.computed is not None or column.identity is not None:
        yield "is computed by the database, so no event can write it"
    yield from _default_problems(column)


def _default_problems(column: Column[Any]) -> Iterator[str]:
    type_ = cast("StateType", column.type)
    machine = type_.machine
    for name, default in (("default", column.default), ("server_default", column.server_default)):
        given = getattr(default, "arg", None)
        # The value of a function or a SQL expression is only known at the INSERT.
        is_state = isinstance(given, str) or getattr(default, "is_scalar", False)
        takes = type_.stored_states if name == "server_default" else machine.stored_states
        is_declared = machine.declares(given) and (name == "default" or type_.numbers is None)
        if is_state and given is not None and given not in takes and not is_declared:
            states = ", ".join(map(repr, takes))
            yield f"has the {name} {shown(given)}, which is not a state of its machine; its states are {states}"


def other_state(column: Column[Any], value: Any) -> ColumnElement[Any] | None:
    """The SQL for *value* when an effect sets *column*, the state of another machine; None when it is no such column.

    Raises: ValueError for an undeclared state; and when that machine has a history, hooks, or effects of borders,
    because these only follow from its own events.
    """
    if not isinstance(column.type, StateType):
        return None
    machine = column.type.machine
    extras: Extras | None = column.info.get(EXTRAS)
    if extras is not None and extras.column is column:
        bypassed = [
            *(["history"] if extras.history is not None else []),
            *(["hooks"] if extras.hooks else []),
            *(["effects of on_enter and on_exit"] if machine.borders.effects else []),
            *(["StateSinceColumn"] if extras.since is not None else []),
        ]
        if bypassed:
            raise ValueError(
                f"sets {column.name!r}, the state of another machine, without its {' and '.join(bypassed)}: fire an"
                " event of that machine instead, in the same transaction, as by an on_moved hook of this one"
            )
        extras.is_set_elsewhere = True
    if isinstance(getattr(value, "type", None), StateType) and value.type.machine is machine:
        return None
    if not machine.declares(value):
        known = ", ".join(map(repr, machine.stored_states))
        raise ValueError(f"sets {column.name!r} to {shown(value)}; its own machine declares {known}")
    return bound_state(column, machine.stored(value))


def require_unset(extras: Extras, what: str) -> None:
    """Check that no effect of another machine sets the state that is to get *what*, a history or a hook.

    Raises: InvalidMachine.
    """
    if extras.is_set_elsewhere:
        name = f"{extras.column.table.name}.{extras.column.name}"
        problem = (
            f"{name} gets {what}, which an effect of another machine bypasses: declare {what} before the first"
            " fire, and fire an event of this machine instead of that effect"
        )
        raise InvalidMachine([problem])
