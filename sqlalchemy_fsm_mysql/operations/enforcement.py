"""Enforcement in the database: triggers made from the machine refuse an undeclared edge of any writer.

:func:`enforce_machine` puts them on the table of a state column, :func:`release_machine` takes them away. A column
declared ``enforced=True`` has them from ``metadata.create_all()`` on. What they refuse is :class:`RefusedByDatabase`.

Guards are not repeated in the triggers: an edge is allowed if some event has it, whatever its guard says.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy import Column, Connection, Engine, Table, func, inspect, select
from sqlalchemy.engine import Inspector
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import QueryableAttribute
from sqlalchemy.schema import CreateTable

from ..core.failures import Cause, error_code, is_due_to
from ..databases import database_of, name_of
from ..databases.mysql.survey import Survey
from ..databases.triggers import KINDS, CreateTrigger, DropTrigger, InstalledTrigger, Mode, column_digest
from ..databases.watching import watched_table
from ..errors import FSMError, TableBusy
from ..errors.texts import shown
from ..machine import Machine
from ..machine.rules import Rules
from ..orm.column import StateType

__all__ = [
    "AlsoAllowed",
    "Mode",
    "WatchedEdge",
    "allowed_edges",
    "enforce_machine",
    "install_triggers",
    "installed_rules",
    "orphaned_triggers",
    "own_triggers",
    "permitted",
    "release_machine",
    "remove_triggers",
    "require_seconds",
    "triggered_columns",
    "watched_edges",
]

LOCK_WAIT, LOCK_ATTEMPTS = 1, 5
_LONGEST_WAIT = 31_536_000  # a year, the servers' own limit
_BETWEEN_ATTEMPTS = 1.0  # seconds, in which the writers that have queued behind an attempt get through
_ATTEMPTS = 20
_LONGEST_PAUSE = 1.0  # seconds

AlsoAllowed: TypeAlias = "Machine | str | Mapping[str | None, Iterable[str]]"


def enforce_machine(
    column: object,
    bind: Connection | Engine,
    *,
    also: Iterable[AlsoAllowed] = (),
    mode: Mode = "refuse",
    lock_wait_timeout: int = LOCK_WAIT,
) -> None:
    """Create triggers on the table of *column* that enforce the machine for every writer of the database.

    *column* is a mapped attribute, ``Order.state``, or a Core column with a ``StateType``. Existing rows are not read.
    Called again, it does nothing, and several processes can call it at once. Triggers of an older machine are replaced.
    The new ones are created first, so the table always has triggers; for that moment they allow only transitions that
    both machines have.

    *also* are further machines whose transitions are allowed, such as the machine of the other release during a
    rolling deploy. Each is a `Machine`, the text of its ``to_json()``, or transitions: ``{"paid": ["void"]}``.
    Transitions from None are states of a new row.

    With the *mode* ``"watch"``, the triggers refuse nothing. They count each undeclared transition in the table
    ``fsm_watched_edges``, in the writer's own transaction. :func:`~.operations.enforcement.watched_edges` reads it.

    MySQL and MariaDB commit an open transaction before they create a trigger, and require the privilege TRIGGER. If the
    binary log is on, see ``log_bin_trust_function_creators``. While the statement waits for the table, all other
    writers also wait. So an attempt ends after *lock_wait_timeout* seconds, and the next one begins a second later,
    with five attempts in all.

    Raises: TypeError when *column* has no machine; ValueError for another *mode*, and a *lock_wait_timeout* that is no
    number of seconds; FSMError for a database whose triggers are not supported; TableBusy, a LockTimeout, after the
    last attempt, with nothing half done unless the message reports it; SQLAlchemy's DBAPIError for a missing privilege
    or table.
    """
    if mode not in ("refuse", "watch"):
        raise ValueError(f"mode={shown(mode)}; triggers either 'refuse' or 'watch'")
    require_seconds(lock_wait_timeout)
    own = state_column(column)
    rules = rules_of(own).union(*(rules_also(own.type, other) for other in also))
    with connected(bind) as connection:
        install_triggers(connection, own, rules, mode=mode, lock_wait_timeout=lock_wait_timeout)


def release_machine(column: object, bind: Connection | Engine, *, lock_wait_timeout: int = LOCK_WAIT) -> None:
    """Drop the triggers that :func:`enforce_machine` has made for *column*, of any machine.

    Raises: TypeError when *column* is not a column of a table; ValueError for a *lock_wait_timeout* that is not a
    number of seconds; FSMError when the account cannot see triggers; TableBusy, a LockTimeout, as for
    :func:`enforce_machine`; SQLAlchemy's DBAPIError.
    """
    require_seconds(lock_wait_timeout)
    own = state_column(column)
    with connected(bind) as connection:
        remove_triggers(connection, own, lock_wait_timeout=lock_wait_timeout)


def require_seconds(lock_wait_timeout: Any) -> None:
    """Raises: ValueError when *lock_wait_timeout* is not a number of seconds that a server takes."""
    if type(lock_wait_timeout) is not int or not 1 <= lock_wait_timeout <= _LONGEST_WAIT:
        raise ValueError(
            f"lock_wait_timeout={shown(lock_wait_timeout)}; it must be whole seconds, 1 to {_LONGEST_WAIT:,}"
        )


def permitted(
    column: object, connection: Connection, source: str, target: str, *, rows: int
) -> AbstractContextManager[None]:
    """Within the block, *connection* can take *rows* rows along one transition that the triggers refuse, for a repair.

    *source* and *target* are the stored values. Every other write in the block has to follow the machine, and so does
    every write after the block. ``force_state`` and the Alembic operation ``migrate_states`` use it. On SQLite, a
    trigger that does not count the rows replaces the usual one for the block, within a savepoint.

    Raises: TypeError when *column* has no machine; ValueError when *rows* is not a number of rows.
    """
    if type(rows) is not int or rows < 1:
        raise ValueError(f"rows={shown(rows)}; it must be a number of rows, at least 1")
    return database_of(connection).enforcer.permitted(connection, state_column(column), source, target, rows=rows)


def rules_also(type_: Any, other: AlsoAllowed) -> Rules:
    """The rules of a machine, of the text of one, or of edges, in the values that a column of *type_* stores."""
    if isinstance(other, Mapping):
        return Rules.of_edges(other)
    rules: Rules = type_.rules_of(other if isinstance(other, Machine) else Machine.from_json(other))
    return rules


def state_column(column: Any) -> Column[Any]:
    """The Core column behind *column*.

    Raises: TypeError when it is none, or is in no table.
    """
    if isinstance(column, QueryableAttribute):
        column = getattr(inspect(column).property, "columns", [None])[0]
    if not isinstance(column, Column) or not isinstance(column.table, Table):
        raise TypeError(f"expected a mapped state such as Order.state, or a column of a Table, not {shown(column)}")
    return column


def rules_of(column: Column[Any]) -> Rules:
    """The rules that *column* is declared with.

    Raises: TypeError when it holds no machine's state.
    """
    if not isinstance(column.type, StateType):
        raise TypeError(f"{column} has the type {type(column.type).__name__}; a machine's state has a StateType")
    return column.type.rules


@contextmanager
def connected(bind: Connection | Engine) -> Iterator[Connection]:
    """*bind* itself, or a connection of it whose work is committed at the end."""
    if isinstance(bind, Connection):
        yield bind
        return
    if not isinstance(bind, Engine):
        raise TypeError(f"expected a Connection or an Engine, not {type(bind).__name__}")
    with bind.begin() as connection:
        yield connection


@contextmanager
def reflecting(connection: Connection) -> Iterator[Inspector]:
    """An inspector of *connection* for the block.

    SQLAlchemy's reflection of MySQL leaves an option on the connection that has no listener called for its errors, so
    the option is set back.
    """
    before = connection.get_execution_options().get("skip_user_error_events", False)
    try:
        yield inspect(connection)
    finally:
        connection.execution_options(skip_user_error_events=before)


def own_triggers(connection: Connection, column: Column[Any], survey: Survey | None = None) -> list[InstalledTrigger]:
    """The triggers that enforce a machine on *column*; the *survey* knows them without a statement."""
    digest = column_digest(column.name)
    return [one for one in _our_triggers(connection, column.table, survey) if one.column == digest]


def orphaned_triggers(connection: Connection, table: Table, survey: Survey | None = None) -> list[InstalledTrigger]:
    """The triggers of ours on *table* whose column is not there any more; every write of the table fails with them."""
    found = _our_triggers(connection, table, survey)
    if not found:
        return []
    catalogue = database_of(connection).catalogue
    names = catalogue.column_names(connection, table) if survey is None else survey.columns[table.name].keys()
    present = set(map(column_digest, names))
    orphans = [one for one in found if one.column not in present]
    # The server hides columns from an account without privileges on them: to it, every trigger looks like an orphan.
    return orphans if orphans and catalogue.may_see_columns(connection, table) else []


def _our_triggers(connection: Connection, table: Table, survey: Survey | None) -> list[InstalledTrigger]:
    if survey is not None:
        return survey.triggers(table.name)
    return database_of(connection).enforcer.triggers(connection, table)


def allowed_edges(connection: Connection, column: Column[Any]) -> dict[str, frozenset[tuple[str, ...]] | None]:
    """The edges that the triggers on *column* allow, by kind: ``{"update": {("new", "paid")}, "insert": {("new",)}}``.

    Where two sets of triggers are there, both have to allow an edge. None stands for a trigger that cannot be read.
    Triggers that only watch are left out.
    """
    enforcer, found = database_of(connection).enforcer, own_triggers(connection, column)
    allowed: dict[str, frozenset[tuple[str, ...]] | None] = {}
    for one in found:
        if one.mode == "refuse":
            edges, before = enforcer.allowed(one), allowed.get(one.kind, frozenset())
            both = edges if one.kind not in allowed or edges is None or before is None else edges & before
            allowed[one.kind] = both
    return allowed


def installed_rules(connection: Connection, column: Column[Any], survey: Survey | None = None) -> Rules | None:
    """The rules of the triggers on *column*, refusing or watching; None when there are none, or one cannot be read."""
    enforcer, found = database_of(connection).enforcer, own_triggers(connection, column, survey)
    edges: dict[str, set[tuple[str, ...]]] = {}
    for one in found:
        allowed = enforcer.allowed(one)
        if allowed is None:
            return None
        edges[one.kind] = edges[one.kind] & allowed if one.kind in edges else set(allowed)
    if set(edges) != set(KINDS):
        return None
    listed: dict[str | None, list[str]] = {None: sorted(text for (text,) in edges["insert"])}
    for source, target in sorted(edges["update"]):
        listed.setdefault(source, []).append(target)
    return Rules.of_edges(listed)


def triggered_columns(connection: Connection, table: Table) -> list[str]:
    """The names of the columns of *table* that have triggers of ours."""
    digests = {one.column for one in database_of(connection).enforcer.triggers(connection, table)}
    if not digests:
        return []
    names = database_of(connection).catalogue.column_names(connection, table)
    return sorted(name for name in names if column_digest(name) in digests)


def install_triggers(
    connection: Connection,
    column: Column[Any],
    rules: Rules,
    *,
    mode: Mode = "refuse",
    lock_wait_timeout: int = LOCK_WAIT,
) -> None:
    """Enforce *rules* on *column*, and no others."""
    database, table = database_of(connection), column.table
    if not database.enforcer.can_enforce:
        raise FSMError(
            f"a machine cannot be enforced on {name_of(connection.dialect)}: this library has no triggers for it"
        )
    if mode == "watch":
        schema = connection.schema_for_object(table)
        # Not create(checkfirst=True): SQLAlchemy's reflection has this connection call no listener for errors any more.
        watched = watched_table(schema)
        connection.execute(CreateTable(watched, if_not_exists=True))
    with database.enforcer.waiting_at_most(connection, lock_wait_timeout):
        # Another process may do the same at this moment, for this machine or another one. Each looks again when it has
        # changed something, so the one that comes last finds that all is as it wants it, or makes it so.
        for attempt in range(_ATTEMPTS):
            if _is_installed(connection, column, rules, mode):
                return
            # Two processes with different machines undo each other's work until one of them has time to look.
            if attempt:
                time.sleep(random.uniform(0, _LONGEST_PAUSE * attempt / _ATTEMPTS))  # noqa: S311 - no secret
            with suppress(_Raced):
                _patiently(
                    connection,
                    column,
                    lock_wait_timeout,
                    lambda: _replace_triggers(connection, column, rules, mode),
                )
    raise FSMError(
        f"{column}: other processes replaced its triggers at each attempt, so the result is unknown: run it again"
    )


class _Raced(Exception):
    """Another process has made a trigger of this name."""


def _patiently(connection: Connection, column: Column[Any], seconds: int, work: Callable[[], None]) -> None:
    """Do *work*, again when transactions used the table for longer than an attempt waits, which is *seconds*.

    Raises: TableBusy after the last attempt.
    """
    before = own_triggers(connection, column)
    for attempt in range(1, LOCK_ATTEMPTS + 1):
        try:
            work()
        except DBAPIError as error:
            if not is_due_to(error, Cause.LOCK_WAIT):
                raise
            if attempt == LOCK_ATTEMPTS:
                left = "nothing was changed"
                if own_triggers(connection, column) != before:
                    left = "some triggers are replaced and others not, and the next call does the rest"
                raise TableBusy(
                    column=f"{column.table.name}.{column.name}",
                    attempts=attempt,
                    seconds=seconds,
                    users=database_of(connection).transactions.users_of(connection, column.table),
                    left=left,
                    code=error_code(error),
                ) from error
            time.sleep(_BETWEEN_ATTEMPTS)
        else:
            return


def _is_installed(connection: Connection, column: Column[Any], rules: Rules, mode: Mode) -> bool:
    found = own_triggers(connection, column)
    wanted = [CreateTrigger(column, rules, kind, mode=mode) for kind in KINDS]
    is_complete = len(found) == len(wanted) and all(any(one.is_as(trigger) for one in found) for trigger in wanted)
    return is_complete and not orphaned_triggers(connection, column.table)


def _replace_triggers(connection: Connection, column: Column[Any], rules: Rules, mode: Mode) -> None:
    enforcer, found = database_of(connection).enforcer, own_triggers(connection, column)
    used = enforcer.used_names(connection, column.table)
    wanted = [CreateTrigger(column, rules, kind, mode=mode, used_names=used) for kind in KINDS]
    # An orphan refuses every write, so nothing is lost by dropping it first.
    for one in orphaned_triggers(connection, column.table):
        connection.execute(DropTrigger(column.table, one.name))
    missing = [trigger for trigger in wanted if not any(one.is_as(trigger) for one in found)]
    for number, trigger in enumerate(missing):
        try:
            connection.execute(trigger)
        except DBAPIError as error:
            if is_due_to(error, Cause.TRIGGER_EXISTS):
                raise _Raced from error
            # Without the other trigger, the one that is made already would stay behind alone.
            with suppress(DBAPIError):
                for made in missing[:number] if not connection.invalidated else ():
                    connection.execute(DropTrigger(column.table, made.name))
            raise
    for one in found:
        if not any(one.is_as(trigger) for trigger in wanted):
            connection.execute(DropTrigger(column.table, one.name))


def remove_triggers(connection: Connection, column: Column[Any], *, lock_wait_timeout: int = LOCK_WAIT) -> None:
    """Enforce nothing on *column*, and drop the triggers of columns that the table does not have any longer."""

    def drop() -> None:
        for one in [*own_triggers(connection, column), *orphaned_triggers(connection, column.table)]:
            connection.execute(DropTrigger(column.table, one.name))

    found = own_triggers(connection, column)
    if not found and not database_of(connection).catalogue.may_see_triggers(connection, column.table):
        raise FSMError(
            f"{column}: this account has no privilege TRIGGER, and cannot see triggers without it: GRANT it, or use"
            " another account; nothing was changed"
        )
    with database_of(connection).enforcer.waiting_at_most(connection, lock_wait_timeout):
        _patiently(connection, column, lock_wait_timeout, drop)


@dataclass(frozen=True, slots=True)
class WatchedEdge:
    """A transition that the machine does not declare, counted by triggers in the mode "watch".

    `source` and `target` are the stored values; `source` is None for a new row. `times` is how often it happened,
    `first` and `last` are the times in UTC. `account` is the login ``user@host``, None on SQLite.
    """

    source: str | None
    target: str | None
    account: str | None
    times: int
    first: datetime
    last: datetime


def watched_edges(column: object, bind: Connection | Engine) -> list[WatchedEdge]:
    """The undeclared transitions of *column* that triggers in the mode "watch" have counted.

    Returns: a list of `WatchedEdge`, the most frequent first; empty before ``enforce_machine(column, bind,
    mode="watch")``.

    Raises: TypeError when *column* has no machine; SQLAlchemy's errors.
    """
    own = state_column(column)
    with connected(bind) as connection:
        schema = connection.schema_for_object(own.table)
        watched = watched_table(schema)
        with reflecting(connection) as inspector:
            if not inspector.has_table(watched.name, schema=schema):
                return []
        at, names = watched.c.at, (watched.c.source, watched.c.target, watched.c.account)
        is_own = (watched.c.table_name == own.table.name, watched.c.column_name == own.name)
        times = func.count()
        query = select(*names, times, func.min(at), func.max(at)).where(*is_own).group_by(*names)
        return [WatchedEdge(*row) for row in connection.execute(query.order_by(times.desc(), *names))]
