"""What a command is told to work on: the errors of :mod:`..lookup`, as a command line tells them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import typer

from .. import lookup
from ..column import MappedState
from ..machine import Machine

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


def _told(find: Callable[[str], R], target: str) -> R:
    try:
        return find(target)
    except lookup.NotFound as error:
        raise typer.BadParameter(str(error)) from error
