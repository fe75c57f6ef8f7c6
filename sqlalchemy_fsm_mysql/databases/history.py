"""The statements that add history rows, for any database with row locks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Executable, String, bindparam, case, insert, literal, select

from ..sql.clock import utc_now
from ..sql.events import EventSQL, StateRow
from ..sql.exact import recorded
from ..sql.history import ATTRIBUTION, HistorySQL
from .ready import built_once
from .sets import among, bindable

__all__ = ["KEEP_ROWCOUNT", "HistoryStatements"]

# SQLAlchemy closes the result of an INSERT at once, and the cursor with it; some drivers then forget the row count.
KEEP_ROWCOUNT = {"preserve_rowcount": True}

KEYS_OF = "fsm_keys_{}"
"""The parameter with the keys of the rows that take the branch with this number."""


class HistoryStatements:
    """Reads the row's last number, then inserts the history row."""

    def record(self, connection: Connection, history: HistorySQL, parameters: Mapping[str, Any]) -> int:
        """Add a history row for a transition of this transaction, and return its number.

        The transition has locked the row itself, so no other transaction adds a history row for it.
        """
        sequence = connection.execute(self.read_number(history), parameters).scalar_one()
        connection.execute(self.insert_row(history), {**parameters, "fsm_sequence": sequence})
        return int(sequence)

    def record_statements(self, history: HistorySQL) -> list[Executable]:
        """The statements that :meth:`record` sends, in order."""
        return [self.read_number(history), self.insert_row(history)]

    def require_waiting(self, connection: Connection) -> None:
        """Refuse a locking read that would not wait for a history row that another transaction is about to commit.

        Raises: FSMError.
        """

    def record_sweep(
        self,
        connection: Connection,
        history: HistorySQL,
        event: EventSQL,
        criterion: ColumnElement[bool],
        parameters: Mapping[str, Any],
    ) -> int:
        """Lock all rows under *criterion*, and add a history row for the move of each; how many rows there are."""
        own = history.own(event.row, are_locked=False)
        values = {**history.values(), **own, history.table.c.at: utc_now()}
        # MariaDB spends a tenth of the statement on a NULL that is written out, so a column is left out when NULL.
        for name in ATTRIBUTION:
            if parameters[f"fsm_{name}"] is None and history.table.c[name].server_default is None:
                del values[history.table.c[name]]
        state = event.row.state
        values[history.table.c.source] = recorded(state, state)
        values[history.table.c.target] = recorded(state, event.after())
        rows = select(*values.values()).where(criterion).with_for_update()
        statement = insert(history.table).from_select(list(values), rows)
        return connection.execute(statement, parameters, execution_options=KEEP_ROWCOUNT).rowcount

    def record_keys(
        self,
        connection: Connection,
        history: HistorySQL,
        row: StateRow,
        keys: Sequence[tuple[Any, ...]],
        parameters: Mapping[str, Any],
    ) -> None:
        """Add a history row for each of the locked rows with these *keys*."""
        if "record_keys" not in history.cache:
            values = {**history.values(), **history.own(row, are_locked=True), history.table.c.at: utc_now()}
            rows = select(*values.values()).where(among(row.key))
            history.cache["record_keys"] = insert(history.table).from_select(list(values), rows)
        connection.execute(history.cache["record_keys"], {**parameters, "fsm_keys": bindable(keys)})

    def record_taken(
        self,
        connection: Connection,
        history: HistorySQL,
        event: EventSQL,
        taken: Mapping[int, Sequence[tuple[Any, ...]]],
        parameters: Mapping[str, Any],
    ) -> None:
        """Add a history row for each row that *event* has moved; *taken* has the keys of each branch."""
        lists = {KEYS_OF.format(branch): bindable(keys) for branch, keys in taken.items()}
        if len(taken) == 1:
            (branch,) = (event.branches[number] for number in taken)
            lists = {"fsm_source": branch.source, "fsm_target": branch.target}  # type: ignore[dict-item]  # no lists
        every = [key for keys in taken.values() for key in bindable(keys)]
        key = "insert_taken", history.table, tuple(taken)
        if key not in event.cache:
            event.cache[key] = self.insert_taken(event, history, tuple(taken))
        connection.execute(event.cache[key], {**parameters, **lists, "fsm_keys": every})

    def insert_taken(self, event: EventSQL, history: HistorySQL, branches: tuple[int, ...]) -> Executable:
        """The INSERT of the history rows of moved rows that have taken *branches*."""
        row, columns = event.row, history.table.c
        values = {**history.values(), **history.own(row, are_locked=True), columns.at: utc_now()}
        if len(branches) > 1:  # the rows show their targets by now, and not their sources
            for name in ("source", "target"):
                whens = [(among(row.key, KEYS_OF.format(i)), getattr(event.branches[i], name)) for i in branches]
                values[columns[name]] = case(*((here, literal(state, String())) for here, state in whens))
        rows = select(*values.values()).where(among(row.key))
        return insert(history.table).from_select(list(values), rows)

    @built_once
    def read_number(self, history: HistorySQL) -> Executable:
        """A read of the number that the row's next history row gets."""
        # The transition has locked the row, so no other transaction adds a history row for it. Standard SQL has no
        # lock on an aggregate, and PostgreSQL refuses one.
        return select(history.next_sequence()).where(history.of_row())

    @built_once
    def insert_row(self, history: HistorySQL) -> Executable:
        """The INSERT of a history row whose number is the parameter ``fsm_sequence``."""
        columns = history.table.c
        values = {**history.values(), columns.sequence: bindparam("fsm_sequence"), columns.at: utc_now()}
        return insert(history.table).values(values)
