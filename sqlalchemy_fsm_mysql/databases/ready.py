"""Statements that are built once, compiled once, and then sent as text and a tuple.

SQLAlchemy finds a compiled statement by a key made of the whole statement, and computes the hash of that key at each
execution: the more states a machine has, the longer that takes. The text that is sent, logged and shown to listeners
of ``before_cursor_execute`` is the same either way.

Where no listener and no log would be shown the text, it is sent by the driver's cursor alone, without SQLAlchemy's
execution context and result around it. Errors are SQLAlchemy's in each case, and so are the events of errors.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar
from weakref import WeakKeyDictionary, ref

from sqlalchemy import Connection, CursorResult, Dialect, Executable, Select
from sqlalchemy.engine.default import DefaultDialect, DefaultExecutionContext
from sqlalchemy.exc import StatementError
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.sqltypes import TupleType

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


class _List(NamedTuple):
    """A parameter that takes a list: its place in the text, its position among the values, and a placeholder."""

    token: str
    position: int
    placeholder: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ReadyText:
    """One statement as one dialect's driver takes it."""

    text: str
    names: tuple[str, ...]  # of the parameters, in the driver's order
    constants: Mapping[str, Any]  # the values that the statement brings along
    processors: tuple[tuple[str, Callable[[Any], Any]], ...]
    lists: tuple[_List, ...]  # those of an IN: the text gets a placeholder for each of their values
    has_plain_rows: bool  # whether SQLAlchemy would hand out the values of rows as the driver reads them
    is_plain: bool  # and would read nothing else of the answer but attributes of the driver's cursor

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

    def filled(self, parameters: Mapping[str, Any]) -> tuple[str, tuple[Any, ...]] | None:
        """The text and the values; None with an empty list, for which every database has SQL of its own."""
        values = self.values(parameters)
        if not self.lists:
            return self.text, values
        text, flat = self.text, list(values)
        for token, position, placeholder in reversed(self.lists):  # from the end: the positions before stay
            several = values[position]
            if type(several) is not list or not several:
                return None
            flat[position : position + 1] = several
            text = text.replace(token, f"({', '.join([placeholder] * len(several))})")
        return text, tuple(flat)


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
        ready = self._text_on(connection)
        filled = ready.filled(parameters) if ready is not None and ready.has_plain_rows else None
        if filled is None:
            return connection.execute(self.statement, parameters)
        return connection.exec_driver_sql(*filled)

    def answer(self, connection: Connection, parameters: Mapping[str, Any]) -> tuple[int, int]:
        """The ``lastrowid`` and the ``rowcount`` of the statement, which returns no rows."""
        filled = self._unheard(connection, parameters)
        if filled is not None:
            return _sent(connection, *filled, _answer)
        result = self.execute(connection, parameters)
        return result.lastrowid or 0, result.rowcount

    def count(self, connection: Connection, parameters: Mapping[str, Any]) -> int:
        """The ``rowcount`` of the statement, which returns no rows: not every driver has a ``lastrowid``."""
        filled = self._unheard(connection, parameters)
        if filled is not None:
            return _sent(connection, *filled, _count)
        return self.execute(connection, parameters).rowcount

    def rows(self, connection: Connection, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """The rows of the statement, a SELECT."""
        filled = self._unheard(connection, parameters)
        if filled is not None:
            return _sent(connection, *filled, _rows)
        return self.execute(connection, parameters).all()

    def text_on(self, connection: Connection) -> ReadyText | None:
        """The statement as one text for *connection*; None where its text is made anew at each execution."""
        ready = self._text_on(connection)
        return None if ready is None or ready.lists else ready

    def _text_on(self, connection: Connection) -> ReadyText | None:
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

    def _unheard(self, connection: Connection, parameters: Mapping[str, Any]) -> tuple[str, tuple[Any, ...]] | None:
        """The text and the values for the driver's cursor alone; None where SQLAlchemy must send the statement.

        SQLAlchemy's result, and the context around it, cost about as much CPU time as a driver needs for the statement.
        So they are left out where nothing else would look at them: no listener, no log, no option, and no driver that
        answers in a way of its own.
        """
        last, ready = self._last
        if ready is None or not ready.is_plain or last() is not connection.dialect or not _is_unheard(connection):
            return None
        return ready.filled(parameters) if ready.lists else (ready.text, ready.values(parameters))

    def _ready_for(self, dialect: Dialect) -> ReadyText | None:
        if dialect not in self._texts:
            self._texts[dialect] = _text(self.statement, _positional(dialect))
        self._last = ref(dialect), self._texts[dialect]
        return self._texts[dialect]


# --- by the driver's cursor alone

# The execution options that change nothing about how a statement is sent, or that SQLAlchemy has applied before.
_HARMLESS = frozenset({"isolation_level", "fsm_backend", "fsm_one_packet"})


def _is_unheard(connection: Connection) -> bool:
    """Whether *connection* would do nothing for a statement but send it: no listener hears of it, and no log."""
    # Where SQLAlchemy would begin a transaction first, or raise an error instead, it has to.
    transaction = connection.get_nested_transaction() or connection.get_transaction()
    if transaction is None or not transaction.is_active:
        return False
    options = connection.get_execution_options()
    if options and not _HARMLESS.issuperset(options):
        return False
    # These names are private. Where one is missing, as in another version of SQLAlchemy, it sends the statement.
    within = getattr(connection, "_trans_context_manager", False)  # the "with" around it, whose block may be over
    if (within is not None and within is not transaction) or getattr(connection, "_echo", True):
        return False
    # SQLAlchemy itself asks this first, because looking for listeners makes them anew for each Connection.
    may_be_heard = getattr(connection, "_has_events", True) or getattr(connection.engine, "_has_events", True)
    if may_be_heard:
        heard = connection.dispatch
        if heard.before_execute or heard.after_execute or heard.before_cursor_execute or heard.after_cursor_execute:
            return False
    dialect = connection.dialect
    # A function that a test suite or a profiler has put in the place of do_execute would be given no context.
    return not dialect.dispatch.do_execute and getattr(dialect.do_execute, "__func__", None) is _DO_EXECUTE


def _sent(connection: Connection, text: str, values: tuple[Any, ...], read: Callable[[Any], _Built]) -> _Built:
    """Send *text* as ``connection.exec_driver_sql()`` does, and return what *read* finds in the driver's cursor."""
    dialect, sender = connection.dialect, connection.connection
    cursor: Any = None
    try:
        cursor = sender.cursor()
        dialect.do_execute(cursor, text, values)
        found = read(cursor)
        cursor.close()
    except BaseException as error:  # noqa: BLE001 - SQLAlchemy raises it, or its own error for it
        context: Any = None
        if cursor is not None:
            # Only now is the context needed: by SQLAlchemy's handling of errors, and by listeners of handle_error.
            options = connection.get_execution_options()
            begun: Any = dialect.execution_ctx_cls._init_statement  # noqa: SLF001
            context = begun(dialect, connection, sender, options, text, [values])
            context.cursor = cursor
        connection._handle_dbapi_exception(error, text, values, cursor, context)  # noqa: SLF001
    return found


def _answer(cursor: Any) -> tuple[int, int]:
    return cursor.lastrowid or 0, cursor.rowcount


def _count(cursor: Any) -> int:
    return int(cursor.rowcount)


def _rows(cursor: Any) -> Sequence[Sequence[Any]]:
    found: Sequence[Sequence[Any]] = cursor.fetchall()
    return found


# What exec_driver_sql() calls of a dialect's execution context, and the modules in which it does nothing else.
_OF_THE_CONTEXT = ("create_cursor", "create_default_cursor", "pre_exec", "post_exec", "get_lastrowid", "rowcount")
_PLAIN = frozenset(
    {"sqlalchemy.engine.default", "sqlalchemy.dialects.mysql.base", "sqlalchemy.dialects.mysql._mariadb_shim"}
)
_DO_EXECUTE = DefaultDialect.do_execute
_HAS_NAMES = hasattr(Connection, "_handle_dbapi_exception") and hasattr(DefaultExecutionContext, "_init_statement")


def _is_plain(dialect: Dialect) -> bool:
    """Whether the driver's cursor answers by itself: SQLAlchemy's context of *dialect* reads its attributes only."""
    if dialect.is_async or not _HAS_NAMES:
        return False
    return {_home(dialect.execution_ctx_cls, name) for name in _OF_THE_CONTEXT} <= _PLAIN


def _home(kind: type[Any], name: str) -> str:
    """The module of the class from which *kind* inherits *name*."""
    return next((base.__module__ for base in kind.__mro__ if name in vars(base)), "")


# --- the text


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
    if compiled.insert_prefetch or compiled.update_prefetch:  # defaults that Python makes
        return None
    binds = [compiled.binds[name] for name in compiled.positiontup]
    lists = _lists(compiled, compiled.positiontup, dialect)
    if lists is None or any(bind.callable is not None for bind in binds):
        return None
    processors = {bind.key: bind.type.dialect_impl(dialect).bind_processor(dialect) for bind in binds}
    several = {bind.key for bind in binds if bind.expanding}
    columns = statement.selected_columns if isinstance(statement, Select) else ()
    results = [column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns]
    has_plain_rows = not any(results)
    return ReadyText(
        compiled.string,
        tuple(bind.key for bind in binds),
        {bind.key: bind.value for bind in binds if not bind.required},
        tuple(
            (name, partial(_each, processor) if name in several else processor)
            for name, processor in processors.items()
            if processor is not None
        ),
        lists,
        has_plain_rows,
        has_plain_rows and _is_plain(dialect),
    )


_PLACEHOLDERS = {"format": "%s", "qmark": "?"}


def _lists(compiled: SQLCompiler, names: Sequence[str], dialect: Dialect) -> tuple[_List, ...] | None:
    """The parameters of *compiled* that take a list; None when SQLAlchemy alone can write one of them."""
    placeholder, lists = _PLACEHOLDERS.get(dialect.paramstyle), []
    for position, name in enumerate(names):
        bind = compiled.binds[name]
        if bind not in compiled.post_compile_params:
            continue
        token = f"(__[POSTCOMPILE_{name}])"  # in a type with SQL of its own around each value, it is another one
        is_known = bind.expanding and not bind.literal_execute and not isinstance(bind.type, TupleType)
        if placeholder is None or not is_known or token not in compiled.string:
            return None
        lists.append(_List(token, position, placeholder))
    return None if compiled.literal_execute_params else tuple(lists)


def _each(processor: Callable[[Any], Any], values: Any) -> Any:
    return [processor(value) for value in values] if type(values) is list else values
