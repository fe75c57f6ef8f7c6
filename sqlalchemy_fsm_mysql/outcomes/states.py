"""The types of the states in an outcome, for type checkers: those of the model's own state column.

The state in an outcome is a member of the model's enum class, or a string, as ``Mapped[S]`` declares it. A checker
finds S in one of three places, in this order: ``Stateful[Events, S]``; the attribute ``state: Mapped[S]``; else it is
any string or member.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from ..errors.texts import State
from .schema import Data

if TYPE_CHECKING:
    from ..orm.stateful import Stateful

__all__ = ["Ends", "Seen", "Undeclared"]

S = TypeVar("S", bound="str | enum.Enum")
S_co = TypeVar("S_co", covariant=True)
M_co = TypeVar("M_co", covariant=True)


class Undeclared:
    """The states of ``Stateful`` without its second parameter: the model's attribute ``state`` has their type."""


if TYPE_CHECKING:
    from sqlalchemy.orm import Mapped

    class HasMapped(Protocol[S_co]):
        """A model with ``state: Mapped[S]``, as pyright sees it: the declared type."""

        @property
        def state(self) -> Mapped[S_co]: ...

    class HasState(Protocol[S_co]):
        """The same, as mypy sees it: the type of an instance's attribute."""

        @property
        def state(self) -> S_co: ...

    class StateOf:
        """An attribute of an outcome: a state of the outcome's model."""

        @overload
        def __get__(self, outcome: Data[Stateful[Any, S, Any]], owner: type[object]) -> S: ...
        @overload
        def __get__(self, outcome: Data[HasMapped[S]], owner: type[object]) -> S: ...
        # mypy takes the two protocols for the same.
        @overload
        def __get__(self, outcome: Data[HasState[S]], owner: type[object]) -> S: ...  # type: ignore[overload-cannot-match]
        @overload
        def __get__(self, outcome: Data[object], owner: type[object]) -> State: ...
        def __get__(self, outcome: object, owner: type[object]) -> object: ...

        def __set__(self, outcome: object, state: State) -> None: ...

    class Ends(Data[M_co]):
        """An outcome with the two ends of a transition."""

        source: StateOf = StateOf()
        target: StateOf = StateOf()

    class Seen(Data[M_co]):
        """An outcome with the state that was observed."""

        state: StateOf = StateOf()

else:

    class Ends(Data[M_co]):
        """An outcome with the two ends of a transition."""

        __slots__ = ()

    class Seen(Data[M_co]):
        """An outcome with the state that was observed."""

        __slots__ = ()
