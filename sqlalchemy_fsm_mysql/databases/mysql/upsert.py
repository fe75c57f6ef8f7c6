"""``fire_or_create`` on MySQL and MariaDB: INSERT … ON DUPLICATE KEY UPDATE, whose answer reports the outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Column, ColumnElement, Connection, Executable, bindparam, case, func, select

from ...errors import FireError
from ...errors.texts import row_label, shown
from ...sql.code import CREATED, HIDDEN, NONCE_BITS, OFFSET, TAKEN, Created, Reading, answered, is_cut, nonce
from ...sql.events import KEY, VALUE, EventSQL, number
from ...sql.exact import written_state
from ..history import KEEP_ROWCOUNT
from ..ready import built_once
from ..transactions import Transactions
from .remembered import is_remembered_at_once

__all__ = ["MySQLUpsert"]


@dataclass(frozen=True, eq=False)
class MySQLUpsert:
    """One statement. Its code contains a nonce, because the session may still remember an earlier upsert's answer."""

    transactions: Transactions

    def can_upsert(self, connection: Connection) -> bool:
        return is_remembered_at_once(connection)

    def upsert(
        self,
        connection: Connection,
        event: EventSQL,
        names: tuple[str, ...],
        target: str,
        parameters: Mapping[str, Any],
    ) -> Reading | Created:
        """Insert a row, or fire on the row with its key; see :class:`~..upsert.Upsert`.

        The answer has three forms:

        - the whole code, at least OFFSET: the row was there, and the code is this statement's own;
        - a small number with row count 1, an AUTO_INCREMENT id: the row was created;
        - anything else says too little. A table with triggers hides the code, MariaDB's connector reports its lower
          half, and a created row without AUTO_INCREMENT gives 0. Then the session is asked what it remembers, and the
          nonce shows whether this statement has written it. If it has not, the row was created: its row count is 1,
          and that of a row that was changed is 2.

        Raises: FireError for any other answer; the transaction must be rolled back.
        """
        import secrets  # imports OpenSSL's hashes, so only the programs that upsert pay for it

        mark = nonce(secrets.randbits(NONCE_BITS))
        # Outside of a transaction, a proxy may ask another session than the one that has inserted.
        with self.transactions.together(connection):
            result = connection.execute(
                self.upsert_statement(event, names, target),
                {**parameters, "fsm_nonce": mark},
                execution_options=KEEP_ROWCOUNT,
            )
            remembered = result.lastrowid or 0
            is_new_id = result.rowcount == 1 and remembered and not is_cut(remembered, mark)
            if remembered < OFFSET and not is_new_id:
                remembered = int(connection.execute(select(func.last_insert_id())).scalar_one())
            code = answered(remembered, mark)
            if code is None and result.rowcount != 1:
                self.transactions.abandon(connection)
                key = tuple(parameters[KEY.format(i)] for i in range(len(event.row.key)))
                row = row_label(event.row.table.name, key[0] if len(key) == 1 else key)
                answer = f"the upsert of {shown(event.name)} answers by row count {result.rowcount} and no outcome"
                raise FireError(f"{row}: {answer}; roll back", event=event.name)
        return CREATED if code is None else event.read(code)

    @built_once
    def upsert_statement(self, event: EventSQL, names: tuple[str, ...], target: str) -> Executable:
        """The INSERT with values for the columns *names* and the state *target*, and its UPDATE."""
        # The dialect is imported here and not at the top: importing it takes as long as the rest of this library, and
        # a program that only declares a model does not need it.
        from sqlalchemy.dialects import mysql

        row = event.row
        values: dict[Column[Any], ColumnElement[Any]] = {
            row.table.c[name]: bindparam(VALUE.format(name), type_=row.table.c[name].type) for name in names
        }
        values[row.state] = written_state(row.state, target)
        mark = bindparam("fsm_nonce", type_=BigInteger())
        code = case((row.is_key(), event.code()), else_=number(HIDDEN)) + mark + number(OFFSET)
        least = mark + number(OFFSET + TAKEN)
        # The first assignment computes the code and remembers it; the others read the remembered value.
        first, *rest = event.assignments()
        assigned = [(first[0], case((func.last_insert_id(code) >= least, first[1]), else_=first[0]))]
        assigned += [(column, case((func.last_insert_id() >= least, value), else_=column)) for column, value in rest]
        # SQLAlchemy finds the columns by their keys, and drops an assignment whose name is no column's key.
        return mysql.insert(row.table).values(values).on_duplicate_key_update([(c.key, value) for c, value in assigned])
