"""``StateMapped``: the annotation of a state attribute that shows ``Order.state.can(…)`` to type checkers."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, overload

from sqlalchemy.orm import InstrumentedAttribute, Mapped

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

__all__ = ["StateAttribute", "StateMapped"]

S = TypeVar("S")

if TYPE_CHECKING:

    class StateAttribute(InstrumentedAttribute[S]):
        """``Order.state`` of a model with ``state: StateMapped[S]``."""

        def can(self, event: str, /, **payload: object) -> ColumnElement[bool]: ...

        def after(self, event: str, /, **payload: object) -> ColumnElement[S]: ...

        def due(self, event: str, /) -> ColumnElement[bool]: ...

        def in_group(self, group: str, /) -> ColumnElement[bool]: ...

    class StateMapped(Mapped[S]):
        """``Mapped[S]`` for a state column. With it, type checkers know ``can``, ``after``, ``due`` and ``in_group``.

        For example ``state: StateMapped[Status] = StateMachineColumn(machine)``. At run time it is ``Mapped``. With
        ``Mapped`` the methods work as well, but type checkers regard their results as Any.
        """

        @overload
        def __get__(self, instance: None, owner: object) -> StateAttribute[S]: ...
        @overload
        def __get__(self, instance: object, owner: object) -> S: ...
        def __get__(self, instance: object, owner: object) -> object: ...

else:
    StateAttribute = InstrumentedAttribute

    class StateMapped(Mapped[S]):
        """``Mapped[S]`` for a state column. With it, type checkers know ``can``, ``after``, ``due`` and ``in_group``.

        For example ``state: StateMapped[Status] = StateMachineColumn(machine)``. At run time it is ``Mapped``. With
        ``Mapped`` the methods work as well, but type checkers regard their results as Any.
        """
