"""Listens for the errors of every engine, from the first declaration on.

A trigger may refuse a statement that is no fire, and an error may end a transaction before the first fire in it. So the
listener must be there before anything is fired. What it does is in :mod:`.failures`, imported at the first error.
"""

from __future__ import annotations

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext


@event.listens_for(Engine, "handle_error")
def _error_met(context: ExceptionContext) -> BaseException | None:
    from .failures import error_met

    return error_met(context)
