r"""String literals of MySQL and MariaDB, as SHOW CREATE TABLE and information_schema write them."""

from __future__ import annotations

import re

__all__ = ["STRING", "quoted", "strings", "unquoted"]

STRING = r"'(?:[^'\\]|\\.|'')*'"
"""The pattern of a literal while the sql_mode NO_BACKSLASH_ESCAPES is off; to be compiled with ``re.DOTALL``."""

_ESCAPES = {"0": "\0", "b": "\b", "n": "\n", "r": "\r", "t": "\t", "Z": "\x1a"}
_STRINGS = re.compile(STRING, re.DOTALL)
_STRING_OR_NAME = re.compile(rf"({STRING})|`(?:[^`]|``)*`", re.DOTALL)


def strings(text: str) -> tuple[str, ...]:
    r"""The values of the string literals in *text*. A quote within a name in backticks begins none.

    >>> strings(r"(`it's` in (_utf8mb4'a',_utf8mb4'it\'s','b''c','one\ntwo'))")
    ('a', "it's", "b'c", 'one\ntwo')
    """
    without_names = _STRING_OR_NAME.sub(lambda found: found[1] or "", text)
    return tuple(unquoted(literal) for literal in _STRINGS.findall(without_names))


def unquoted(literal: str) -> str:
    r"""The value of one string *literal*.

    >>> unquoted(r"'50\% of it''s'")
    "50% of it's"
    """
    return re.sub(
        r"''|\\(.)", lambda m: "'" if m[0] == "''" else _ESCAPES.get(m[1], m[1]), literal[1:-1], flags=re.DOTALL
    )


def quoted(value: str) -> str:
    r"""*value* as a string literal, for a session whose sql_mode has backslash escapes.

    >>> print(quoted(r"it's a \\"))
    'it''s a \\\\'
    """
    escaped = value.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"
