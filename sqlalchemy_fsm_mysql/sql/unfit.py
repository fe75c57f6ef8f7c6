"""Expressions that no UPDATE of one row can compute: aggregates, window functions, and dates with `+` or `-`.

MySQL and MariaDB refuse aggregates and window functions outside of a subquery when the event is fired (errors 1111,
3593, 4015). SQLite computes some of them over the one row, so a test on SQLite would pass. So they are refused where
the SQL is built.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import BinaryExpression, Column, Date, DateTime, Interval, Select, Table, Time
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import ColumnClause, Over
from sqlalchemy.sql.functions import FunctionElement

__all__ = ["computes_dates", "is_aggregate", "unfit_calls", "unfit_dates"]

_TIMES: Final = (DateTime, Date, Time, Interval)

AGGREGATES: Final = {
    *("avg", "count", "max", "min", "std", "stddev", "stddev_pop", "stddev_samp", "sum", "total"),
    *("bit_and", "bit_or", "bit_xor", "var_pop", "var_samp", "variance"),
    *("array_agg", "group_concat", "json_arrayagg", "json_group_array", "json_group_object", "json_objectagg"),
    "string_agg",
}


def unfit_calls(expression: Any, table: Table, inside: Select[Any] | None = None) -> Iterator[str]:
    """The problems of calls in *expression* that an UPDATE of *table* cannot contain, each a part of a sentence.

    *inside* is the subquery that *expression* is a part of; None outside of a subquery.
    """
    if isinstance(expression, Over):
        if inside is None:
            yield (
                "uses a window function (OVER), which is refused outside of a subquery (errors 3593 and 4015): "
                "write it in a subquery on another table, or keep the figure in a column"
            )
        return
    if isinstance(expression, FunctionElement) and _is_aggregate(expression, table, inside):
        name = _call_name(expression)
        several = len(list(expression.clauses)) > 1 and name in ("max", "min")
        instead = (
            f"for the {'largest' if name == 'max' else 'smallest'} of several values write"
            f" func.{'greatest' if name == 'max' else 'least'}(…)"
            if several
            else f"compare the row's own columns, or write select(func.{name}(…)).where(…).scalar_subquery()"
            " on another table"
        )
        yield f"calls the aggregate {name}() on the row itself, which is refused there (error 1111): {instead}"
        return
    here = expression if isinstance(expression, Select) else inside
    for child in expression.get_children():
        yield from unfit_calls(child, table, here)


def unfit_dates(expression: Any) -> Iterator[str]:
    """The problem of `+` and `-` between dates and durations in *expression*, as a part of a sentence.

    SQLAlchemy sends a timedelta to these databases as a date near 1970, and they compute with the digits of dates:
    `created + timedelta(hours=2)` is an error in an UPDATE of MySQL, and a wrong value in a SELECT and on SQLite.
    """
    if any(computes_dates(element) for element in visitors.iterate(expression)):
        yield (
            "computes with dates by + or -, which MySQL, MariaDB and SQLite do with their digits: write"
            " utc_in(timedelta(…)) for a time from now, utc_in(-timedelta(…)) for one in the past, or"
            " func.timestampadd(literal_column('SECOND'), 7200, column) on a server"
        )


def computes_dates(element: Any) -> bool:
    """Whether *element* is a `+` or `-` between dates, times or durations."""
    return (
        isinstance(element, BinaryExpression)
        and element.operator in (operators.add, operators.sub)
        and _is_time(element.left)
        and _is_time(element.right)
    )


def _is_time(operand: Any) -> bool:
    """Whether *operand* has the type of a date, a time or a duration; literal SQL is the caller's own."""
    if isinstance(operand, ColumnClause) and operand.is_literal:
        return False
    return operand.type._type_affinity in _TIMES  # noqa: SLF001 - sees into a TypeDecorator


def _is_aggregate(call: FunctionElement[Any], table: Table, inside: Select[Any] | None) -> bool:
    """Whether *call* is an aggregate over the row that is updated."""
    if not is_aggregate(call):
        return False
    if inside is None:
        return True
    # An aggregate over columns of the outer statement belongs to the outer statement, also within a subquery.
    read = {column.table for column in visitors.iterate(call) if isinstance(column, Column)}
    return read == {table} and inside.get_final_froms() != [table]


def is_aggregate(call: FunctionElement[Any]) -> bool:
    """Whether the function has the name of an aggregate."""
    return _call_name(call) in AGGREGATES


def _call_name(call: FunctionElement[Any]) -> str:
    return str(getattr(call, "name", "")).lower()
