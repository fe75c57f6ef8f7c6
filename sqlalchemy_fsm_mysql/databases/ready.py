"""Statements that are built once, compiled once, and then sent as text and a tuple.

SQLAlchemy finds a compiled statement by a key made of the whole statement, and computes the hash of that key at each
execution: the more states a machine has, the longer that takes. The text that is sent, logged and shown to listeners
of ``before_cursor_execute`` is the same either way.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from copy import copy
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar
from weakref import WeakKeyDictionary, ref

from sqlalchemy import Connection, CursorResult, Dialect, Executable
from sqlalchemy.exc import StatementError
from sqlalchemy.sql.compiler import SQLCompiler

__all__ = ["ReadyStatement", "ReadyText", "built_once", "shared"]

_Self = TypeVar("_Self")
_Arguments = ParamSpec("_Arguments")
_Built = TypeVar("_Built")


class _HasCache(Protocol):
    """An event or a history, which keeps the statements that were built from it."""

    @property
    def cache(self) -> dict[Any, Any]: ...


_Source = TypeVar("_Source", bound=_HasCache)


def built_once(
    build: Callable[Concatenate[_Self, _Source, _Arguments], _Built],
) -> Callable[Concatenate[_Self, _Source, _Arguments], _Built]:
    """A method that builds something from an event or a history, called once for each combination of arguments.

    The first argument's ``cache`` keeps the result. The key contains the class of *self* and not *self*, so an instance
    must not build anything else than another instance of its class.
    """

    @wraps(build)
    def kept(self: _Self, source: _Source, /, *arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Built:
        key = build, self.__class__, arguments, *options.values()
        built: _Built | None = source.cache.get(key)
        if built is None:
            built = source.cache[key] = build(self, source, *arguments, **options)
        return built

    return kept


def shared(statements: dict[Any, Any] | None, event: _HasCache, plan: Hashable, build: Callable[[], _Built]) -> _Built:
    """The statement of *event* for one *plan*, kept in *statements*, or built anew where that is None.

    The key contains the event's identity, and the value holds the event, so that no other event can get it.
    """
    if statements is None:
        return build()
    key = plan, id(event)
    known = statements.get(key)
    if known is None:
        known = statements[key] = event, build()
    statement: _Built = known[1]
    return statement


@dataclass(frozen=True, slots=True)
class ReadyText:
    """One statement as one dialect's driver takes it."""

    text: str
    names: tuple[str, ...]  # of the parameters, in the driver's order
    constants: Mapping[str, Any]  # the values that the statement brings along
    processors: tuple[tuple[str, Callable[[Any], Any]], ...]

    def values(self, parameters: Mapping[str, Any]) -> tuple[Any, ...]:
        if self.constants or self.processors:
            given = {**self.constants, **parameters}
            try:
                for name, processor in self.processors:
                    given[name] = processor(given[name])
            except Exception as error:  # a type may raise anything; SQLAlchemy's own error is the same
                raise StatementError(type(error).__name__, self.text, None, error, hide_parameters=True) from error
            parameters = given
        return tuple(map(parameters.__getitem__, self.names))


class ReadyStatement:
    """A statement, and its text for each dialect that has sent it.

    Its parameters have no names: drivers that take them by name (PyMySQL) can all take them by position, too.
    """

    statement: Executable

    __slots__ = ("_last", "_texts", "statement")

    def __init__(self, statement: Executable) -> None:
        self.statement = statement
        self._texts: WeakKeyDictionary[Dialect, ReadyText | None] = WeakKeyDictionary()
        self._last: tuple[Callable[[], Dialect | None], ReadyText | None] = (lambda: None), None

    def execute(self, connection: Connection, parameters: Mapping[str, Any]) -> CursorResult[Any]:
        """Do the same as ``connection.execute(statement, parameters)``, in less time where no listener sees it."""
        ready = self.text_on(connection)
        if ready is None:
            return connection.execute(self.statement, parameters)
        return connection.exec_driver_sql(ready.text, ready.values(parameters))

    def text_on(self, connection: Connection) -> ReadyText | None:
        """The statement as text for *connection*; None where it must be executed as an object."""
        dialect = connection.dialect
        last, ready = self._last
        if last() is not dialect:
            ready = self._ready_for(dialect)
        # SQLAlchemy itself asks this first, because looking for listeners makes them anew for each Connection.
        may_be_heard = getattr(connection, "_has_events", True) or getattr(connection.engine, "_has_events", True)
        # Listeners of these are shown the statement as an object, and a translated schema changes its text.
        is_heard = may_be_heard and (connection.dispatch.before_execute or connection.dispatch.after_execute)
        if is_heard or connection.get_execution_options().get("schema_translate_map"):
            return None
        return ready

    def _ready_for(self, dialect: Dialect) -> ReadyText | None:
        if dialect not in self._texts:
            self._texts[dialect] = _text(self.statement, _positional(dialect))
        self._last = ref(dialect), self._texts[dialect]
        return self._texts[dialect]


def _positional(dialect: Dialect) -> Dialect:
    """*dialect*, or for ``%(name)s`` a copy that compiles ``%s``."""
    if dialect.paramstyle != "pyformat":
        return dialect
    positional = copy(dialect)
    positional.paramstyle, positional.positional = "format", True
    return positional


def _text(statement: Executable, dialect: Dialect) -> ReadyText | None:
    """*statement* for *dialect*; None when its text or its values are made anew at each execution."""
    compiled = statement.compile(dialect=dialect)  # type: ignore[attr-defined]  # of ClauseElement, as all of ours are
    if not isinstance(compiled, SQLCompiler) or compiled.positiontup is None:
        return None
    if compiled.post_compile_params or compiled.literal_execute_params:  # an IN with as many values as are given
        return None
    if compiled.insert_prefetch or compiled.update_prefetch:  # defaults that Python makes
        return None
    binds = {name: compiled.binds[name] for name in compiled.positiontup}
    if any(bind.callable is not None for bind in binds.values()):
        return None
    processors = {name: bind.type.dialect_impl(dialect).bind_processor(dialect) for name, bind in binds.items()}
    return ReadyText(
        compiled.string,
        tuple(compiled.positiontup),
        {name: bind.value for name, bind in binds.items() if not bind.required},
        tuple((name, processor) for name, processor in processors.items() if processor is not None),
    )
