"""The place of a mapped class's state in its tables: inheritance, discriminators and versions, in Core terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from sqlalchemy import Column, ColumnElement, Integer, Table, bindparam, exists
from sqlalchemy.orm import Mapper
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import BinaryExpression, ColumnClause

from ..errors import InvalidMachine
from ..machine import Machine
from ..sql.events import NEXT_VERSION, StateRow
from ..sql.expressions import outside_subqueries

__all__ = ["counts_versions", "makes_versions", "state_row"]


def state_row(
    mapper: Mapper[Any], attribute: str, state: Column[Any], machine: Machine, since: Column[Any] | None
) -> StateRow:
    """The row of *mapper* that has the columns *state* and *since*; all mappers must be configured.

    Raises: InvalidMachine when the version is in another table than the state.
    """
    table = state.table
    # In joined inheritance a class has columns in several tables. A fire is an UPDATE of one table, so only the columns
    # of the state's table can be its effects, key and version.
    here = {
        cast("Column[Any]", c): prop.key
        for prop in mapper.column_attrs
        for c in prop.columns
        if getattr(c, "table", None) is table
    }
    version = cast("Column[Any] | None", mapper.version_id_col)
    if version is not None and version.table is not table:
        problem = (
            f"{mapper.class_.__name__}.{attribute} is in table {table.name!r} and version_id_col in "
            f"{version.table.name!r}; one UPDATE writes both, so they must be in the same table"
        )
        raise InvalidMachine([problem], machine.name)
    return StateRow(
        table=table,
        state=state,
        key=tuple(_in_table(mapper, cast("Column[Any]", part), table) for part in mapper.primary_key),
        columns={name: column for column, name in here.items()},
        visible=_is_of_class(mapper, table),
        version=version,
        implied=_implied(mapper, state, version),
        since=since,
    )


def _in_table(mapper: Mapper[Any], part: Column[Any], table: Table) -> Column[Any]:
    """The column of *table* for *part* of the key.

    The table of a joined subclass has another key column, under any name. Its ``inherit_condition`` compares the two::

        class Employee(Base):   id: Mapped[int] = mapped_column(primary_key=True)
        class Manager(Employee):   employee_id: Mapped[int] = mapped_column(ForeignKey(Employee.id), primary_key=True)

    ``_in_table(Manager, employees.id, managers)`` is ``managers.employee_id``.
    """
    # From the base to the class, each join condition may lead from *part* to the key column of the next table.
    for one in reversed(list(mapper.iterate_to_root())):
        if part.table is table or one.inherit_condition is None:
            continue
        for comparison in visitors.iterate(one.inherit_condition):
            if not isinstance(comparison, BinaryExpression):
                continue
            sides = [comparison.left, comparison.right]
            if part in sides:
                part = cast("Column[Any]", sides[1 - sides.index(part)])
                break
    return part


def _is_of_class(mapper: Mapper[Any], table: Table) -> ColumnElement[bool] | None:
    """The criterion for rows of *table* that are of the mapped class, not of its base or of another child.

    None when every row is. There are three cases: the discriminator is in *table* (single-table inheritance), in one
    other table (a child of a joined class, stored in its parent's table), or computed from several.
    """
    discriminator = mapper.polymorphic_on
    is_own_table = mapper.inherits is None or (mapper.local_table is table and mapper.inherits.local_table is not table)
    if is_own_table or discriminator is None:
        return None
    # A discriminator may be an expression, such as a CASE. In concrete inheritance it is a column of a union, and each
    # class has a table for itself, so no criterion is needed.
    tables = {part.table for part in outside_subqueries(discriminator) if isinstance(part, ColumnClause)}
    others = [other for other in tables if isinstance(other, Table) and other is not table]
    if len(others) > 1 or not all(isinstance(other, Table) for other in tables):
        return None
    is_ours = discriminator.in_([mapper.polymorphic_identity for mapper in mapper.self_and_descendants])
    if not others:
        return is_ours
    (other,) = others
    joined = [
        _in_table(mapper, part, table) == _in_table(mapper, part, other)
        for part in cast("tuple[Column[Any], ...]", mapper.primary_key)
    ]
    return exists().where(*joined, is_ours).correlate(table)


def _implied(
    mapper: Mapper[Any], state: Column[Any], version: Column[Any] | None
) -> Mapping[Column[Any], ColumnElement[Any]]:
    """The assignments that any UPDATE of the row has: ``onupdate`` expressions, and the next version."""
    implied: dict[Column[Any], ColumnElement[Any]] = {
        column: cast("Any", column.onupdate).arg
        for column in state.table.c
        if column.onupdate is not None and column.onupdate.is_clause_element and column is not state
    }
    if version is not None and mapper.version_id_generator is not False:
        counts = counts_versions(mapper)
        implied[version] = version + 1 if counts else bindparam(NEXT_VERSION, type_=version.type)
    return implied


def counts_versions(mapper: Mapper[Any]) -> bool:
    """Whether the version is SQLAlchemy's own counter, which SQL can increment by itself."""
    generator = mapper.version_id_generator
    own = getattr(generator, "__module__", None) == Mapper.__module__
    return own and mapper.version_id_col is not None and isinstance(mapper.version_id_col.type, Integer)


def makes_versions(mapper: Mapper[Any]) -> bool:
    """Whether Python makes a row's next version from the one before."""
    return (
        mapper.version_id_col is not None and not counts_versions(mapper) and mapper.version_id_generator is not False
    )
