"""The SQL text of the few expressions that databases spell in different ways.

`sql/` builds them as objects, and knows no database. SQLAlchemy asks for their text when it compiles a statement:
`compiled.py` then asks the database of the dialect, whose :class:`Syntax` this is.
"""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar

__all__ = ["Syntax"]


class Syntax:
    """Standard SQL, in a session whose time zone is UTC."""

    has_exact_literals: ClassVar[bool] = False
    """Whether :meth:`exact_literal` gives the name of a state; where not, it is compared as any other text."""

    def now(self) -> str:
        """The time in UTC."""
        return "CURRENT_TIMESTAMP"

    def ago(self, interval: timedelta) -> str:
        """The time in UTC, *interval* ago."""
        return f"({self.now()} - INTERVAL '{interval.total_seconds():.6f}' SECOND)"

    def after(self, seconds: str) -> str:
        """The time in UTC, so many *seconds* from now; a SQL expression."""
        return f"({self.now()} + INTERVAL '1' SECOND * ({seconds}))"

    def seconds(self, earlier: str, later: str) -> str:
        """The seconds from the time *earlier* to the time *later*; SQL expressions."""
        return f"EXTRACT(EPOCH FROM ({later} - {earlier}))"

    def exact_text(self, column: str) -> str:
        """The text of *column*, which is SQL, as it is compared byte by byte whatever the collation."""
        return column

    def exact_literal(self, name: str) -> str:
        """*name* as a literal to compare with :meth:`exact_text`."""
        raise NotImplementedError

    def defined_text(self, name: str) -> str | None:
        """*name* as a literal in DDL; None where any literal will do."""
        return None

    def as_bytes(self, text: str) -> str:
        """The UTF-8 bytes of *text*, which is SQL."""
        return f"CAST({text} AS BLOB)"
