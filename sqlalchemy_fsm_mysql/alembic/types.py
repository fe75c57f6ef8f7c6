"""The types of revisions: the states of a column at that time, whatever the machine declares today."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Dialect, String, TypeDecorator, event
from sqlalchemy.types import TypeEngine

from ..databases import types_of
from ..orm.column import Storage, add_check

__all__ = ["States"]


class States(TypeDecorator[str]):
    """A state column's type with its states written out, for ``op.create_table`` and ``op.add_column``.

    It makes what ``StateMachineColumn`` makes of a machine: ENUM on MySQL and MariaDB, VARCHAR with a named CHECK with
    ``storage="varchar"`` and on other databases. With ``storage="integer"`` the states are numbers.

    >>> States("new", "paid"), States(1, 2, storage="integer")
    (States('new', 'paid'), States(1, 2, storage='integer'))
    """

    states: tuple[str | int, ...]
    stored_states: tuple[str, ...]

    # Any: as TypeDecorator declares it.
    impl: TypeEngine[Any] | type[TypeEngine[Any]] = String
    cache_ok: bool | None = True

    def __init__(self, *states: str | int, storage: Storage = "enum") -> None:
        wanted: type[Any] = int if storage == "integer" else str
        if not states or not all(isinstance(state, wanted) for state in states):
            raise TypeError(f"States takes {'numbers' if wanted is int else 'the names of states, as strings'}")
        self.states, self.stored_states, self.storage = states, tuple(map(str, states)), storage
        super().__init__(max(map(len, self.stored_states)))
        event.listen(self, "after_parent_attach", add_check)

    def copy(self, **_: object) -> States:
        return States(*self.states, storage=self.storage)

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:  # Any: as TypeDecorator declares it
        type_ = types_of(dialect).state(dialect, self.stored_states, self.storage)
        return dialect.type_descriptor(type_)

    def __repr__(self) -> str:
        storage = "" if self.storage == "enum" else f", storage={self.storage!r}"
        return f"States({', '.join(map(repr, self.states))}{storage})"
