"""Criteria of ``fire_where`` and ``claim``, as criteria on the rows of the one table that holds the state.

They decide a write, so the other rows that they read are read with a shared lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from sqlalchemy import (
    BinaryExpression,
    BindParameter,
    Case,
    Cast,
    ClauseList,
    Column,
    ColumnElement,
    False_,
    FromClause,
    Null,
    TextClause,
    True_,
    UnaryExpression,
    and_,
    literal_column,
    select,
)
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import ExpressionClauseList, Grouping, TypeClause
from sqlalchemy.sql.functions import Function

from ..sql.events import EventSQL
from ..sql.expressions import outside_subqueries
from ..sql.locks import for_share
from ..sql.unfit import computes_dates, is_aggregate, unfit_calls, unfit_dates
from .mapped import MappedState

# The most shapes that an event keeps. A program that builds criteria from searches may have any number of them.
_SHAPES = 100


@dataclass(frozen=True, slots=True)
class Matching:
    """The rows that an event can move among those that match the criteria of a call.

    `statements` keeps the statements with this criterion. Calls whose criteria differ in their values only have one
    criterion and one such dict in common; `values` are those of this call. It is None where this cannot be known.
    """

    criterion: ColumnElement[bool]
    values: Mapping[str, Any] = field(default_factory=dict)
    statements: dict[Any, Any] | None = None


def matching(mapped: MappedState, sql: EventSQL, criteria: Sequence[Any]) -> Matching:
    """The rows that match *criteria* and that the event *sql* can move.

    Raises: as :func:`on_row`.
    """
    clauses = [_clause(criterion) for criterion in criteria]
    # SQLAlchemy's own key of a statement leaves out the values. Two criteria with one key have one structure.
    keys = [clause._generate_cache_key() if isinstance(clause, ColumnElement) else None for clause in clauses]  # noqa: SLF001
    given = [bind for key in keys if key is not None for bind in key.bindparams]
    visible = [] if sql.row.visible is None else [sql.row.visible]
    if any(key is None for key in keys) or any(bind.required for bind in given):
        return Matching(and_(sql.moves, *visible, *on_row(mapped, criteria)))
    shapes: dict[Any, tuple[Matching, list[str]]] = sql.cache.setdefault("shapes", {})
    # A class and its subclass have an event in common, and each has its own rows.
    shape = mapped, *(key.key for key in keys if key is not None)
    known = shapes.get(shape)
    if known is None:
        criterion = and_(sql.moves, *visible, *on_row(mapped, criteria))
        if not all(_is_plain(clause, mapped.row.table) for clause in clauses):
            return Matching(criterion)
        whole = criterion._generate_cache_key()  # noqa: SLF001
        if whole is None:
            return Matching(criterion)
        if len(shapes) >= _SHAPES:
            shapes.clear()
        # The bound parameters of the criteria are the last ones: they stand behind those of the event itself.
        names = [bind.key for bind in whole.bindparams[len(whole.bindparams) - len(given) :]]
        known = shapes[shape] = Matching(criterion, {}, {}), names
    made, names = known
    return replace(made, values={name: bind.effective_value for name, bind in zip(names, given, strict=True)})


def on_row(mapped: MappedState, criteria: Sequence[Any]) -> Sequence[ColumnElement[bool]]:
    """*criteria* in Core terms. Criteria that also read other tables become one EXISTS, so a row matches at most once.

    A joined subclass has columns in several tables; they are joined to the state's by their inheritance.

    Raises: TypeError for a criterion that is no SQL expression, calls an aggregate or a window function, or computes
    with dates by `+` or `-`.
    """
    table, mapper = mapped.row.table, mapped.mapper
    if all(_is_plain(_clause(criterion), table) for criterion in criteria):
        return [plain(table, criterion) for criterion in criteria]
    core = [_in_core(mapped, criterion) for criterion in criteria]
    # An UPDATE names one table. SQLAlchemy would add each other table to it as a join. It knows the tables of a
    # statement that it has compiled, which takes longer than all the rest of a call.
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


# The elements of a criterion that read nothing but the row, if its columns are of the row's table. Functions are, too.
_PLAIN = (
    BinaryExpression,
    BindParameter,
    Case,
    Cast,
    ClauseList,
    ExpressionClauseList,
    False_,
    Grouping,
    Null,
    True_,
    TypeClause,
    UnaryExpression,
)


def _clause(criterion: Any) -> Any:
    """The SQL expression that *criterion* is or stands for, as a model's attribute does."""
    clause = getattr(criterion, "__clause_element__", None)
    return clause() if callable(clause) else criterion


def _is_plain(expression: Any, table: FromClause) -> bool:
    """Whether *expression* certainly reads nothing but a row of *table*, and contains nothing that `unfit` refuses."""
    if not isinstance(expression, ColumnElement):
        return False
    return all(
        element.table is table
        if isinstance(element, Column)
        else (isinstance(element, _PLAIN) and not computes_dates(element))
        or (isinstance(element, Function) and not is_aggregate(element))
        for element in visitors.iterate(expression)
    )


def order_on_row(table: Any, order: Sequence[Any]) -> Sequence[Any]:
    """The expressions of *order* in Core terms, checked to read nothing but a row of *table*.

    Raises: TypeError for a column of another table, outside of a subquery.
    """
    core = [plain(table, one) for one in order]
    for element in (element for one in core for element in outside_subqueries(one)):
        if isinstance(element, Column) and element.table is not table:
            raise TypeError(f"order_by= reads {element}, and the rows that are moved are of the table {table.name!r}")
    return core


def _in_core(mapped: MappedState, criterion: Any) -> ColumnElement[bool]:
    """*criterion* with the columns of the table itself in the place of the model's attributes."""
    table = mapped.row.table
    expression = _clause(criterion)
    if not isinstance(expression, (ColumnElement, TextClause)):
        raise TypeError(
            f"criteria are SQL expressions, such as {mapped.model.__name__}.id > 5, not {type(criterion).__name__}"
        )
    for problem in (*unfit_calls(expression, table), *unfit_dates(expression)):
        raise TypeError(f"a criterion {problem}")
    return cast("ColumnElement[bool]", plain(table, expression))


def plain(table: Any, expression: Any) -> Any:
    """*expression* with the columns of *table* in the place of a model's attributes."""

    def replaced(element: Any, **_: Any) -> Any:
        return table.c[element.key] if isinstance(element, Column) and element.table is table else None

    return visitors.replacement_traverse(_clause(expression), {}, replaced)
