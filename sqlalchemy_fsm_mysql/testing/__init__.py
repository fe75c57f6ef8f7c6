"""Helpers for the tests of those who have a machine; no plugin, and no test framework needed but where it says so.

:func:`every_cell` lists what has to be tried, :func:`assert_moves` and :func:`assert_refused` try it on a row,
:func:`sqlite_session` has a database for it, :func:`frozen_hooks` keeps hooks from acting,
:func:`hooks_follow_session` calls them where a fixture never commits, :func:`race` has processes fire at once, and
:func:`state_machine_for` has Hypothesis look for a sequence of events that breaks something.
"""

from __future__ import annotations

from .assertions import assert_moves, assert_refused
from .cells import Cell, every_cell
from .hooks import HookCall, frozen_hooks, hooks_follow_session
from .race import RaceReport, race
from .sequences import state_machine_for
from .sqlite import sqlite_engine, sqlite_session

__all__ = [
    "Cell",
    "HookCall",
    "RaceReport",
    "assert_moves",
    "assert_refused",
    "every_cell",
    "frozen_hooks",
    "hooks_follow_session",
    "race",
    "sqlite_engine",
    "sqlite_session",
    "state_machine_for",
]
