"""What the application does when a row has moved: inside of the transaction, or after its COMMIT."""

from __future__ import annotations

import inspect as python
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

from sqlalchemy.orm import Session

from ..errors import UnknownEvent
from ..errors.texts import State, shown
from ..machine.states import FORCED
from ..outcomes import Moved
from .column import MappedState, attribute_state
from .journal import note

__all__ = ["Hook", "announce", "on_committed", "on_moved", "remove_hook"]

F = TypeVar("F", bound=Callable[..., Any])

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Hook:
    """A function and the moves it wants to hear of: those of a model and its subclasses that pass each filter."""

    function: Callable[..., Any]
    when: Literal["moved", "committed"]
    model: type[Any]
    event: Collection[str] | None
    source: Collection[State] | None
    target: Collection[State] | None

    def wants(self, moved: Moved[Any]) -> bool:
        return (
            issubclass(moved.model, self.model)
            and (self.event is None or moved.event in self.event)
            and (self.source is None or moved.source in self.source)
            and (self.target is None or moved.target in self.target)
        )


def on_moved(
    column: Any,
    *,
    event: str | Collection[str] | None = None,
    source: State | Collection[State] | None = None,
    target: State | Collection[State] | None = None,
) -> Callable[[F], F]:
    """Call the decorated ``f(moved, session)`` after each move of *column* (``Order.state``), inside its transaction.

    *event*, *source* and *target* choose the moves: one value, or several of which any will do; None is all. What *f*
    raises propagates out of ``fire()``, and undoes nothing by itself. *f* may fire further events. With an
    ``AsyncSession`` it runs as part of the fire and gets the sync session behind it. A replayed token and
    :func:`fire_where` call nothing.

    Raises: TypeError when *column* is no state column or *f* a coroutine function; UnknownEvent, ValueError for filters
    that the machine does not know.
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

    Never for what a rollback or a savepoint's rollback undid. Best effort: a process that dies after COMMIT has not
    called it, so what must not be lost reads the history instead. The transaction is over and cannot be failed any
    more: what *f* raises is logged, and the other functions are still called. The filters are those of
    :func:`on_moved`.

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


def announce(mapped: MappedState, moved: Moved[Any], session: Session) -> None:
    """Tell the hooks of *mapped* about *moved*."""
    wanted = [hook for hook in mapped.extras.hooks if hook.wants(moved)]
    for hook in wanted:
        if hook.when == "committed":
            note(session).on_commit.append(partial(_after_commit, hook.function, moved))
    for hook in wanted:
        if hook.when == "moved":
            hook.function(moved, session)


def _after_commit(function: Callable[[Moved[Any]], Any], moved: Moved[Any]) -> None:
    try:
        function(moved)
    except Exception:  # noqa: BLE001 - whatever it was, the others are still called
        _log.exception("on_committed: %r failed; the transition is committed all the same", function)


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
        if python.iscoroutinefunction(function):
            raise TypeError(f"on_{when}: {shown(function)} is a coroutine function, and hooks are called without await")
        mapped.extras.hooks.append(Hook(function, when, mapped.model, events, sources, targets))
        return function

    return register


def _several(given: Any) -> Collection[Any] | None:
    return given if given is None or isinstance(given, (tuple, list, set, frozenset)) else (given,)
