"""The triggers that enforce a machine's :class:`~..rules.Rules` on a table: their common part on all databases.

There are two for each state column, BEFORE UPDATE and BEFORE INSERT: they refuse before anything is written, whatever
the storage engine. Texts are compared as bytes, because the column's collation may take 'ready' for 'READY'. NULL and
the empty text of a bad ENUM value follow no state, so they are refused like any other.

A trigger is known by the mark in its text: a digest of its column, the fingerprint of its rules, and a digest of the
table that it was made for. Names are unique in a schema, and a table that was renamed keeps its triggers under their
names. So a name is made of the table, the column and both digests, and a free one is chosen where another table has it.
The triggers of two machines can be on a table at once: while one set takes the other's place, the table is never
without.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import count
from typing import Any, ClassVar, Literal

from sqlalchemy import Column, Connection, Dialect, ExecutableDDLElement, String, Table
from sqlalchemy.ext.compiler import compiles

from ..machine.rules import Rules
from .identifiers import IDENTIFIER_LENGTH, name_digest
from .messages import message_label

__all__ = [
    "KINDS",
    "CreateTrigger",
    "DropTrigger",
    "Enforcer",
    "ForeignTrigger",
    "InstalledTrigger",
    "Kind",
    "Literals",
    "Mode",
    "TriggerDDL",
    "column_digest",
    "ours_among",
]

Kind = Literal["update", "insert"]
KINDS: tuple[Kind, ...] = ("update", "insert")

Mode = Literal["refuse", "watch"]
"""Whether a trigger refuses the edges that its rules do not allow, or writes them to a table and lets them pass."""

_MARK = re.compile(r"fsm:([0-9a-f]{8}):([0-9a-f]{16})(?::([0-9a-f]{8}))?(:watch)?")
# A state's name may look like a mark. SQLite's triggers have theirs in a line of its own, which no name is. Those of
# MySQL have it as a string after all names, so the last one counts.
_IN_A_LINE = re.compile(rf"^ *-- {_MARK.pattern}", re.MULTILINE)
_IN_A_STRING = re.compile(rf"(?:CONSTRAINT_NAME = |fsm_mark VARCHAR\(64\) DEFAULT )'{_MARK.pattern}")


def column_digest(name: str) -> str:
    """The digest of a column's name in the text of its triggers."""
    return name_digest(name.lower())


def table_digest(name: str) -> str:
    """The digest of a table's name in the text of its triggers."""
    return name_digest("table", name.lower())


@dataclass(frozen=True, slots=True)
class InstalledTrigger:
    """A trigger of ours that a table has.

    `column`, `fingerprint` and `table` are those of its mark; `table` is None in a trigger of an earlier format.
    `definer` is the account whose rights it runs with, None where there is no such thing.
    """

    name: str
    kind: str
    column: str
    fingerprint: str
    table: str | None
    mode: Mode
    body: str
    definer: str | None = None

    @classmethod
    def of(cls, name: str, kind: str, body: str | None, definer: str | None = None) -> InstalledTrigger | None:
        """The trigger; None when its text has no mark of ours.

        MariaDB shows a trigger without its text, NULL, to an account that may write the table and lacks TRIGGER.
        """
        found = _mark_in(body or "")
        if found is None:
            return None
        mode: Mode = "watch" if found[4] else "refuse"
        return cls(name, kind.lower(), found[1], found[2], found[3], mode, body or "", definer)

    def is_as(self, wanted: CreateTrigger) -> bool:
        """Whether this is the trigger that *wanted* creates, under whichever name."""
        return (self.kind, self.mark) == (wanted.kind, wanted.mark)

    @property
    def mark(self) -> str:
        """The mark in its text."""
        return _mark(self.column, self.fingerprint, self.table, self.mode)


@dataclass(frozen=True, slots=True)
class ForeignTrigger:
    """A trigger on the table that is not ours; `order` is its place among those of its kind and timing."""

    name: str
    kind: str
    timing: str
    order: int
    body: str


def _mark_in(body: str) -> re.Match[str] | None:
    in_a_line = _IN_A_LINE.search(body)
    if in_a_line is not None:
        return in_a_line
    in_strings = list(_IN_A_STRING.finditer(body))
    return in_strings[-1] if in_strings else _MARK.search(body)


def _mark(column: str, fingerprint: str, table: str | None, mode: Mode) -> str:
    parts = ["fsm", column, fingerprint, *([] if table is None else [table]), *(["watch"] if mode == "watch" else [])]
    return ":".join(parts)


class TriggerDDL(ExecutableDDLElement):
    table: Table
    name: str

    def __init__(self, table: Table, name: str) -> None:
        self.table, self.name = table, name

    def qualified(self, compiler: Any, name: str | None = None) -> str:
        """The trigger's name, or another *name*, in the schema of its table."""
        table = compiler.preparer.format_table(self.table)
        schema = table.removesuffix(compiler.preparer.quote(self.table.name))
        return f"{schema}{compiler.preparer.quote(self.name if name is None else name)}"


class CreateTrigger(TriggerDDL):
    """CREATE TRIGGER for one *kind* of statements on the table of *column*, which enforces *rules*.

    *used_names* are the names, in lower case, of other tables' triggers in the same schema.
    """

    column: Column[Any]
    label: str
    mark: str
    rules: Rules

    def __init__(
        self,
        column: Column[Any],
        rules: Rules,
        kind: Kind,
        *,
        mode: Mode = "refuse",
        if_missing: bool = False,
        used_names: Collection[str] = (),
    ) -> None:
        self.column, self.rules, self.kind, self.mode = column, rules, kind, mode
        self.create = "CREATE TRIGGER IF NOT EXISTS" if if_missing else "CREATE TRIGGER"
        names = (trigger_name(column, rules, kind, mode, number) for number in count(1))
        super().__init__(column.table, next(name for name in names if name.lower() not in used_names))
        self.mark = _mark(column_digest(column.name), rules.fingerprint, table_digest(column.table.name), mode)
        self.label = message_label(column.table.name, column.name)


def trigger_name(column: Column[Any], rules: Rules, kind: Kind, mode: Mode = "refuse", number: int = 1) -> str:
    """The trigger's name, with *number* for the second and later ones of the same schema.

    ``orders.payment_state`` and ``orders_payment.state`` have different digests.
    """
    digest = name_digest(column.table.name.lower(), column.name.lower(), kind, mode)
    end = f"_{digest}_{rules.fingerprint[:8]}" + ("" if number == 1 else f"_{number}")
    stem = f"fsm_{column.table.name}_{column.name}"
    return f"{stem[: IDENTIFIER_LENGTH - len(end) - len(kind) - 1]}_{kind}{end}"


class DropTrigger(TriggerDDL):
    """DROP TRIGGER IF EXISTS."""


@compiles(DropTrigger)
def _drop(element: DropTrigger, compiler: Any, **_: Any) -> str:
    return f"DROP TRIGGER IF EXISTS {element.qualified(compiler)}"


class Literals:
    """How texts are written into a trigger, which keeps the sql_mode and the character set of its making."""

    def __init__(self, compiler: Any) -> None:
        self._compiler = compiler

    def plain(self, value: str) -> str:
        """*value* as the dialect writes it."""
        return str(self._compiler.sql_compiler.render_literal_value(value, String()))

    def binary(self, value: str) -> str:
        """*value* as bytes; in hexadecimal where its literals would depend on the sql_mode."""
        return f"X'{value.encode().hex().upper()}'" if _is_delicate(value) else f"_binary{self.plain(value)}"

    def text(self, value: str) -> str:
        """*value* as text; by way of hexadecimal where its literals would depend on the sql_mode."""
        if _is_delicate(value):
            return f"CONVERT(X'{value.encode().hex().upper()}' USING utf8mb4)"
        return self.plain(value)


def _is_delicate(value: str) -> bool:
    return "\\" in value or not value.isascii() or not value.isprintable()


class Enforcer:
    """How a database gets triggers of ours; this one gets none."""

    can_enforce: ClassVar[bool] = False

    def triggers(self, connection: Connection, table: Table) -> list[InstalledTrigger]:
        """The triggers on *table* that enforce a machine, as far as the account may see them."""
        return []

    def foreign_triggers(self, connection: Connection, table: Table) -> list[ForeignTrigger]:
        """The other triggers on *table*, as far as the account may see them."""
        return []

    def used_names(self, connection: Connection, table: Table) -> set[str]:
        """The names, in lower case, that triggers of other tables have in the schema of *table*."""
        return set()

    def allowed(self, trigger: InstalledTrigger) -> frozenset[tuple[str, ...]] | None:
        """The edges, or the states of a new row, that *trigger* allows; None when its text cannot be read."""
        return None

    def permitted(
        self, connection: Connection, column: Column[Any], source: str, target: str, *, rows: int
    ) -> AbstractContextManager[None]:
        """Within the block the triggers let *connection* move up to *rows* rows of *column* from *source* to *target*.

        They refuse any other edge, and this one too after the block.
        """
        return nullcontext()

    def waiting_at_most(self, connection: Connection, seconds: int) -> AbstractContextManager[None]:
        """Within the block, DDL on *connection* waits for the table for at most so many *seconds*."""
        return nullcontext()

    def script(self, dialect: Dialect, statements: Iterable[TriggerDDL], *, seconds: int) -> Iterator[str]:
        """*statements* as text for the database's command-line client, which waits at most *seconds* for a table."""
        for statement in statements:
            yield f"{statement.compile(dialect=dialect)};"


def ours_among(found: Iterable[Any]) -> Iterator[InstalledTrigger]:
    """The triggers of ours among *found*, which are tuples of name, kind, text and definer."""
    for name, kind, body, *definer in found:
        trigger = InstalledTrigger.of(name, kind, body, *definer)
        if trigger is not None:
            yield trigger
