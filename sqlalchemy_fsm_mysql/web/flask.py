"""Flask: every error of this library that a client can act on, as a problem document."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .answers import ANSWERED, PROBLEM, headers_of, problem_of, status_of

if TYPE_CHECKING:
    from flask import Response
    from flask.sansio.scaffold import Scaffold

__all__ = ["answer_errors"]


def answer_errors(app: Scaffold, *, name: Callable[[str], str] = str, developer: bool = False) -> None:
    """Add handlers to *app*, a ``Flask`` or a ``Blueprint``, that answer errors with problem documents.

    They use :func:`.status_of` and :func:`.problem_of`, to which *name* and *developer* are passed. The framework
    handles all other errors.
    """
    from flask import Response, json

    def answer(error: Exception) -> Response:
        problem = problem_of(error, name=name, developer=developer)
        return Response(json.dumps(problem), status_of(error), headers_of(error), mimetype=PROBLEM)

    for kind in ANSWERED:
        app.register_error_handler(kind, answer)
