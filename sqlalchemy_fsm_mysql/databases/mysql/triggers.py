"""The triggers on MySQL and MariaDB: they refuse by SIGNAL, and two session variables let a repair through."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Column, Connection, Dialect, Table, text
from sqlalchemy.ext.compiler import compiles

from ..messages import BASE64, ELLIPSIS, MESSAGE_LENGTH, REFUSED
from ..triggers import (
    CreateTrigger,
    Enforcer,
    ForeignTrigger,
    InstalledTrigger,
    Literals,
    TriggerDDL,
    ours_among,
)
from ..watching import ACCOUNT_LENGTH, STATE_LENGTH, WATCHED
from .literals import STRING, quoted, unquoted

__all__ = ["PERMIT", "PERMITTED_ROWS", "MySQLEnforcer", "permitted_edge"]

# Session variables that name one edge of one column, and how many rows may take it.
PERMIT, PERMITTED_ROWS = "@fsm_permit", "@fsm_permit_rows"

_INSTALLED = text(
    "SELECT TRIGGER_NAME, EVENT_MANIPULATION, ACTION_STATEMENT, DEFINER, ACTION_TIMING, ACTION_ORDER"
    " FROM information_schema.TRIGGERS"
    " WHERE EVENT_OBJECT_SCHEMA = COALESCE(:schema, DATABASE()) AND EVENT_OBJECT_TABLE = :table"
)
_USED_NAMES = text(
    "SELECT TRIGGER_NAME FROM information_schema.TRIGGERS"
    " WHERE TRIGGER_SCHEMA = COALESCE(:schema, DATABASE()) AND EVENT_OBJECT_TABLE <> :table"
)
_OPEN = text(f"SET {PERMIT} = CONCAT(COALESCE(:schema, DATABASE()), :edge), {PERMITTED_ROWS} = :rows")
_CLOSE = text(f"SET {PERMIT} = NULL, {PERMITTED_ROWS} = NULL")
_WAIT = text("SET SESSION lock_wait_timeout = :seconds")

_ARROW = " > "


def permitted_edge(table: str, column: str, source: str, target: str) -> str:
    """The value of the variable `PERMIT` behind the schema's name, which lets rows go from *source* to *target*."""
    return f"{_permitted_column(table, column)}{source}{_ARROW}{target}"


def _permitted_column(table: str, column: str) -> str:
    return f".{table}.{column}: "


class MySQLEnforcer(Enforcer):
    """MySQL's and MariaDB's triggers."""

    can_enforce = True

    def triggers(self, connection: Connection, table: Table) -> list[InstalledTrigger]:
        """The triggers that the account may see: it needs the privilege TRIGGER."""
        return list(ours_among(row[:4] for row in connection.execute(_INSTALLED, _where(connection, table))))

    def foreign_triggers(self, connection: Connection, table: Table) -> list[ForeignTrigger]:
        return [
            ForeignTrigger(name, kind.lower(), timing.lower(), int(order), body or "")
            for name, kind, body, _, timing, order in connection.execute(_INSTALLED, _where(connection, table))
            if InstalledTrigger.of(name, kind, body) is None
        ]

    def used_names(self, connection: Connection, table: Table) -> set[str]:
        return {str(name).lower() for name in connection.scalars(_USED_NAMES, _where(connection, table))}

    def allowed(self, trigger: InstalledTrigger) -> frozenset[tuple[str, ...]] | None:
        found = _SEARCH.search(trigger.body)
        if found is None:
            return None
        haystack, bar = _text_of(found["haystack"]), _text_of(found["bar"])
        listed = [entry for entry in haystack.split(bar) if entry]
        if trigger.kind == "insert":
            return frozenset((entry,) for entry in listed)
        arrow = _ARROW_IN.match(trigger.body, found.end())
        return None if arrow is None else frozenset(tuple(entry.split(_text_of(arrow["arrow"]), 1)) for entry in listed)

    @contextmanager
    def permitted(
        self, connection: Connection, column: Column[Any], source: str, target: str, *, rows: int
    ) -> Iterator[None]:
        """The triggers read both session variables where they would refuse, and count the rows down."""
        edge = permitted_edge(column.table.name, column.name, source, target)
        values = {"schema": connection.schema_for_object(column.table), "edge": edge, "rows": rows}
        with _at_the_end(connection, _CLOSE):
            connection.execute(_OPEN, values)
            yield

    @contextmanager
    def waiting_at_most(self, connection: Connection, seconds: int) -> Iterator[None]:
        before = connection.execute(text("SELECT @@SESSION.lock_wait_timeout")).scalar_one()
        with _at_the_end(connection, _WAIT.bindparams(seconds=before)):
            connection.execute(_WAIT, {"seconds": seconds})
            yield

    def script(self, dialect: Dialect, statements: Iterable[TriggerDDL], *, seconds: int) -> Iterator[str]:
        yield f"SET SESSION lock_wait_timeout = {seconds:d};"
        for statement in statements:
            text = str(statement.compile(dialect=dialect))
            # The client must not end the statement at a semicolon within the trigger.
            if isinstance(statement, CreateTrigger):
                yield f"DELIMITER //\n{text}\n//\nDELIMITER ;"
                yield from _required(statement)
            else:
                yield f"{text};"
        yield "SET SESSION lock_wait_timeout = DEFAULT;"


def _required(trigger: CreateTrigger) -> Iterator[str]:
    """Have a script fail unless the table has *trigger*.

    MariaDB's CREATE TRIGGER IF NOT EXISTS succeeds, and creates nothing, when another table has a trigger of the name.
    """
    schema = "DATABASE()" if trigger.table.schema is None else quoted(trigger.table.schema)
    where = f"TRIGGER_SCHEMA = {schema} AND TRIGGER_NAME = {quoted(trigger.name)}"
    where += f" AND EVENT_OBJECT_TABLE = {quoted(trigger.table.name)}"
    # PREPARE fails for a text that is no statement, and the server shows the text in its error.
    problem = quoted(f"{trigger.table.name}: another table has a trigger of the name {trigger.name}")
    exists = f"EXISTS (SELECT 1 FROM information_schema.TRIGGERS WHERE {where})"  # noqa: S608 - quoted
    yield f"SET @fsm_check = IF({exists}, 'DO 0', {problem});"
    yield "PREPARE fsm_check FROM @fsm_check;\nEXECUTE fsm_check;\nDEALLOCATE PREPARE fsm_check;"


@contextmanager
def _at_the_end(connection: Connection, statement: Any) -> Iterator[None]:
    """Send *statement* after the block, also after an error; invalidate a connection that cannot send it."""
    try:
        yield
    finally:
        if not connection.invalidated:
            try:
                connection.execute(statement)
            except BaseException:
                connection.invalidate()
                raise


@compiles(CreateTrigger, "mysql")
@compiles(CreateTrigger, "mariadb")
def _create(element: CreateTrigger, compiler: Any, **_: Any) -> str:
    """CREATE TRIGGER: unless the rules list the edge, or the session variables permit it, SIGNAL.

    ::

        IF the state changes AND the edge is not listed THEN
            IF the session variables permit the edge THEN count one row down
            ELSE SIGNAL
    """
    literals = Literals(compiler)
    new, old = _new_and_old(element, compiler)
    if element.kind == "update":
        # <=> knows NULL, unlike =. An UPDATE that leaves the state is no transition, and must pass in any state.
        is_refused = [f"NOT ({_bytes(old)} <=> {_bytes(new)})"]
        is_listed = _is_listed([old, new], element.rules.edges, literals)
        source = _text_or(old, "''")
    else:
        is_refused = []
        is_listed = _is_listed([new], ((state,) for state in element.rules.begins), literals)
        source = "''"
    # A NULL in OLD or NEW makes the search NULL, which would let the row pass.
    is_refused.append(f"NOT COALESCE({is_listed}, FALSE)")
    # The permit names database, column and edge in one text, so that one meant for another table opens nothing here.
    label = literals.text(_permitted_column(element.table.name, element.column.name))
    edge = f"CONCAT(DATABASE(), {label}, {source}, '{_ARROW}', {_text_or(new, chr(39) * 2)})"
    return "\n".join(
        [
            f"{element.create} {element.qualified(compiler)}",
            f"BEFORE {element.kind.upper()} ON {compiler.preparer.format_table(element.table)} FOR EACH ROW",
            "BEGIN",
            "  IF " + "\n    AND ".join(is_refused),
            "  THEN",
            f"    IF {PERMITTED_ROWS} > 0 AND CAST({PERMIT} AS BINARY) = CAST({edge} AS BINARY) THEN",
            f"      SET {PERMITTED_ROWS} = {PERMITTED_ROWS} - 1;",
            "    ELSE BEGIN",
            *(_watch(element, compiler, literals) if element.mode == "watch" else _refuse(element, compiler, literals)),
            "    END; END IF;",
            "  END IF;",
            "END",
        ]
    )


def _new_and_old(element: CreateTrigger, compiler: Any) -> tuple[str, str]:
    column = compiler.preparer.quote(element.column.name)
    return f"NEW.{column}", f"OLD.{column}"


def _refuse(element: CreateTrigger, compiler: Any, literals: Literals) -> list[str]:
    new, old = _new_and_old(element, compiler)
    if element.kind == "update":
        message = _message(element.label, [old, new], "is no transition", literals)
    else:
        message = _message(element.label, [new], "is no initial state", literals)
    return [
        f"      DECLARE fsm_message VARCHAR({MESSAGE_LENGTH}) CHARACTER SET utf8mb4 DEFAULT",
        f"        {message};",
        f"      SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = {REFUSED},",
        f"        MESSAGE_TEXT = fsm_message, CONSTRAINT_NAME = '{element.mark}';",
    ]


# No such table, no right to write it, another table of this name: watching must never make a write fail.
_CANNOT_WATCH = "1146, 1142, 1143, 1054, 1364, 1366, 1406"


def _watch(element: CreateTrigger, compiler: Any, literals: Literals) -> list[str]:
    new, old = _new_and_old(element, compiler)
    source = f"LEFT({_utf8mb4(old)}, {STATE_LENGTH})" if element.kind == "update" else "NULL"
    table, column = literals.text(element.table.name), literals.text(element.column.name)
    watched = element.qualified(compiler, WATCHED)
    return [
        f"      DECLARE fsm_mark VARCHAR(64) DEFAULT '{element.mark}';",
        f"      DECLARE CONTINUE HANDLER FOR {_CANNOT_WATCH} BEGIN END;",
        f"      INSERT INTO {watched} (at, table_name, column_name, source, target, account)",
        f"      VALUES (UTC_TIMESTAMP(6), {table}, {column}, {source}, LEFT({_utf8mb4(new)}, {STATE_LENGTH}),",
        f"        LEFT(USER(), {ACCOUNT_LENGTH}));",
    ]


# The search of `_is_listed`, as the server has kept it.
_LITERAL = rf"(?:X'[0-9A-F]*'|_binary{STRING}|CONVERT\(X'[0-9A-F]*' USING utf8mb4\)|{STRING})"
_SEARCH = re.compile(
    rf"INSTR\((?P<haystack>{_LITERAL}), CAST\(CONVERT\(CONCAT\((?P<bar>{_LITERAL}), (?:OLD|NEW)\.", re.DOTALL
)
_ARROW_IN = re.compile(rf"(?:`(?:[^`]|``)*`|\w+), (?P<arrow>{_LITERAL}), NEW\.", re.DOTALL)


def _text_of(literal: str) -> str:
    """The value of a literal that `Literals` wrote."""
    if (start := literal.find("X'")) in (0, len("CONVERT(")):
        return bytes.fromhex(literal[start + 2 : literal.index("'", start + 2)]).decode()
    return unquoted(literal.removeprefix("_binary"))


def _where(connection: Connection, table: Table) -> dict[str, Any]:
    return {"schema": connection.schema_for_object(table), "table": table.name}


def _is_listed(columns: list[str], listed: Iterable[tuple[str, ...]], literals: Literals) -> str:
    """Whether the values of *columns* are one of the *listed* tuples, by a search in one text.

    The text of the edges new → paid and paid → sent is ``|new>paid|paid>sent|``; the search is for ``|new>sent|``. It
    costs the same for any number of states, unlike CASE, which costs MariaDB 1.5 µs for each WHEN.
    """
    tuples = list(listed)
    texts = [text for values in tuples for text in values]
    # Both separators are characters that no listed text contains. A value that contains the bar could otherwise be
    # found across two edges, so such a value is refused by the second condition.
    bar, arrow = _unused("|/!\x1f", texts), _unused(">~^\x1e", texts)
    haystack = bar + "".join(arrow.join(values) + bar for values in tuples)
    between = f", {literals.text(arrow)}, "
    needle = _bytes(f"CONCAT({literals.text(bar)}, {between.join(columns)}, {literals.text(bar)})")
    values = _bytes(f"CONCAT({', '.join(columns)})")
    return f"INSTR({literals.binary(haystack)}, {needle}) > 0\n      AND INSTR({values}, {literals.binary(bar)}) = 0"


def _unused(signs: str, texts: list[str]) -> str:
    """The first of *signs* that no text contains; a state cannot contain the last one, a control character."""
    return next(sign for sign in signs if not any(sign in text for text in texts))


def _message(label: str, columns: list[str], predicate: str, literals: Literals) -> str:
    """The message about the values of *columns*, in ASCII, each value cut so that there is room for both."""
    room = (MESSAGE_LENGTH - len(f"{label}: '' to '' {predicate}")) // len(columns)
    between = f", {literals.text(' to ')}, "
    values = between.join(_ascii(column, room) for column in columns)
    return f"CONCAT({literals.text(f'{label}: ')}, {values}, {literals.text(f' {predicate}')})"


def _utf8mb4(value: str) -> str:
    return f"CONVERT({value} USING utf8mb4)"


def _text_or(value: str, otherwise: str) -> str:
    return f"COALESCE({_utf8mb4(value)}, {otherwise})"


def _bytes(value: str) -> str:
    # By way of utf8mb4, because a column in ucs2 stores other bytes than those of the texts here.
    return f"CAST({_utf8mb4(value)} AS BINARY)"


# In hexadecimal, a text of printable ASCII characters, without the backslash and the tilde, which sjis does not have.
_PLAIN = "^([2346][0-9A-F]|5[0-9ABD-F]|7[0-9A-D])*$"


def _ascii(value: str, room: int) -> str:
    """*value* in quotes; as Base64 of its UTF-8 when that is not ASCII.

    On a connection whose character set is not utf8mb4, mysqlclient cannot decode every message, and leaves a NULL
    pointer in the exception instead.
    """
    text = _text_or(value, "'NULL'")
    quoted = f"CONCAT('''', {_cut(text, room)}, '''')"
    encoded = _cut(f"REPLACE(TO_BASE64({text}), '\n', '')", room - len(BASE64) + 2)
    return f"IF(HEX({text}) REGEXP '{_PLAIN}', {quoted}, CONCAT('{BASE64}', {encoded}))"


def _cut(text: str, room: int) -> str:
    kept = f"LEFT({text}, {room - len(ELLIPSIS)})"
    return f"IF(CHAR_LENGTH({text}) > {room}, CONCAT({kept}, '{ELLIPSIS}'), {text})"
