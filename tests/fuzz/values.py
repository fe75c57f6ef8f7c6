"""What the outside might give: texts that have broken something somewhere, and things that are no text."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import uuid
from typing import Any

from hypothesis import strategies as st


class Loud(str):
    """A subclass of str that spells itself otherwise."""

    __slots__ = ()

    def __str__(self) -> str:
        return "'; DROP TABLE fuzz; --"

    def __repr__(self) -> str:
        return "<loud>"

    def __format__(self, spec: str) -> str:
        return "%s"


class Twin(str):
    """A subclass of str that equals everything."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return str.__hash__(self)


class Light(enum.Enum):
    RED = "Go"


class Label(str, enum.Enum):
    GO = "Go"


TEXTS = [
    *("", " ", "\0", "Go\0", "a\0b", "'", '"', "`", "\\", "\\'", '\\"', "\\\\", "''", "\x1a", "\x7f", "\b"),
    *(
        "' OR '1'='1",
        "'; DROP TABLE fuzz; -- ",
        '"; --',
        "` --",
        "/*!50000 x */",
        "Go' -- ",
        "Go\\",
        "x') UNION SELECT 1 -- ",
    ),
    *("%", "%%", "%s", "%(x)s", "%d", "{}", "{0}", "${x}", ":x", "::x", ":fsm_key_0", "?", "@x", "#", "--", ";"),
    *(
        "\r\n",
        "\n",
        "\r",
        "\t",
        "\v",
        "Go\n",
        "Go\r\n",
        "Go\t",
        "Go ",
        " Go",
        "Go  ",
        "go",
        "GO",
        "gO",
        "Go\u00a0",
        "Go\u200b",
    ),
    *("\u202eoG", "\u200f", "\u05d0", "\u0627", "\ufeff", "\ufeffGo", "\u2028", "\u2029", "\x85"),
    *(
        "\u00e9",
        "e\u0301",
        "\u212b",
        "\u00c5",
        "A\u030a",
        "\ufb01",
        "\u00df",
        "SS",
        "\u0130",
        "\u0131",
        "\u01c5",
        "Stra\u00dfe",
    ),
    *(
        "\uff27\uff4f",
        "\uff07",
        "\uff3c",
        "\uff05s",
        "\u2019",
        "\u02bc",
        "\u00bf'",
        "\u00bf\\'",
        "\u7e17'",
        "\u8868",
        "\u30bd",
        "\u80fd\\",
    ),
    *("\U0001f600", "\U0010ffff", "\ud800", "Go\udcff", "1", "0", "-1", "1e9", "1abc", "0x1", "NULL", "null", "true"),
    *("x" * 64, "x" * 65, "x" * 255, "x" * 256, "x" * 65536, "'" * 65536, "\u00e9" * 22000, "\\" * 1001),
]
OTHERS: list[Any] = [
    *(None, True, False, 0, 1, -1, 255, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 2**200, 0.5, -0.0),
    *(float("nan"), float("inf"), decimal.Decimal("1.50"), decimal.Decimal("NaN"), 1 + 2j),
    *(b"", b"Go", b"\0", b"\xbf'", b"\xbf\\", b"\xff\xfe", b"\x81'", bytearray(b"Go"), b"'" * 70000),
    *(Loud("Go"), Loud("Halt"), Loud("'"), Twin("Go"), Twin("Halt"), Light.RED, Label.GO),
    *(
        [],
        ["Go"],
        {},
        {"Go": 1},
        (),
        ("Go",),
        set(),
        frozenset({"Go"}),
        range(3),
        object(),
        str,
        len,
        Ellipsis,
    ),
    *(dt.datetime(2026, 11, 24, tzinfo=dt.timezone.utc), dt.date(1, 1, 1), dt.timedelta(days=1), uuid.UUID(int=0)),
]

texts = st.one_of(
    st.sampled_from(TEXTS),
    st.text(max_size=20),
    st.text(alphabet="'\"\\%s:;`- Go\0\r\n\u00bf\u8868", max_size=12),
    st.builds(
        lambda head, tail: head + tail, st.sampled_from(["Go", "Stop", "on", "off"]), st.sampled_from(TEXTS[:60])
    ),
)
values = st.one_of(texts, texts, st.sampled_from(OTHERS), st.binary(max_size=8), st.integers(), st.floats())

# What a machine may have as a name is printable ASCII without spaces at its ends; nearly all that hurts is.
names = st.text(alphabet=[chr(code) for code in range(32, 127)], min_size=1, max_size=12)
# Tables and columns may have any; MySQL forbids NUL, and spaces at the end.
identifiers = st.text(
    alphabet=st.characters(min_codepoint=32, max_codepoint=0xD7FF, exclude_categories=["Cs", "Cc"]),
    min_size=1,
    max_size=16,
).filter(lambda name: name == name.strip() and not name.isdigit())
