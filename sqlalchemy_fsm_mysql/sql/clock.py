"""The database's own clock.

Every time that the library writes or compares is this clock's, in UTC: the clocks of the application's hosts and the
``time_zone`` of a session change nothing. The text of these expressions is the database's: `databases/syntax.py`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, DateTime, Float, SQLColumnExpression, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.visitors import InternalTraversal
from sqlalchemy.types import TypeEngine

__all__ = ["seconds_between", "utc_ago", "utc_default", "utc_in", "utc_now"]


class utc_now(FunctionElement[datetime]):  # noqa: N801 - a SQL function, written like func.now
    """The database's current time in UTC, with microseconds where it has them (SQLite: milliseconds)."""

    type: TypeEngine[datetime] = DateTime()
    inherit_cache: bool | None = True
    name = "utc_now"


class utc_default(FunctionElement[Any]):  # noqa: N801 - as above
    """:class:`utc_now` as a DEFAULT in DDL, where all our databases want an expression in parentheses."""

    type: TypeEngine[Any] = DateTime()
    inherit_cache: bool | None = True
    name = "utc_default"


@compiles(utc_default)
def _in_parentheses(element: utc_default, compiler: Any, **options: Any) -> str:
    return f"({compiler.process(utc_now(), **options)})"


class utc_ago(ColumnElement[Any]):  # noqa: N801 - as above
    """The moment that lies *interval* before :class:`utc_now`.

    It stands alone on its side of a comparison, so that an index on the other side can be used.

    >>> import sqlalchemy_fsm_mysql.databases  # where the text is
    >>> from sqlalchemy.dialects import mysql
    >>> print(utc_ago(timedelta(minutes=15)).compile(dialect=mysql.dialect()))
    (UTC_TIMESTAMP(6) - INTERVAL 900.000000 SECOND)
    """

    type: TypeEngine[Any] = DateTime()
    inherit_cache: bool | None = True
    _traverse_internals = [("interval", InternalTraversal.dp_plain_obj)]  # noqa: RUF012 - as SQLAlchemy's elements have it

    def __init__(self, interval: timedelta) -> None:
        self.interval = interval


class utc_in(FunctionElement[datetime]):  # noqa: N801 - as above
    """The moment that lies *after* from now, by the clock of :class:`utc_now`: a timedelta, or seconds as SQL.

    A negative duration gives a moment in the past, as in the criterion ``Order.created < utc_in(-timedelta(days=7))``.
    Effects write a deadline: ``{"run_at": utc_in(timedelta(minutes=5))}``, ``{"run_at": utc_in(10 * job.attempts)}``.

    >>> import sqlalchemy_fsm_mysql.databases  # where the text is
    >>> from sqlalchemy import column
    >>> from sqlalchemy.dialects import mysql
    >>> print(utc_in(column("wait")).compile(dialect=mysql.dialect()))
    (UTC_TIMESTAMP(6) + INTERVAL (wait) * 1000000 MICROSECOND)

    Raises: TypeError for anything else, such as a text or a plain number.
    """

    type: TypeEngine[datetime] = DateTime()
    inherit_cache: bool | None = True
    name = "utc_in"

    # Any: seconds, as any type of number.
    def __init__(self, after: timedelta | SQLColumnExpression[Any]) -> None:
        # SQLAlchemy would bind a text, of which MySQL takes the digits: '7 days' would be seven seconds.
        if not isinstance(after, (timedelta, SQLColumnExpression)):
            raise TypeError(
                "utc_in() takes a timedelta, or seconds as a SQL expression such as 60 * Order.attempts,"
                f" not {type(after).__name__}"
            )
        super().__init__(literal(after.total_seconds()) if isinstance(after, timedelta) else after)


class seconds_between(FunctionElement[Any]):  # noqa: N801 - as above
    """The seconds from one time to another, with microseconds (SQLite: milliseconds)."""

    type: TypeEngine[Any] = Float()
    inherit_cache: bool | None = True
    name = "seconds_between"
