"""The checks of a state column, of its table and of its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from sqlalchemy import Connection, LargeBinary, String, func, select
from sqlalchemy import cast as sql_cast
from sqlalchemy.exc import DBAPIError

from ...databases import database_of
from ...databases.catalogue import ColumnFacts, TableFacts
from ...databases.identifiers import check_name, check_names
from ...errors.texts import listed, shown
from ...orm.column import StateType
from ...orm.mapped import MappedState
from ..findings import Finding, label_of, named, names_of

# The kinds of columns that op.convert_states() takes.
_CONVERTED = {"varchar", "enum", "tinyint", "smallint", "mediumint", "integer", "int", "bigint"}
_NULL = "NULL"  # in messages without quotes, unlike a state of that name

__all__ = ["of_checks", "of_column", "of_engine", "of_rights", "of_rows", "of_table"]


def of_column(mapped: MappedState, column: ColumnFacts) -> Iterator[Finding]:
    type_, label = type_of(mapped), label_of(mapped.column)
    if column.is_generated:
        what = f"{label} is a generated column, and nothing can be written to it"
        yield Finding("error", "generated column", what, "give the machine a column of its own: op.adopt_column()")
        return
    unfit = list(_of_kind(type_, column, label))
    yield from unfit
    if any(finding.kind == "wrong type" for finding in unfit):
        return
    yield from _of_states(mapped, column)
    yield from _of_definition(mapped, column)


def _of_kind(type_: StateType, column: ColumnFacts, label: str) -> Iterator[Finding]:
    """Whether the column stores what the model does: texts, or numbers."""
    if type_.numbers is None and not column.is_text:
        what = f"{label} is {column.kind.upper()}, but the machine's states are texts: in strict mode every fire fails"
        advice = 'declare it with storage="integer", or take the column over by op.adopt_column()'
        yield Finding("error", "wrong type", what, advice)
        return
    if type_.numbers is not None and column.takes is None:
        what = f"{label} is {column.kind.upper()}, but the machine's states are stored as whole numbers"
        yield Finding("error", "wrong type", what, "take the column over by op.adopt_column()")
        return
    if type_.numbers is not None and column.takes is not None:
        beyond = [str(number) for number in type_.numbers.values() if number not in column.takes]
        if beyond:
            what = f"{label} is {column.kind.upper()}, which cannot store {listed(beyond)}"
            yield Finding("error", "too short", what, "give the column a larger type, such as INT")


def _of_states(mapped: MappedState, column: ColumnFacts) -> Iterator[Finding]:
    """Whether the column takes the states of the machine, and no others."""
    type_, label = type_of(mapped), label_of(mapped.column)
    wanted = type_.stored_states
    if column.states is None:
        yield Finding(
            "warning",
            "any state",
            f"{label} takes any {'text: it is not an ENUM, and' if type_.numbers is None else 'number: it'} has no"
            f" CHECK {check_name(*names_of(mapped.column))}",
            f"add one by op.{'convert_states' if column.kind in _CONVERTED else 'adopt_column'}()",
        )
    else:
        refused = [state for state in wanted if state not in column.states]
        more = [state for state in column.states if state not in wanted]
        if refused:
            yield Finding(
                "error",
                "states missing",
                f"{label} does not take {named(refused)}",
                "add the missing states by op.add_states()",
            )
        if more:
            yield Finding(
                "note",
                "more states",
                f"{label} also takes {named(more)}, which the machine does not declare",
                "this is right during a deploy; remove them afterwards by op.drop_states()",
            )


def _of_definition(mapped: MappedState, column: ColumnFacts) -> Iterator[Finding]:
    """Whether length, nullability, default and collation fit."""
    type_, label = type_of(mapped), label_of(mapped.column)
    wanted = type_.stored_states
    longest = max(map(len, wanted))
    if column.length is not None and column.length < longest:
        what = f"{label} has room for {column.length} characters, but the longest state has {longest}"
        yield Finding("error", "too short", what, "make the column longer")
    if column.is_nullable:
        what = f"{label} allows NULL, but every event refuses a row without a state"
        yield Finding("warning", "nullable", what, "make it NOT NULL")
    initial = type_.spellings(mapped.machine.initial)
    if column.default is not None and column.default not in initial:
        what = f"the default of {label} is {shown(column.default)}, but new rows begin in {shown(initial[0])}"
        yield Finding("warning", "default", what, "change the column's default")
    if column.collation is not None and not column.is_exact:
        what = f"{label} has the collation {column.collation}, in which different texts are equal"
        yield Finding("warning", "collation", what, "use ascii_bin for an ENUM, and a NO PAD collation for a VARCHAR")


def type_of(mapped: MappedState) -> StateType:
    """The type of the column as the model declares it."""
    return cast("StateType", mapped.column.type)


def of_engine(table: str, facts: TableFacts) -> Iterator[Finding]:
    if facts.engine is not None and facts.engine.lower() != "innodb":
        what = f"{table} is stored by {facts.engine}, which lacks the transactions or the row locks of InnoDB"
        yield Finding("error", "storage engine", what, f"ALTER TABLE {table} ENGINE = InnoDB")


def of_table(mapped: MappedState, facts: TableFacts) -> Iterator[Finding]:
    """Whether a table stands where the model has one."""
    if facts.is_view:
        table = mapped.column.table.name
        what = f"{table} is a view: its triggers, CHECKs and locks are those of the underlying table"
        yield Finding("warning", "view", what, "map the model to that table, and run the doctor again")
        return
    key = {str(part.name).lower() for part in mapped.row.key}
    if not any({name.lower() for name in names} <= key for names in facts.unique if names):
        table = mapped.column.table.name
        what = f"{table} has no unique index on ({', '.join(sorted(key))}): a fire could move two rows"
        yield Finding("error", "no key", what, "make these columns the primary key")


def of_checks(mapped: MappedState, connection: Connection) -> Iterator[Finding]:
    """Whether the CHECKs on the column are enforced, and accept every state."""
    catalogue, own, label = database_of(connection).catalogue, mapped.column, label_of(mapped.column)
    unenforced = catalogue.unenforced_checks(connection, own.table)
    ours = check_names(*names_of(own))
    for name, condition in catalogue.checks(connection, own.table).items():
        if name in unenforced:
            if name in ours:
                what = f"the CHECK {name} on {label} is NOT ENFORCED: the column takes any text"
                yield Finding("warning", "check not enforced", what, f"ALTER TABLE … ALTER CHECK {name} ENFORCED")
        elif name not in ours:
            refused = _refused_by(mapped, connection, condition)
            if refused:
                what = f"the CHECK {name} refuses {named(refused)} in {label}"
                yield Finding("error", "other check", what, "change or drop this CHECK")


def _refused_by(mapped: MappedState, connection: Connection, condition: str) -> list[str]:
    """The states for which *condition*, a CHECK as the database writes it, is false."""
    quote = connection.dialect.identifier_preparer.quote
    column = quote(mapped.column.name)
    if mapped.column.name.lower() not in condition.lower():
        return []
    type_ = type_of(mapped)
    states = type_.stored_states
    plain: Any = String().literal_processor(connection.dialect)  # type: ignore[no-untyped-call]  # SQLAlchemy's
    texts = [plain(state) for state in states] if type_.numbers is None else states
    rows = " UNION ALL ".join(f"SELECT {number} AS fsm_number, {text} AS {column}" for number, text in enumerate(texts))
    # The condition comes from the database's catalogue. One that reads other columns is an error, and says nothing.
    query = f"SELECT fsm_number FROM ({rows}) AS fsm_states WHERE NOT ({condition})"  # noqa: S608 - as above
    try:
        found = connection.exec_driver_sql(query, execution_options={"no_parameters": True}).scalars().all()
    except DBAPIError:
        return []
    return [states[number] for number in found]


def of_rights(mapped: MappedState, connection: Connection) -> Iterator[Finding]:
    """Whether the account may write the state, and the history."""
    catalogue, own = database_of(connection).catalogue, mapped.column
    lacking = [(own.table.name, right) for right in catalogue.missing_rights(connection, own, writes="update")]
    history = mapped.extras.history
    if history is not None:
        table = history.sql.table
        missing = catalogue.missing_rights(connection, table.c.sequence, writes="insert")
        lacking += [(table.name, right) for right in missing]
    if lacking:
        rights = listed(f"{right} on {table}" for table, right in lacking)
        what = f"this account lacks {rights}, so it cannot fire events"
        yield Finding("error", "rights", what, "GRANT it, or connect with the account of the program")


def of_rows(mapped: MappedState, connection: Connection) -> Iterator[Finding]:
    machine, type_, label = mapped.machine, type_of(mapped), label_of(mapped.column)
    # As bytes: a collation would count 'ready' among 'READY'.
    text = sql_cast(mapped.column, LargeBinary)
    counted = connection.execute(select(text, func.count()).group_by(text))
    rows = {_decoded(value): int(number) for value, number in counted}
    undeclared = {state: number for state, number in rows.items() if state not in type_.stored_states}
    retired = {type_.stored_value(state) for state in machine.retired}
    left = {state: number for state, number in rows.items() if state in retired}
    aliased = {state: number for state, number in rows.items() if state in machine.aliases}
    if undeclared:
        what = f"{_rows(undeclared, label)} in a state that the machine does not declare: {_with(undeclared)}"
        yield Finding(
            "error",
            "undeclared rows",
            what,
            "no event can move such a row: declare the state, or repair it by force_state() or op.migrate_states()",
            undeclared,
        )
    if left:
        what = f"{_rows(left, label)} in a retired state: {_with(left)}"
        yield Finding("note", "retired rows", what, "remove the state when no row is in it any more", left)
    if aliased:
        what = f"{_rows(aliased, label)} stored under an alias: {_with(aliased)}"
        yield Finding("note", "alias rows", what, "run op.migrate_states(), which writes the state's own name", aliased)


def _rows(found: Mapping[str, int], label: str) -> str:
    number = sum(found.values())
    return f"1 row of {label} is" if number == 1 else f"{number} rows of {label} are"


def _decoded(value: Any) -> str:
    if value is None:
        return _NULL
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _with(rows: Mapping[str, int]) -> str:
    return listed(f"{state if state == _NULL else shown(state)} ({number})" for state, number in rows.items())
