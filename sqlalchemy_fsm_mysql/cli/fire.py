"""``fire``: an event on one row."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from sqlalchemy.orm import Session, sessionmaker

from ..errors import FireError, GuardNotSatisfied, TransitionNotAllowed
from ..errors.texts import row_label, stored_form
from ..operations.lookup import state_at
from ..orm.calls import fire_key
from ..orm.mapped import MappedState
from ..orm.units import run_transaction
from ..outcomes import Moved
from .database import UrlOption, database
from .output import JsonOption, fail, print_json, tell
from .status import status_of
from .targets import (
    ActorOption,
    DetailsOption,
    EventArgument,
    KeyArgument,
    PayloadArgument,
    TargetArgument,
    event_at,
    require_history,
)
from .values import json_value, key, payload


def fire(
    target: TargetArgument,
    row: KeyArgument,
    event: EventArgument,
    given: PayloadArgument = None,
    url: UrlOption = None,
    actor: ActorOption = None,
    details: DetailsOption = None,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN",
            help="Make the fire idempotent: a second call with the same token moves nothing. Needs a history.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fire an event on one row, and commit.

    The exit status is 0 when the row was moved, 1 when the machine refused, 2 when the call is wrong, 3 when there is
    no such row, and 4 when the database cannot be reached or used. The command calls the hooks that the module
    registers.
    """
    mapped = state_at(target)
    sql = event_at(mapped, event)
    identity, values = key(mapped, row), payload(mapped, sql, given or ())
    options = {
        "column": mapped.attribute,
        "actor": actor,
        "details": None if details is None else json_value(details, "--details"),
        "token": token,
    }
    require_history(mapped, actor=actor, details=details, token=token)

    def work(session: Session) -> Moved[Any]:
        return fire_key(mapped.model, identity, sql.name, session, **options, **values)

    with database(url) as engine:
        try:
            moved = run_transaction(sessionmaker(engine), work)
        except FireError as error:
            _tell_refusal(error, as_json=as_json)
    _tell_move(mapped, moved, as_json=as_json)


def _tell_move(mapped: MappedState, moved: Moved[Any], *, as_json: bool) -> None:
    source, target = stored_form(moved.source), stored_form(moved.target)
    if as_json:
        print_json(
            {
                "outcome": "replayed" if moved.replayed else "moved",
                "table": mapped.table_name,
                "key": moved.key,
                "event": moved.event,
                "source": source,
                "target": target,
                "sequence": moved.sequence,
            }
        )
        return
    again = "; an earlier call with this token has moved it" if moved.replayed else ""
    tell(f"{row_label(mapped.table_name, moved.key)}: {source} -> {target}{again}")


def _tell_refusal(error: FireError, *, as_json: bool) -> None:
    if as_json:
        refusal = isinstance(error, TransitionNotAllowed)
        document: dict[str, Any] = {"outcome": "refused" if refusal else "failed", "error": type(error).__name__}
        document |= {"key": error.key, "event": error.event, "message": str(error)}
        if isinstance(error, TransitionNotAllowed):
            document |= {"state": stored_form(error.state), "allowed_from": list(map(stored_form, error.allowed_from))}
        if isinstance(error, GuardNotSatisfied):
            document |= {"failed": list(error.failed), "sentences": list(error.sentences)}
        print_json(document)
        raise typer.Exit(status_of(error))
    fail(str(error), status_of(error))
