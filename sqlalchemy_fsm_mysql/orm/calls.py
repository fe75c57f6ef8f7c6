"""The calls that fire on one row, as users write them: :func:`fire_key`, :func:`try_fire_key`, :func:`force_state`.

A module that declares a model imports them with it, and may never fire. So :mod:`.firing`, which does the work, is
imported at the first fire of the process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, overload

from sqlalchemy import inspect
from sqlalchemy.orm import Session

from .mapped import MappedState, mapped_state, mapped_states, named_state

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from ..outcomes import Moved, Refused
    from .awaited import Later
    from .sessions import AnySession, AsyncPlace, SyncPlace

__all__ = ["available_events", "can_fire", "fire_key", "force_state", "try_fire_key"]

M = TypeVar("M")


# An import statement takes a microsecond each time, also of a module that is there already. So the answer is kept.
@cache
def at_key() -> Callable[..., Any]:
    """The function that does the work of ``fire_key`` and ``try_fire_key``."""
    from .firing import fire_at_key

    return fire_at_key


@cache
def of_instance() -> Callable[..., Any]:
    """The function that does the work of the methods ``fire`` and ``try_fire``."""
    from .firing import fire_of_instance

    return fire_of_instance


@overload
def fire_key(
    model: type[M],
    key: object,
    event: str,
    session: SyncPlace,
    /,
    *,
    column: object = ...,
    actor: str | None = ...,
    details: object = ...,
    token: str | None = ...,
    **payload: object,
) -> Moved[M]: ...
@overload
def fire_key(
    model: type[M],
    key: object,
    event: str,
    session: AsyncPlace,
    /,
    *,
    column: object = ...,
    actor: str | None = ...,
    details: object = ...,
    token: str | None = ...,
    **payload: object,
) -> Later[Moved[M]]: ...
def fire_key(
    model: type[M],
    key: Any,
    event: str,
    session: Any,
    /,
    *,
    column: Any = None,
    actor: str | None = None,
    details: Any = None,
    token: str | None = None,
    **payload: Any,
) -> Any:
    """Fire *event* on the row of *model* with the primary key *key*, without loading the row: one statement.

    Returns: a :class:`Moved`. Its ``.instance`` is None. If the session has an instance of the row, that instance shows
    the new state afterwards.

    *key* is one value. A composite key is a tuple in the order of the model's primary key, or a mapping by attribute
    name. *session* can be a Core ``Connection``, which takes about half of the CPU time of a session. History, tokens,
    hooks and errors are the same; hooks get the connection. With an ``AsyncSession`` or an ``AsyncConnection``, await
    the call. Nothing is committed.

    Raises: UnknownEvent, and TypeError for a key or a payload that does not fit, before any SQL; TransitionNotAllowed,
    GuardNotSatisfied, RowNotFound, UnknownState; and the errors of the server, as ``fire()``.
    """
    return at_key()("fire_key", model, key, event, session, column, payload, actor, details, token)


@overload
def try_fire_key(
    model: type[M],
    key: object,
    event: str,
    session: SyncPlace,
    /,
    *,
    column: object = ...,
    actor: str | None = ...,
    details: object = ...,
    token: str | None = ...,
    **payload: object,
) -> Moved[M] | Refused[M]: ...
@overload
def try_fire_key(
    model: type[M],
    key: object,
    event: str,
    session: AsyncPlace,
    /,
    *,
    column: object = ...,
    actor: str | None = ...,
    details: object = ...,
    token: str | None = ...,
    **payload: object,
) -> Later[Moved[M] | Refused[M]]: ...
def try_fire_key(
    model: type[M],
    key: Any,
    event: str,
    session: Any,
    /,
    *,
    column: Any = None,
    actor: str | None = None,
    details: Any = None,
    token: str | None = None,
    **payload: Any,
) -> Any:
    """Fire *event* as :func:`fire_key`, and return a refusal as a value.

    Returns: a :class:`Moved`, which is true, or a :class:`Refused`, which is false and has the row's state and the
    reason.

    Raises: as :func:`fire_key`, except TransitionNotAllowed and GuardNotSatisfied.
    """
    return at_key()("try_fire_key", model, key, event, session, column, payload, actor, details, token)


@overload
def force_state(
    instance: M,
    state: str | Enum,
    session: AnySession | None = ...,
    /,
    *,
    column: object = ...,
    actor: str | None = ...,
    details: object = ...,
) -> Moved[M]: ...
@overload
def force_state(
    instance: M,
    state: str | Enum,
    session: AsyncSession,
    /,
    *,
    column: object = ...,
    actor: str | None = ...,
    details: object = ...,
) -> Later[Moved[M]]: ...
def force_state(
    instance: M,
    state: Any,
    session: Any = None,
    /,
    *,
    column: Any = None,
    actor: str | None = None,
    details: Any = None,
) -> Any:
    """Set the row of *instance* to *state* without an event, for operators and for the repair of data.

    Returns: a :class:`Moved` of the event ``"force_state"``. The history row has the same event.

    The row can be in any state, even in one that the machine does not declare. For NULL, the ``source`` is ``""``.
    *state* has to be declared. The effects of ``on_enter`` and ``on_exit`` are written. *column* names the machine when
    the model has several. With an ``AsyncSession``, await the call.

    Raises: ValueError for an undeclared state; TypeError when an effect of ``on_enter`` or ``on_exit`` needs a payload;
    InstanceStateError, RowNotFound, UniqueViolation.
    """
    from .firing import force

    return force(instance, state, session, column, actor, details)


def can_fire(instance: Any, event: str, *, column: Any = None) -> bool:
    """Whether *event* leaves the state of *instance* in memory, which may be stale; guards are not evaluated.

    No SQL, unless the state is expired, as after a commit: then a sync session loads it like any attribute. On an
    instance of an ``AsyncSession`` the state stays unknown, and no event is possible.

    Raises: UnknownEvent.
    """
    mapped = mapped_state(type(instance), event, column)
    return _state_shown(mapped, instance) in mapped.machine.targets(event)


def _state_shown(mapped: MappedState, instance: Any) -> Any:
    state = mapped.state_in_memory(instance)
    if state is None and inspect(instance).persistent:
        from .sessions import session_of

        if isinstance(session_of(instance), Session):
            return getattr(instance, mapped.attribute)
    return state


def available_events(instance: Any, *, column: Any = None) -> list[str]:
    """The events that leave the state of *instance* in memory, as :func:`can_fire` reads it."""
    states: Mapping[str, MappedState] = mapped_states(type(instance))
    if column is not None:
        states = {"": named_state(type(instance), column)}
    return [
        event
        for mapped in states.values()
        if mapped.machine.declares(state := _state_shown(mapped, instance))
        for event in mapped.machine.events_from(state)
    ]
