"""FastAPI and Starlette: every error of this library that a client can act on, as a problem document."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from .answers import ANSWERED, PROBLEM, headers_of, problem_of, status_of

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["answer_errors", "problem_responses"]


def answer_errors(app: Starlette, *, name: Callable[[str], str] = str, developer: bool = False) -> None:
    """Add handlers to *app*, a ``FastAPI`` or ``Starlette``, that answer errors with problem documents.

    They use :func:`.status_of` and :func:`.problem_of`, to which *name* and *developer* are passed. The framework
    handles all other errors.
    """
    from starlette.responses import JSONResponse

    async def answer(request: Request, error: Exception) -> Response:
        problem = problem_of(error, name=name, developer=developer)
        return JSONResponse(problem, status_of(error), headers_of(error), media_type=PROBLEM)

    for kind in ANSWERED:
        app.add_exception_handler(kind, answer)


_SCHEMA: dict[str, Any] = {  # Any: a JSON schema
    "type": "object",
    "title": "Problem",
    "required": ["title", "status", "detail", "error"],
    "properties": {
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "A sentence for people."},
        "error": {"type": "string", "enum": [*sorted(kind.__name__ for kind in ANSWERED), "GuardNotSatisfied"]},
        "event": {"type": "string"},
        "state": {"type": "string"},
        "allowed_from": {"type": "array", "items": {"type": "string"}},
        "failed": {"type": "array", "items": {"type": "string"}},
        "developer": {"type": "string"},
    },
}


def problem_responses() -> dict[int | str, dict[str, Any]]:  # Any: as FastAPI declares its argument
    """The answers of :func:`answer_errors` for OpenAPI.

    Pass them as the argument ``responses=`` of a FastAPI app, router or route.
    """
    described = {
        HTTPStatus.NOT_FOUND: "There is no such row.",
        HTTPStatus.CONFLICT: "The event was refused, and nothing was changed.",
        HTTPStatus.SERVICE_UNAVAILABLE: "Repeat the request later, with the same token.",
    }
    return {
        int(status): {"description": text, "content": {PROBLEM: {"schema": _SCHEMA}}}
        for status, text in described.items()
    }
