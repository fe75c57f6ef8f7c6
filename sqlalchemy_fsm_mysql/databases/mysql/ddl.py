"""DDL for MySQL and MariaDB: the dialect that writes it, and the ALTER TABLE of a state column."""

from __future__ import annotations

from typing import Any

from sqlalchemy import CheckConstraint, Dialect, Table
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import ExecutableDDLElement

__all__ = ["AlterColumn", "both_dialects", "writing_dialect"]


def writing_dialect(dialect: Dialect) -> Dialect:
    """A dialect for the same kind of server, with SQLAlchemy's defaults: no sql_mode changes how text is quoted."""
    return mysql.dialect(paramstyle="named", is_mariadb=getattr(dialect, "is_mariadb", False))


def both_dialects() -> tuple[Dialect, Dialect]:
    """A dialect that writes for MariaDB, and one for MySQL."""
    return (
        mysql.dialect(paramstyle="named", is_mariadb=True),
        mysql.dialect(paramstyle="named", is_mariadb=False),
    )


class AlterColumn(ExecutableDDLElement):
    """``ALTER TABLE``: *definition* for the column, *drop* and *add* for its CHECK, and an algorithm to ask for."""

    table: Table

    add: CheckConstraint | None
    algorithm: str | None
    definition: str
    drop: str | None

    def __init__(
        self,
        table: Table,
        definition: str,
        *,
        drop: str | None = None,
        add: CheckConstraint | None = None,
        algorithm: str | None = None,
    ) -> None:
        self.table, self.definition, self.drop, self.add, self.algorithm = table, definition, drop, add, algorithm


@compiles(AlterColumn)
def _alter_column(element: AlterColumn, compiler: Any, **_: Any) -> str:
    clauses = [f"MODIFY COLUMN {element.definition}"]
    if element.drop is not None:
        clauses.append(f"DROP CONSTRAINT {compiler.preparer.quote(element.drop)}")
    if element.add is not None:
        clauses.append(f"ADD {compiler.process(element.add)}")
    if element.algorithm is not None:
        clauses.append(f"ALGORITHM={element.algorithm}")
    return f"ALTER TABLE {compiler.preparer.format_table(element.table)} {', '.join(clauses)}"
