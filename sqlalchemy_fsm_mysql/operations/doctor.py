"""The doctor: does this database fit this machine? Each :class:`Finding` says what is true, and what to do about it.

:func:`check_database` returns the findings, :func:`require_database` raises when one of them is an error: for a program
that starts. ``sqlalchemy-fsm-mysql check`` is the same on a command line. Nothing is changed; rows are counted, which
reads the whole table or an index on the state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Column, Connection, Engine, LargeBinary, Table, func, select
from sqlalchemy import cast as sql_cast

from ..databases import database_of, is_autocommit
from ..databases.catalogue import ColumnFacts, Settings, TableFacts
from ..databases.triggers import KINDS
from ..errors import DatabaseUnfit
from ..errors.texts import listed, shown
from ..orm.column import check_name, check_names
from ..orm.mapped import MappedState, attribute_state
from .enforcement import connected, own_triggers, rules_of

__all__ = ["SEVERITIES", "Finding", "check_database", "require_database"]

SEVERITIES = ("error", "warning", "note")
# The bits of wsrep_sync_wait for UPDATE and for INSERT; that of SELECT is not enough.
_WRITES = 2 | 4


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the doctor found.

    `severity` is ``"error"`` (the program will fail, or the data is wrong), ``"warning"`` (it can go wrong) or
    ``"note"`` (to be known). `kind` names the check and stays the same between releases, `what` is true, `advice` is
    what to do, and `rows` the numbers of rows by state, where it is about rows.
    """

    severity: str
    kind: str
    what: str
    advice: str
    rows: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.severity}: {self.what}; {self.advice}"


def check_database(column: Any, bind: Connection | Engine, *, count_rows: bool = True) -> list[Finding]:
    """What does not fit between the machine of *column*, ``Order.state``, and the database of *bind*; errors first.

    *count_rows* asks which states rows are in, which reads the whole table. Settings are those of the connection,
    so give the program's own engine.

    Raises: TypeError when *column* is no mapped state; SQLAlchemy's errors.
    """
    mapped = attribute_state(column)
    with connected(bind) as connection:
        before = connection.get_execution_options().get("skip_user_error_events", False)
        try:
            findings = list(_findings(mapped, connection, count_rows=count_rows))
        finally:  # MySQL's reflection leaves it set, and then nobody is told of errors on this connection
            connection.execution_options(skip_user_error_events=before)
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def require_database(column: Any, bind: Connection | Engine, *, count_rows: bool = False) -> list[Finding]:
    """As :func:`check_database`, for a program that starts: rows are not counted unless asked for.

    Raises: DatabaseUnfit when a finding is an error; its `.findings` are all of them.
    """
    findings = check_database(column, bind, count_rows=count_rows)
    errors = [str(finding) for finding in findings if finding.severity == "error"]
    if errors:
        raise DatabaseUnfit(errors, findings)
    return findings


def _findings(mapped: MappedState, connection: Connection, *, count_rows: bool) -> Iterator[Finding]:
    own = mapped.column
    facts = database_of(connection).catalogue.table(connection, own.table)
    checks = check_names(*_names(own))
    column = None if facts is None else database_of(connection).catalogue.column(connection, own, checks)
    if facts is None or column is None:
        missing = "table" if facts is None else "column"
        yield Finding(
            "error", f"no {missing}", f"there is no {missing} {_label(own)}", "create it, or look for another database"
        )
        return
    yield from _of_column(mapped, column)
    yield from _of_engine(str(own.table.name), facts)
    yield from _of_triggers(connection, own)
    if count_rows:
        yield from _of_rows(mapped, connection)
    yield from _of_history(mapped, connection)
    known = database_of(connection).catalogue.settings(connection)
    for ask in _SETTINGS:
        yield from ask(known)


def _names(column: Column[Any]) -> tuple[str, str]:
    return str(column.table.name), str(column.name)


def _label(column: Column[Any]) -> str:
    return ".".join(_names(column))


def _named(states: Any) -> str:
    return listed(map(shown, states))


# --- the column and its table


def _of_column(mapped: MappedState, column: ColumnFacts) -> Iterator[Finding]:
    machine, label = mapped.machine, _label(mapped.column)
    wanted = machine.stored_states
    if column.states is None:
        yield Finding(
            "warning",
            "any state",
            f"{label} takes any text: it is no ENUM, and has no CHECK {check_name(*_names(mapped.column))}",
            "give it one, as by op.convert_states()",
        )
    else:
        refused = [state for state in wanted if state not in column.states]
        more = [state for state in column.states if state not in wanted]
        if refused:
            yield Finding(
                "error", "states missing", f"{label} does not take {_named(refused)}", "add them by op.add_states()"
            )
        if more:
            yield Finding(
                "note",
                "more states",
                f"{label} also takes {_named(more)}, which the machine does not declare",
                "that is as it should be while a release is rolled out; later take them out by op.drop_states()",
            )
    longest = max(map(len, wanted))
    if column.length is not None and column.length < longest:
        what = f"{label} holds {column.length} characters, and the longest state has {longest}"
        yield Finding("error", "too short", what, "make the column longer")
    if column.is_nullable:
        what = f"{label} may be NULL, and a row without a state is refused by every event"
        yield Finding("warning", "nullable", what, "make it NOT NULL")
    initial = machine.spellings(machine.initial)
    if column.default is not None and column.default not in initial:
        what = f"the default of {label} is {shown(column.default)}, and rows begin in {shown(initial[0])}"
        yield Finding("warning", "default", what, "change the column's default")
    if column.collation is not None and not _is_exact(column):
        what = f"{label} has the collation {column.collation}, in which different texts are equal"
        yield Finding("warning", "collation", what, "use ascii_bin for an ENUM; a VARCHAR needs one that pads nothing")


def _is_exact(column: ColumnFacts) -> bool:
    collation = str(column.collation)
    if column.is_enum:
        return collation.endswith("_bin") or collation == "binary"
    return collation == "binary" or "nopad_bin" in collation or collation.endswith("0900_bin")


def _of_engine(table: str, facts: TableFacts) -> Iterator[Finding]:
    if facts.engine is not None and facts.engine.lower() != "innodb":
        what = f"{table} is stored by {facts.engine}, which has no transactions or no row locks like InnoDB's"
        yield Finding("error", "storage engine", what, f"ALTER TABLE {table} ENGINE = InnoDB")


def _of_triggers(connection: Connection, column: Column[Any]) -> Iterator[Finding]:
    if not database_of(connection).enforcer.can_enforce:
        return
    rules, label, found = rules_of(column), _label(column), own_triggers(connection, column)
    missing = [
        kind for kind in KINDS if (kind, rules.fingerprint) not in {(one.kind, one.fingerprint) for one in found}
    ]
    strange = [one for one in found if one.fingerprint != rules.fingerprint]
    if strange:
        names = listed(one.name for one in strange)
        what = f"{label} has triggers of another machine ({names}), which allow other transitions than this one"
        yield Finding("error", "other triggers", what, "run enforce_machine(), when all servers have this machine")
    elif missing and (column.type.enforced or found):  # type: ignore[attr-defined]  # rules_of() has seen a StateType
        if not found and not database_of(connection).catalogue.may_see_triggers(connection, column.table):
            what = f"no trigger is seen on {label}: this account has no privilege TRIGGER, without which none is"
            yield Finding("warning", "triggers unseen", what, "ask by an account that has it")
            return
        kinds = " and ".join(missing)
        what = f"{label} shall be enforced, and has no trigger for {kinds.upper()}"
        yield Finding("error", "triggers missing", what, "run enforce_machine()")


def _of_rows(mapped: MappedState, connection: Connection) -> Iterator[Finding]:
    machine, label = mapped.machine, _label(mapped.column)
    # As bytes: a collation would count 'ready' among 'READY'.
    text = sql_cast(mapped.column, LargeBinary)
    counted = connection.execute(select(text, func.count()).group_by(text))
    rows = {_decoded(value): int(number) for value, number in counted}
    undeclared = {state: number for state, number in rows.items() if state not in machine.stored_states}
    retired = {machine.stored(state) for state in machine.retired}
    left = {state: number for state, number in rows.items() if state in retired}
    spelled = {state: number for state, number in rows.items() if state in machine.aliases}
    if undeclared:
        what = f"{_rows(undeclared, label, 'is in', 'are in')} {_with(undeclared)}, undeclared: no event moves them"
        yield Finding(
            "error",
            "undeclared rows",
            what,
            "declare the state, or move them by force_state() or migrate_states()",
            undeclared,
        )
    if left:
        what = f"{_rows(left, label, 'is in', 'are in')} {_with(left)}, retired"
        yield Finding("note", "retired rows", what, "the state can be dropped once no row is in it", left)
    if spelled:
        what = f"{_rows(spelled, label, 'holds', 'hold')} {_with(spelled)}, an alias"
        yield Finding("note", "alias rows", what, "op.migrate_states() writes the state's own name", spelled)


def _rows(found: Mapping[str, int], label: str, one: str, many: str) -> str:
    number = sum(found.values())
    return f"1 row of {label} {one}" if number == 1 else f"{number} rows of {label} {many}"


def _decoded(value: Any) -> str:
    if value is None:
        return "NULL"
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _with(rows: Mapping[str, int]) -> str:
    return listed(f"{shown(state)} ({number})" for state, number in rows.items())


# --- the history


def _of_history(mapped: MappedState, connection: Connection) -> Iterator[Finding]:
    history = mapped.extras.history
    if history is None:
        return
    if is_autocommit(connection):
        what = f"the connection is in AUTOCOMMIT, and {mapped.model.__name__}.{mapped.attribute} has a history"
        yield Finding("error", "autocommit", what, 'use isolation_level="READ COMMITTED"')
    table: Table = history.sql.table
    facts = database_of(connection).catalogue.table(connection, table)
    if facts is None:
        yield Finding("error", "no history", f"there is no table {table.name}", "create it, as by create_all()")
        return
    gone = [column.name for column in table.c if column.name not in facts.columns]
    if gone:
        yield Finding("error", "history columns", f"{table.name} has no column {_named(gone)}", "add what is missing")
    yield from _of_engine(table.name, facts)
    key = tuple(column.name for column in (*history.sql.row_key, table.c.sequence))
    if key not in facts.unique:
        what = f"{table.name} has no unique index on ({', '.join(key)}): each record costs a look at all of them"
        yield Finding("error", "history index", what, "make it the primary key")
    token = table.c.token.name
    if token not in gone and (token,) not in facts.unique:
        what = f"{table.name} has no unique index on ({token}): a token would count twice"
        yield Finding("error", "history index", what, f"ADD UNIQUE INDEX ({token})")
    for column in (table.c.source, table.c.target):
        held = None if column.name in gone else database_of(connection).catalogue.column(connection, column)
        longest = max(map(len, mapped.machine.stored_states))
        if held is not None and held.length is not None and held.length < longest:
            what = f"{_label(column)} holds {held.length} characters, and the longest state has {longest}"
            yield Finding("error", "too short", what, "make the column longer")


# --- the server and the connection


def _strictness(known: Settings) -> Iterator[Finding]:
    mode = known.variables.get("sql_mode")
    if mode is not None and not {"STRICT_TRANS_TABLES", "STRICT_ALL_TABLES"} & set(mode.upper().split(",")):
        what = "the connection is not in strict mode: a bad ENUM value becomes '', a long text is cut"
        yield Finding("warning", "strict mode", what, "add STRICT_TRANS_TABLES to sql_mode")


def _found_rows(known: Settings) -> Iterator[Finding]:
    if known.counts_found_rows is False:
        what = (
            "the driver counts changed rows and not found ones (the flag FOUND_ROWS is off): a self transition counts 0"
        )
        yield Finding("warning", "found rows", what, "leave client_flag to SQLAlchemy, which sets it")


def _isolation(known: Settings) -> Iterator[Finding]:
    level = (known.variables.get("transaction_isolation") or known.variables.get("tx_isolation") or "").upper()
    advice = 'create_engine(url, isolation_level="READ COMMITTED")'
    if level == "REPEATABLE-READ" and known.says("innodb_snapshot_isolation", "ON", "1"):
        what = (
            "the isolation level is REPEATABLE READ with innodb_snapshot_isolation: hot rows end transactions by 1020"
        )
        yield Finding("warning", "isolation level", what, advice)
    elif level == "REPEATABLE-READ":
        what = (
            "the isolation level is REPEATABLE READ: a refused row stays locked until COMMIT, and plain reads are old"
        )
        yield Finding("note", "isolation level", what, advice)
    elif level not in ("", "READ-COMMITTED"):
        yield Finding("warning", "isolation level", f"the isolation level is {level.replace('-', ' ')}", advice)


def _binary_log(known: Settings) -> Iterator[Finding]:
    level = (known.variables.get("transaction_isolation") or known.variables.get("tx_isolation") or "").upper()
    is_logged = known.says("log_bin", "ON", "1") and not known.says("sql_log_bin", "OFF", "0")
    # InnoDB: a statement's effect under these levels depends on what others commit, so its text cannot be replayed.
    if is_logged and known.says("binlog_format", "STATEMENT") and level in ("READ-COMMITTED", "READ-UNCOMMITTED"):
        what = (
            f"binlog_format is STATEMENT, and the isolation level {level.replace('-', ' ')}: every write is error 1665"
        )
        yield Finding("error", "binary log", what, "set binlog_format to ROW or MIXED, or use REPEATABLE READ")


def _writable(known: Settings) -> Iterator[Finding]:
    on = [
        name
        for name in ("read_only", "super_read_only", "innodb_read_only", "transaction_read_only", "tx_read_only")
        if known.variables.get(name, "OFF").upper() not in ("OFF", "0", "")
    ]
    if on:
        what = f"the server takes no writes: {', '.join(on)}"
        yield Finding("error", "read only", what, "connect to the primary")


def _clusters(known: Settings) -> Iterator[Finding]:
    wait = known.variables.get("wsrep_sync_wait", "0")
    if known.says("wsrep_on", "ON", "1") and not (wait.isdigit() and int(wait) & _WRITES == _WRITES):
        what = f"this is a Galera node with wsrep_sync_wait = {wait}: a refusal may name a state that has been left"
        yield Finding("warning", "stale refusals", what, "SET SESSION wsrep_sync_wait = 7 on each new connection")
    consistency = known.variables.get("group_replication_consistency", "BEFORE").upper()
    waits = consistency in ("BEFORE", "BEFORE_AND_AFTER")
    if known.says("group_replication_single_primary_mode", "OFF", "0") and not waits:
        what = f"several primaries, and group_replication_consistency is {consistency}: refusals may be stale"
        yield Finding("warning", "stale refusals", what, "SET SESSION group_replication_consistency = 'BEFORE'")


def _durability(known: Settings) -> Iterator[Finding]:
    weak = [
        f"{name} = {known.variables[name]}"
        for name in ("innodb_flush_log_at_trx_commit", "sync_binlog")
        if known.variables.get(name, "1") != "1" and (name != "sync_binlog" or known.says("log_bin", "ON", "1"))
    ]
    if weak:
        what = f"the server's crash may lose committed moves: {', '.join(weak)}"
        yield Finding("note", "durability", what, "set both to 1, unless that is meant")


def _character_set(known: Settings) -> Iterator[Finding]:
    other = sorted(
        {
            known.variables[name]
            for name in ("character_set_client", "character_set_connection", "character_set_results")
            if known.variables.get(name, "utf8mb4") not in ("utf8mb4", "")
        }
    )
    if other:
        what = (
            f"the connection's character set is {listed(other)}: it cannot send every text, and mysqlclient cannot "
            "read every error message of the server"
        )
        yield Finding("note", "character set", what, "add ?charset=utf8mb4 to the URL")


_SETTINGS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _strictness,
    _found_rows,
    _isolation,
    _binary_log,
    _writable,
    _clusters,
    _character_set,
    _durability,
)


def described(connection: Connection) -> str:
    """The database in a few words, for a report."""
    return f"{database_of(connection).name} {database_of(connection).catalogue.settings(connection).version}"
