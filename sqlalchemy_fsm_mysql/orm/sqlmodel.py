"""``StateField``: a state column on a model of SQLModel, which takes a type, and no column of SQLAlchemy's ORM.

As in::

    class Order(Stateful, SQLModel, table=True):
        id: int | None = Field(default=None, primary_key=True)
        state: str = StateField(machine)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors.texts import State, shown
from ..machine import AnyState, Machine
from .column import StateType, Storage

__all__ = ["StateField"]


def StateField(  # noqa: N802 - reads as SQLModel's Field
    machine: Machine,
    *,
    storage: Storage = "enum",
    protected: bool = True,
    enforced: bool = False,
    initial_states: Iterable[State] | AnyState = (),
    one_packet: bool = False,
    sa_column_kwargs: Mapping[str, object] | None = None,
    **options: object,
) -> Any:  # Any: as SQLModel's Field, which stands for a value of the annotated type
    """A SQLModel ``Field`` that stores the state of *machine*. A new object is in the machine's initial state.

    The arguments are those of ``StateMachineColumn``. All other *options* go to ``Field``.

    Raises: TypeError when *machine* is not a Machine; as ``StateMachineColumn``.
    """
    from sqlmodel import Field

    if not isinstance(machine, Machine):
        raise TypeError(f"StateField takes a Machine first, not {shown(machine)}")
    type_ = StateType(
        machine,
        storage=storage,
        protected=protected,
        enforced=enforced,
        initial_states=initial_states,
        one_packet=one_packet,
    )
    field: Any = Field  # its overloads know no instance of a type, which it takes all the same
    return field(
        **{"default": machine.initial, "nullable": False, **options},
        sa_type=type_,
        sa_column_kwargs={"server_default": type_.stored_value(machine.initial), **(sa_column_kwargs or {})},
    )
