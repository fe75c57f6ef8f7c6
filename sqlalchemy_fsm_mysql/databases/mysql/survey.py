"""The facts about all tables of a schema, in three statements: for autogenerate, which compares them all.

Table by table, the same facts are eight statements for each state column.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, text

from ..triggers import InstalledTrigger, ours_among
from .literals import strings
from .shape import SHAPE, ColumnShape, shape_of, text_of

__all__ = ["Survey", "survey"]

_WHERE = "_SCHEMA = COALESCE(:schema, DATABASE())"
_COLUMNS = text(
    f"SELECT TABLE_NAME, {SHAPE} FROM information_schema.COLUMNS WHERE TABLE{_WHERE}"  # noqa: S608 - literals
)
_TRIGGERS = text(
    "SELECT EVENT_OBJECT_TABLE, TRIGGER_NAME, EVENT_MANIPULATION, ACTION_STATEMENT, DEFINER"  # noqa: S608 - literals
    f" FROM information_schema.TRIGGERS WHERE EVENT_OBJECT{_WHERE} ORDER BY TRIGGER_NAME"
)
_CHECKS = text(
    "SELECT t.TABLE_NAME, c.CONSTRAINT_NAME, c.CHECK_CLAUSE"  # noqa: S608 - literals
    " FROM information_schema.CHECK_CONSTRAINTS AS c"
    " JOIN information_schema.TABLE_CONSTRAINTS AS t ON t.CONSTRAINT_SCHEMA = c.CONSTRAINT_SCHEMA"
    f" AND t.CONSTRAINT_NAME = c.CONSTRAINT_NAME WHERE c.CONSTRAINT{_WHERE} AND t.CONSTRAINT_TYPE = 'CHECK'"
)
# MariaDB names a CHECK once for each table, and has no row in CHECK_CONSTRAINTS without its table.
_CHECKS_OF_MARIADB = text(
    "SELECT TABLE_NAME, CONSTRAINT_NAME, CHECK_CLAUSE"  # noqa: S608 - literals
    " FROM information_schema.CHECK_CONSTRAINTS"
    f" WHERE CONSTRAINT{_WHERE}"
)


@dataclass
class Survey:
    """The facts about the tables of one schema, each by the table's name.

    A table that is not in :attr:`columns` is not known here: the server may spell its name in another case.
    """

    columns: dict[str, dict[str, ColumnShape]] = field(default_factory=dict)
    trigger_rows: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)
    """Of each trigger its name, event, text and definer."""
    checks: dict[str, dict[str, str]] = field(default_factory=dict)

    def triggers(self, table: str) -> list[InstalledTrigger]:
        """The triggers of ours on *table*."""
        return list(ours_among(self.trigger_rows.get(table, ())))

    def checked(self, table: str, name: str) -> tuple[str, ...] | None:
        """The texts that the CHECK *name* lists; empty when there is none, None when its spelling is ambiguous."""
        clause = self.checks.get(table, {}).get(name, "")
        return None if "\\" in clause else strings(clause)


def survey(connection: Connection, schema: str | None) -> Survey:
    """The facts about all tables of *schema* that the account may see; None is the connection's own schema."""
    found, where = Survey(), {"schema": schema}
    for table, *column in connection.execute(_COLUMNS, where):
        found.columns.setdefault(table, {})[str(column[0])] = shape_of(column)
    for table, *trigger in connection.execute(_TRIGGERS, where):
        found.trigger_rows.setdefault(table, []).append(tuple(trigger))
    is_mariadb = bool(getattr(connection.dialect, "is_mariadb", False))
    for table, name, clause in connection.execute(_CHECKS_OF_MARIADB if is_mariadb else _CHECKS, where):
        # MySQL writes the clause as a literal: each quote has a backslash.
        written = text_of(clause) if is_mariadb else re.sub(r"(?<!\\)\\'", "'", text_of(clause))
        found.checks.setdefault(table, {})[str(name)] = written
    return found
