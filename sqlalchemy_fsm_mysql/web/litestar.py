"""Litestar: every error of this library that a client can act on, as a problem document."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from .answers import ANSWERED, PROBLEM, headers_of, problem_of, status_of

if TYPE_CHECKING:
    from litestar import Request, Response

    # Any: the user, the authorization and the state of an application are its own types.
    Handler: TypeAlias = Callable[[Request[Any, Any, Any], Any], Response[Any]]

__all__ = ["exception_handlers"]


def exception_handlers(*, name: Callable[[str], str] = str, developer: bool = False) -> dict[type[Exception], Handler]:
    """The handlers that answer errors, for the argument ``exception_handlers=`` of a Litestar app, router or route.

    They answer with :func:`.status_of` and :func:`.problem_of`, to which *name* and *developer* are passed. The
    framework handles all other errors.
    """
    from litestar import Response

    def answer(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
        problem = problem_of(error, name=name, developer=developer)
        return Response(problem, status_code=status_of(error), headers=headers_of(error), media_type=PROBLEM)

    return dict.fromkeys(ANSWERED, answer)
