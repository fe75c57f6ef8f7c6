"""Small wrong versions of how rows are found, locked, moved and reported. See test_wrong_rows.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

from sqlalchemy import Column, ColumnElement, Connection, Executable, Select, func, select, update
from sqlalchemy.dialects import mysql

from sqlalchemy_fsm_mysql.databases.meanings import Meaning
from sqlalchemy_fsm_mysql.databases.mysql.errors import CODES
from sqlalchemy_fsm_mysql.databases.ready import ReadyText
from sqlalchemy_fsm_mysql.databases.rows import RowStatements
from sqlalchemy_fsm_mysql.databases.sets import SetStatements, among, bindable
from sqlalchemy_fsm_mysql.orm import claims
from sqlalchemy_fsm_mysql.orm.sessions import Writer
from sqlalchemy_fsm_mysql.sql.code import NO_ROW
from sqlalchemy_fsm_mysql.sql.events import EventSQL, StateRow
from sqlalchemy_fsm_mysql.sql.history import HistorySQL

Wrong = Callable[[], AbstractContextManager[Any]]


@contextmanager
def locks_on_the_replica() -> Iterator[None]:
    """The session's ``get_bind()`` chooses where the rows of a claim are locked, and no UPDATE looks at their state."""

    def take(
        self: SetStatements,
        connection: Connection,
        event: EventSQL,
        branch: int,
        keys: Any,
        parameters: Mapping[str, Any],
    ) -> int:
        statement: Executable = (
            update(event.row.table)
            .where(among(event.row.key))
            .ordered_values(*event.branch_assignments(event.branches[branch]))
        )
        connection.execute(statement, {**parameters, "fsm_keys": bindable(keys)})
        return len(keys)

    with (
        patch.object(Writer, "reading", lambda self, connection: nullcontext()),
        patch.object(SetStatements, "take_keys", take),
    ):
        yield


def upserts_by_name() -> AbstractContextManager[Any]:
    """The columns of an upsert's UPDATE are given by their names: SQLAlchemy drops those that have another key."""
    right = mysql.Insert.on_duplicate_key_update

    def by_name(self: mysql.Insert, values: Any) -> mysql.Insert:
        table: Any = self.table
        return right(self, [(table.c[key].name, value) for key, value in values])

    return patch.object(mysql.Insert, "on_duplicate_key_update", by_name)


def takes_null_for_no_row() -> AbstractContextManager[Any]:
    """The state of a missing row is read as the state NULL is."""
    right = RowStatements.stored_state

    def stored_state(self: RowStatements, *arguments: Any) -> Any:
        found = right(self, *arguments)
        return NO_ROW if found is None else found

    return patch.object(RowStatements, "stored_state", stored_state)


def reads_edited_instances_again() -> AbstractContextManager[Any]:
    """A claim expires the instances that it has moved, with their edits."""
    return patch.object(claims, "unedited", lambda instance: None)


def loads_an_old_snapshot() -> AbstractContextManager[Any]:
    """The claimed instances are read without a lock."""
    return patch.object(Select, "with_for_update", _only_to_choose)


_lock = Select.with_for_update


def _only_to_choose(self: Select[Any], **how: Any) -> Select[Any]:
    return _lock(self, **how) if how else self


def reads_the_whole_history() -> AbstractContextManager[Any]:
    """The next number of a history row is a correlated maximum."""

    def own(self: HistorySQL, row: StateRow, *, are_locked: bool) -> dict[Column[Any], ColumnElement[Any]]:
        own: dict[Column[Any], ColumnElement[Any]] = dict(zip(self.row_key, row.key, strict=True))
        earlier = self.table.alias()
        same = [earlier.c[part.key] == own[part] for part in self.row_key]
        latest = select(func.coalesce(func.max(earlier.c.sequence), 0) + 1).where(*same).with_for_update()
        return {**own, self.table.c.sequence: latest.scalar_subquery()}

    return patch.object(HistorySQL, "own", own)


def leaves_duplicates_to_the_driver() -> AbstractContextManager[Any]:
    """A unique key that an effect breaks is no error of the library's."""
    return patch.dict(CODES, {1062: Meaning.UNRELATED})


def binds_without_a_net() -> AbstractContextManager[Any]:
    """Whatever a column's type raises reaches the caller."""

    def values(self: ReadyText, parameters: Mapping[str, Any]) -> tuple[Any, ...]:
        given = {**self.constants, **parameters}
        for name, processor in self.processors:
            given[name] = processor(given[name])
        return tuple(given[name] for name in self.names)

    return patch.object(ReadyText, "values", values)


WRONG: dict[str, Wrong] = {
    "": nullcontext,
    "locks on the replica": locks_on_the_replica,
    "upserts by name": upserts_by_name,
    "takes NULL for no row": takes_null_for_no_row,
    "reads edited instances again": reads_edited_instances_again,
    "loads an old snapshot": loads_an_old_snapshot,
    "reads the whole history": reads_the_whole_history,
    "leaves duplicates to the driver": leaves_duplicates_to_the_driver,
    "binds without a net": binds_without_a_net,
}
