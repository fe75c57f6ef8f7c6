"""The attribution of a fire: the actor, details and token that a caller gives for the history row."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from sqlalchemy import JSON, Connection, Dialect

from ..databases import is_autocommit
from ..errors import TransactionRequired
from ..errors.texts import shown
from ..sql.events import EventSQL
from ..sql.values import has_surrogate
from .details import check_details
from .target import Target

TOKEN_LENGTH: Final = 64
ACTOR_LENGTH: Final = 255


class Attribution(NamedTuple):
    """The origin of a fire: `actor` (at most 255 characters), `details` (JSON), and the idempotency `token`."""

    actor: str | None = None
    details: Any = None
    token: str | None = None

    @property
    def is_given(self) -> bool:
        """Whether the caller gave any of the three."""
        # No comparison by ==: a value of the caller's may answer it with something that is neither true nor false.
        return self.actor is not None or self.details is not None or self.token is not None

    def checked(self, target: Target, event: EventSQL | None = None, dialect: Dialect | None = None) -> Attribution:
        """This attribution, checked to fit the history row of *event*; details need the *dialect* of the database.

        Raises: TypeError for an actor that is not a string, ValueError for one that is too long or no Unicode text;
        and as :func:`checked_token` and :func:`~.details.check_details`.
        """
        actor = self.actor
        if actor is not None and not isinstance(actor, str):
            raise TypeError(f"an actor is a string, not {type(actor).__name__}")
        if actor is not None and len(actor) > ACTOR_LENGTH:
            raise ValueError(f"an actor has at most {ACTOR_LENGTH} characters, not {len(actor)}: {shown(actor)}")
        if actor is not None and has_surrogate(actor):
            raise ValueError("an actor is text that UTF-8 can encode, and this one has a lone surrogate")
        if self.details is not None and dialect is not None:
            history = target.history
            check_details(self.details, JSON() if history is None else history.table.c.details.type, dialect)
        if self.token is not None:
            checked_token(self.token, target)
            if event is not None and not event.recorded:
                raise TypeError(f"a token is kept in a history row, and {event.name!r} is declared with recorded=False")
        return Attribution(None if actor is None else str.__str__(actor), self.details, self.token)

    def parameters(self) -> dict[str, Any]:
        """The attribution as bound parameters of a history row."""
        return {"fsm_actor": self.actor, "fsm_details": self.details, "fsm_token": self.token}


NO_ATTRIBUTION: Final = Attribution()


def checked_token(token: Any, target: Target) -> str:
    """*token*, checked to fit the history's column.

    Raises: TypeError when it is no string, or there is no history to keep it; ValueError when it is empty, too long, or
    not printable.
    """
    if not isinstance(token, str):
        raise TypeError(f"a token is a string, not {type(token).__name__}")
    if target.history is None:
        raise TypeError(f"a token needs a TransitionHistory to keep it, and {target.label} has none")
    if not 1 <= len(token) <= TOKEN_LENGTH or not token.isprintable():
        raise ValueError(f"a token has 1 to {TOKEN_LENGTH} printable characters, not {shown(token)} ({len(token)})")
    return token


def require_transaction(connection: Connection, target: Target) -> None:
    """Raises: TransactionRequired where the state and its history row cannot be committed together."""
    if is_autocommit(connection):
        raise TransactionRequired(
            f"{target.label} has a history, which is committed together with the state, "
            "and this connection is in AUTOCOMMIT: use another isolation level, such as READ COMMITTED"
        )
