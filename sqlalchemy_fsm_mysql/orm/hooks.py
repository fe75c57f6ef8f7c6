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

# The second argument is the Session of the fire, or the Connection of a fire on one: a hook declares which it expects.
# Any: the model of the column, and the Session or the Connection.
F = TypeVar("F", bound=Callable[[Moved[Any], Any], object])
# Any: the model of the column.
G = TypeVar("G", bound=Callable[[Moved[Any]], object])
H = TypeVar("H", bound=Callable[..., object])


def on_moved(
    column: object,
    *,
    event: str | Collection[str] | None = None,
    source: State | Collection[State] | None = None,
    target: State | Collection[State] | None = None,
) -> Callable[[F], F]:
    """Call the decorated ``f(moved, session)`` after each move of *column* (``Order.state``), inside its transaction.

    *event*, *source* and *target* filter the moves, each by one value or several; None does not filter. With an
    ``AsyncSession``, *f* runs as part of the fire and gets the sync session behind it. For a fire on a Core
    ``Connection``, *f* gets the connection. A replayed token and :func:`fire_where` call nothing.

    *f* can fire further events. Hooks run to completion: every function is called for the first move before any is
    called for the moves of those events. So each function gets the moves in the order in which they happened. For a
    move that the rollback of a savepoint has undone by then, no function is called.

    An exception of *f* propagates out of the outermost ``fire()`` and undoes nothing by itself. The other functions are
    still called, because the caller can still commit: the first exception is raised at the end, and further ones are
    logged. Only when the transaction has ended, the others are not called.

    Raises: TypeError when *column* is not a state column, or *f* a coroutine function, a generator function, or a
    function that does not take these arguments; UnknownEvent and ValueError for filters that the machine does not
    declare.
    """
    return _registration("moved", column, event, source, target)


def on_committed(
    column: object,
    *,
    event: str | Collection[str] | None = None,
    source: State | Collection[State] | None = None,
    target: State | Collection[State] | None = None,
) -> Callable[[G], G]:
    """Call the decorated ``f(moved)`` once for each move of *column*, after the outermost COMMIT has succeeded.

    That COMMIT is the connection's. If a session has joined a transaction of its caller, its commit calls nothing; *f*
    is called when the caller commits the transaction. In AUTOCOMMIT every fire is its own COMMIT, so the fire calls
    *f*. *f* is never called for a move that a rollback, even of a savepoint, has undone.

    A process that dies after COMMIT has not called *f*. Work that must not be lost reads the history instead. An error
    of *f* is logged, because the transaction is over and cannot fail any more, and the other functions are still
    called. KeyboardInterrupt and SystemExit are raised after that. The filters are those of :func:`on_moved`.

    Raises: as :func:`on_moved`.
    """
    return _registration("committed", column, event, source, target)


def remove_hook(column: object, function: Callable[..., object]) -> None:
    """Remove every registration of *function* as a hook of *column*.

    Raises: ValueError when *function* is not registered.
    """
    mapped = attribute_state(column)
    kept = [hook for hook in mapped.extras.hooks if hook.function != function]  # a bound method is made anew each time
    if len(kept) == len(mapped.extras.hooks):
        raise ValueError(f"{shown(function)} is not a hook of {mapped.model.__name__}.{mapped.attribute}")
    mapped.extras.hooks[:] = kept


def announce(mapped: MappedState, moved: Moved[Any], session: Session, connection: Connection) -> None:
    """Call the hooks of *mapped* for *moved*, a move of *session* on *connection*."""
    announce_all(mapped, (moved,), session, connection)


def announce_all(mapped: MappedState, moves: Sequence[Moved[Any]], session: Session, connection: Connection) -> None:
    """Call the hooks of *mapped* for *moves*, which one call in *session* has made on *connection*."""
    if mapped.extras.hooks:
        core_hooks.announce(mapped.extras.hooks, moves, connection, session, journal_of(session))


def _registration(
    when: Literal["moved", "committed"], column: Any, event: Any, source: Any, target: Any
) -> Callable[[H], H]:
    mapped = attribute_state(column)
    events, sources, targets = _several(event), _several(source), _several(target)
    for name in events or ():
        if name not in mapped.machine.events and name != FORCED:
            raise UnknownEvent(name, mapped.machine.events, model=mapped.model)
    for state in (*(sources or ()), *(targets or ())):
        mapped.machine.stored(state)

    def register(function: H) -> H:
        _check_signature(when, function)
        require_unset(mapped.extras, "hooks")
        mapped.extras.hooks.append(Hook(function, when, mapped.model, events, sources, targets))
        return function

    return register


# The arguments of a hook.
_ARGUMENTS = {"moved": ("moved", "session"), "committed": ("moved",)}


def _check_signature(when: Literal["moved", "committed"], function: Any) -> None:
    """Check *function* when it is registered, and not at the first move.

    Raises: TypeError when it cannot be called as a hook.
    """
    if not callable(function):
        raise TypeError(f"on_{when}: {shown(function)} is not a function")
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
        raise TypeError(f"on_{when}: {shown(function)} cannot be called with ({given}): {str(error)[:200]}") from error
    except ValueError:  # some functions written in C have no signature to read
        pass


_GENERATORS = (python.isgeneratorfunction, python.isasyncgenfunction)


def _several(given: Any) -> Collection[Any] | None:
    return given if given is None or isinstance(given, (tuple, list, set, frozenset)) else (given,)
