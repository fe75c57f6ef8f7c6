# ruff: noqa: SLF001 - a SELECT's lock is read by nothing public
"""Shared locks on the other rows that guards, effects and criteria read.

Under READ COMMITTED, InnoDB reads the subquery of an UPDATE without locks, so the rows it read may change before the
transaction commits. Each SELECT of a subquery that decides a write is therefore read FOR SHARE (MariaDB: LOCK IN SHARE
MODE). SQLite has one writer at a time, and SQLAlchemy writes nothing for such a lock.

:func:`for_share` adds the locks, :func:`without_locks` takes them away for statements that decide nothing, and
:func:`unlocked` is the mark by which a user opts out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from sqlalchemy import CompoundSelect, Exists, ScalarSelect, Select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.selectable import ForUpdateArg, SelectStatementGrouping

__all__ = ["for_share", "locked_aggregates", "locked_tests", "unlocked", "without_locks"]

E = TypeVar("E")

_UNLOCKED = "fsm_unlocked"
_TESTS = (operators.in_op, operators.not_in_op, operators.any_op, operators.all_op)
_AGGREGATES = ("array_agg", "avg", "bool_and", "bool_or", "count", "group_concat", "max", "min", "string_agg", "sum")


def unlocked(expression: E) -> E:
    """Mark *expression*, so that its subqueries are read without locks: for a guard, an effect or a criterion.

    Returns: the marked expression.

    The rows that the subqueries read can then change before COMMIT. Use it for rows that never change, or where an old
    value does no harm. You can mark a part of a guard; its other parts keep their locks.

    >>> from sqlalchemy import column, exists, table
    >>> flags = table("flags", column("name"))
    >>> guard = lambda order: unlocked(exists().where(flags.c.name == "open"))
    """
    clause = getattr(expression, "__clause_element__", None)
    element: Any = clause() if callable(clause) else expression
    annotate = getattr(element, "_annotate", None)
    if annotate is None:
        raise TypeError(f"unlocked() takes a SQL expression, not {type(expression).__name__}")
    return cast(E, annotate({_UNLOCKED: True}))


def for_share(expression: E) -> E:
    """*expression* with each SELECT in it read FOR SHARE.

    A SELECT that has a lock already keeps it, and a part marked by :func:`unlocked` is not changed.

    >>> from sqlalchemy import column, exists, table
    >>> from sqlalchemy.dialects import mysql
    >>> items = table("items", column("ready"))
    >>> locked = for_share(exists().where(items.c.ready == 1)).compile(dialect=mysql.dialect())
    >>> print(*str(locked).split())
    EXISTS (SELECT * FROM items WHERE items.ready = %s LOCK IN SHARE MODE)
    """

    def locked(query: Any) -> None:
        if query._for_update_arg is None:
            query._for_update_arg = ForUpdateArg(read=True)

    def in_parts(query: Any) -> None:
        query.selects = [_Part(part) if isinstance(part, Select) else part for part in query.selects]

    return _rewritten(expression, locked, in_parts)


def without_locks(expression: E) -> E:
    """*expression* without the locks of :func:`for_share`, for a SELECT that does not decide a write."""

    def plain(query: Any) -> None:
        lock = query._for_update_arg
        if lock is not None and lock.read and not (lock.nowait or lock.skip_locked or lock.of):
            query._for_update_arg = None

    return _rewritten(expression, plain, lambda _: None)


def locked_aggregates(expression: Any) -> list[Any]:
    """The SELECTs in *expression* that lock the rows of an aggregate, which InnoDB can do, and standard SQL cannot.

    >>> from sqlalchemy import column, func, select, table
    >>> items = table("items", column("ready"))
    >>> len(locked_aggregates(for_share(select(func.count()).select_from(items).scalar_subquery())))
    1
    >>> len(locked_aggregates(for_share(select(items.c.ready).scalar_subquery())))
    0
    """
    return [
        query
        for query in visitors.iterate(expression)
        if isinstance(query, Select) and query._for_update_arg is not None and _is_aggregate(query)
    ]


def locked_tests(expression: Any) -> list[Any]:
    """The SELECTs in *expression* that lock rows, but for plain scalar subqueries: those of EXISTS, IN and aggregates.

    A server may rewrite each of these into a join, and lose the lock.

    >>> from sqlalchemy import column, exists, select, table
    >>> items = table("items", column("ready"))
    >>> len(locked_tests(for_share(exists().where(items.c.ready == 1))))
    1
    >>> len(locked_tests(for_share(select(items.c.ready).scalar_subquery())))
    0
    """
    elements = list(visitors.iterate(expression))
    locked = [each for each in elements if isinstance(each, Select) and each._for_update_arg is not None]
    if not locked:
        return []
    tests = [element for element in elements if isinstance(element, Exists) or _operator(element) in _TESTS]
    within = {id(part) for test in tests for part in visitors.iterate(test)}
    scalar = {id(element.element) for element in elements if isinstance(element, ScalarSelect)}
    return [query for query in locked if id(query) in within or id(query) not in scalar or _is_aggregate(query)]


def _operator(element: Any) -> Any:
    return getattr(element, "operator", None)


def _is_aggregate(query: Select[Any]) -> bool:
    parts = (part for column in query._raw_columns for part in visitors.iterate(column))
    has_function = any(isinstance(part, FunctionElement) and part.name.lower() in _AGGREGATES for part in parts)
    return has_function or bool(query._group_by_clauses) or query._distinct


def _rewritten(expression: E, select: Callable[[Any], None], compound: Callable[[Any], None]) -> E:
    """A copy of *expression*, in which *select* has changed each SELECT, and *compound* each set operation."""
    elements = list(visitors.iterate(cast(Any, expression)))
    if not any(isinstance(element, (Select, CompoundSelect)) for element in elements):
        return expression
    kept = [element for element in elements if _UNLOCKED in element._annotations]
    changes: Any = {"select": select, "compound_select": compound}
    return cast(E, visitors.cloned_traverse(cast(Any, expression), {"stop_on": kept}, changes))


class _Part(SelectStatementGrouping[Any]):
    """A SELECT of a set operation, in parentheses if it has a lock: without them, the lock would end the statement.

    SQLite has no such locks, and refuses such parentheses.
    """

    inherit_cache = True


@compiles(_Part)
def _compile_part(part: Any, compiler: SQLCompiler, **options: Any) -> str:
    query = part.element
    # SQLAlchemy leaves for_update_clause without types.
    is_locked = query._for_update_arg is not None and compiler.for_update_clause(query)  # type: ignore[no-untyped-call]
    text = compiler.process(query, **options)
    return f"({text})" if is_locked else text
