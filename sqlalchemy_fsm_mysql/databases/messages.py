"""The messages by which triggers of ours refuse: written by the databases, read here out of any driver's error.

A message is ASCII, because mysqlclient cannot decode every message of a connection whose character set is not utf8mb4.
"""

from __future__ import annotations

import re
from ast import literal_eval
from base64 import b64decode
from typing import NamedTuple
from urllib.parse import quote, unquote

from ..errors import RefusedByDatabase
from .sqlite.driver import is_sqlite_error

__all__ = ["REFUSED", "TriggerMessage", "message_label", "read_message", "refusal_in"]

# The number of the error that the triggers raise on MySQL and MariaDB: none of theirs, and below 2^15, because PyMySQL
# reads it as a signed one.
REFUSED = 30045

MESSAGE_LENGTH = 128  # MySQL keeps no more of MESSAGE_TEXT
_LABEL_LENGTH = 38
ELLIPSIS = "..."
UNDECLARED = "an undeclared state"
BASE64 = "base64:"
_STATE = rf"('(?P<{{0}}>.*)'|{BASE64}(?P<{{0}}_base64>[A-Za-z0-9+/=]*)(?P<{{0}}_cut>\.\.\.)?|{UNDECLARED})"
# Compiled when a trigger has refused something; `re` keeps them then.
_MOVE = rf"(?P<label>.+?): {_STATE.format('source')} to {_STATE.format('target')} is no transition"
_BEGIN = rf"(?P<label>.+?): {_STATE.format('target')} is no initial state"


class TriggerMessage(NamedTuple):
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
    if found := re.fullmatch(_MOVE, message, re.DOTALL):
        return TriggerMessage(unquote(found["label"]), _state_in(found, "source"), _state_in(found, "target"))
    if found := re.fullmatch(_BEGIN, message, re.DOTALL):
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
    # mysqlclient and PyMySQL have the number as the first argument, the other drivers as `errno`; SQLite has none, and
    # there the text decides alone.
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
