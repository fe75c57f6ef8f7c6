"""Hooks: functions of the application that hear of each move, inside its transaction or after the COMMIT.

They run to completion: a hook may fire further events, and every hook hears of the first move before any of them hears
of the second.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

from sqlalchemy import Connection

from ..databases import is_autocommit
from ..errors.texts import State
from ..outcomes import Moved
from .notes import Promise, current_notes, keep_promises, notes_of

__all__ = ["Hook", "announce"]

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


class Place(Protocol):
    """A session's journal: where announcements queue, and when its ``on_committed`` functions are called."""

    queue: deque[Any] | None

    def after_commit(self, run: Callable[[], None]) -> None:
        """Call *run* now that the connection has committed, or as soon as the session is ready for it."""

    def noted(self, promise: Promise) -> None:
        """Take note of a *promise* that was made for a move of the session."""


@dataclass(slots=True, eq=False)
class _Announcement:
    """A move that not all of its functions have heard of yet."""

    functions: list[Callable[..., Any]]
    at_once: list[Callable[..., Any]]  # those of on_committed, in AUTOCOMMIT
    moved: Moved[Any]
    given: Any  # the session or connection that the functions of on_moved get
    promise: Promise | None  # void once the move has been undone


def announce(
    hooks: Sequence[Hook], moved: Moved[Any], connection: Connection, given: Any = None, place: Place | None = None
) -> None:
    """Have *hooks* hear of *moved*, a move on *connection*: ``on_moved`` now, ``on_committed`` after the COMMIT.

    *given* is what the functions get beside *moved*: the session, of which *place* is the journal, or the connection.

    What a function raises keeps no other from being called. Those of ``on_moved`` hear of everything that can still be
    committed; then the first exception is raised, and any further one is logged.
    """
    wanted = [hook for hook in hooks if hook.wants(moved)]
    if not wanted:
        return
    functions = [hook.function for hook in wanted if hook.when == "moved"]
    committed = [hook.function for hook in wanted if hook.when == "committed"]
    notes = notes_of(connection)
    queue = notes.queue if place is None or place.queue is None else place.queue
    is_autonomous = bool(committed) and is_autocommit(connection)  # the statement was its own COMMIT
    promise = None
    if (committed and not is_autonomous) or queue is not None:
        told = partial(_call_committed, [] if is_autonomous else committed, moved)
        promise = notes.promise(connection, told if place is None else partial(place.after_commit, told))
        if place is not None:
            place.noted(promise)
    announcement = _Announcement(functions, committed if is_autonomous else [], moved, given or connection, promise)
    if queue is not None:
        queue.append(announcement)
    elif functions or is_autonomous:
        _run_to_completion(announcement, connection, [notes] if place is None else [notes, place])


def _run_to_completion(first: _Announcement, connection: Connection, places: Sequence[Any]) -> None:
    queue = deque([first])
    for place in places:
        place.queue = queue
    notes, raised = current_notes(connection), None
    try:
        # After a rollback, or an error that has ended the transaction, there is nothing left to hear of.
        while queue and not connection.invalidated and current_notes(connection) is notes:
            announcement = queue.popleft()
            if announcement.promise is None or not announcement.promise.is_void:
                raised = _call(announcement, connection, raised)
    finally:
        for place in places:
            place.queue = None
    if raised is not None:
        raise raised


def _call(announcement: _Announcement, connection: Connection, raised: BaseException | None) -> BaseException | None:
    """Call the functions of *announcement*; the first exception, *raised* or theirs."""
    for function in announcement.functions:
        try:
            function(announcement.moved, announcement.given)
        except BaseException as error:  # noqa: BLE001 - raised again when the others have been called
            if raised is not None:
                _log.exception("on_moved: %r failed, too; the first exception is raised", function)
            raised = raised or error
            if connection.invalidated:
                return raised
    try:
        _call_committed(announcement.at_once, announcement.moved)
    except BaseException as error:  # noqa: BLE001 - as above
        raised = raised or error
    return raised


def _call_committed(functions: Sequence[Callable[..., Any]], moved: Moved[Any]) -> None:
    """Call the functions of ``on_committed``. The transaction is over, so an error of theirs is logged."""
    keep_promises([Promise(partial(_log_errors, function, moved)) for function in functions])


def _log_errors(function: Callable[[Moved[Any]], Any], moved: Moved[Any]) -> None:
    try:
        function(moved)
    except Exception:  # noqa: BLE001 - whatever it was, the others are still called
        _log.exception("on_committed: %r failed; the transition is committed all the same", function)
