"""The arguments that several commands share: the state column, the row's key, the event, its payload."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..errors import FSMError
from ..errors.texts import listed, shown
from ..operations.lookup import NotFound, machine_at
from ..orm.mapped import MappedState
from ..sql.events import EventSQL

ACTOR_CHARACTERS = 255


def complete_event(context: typer.Context, incomplete: str) -> list[str]:
    """The events that a shell offers, once the column is typed."""
    try:
        machine, _ = machine_at(context.params.get("target") or "")
    except NotFound:
        return []
    return [name for name in machine.events if name.startswith(incomplete)]


TargetArgument = Annotated[
    str,
    typer.Argument(metavar="MODULE:MODEL.STATE", help="The state column: shop.models:Order.state", show_default=False),
]
MachineArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:MODEL.STATE",
        help="The state column, shop.models:Order.state, or a machine, shop.models:machine",
        show_default=False,
    ),
]
KeyArgument = Annotated[
    str,
    typer.Argument(
        metavar="KEY",
        help="The row's primary key. A key of several columns has commas between its values: 'north,42'",
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
        help="The event's payload: amount=30, which is read by the type of the column that it is compared with or"
        " assigned to; or as JSON, amount:=30",
        show_default=False,
    ),
]
ActorOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The person or program that fires, for the history. At most 255 characters.",
        show_default=False,
    ),
]
DetailsOption = Annotated[
    str | None,
    typer.Option(metavar="JSON", help="JSON for the history, such as '{\"ticket\": 7}'", show_default=False),
]


def event_at(mapped: MappedState, name: str) -> EventSQL:
    """The event *name* of the column, as SQL.

    Raises: typer.BadParameter, naming the events there are.
    """
    known = list(mapped.machine.events)
    if name not in known:
        raise typer.BadParameter(f"{mapped.label} has no event {shown(name)}; it has {listed(map(repr, known))}.")
    try:
        return mapped.event(name)
    except FSMError as error:
        raise typer.BadParameter(str(error)) from error


def require_history(mapped: MappedState, **given: Any) -> None:
    """Check that a history exists to keep what is *given*, by the option's name.

    Raises: typer.BadParameter.
    """
    options = [f"--{name}" for name, value in given.items() if value is not None]
    if options and mapped.extras.history is None:
        raise typer.BadParameter(
            f"{mapped.label} has no TransitionHistory, which would store it: leave the option out.",
            param_hint=", ".join(options),
        )
