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
from .notes import Notes, Promise, current_notes, keep_promises, notes_of

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
    hooks: Sequence[Hook],
    moves: Sequence[Moved[Any]],
    connection: Connection,
    given: Any = None,
    place: Place | None = None,
) -> None:
    """Have *hooks* hear of *moves* on *connection*, in order: ``on_moved`` now, ``on_committed`` after the COMMIT.

    *given* is what the functions get beside the move: the session, of which *place* is the journal, or the connection.
    All moves of one call have happened already, so a function hears of each before it hears of what a hook fires.

    What a function raises keeps no other from being called. Those of ``on_moved`` hear of everything that can still be
    committed; then the first exception is raised, and any further one is logged.
    """
    notes = notes_of(connection)
    queue = notes.queue if place is None or place.queue is None else place.queue
    # A single move that nothing waits for needs no promise: it is announced before anything can undo it.
    may_wait = queue is not None or len(moves) > 1
    waiting: list[_Announcement] = []
    for moved in moves:
        wanted = [hook for hook in hooks if hook.wants(moved)]
        functions = [hook.function for hook in wanted if hook.when == "moved"]
        committed = [hook.function for hook in wanted if hook.when == "committed"]
        announcement = _Announcement(functions, [], moved, given or connection, None)
        if committed or (functions and may_wait):
            if is_autocommit(connection):  # each statement was its own COMMIT
                announcement.at_once = committed
            else:
                announcement.promise = _promise(notes, connection, partial(_call_committed, committed, moved), place)
        if functions or announcement.at_once:
            waiting.append(announcement)
    if queue is not None:
        queue.extend(waiting)
    elif waiting:
        _run_to_completion(waiting, connection, [notes] if place is None else [notes, place])


def _promise(notes: Notes, connection: Connection, run: Callable[[], None], place: Place | None) -> Promise:
    if place is None:
        return notes.promise(connection, run)
    promise = notes.promise(connection, partial(place.after_commit, run))
    place.noted(promise)
    return promise


def _run_to_completion(waiting: Sequence[_Announcement], connection: Connection, places: Sequence[Any]) -> None:
    """Make the announcements *waiting*, and those that their hooks add by further fires."""
    queue = deque(waiting)
    for place in places:
        place.queue = queue
    notes, raised = current_notes(connection), None
    try:
        while queue and not connection.invalidated:  # else nothing of the transaction can be committed
            announcement = queue.popleft()
            promise = announcement.promise
            # A hook may have ended the transaction: after its rollback there is nothing to hear of.
            if promise is None or promise.is_kept or (current_notes(connection) is notes and not promise.is_void):
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
