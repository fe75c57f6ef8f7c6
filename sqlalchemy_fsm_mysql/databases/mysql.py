"""MySQL and MariaDB: one UPDATE whose own answer says what happened.

``LAST_INSERT_ID(expr)`` remembers the value of *expr* and the server sends it back with the statement's answer, as
``cursor.lastrowid`` (https://dev.mysql.com/doc/refman/9.4/en/information-functions.html#function_last-insert-id). The
UPDATE computes the row's code there, in its WHERE: a row that the event does not move is not updated, but has been
judged, and locked for no longer than this one statement needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Dialect,
    Executable,
    Integer,
    bindparam,
    case,
    func,
    insert,
    literal_column,
    null,
    select,
    text,
    update,
)
from sqlalchemy.types import TypeEngine

from ..sql.code import CREATED, HIDDEN, NONCE_BITS, OFFSET, TAKEN, Created, Reading, answered, is_cut, nonce
from ..sql.events import (
    VALUE,
    Branch,
    Chosen,
    EventSQL,
    HistorySQL,
    number,
    state_literal,
)
from .base import KEEP_ROWCOUNT, Backend
from .clock import utc_now
from .ready import ReadyStatement

# Without an argument, LAST_INSERT_ID() is the value remembered last; halved, it fits a signed BIGINT.
_REMEMBERED = Chosen(func.last_insert_id().bitwise_rshift(number(1)), lambda branch: OFFSET + branch.code >> 1)


# The dialect is imported where it is needed: whoever connects has it anyway, and to declare a model it takes as long
# as the rest of this library.
class MySQLBackend(Backend):
    """One statement a fire. Where its answer is silent, a second look."""

    has_enum = True
    can_sweep = True
    can_upsert = True

    def column_type(self, dialect: Dialect, states: Sequence[str], storage: str) -> TypeEngine[str]:
        """ENUM in ascii_bin, or VARCHAR in a binary collation that does not pad: 'ready' and 'ready ' stay apart."""
        from sqlalchemy.dialects import mysql

        if storage == "enum":
            return mysql.ENUM(*_spelled(states, dialect), charset="ascii", collation="ascii_bin")
        length = max(map(len, states))
        if getattr(dialect, "is_mariadb", False):
            return mysql.VARCHAR(length, charset="ascii", collation="ascii_nopad_bin")
        return mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_0900_bin")

    def exact_text(self, dialect: Dialect, length: int) -> TypeEngine[str]:
        from sqlalchemy.dialects import mysql

        collation = "utf8mb4_nopad_bin" if getattr(dialect, "is_mariadb", False) else "utf8mb4_0900_bin"
        return mysql.VARCHAR(length, charset="utf8mb4", collation=collation)

    def timestamp(self) -> TypeEngine[Any]:
        from sqlalchemy.dialects import mysql

        return mysql.DATETIME(fsp=6)

    def fire(
        self,
        connection: Connection,
        event: EventSQL,
        parameters: Mapping[str, Any],
        *,
        known_version: bool = False,
    ) -> Reading:
        ready: ReadyStatement | None = event.cache.get((type(self), "ready", known_version))
        if ready is None:
            ready = ReadyStatement(self.statement(event, ("fire", known_version)))
            event.cache[type(self), "ready", known_version] = ready
        result = ready.execute(connection, parameters)
        code = (result.lastrowid or 0) - OFFSET
        if code >= HIDDEN:
            return event.read(code)
        if result.rowcount:  # an UPDATE trigger on the table hides the id from the answer, not from the session
            return event.read(int(connection.execute(select(func.last_insert_id())).scalar_one()) - OFFSET)
        # No such row, or an answer that tells too little: a driver that hides the id, or one that counts changed rows
        # and not found ones. Nothing has been changed, so the locking read may decide.
        return super().fire(connection, event, parameters, known_version=known_version)

    def record(self, connection: Connection, history: HistorySQL, parameters: Mapping[str, Any]) -> int:
        if "ready" not in history.cache:
            (statement,) = self.record_statements(history)
            history.cache["ready"] = ReadyStatement(statement)
        result = history.cache["ready"].execute(connection, parameters)
        return int(result.lastrowid or connection.execute(select(func.last_insert_id())).scalar_one())

    def record_statements(self, history: HistorySQL) -> list[Executable]:
        if "record" not in history.cache:
            sequence = func.last_insert_id(history.next_sequence())
            values = {**history.values(), history.table.c.sequence: sequence, history.table.c.at: utc_now()}
            rows = select(*values.values()).where(history.of_record())
            history.cache["record"] = insert(history.table).from_select(list(values), rows)
        return [history.cache["record"]]

    def upsert(
        self,
        connection: Connection,
        event: EventSQL,
        names: tuple[str, ...],
        target: str,
        parameters: Mapping[str, Any],
    ) -> Reading | Created:
        import secrets  # brings OpenSSL's hashes along

        mark = nonce(secrets.randbits(NONCE_BITS))
        result = connection.execute(
            self.statement(event, ("upsert", (names, target))),
            {**parameters, "fsm_nonce": mark},
            execution_options=KEEP_ROWCOUNT,
        )
        remembered = result.lastrowid or 0
        if remembered < OFFSET and (result.rowcount != 1 or not remembered or is_cut(remembered, mark)):
            # Created without an AUTO_INCREMENT, or found on a table with triggers, which hide the id: the session knows
            # which, and the nonce tells an answer to this statement from an earlier one's.
            remembered = int(connection.execute(select(func.last_insert_id())).scalar_one())
        code = answered(remembered, mark)
        return CREATED if code is None else event.read(code)

    def sweep(
        self,
        connection: Connection,
        event: EventSQL,
        criterion: ColumnElement[bool],
        parameters: Mapping[str, Any],
    ) -> dict[int, int]:
        """One UPDATE. Which branch a row took is counted in session variables while it is assigned.

        MySQL has no UPDATE … RETURNING, and counting before or after would count other rows than were moved.
        """
        statement = update(event.row.table).where(criterion)
        if len(event.branches) == 1:
            # The criterion holds the only guard there is: none is left to be asked once an effect has been assigned.
            assignments = event.branch_assignments(event.branches[0])
            taken = connection.execute(statement.ordered_values(*assignments), parameters)
            return {0: taken.rowcount}
        counters = [literal_column(f"@fsm_taken_{i}", Integer()) for i in range(1, len(event.branches))]
        connection.execute(text("SET " + ", ".join(f"{counter} = 0" for counter in counters)))
        moved = connection.execute(statement.ordered_values(*_counting(event, counters)), parameters).rowcount
        counted = [int(number) for number in connection.execute(select(*counters)).one()]
        # Counting costs some percent of the statement, so the first branch is what the others leave.
        return {i: number for i, number in enumerate([moved - sum(counted), *counted]) if number}

    def statements(self, event: EventSQL) -> list[Executable]:
        return [self.statement(event, ("fire", False))]

    def explained(self, event: EventSQL, *, makes_versions: bool = False) -> Iterator[tuple[str, Executable]]:
        if makes_versions:
            yield "always: the version that the next one is made of", self.statement(event, ("version", None))
        yield "always", self.statement(event, ("fire", False))
        if event.row.version is not None:
            yield "or, when the session knows the row's version", self.statement(event, ("fire", True))
        yield "when it moved the row, and a trigger on the table hides the answer", select(func.last_insert_id())
        rest = list(super().explained(event))
        yield "when no row was moved, and none seen: a locking read decides", rest[0][1]
        for when, statement in rest[1:]:
            yield f"after the locking read, {when}", statement

    def _upsert(self, event: EventSQL, shape: tuple[tuple[str, ...], str]) -> Executable:
        from sqlalchemy.dialects import mysql

        (names, target), row = shape, event.row
        values: dict[Column[Any], ColumnElement[Any]] = {
            row.table.c[name]: bindparam(VALUE.format(name), type_=row.table.c[name].type) for name in names
        }
        values[row.state] = state_literal(target)
        mark = bindparam("fsm_nonce", type_=BigInteger())
        code = case((row.is_key(), event.code()), else_=number(HIDDEN)) + mark + number(OFFSET)
        least = mark + number(OFFSET + TAKEN)
        first, *rest = event.assignments()
        assigned = [(first[0], case((func.last_insert_id(code) >= least, first[1]), else_=first[0]))]
        assigned += [(column, case((func.last_insert_id() >= least, value), else_=column)) for column, value in rest]
        return (
            mysql.insert(row.table).values(values).on_duplicate_key_update([(c.name, value) for c, value in assigned])
        )

    def _fire(self, event: EventSQL, known_version: Any) -> Executable:
        remembered = func.last_insert_id(event.code(known_version=known_version) + number(OFFSET))
        # LAST_INSERT_ID() without an argument is the value just remembered, so the effects of a guarded event need
        # not evaluate the guards again after an effect has changed what they read.
        chosen = _REMEMBERED if event.is_guarded else None
        return (
            update(event.row.table)
            .where(event.row.is_key(), remembered >= number(OFFSET + TAKEN))
            .ordered_values(*event.assignments(chosen))
        )


def _counting(event: EventSQL, counters: Sequence[ColumnElement[int]]) -> list[tuple[Column[Any], ColumnElement[Any]]]:
    """The assignments of *event*, of which the last, the state's, counts the branch it takes, unless it is the first.

    The first computes the row's code, before any effect has changed what the guards read.
    """

    def counted(branch: Branch) -> ColumnElement[str]:
        if branch.number == 0:
            return state_literal(branch.target)
        counter = counters[branch.number - 1]
        return case((counter.op(":=")(counter + number(1)).is_(None), null()), else_=state_literal(branch.target))

    if not event.is_guarded:
        return event.assignments(target=counted)
    (column, value), *rest = event.assignments(_REMEMBERED, counted)
    remembered = func.last_insert_id(event.code() + number(OFFSET))
    # A comparison that always holds. IS NULL would not do: MySQL knows that it never is, and does not evaluate it.
    return [(column, case((remembered >= number(OFFSET), value), else_=column)), *rest]


def _spelled(states: Sequence[str], dialect: Dialect) -> Sequence[str]:
    """*states* as ``mysql.ENUM`` has to be given them: older SQLAlchemy doubles no backslash and no percent sign."""
    from sqlalchemy.dialects import mysql

    doubled = {
        "\\": getattr(dialect, "_backslash_escapes", True),  # set from sql_mode at the first connect
        "%": getattr(dialect.identifier_preparer, "_double_percents", False),
    }
    for sign, is_doubled in doubled.items():
        if is_doubled and mysql.ENUM(sign).compile(dialect=dialect) == f"ENUM('{sign}')":
            states = [state.replace(sign, sign * 2) for state in states]
    return states
