"""Helpers for the tests of those who have a machine. Only what its docstring says needs pytest or Hypothesis.

:func:`every_cell` lists the cells to try, :func:`assert_moves` and :func:`assert_refused` try it on a row,
:func:`sqlite_session` has a database for it, :func:`frozen_hooks` keeps hooks from acting,
:func:`hooks_follow_session` calls them where a fixture never commits, :func:`private_server`
and :func:`seekdb` start a server, :func:`race` has processes fire at once, and
:func:`state_machine_for` has Hypothesis look for a sequence of events that breaks something.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .assertions import assert_moves as assert_moves
    from .assertions import assert_refused as assert_refused
    from .cells import Cell as Cell
    from .cells import every_cell as every_cell
    from .hooks import HookCall as HookCall
    from .hooks import frozen_hooks as frozen_hooks
    from .hooks import hooks_follow_session as hooks_follow_session
    from .races import RaceReport as RaceReport
    from .races import race as race
    from .sequences import state_machine_for as state_machine_for
    from .servers import ServerUnavailable as ServerUnavailable
    from .servers import any_server as any_server
    from .servers import private_server as private_server
    from .servers import seekdb as seekdb
    from .sqlite import sqlite_engine as sqlite_engine
    from .sqlite import sqlite_session as sqlite_session

# Imported at the first use: pytest loads this package for the plugin, in every run.
_HOMES = {
    "assertions": (
        "assert_moves",
        "assert_refused",
    ),
    "cells": (
        "Cell",
        "every_cell",
    ),
    "hooks": (
        "HookCall",
        "frozen_hooks",
        "hooks_follow_session",
    ),
    "races": (
        "RaceReport",
        "race",
    ),
    "sequences": ("state_machine_for",),
    "servers": (
        "ServerUnavailable",
        "any_server",
        "private_server",
        "seekdb",
    ),
    "sqlite": (
        "sqlite_engine",
        "sqlite_session",
    ),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)  # noqa: PLE0605 - a list of the table's names, and not another copy of them


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_HOME[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
