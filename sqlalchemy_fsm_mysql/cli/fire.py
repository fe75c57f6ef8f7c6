"""``fire`` and ``history``: one row."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from ..errors import FireError, TransitionNotAllowed
from ..errors.texts import row_label, stored_form
from ..orm.column import MappedState
from ..orm.firing import fire_key
from ..orm.units import run_transaction
from ..outcomes import Moved
from .database import REFUSED, UrlOption, database, fail, status_of
from .lookup import complete_event, event_at, state_at
from .output import JsonOption, print_json, print_table
from .values import json_value, key, payload

TargetArgument = Annotated[
    str,
    typer.Argument(metavar="MODULE:MODEL.STATE", help="The state column: shop.models:Order.state", show_default=False),
]
KeyArgument = Annotated[
    str,
    typer.Argument(
        metavar="KEY",
        help="The row's primary key; of several parts, with commas between them: 'north,42'",
        show_default=False,
    ),
]
EventArgument = Annotated[
    str,
    typer.Argument(metavar="EVENT", help="The event's name.", show_default=False, autocompletion=complete_event),
]
PayloadArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME=VALUE",
        help="The event's payload: amount=30, by the type of the column that it is compared with or assigned to;"
        " or as JSON, amount:=30",
        show_default=False,
    ),
]
ActorOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Who does it, for the history. At most 255 characters.", show_default=False),
]
DetailsOption = Annotated[
    str | None,
    typer.Option(metavar="JSON", help="Anything else for the history: '{\"ticket\": 7}'", show_default=False),
]


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
            help="Makes the fire idempotent: called again with the same token, nothing moves. Needs a history.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fire an event on one row, and commit.

    The exit status is 0 when the row was moved, 1 when it was refused or is not there, 2 when the call is wrong or
    the database cannot be used. The hooks of your models are called, as far as the module imports them.
    """
    mapped = state_at(target)
    sql = event_at(mapped, event)
    identity, values = key(mapped, row), payload(mapped, sql, given or ())
    said = {
        "column": mapped.attribute,
        "actor": actor,
        "details": None if details is None else json_value(details, "--details"),
        "token": token,
    }
    require_history(mapped, actor=actor, details=details, token=token)

    def work(session: Session) -> Moved[Any]:
        return fire_key(mapped.model, identity, sql.name, session, **said, **values)

    with database(url) as engine:
        try:
            moved = run_transaction(sessionmaker(engine), work)
        except FireError as error:
            _tell_refusal(error, as_json=as_json)
    _tell_move(mapped, moved, as_json=as_json)


def history(
    target: TargetArgument,
    row: KeyArgument,
    url: UrlOption = None,
    last: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the last N.", show_default="all")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what happened to one row: each transition, the oldest first. Times are in UTC.

    The exit status is 1 when there is no such row, nor a history of one.
    """
    mapped = state_at(target)
    recorded = mapped.extras.history
    if recorded is None:
        raise typer.BadParameter(f"{mapped.label} has no TransitionHistory: nothing is recorded.")
    identity = key(mapped, row)
    parts = identity if isinstance(identity, tuple) else (identity,)
    with database(url) as engine, Session(engine) as session:
        records = recorded.rows(session, parts, {})
        parameters = dict(zip(mapped.key_names, parts, strict=True))
        states = select(mapped.row.state).where(mapped.row.is_key())
        state = session.connection(bind_arguments={"mapper": mapped.mapper}).execute(states, parameters).scalar()
    if state is None and not records:
        fail(f"{row_label(mapped.table_name, identity)}: there is no row with this key.", REFUSED)
    told = [_record(record) for record in (records if last is None else records[-last:])]
    if as_json:
        print_json(told)
        return
    label = row_label(mapped.table_name, identity)
    now = "and is deleted" if state is None else f"and is {stored_form(state)!r}"
    title = f"{label} was moved {len(records)} time{'' if len(records) == 1 else 's'}, {now}"
    print_table(_COLUMNS, [list(record.values()) for record in told], title=title)


_COLUMNS = ("sequence", "at", "event", "source", "target", "actor", "details", "token")


def _record(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in _COLUMNS}


def require_history(mapped: MappedState, **said: Any) -> None:
    given = [f"--{name}" for name, value in said.items() if value is not None]
    if given and mapped.extras.history is None:
        raise typer.BadParameter(
            f"{mapped.label} has no TransitionHistory to keep it: leave it out.", param_hint=", ".join(given)
        )


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
    again = "; it was moved before, with this token" if moved.replayed else ""
    typer.echo(f"{row_label(mapped.table_name, moved.key)}: {source} -> {target}{again}")


def _tell_refusal(error: FireError, *, as_json: bool) -> None:
    if as_json:
        refusal = isinstance(error, TransitionNotAllowed)
        told: dict[str, Any] = {"outcome": "refused" if refusal else "failed", "error": type(error).__name__}
        told |= {"key": error.key, "event": error.event, "message": str(error)}
        if isinstance(error, TransitionNotAllowed):
            told |= {"state": stored_form(error.state), "allowed_from": list(map(stored_form, error.allowed_from))}
        print_json(told)
        raise typer.Exit(status_of(error))
    fail(str(error), status_of(error))
