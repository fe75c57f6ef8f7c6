"""The table of answers: for each outcome and error, the HTTP status and the sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, TypeAlias

from ..errors import (
    FireError,
    FSMError,
    GuardNotSatisfied,
    LockTimeout,
    NotWritable,
    OutcomeUnknown,
    RefusedByDatabase,
    RowNotFound,
    StateAssignmentError,
    TokenConflict,
    TransactionAborted,
    TransitionNotAllowed,
    UniqueViolation,
    UnknownEvent,
)
from ..errors.texts import listed, stored_form
from ..outcomes import Missing, Moved, MovedRows, Refused

__all__ = ["ANSWERED", "PROBLEM", "RETRY_AFTER", "Answerable", "headers_of", "problem_of", "sentence_of", "status_of"]

Answerable: TypeAlias = (
    Moved[Any] | Refused[Any] | Missing[Any] | MovedRows[Any] | BaseException  # Any: of any model
)
"""An outcome, or an error."""

_BUSY = "The service is busy. Try again in a moment."

# A subclass stands before its base: the first that fits is the answer.
_ANSWERS: tuple[tuple[type[FSMError], HTTPStatus, str], ...] = (
    (RowNotFound, HTTPStatus.NOT_FOUND, "There is no such entry."),
    (UnknownEvent, HTTPStatus.UNPROCESSABLE_ENTITY, "There is no such action."),
    (TransitionNotAllowed, HTTPStatus.CONFLICT, ""),  # its sentence names the event
    (
        TokenConflict,
        HTTPStatus.CONFLICT,
        "The token of this request was used before, for something else. Load the page again, or send a new token.",
    ),
    (UniqueViolation, HTTPStatus.CONFLICT, "An entry with these values exists already."),
    (RefusedByDatabase, HTTPStatus.CONFLICT, "The entry cannot change in this way."),
    (StateAssignmentError, HTTPStatus.CONFLICT, "The state changes by actions only. Load the page again."),
    (
        OutcomeUnknown,
        HTTPStatus.SERVICE_UNAVAILABLE,
        "It is not certain that this was done. Look before you repeat it.",
    ),
    (LockTimeout, HTTPStatus.SERVICE_UNAVAILABLE, _BUSY),
    (NotWritable, HTTPStatus.SERVICE_UNAVAILABLE, _BUSY),
    (TransactionAborted, HTTPStatus.SERVICE_UNAVAILABLE, _BUSY),
)

ANSWERED: tuple[type[FSMError], ...] = tuple(kind for kind, _, _ in _ANSWERS)
"""The errors that a client can act on. All others are faults of the program, status 500, and the framework reports
them as any exception."""

PROBLEM = "application/problem+json"
"""The media type of :func:`problem_of` (RFC 9457)."""

RETRY_AFTER = 1
"""Seconds after which a client may repeat a request that was answered by 503."""


def status_of(answer: Answerable) -> int:
    """The HTTP status for an outcome or an error.

    - 200: rows were moved.
    - 201: ``fire_or_create`` has created the row.
    - 404: the row is missing.
    - 409: a refusal.
    - 422: an unknown event.
    - 503: an error of the server or the connection that can pass.
    - 500: an error that no client can act on.
    """
    return int(_status(answer))


def _status(answer: Answerable) -> HTTPStatus:
    if isinstance(answer, Moved):
        return HTTPStatus.CREATED if answer.created else HTTPStatus.OK
    if isinstance(answer, MovedRows):
        return HTTPStatus.OK
    if isinstance(answer, (Refused, Missing)):
        answer = answer.error("")
    return next((status for kind, status, _ in _ANSWERS if isinstance(answer, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)


def sentence_of(answer: Answerable, *, name: Callable[[str], str] = str) -> str:
    """A sentence for the person who sent the request, without names of tables, SQL and values.

    *name* is a function that returns the text that people know for an event or a state, in their language. By default
    the names are shown as declared. ``str(error)`` is the text for developers and logs.
    """
    if isinstance(answer, Moved):
        return f"'{name(answer.event)}' is done: it is '{name(stored_form(answer.target))}' now."
    if isinstance(answer, MovedRows):
        return f"'{name(answer.event)}' is done for {answer.moved:,}."
    if isinstance(answer, (Refused, Missing)):
        answer = answer.error("")
    if isinstance(answer, TransitionNotAllowed):
        return _refusal(answer, name)
    return next(
        (sentence for kind, _, sentence in _ANSWERS if isinstance(answer, kind)),
        "This did not work. Try again later.",
    )


def _refusal(error: TransitionNotAllowed, name: Callable[[str], str]) -> str:
    event = f"'{name(error.event or '')}'"
    if isinstance(error, GuardNotSatisfied):
        reasons = "; ".join(sentence.removesuffix(".") for sentence in error.sentences)
        return f"{event} is not possible now{f': {reasons}' if reasons else ', because a condition is not met'}."
    allowed = listed(f"'{name(stored_form(state))}'" for state in error.allowed_from)
    return f"{event} is only allowed from {allowed}; it is '{name(stored_form(error.state))}' now."


def problem_of(
    answer: Answerable, *, name: Callable[[str], str] = str, developer: bool = False
) -> dict[str, Any]:  # Any: JSON
    """The problem document (RFC 9457) of a refusal or an error: a dict for JSON.

    It has ``title``, ``status``, ``detail`` (the text of :func:`sentence_of`) and ``error``, the name of the error's
    class. Where they are known, it also has ``event``, ``state``, ``allowed_from`` and ``failed``, the names of the
    guards. If *developer* is true, ``developer`` is ``str(error)``, which names tables: use it for an API whose clients
    are your own.
    """
    status = _status(answer)
    error = answer.error(answer.model.__name__) if isinstance(answer, (Refused, Missing)) else answer
    problem: dict[str, Any] = {
        "title": status.phrase,
        "status": int(status),
        "detail": sentence_of(answer, name=name),
        "error": type(error).__name__,
    }
    if isinstance(error, (FireError, UnknownEvent)) and isinstance(error.event, str):
        problem["event"] = error.event
    if isinstance(error, TransitionNotAllowed):
        problem |= {"state": stored_form(error.state), "allowed_from": _texts(error.allowed_from)}
    if isinstance(error, GuardNotSatisfied):
        problem["failed"] = list(error.failed)
    if developer:
        problem["developer"] = str(error)
    return problem


def _texts(states: Iterable[Any]) -> list[str]:  # Any: a string or a member of an Enum
    return [stored_form(state) for state in states]


def headers_of(answer: Answerable) -> dict[str, str]:
    """The HTTP headers of the answer, besides its type: when to come again."""
    return {"Retry-After": str(RETRY_AFTER)} if status_of(answer) == HTTPStatus.SERVICE_UNAVAILABLE else {}
