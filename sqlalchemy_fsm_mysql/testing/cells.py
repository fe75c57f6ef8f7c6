"""All cells of a machine's table of states and events, to parametrise a test with."""

from __future__ import annotations

from typing import NamedTuple

from ..errors.texts import State, shown, stored_form
from ..machine import Machine

__all__ = ["Cell", "every_cell"]


class Cell(NamedTuple):
    """An event on a row in a state.

    `source` is the state, `event` the event's name, and `target` the state after the event; None if the event is
    refused.
    """

    source: State
    event: str
    target: State | None

    @property
    def is_refused(self) -> bool:
        return self.target is None

    def __str__(self) -> str:
        return f"{stored_form(self.source)}-{self.event}"


def every_cell(machine: Machine) -> list[Cell]:
    """Every state with every event, in the machine's order, to parametrise an exhaustive test.

    Returns: a list of `Cell`. Of several guarded targets, a cell has the first, as in ``machine.targets()``;
    ``machine.transitions(event)`` has all.

    >>> from sqlalchemy_fsm_mysql import Event
    >>> machine = Machine(initial="new", events=[Event("Pay", {"new": "paid"})])
    >>> every_cell(machine)
    [Cell(source='new', event='Pay', target='paid'), Cell(source='paid', event='Pay', target=None)]

    With pytest, use one of::

        @pytest.mark.parametrize("cell", every_cell(machine), ids=str)
        @pytest.mark.parametrize(("source", "event", "target"), every_cell(machine))

    Raises: TypeError for a value that is not a machine.
    """
    given: object = machine
    if not isinstance(given, Machine):
        raise TypeError(f"a Machine is needed, not {shown(given)}")
    return [
        Cell(state, event, machine.targets(event).get(state)) for state in machine.states for event in machine.events
    ]
