"""What a command is told to work on: the errors of :mod:`..lookup`, as a command line tells them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import typer

from ..errors import FSMError
from ..errors.texts import listed
from ..machine import Machine
from ..operations import lookup
from ..orm.column import MappedState
from ..sql.events import EventSQL

R = TypeVar("R")


def state_at(target: str) -> MappedState:
    """The state column that *target*, ``module:Model.state``, names.

    Raises: typer.BadParameter, telling which part of *target* does not fit and what would.
    """
    return _told(lookup.state_at, target)


def machine_at(target: str) -> tuple[Machine, MappedState | None]:
    """The machine that *target* names, ``module:Model.state`` or ``module:machine``, and in the first case its column.

    Raises: typer.BadParameter.
    """
    return _told(lookup.machine_at, target)


def event_at(mapped: MappedState, name: str) -> EventSQL:
    """The event *name* of the column, as SQL.

    Raises: typer.BadParameter, naming the events there are.
    """
    known = list(mapped.machine.events)
    if name not in known:
        raise typer.BadParameter(f"{mapped.label} has no event {name!r}; it has {listed(map(repr, known))}.")
    try:
        return mapped.event(name)
    except FSMError as error:
        raise typer.BadParameter(str(error)) from error


def complete_event(context: typer.Context, incomplete: str) -> list[str]:
    """The events that a shell offers, once the column is typed."""
    try:
        machine, _ = lookup.machine_at(context.params.get("target") or "")
    except lookup.NotFound:
        return []
    return [name for name in machine.events if name.startswith(incomplete)]


def _told(find: Callable[[str], R], target: str) -> R:
    try:
        return find(target)
    except lookup.NotFound as error:
        raise typer.BadParameter(str(error)) from error
