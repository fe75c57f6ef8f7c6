"""``sql``: the statements of a machine, for a DBA to read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.syntax import Syntax
from sqlalchemy import Dialect, Executable, make_url, text
from sqlalchemy.sql.compiler import SQLCompiler

from ..databases import database_of_dialect
from ..diagram import Graph
from ..errors import FSMError
from ..errors.texts import escaped
from ..operations.lookup import state_at
from ..orm.mapped import MappedState
from ..sql.events import KNOWN_VERSION, NEXT_VERSION, EventSQL
from .output import print_rich, print_text
from .targets import TargetArgument, event_at


class DialectName(str, Enum):
    """The databases whose SQL can be shown."""

    MYSQL = "mysql"
    MARIADB = "mariadb"
    SQLITE = "sqlite"


def sql(
    target: TargetArgument,
    event: Annotated[
        str | None,
        typer.Option("--event", "-e", metavar="EVENT", help="Print only this event. The default is all events."),
    ] = None,
    dialect: Annotated[
        DialectName, typer.Option("--dialect", "-d", help="The database whose SQL is printed.")
    ] = DialectName.MYSQL,
) -> None:
    """Print every statement that a fire of each event may send, with its condition and its bound values.

    The command sends nothing, and needs no database. The text is the one that the server gets, except for line breaks.
    The driver replaces each :name by its value.
    """
    state = state_at(target)
    names = list(state.machine.events) if event is None else [event_at(state, event).name]
    try:
        printed = "\n\n".join(_event_text(state, name, _dialect(dialect.value)) for name in names)
    except FSMError as error:
        raise typer.BadParameter(str(error)) from error
    if Console().is_terminal:
        lines = "\n".join(map(escaped, printed.split("\n")))
        print_rich(Syntax(lines, "sql", word_wrap=True, background_color="default", theme="ansi_dark"))
    else:
        print_text(printed)


def _dialect(name: str) -> Dialect:
    kind: Any = make_url(f"{name}://").get_dialect()  # Any: Dialect declares no __init__, every dialect has one
    dialect: Dialect = kind(paramstyle="named")
    return dialect


def _event_text(state: MappedState, name: str, dialect: Dialect) -> str:
    event = state.event(name)
    sent: dict[str, list[str]] = {}  # a statement, and when it is sent
    bound: dict[str, str] = {}
    for when, statement in steps(state, event, dialect):
        compiled = _compiled(statement, dialect)
        sent.setdefault(broken(str(compiled)) + ";", []).append(when)
        bound |= _legend(state, event, compiled)
    width = max(map(len, bound))
    return "\n".join(
        [
            *_heading(state, name),
            *(f"-- :{key.ljust(width)}  {meaning}" for key, meaning in bound.items()),
            *(f"-- {'; '.join(whens)}:\n{text}" for text, whens in sent.items()),
        ]
    )


def steps(state: MappedState, event: EventSQL, dialect: Dialect) -> Iterator[tuple[str, Executable]]:
    """Each statement with the condition under which it is sent: the fire's own, and those of the history."""
    database, history = database_of_dialect(dialect), state.extras.history
    if history is not None:
        yield "with a token, before the others", text("SAVEPOINT fsm_token")
    yield from database.rows.explained(event, makes_versions=state.makes_versions)
    if history is None:
        return
    for statement in database.history.record_statements(history.sql):
        yield "when the row has moved, into the history", statement
    yield "with a token that was used before", text("ROLLBACK TO SAVEPOINT fsm_token")
    yield "with a token, when the row has not moved", history.sql.by_token()


def _heading(state: MappedState, name: str) -> Iterator[str]:
    """The edges of the event as comments: a line for each target."""
    sources: dict[str, list[str]] = {}
    for edge in Graph.of(state.machine).edges:
        if edge.event == name:
            guard = "" if edge.guard is None else f" [{edge.guard}]"
            sources.setdefault(edge.target, []).append(edge.source + guard)
    for number, (target, froms) in enumerate(sources.items()):
        label = f"{name}: " if number == 0 else " " * (len(name) + 2)
        yield f"-- {label}{', '.join(froms)} -> {target}"


_MEANINGS = {
    KNOWN_VERSION: "the row's version, as the session knows it",
    NEXT_VERSION: "the row's next version, made by the model's generator",
    "fsm_event": "the event's name",
    "fsm_source": "the state that the row has left",
    "fsm_target": "the state that the row is in now",
    "fsm_actor": "actor=, or NULL",
    "fsm_details": "details= as JSON, or NULL",
    "fsm_token": "token=, or NULL",
    "fsm_sequence": "the number that was read before",
}


def _compiled(statement: Executable, dialect: Dialect) -> SQLCompiler:
    compiled = statement.compile(dialect=dialect)  # type: ignore[attr-defined]  # Executable does not declare it
    assert isinstance(compiled, SQLCompiler)
    return compiled


def _legend(state: MappedState, event: EventSQL, compiled: SQLCompiler) -> Iterator[tuple[str, str]]:
    """Each bound name of *compiled* with its meaning, in the order of the text."""
    keys = dict(zip(state.key_names, state.row.key, strict=True))
    values: dict[str, Any] = compiled.params  # Any: a bound value is whatever its column takes
    for name in sorted(values, key=lambda name: str(compiled).find(f":{name}")):
        if name in keys:
            yield name, f"the row's key, {keys[name].table.name}.{keys[name].name}"
        elif name in event.parameters:
            yield name, f"payload {event.parameters[name]!r}"
        elif name in _MEANINGS:
            yield name, _MEANINGS[name]
        elif values[name] is None:
            yield name, "set by the session"
        else:
            yield name, f"always {values[name]!r}"


# Quoted text, which stays as it is; blanks; and the characters that end a word.
_PIECES = re.compile(r"""('(?:[^'\\]|''|\\.)*'|"(?:[^"\\]|""|\\.)*"|`(?:[^`]|``)*`|\s+|[(),=])""", re.DOTALL)
_CLAUSES = {"SET", "FROM", "WHERE"}


def broken(statement: str) -> str:
    """*statement* with a line for each clause and each WHEN; strings and quoted names stay as they are.

    >>> print(broken("UPDATE orders SET state=CASE state WHEN 'SET AND' THEN 'b' ELSE 'c' END WHERE id = 1"))
    UPDATE orders
    SET state=CASE state
        WHEN 'SET AND' THEN 'b'
        ELSE 'c' END
    WHERE id = 1
    """
    text, depth = "", 0
    for piece in _PIECES.split(statement):
        if piece in _CLAUSES or (piece == "AND" and not depth):
            text = f"{text.rstrip()}\n{'  ' if piece == 'AND' else ''}"
        elif piece in {"WHEN", "ELSE"}:
            text = f"{text.rstrip()}\n{'    ' * depth}"
        text += piece
        depth += (piece == "CASE") - (piece == "END")
    return text
