"""The contract of a backend, fulfilled for any database with row locks: a locking read, then the update."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from sqlalchemy import (
    BindParameter,
    Column,
    ColumnElement,
    Connection,
    DateTime,
    Dialect,
    Engine,
    Executable,
    String,
    bindparam,
    insert,
    select,
    tuple_,
    type_coerce,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine

from ..errors import RefusedByDatabase
from ..sql.code import NO_ROW, Created, Reading, Taken
from ..sql.events import SAID, EventSQL, HistorySQL, StateRow
from .clock import utc_now
from .enforcers import enforcer_of
from .triggers import refusal_in

# An INSERT's result is closed at once, and with it the cursor, of which some drivers keep no count.
KEEP_ROWCOUNT = {"preserve_rowcount": True}


class Backend:
    """Fires an event by ``SELECT … FOR UPDATE`` and ``UPDATE``: two round trips that every server and proxy knows.

    The subclasses override what their database does better. A backend has no state of its own: what it builds from an
    event is kept in ``event.cache``.
    """

    has_enum: ClassVar[bool] = False
    can_sweep: ClassVar[bool] = False
    can_upsert: ClassVar[bool] = False
    has_wire: ClassVar[bool] = True  # the driver reads answers from a connection, in the order of the statements
    begin: ClassVar[str] = "START TRANSACTION"

    def column_type(self, dialect: Dialect, states: Sequence[str], storage: str) -> TypeEngine[str]:
        """The type of a state column that holds *states*."""
        return String(max(map(len, states)))

    def exact_text(self, dialect: Dialect, length: int) -> TypeEngine[str]:
        """A text type that tells apart what differs at all: in case, in accents, in trailing spaces."""
        return String(length)

    def timestamp(self) -> TypeEngine[Any]:
        """A type for points in time with microseconds, in UTC."""
        return DateTime()

    def needs_check(self, storage: str) -> bool:
        """Whether the column's type alone lets undeclared states in."""
        return storage != "enum" or not self.has_enum

    def fire(
        self,
        connection: Connection,
        event: EventSQL,
        parameters: Mapping[str, Any],
        *,
        known_version: bool = False,
    ) -> Reading:
        """Fire *event* on the row that *parameters* name, and return what its code says.

        With *known_version* the reading says whether the row had the version that the parameters carry.
        """
        with self.transaction(connection):
            self.lock(connection, event)
            read = self.statement(event, ("read", known_version))
            code = connection.execute(read, parameters).scalar_one_or_none()
            if code is None:
                return NO_ROW
            reading = event.read(int(code))
            if isinstance(reading, Taken):
                connection.execute(self.statement(event, ("take", reading.branch.number)), parameters)
            return reading

    def stored_state(self, connection: Connection, event: EventSQL, parameters: Mapping[str, Any]) -> Any:
        """What the row's state column holds now, read with a lock: a plain read may show an old snapshot."""
        return connection.execute(self.statement(event, ("state", False)), parameters).scalar_one_or_none()

    def stored_version(self, connection: Connection, event: EventSQL, parameters: Mapping[str, Any]) -> Any:
        """The row's version now, read with a lock; None for a missing row."""
        self.lock(connection, event)
        return connection.execute(self.statement(event, ("version", None)), parameters).scalar_one_or_none()

    def force(self, connection: Connection, event: EventSQL, parameters: Mapping[str, Any], target: str) -> Any:
        """Set the row's state to the parameter ``fsm_state``; what the column held before, None for a missing row.

        *target* is the parameter's text, for the way through the triggers, which opens only if they have refused.
        """
        with self.transaction(connection):
            self.lock(connection, event)
            held = self.stored_state(connection, event, parameters)
            if held is None:
                return None
            put = self.statement(event, ("put", None))
            try:
                connection.execute(put, parameters)
            except (DBAPIError, RefusedByDatabase) as error:
                if refusal_in(error) is None:
                    raise
                text = connection.execute(self.statement(event, ("text", None)), parameters).scalar_one()
                enforcer = enforcer_of(connection.dialect)
                with enforcer.permitted(connection, event.row.state, text, target, rows=1):
                    connection.execute(put, parameters)
            return held

    def record(self, connection: Connection, history: HistorySQL, parameters: Mapping[str, Any]) -> int:
        """Add a row to *history* for a transition of this transaction, and return its number.

        The record's own row is locked by the transition, so nobody else adds one for it.
        """
        number, record = self.record_statements(history)
        sequence = connection.execute(number, parameters).scalar_one()
        connection.execute(record, {**parameters, "fsm_sequence": sequence})
        return int(sequence)

    def record_statements(self, history: HistorySQL) -> list[Executable]:
        """What :meth:`record` sends, in order."""
        if "number" not in history.cache:
            history.cache["number"] = select(history.next_sequence()).where(history.of_record()).with_for_update()
            history.cache["insert"] = insert(history.table).values(
                {
                    **history.values(),
                    history.table.c.sequence: bindparam("fsm_sequence"),
                    history.table.c.at: utc_now(),
                }
            )
        return [history.cache["number"], history.cache["insert"]]

    def sweep(
        self,
        connection: Connection,
        event: EventSQL,
        criterion: ColumnElement[bool],
        parameters: Mapping[str, Any],
    ) -> dict[int, int]:
        """Move all rows under *criterion* by one UPDATE; how many took which branch. Only where ``can_sweep``."""
        raise NotImplementedError

    def record_sweep(
        self,
        connection: Connection,
        history: HistorySQL,
        event: EventSQL,
        criterion: ColumnElement[bool],
        parameters: Mapping[str, Any],
    ) -> int:
        """Lock all rows under *criterion*, and add to *history* what :meth:`sweep` does to each; how many there are."""
        own = history.own(event.row)
        values = {**history.values(), **own, history.table.c.at: utc_now()}
        # A NULL that is spelled out costs MariaDB a tenth of the statement.
        for name in SAID:
            if parameters[f"fsm_{name}"] is None and history.table.c[name].server_default is None:
                del values[history.table.c[name]]
        values |= {history.table.c.source: event.row.state, history.table.c.target: event.after()}
        rows = select(*values.values()).where(criterion).with_for_update()
        statement = insert(history.table).from_select(list(values), rows)
        return connection.execute(statement, parameters, execution_options=KEEP_ROWCOUNT).rowcount

    def upsert(
        self,
        connection: Connection,
        event: EventSQL,
        names: tuple[str, ...],
        target: str,
        parameters: Mapping[str, Any],
    ) -> Reading | Created:
        """Insert a row in the state *target* with values for the columns *names*, or fire on the one that has its key.

        The reading of a row with another key that has one of its unique values is NoRow. Only where ``can_upsert``, for
        events without guards and effects.
        """
        raise NotImplementedError

    def take_keys(
        self,
        connection: Connection,
        event: EventSQL,
        branch: int,
        keys: Sequence[tuple[Any, ...]],
        parameters: Mapping[str, Any],
    ) -> None:
        """Move the locked rows with these *keys* along one branch."""
        statement = self.statement(event, ("take_many", branch))
        connection.execute(statement, {**parameters, "fsm_keys": _bindable(keys)})

    def record_keys(
        self,
        connection: Connection,
        history: HistorySQL,
        row: StateRow,
        keys: Sequence[tuple[Any, ...]],
        parameters: Mapping[str, Any],
    ) -> None:
        """Add a row to *history* for each of the locked rows with these *keys*."""
        if "record_keys" not in history.cache:
            values = {**history.values(), **history.own(row), history.table.c.at: utc_now()}
            rows = select(*values.values()).where(_among(row.key))
            history.cache["record_keys"] = insert(history.table).from_select(list(values), rows)
        connection.execute(history.cache["record_keys"], {**parameters, "fsm_keys": _bindable(keys)})

    def abandon(self, connection: Connection) -> None:
        """Make sure that nothing of this transaction is committed: whoever uses it has to roll back first."""
        connection.invalidate()

    def lock(self, connection: Connection, event: EventSQL) -> None:
        """Take the lock that keeps the row from moving between read and update, where the read itself does not."""

    @contextmanager
    def transaction(self, connection: Connection) -> Iterator[None]:
        """Hold several statements together on a connection in AUTOCOMMIT, too."""
        if not is_autocommit(connection):
            yield
            return
        connection.exec_driver_sql(self.begin)
        try:
            yield
        except BaseException:
            if not connection.invalidated:
                connection.exec_driver_sql("ROLLBACK")
            raise
        connection.exec_driver_sql("COMMIT")

    def statement(self, event: EventSQL, which: tuple[str, Any]) -> Executable:
        """The statement *which* of *event*, built at its first use."""
        key = (type(self), *which)
        if key not in event.cache:
            event.cache[key] = getattr(self, f"_{which[0]}")(event, which[1])
        statement: Executable = event.cache[key]
        return statement

    def statements(self, event: EventSQL) -> list[Executable]:
        """The statements that fire *event*, in order: of those of its branches a fire sends one at most."""
        takes = [self.statement(event, ("take", i)) for i in range(len(event.branches))]
        return [self.statement(event, ("read", False)), *takes]

    def explained(self, event: EventSQL, *, makes_versions: bool = False) -> Iterator[tuple[str, Executable]]:
        """Every statement that a fire of *event* may send, in order, each with when it is sent; for people to read.

        *makes_versions* is whether Python makes the row's next version.
        """
        if makes_versions:
            yield "always: the version that the next one is made of", self.statement(event, ("version", None))
        yield "always", self.statement(event, ("read", False))
        if event.row.version is not None:
            yield "or, when the session knows the row's version", self.statement(event, ("read", True))
        for i, branch in enumerate(event.branches):
            guard = "" if branch.guard is None else ", as the guard holds"
            yield f"when it was {branch.source!r}{guard}", self.statement(event, ("take", i))
        yield "when it holds a state that is not declared", self.statement(event, ("state", False))

    def _read(self, event: EventSQL, known_version: Any) -> Executable:
        code = event.code(known_version=known_version).label("code")
        return select(code).where(event.row.is_key()).with_for_update()

    def _state(self, event: EventSQL, _: Any) -> Executable:
        return select(event.row.state).where(event.row.is_key()).with_for_update()

    def _text(self, event: EventSQL, _: Any) -> Executable:
        return select(type_coerce(event.row.state, String())).where(event.row.is_key()).with_for_update()

    def _version(self, event: EventSQL, _: Any) -> Executable:
        assert event.row.version is not None
        return select(event.row.version).where(event.row.is_key()).with_for_update()

    def _put(self, event: EventSQL, _: Any) -> Executable:
        row = event.row
        values = [*row.implied.items(), (row.state, bindparam("fsm_state", type_=row.state.type))]
        return update(row.table).where(row.is_key()).ordered_values(*values)

    def _take_many(self, event: EventSQL, branch: int) -> Executable:
        assignments = event.branch_assignments(event.branches[branch])
        return update(event.row.table).where(_among(event.row.key)).ordered_values(*assignments)

    def _take(self, event: EventSQL, branch: int) -> Executable:
        assignments = event.branch_assignments(event.branches[branch])
        return update(event.row.table).where(event.row.is_key()).ordered_values(*assignments)


def _among(key: Sequence[Column[Any]]) -> ColumnElement[bool]:
    """Whether a row's key is one of the parameter ``fsm_keys``."""
    keys: BindParameter[Any] = bindparam("fsm_keys", expanding=True)
    return key[0].in_(keys) if len(key) == 1 else tuple_(*key).in_(keys)


def _bindable(keys: Sequence[tuple[Any, ...]]) -> list[Any]:
    return [key[0] if len(key) == 1 else key for key in keys]


def is_autocommit(connection: Connection | Engine) -> bool:
    """Whether every statement on *connection* commits by itself."""
    level = connection.get_execution_options().get("isolation_level")
    if level is None:  # SQLAlchemy has no public name for the level that create_engine() was given
        level = getattr(connection.dialect, "_on_connect_isolation_level", None)
    if level is not None:
        return bool(level == "AUTOCOMMIT")
    if isinstance(connection, Engine) or connection.invalidated:
        return False
    # connect_args={"autocommit": True} goes past SQLAlchemy; mysqlclient and PyMySQL know without asking the server.
    asked = getattr(connection.connection.dbapi_connection, "get_autocommit", None)
    return bool(asked()) if asked is not None else _is_left_to_itself(connection.connection.driver_connection)


def _is_left_to_itself(driver: Any) -> bool:
    """Whether *driver* is SQLite's, told to begin no transaction (``isolation_level=None``), and nobody else has."""
    if not hasattr(driver, "isolation_level") or not hasattr(driver, "in_transaction"):
        return False
    is_told = driver.isolation_level is None or getattr(driver, "autocommit", None) is True  # that from Python 3.12 on
    return is_told and not driver.in_transaction
