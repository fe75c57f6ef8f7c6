"""The triggers that hold a table to a machine's :class:`~..rules.Rules`: what they have in common on all databases.

Two for each state column, BEFORE UPDATE and BEFORE INSERT: they refuse before anything is written, whatever the storage
engine. Texts are compared as bytes, for the column's collation may take 'ready' for 'READY'. NULL and the empty text of
a bad ENUM value follow nothing, so they are refused like any other.

A trigger's name ends in its rules' fingerprint, so the triggers of two machines can be there at once: while one set
takes the other's place, the table is never without. The fingerprint also stands in the trigger's text, where the doctor
finds it under any name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from sqlalchemy import Column, Connection, ExecutableDDLElement, String, Table
from sqlalchemy.ext.compiler import compiles

from ..errors import RefusedByDatabase
from ..machine.rules import Rules

Kind = Literal["update", "insert"]
KINDS: tuple[Kind, ...] = ("update", "insert")

# The number of the error that the triggers raise on MySQL and MariaDB: none of theirs, and below 2^15, because PyMySQL
# reads it as a signed one.
REFUSED = 30045
# A session variable that names one edge of one column, and how many rows may take it: the way through.
PERMIT, PERMITTED_ROWS = "@fsm_permit", "@fsm_permit_rows"

IDENTIFIER_LENGTH = 64
MESSAGE_LENGTH = 128  # MESSAGE_TEXT holds no more
_LABEL_LENGTH = 38
ELLIPSIS = "..."
UNDECLARED = "an undeclared state"
_MARK = re.compile(r"fsm:([0-9a-f]{8}):([0-9a-f]{16})")
_STATE = rf"('(?P<{{0}}>.*)'|{UNDECLARED})"
_MOVE = re.compile(
    rf"(?P<label>.+?): {_STATE.format('source')} to {_STATE.format('target')} is no transition", re.DOTALL
)
_BEGIN = re.compile(rf"(?P<label>.+?): {_STATE.format('target')} is no initial state", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Said:
    """What a trigger's message says: the column, the two texts, None where it names none, and whether of an INSERT."""

    label: str
    source: str | None
    target: str | None
    is_new: bool = False


def read_message(message: str) -> Said | None:
    """What *message* of a trigger says; None when no trigger of ours wrote it.

    >>> read_message("orders.state: 'Deleted' to 'Running' is no transition")
    Said(label='orders.state', source='Deleted', target='Running', is_new=False)
    """
    if found := _MOVE.fullmatch(message):
        return Said(found["label"], found["source"], found["target"])
    if found := _BEGIN.fullmatch(message):
        return Said(found["label"], None, found["target"], is_new=True)
    return None


def refusal_in(error: BaseException) -> RefusedByDatabase | None:
    """Our error for *error*, when a trigger of ours has raised that; None for any other.

    Wherever a refusal is expected, both have to be caught: SQLAlchemy calls no listener for the errors of a connection
    that has reflected a table.
    """
    if isinstance(error, RefusedByDatabase):
        return error
    driver = getattr(error, "orig", None) or error
    code = getattr(driver, "errno", None) or (driver.args or (None,))[0]
    is_numbered = code == REFUSED
    # Only of these the message is looked at: mysqlclient 2.3.2 leaves a NULL where it cannot decode one, as in sjis.
    if not (is_numbered or type(driver).__module__.startswith("sqlite3")):
        return None
    # The message comes last, and MySQL Connector/Python and MariaDB's have it by itself.
    said = read_message(str(getattr(driver, "msg", None) or (driver.args or ("",))[-1]))
    if said is None:
        return None
    return RefusedByDatabase(
        column=said.label,
        source=said.source,
        target=said.target,
        is_new=said.is_new,
        code=REFUSED if is_numbered else None,
    )


def short_identifier(name: str) -> str:
    """*name* within MySQL's 64 characters, and still one of its own."""
    if len(name) <= IDENTIFIER_LENGTH:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: IDENTIFIER_LENGTH - 9]}_{digest}"


def permit(label: str, source: str, target: str) -> str:
    """The value of the session variable that lets rows of the column *label* go from *source* to *target*."""
    return f"{label}: {source} > {target}"


@dataclass(frozen=True, slots=True)
class InstalledTrigger:
    """A trigger of ours that a table has: its name, which statements start it, its column's digest, its fingerprint."""

    name: str
    kind: str
    column: str
    fingerprint: str

    @classmethod
    def of(cls, name: str, kind: str, body: str | None) -> InstalledTrigger | None:
        """The trigger, unless its text shows that it is somebody else's.

        MariaDB shows a trigger without its text, NULL, to an account that may write the table and lacks TRIGGER.
        """
        found = _MARK.search(body or "")
        return None if found is None else cls(name, kind.lower(), found[1], found[2])


def column_digest(name: str) -> str:
    """What stands for a column's name in its triggers' text."""
    return hashlib.sha256(name.lower().encode()).hexdigest()[:8]


class TriggerDDL(ExecutableDDLElement):
    def __init__(self, table: Table, name: str) -> None:
        self.table, self.name = table, name

    def qualified(self, compiler: Any) -> str:
        """The trigger's name, in the schema of its table."""
        table = compiler.preparer.format_table(self.table)
        schema = table.removesuffix(compiler.preparer.quote(self.table.name))
        return f"{schema}{compiler.preparer.quote(self.name)}"


class CreateTrigger(TriggerDDL):
    """CREATE TRIGGER for one *kind* of statements on the table of *column*, which is held to *rules*."""

    def __init__(self, column: Column[Any], rules: Rules, kind: Kind, *, if_missing: bool = False) -> None:
        self.column, self.rules, self.kind = column, rules, kind
        self.create = "CREATE TRIGGER IF NOT EXISTS" if if_missing else "CREATE TRIGGER"
        stem = short_identifier(f"fsm_{column.table.name}_{column.name}_{kind}_{rules.fingerprint[:8]}")
        super().__init__(column.table, stem)
        self.mark = f"fsm:{column_digest(column.name)}:{rules.fingerprint}"
        label = f"{column.table.name}.{column.name}"
        self.label = label if len(label) <= _LABEL_LENGTH else label[: _LABEL_LENGTH - len(ELLIPSIS)] + ELLIPSIS


class DropTrigger(TriggerDDL):
    """DROP TRIGGER IF EXISTS."""


@compiles(DropTrigger)
def _drop(element: DropTrigger, compiler: Any, **_: Any) -> str:
    return f"DROP TRIGGER IF EXISTS {element.qualified(compiler)}"


class Spelling:
    """How texts are written into a trigger, which keeps the sql_mode and the character set of its making."""

    def __init__(self, compiler: Any) -> None:
        self._compiler = compiler

    def plain(self, value: str) -> str:
        """*value* as the dialect writes it."""
        return str(self._compiler.sql_compiler.render_literal_value(value, String()))

    def binary(self, value: str) -> str:
        """*value* as bytes; in hexadecimal where its spelling would depend on the sql_mode."""
        return f"X'{value.encode().hex().upper()}'" if _is_delicate(value) else f"_binary{self.plain(value)}"

    def text(self, value: str) -> str:
        if _is_delicate(value):
            return f"CONVERT(X'{value.encode().hex().upper()}' USING utf8mb4)"
        return self.plain(value)


def _is_delicate(value: str) -> bool:
    return "\\" in value or not value.isascii() or not value.isprintable()


class Enforcer:
    """How a database is asked for triggers of ours; this one has none."""

    can_enforce: ClassVar[bool] = False

    def triggers(self, connection: Connection, table: Table) -> list[InstalledTrigger]:
        """The triggers on *table* that hold it to a machine, as far as the account may see them."""
        return []

    def permitted(
        self, connection: Connection, column: Column[Any], source: str, target: str, *, rows: int
    ) -> AbstractContextManager[None]:
        """Within the block, *connection* may take up to *rows* rows of *column* from *source* to *target*.

        Nothing else is let through, and nothing after the block.
        """
        return nullcontext()

    def waiting_at_most(self, connection: Connection, seconds: int) -> AbstractContextManager[None]:
        """Within the block, DDL on *connection* gives up after so many *seconds* of waiting for the table."""
        return nullcontext()


def ours_among(found: Iterable[Any]) -> Iterator[InstalledTrigger]:
    """Those of *found* (name, kind, text) that are triggers of ours."""
    for name, kind, body in found:
        trigger = InstalledTrigger.of(name, kind, body)
        if trigger is not None:
            yield trigger
