"""The methods that a declared state column gives its model, and the mixin that shows them to type checkers.

As in :mod:`.calls`, the modules that do their work are imported at the first call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from sqlalchemy import event as events
from sqlalchemy.orm import Mapper

from ..errors import InvalidMachine
from . import (
    functions,  # noqa: F401 - at its import, it makes the functions known to SQLAlchemy
    listening,  # noqa: F401 - at its import, it listens for the ends of sessions' transactions
)
from .calls import available_events, can_fire, of_instance
from .column import StateColumn, StateMachineColumn, StateType
from .mapped import equip

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from typing_extensions import TypeVar as TypeVarWithDefault

    from ..outcomes import Moved, Refused
    from ..outcomes.states import Undeclared
    from .awaited import Later
    from .history import TransitionHistory
    from .sessions import AnySession

    E = TypeVarWithDefault("E", bound=str, default=str)
    T = TypeVarWithDefault("T", default=Undeclared)
    H = TypeVarWithDefault("H", default="TransitionHistory")

    class _Parameters(Generic[E, T, H]): ...

else:
    E, T, H = TypeVar("E"), TypeVar("T"), TypeVar("H")

    class _Parameters:
        # The parameters are for type checkers. Without typing.Generic, any number of them can be left out, and the
        # metaclass of the model (pydantic's under SQLModel) finds a plain class.
        def __class_getitem__(cls, parameters: object) -> type:
            return cls


S = TypeVar("S")

__all__ = ["StateMachineColumn", "StateType", "Stateful"]


class Stateful(_Parameters[E, T, H]):
    """A mixin with the methods of a model that has a :func:`StateMachineColumn`.

    The model has these methods even without the mixin. With it, type checkers know them. Its three parameters are for
    type checkers, and each has a default:

    - The names of the events: ``Stateful[Literal["Pay", "Ship"]]``, or ``Stateful[Events]`` with a ``str`` Enum. Type
      checkers then check the names. The default is ``str``.
    - The type of the states in outcomes: ``Stateful[str, Status]``. By default it is the type of the model's attribute
      ``state``, so it is only needed for an attribute of another name, or for several machines.
    - The class of the history: ``Stateful[str, Status, "OrderTransition"]``. By default ``history()`` returns a list of
      :class:`TransitionHistory`.
    """

    @overload
    def fire(
        self: S,
        event: E,
        session: AnySession | None = ...,
        /,
        *,
        column: object = ...,
        actor: str | None = ...,
        details: object = ...,
        token: str | None = ...,
        **payload: object,
    ) -> Moved[S]: ...
    @overload
    def fire(
        self: S,
        event: E,
        session: AsyncSession,
        /,
        *,
        column: object = ...,
        actor: str | None = ...,
        details: object = ...,
        token: str | None = ...,
        **payload: object,
    ) -> Later[Moved[S]]: ...
    def fire(
        self,
        event: E,
        session: Any = None,
        /,
        *,
        column: Any = None,
        actor: str | None = None,
        details: Any = None,
        token: str | None = None,
        **payload: Any,
    ) -> Any:
        """Fire *event* on this row by one atomic UPDATE. The row in the database decides, not the state in memory.

        Returns: a :class:`Moved`. Nothing is committed.

        *session* defaults to that of the instance. With an ``AsyncSession``, await the call. *column* names the machine
        when two of the model have the event. *payload* are the values for the event's guards and effects.

        Raises: UnknownEvent and TypeError before any SQL; InstanceStateError; TransitionNotAllowed with the row's
        state, GuardNotSatisfied, RowNotFound, UnknownState; UniqueViolation, TypeError and ValueError for a value that
        a unique key or a column refuses; LockTimeout, TransactionAborted and NotWritable of the server.
        """
        return of_instance()("fire", self, event, session, column, payload, actor, details, token)

    @overload
    def try_fire(
        self: S,
        event: E,
        session: AnySession | None = ...,
        /,
        *,
        column: object = ...,
        actor: str | None = ...,
        details: object = ...,
        token: str | None = ...,
        **payload: object,
    ) -> Moved[S] | Refused[S]: ...
    @overload
    def try_fire(
        self: S,
        event: E,
        session: AsyncSession,
        /,
        *,
        column: object = ...,
        actor: str | None = ...,
        details: object = ...,
        token: str | None = ...,
        **payload: object,
    ) -> Later[Moved[S] | Refused[S]]: ...
    def try_fire(
        self,
        event: E,
        session: Any = None,
        /,
        *,
        column: Any = None,
        actor: str | None = None,
        details: Any = None,
        token: str | None = None,
        **payload: Any,
    ) -> Any:
        """Fire *event* as :meth:`fire`, and return a refusal as a value.

        Returns: a :class:`Moved`, which is true, or a :class:`Refused`, which is false and has the row's state and the
        reason.

        Raises: as :meth:`fire`, except TransitionNotAllowed and GuardNotSatisfied.
        """
        return of_instance()("try_fire", self, event, session, column, payload, actor, details, token)

    def can_fire(self, event: E, *, column: object = None) -> bool:
        """Whether *event* is allowed from the state in memory. It is a hint: only a fire decides.

        The state in memory may be old, and guards are not evaluated. The call sends no SQL, unless the state is
        expired, as after a commit: then it is loaded like any attribute. On an instance of an ``AsyncSession`` it is
        not loaded, and the result is False: refresh the instance first.

        Raises: UnknownEvent.
        """
        return can_fire(self, event, column=column)

    def available_events(self, *, column: object = None) -> list[str]:
        """The events that are allowed from the state in memory, in the machine's order.

        Returns: a list of names. It is a hint, like :meth:`can_fire`.
        """
        return available_events(self, column=column)

    @overload
    def possible_events(
        self, session: AnySession | None = ..., /, *, column: object = ..., **payload: object
    ) -> list[str]: ...
    @overload
    def possible_events(
        self, session: AsyncSession, /, *, column: object = ..., **payload: object
    ) -> Later[list[str]]: ...
    def possible_events(self, session: Any = None, /, *, column: Any = None, **payload: Any) -> Any:
        """The names of the events that would move this row now, guards included, in the machine's order, by one SELECT.

        *payload* are the values for the guards. An event that requires a payload that is not passed is left out. The
        SELECT takes no lock, so the row can change before a fire.

        Raises: TypeError for a payload that no event of the model takes; InstanceStateError.
        """
        from .possible import possible_events

        return possible_events(self, session, column, payload)

    @overload
    def history(self, session: AnySession | None = ..., /, *, column: object = ...) -> list[H]: ...
    @overload
    def history(self, session: AsyncSession, /, *, column: object = ...) -> Later[list[H]]: ...
    def history(self, session: Any = None, /, *, column: Any = None) -> Any:
        """The history rows of this row, oldest first, as instances of the history class.

        *column* names the machine when two of the model have a history.

        Raises: TypeError when there is no history; InstanceStateError.
        """
        from .history import history_rows

        return history_rows(self, session, column=column)


METHODS = ("fire", "try_fire", "can_fire", "available_events", "possible_events", "history")


@events.listens_for(Mapper, "after_mapper_constructed")
def _equip(mapper: Mapper[Any], model: type[Any]) -> None:
    """Give a newly mapped class with a state column its methods.

    Raises: InvalidMachine when the class itself defines one of their names, or inherits Stateful without one.
    """
    if not equip(mapper):
        _require_column(mapper, model)
        return
    clashes = [name for name in METHODS if getattr(model, name, getattr(Stateful, name)) is not getattr(Stateful, name)]
    if clashes:
        names = ", ".join(map(repr, clashes))
        raise InvalidMachine(
            [f"{model.__name__} defines {names} itself, which its state column would give it: rename it"]
        )
    for name in METHODS:
        if not hasattr(model, name):
            setattr(model, name, getattr(Stateful, name))


def _require_column(mapper: Mapper[Any], model: type[Any]) -> None:
    """Raise InvalidMachine if *model* is meant to have a state column, and its mapping has none."""
    # SQLModel takes a default that it does not know for a value: the column is a VARCHAR, and there is no error.
    fields = getattr(model, "__pydantic_fields__", None) or {}
    lost = [
        name
        for name, field in fields.items()
        if isinstance(getattr(field, "default", None), StateColumn)
        or isinstance(getattr(field, "sa_column", None), StateColumn)
    ]
    if lost:
        raise InvalidMachine(
            [
                f"{model.__name__}.{name} is a StateMachineColumn, which SQLModel does not take: write {name}: … ="
                " StateField(machine), with `from sqlalchemy_fsm_mysql.orm.sqlmodel import StateField`"
                for name in lost
            ]
        )
    if issubclass(model, Stateful):
        columns = ", ".join(map(repr, mapper.columns.keys()))
        problem = (
            f"{model.__name__} inherits Stateful and has no state column; its columns are {columns}: declare one,"
            " state: Mapped[str] = StateMachineColumn(machine), or with SQLModel state: str = StateField(machine),"
            " by `from sqlalchemy_fsm_mysql.orm.sqlmodel import StateField`"
        )
        raise InvalidMachine([problem])
