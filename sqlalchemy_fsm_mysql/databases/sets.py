"""The statements that move a set of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BindParameter,
    Column,
    ColumnElement,
    Connection,
    Executable,
    and_,
    bindparam,
    case,
    or_,
    tuple_,
    update,
)

from ..sql.events import EventSQL, number
from ..sql.exact import compared, name_in
from .ready import ReadyStatement, built_once

__all__ = ["SetStatements", "among", "bindable", "is_in_source"]


class SetStatements:
    """Moves locked rows by their keys, one UPDATE for each branch: every database can do that."""

    def can_sweep(self, connection: Connection, event: EventSQL) -> bool:
        """Whether one UPDATE can move a set of rows by *event* and count how many took which branch."""
        return False

    def sweep(
        self,
        connection: Connection,
        event: EventSQL,
        criterion: ColumnElement[bool],
        parameters: Mapping[str, Any],
        statements: dict[Any, Any] | None = None,
    ) -> dict[int, int]:
        """Move all rows under *criterion* by one UPDATE; how many rows took which branch. Only where ``can_sweep``.

        *statements* keeps the statements with this criterion; None when no other call has it.
        """
        raise NotImplementedError

    def take_rows(
        self,
        connection: Connection,
        event: EventSQL,
        taken: Mapping[int, Sequence[tuple[Any, ...]]],
        parameters: Mapping[str, Any],
    ) -> int:
        """Move locked rows, by one UPDATE if possible; *taken* has the keys of each branch.

        Returns how many rows were in a source state of the event.
        """
        if len(taken) == 1 or event.is_guarded:
            return sum(self.take_keys(connection, event, branch, keys, parameters) for branch, keys in taken.items())
        keys = [key for alike in taken.values() for key in alike]
        return self.ready_take(event, None).count(connection, {**parameters, "fsm_keys": bindable(keys)})

    def take_keys(
        self,
        connection: Connection,
        event: EventSQL,
        branch: int,
        keys: Sequence[tuple[Any, ...]],
        parameters: Mapping[str, Any],
    ) -> int:
        """Move the locked rows with these *keys* along one branch; how many were in its source state."""
        return self.ready_take(event, branch).count(connection, {**parameters, "fsm_keys": bindable(keys)})

    @built_once
    def ready_take(self, event: EventSQL, branch: int | None) -> ReadyStatement:
        """:meth:`take_many`, or without a branch :meth:`take_by_state`, compiled once for each dialect."""
        return ReadyStatement(self.take_by_state(event) if branch is None else self.take_many(event, branch))

    @built_once
    def take_many(self, event: EventSQL, branch: int) -> Executable:
        """The UPDATE of rows, by their keys, that are known to take the branch with this number."""
        taken = event.branches[branch]
        assignments = event.branch_assignments(taken)
        # By CASE, which uses no index: by one on the state, the UPDATE would wait for rows that others have locked.
        source = name_in(event.row.state, taken.source)
        is_source = case((source, number(1)), value=compared(event.row.state), else_=number(0)) == number(1)
        if not taken.source:  # of a migration, whose source may be NULL, too
            is_source = or_(is_source, event.row.state.is_(None))
        return update(event.row.table).where(among(event.row.key), is_source).ordered_values(*assignments)

    @built_once
    def take_by_state(self, event: EventSQL) -> Executable:
        """The UPDATE of locked rows, by their keys, whose state alone decides which branch each takes."""
        is_here = and_(among(event.row.key), is_in_source(event))
        return update(event.row.table).where(is_here).ordered_values(*event.assignments())


def is_in_source(event: EventSQL) -> ColumnElement[bool]:
    """Whether a row is in a source state of *event*, by CASE, which uses no index."""
    whens = [(name_in(event.row.state, source), number(1)) for source in event.from_source()]
    return case(*whens, value=compared(event.row.state), else_=number(0)) == number(1)


def among(key: Sequence[Column[Any]], name: str = "fsm_keys") -> ColumnElement[bool]:
    """Whether a row's key is one of the parameter *name*."""
    keys: BindParameter[Any] = bindparam(name, expanding=True)
    return key[0].in_(keys) if len(key) == 1 else tuple_(*key).in_(keys)


def bindable(keys: Sequence[tuple[Any, ...]]) -> list[Any]:
    """*keys* as the parameter ``fsm_keys`` takes them."""
    return [key[0] if len(key) == 1 else key for key in keys]
