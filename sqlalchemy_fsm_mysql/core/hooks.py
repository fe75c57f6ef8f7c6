"""Hooks: functions of the application that are called for each move, inside its transaction or after the COMMIT.

They run to completion: a hook may fire further events, and every hook is called for the first move before any of them
is called for the second.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

from sqlalchemy import Connection

from ..databases import is_autocommit
from ..errors.texts import State
from ..outcomes import Moved
from .notes import Notes, Promise, current_notes, keep_promises, notes_of

__all__ = ["Hook", "announce"]

_log = logging.getLogger(__name__)


class Hook(NamedTuple):
    """A function, and the filters of the moves that it is called for: those of a model and its subclasses."""

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


class Journal(Protocol):
    """A session's journal: where announcements queue, and when its ``on_committed`` functions are called."""

    queue: deque[Any] | None

    def after_commit(self, run: Callable[[], None]) -> None:
        """Call *run* now that the connection has committed, or as soon as the session is ready for it."""

    def noted(self, promise: Promise) -> None:
        """Take note of a *promise* that was made for a move of the session."""


@dataclass(slots=True, eq=False, repr=False)
class _Announcement:
    """A move, and the functions that are still to be called for it."""

    functions: list[Callable[..., Any]]
    at_once: list[Callable[..., Any]]  # the functions of on_committed, in AUTOCOMMIT
    moved: Moved[Any]
    place: Any  # the session or connection that the functions of on_moved get as their second argument
    promise: Promise | None  # void once the move has been undone


def announce(
    hooks: Sequence[Hook],
    moves: Sequence[Moved[Any]],
    connection: Connection,
    session: Any = None,
    journal: Journal | None = None,
) -> None:
    """Call *hooks* for *moves* on *connection*, in order: ``on_moved`` now, ``on_committed`` after the COMMIT.

    *session* is the functions' second argument, and *journal* its journal; for a fire without a session, it is the
    connection. All moves of one call have happened already, so each function is called for them before it is called for
    an event that a hook fires.

    An exception of one function does not keep the others from being called. The functions of ``on_moved`` are called
    for everything that can still be committed; then the first exception is raised, and any further one is logged.
    """
    notes = notes_of(connection)
    queue = notes.queue if journal is None or journal.queue is None else journal.queue
    # A single move that nothing waits for needs no promise: it is announced before anything can undo it.
    may_wait = queue is not None or len(moves) > 1
    waiting: list[_Announcement] = []
    for moved in moves:
        wanted = [hook for hook in hooks if hook.wants(moved)]
        functions = [hook.function for hook in wanted if hook.when == "moved"]
        committed = [hook.function for hook in wanted if hook.when == "committed"]
        announcement = _Announcement(functions, [], moved, session or connection, None)
        if committed or (functions and may_wait):
            if is_autocommit(connection):  # each statement was its own COMMIT
                announcement.at_once = committed
            else:
                announcement.promise = _promise(notes, connection, partial(_call_committed, committed, moved), journal)
        if functions or announcement.at_once:
            waiting.append(announcement)
    if queue is not None:
        queue.extend(waiting)
    elif waiting:
        _run_to_completion(waiting, connection, [notes] if journal is None else [notes, journal])


def _promise(notes: Notes, connection: Connection, run: Callable[[], None], journal: Journal | None) -> Promise:
    if journal is None:
        return notes.promise(connection, run)
    promise = notes.promise(connection, partial(journal.after_commit, run))
    journal.noted(promise)
    return promise


def _run_to_completion(waiting: Sequence[_Announcement], connection: Connection, queues: Sequence[Any]) -> None:
    """Make the announcements *waiting*, and those that their hooks add by further fires."""
    queue = deque(waiting)
    # A fire of a hook finds the queue on its connection, or on its session, and adds to it.
    for owner in queues:
        owner.queue = queue
    notes, raised = current_notes(connection), None
    try:
        while queue and not connection.invalidated:  # an invalidated one can commit nothing
            announcement = queue.popleft()
            promise = announcement.promise
            # A hook may have rolled the transaction back, and then the move has not happened.
            if promise is None or promise.is_kept or (current_notes(connection) is notes and not promise.is_void):
                raised = _call_functions(announcement, connection, raised)
    finally:
        for owner in queues:
            owner.queue = None
    if raised is not None:
        raise raised


def _call_functions(
    announcement: _Announcement, connection: Connection, raised: BaseException | None
) -> BaseException | None:
    """Call the functions of *announcement*, and return the first exception: *raised*, or theirs."""
    for function in announcement.functions:
        try:
            function(announcement.moved, announcement.place)
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
    """Call the functions of ``on_committed``. The transaction is over, so their errors are logged, not raised."""
    keep_promises([Promise(partial(_log_errors, function, moved)) for function in functions])


def _log_errors(function: Callable[[Moved[Any]], Any], moved: Moved[Any]) -> None:
    try:
        function(moved)
    except Exception:  # noqa: BLE001 - whatever it was, the others are still called
        _log.exception("on_committed: %r failed; the transition is committed anyway", function)
