"""The text in messages for a state, a value from outside, a count, a list and a row.

A value from outside is shown by ``repr`` and cut at 64 characters, and a list stops after 20 entries. Text that goes to
a terminal or into a log passes through :func:`escaped`, so a value in a row can neither move the cursor nor begin a
line.

This module imports nothing of ours.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import TypeAlias

State: TypeAlias = str | enum.Enum
"""One state of a machine: a string, or a member of an ``enum.Enum`` class."""

SHOWN_CHARACTERS = 64
SHOWN_ENTRIES = 20


def shown(value: object) -> str:
    """*value* for a message: its ``repr``, cut at 64 characters.

    >>> shown("Stop"), shown("x" * 65_536) == "'" + "x" * 63 + "…"
    ("'Stop'", True)
    """
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a repr is foreign code, and must not hide the error that this message is for
        text = f"<{type(value).__name__}>"
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"


def escaped(text: str) -> str:
    """*text* on one line for a terminal or a log: each unprintable character is written as its escape.

    Unprintable are line ends, the escape sequences of terminals (C0 and C1), marks that turn the direction of writing,
    and surrogates, which no encoding can write.

    >>> escaped("a\\x1b[2J\\nb"), escaped("naïve \\u202e"), escaped("überfällig [red]")
    ('a\\\\x1b[2J\\\\nb', 'naïve \\\\u202e', 'überfällig [red]')
    """
    # Nearly all text is printable, and then this is one call.
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def counted(number: int, noun: str) -> str:
    """*number* with *noun*, in the plural for any number but 1.

    >>> counted(1, "row"), counted(5203, "row"), counted(0, "row")
    ('1 row', '5,203 rows', '0 rows')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def stored_form(state: State) -> str:
    """The text that stands for *state* in the database, always an exact ``str``.

    A str-valued member is stored by its value, any other member by its name, a string as itself.

    >>> class Light(enum.Enum):
    ...     RED = "red"
    ...     GREEN = 2
    >>> stored_form(Light.RED), stored_form(Light.GREEN), stored_form("blue")
    ('red', 'GREEN', 'blue')
    """
    if isinstance(state, enum.Enum):
        state = state.value if isinstance(state.value, str) else state.name
    # A subclass of str may override __str__, and drivers look escapers up by the exact type.
    return str.__str__(state)


def listed(words: Iterable[str]) -> str:
    """*words* with commas between them, 20 at most.

    >>> listed("abc")
    'a, b, c'
    >>> listed("n" * 23)[-26:]
    'n, n, n (3 more not shown)'
    """
    every = list(words)
    text = ", ".join(every[:SHOWN_ENTRIES])
    hidden = len(every) - SHOWN_ENTRIES
    return f"{text} ({hidden} more not shown)" if hidden > 0 else text


def row_label(table_name: str, key: object) -> str:
    """The row, as messages name it: its table and its primary key; a composite key is a tuple.

    >>> row_label("orders", 42), row_label("orders", (1, "x"))
    ('orders 42', "orders (1, 'x')")
    """
    if isinstance(key, tuple) and len(key) != 1:
        return f"{table_name} ({', '.join(map(shown, key))})"
    return f"{table_name} {shown(key)}"
