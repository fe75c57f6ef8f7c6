"""The parameters of each function in the reference, as a list with types; its errors as links.

A docstring explains a function in sentences. The meaning of a parameter is nearly the same in all functions that have
it, so this table has it once. ``function.parameter`` takes precedence over ``parameter``. tests/docs/test_reference.py
compares the table with the signatures.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

from sphinx.application import Sphinx

STATE = "str or Enum member"
SESSION = "Session, AsyncSession, scoped session"
FIGURES = "as returned by count_transitions, count_rows and dwell_times"

# Parameter -> its type, and its meaning.
PARAMETERS = {
    "actor": ("str or None", "who does it, for the history: at most 255 characters"),
    "algorithm": ("'INSTANT', 'INPLACE', 'COPY' or None", "the server's ALGORITHM. None lets the server choose"),
    "aliases": ("mapping of str to state", "further spellings in the database, for a rename: {'Error': 'Failed'}"),
    "also": ("machines", "other machines whose transitions the triggers accept too, during a deploy"),
    "after": ("timedelta or function", "makes a timed event: due that long after the row has entered its state"),
    "answer": ("Refused or an error", "the refusal or the error that is answered"),
    "app": ("FastAPI or Starlette", "the application"),
    "answer_errors.app": ("FastAPI, Flask or a blueprint", "the application"),
    "arguments": ("any", "positional arguments of mapped_column, such as the column's name or a ForeignKey"),
    "fire_or_create.arguments": (
        "an instance; or a model and a key",
        "the row, then the event, then the session",
    ),
    "attempts": ("int, at least 1", "how often the statement is tried when it waits for locks too long"),
    "run_transaction.attempts": ("int, at least 1", "how often the unit of work runs at most"),
    "bases": ("declarative base or MetaData", "whose tables are created"),
    "batch_size": ("int, at least 1", "rows of one batch, in primary-key order"),
    "bind": ("Connection or Engine", "the database"),
    "borders": ("bool", "whether to show the effects of entering and leaving"),
    "check": ("bool", "whether a problem raises AssertionError; else the report lists it"),
    "column": ("mapped attribute, str or None", "the state column. None if the model has only one"),
    "column_name": ("str", "the state column"),
    "columns": ("mapped attributes", "the state columns whose hooks are recorded instead of called. None given: all"),
    "connection": ("Connection", "the connection, in a transaction"),
    "connections": ("int, at least 1", "batches that can be under way at once"),
    "copies_table": ("bool", "has to be true where the server copies the table, which blocks its writers"),
    "count_rows": ("bool", "whether to count rows in undeclared states, which reads the table or an index"),
    "counts": ("mapping", f"transitions that happened, {FIGURES}"),
    "criteria": ("SQL expressions", "the WHERE of the rows, joined by AND"),
    "definition": ("str or None", "the column's line of SHOW CREATE TABLE, for scripts of --sql"),
    "description": ("str or None", "a text for people, which diagrams show"),
    "details": ("any JSON value", "further facts about the move, for the history: at most 31 levels deep"),
    "erase_actor.details": ("bool", "whether the details of these history rows are emptied, too"),
    "developer": ("bool", "whether the answer has the names of states and tables, for developers"),
    "direction": ("'LR' or 'TB'", "left to right, or top to bottom"),
    "dpi": ("int, 10 to 1200", "dots per inch"),
    "drop": ("bool", "whether to drop the column that was adopted"),
    "effect": ("function", "gets the model and the payload, and returns {column: SQL expression or value} to write"),
    "effects": ("bool", "whether to show the names of effects"),
    "enforced": ("bool", "whether create_all() adds triggers that enforce the machine"),
    "engine": ("Engine or AsyncEngine", "the database"),
    "event": ("str", "the name of the event"),
    "fire_due.event": ("str or None", "one timed event. None for all of the machine"),
    "run_due.event": ("str or None", "one timed event. None for all of the machine"),
    "on_moved.event": ("str, collection of str or None", "the events that call the function. None for all"),
    "on_committed.event": ("str, collection of str or None", "the events that call the function. None for all"),
    "events": ("iterable of Event", "the events"),
    "race.events": ("sequence of str or None", "the events that the processes fire. None for all"),
    "every": ("timedelta or None", "the pause between two rounds. None for one round only"),
    "existing": ("sequence of states", "the states that the column accepts now, which --sql needs"),
    "existing_storage": ("'enum', 'varchar', 'integer' or None", "the storage of today, which --sql needs"),
    "expression": ("SQL subquery", "the part of a guard or criterion whose rows are read without locks"),
    "fire": ("function or None", "a unit of work of your own, instead of a random fire"),
    "fires": ("int", "fires of each process"),
    "function": ("function", "gets the model and the payload, and returns a SQL condition"),
    "remove_hook.function": ("function", "the function that was registered"),
    "graph": ("Graph", "the drawing"),
    "group": ("str", "the name of a group of the machine"),
    "groups": ("mapping of str to states", "names for sets of states"),
    "guard": ("function or Guard", "the condition in SQL under which the transition is taken"),
    "guards": ("bool", "whether to show the names of guards"),
    "history": ("iterable of history rows", "one row's history, in its order"),
    "migrate_states.history": ("str or None", "the history table, which gets a row for each migrated row"),
    "idempotent": ("bool", "whether to run the work again after a COMMIT of unknown outcome"),
    "initial": (STATE, "the state of a new row"),
    "initial_states": ("states, or ANY", "further states in which a row can be inserted"),
    "instance": ("mapped instance", "the row"),
    "isolation_level": ("str or None", "the isolation level of the processes. None for the server's default"),
    "job": ("mapped instance", "a row that claim() has leased"),
    "key": ("scalar, tuple or mapping", "the primary key; a composite key as a tuple or by attribute names"),
    "keys": ("iterable of keys", "the primary keys of the rows"),
    "fire_where.keys": ("bool", "whether the outcome lists the key, source and target of each moved row"),
    "lease": ("timedelta or None", "how long the rows belong to the worker: at most 100 years"),
    "limit": ("int, at least 1", "the most rows of one call, or of one batch"),
    "lock_wait_timeout": ("int, seconds", "how long a statement waits for the table's lock"),
    "machine": ("Machine", "the machine"),
    "enforce_machine.machine": ("Machine or allowed transitions", "the machine, or its transitions written out"),
    "release_machine.machine": ("Machine, allowed transitions or None", "what the downgrade enforces again"),
    "make": ("function or None", "makes a new instance. None calls the model without arguments"),
    "manager": ("versioning manager", "of SQLAlchemy-Continuum or SQLAlchemy-History"),
    "mapping": ("mapping of stored value to state", "the state of each value of the column that is taken over"),
    "max_batch": ("int, at least 1", "the most fires of a batch"),
    "max_pending": ("int, at least 1", "the most fires that wait; a further caller waits for room"),
    "max_rows": ("int or None", "raises TooManyRows when more rows match, before any is moved"),
    "max_wait": ("timedelta, at most 1 minute", "how long the first fire of a batch waits for others"),
    "mode": ("'refuse' or 'watch'", "whether the triggers refuse a wrong write, or count it"),
    "model": ("mapped class", "the class of the rows"),
    "name": ("str or None", "a name"),
    "Machine.name": ("str or None", "the machine's name, which appears in messages"),
    "Guard.name": ("str or None", "the guard's name in refusals. None for the function's name"),
    "Event.name": ("str", "the name of the event"),
    "StateSinceColumn.name": ("str or None", "the name of the column"),
    "sentence_of.name": ("function", "the text that people see for a name of an event or state"),
    "problem_of.name": ("function", "the text that people see for a name of an event or state"),
    "answer_errors.name": ("function", "the text that people see for a name of an event or state"),
    "exception_handlers.name": ("function", "the text that people see for a name of an event or state"),
    "names": ("mapping of number to str", "the names of states that are stored as numbers, for the history"),
    "keeps_timestamps": ("bool", "whether columns with ON UPDATE CURRENT_TIMESTAMP keep their values"),
    "new": ("Machine", "the machine of the next release"),
    "adopt_column.new": ("str", "the state column that is added"),
    "abandon_adoption.new": ("str", "the state column that was added"),
    "finish_adoption.new": ("str", "the state column that was added"),
    "of": ("str or None", "the attribute of the state column, where the model has several"),
    "old": ("Machine", "the machine of the last release"),
    "adopt_column.old": ("str", "the column that is taken over"),
    "abandon_adoption.old": ("str", "the column that is taken over"),
    "finish_adoption.old": ("str", "the column that is taken over"),
    "older_than": ("timedelta", "the age of the history rows that are deleted, by the database's clock"),
    "on_enter": ("mapping of state, group or ANY to effect", "written by each transition that enters it"),
    "on_exit": ("mapping of state, group or ANY to effect", "written by each transition that leaves it"),
    "one_packet": ("bool", "whether fires of the machine are sent as under fsm_one_packet, where no engine sets that"),
    "options": ("keyword arguments", "options of mapped_column"),
    "private_server.options": ("str", "options of the server program"),
    "sqlite_engine.options": ("keyword arguments", "options of create_engine"),
    "sqlite_session.options": ("keyword arguments", "options of Session"),
    "order_by": ("SQL expressions", "the order of the rows. None for the primary key"),
    "origin": ("'history', 'column' or None", "where the times come from. None takes the history if there is one"),
    "payload": ("keyword arguments", "the values that the event's guards and effects take"),
    "payloads": ("mapping", "for each event with a payload, the payloads to try"),
    "previous": ("Machine, allowed transitions or None", "what the triggers enforce now, for the downgrade"),
    "previous_initial_states": ("states, or ANY", "the further initial states of *previous*"),
    "processes": ("int", "processes that fire at once"),
    "progress": ("function or None", "called after each batch with the rows moved so far"),
    "protected": ("bool", "whether assigning the attribute raises StateAssignmentError"),
    "pruned": ("bool", "whether the beginning of the history may be missing"),
    "ready_file": ("path or None", "a file that is touched after each round, for health checks"),
    "reason": ("'state', 'guard' or None", "the expected reason. None for any"),
    "record": ("mapping of str to str", "the history's key column for each primary key column; --sql needs it"),
    "recorded": ("bool", "whether the event is written to the history"),
    "replacement": ("str or None", "the text that replaces the actor"),
    "retired": ("iterable of states", "states that rows may have, and that no transition enters"),
    "rows": ("mapping", f"rows in each state, {FIGURES}"),
    "permitted.rows": ("int", "the most rows that may take the transition"),
    "sa_column_kwargs": ("mapping or None", "options of the column, as of SQLModel's Field"),
    "schema": ("str or None", "the schema of the table"),
    "seed": ("int", "the seed of the random choices"),
    "sentence": ("str or None", "the refusal in words for people"),
    "server_default": ("str, int or None", "the column's default, where the old default is dropped"),
    "session": (f"{SESSION} or Connection", "where the statement runs; an async one makes the call awaitable"),
    "Stateful.session": (SESSION, "None for the session of the instance"),
    "session_factory": ("sessionmaker, async_sessionmaker or Engine", "makes a session for each attempt"),
    "sessions": ("sessionmaker or async_sessionmaker", "makes the sessions"),
    "since": ("datetime or None", "the beginning of the time that counts, in UTC"),
    "migrate_states.since": ("str or None", "the StateSinceColumn, which is set for each migrated row"),
    "source": (STATE, "the state before"),
    "Transition.source": ("state, group, tuple of them, or ANY", "the states that the transition leaves"),
    "on_moved.source": ("state, collection of states or None", "the states before that call the function"),
    "on_committed.source": ("state, collection of states or None", "the states before that call the function"),
    "state": (STATE, "the state that the row gets"),
    "states": ("iterable of states", "all states. None for those of the events"),
    "add_states.states": ("sequence of str or int", "the states that are added"),
    "drop_states.states": ("sequence of str or int", "the states that are dropped"),
    "convert_states.states": ("sequence of str or int", "all states of the column"),
    "adopt_column.states": ("sequence of str or int", "all states of the new column"),
    "States.states": ("str or int", "all states of the column"),
    "stop": ("Event of threading or asyncio, or function", "ends the loop after the current batch"),
    "storage": ("'enum', 'varchar' or 'integer'", "how the database stores the states"),
    "table_name": ("str", "the table"),
    "target": (STATE, "the state after"),
    "on_moved.target": ("state, collection of states or None", "the states after that call the function"),
    "on_committed.target": ("state, collection of states or None", "the states after that call the function"),
    "targets": ("mapping of stored value to state", "the new state of each old one"),
    "text": ("str", "JSON that to_json() has written"),
    "theme": ("'auto', 'light' or 'dark'", "the colours"),
    "timeout": ("float or None, seconds", "the time after which the call gives up. None for no limit"),
    "times": ("mapping", f"how long rows stay in each state, {FIGURES}"),
    "token": ("str or None", "1 to 64 printable characters. The same token again returns the first outcome"),
    "find_by_token.token": ("str", "the token of the fire"),
    "transitions": ("mapping or iterable of Transition", "the targets by source: {'new': 'paid'}"),
    "unknown": ("state or None", "the state of rows with a value that *mapping* lacks. None refuses them"),
    "until": ("datetime or None", "the end of the time that counts, in UTC"),
    "url": ("URL or str", "the database, with committed rows"),
    "where": ("str or None", "a SQL condition that limits the rows"),
    "work": ("function", "gets the session. Its result is the result of the call"),
    "worker": ("str or None", "the worker that has the lease: 1 to 64 characters. None takes it from the instance"),
}

ERROR = re.compile(r"(?<![\w`.~])([A-Z]\w+)(?![\w`])")


def parameters_of(function: Any) -> Iterator[inspect.Parameter]:
    """The parameters that a caller passes."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    yield from (each for each in signature.parameters.values() if each.name not in {"self", "operations"})


def meaning_of(function: str, parameter: str) -> tuple[str, str] | None:
    """The type and the meaning of *parameter*; None if this table has none. *function* is a dotted name."""
    owners = reversed(function.split("."))
    return next(filter(None, (PARAMETERS.get(f"{each}.{parameter}") for each in owners)), PARAMETERS.get(parameter))


def listed(function: str, parameter: inspect.Parameter) -> str | None:
    """One line of a field list."""
    meaning = meaning_of(function, parameter.name)
    if meaning is None:
        return None
    star = {inspect.Parameter.VAR_POSITIONAL: r"\*", inspect.Parameter.VAR_KEYWORD: r"\*\*"}.get(parameter.kind, "")
    default = "" if parameter.default is inspect.Parameter.empty else f", default ``{parameter.default!r}``"
    return f":param {star}{parameter.name}: (*{meaning[0]}*{default}) {meaning[1]}."


def extend(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Link the errors of a docstring, and add the list of parameters."""
    import sqlalchemy_fsm_mysql as package
    from sqlalchemy_fsm_mysql import errors

    def linked(found: re.Match[str]) -> str:
        if not hasattr(errors, found[1]):
            return found[0]
        home = "" if found[1] in package.__all__ else "errors."
        return f":exc:`~sqlalchemy_fsm_mysql.{home}{found[1]}`"

    is_raises = False
    for number, line in enumerate(lines):
        if line.startswith("Returns:"):
            lines[number] = line.replace("Returns:", "**Returns:**", 1)
        is_raises = (is_raises and bool(line.strip())) or line.startswith("Raises:")
        if is_raises:
            lines[number] = ERROR.sub(linked, line).replace("Raises:", "**Raises:**", 1)
    is_called = what in {"function", "method"} or (what == "class" and name.rsplit(".", maxsplit=1)[-1] in CONSTRUCTED)
    fields = [listed(name, each) for each in parameters_of(obj)] if is_called else []
    if any(fields):
        lines.extend(["", *filter(None, fields), ""])


# Classes that users construct. Others are made by the library, and their docstrings describe their fields.
CONSTRUCTED = {"Machine", "Event", "Transition", "Guard", "StateType", "States", "Coalescer"}


def setup(app: Sphinx) -> dict[str, Any]:
    """Extend each docstring of the reference."""
    app.connect("autodoc-process-docstring", extend)
    return {"version": "1", "parallel_read_safe": True}
