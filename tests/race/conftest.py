"""The processes are started once for all races."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.race.load import Team, team

PROCESSES = 8


@pytest.fixture(scope="session")
def racers() -> Iterator[Team]:
    with team(PROCESSES) as racers:
        yield racers


class Fires(NamedTuple):
    """How often each process fires: *few* where a fire is slow (conflicts, one writer at a time)."""

    many: int
    few: int


@pytest.fixture(scope="session")
def fires() -> Fires:
    """FSM_RACE_FIRES, which CI sets to 2,000, is as many and as few; the usual run is meant to be short."""
    number = int(os.environ.get("FSM_RACE_FIRES", "0"))
    return Fires(number, number) if number else Fires(250, 50)
