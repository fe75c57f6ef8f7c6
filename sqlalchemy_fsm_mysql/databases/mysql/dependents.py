"""The parts of a table of MySQL or MariaDB that use one of its columns, and so stand in the way of dropping it.

The servers refuse some of them when the column is dropped, by errors of many numbers. Triggers they leave broken, and
then refuse every write of the table. So all of them are looked for before anything is changed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from sqlalchemy import Connection, text

from .ddl import writing_dialect
from .literals import STRING

__all__ = ["dependents", "dependents_in", "names_in"]

_NAME = re.compile(rf'{STRING}|`((?:[^`]|``)*)`|"((?:[^"]|"")*)"', re.DOTALL)  # the last with ANSI_QUOTES
_TRIGGERS = text(
    "SELECT TRIGGER_NAME, ACTION_TIMING, ACTION_STATEMENT FROM information_schema.TRIGGERS"
    " WHERE EVENT_OBJECT_SCHEMA = COALESCE(:schema, DATABASE()) AND EVENT_OBJECT_TABLE = :table ORDER BY TRIGGER_NAME"
)


def dependents(
    connection: Connection,
    table: str,
    column: str,
    schema: str | None,
    *,
    own_triggers: Collection[str] = (),
    stays_readable: bool = False,
) -> list[str]:
    """The parts of *table* that use *column*, each described for people.

    Left out are *own_triggers*, by name; keys, which information_schema knows; and everything that is dropped together
    with the column. With *stays_readable*, a generated column takes its place, and triggers that only read it go on.
    """
    preparer = writing_dialect(connection.dialect).identifier_preparer
    name = preparer.quote_identifier(table)
    name = name if schema is None else f"{preparer.quote_identifier(schema)}.{name}"
    created = connection.exec_driver_sql(f"SHOW CREATE TABLE {name}", execution_options={"no_parameters": True}).one()
    found = list(dependents_in(str(created[1]), column, stays_readable=stays_readable))
    uses = re.compile(rf"\b(?:NEW|OLD)\s*\.\s*(?:`{re.escape(column)}`|{re.escape(column)}\b)", re.IGNORECASE)
    for trigger, timing, body in connection.execute(_TRIGGERS, {"schema": schema, "table": table}):
        # An AFTER trigger can only read.
        goes_on = stays_readable and timing == "AFTER"
        if trigger not in own_triggers and not goes_on and uses.search(str(body)):
            found.append(f"the trigger {trigger}")
    return found


def dependents_in(created: str, column: str, *, stays_readable: bool = False) -> Iterator[str]:
    """Those that *created*, the answer of SHOW CREATE TABLE, has.

    >>> line = "`is_paid` int GENERATED ALWAYS AS ((`status` = _utf8mb4'Paid')) VIRTUAL"
    >>> list(dependents_in(f"CREATE TABLE `orders` (\\n  `status` text,\\n  {line}\\n)", "status"))
    ['the column is_paid']
    """
    for line in (one.strip() for one in created.split("\n")[1:]):
        names = names_in(line)
        lowered = [name.lower() for name in names]
        if column.lower() not in lowered:
            continue
        kind = line.split(" ", 1)[0]
        is_key = kind in ("PRIMARY", "UNIQUE", "KEY", "FULLTEXT", "SPATIAL")
        if line.startswith(("`", '"')):
            if lowered[0] != column.lower():
                yield f"the column {names[0]}"
        elif kind == "CONSTRAINT":
            # A CHECK of the column alone is dropped together with it.
            if " CHECK (" in line and set(lowered[1:]) - {column.lower()}:
                yield f"the CHECK {names[0]}"
        elif is_key:
            is_expression = "((" in line and column.lower() in lowered[1:]
            if is_expression or (kind == "FULLTEXT" and stays_readable and column.lower() in lowered[1:]):
                yield f"the index {names[0]}"
        else:
            yield "the partitions"


def names_in(text: str) -> list[str]:
    """The quoted identifiers in *text*, outside of its strings.

    >>> names_in("CONSTRAINT `ck` CHECK (`a``b` <> 'the `c`')")
    ['ck', 'a`b']
    """
    found = (match for match in _NAME.finditer(text) if match.lastindex)
    return [(match[1] or match[2] or "").replace("``", "`").replace('""', '"') for match in found]
