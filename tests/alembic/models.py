"""A table with a state column, for models that change. Nothing of Alembic is imported here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, Integer, MetaData, String, Table

from sqlalchemy_fsm_mysql import Event, Machine, StateType


def machine_of(states: Sequence[str], **more: Any) -> Machine:
    """A machine in which *states* follow each other."""
    events = [Event(f"To{i}", {states[:i] if i > 1 else states[0]: state}) for i, state in enumerate(states) if i]
    return Machine(initial=states[0], states=states, events=[Event(e.name, e.transitions) for e in events], **more)


def orders(
    states: Sequence[str], storage: Any = "enum", *, schema: str | None = None, name: str = "orders", **more: Any
) -> MetaData:
    """A table with a state column and others."""
    metadata = MetaData()
    machine = machine_of(tuple(states), **more)
    Table(
        name,
        metadata,
        Column("id", Integer(), primary_key=True),
        Column(
            "state",
            StateType(machine, storage=storage),
            nullable=False,
            server_default=machine.stored(machine.initial),
            comment="where it's at: 100%",
        ),
        Column("note", String(20), server_default="n'o"),
        schema=schema,
    )
    return metadata
