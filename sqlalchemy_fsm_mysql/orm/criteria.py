"""Criteria of ``fire_where`` and ``claim``, as criteria on the rows of the one table that holds the state.

They decide a write, so the other rows that they read are read with a shared lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import Column, ColumnElement, TextClause, literal_column, select
from sqlalchemy.sql import visitors

from ..sql.expressions import outside_subqueries
from ..sql.locks import for_share
from ..sql.unfit import unfit_calls
from .mapped import MappedState


def on_row(mapped: MappedState, criteria: Sequence[Any]) -> Sequence[ColumnElement[bool]]:
    """*criteria* in Core terms. Criteria that also read other tables become one EXISTS, so a row matches at most once.

    A joined subclass has columns in several tables; they are joined to the state's by their inheritance.

    Raises: TypeError for a criterion that is no SQL expression, or calls an aggregate or a window function.
    """
    core = [_in_core(mapped, criterion) for criterion in criteria]
    table, mapper = mapped.row.table, mapped.mapper
    # An UPDATE names one table. SQLAlchemy would add each other table to it as a join.
    apart = [select(table).where(criterion).get_final_froms() != [table] for criterion in core]
    if not any(apart):
        return [for_share(criterion) for criterion in core]
    elsewhere = [criterion for criterion, is_apart in zip(core, apart, strict=True) if is_apart]
    read = select(table).where(*elsewhere).get_final_froms()
    joined = [one.inherit_condition for one in mapper.iterate_to_root() if one.inherit_condition is not None]
    joins = joined if any(part in mapper.tables and part is not table for part in read) else []
    matches = select(literal_column("1")).where(*joins, *elsewhere).correlate(table).exists()
    here = [criterion for criterion, is_apart in zip(core, apart, strict=True) if not is_apart]
    return [for_share(criterion) for criterion in (matches, *here)]


def order_on_row(table: Any, order: Sequence[Any]) -> Sequence[Any]:
    """The expressions of *order* in Core terms, checked to read nothing but a row of *table*.

    Raises: TypeError for a column of another table, outside of a subquery.
    """
    core = [_plain(table, one) for one in order]
    for element in (element for one in core for element in outside_subqueries(one)):
        if isinstance(element, Column) and element.table is not table:
            raise TypeError(f"order_by= reads {element}, and the rows that are moved are of the table {table.name!r}")
    return core


def _in_core(mapped: MappedState, criterion: Any) -> ColumnElement[bool]:
    """*criterion* with the columns of the table itself in the place of the model's attributes."""
    table = mapped.row.table
    clause = getattr(criterion, "__clause_element__", None)
    expression = clause() if callable(clause) else criterion
    if not isinstance(expression, (ColumnElement, TextClause)):
        raise TypeError(
            f"criteria are SQL expressions, such as {mapped.model.__name__}.id > 5, not {type(criterion).__name__}"
        )
    for problem in unfit_calls(expression, table):
        raise TypeError(f"a criterion {problem}")
    return cast("ColumnElement[bool]", _plain(table, expression))


def _plain(table: Any, expression: Any) -> Any:
    """*expression* with the columns of *table* in the place of a model's attributes."""
    clause = getattr(expression, "__clause_element__", None)

    def replaced(element: Any, **_: Any) -> Any:
        return table.c[element.key] if isinstance(element, Column) and element.table is table else None

    return visitors.replacement_traverse(clause() if callable(clause) else expression, {}, replaced)
