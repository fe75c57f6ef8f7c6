"""Whole units of work in one packet on MySQL and MariaDB: several statements in one text, with an answer to each.

The client must have announced CLIENT_MULTI_STATEMENTS when it connected
(https://dev.mysql.com/doc/c-api/9.4/en/c-api-multiple-queries.html). The text is composed of nothing but the ready text
of compiled statements; values are bound by the driver, as in every other statement. The server stops at the first
statement that fails, and sends no further answer.

This way was chosen by measuring. MariaDB's BEGIN NOT ATOMIC is no faster and exists on MariaDB alone; a stored routine
is faster by its parsing, but needs a migration for each release and its own grants.

A history row of a packet is inserted before the client knows the row's code, so its INSERT asks for the code itself,
in a session variable: LAST_INSERT_ID(expr) of the INSERT's own number would change what LAST_INSERT_ID() returns.

A packet that ends an open transaction must not reach its COMMIT when the row has not moved. SQL has no condition for
that outside of stored programs, so a statement between the two fails then, and the server stops there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import Connection, Dialect, Executable, case, event, func, insert, literal_column, select
from sqlalchemy.exc import DBAPIError, InterfaceError, StatementError
from sqlalchemy.types import Integer
from sqlalchemy.util import await_only

from ...errors import RefusedByDatabase
from ...sql.clock import utc_now
from ...sql.code import HIDDEN, NO_ROW, OFFSET, TAKEN
from ...sql.events import EventSQL, number
from ...sql.exact import state_literal
from ...sql.history import HistorySQL
from ..packets import Answer, PacketFailed, Packets, Unit
from ..ready import ReadyStatement, ReadyText
from .remembered import is_remembered_at_once
from .rows import MySQLRows

__all__ = ["MySQLPackets"]

# The key of a packet's execution options under which its answers are collected.
_ANSWERS = "fsm_answers"

# Where the application streams its results, SQLAlchemy would look for rows in an answer that is read already.
_NO_STREAM = {"stream_results": False, "yield_per": None}

# READ COMMITTED for this transaction alone: under REPEATABLE READ, the INSERTs of two histories lock the same gaps and
# end in deadlocks. Where a transaction is open already, this is error 1568, before anything has begun.
_BEGIN = ("SET TRANSACTION ISOLATION LEVEL READ COMMITTED", "START TRANSACTION")
# The UPDATE of a missing row remembers nothing, so a code of an earlier fire must not be there for its history row.
_FORGET = "DO LAST_INSERT_ID(0)"
_REMEMBER = "SET @fsm_code = LAST_INSERT_ID()"
_LOOK = "SELECT @fsm_code, LAST_INSERT_ID()"
_COMMIT = "COMMIT"
# As _REMEMBER, and an error where the code is that of no move. The subquery is evaluated only then. Not by DO, whose
# errors MariaDB ignores; and cast, because IF of an unsigned and a signed number is a DECIMAL.
_REMEMBER_OR_STOP = (
    "SET @fsm_code = CAST(IF("
    f"LAST_INSERT_ID() >= {OFFSET + TAKEN}, LAST_INSERT_ID(), (SELECT 1 UNION ALL SELECT 1)) AS UNSIGNED)"
)
_STOPPED = 1242  # ER_SUBQUERY_NO_1_ROW

_MULTI_STATEMENTS = 1 << 16
# The attributes by which drivers show the flags of a connection. Those that are not here always announce it.
_FLAGS = {"mysqldb": "client_flag", "pymysql": "client_flag", "mysqlconnector": "client_flags"}
_ALWAYS = frozenset({"aiomysql", "asyncmy"})


class _Sent(NamedTuple):
    """The answer to one statement of a packet."""

    rowcount: int
    lastrowid: int | None
    rows: Sequence[Any] | None


class _Answers(list[_Sent]):
    """The answers to a packet's statements, as many as there are; `stop` is the position of one that may fail."""

    def __init__(self, stop: int | None = None) -> None:
        super().__init__()
        self.stop, self.is_stopped = stop, False


@dataclass(frozen=True, slots=True)
class _Text:
    """The statements of one unit as text: the UPDATE, and what follows it."""

    text: str
    parts: tuple[ReadyText, ...]
    is_recorded: bool
    is_looking: bool  # whether the code is selected, because no answer of this UPDATE has contained it yet
    has_token: bool

    @property
    def statements(self) -> int:
        return 1 + (self.is_recorded or self.is_looking) + self.is_recorded + self.is_looking + self.has_token


class ReadyUnit:
    """The texts of a kind of unit, for each dialect; `answering` has those whose answers contain the code."""

    statements: Sequence[ReadyStatement]

    __slots__ = ("_texts", "answering", "statements")

    def __init__(self, statements: Sequence[ReadyStatement]) -> None:
        self.statements = statements
        self.answering: WeakSet[Dialect] = WeakSet()
        self._texts: WeakKeyDictionary[Dialect, dict[bool, _Text]] = WeakKeyDictionary()

    def text(self, connection: Connection, unit: Unit) -> _Text | None:
        """The text of *unit*; None where one of its statements is not sent as text."""
        parts = [statement.text_on(connection) for statement in self.statements]
        if None in parts:
            return None
        is_looking = connection.dialect not in self.answering
        texts = self._texts.setdefault(connection.dialect, {})
        if is_looking not in texts:
            texts[is_looking] = self._composed(
                [part for part in parts if part is not None], unit, is_looking=is_looking
            )
        return texts[is_looking]

    def _composed(self, parts: list[ReadyText], unit: Unit, *, is_looking: bool) -> _Text:
        is_recorded = unit.history is not None
        texts = [part.text for part in parts]
        if is_recorded or is_looking:
            texts.insert(1, _REMEMBER)
        if is_looking:
            texts.insert(2 + is_recorded, _LOOK)
        return _Text(";".join(texts), tuple(parts), is_recorded, is_looking, unit.has_token)


class MySQLPackets(Packets):
    """Multi-statements. A row that was read from an UPDATE's answer needs no SELECT."""

    def __init__(self, rows: MySQLRows) -> None:
        self.rows = rows
        self._listening: WeakSet[Dialect] = WeakSet()

    def obstacle(self, connection: Connection) -> str | None:
        # One that returns True calls the driver itself, reads the first answer, and leaves the others unread.
        if any(heard is not do_send for heard in connection.dialect.dispatch.do_execute):
            return "listeners of do_execute would get a packet instead of a statement"
        silence = _missing_flag(connection)
        if silence is not None:
            return silence
        # On OceanBase the answer of the INSERT repeats the code of the UPDATE, which is not a number of a history row,
        # and a guarded event takes the branch of another fire.
        return None if is_remembered_at_once(connection) else "this server evaluates LAST_INSERT_ID() too early"

    def fits(self, connection: Connection, unit: Unit) -> bool:
        # The answer to an INSERT into a table that counts has the counted key, and not the number of the history row.
        if unit.history is not None and unit.history.table.autoincrement_column is not None:
            return False
        return self._ready(unit).text(connection, unit) is not None

    def send(self, connection: Connection, units: Sequence[Unit]) -> list[Answer]:
        # 1. Compose the packet, and remember with which statement each unit begins.
        statements, texts, begins = list(_BEGIN), [], []
        values: list[Any] = []
        sent, remembers = len(_BEGIN), True
        for position, unit in enumerate(units):
            text = self._ready(unit).text(connection, unit)
            if text is None:
                raise ValueError(f"{unit.event.name!r} cannot be sent in a packet; ask fits() first")
            if text.is_looking or (text.is_recorded and remembers):
                statements.append(_FORGET)
                sent += 1
            remembers = not text.is_recorded  # the INSERT of a history row remembers its number, which is no code
            try:
                for part in text.parts:
                    values += part.values(unit.parameters)
            except StatementError as error:  # of a type that cannot bind a value
                raise PacketFailed(error, unit=position) from error
            statements.append(text.text)
            texts.append(text)
            begins.append(sent)
            sent += text.statements
        statements.append(_COMMIT)
        # 2. Send it. The number of answers tells which statement has failed.
        answers = _Answers()
        try:
            self._execute(connection, statements, values, answers, number=sent + 1)
        except (DBAPIError, RefusedByDatabase) as error:
            failed = len(answers)
            _end(connection, is_begun=failed > 0)
            raise PacketFailed(error, unit=_unit_of(begins, failed, sent), at_commit=failed == sent) from error
        except UnicodeEncodeError as error:  # of a text that the connection's character set lacks: nothing was sent
            raise PacketFailed(error, unit=None) from error
        # 3. Read the answers.
        return [
            self._answer(connection, unit, text, answers[begin : begin + text.statements])
            for unit, text, begin in zip(units, texts, begins, strict=True)
        ]

    def end(self, connection: Connection, unit: Unit, *, savepoint: str | None = None) -> Answer:
        # 1. Compose the packet: what comes before the UPDATE, the UPDATE, and what follows a move.
        ready = self._ready(unit._replace(has_token=False))  # who has a token looks for it when nothing has moved
        parts = [part for statement in ready.statements if (part := statement.text_on(connection)) is not None]
        if len(parts) < len(ready.statements):
            raise ValueError(f"{unit.event.name!r} cannot be sent in a packet; ask fits() first")
        before = [_FORGET] if savepoint is None else [f"SAVEPOINT {savepoint}", _FORGET]
        update, *insert_row = [part.text for part in parts]
        statements = [*before, update, _REMEMBER_OR_STOP, *insert_row, _LOOK, _COMMIT]
        try:
            values = [value for part in parts for value in part.values(unit.parameters)]
        except StatementError as error:  # of a type that cannot bind a value
            raise PacketFailed(error, unit=0) from error
        # 2. Send it. The answer to the UPDATE has the code of a row that was not moved.
        at_update, at_commit = len(before), len(statements) - 1
        answers = _Answers(stop=at_update + 1)
        try:
            self._execute(connection, statements, values, answers, number=len(statements))
        except (DBAPIError, RefusedByDatabase) as error:
            failed = len(answers)
            is_of_unit = at_update <= failed < at_commit
            raise PacketFailed(error, unit=0 if is_of_unit else None, at_commit=failed == at_commit) from error
        except UnicodeEncodeError as error:
            raise PacketFailed(error, unit=None) from error
        # 3. Read the answers. LAST_INSERT_ID() is the history row's number: its INSERT has remembered it.
        if answers.is_stopped:
            code = (answers[at_update].lastrowid or 0) - OFFSET
            return Answer(unit.event.read(code) if code >= HIDDEN else NO_ROW)
        rows = answers[at_commit - 1].rows
        assert rows is not None
        code, number = int(rows[0][0]) - OFFSET, int(rows[0][1])
        return Answer(unit.event.read(code), number if insert_row else None)

    def _execute(
        self,
        connection: Connection,
        statements: Sequence[str],
        values: Sequence[Any],
        answers: _Answers,
        *,
        number: int,
    ) -> None:
        """Send *statements* as one packet, and collect its answers, of which there are *number*.

        Raises: SQLAlchemy's errors; then `answers` are those before the statement that failed.
        """
        self._listen(connection)
        text = ";".join(statements)
        try:
            connection.exec_driver_sql(text, tuple(values), execution_options={_ANSWERS: answers, **_NO_STREAM})
        except (DBAPIError, RefusedByDatabase, UnicodeEncodeError):
            raise
        except BaseException:
            # An exception of a signal handler may have come with answers unread, or with the transaction open.
            connection.invalidate()
            raise
        if answers.is_stopped or len(answers) == number:
            return
        connection.invalidate()
        changed = RuntimeError(
            f"a packet of {number} statements had {len(answers)} answers: a listener of before_cursor_execute has"
            " changed its text"
        )
        raise InterfaceError(text, None, changed, hide_parameters=True, connection_invalidated=True)

    def _answer(self, connection: Connection, unit: Unit, text: _Text, answers: Sequence[_Sent]) -> Answer:
        """The answer to *unit*, read from those to its statements: UPDATE, SET, INSERT, SELECT, SELECT of the token."""
        updated, ready, sequence = answers[0], self._ready(unit), None
        code = (updated.lastrowid or 0) - OFFSET
        if text.is_recorded:
            sequence = answers[2].lastrowid or None
        if text.is_looking:
            looked = answers[2 + text.is_recorded].rows
            assert looked is not None
            is_complete = code >= TAKEN and (sequence is not None or not text.is_recorded)
            if is_complete and updated.rowcount:
                ready.answering.add(connection.dialect)
            code = int(looked[0][0]) - OFFSET
            sequence = int(looked[0][1]) if text.is_recorded else None
        is_replay = text.has_token and code < TAKEN and bool(answers[-1].rows)
        if code >= TAKEN:
            return Answer(unit.event.read(code), sequence)
        if code >= HIDDEN:
            return Answer(unit.event.read(code), is_replay=is_replay)
        if not updated.rowcount:
            return Answer(NO_ROW, is_replay=is_replay)
        ready.answering.discard(connection.dialect)  # the trigger is new
        return Answer(None, sequence)

    def _ready(self, unit: Unit) -> ReadyUnit:
        key = "mysql packet", unit.history is not None, unit.has_token, unit.knows_version
        ready: ReadyUnit | None = unit.event.cache.get(key)
        if ready is None:
            statements = [self.rows.fire_statement(unit.event, known_version=unit.knows_version)]
            if unit.history is not None:
                statements.append(self.insert_moved(unit.event, unit.history))
                if unit.has_token:
                    statements.append(unit.history.by_token())
            ready = unit.event.cache[key] = ReadyUnit([ReadyStatement(one) for one in statements])
        return ready

    def insert_moved(self, event: EventSQL, history: HistorySQL) -> Executable:
        """The INSERT of a history row, if the event's UPDATE has moved the row."""
        columns = history.table.c
        # Halved, the code fits a signed BIGINT; its last bit says only that the row has another version.
        halved = literal_column("@fsm_code", Integer()).bitwise_rshift(number(1))
        taken = [(branch, number(OFFSET + branch.code >> 1)) for branch in event.branches]
        values = {**history.values(), columns.sequence: func.last_insert_id(history.next_sequence())}
        values[columns.source] = case(*((is_, state_literal(branch.source)) for branch, is_ in taken), value=halved)
        values[columns.target] = case(*((is_, state_literal(branch.target)) for branch, is_ in taken), value=halved)
        values[columns.at] = utc_now()
        rows = select(*values.values()).where(history.of_row()).having(halved >= number(OFFSET + TAKEN >> 1))
        return insert(history.table).from_select(list(values), rows)

    def explained(self, unit: Unit) -> list[str | Executable]:
        """The statements of a packet of *unit* once its answers are known to contain the code, in order."""
        assert unit.history is not None
        update = self.rows.fire_statement(unit.event, known_version=unit.knows_version)
        token = [unit.history.by_token()] if unit.has_token else []
        insert_row = self.insert_moved(unit.event, unit.history)
        return [*_BEGIN, _FORGET, update, _REMEMBER, insert_row, *token, _COMMIT]

    def _listen(self, connection: Connection) -> None:
        """Have packets on the dialect of *connection* sent by :func:`do_send`.

        SQLAlchemy closes the cursor of a statement that returns no rows, before anyone can ask for the next answer.
        Its event ``do_execute`` replaces the driver's call, so that errors, logging and listeners stay SQLAlchemy's.
        """
        # Not event.contains(engine, …), which goes by id(engine): a dialect outlives its engine, whose id a new engine
        # may get, and then the new engine's dialect would be taken for one that listens.
        if connection.dialect not in self._listening:
            event.listen(connection.dialect, "do_execute", do_send)
            self._listening.add(connection.dialect)


def _missing_flag(connection: Connection) -> str | None:
    """The reason why the driver of *connection* sends one statement at a time; None when it sends several."""
    driver = connection.dialect.driver
    if driver in _ALWAYS:
        return None
    if driver not in _FLAGS:
        return f"the driver {driver} sends one statement at a time"
    flags = getattr(connection.connection.driver_connection, _FLAGS[driver], 0)
    if flags & _MULTI_STATEMENTS:
        return None
    if driver == "pymysql":
        advice = 'create_engine(…, connect_args={"client_flag": pymysql.constants.CLIENT.MULTI_STATEMENTS})'
        return f"this connection was made without CLIENT_MULTI_STATEMENTS: {advice}"
    return "this connection was made without CLIENT_MULTI_STATEMENTS"


def do_send(cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
    """Execute a packet, and collect the answers to its statements; false for any other statement."""
    answers: _Answers | None = context.execution_options.get(_ANSWERS)
    if answers is None:
        return False
    try:
        cursor.execute(statement, parameters)
        driver = getattr(cursor, "_cursor", None)
        if context.dialect.is_async and driver is not None:
            # One coroutine for all answers: a switch of greenlets for each would cost more than reading it.
            await_only(_fetch_async(driver, answers))
        else:
            _fetch(cursor, answers)
    except Exception as error:
        # An outcome, and no error: so it must not reach SQLAlchemy's log and the application's listeners of errors.
        number = getattr(error, "errno", None) or next(iter(error.args), None)
        if answers.stop is None or len(answers) != answers.stop or number != _STOPPED:
            raise
        answers.is_stopped = True
    return True


def _fetch(cursor: Any, answers: list[_Sent]) -> None:
    while True:
        rows = cursor.fetchall() if cursor.description else None
        answers.append(_Sent(cursor.rowcount, cursor.lastrowid, rows))
        if not cursor.nextset():
            return


async def _fetch_async(cursor: Any, answers: list[_Sent]) -> None:
    while True:
        rows = await cursor.fetchall() if cursor.description else None
        answers.append(_Sent(cursor.rowcount, cursor.lastrowid, rows))
        if not await cursor.nextset():
            return


def _end(connection: Connection, *, is_begun: bool) -> None:
    """Leave no transaction open after an error; where the ROLLBACK fails, the connection is given up."""
    if connection.invalidated or not is_begun:
        return
    try:
        connection.exec_driver_sql("ROLLBACK")
    except DBAPIError:
        connection.invalidate()


def _unit_of(begins: Sequence[int], failed: int, end: int) -> int | None:
    """The unit that the statement number *failed* belongs to; None for one before the first unit or after the last."""
    if failed >= end:
        return None
    before = [unit for unit, begin in enumerate(begins) if begin <= failed]
    return before[-1] if before else None
