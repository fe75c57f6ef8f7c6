"""The values that a state column allows, read from its own DDL, and that DDL rewritten. Text in, text out.

The server's line of the column is kept but for the part that lists the states, so whatever else it says survives:
collation, nullability, default, comment, INVISIBLE, what a later release of the server will add.

>>> line = "`state` enum('new','paid') NOT NULL DEFAULT 'new' COMMENT 'of the order'"
>>> column = mysql_column(["  " + line + ",", "  PRIMARY KEY (`id`)"], "state", "ck")
>>> column.storage, column.states, column.default
('enum', ('new', 'paid'), 'new')
>>> print(column.with_type("enum('new','paid','sent')"))
`state` enum('new','paid','sent') NOT NULL DEFAULT 'new' COMMENT 'of the order'
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..databases.catalogue import numbers_in
from ..databases.mysql.literals import STRING, strings, unquoted

_PLAIN_STRING = r"'(?:[^']|'')*'"  # as SQLite reads it
_OUTSIDE = rf"(?:[^']|{STRING})*?"  # anything, no string begun and not ended
_ENUM = rf"enum\((?P<values>{STRING}(?:,{STRING})*)\)"
_NUMBER = r"(?P<bits>tiny|small|medium|big)?(?P<number>int)(?:\(\d+\))?(?P<unsigned> unsigned)?(?: zerofill)?"
_TYPE = re.compile(
    rf"(?:{_ENUM}|varchar\((?P<length>\d+)\)|{_NUMBER})(?: CHARACTER SET \w+)?(?: COLLATE \w+)?", re.IGNORECASE
)
_DEFAULT = re.compile(rf"{_OUTSIDE} DEFAULT (?P<default>{STRING}|-?\d+)", re.DOTALL)
_BITS = {"tiny": 8, "small": 16, "medium": 24, None: 32, "big": 64}


@dataclass(frozen=True, slots=True)
class StoredColumn:
    """A state column as the database has it.

    ``storage`` is ``"enum"``, ``"varchar"`` or ``"integer"`` (with the CHECK named ``check``), or without that CHECK
    ``"text"`` or ``"number"``. ``states`` are in the database's order; numbers are texts of digits. ``takes`` are the
    numbers that the type lets in. ``definition`` is the server's own line, of which the characters
    from ``type_start`` to ``type_end`` are the type.
    """

    definition: str
    storage: str
    states: tuple[str, ...]
    default: str | None
    length: int | None
    check: str | None
    type_start: int
    type_end: int
    collation: str | None = None
    takes: range | None = None

    @property
    def is_exact(self) -> bool:
        """Whether the collation tells apart all texts; that of an ENUM need not mind trailing spaces."""
        if self.takes is not None:
            return True
        name = self.collation or ""
        ends = ("_bin",) if self.storage == "enum" else ("nopad_bin", "0900_bin")
        return name == "binary" or name.endswith(ends)

    @property
    def is_nullable(self) -> bool:
        return not self.definition[self.type_end :].startswith(" NOT NULL")

    def has_type_of(self, definition: str) -> bool:
        """Whether *definition*, another one of this column, has the same type and collation."""
        return f"{definition} ".startswith(f"{self.definition[: self.type_end]} ")

    def not_null(self) -> StoredColumn:
        """The column with NOT NULL, and without a default of NULL."""
        if not self.is_nullable:
            return self
        rest = self.definition[self.type_end :].removeprefix(" NULL").removeprefix(" DEFAULT NULL")
        return replace(self, definition=f"{self.definition[: self.type_end]} NOT NULL{rest}")

    def with_type(self, type_: str) -> str:
        """The definition with another type. It keeps the column's collation, unless *type_* names one."""
        kept = self.definition[self.type_start : self.type_end]
        if not re.search("CHARACTER SET|COLLATE", type_):
            found = re.search(r"(?: CHARACTER SET \w+)?(?: COLLATE \w+)?$", kept)
            type_ += found[0] if found else ""
        return self.definition[: self.type_start] + type_ + self.definition[self.type_end :]

    def with_default(self, default: str) -> str:
        """The definition with *default*, a quoted literal, in the place of the one it has."""
        found = _DEFAULT.match(self.definition)
        if found is None:
            return self.definition
        return self.definition[: found.start("default")] + default + self.definition[found.end("default") :]


def mysql_column(lines: Sequence[str], column: str, check: str) -> StoredColumn | None:
    """The state column in the *lines* of SHOW CREATE TABLE; None when it is no ENUM, VARCHAR or whole number."""
    name = f"`{column.replace('`', '``')}`"
    definition = next((line.strip().removesuffix(",") for line in lines if line.strip().startswith(f"{name} ")), None)
    found = _TYPE.match(definition, len(name) + 1) if definition else None
    if definition is None or found is None:
        return None
    default = _DEFAULT.match(definition)
    values, storage = strings(found["values"] or ""), "enum"
    if found["values"] is None:
        start = f"CONSTRAINT `{check.replace('`', '``')}` CHECK "
        clause = next((line for line in lines if line.strip().startswith(start)), None)
        condition = clause.split(" CHECK ", 1)[1] if clause else ""
        values = numbers_in(condition) if found["number"] else strings(condition)
        storage = _STORAGES[bool(found["number"]), bool(clause)]
    return StoredColumn(
        definition,
        storage,
        values,
        _value(default["default"]) if default else None,
        int(found["length"]) if found["length"] else None,
        check if storage in ("varchar", "integer") else None,
        found.start(),
        found.end(),
        _collation(found[0], lines),
        _range(found) if found["number"] else None,
    )


_STORAGES = {(False, True): "varchar", (False, False): "text", (True, True): "integer", (True, False): "number"}


def _range(type_: re.Match[str]) -> range:
    bits = _BITS[type_["bits"].lower() if type_["bits"] else None]
    return range(2**bits) if type_["unsigned"] else range(-(2 ** (bits - 1)), 2 ** (bits - 1))


def _value(literal: str) -> str:
    return unquoted(literal) if literal.startswith("'") else literal


def _collation(type_: str, lines: Sequence[str]) -> str | None:
    """The collation that the *type_* of a column names, or else that of the table, if that is shown."""
    own = re.search(r" COLLATE (\w+)", type_)
    # A character set that is named without a collation has its default, in which texts are folded.
    if own is not None or " CHARACTER SET " in type_:
        return own[1] if own is not None else None
    default = re.search(r" COLLATE=(\w+)", next((line for line in lines if line.startswith(") ")), ""))
    return default[1] if default is not None else None


# --- SQLite


@dataclass(frozen=True, slots=True)
class SQLiteTable:
    """A table's CREATE statement as SQLite keeps it, with the CHECK over one state column."""

    sql: str
    states: tuple[str, ...]
    start: int  # of the constraint; where one would go when there is none
    end: int

    @property
    def has_check(self) -> bool:
        return self.end > self.start

    def with_check(self, constraint: str, column: str, length: int) -> str:
        """The statement with *constraint* (``CONSTRAINT … CHECK (…)``), and the column's VARCHAR of *length*."""
        before = "" if self.has_check else ", "
        sql = self.sql[: self.start] + before + constraint + self.sql[self.end :]
        return re.sub(rf"({_varchar(column)})\d+(?=\))", rf"\g<1>{length}", sql, count=1, flags=re.IGNORECASE)

    def default_of(self, column: str) -> str | None:
        """The column's default, when it is a string."""
        found = re.search(_default(column), self.sql, flags=re.IGNORECASE)
        return None if found is None else found["default"].strip("'").replace("''", "'")

    def with_default(self, column: str, default: str) -> str:
        """The statement with another default for *column*, when it has one that is a string."""
        found = re.search(_default(column), self.sql, flags=re.IGNORECASE)
        if found is None:
            return self.sql
        literal = "'" + default.replace("'", "''") + "'"
        return self.sql[: found.start("default")] + literal + self.sql[found.end("default") :]


def sqlite_table(sql: str, check: str) -> SQLiteTable:
    """The parts of the CREATE statement *sql* that tell of the constraint named *check*.

    >>> table = sqlite_table('CREATE TABLE t (state VARCHAR(4), CONSTRAINT ck CHECK (state IN (\\'new\\')))', "ck")
    >>> table.states, table.with_check("CONSTRAINT ck CHECK (state IN ('sent'))", "state", 5)
    (('new',), "CREATE TABLE t (state VARCHAR(5), CONSTRAINT ck CHECK (state IN ('sent')))")
    """
    names = f"{re.escape(_double_quoted(check))}|{re.escape(check)}"
    found = re.search(rf"CONSTRAINT\s+(?:{names})\s+CHECK\s*\(", sql)
    if found is None:
        end = sql.rindex(")")
        return SQLiteTable(sql, (), end, end)
    depth, end = 1, found.end()
    for token in re.finditer(rf"{_PLAIN_STRING}|\"(?:[^\"]|\"\")*\"|[()]", sql[found.end() :]):
        depth += {"(": 1, ")": -1}.get(token[0], 0)
        if depth == 0:
            end = found.end() + token.end()
            break
    literals = re.findall(_PLAIN_STRING, sql[found.end() : end])
    states = tuple(literal[1:-1].replace("''", "'") for literal in literals) or numbers_in(sql[found.end() : end])
    return SQLiteTable(sql, states, found.start(), end)


def _varchar(column: str) -> str:
    return rf"{_named(column)}\s+VARCHAR\("


def _default(column: str) -> str:
    type_ = r"(?:VARCHAR\(\d+\)|SMALLINT|INTEGER|INT|TINYINT|BIGINT)"
    return rf"{_named(column)}\s+{type_}\s+DEFAULT\s+(?P<default>{_PLAIN_STRING}|-?\d+)"


def _named(column: str) -> str:
    names = f"{re.escape(_double_quoted(column))}|{re.escape(column)}"
    return rf"(?<=[\s(,])(?:{names})"


def _double_quoted(name: str) -> str:
    return f'"{name.replace(chr(34), chr(34) * 2)}"'
