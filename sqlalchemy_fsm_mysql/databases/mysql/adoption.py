"""Two columns of one table in step, on MySQL and MariaDB: the triggers, and what information_schema says around them.

While a column is taken over, old code writes *old* and new code writes *new*. A BEFORE INSERT and a BEFORE UPDATE
trigger set the other one, so both say the same after every statement of any writer. Values are compared byte by
byte, whatever the collation of *old*. Nothing in a trigger depends on a session's sql_mode or character set.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, text

from .shape import ColumnShape
from .survey import Survey

__all__ = [
    "ERROR",
    "Adoption",
    "ForeignKey",
    "Index",
    "Kind",
    "OldValue",
    "adoption_of",
    "adoptions",
    "becomes",
    "can_hold",
    "create_triggers",
    "foreign_keys",
    "free_name",
    "indexes",
    "old_value_case",
    "sql_value",
]

OldValue = str | int | None
Kind = Literal["insert", "update"]
KINDS: tuple[Kind, ...] = ("insert", "update")

# The number of the error that the triggers raise; below 2^15, because PyMySQL reads it as a signed one.
ERROR = 30046
TEXTS = ("varchar", "char", "tinytext", "text", "mediumtext", "longtext")
NUMBERS = ("tinyint", "smallint", "mediumint", "int", "bigint", "decimal")
_MARK = re.compile(r"fsm-adoption:([0-9a-f]+)")
_PLAIN = re.compile(r"[ -&(-\[\]-~]*")  # printable ASCII without a quote and a backslash


@dataclass(frozen=True, slots=True)
class Adoption:
    """The rules of the triggers of one adoption: which value of *old* is which state.

    The first value of a state is the one that *old* gets when *new* is written. `unknown` is the state of any other
    value; None refuses it. `is_number` tells how *old* is compared.
    """

    table: str
    old: str
    new: str
    mapping: tuple[tuple[OldValue, str], ...]
    unknown: str | None
    is_number: bool
    names: tuple[str, ...] = ()

    @property
    def states(self) -> tuple[str, ...]:
        """The states that *old* has a value for, each once."""
        return tuple(dict.fromkeys(state for _, state in self.mapping))

    def old_values(self, holds: Any = None) -> dict[str, OldValue]:
        """The value that *old* gets for each state: the first one of which *holds* says that the column can hold it."""
        first: dict[str, OldValue] = {}
        for value, state in self.mapping:
            if state not in first and (holds is None or holds(value)):
                first[state] = value
        return first

    def mark(self) -> str:
        """The adoption as a text that stands in its triggers."""
        document = [self.old, self.new, [list(pair) for pair in self.mapping], self.unknown, self.is_number]
        return f"fsm-adoption:{json.dumps(document).encode().hex()}"

    @classmethod
    def read(cls, table: str, body: str | None, names: Sequence[str]) -> Adoption | None:
        """The adoption of a trigger's text; None when it is another trigger."""
        found = _MARK.search(body or "")
        if found is None:
            return None
        old, new, pairs, unknown, is_number = json.loads(bytes.fromhex(found[1]))
        return cls(table, old, new, tuple((value, state) for value, state in pairs), unknown, is_number, tuple(names))


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A foreign key from *table* to *referred*, and whether an act on the other table changes rows of this one."""

    name: str
    table: str
    columns: tuple[str, ...]
    referred_schema: str
    referred: str
    referred_columns: tuple[str, ...]
    cascades: bool


@dataclass(frozen=True, slots=True)
class Index:
    """An index; `lengths` are those of the prefixes that it has of its columns, None for a whole column."""

    name: str
    columns: tuple[str, ...]
    lengths: tuple[int | None, ...]
    is_unique: bool


# --- literals, which no sql_mode and no character set changes


def sql_value(value: OldValue) -> str:
    """*value* as a SQL literal."""
    if value is None:
        return "NULL"
    if isinstance(value, int):
        return str(int(value))
    return f"'{value}'" if _PLAIN.fullmatch(value) else f"CONVERT(X'{value.encode().hex()}' USING utf8mb4)"


def _bytes_literal(value: str) -> str:
    return f"_binary'{value}'" if _PLAIN.fullmatch(value) else f"X'{value.encode().hex()}'"


def _as_bytes(expression: str) -> str:
    return f"CAST(CONVERT({expression} USING utf8mb4) AS BINARY)"


def becomes(old: str, adoption: Adoption) -> str:
    """The state that the value *old*, a SQL expression, stands for; NULL when that is not known."""
    states = dict(adoption.mapping)
    whens = [
        f"WHEN {int(value) if isinstance(value, int) else _bytes_literal(value)} THEN {sql_value(state)}"
        for value, state in adoption.mapping
        if value is not None
    ]
    otherwise = sql_value(adoption.unknown)
    compared = old if adoption.is_number else _as_bytes(old)
    known = f"CASE {compared} {' '.join(whens)} ELSE {otherwise} END" if whens else otherwise
    return f"CASE WHEN {old} IS NULL THEN {sql_value(states.get(None, adoption.unknown))} ELSE {known} END"


def old_value_case(new: str, old_values: Mapping[str, OldValue]) -> str:
    """The value of the old column for the state *new*, a SQL expression."""
    whens = " ".join(f"WHEN {_bytes_literal(state)} THEN {sql_value(value)}" for state, value in old_values.items())
    return f"CASE {_as_bytes(new)} {whens} END"


# --- triggers


def create_triggers(
    adoption: Adoption,
    old_values: Mapping[str, OldValue],
    quote: Callable[[str], str],
    schema: str | None,
    names: Mapping[Kind, str],
) -> list[str]:
    """CREATE TRIGGER for INSERT and for UPDATE; *quote* makes an identifier of a name."""
    prefix = "" if schema is None else f"{quote(schema)}."
    table, old, new = f"{prefix}{quote(adoption.table)}", quote(adoption.old), quote(adoption.new)
    state = becomes(f"NEW.{old}", adoption)
    declared = ", ".join(map(_bytes_literal, adoption.states))
    follow = f"""\
    IF NOT ({_as_bytes("fsm_state")} <=> {_as_bytes(f"NEW.{new}")}) THEN
      IF {_as_bytes(f"NEW.{new}")} NOT IN ({declared}) THEN
        {_refusal(adoption, f"NEW.{new}", adoption.new)}
      END IF;
      SET NEW.{old} = {old_value_case(f"NEW.{new}", old_values)};
    END IF;"""
    refused = _refusal(adoption, f"NEW.{old}", adoption.old)
    before, after = f"OLD.{old}", f"NEW.{old}"
    same = f"{before} <=> {after}" if adoption.is_number else f"{_as_bytes(before)} <=> {_as_bytes(after)}"
    head = "CREATE TRIGGER {}{} BEFORE {} ON {} FOR EACH ROW\nBEGIN\n  DECLARE fsm_state VARCHAR(255) CHARSET utf8mb4;"
    return [
        f"""\
{head.format(prefix, quote(names["insert"]), "INSERT", table)}
  SET fsm_state = {state};
  IF NEW.{new} IS NULL THEN
    IF fsm_state IS NULL THEN
      {refused}
    END IF;
    SET NEW.{new} = fsm_state;
  ELSE
{follow}
  END IF;
END""",
        f"""\
{head.format(prefix, quote(names["update"]), "UPDATE", table)}
  IF NEW.{new} IS NOT NULL AND NOT (OLD.{new} <=> NEW.{new}) THEN
    SET fsm_state = {state};
{follow}
  ELSEIF NEW.{new} IS NULL OR NOT ({same}) THEN
    SET fsm_state = {state};
    IF fsm_state IS NOT NULL THEN
      SET NEW.{new} = fsm_state;
    ELSEIF OLD.{new} IS NOT NULL OR NOT ({same}) THEN
      {refused}
    END IF;
  END IF;
END""",
    ]


def _refusal(adoption: Adoption, value: str, column: str) -> str:
    """The SQL that raises the error about *value*, an expression. The mark is in a block that runs only then."""
    # MESSAGE_TEXT holds 128 characters.
    label = _shortened(f"{adoption.table}.{column}", 40)
    other = _shortened(adoption.new if column == adoption.old else adoption.old, 20)
    head, tail = sql_value(f"{label}: '"), sql_value(f"' has no counterpart in {other}")
    shown = f"LEFT(COALESCE(CONVERT({value} USING utf8mb4), 'NULL'), 30)"
    return f"""\
BEGIN
        DECLARE fsm_adoption TEXT DEFAULT '{adoption.mark()}';
        DECLARE fsm_message VARCHAR(128) CHARACTER SET utf8mb4 DEFAULT CONCAT({head}, {shown}, {tail});
        SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = {ERROR}, MESSAGE_TEXT = fsm_message;
      END;"""


def _shortened(name: str, length: int) -> str:
    return name if len(name) <= length else f"{name[: length - 3]}..."


_TRIGGERS = text(
    "SELECT TRIGGER_NAME, ACTION_STATEMENT FROM information_schema.TRIGGERS"
    " WHERE EVENT_OBJECT_SCHEMA = COALESCE(:schema, DATABASE()) AND EVENT_OBJECT_TABLE = :table ORDER BY TRIGGER_NAME"
)
_NAMED = text(
    "SELECT 1 FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = COALESCE(:schema, DATABASE())"
    " AND TRIGGER_NAME = :name"
)


def adoptions(connection: Connection, table: str, schema: str | None, survey: Survey | None = None) -> list[Adoption]:
    """The adoptions that go on in *table*, as far as the account may see its triggers."""
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    triggers: Iterable[Sequence[Any]]
    if survey is None:
        triggers = connection.execute(_TRIGGERS, {"schema": schema, "table": table})
    else:
        triggers = [(name, body) for name, _, body, *_ in survey.trigger_rows.get(table, ())]
    for name, body in triggers:
        one = Adoption.read(table, body, ())
        if one is not None:
            found.setdefault((one.old, one.new), []).append((str(name), str(body)))
    read = [Adoption.read(table, group[0][1], [name for name, _ in group]) for group in found.values()]
    return [one for one in read if one is not None]


def adoption_of(connection: Connection, table: str, old: str, new: str, schema: str | None) -> Adoption | None:
    """The adoption of *old* by *new* that goes on in *table*."""
    return next((one for one in adoptions(connection, table, schema) if (one.old, one.new) == (old, new)), None)


def free_name(connection: Connection, adoption: Adoption, kind: Kind, schema: str | None) -> str:
    """A trigger's name that no trigger of the schema has: it begins with the table's, and a digest makes it its own.

    A table that was renamed keeps its triggers' names, so that a new one of its old name may find them taken.
    """
    identity = json.dumps([adoption.table, adoption.old, adoption.new])
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    for number in range(100):
        name = f"fsm_{adoption.table[:24]}_{digest}_{kind}" + (f"_{number}" if number else "")
        if connection.execute(_NAMED, {"schema": schema, "name": name}).first() is None:
            return name
    raise AssertionError(identity)


# --- keys


_FOREIGN = text(
    "SELECT k.CONSTRAINT_NAME, k.TABLE_NAME, k.COLUMN_NAME, k.REFERENCED_TABLE_SCHEMA, k.REFERENCED_TABLE_NAME,"
    " k.REFERENCED_COLUMN_NAME, r.UPDATE_RULE, r.DELETE_RULE"
    " FROM information_schema.KEY_COLUMN_USAGE AS k JOIN information_schema.REFERENTIAL_CONSTRAINTS AS r"
    " ON r.CONSTRAINT_SCHEMA = k.CONSTRAINT_SCHEMA AND r.CONSTRAINT_NAME = k.CONSTRAINT_NAME"
    " AND r.TABLE_NAME = k.TABLE_NAME"
    " WHERE k.TABLE_SCHEMA = COALESCE(:schema, DATABASE()) AND k.REFERENCED_TABLE_NAME IS NOT NULL"
    " AND (k.TABLE_NAME = :table OR k.REFERENCED_TABLE_NAME = :table) ORDER BY k.CONSTRAINT_NAME, k.ORDINAL_POSITION"
)
_INDEXES = text(
    "SELECT INDEX_NAME, COLUMN_NAME, NON_UNIQUE, SUB_PART FROM information_schema.STATISTICS"
    " WHERE TABLE_SCHEMA = COALESCE(:schema, DATABASE()) AND TABLE_NAME = :table ORDER BY INDEX_NAME, SEQ_IN_INDEX"
)


def foreign_keys(connection: Connection, table: str, schema: str | None) -> list[ForeignKey]:
    """The foreign keys of *table* and those to it."""
    groups: dict[tuple[str, str], list[Any]] = {}
    for row in connection.execute(_FOREIGN, {"schema": schema, "table": table}):
        groups.setdefault((row[0], row[1]), []).append(row)
    return [
        ForeignKey(
            name=name,
            table=of,
            columns=tuple(str(row[2]) for row in rows),
            referred_schema=str(rows[0][3]),
            referred=str(rows[0][4]),
            referred_columns=tuple(str(row[5]) for row in rows),
            cascades=bool({rows[0][6], rows[0][7]} & {"CASCADE", "SET NULL", "SET DEFAULT"}),
        )
        for (name, of), rows in groups.items()
    ]


def indexes(connection: Connection, table: str, schema: str | None) -> list[Index]:
    """The indexes of *table*."""
    groups: dict[str, list[Any]] = {}
    for row in connection.execute(_INDEXES, {"schema": schema, "table": table}):
        groups.setdefault(str(row[0]), []).append(row)
    return [
        Index(
            name,
            columns=tuple(str(row[1]) for row in rows),
            lengths=tuple(None if row[3] is None else int(row[3]) for row in rows),
            is_unique=not int(rows[0][2]),
        )
        for name, rows in groups.items()
    ]


def can_hold(shape: ColumnShape, value: OldValue) -> bool:
    """Whether the old column can hold *value*."""
    if value is None:
        return shape.is_nullable
    if isinstance(value, int):
        return not (value < 0 and "unsigned" in shape.type)
    if shape.kind == "enum":
        return not _PLAIN.fullmatch(value) or sql_value(value) in shape.type
    return shape.length is None or len(value) <= shape.length
