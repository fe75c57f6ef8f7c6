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
from ast import literal_eval
from base64 import b64decode
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal
from urllib.parse import quote, unquote

from sqlalchemy import Column, Connection, Dialect, ExecutableDDLElement, String, Table
from sqlalchemy.ext.compiler import compiles

from ..errors import RefusedByDatabase
from ..machine.rules import Rules
from .sqlite.errors import is_sqlite_error

Kind = Literal["update", "insert"]
KINDS: tuple[Kind, ...] = ("update", "insert")

# The number of the error that the triggers raise on MySQL and MariaDB: none of theirs, and below 2^15, because PyMySQL
# reads it as a signed one.
REFUSED = 30045

IDENTIFIER_LENGTH = 64
MESSAGE_LENGTH = 128  # MySQL keeps no more of MESSAGE_TEXT
_LABEL_LENGTH = 38
ELLIPSIS = "..."
UNDECLARED = "an undeclared state"
BASE64 = "base64:"
_MARK = re.compile(r"fsm:([0-9a-f]{8}):([0-9a-f]{16})")
_STATE = rf"('(?P<{{0}}>.*)'|{BASE64}(?P<{{0}}_base64>[A-Za-z0-9+/=]*)(?P<{{0}}_cut>\.\.\.)?|{UNDECLARED})"
_MOVE = re.compile(
    rf"(?P<label>.+?): {_STATE.format('source')} to {_STATE.format('target')} is no transition", re.DOTALL
)
_BEGIN = re.compile(rf"(?P<label>.+?): {_STATE.format('target')} is no initial state", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TriggerMessage:
    """The content of a trigger's message: the column, the two texts, and whether an INSERT was refused.

    A text is None where the message names none.
    """

    label: str
    source: str | None
    target: str | None
    is_new: bool = False


def read_message(message: str) -> TriggerMessage | None:
    """The content of *message*; None when it is not the message of a trigger of ours.

    >>> read_message("orders.state: 'Deleted' to 'Running' is no transition")
    TriggerMessage(label='orders.state', source='Deleted', target='Running', is_new=False)
    >>> read_message("auftr%C3%A4ge.state: 'neu' to base64:ZsOkbGxpZw== is no transition")
    TriggerMessage(label='aufträge.state', source='neu', target='fällig', is_new=False)
    """
    if found := _MOVE.fullmatch(message):
        return TriggerMessage(unquote(found["label"]), _state_in(found, "source"), _state_in(found, "target"))
    if found := _BEGIN.fullmatch(message):
        return TriggerMessage(unquote(found["label"]), None, _state_in(found, "target"), is_new=True)
    return None


def _state_in(found: re.Match[str], name: str) -> str | None:
    encoded = found[f"{name}_base64"]
    if encoded is None:
        return found[name]
    # A text that was cut may end within a group of four characters, and within a character of the text.
    text = b64decode(encoded[: len(encoded) // 4 * 4]).decode(errors="ignore")
    return text + (found[f"{name}_cut"] or "")


def refusal_in(error: BaseException) -> RefusedByDatabase | None:
    """Our error for *error*, when a trigger of ours has raised *error*; None for any other.

    Code that expects a refusal has to catch both errors: SQLAlchemy calls no listener for the errors of a connection
    that has reflected a table.
    """
    if isinstance(error, RefusedByDatabase):
        return error
    driver = getattr(error, "orig", None) or error
    code = getattr(driver, "errno", None) or (driver.args or (None,))[0]
    is_numbered = code == REFUSED
    if not is_numbered and not is_sqlite_error(driver):
        return None
    message = read_message(_message_of(driver))
    if message is None:
        return None
    return RefusedByDatabase(
        column=message.label,
        source=message.source,
        target=message.target,
        is_new=message.is_new,
        code=REFUSED if is_numbered else None,
    )


def _message_of(driver: BaseException) -> str:
    """The message of a driver's error."""
    # MySQL Connector/Python and MariaDB's connector have the message as an attribute, sqlite3 as its only argument.
    message = getattr(driver, "msg", None)
    if message is not None or is_sqlite_error(driver):
        return str(message or driver)
    # mysqlclient and PyMySQL have it as their second argument. It must not be read from `args`: mysqlclient 2.3.2
    # leaves a NULL pointer there when it cannot decode a message, and indexing that ends the process. str() writes
    # <NULL>, which is no Python literal.
    try:
        arguments = literal_eval(str(driver))
    except (SyntaxError, ValueError):
        return ""
    return str(arguments[1]) if isinstance(arguments, tuple) and len(arguments) > 1 else ""


def short_identifier(name: str) -> str:
    """*name* within MySQL's 64 characters, and still one of its own."""
    if len(name) <= IDENTIFIER_LENGTH:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: IDENTIFIER_LENGTH - 9]}_{digest}"


def message_label(table: str, column: str) -> str:
    """The column's name as messages have it: ASCII, without the characters that some character set lacks.

    >>> message_label("orders", "state"), message_label("aufträge", "state")
    ('orders.state', 'auftr%C3%A4ge.state')
    """
    signs = [quote(sign, safe=_PLAIN).replace("~", "%7E") for sign in f"{table}.{column}"]
    if len("".join(signs)) <= _LABEL_LENGTH:
        return "".join(signs)
    while len("".join(signs)) > _LABEL_LENGTH - len(ELLIPSIS):
        signs.pop()
    return "".join(signs) + ELLIPSIS


# The printable characters of ASCII without those that mean something in the label, and without the backslash and the
# tilde: sjis has neither.
_PLAIN = "".join(map(chr, range(0x20, 0x7F))).translate(dict.fromkeys(map(ord, "%\\~")))


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
        self.label = message_label(column.table.name, column.name)


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
    """How a database gets triggers of ours; this one gets none."""

    can_enforce: ClassVar[bool] = False

    def triggers(self, connection: Connection, table: Table) -> list[InstalledTrigger]:
        """The triggers on *table* that enforce a machine, as far as the account may see them."""
        return []

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
    """The triggers of ours among *found*, which are tuples of name, kind and text."""
    for name, kind, body in found:
        trigger = InstalledTrigger.of(name, kind, body)
        if trigger is not None:
            yield trigger
