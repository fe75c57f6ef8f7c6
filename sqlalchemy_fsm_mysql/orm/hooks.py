"""Functions of the application that run when a row has moved: inside the transaction, or after its COMMIT."""

from __future__ import annotations

import inspect as python
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, TypeVar

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from ..core import hooks as core_hooks
from ..core.hooks import Hook
from ..errors import UnknownEvent
from ..errors.texts import State, shown
from ..machine.states import FORCED
from ..outcomes import Moved
from .journal import journal_of
from .mapped import MappedState, attribute_state
from .placement import require_unset

__all__ = ["Hook", "announce", "announce_all", "on_committed", "on_moved", "remove_hook"]

F = TypeVar("F", bound=Callable[..., Any])


def on_moved(
    column: Any,
    *,
    event: str | Collection[str] | None = None,
    source: State | Collection[State] | None = None,
    target: State | Collection[State] | None = None,
) -> Callable[[F], F]:
    """Call the decorated ``f(moved, session)`` after each move of *column* (``Order.state``), inside its transaction.

    *event*, *source* and *target* choose the moves: one value, or several of which any will do; None is all. With an
    ``AsyncSession`` *f* runs as part of the fire and gets the sync session behind it; for a fire on a Core
    ``Connection`` it gets the connection. A replayed token and :func:`fire_where` call nothing.

    *f* may fire further events. Hooks run to completion: the moves of those events are announced when every function
    has heard of the first move, so each function hears of the moves in the order in which they happened. A move that
    a savepoint's rollback has undone by then is not announced.

    An exception of *f* propagates out of the outermost ``fire()`` and undoes nothing by itself. It keeps no other
    function from being called, because the caller may commit all the same: the first exception is raised at the end,
    and further ones are logged. Only when the transaction has ended, the others are not called.

    Raises: TypeError when *column* is no state column, or *f* a coroutine function, a generator function, or one that
    cannot be called with these arguments; UnknownEvent, ValueError for filters that the machine does not know.
    """
    return _registration("moved", column, event, source, target)


def on_committed(
    column: Any,
    *,
    event: str | Collection[str] | None = None,
    source: State | Collection[State] | None = None,
    target: State | Collection[State] | None = None,
) -> Callable[[F], F]:
    """Call the decorated ``f(moved)`` once for each move of *column*, after the outermost COMMIT has succeeded.

    That COMMIT is the connection's: a session that has joined a transaction of somebody else calls nothing when it
    commits, and *f* is called when the owner of the transaction commits it. In AUTOCOMMIT every fire is its own COMMIT,
    so *f* is called by the fire. *f* is never called for what a rollback or a savepoint's rollback undid.

    Best effort: a process that dies after COMMIT has not called *f*, so work that must not be lost reads the history
    instead. The transaction is over and cannot be failed any more: an error of *f* is logged, and the other functions
    are still called. An exception that is no error (KeyboardInterrupt, SystemExit) is raised when they have been. The
    filters are those of :func:`on_moved`.

    Raises: as :func:`on_moved`.
    """
    return _registration("committed", column, event, source, target)


def remove_hook(column: Any, function: Callable[..., Any]) -> None:
    """Take back every registration of *function* for *column*.

    Raises: ValueError when there is none.
    """
    mapped = attribute_state(column)
    kept = [hook for hook in mapped.extras.hooks if hook.function != function]  # a bound method is made anew each time
    if len(kept) == len(mapped.extras.hooks):
        raise ValueError(f"{shown(function)} is no hook of {mapped.model.__name__}.{mapped.attribute}")
    mapped.extras.hooks[:] = kept


def announce(mapped: MappedState, moved: Moved[Any], session: Session, connection: Connection) -> None:
    """Have the hooks of *mapped* hear of *moved*, which *session* has done on *connection*."""
    announce_all(mapped, (moved,), session, connection)


def announce_all(mapped: MappedState, moves: Sequence[Moved[Any]], session: Session, connection: Connection) -> None:
    """Have the hooks of *mapped* hear of *moves*, which *session* has done on *connection* by one call."""
    if mapped.extras.hooks:
        core_hooks.announce(mapped.extras.hooks, moves, connection, session, journal_of(session))


def _registration(
    when: Literal["moved", "committed"], column: Any, event: Any, source: Any, target: Any
) -> Callable[[F], F]:
    mapped = attribute_state(column)
    events, sources, targets = _several(event), _several(source), _several(target)
    for name in events or ():
        if name not in mapped.machine.events and name != FORCED:
            raise UnknownEvent(name, mapped.machine.events, model=mapped.model)
    for state in (*(sources or ()), *(targets or ())):
        mapped.machine.stored(state)

    def register(function: F) -> F:
        _check_signature(when, function)
        require_unset(mapped.extras, "hooks")
        mapped.extras.hooks.append(Hook(function, when, mapped.model, events, sources, targets))
        return function

    return register


# What a hook is called with.
_ARGUMENTS = {"moved": ("moved", "session"), "committed": ("moved",)}


def _check_signature(when: Literal["moved", "committed"], function: Any) -> None:
    """Raise TypeError for what cannot be called as a hook is: found at the declaration, and not by the first move."""
    called = function if python.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
    if any(map(python.iscoroutinefunction, (function, called))):
        raise TypeError(f"on_{when}: {shown(function)} is a coroutine function, and hooks are called without await")
    if any(is_kind(one) for one in (function, called) for is_kind in _GENERATORS):
        raise TypeError(f"on_{when}: {shown(function)} is a generator function, and a call of it would do nothing")
    names = _ARGUMENTS[when]
    try:
        python.signature(function).bind(*names)
    except TypeError as error:
        given = ", ".join(names)
        raise TypeError(f"on_{when}: {shown(function)} cannot be called with ({given}): {error}") from error
    except ValueError:  # some functions written in C do not tell their signature
        pass


_GENERATORS = (python.isgeneratorfunction, python.isasyncgenfunction)


def _several(given: Any) -> Collection[Any] | None:
    return given if given is None or isinstance(given, (tuple, list, set, frozenset)) else (given,)
