"""Sets of rows on MySQL and MariaDB: one UPDATE moves them and counts which branch each row takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Executable,
    Integer,
    Update,
    and_,
    case,
    func,
    literal_column,
    null,
    select,
    text,
    update,
)

from ...sql.code import HIDDEN, OFFSET
from ...sql.events import Branch, EventSQL, number
from ...sql.exact import written_state
from ..history import KEYS_OF
from ..ready import ReadyStatement, built_once, shared
from ..sets import SetStatements, among, bindable, is_in_source
from ..transactions import Transactions
from .remembered import is_remembered_at_once
from .rows import REMEMBERED

__all__ = ["MySQLSets"]


@dataclass(frozen=True, eq=False)
class MySQLSets(SetStatements):
    """Counts in session variables while the UPDATE assigns the state.

    MySQL has no UPDATE … RETURNING, and a count before or after the UPDATE would count other rows than were moved.
    """

    transactions: Transactions

    def can_sweep(self, connection: Connection, event: EventSQL) -> bool:
        # OceanBase may run the UPDATE again within itself when others write, and then counts a row twice.
        return len(event.branches) == 1 or is_remembered_at_once(connection)

    def sweep(
        self,
        connection: Connection,
        event: EventSQL,
        criterion: ColumnElement[bool],
        parameters: Mapping[str, Any],
        statements: dict[Any, Any] | None = None,
    ) -> dict[int, int]:
        def build() -> Update:
            statement = update(event.row.table).where(criterion)
            if len(event.branches) > 1:
                return statement.ordered_values(*_counting(event, counters))
            # The criterion contains the event's only guard, so no guard is asked again after an effect was assigned.
            return statement.ordered_values(*event.branch_assignments(event.branches[0]))

        counters = [literal_column(f"@fsm_taken_{i}", Integer()) for i in range(1, len(event.branches))]
        statement = shared(statements, event, "sweep", build)
        if not counters:
            return {0: connection.execute(statement, parameters).rowcount}
        # Outside of a transaction, a proxy may send each of these statements to another session, with other variables.
        with self.transactions.together(connection):
            connection.execute(text("SET " + ", ".join(f"{counter} = 0" for counter in counters)))
            moved = connection.execute(statement, parameters).rowcount
            counted = [int(count) for count in connection.execute(select(*counters)).one()]
        # Counting costs some percent of the statement, so the first branch has no counter: it gets the remainder.
        return {i: count for i, count in enumerate([moved - sum(counted), *counted]) if count}

    def take_rows(
        self,
        connection: Connection,
        event: EventSQL,
        taken: Mapping[int, Sequence[tuple[Any, ...]]],
        parameters: Mapping[str, Any],
    ) -> int:
        if len(taken) == 1 or not event.is_guarded:
            return super().take_rows(connection, event, taken, parameters)
        if not is_remembered_at_once(connection):
            return sum(self.take_keys(connection, event, branch, keys, parameters) for branch, keys in taken.items())
        # Asked again, a guard may give another answer: it may read the clock. So the keys choose the branch.
        lists = {KEYS_OF.format(branch): bindable(keys) for branch, keys in taken.items()}
        every = [key for keys in lists.values() for key in keys]
        statement = self.ready_by_key(event, tuple(taken))
        return statement.count(connection, {**parameters, **lists, "fsm_keys": every})

    @built_once
    def ready_by_key(self, event: EventSQL, branches: tuple[int, ...]) -> ReadyStatement:
        """:meth:`take_by_key`, compiled once for each dialect."""
        return ReadyStatement(self.take_by_key(event, branches))

    @built_once
    def take_by_key(self, event: EventSQL, branches: tuple[int, ...]) -> Executable:
        """The UPDATE of locked rows along *branches*, each of which has the keys of its rows in a parameter."""
        row = event.row
        chosen = case(
            *((among(row.key, KEYS_OF.format(i)), number(event.branches[i].code)) for i in branches),
            else_=number(HIDDEN),
        )
        (column, value), *rest = event.assignments(REMEMBERED)
        remembered = func.last_insert_id(chosen + number(OFFSET))
        first = case((remembered >= number(OFFSET), value), else_=column)  # as in _counting()
        is_here = and_(among(row.key), is_in_source(event))
        return update(row.table).where(is_here).ordered_values((column, first), *rest)


def _counting(event: EventSQL, counters: Sequence[ColumnElement[int]]) -> list[tuple[Column[Any], ColumnElement[Any]]]:
    """The assignments of *event*; the last one, of the state, counts the branch that it takes, unless it is the first.

    For a guarded event the first assignment computes the row's code, before an effect changes what the guards read.
    """

    def counted(branch: Branch) -> ColumnElement[Any]:
        target = written_state(event.row.state, branch.target)
        if branch.number == 0:
            return target
        counter = counters[branch.number - 1]
        return case((counter.op(":=")(counter + number(1)).is_(None), null()), else_=target)

    if not event.is_guarded:
        return event.assignments(target=counted)
    (column, value), *rest = event.assignments(REMEMBERED, counted)
    remembered = func.last_insert_id(event.code() + number(OFFSET))
    # This comparison is always true. IS NOT NULL is not enough: MySQL knows that the function is never NULL, and does
    # not evaluate it.
    return [(column, case((remembered >= number(OFFSET), value), else_=column)), *rest]
