"""The state column as other libraries see it: a SQLAlchemy Enum, so a form has a choice and a schema its values."""

from __future__ import annotations

import enum
from typing import Any

from sqlalchemy import Enum

from ..machine import Machine

__all__ = ["Choice", "Choosable"]


class Choice(Enum):
    """The Enum of a machine's states, for libraries that read types. It makes no DDL and converts no value.

    ``enums`` are the names of the Enum class's members, or the states that are strings. ``enum_class`` is the Enum
    class, None for strings.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        states, stored = machine.states, [machine.stored(state) for state in machine.states]
        classes = {type(state) for state in states}
        (only,) = classes if len(classes) == 1 else (str,)
        # An Enum class of which the machine has some members only cannot be an Enum's class: it would offer them all.
        if issubclass(only, enum.Enum) and list(only) == list(states):
            super().__init__(only, create_constraint=False)
        else:
            super().__init__(*stored, create_constraint=False)

    def _set_parent(self, *_: Any, **__: Any) -> None:  # Any: SQLAlchemy's own arguments
        """Nothing: an Enum creates itself with its table, and here that is the work of StateType."""

    _set_table = _set_parent


class Choosable:
    """The attributes of :class:`sqlalchemy.Enum` on the type of a state column."""

    choice: Choice

    @property
    def enums(self) -> list[str]:
        """The choices: the names of the Enum's members, or the strings."""
        return list(self.choice.enums)

    @property
    def enum_class(self) -> type[enum.Enum] | None:
        """The Enum class of the machine; None when the states are strings."""
        return self.choice.enum_class

    @property
    def python_type(self) -> type[Any]:  # Any: that of an Enum class
        """The type of a loaded state: the Enum class of the machine, or ``str``."""
        return type(self.choice.machine.initial)
