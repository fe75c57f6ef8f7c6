"""Protections that the pages of all three web examples share, whatever the framework.

- `HEADERS` forbid other sites to frame a page, and forbid the page itself scripts and foreign resources.
- `form_token` and `is_genuine` refuse a form that another site sends with the visitor's cookie (CSRF).
- `answer_to` gives the HTTP status of an error, and a sentence for the person who reads the page.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy_fsm_mysql import (
    FSMError,
    GuardNotSatisfied,
    LockTimeout,
    NotWritable,
    OutcomeUnknown,
    RowNotFound,
    TokenConflict,
    TransactionAborted,
    TransitionNotAllowed,
    UnknownEvent,
)

log = logging.getLogger(__name__)

FRAMING = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
}
HEADERS = FRAMING | {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
}

TOO_OLD = "This form is too old. Load the page again, then click once more."
BUSY = "The service is busy. Try again in a moment."


@dataclass(frozen=True)
class Answer:
    """The answer to an error: an HTTP status, a word for programs, a sentence for people."""

    status: int
    code: str
    sentence: str


_ANSWERS: tuple[tuple[type[FSMError], Answer], ...] = (
    (RowNotFound, Answer(404, "not_found", "There is no such entry.")),
    (UnknownEvent, Answer(404, "unknown_action", "There is no such button.")),
    (TokenConflict, Answer(409, "used_twice", TOO_OLD)),
    (OutcomeUnknown, Answer(503, "unknown", "It is not certain that this was done. Load the page to see.")),
    (LockTimeout, Answer(503, "busy", BUSY)),
    (NotWritable, Answer(503, "busy", BUSY)),
    (TransactionAborted, Answer(503, "busy", BUSY)),
)


def answer_to(error: FSMError) -> Answer:
    """The answer to *error*. Its own text is for logs: it names tables, and events as the program does."""
    if isinstance(error, GuardNotSatisfied) and error.sentences:
        # The sentences that the machine's guards have for people.
        return Answer(409, "not_possible", f"{error.event} is not possible now: {'; '.join(error.sentences)}.")
    if isinstance(error, TransitionNotAllowed):
        return Answer(409, "not_possible", f"{error.event} is not possible now: the state is {error.state}.")
    return next(
        (answer for kind, answer in _ANSWERS if isinstance(error, kind)),
        Answer(500, "failed", "This did not work. Try again later."),
    )


def secret_key(given: str | None) -> str:
    """The key that signs the cookies: *given*, else SECRET_KEY, else one of this process.

    With a key of their own, several processes do not take each other's cookies, and a restart ends all sessions.
    """
    kept = given or os.environ.get("SECRET_KEY")
    if not kept:
        log.warning("SECRET_KEY is not set: sessions end with this process")
    return kept or secrets.token_urlsafe(32)


def form_token(session: MutableMapping[str, Any]) -> str:
    """The token of the visitor's session, for a hidden field of each form. Another site cannot read it."""
    token: str = session.setdefault("form_token", secrets.token_urlsafe(32))
    return token


def is_genuine(session: MutableMapping[str, Any], sent: object) -> bool:
    """Whether *sent*, the hidden field of a form, is the token of the visitor's session."""
    kept = session.get("form_token")
    return isinstance(sent, str) and bool(kept) and secrets.compare_digest(str(kept).encode(), sent.encode())
