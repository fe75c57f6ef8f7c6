"""Small wrong versions of what a session adds to a fire: its end, its hooks, its journal. See test_wrong_sessions.py."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest.mock import patch

from sqlalchemy import Connection
from sqlalchemy.orm import Session, SessionTransaction

from sqlalchemy_fsm_mysql.core import failures, hooks
from sqlalchemy_fsm_mysql.orm.journal import Journal
from sqlalchemy_fsm_mysql.testing import hooks_follow_session

Wrong = Callable[[], AbstractContextManager[Any]]


def goes_on_after_the_end() -> AbstractContextManager[Any]:
    """An error that has ended the transaction counts where a fire met it, and for no other statement."""
    return patch.object(failures, "ended_by", lambda connection: None)


def keeps_unread_answers() -> AbstractContextManager[Any]:
    """Every exception is taken for one that came before its statement was sent."""
    return patch.object(failures, "_was_sent", lambda *_: False)


def nests_hooks() -> AbstractContextManager[Any]:
    """A hook's fire is announced at once: the hooks behind it hear of the second move first."""

    def run(waiting: Any, connection: Connection, places: Any) -> None:
        for announcement in waiting:
            hooks._call_functions(announcement, connection, None)

    return patch.object(hooks, "_run_to_completion", run)


def stops_at_the_first_exception() -> AbstractContextManager[Any]:
    """The hooks behind one that raises are not called."""

    def call(announcement: Any, connection: Connection, raised: BaseException | None) -> BaseException | None:
        for function in announcement.functions:
            function(announcement.moved, announcement.place)
        return None

    return patch.object(hooks, "_call_functions", call)


def keeps_every_savepoint() -> AbstractContextManager[Any]:
    """The journal has an entry for each savepoint until the outermost COMMIT."""
    right, kept = Journal.ended, []

    def ended(self: Journal, session: Session, transaction: SessionTransaction) -> None:
        kept.append(transaction)
        right(self, session, transaction)

    return patch.object(Journal, "ended", ended)


WRONG: dict[str, Wrong] = {
    "": nullcontext,
    "goes on after the end": goes_on_after_the_end,
    "keeps unread answers": keeps_unread_answers,
    "takes the session's COMMIT for the connection's": hooks_follow_session,
    "nests hooks": nests_hooks,
    "stops at the first exception": stops_at_the_first_exception,
    "keeps every savepoint": keeps_every_savepoint,
}
