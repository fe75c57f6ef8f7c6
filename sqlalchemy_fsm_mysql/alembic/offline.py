"""The output of ``alembic upgrade --sql`` for each operation: a script that MySQL and MariaDB can run as it is.

The script itself looks at the database: it makes the ALTER out of what information_schema says of the
column, keeps its order of states, leaves alone what is done already, and can be run again. It works in strict mode,
where the server itself refuses to drop a state that a row is in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Dialect,
    MetaData,
    String,
    Table,
    and_,
    case,
    func,
    insert,
    literal,
    literal_column,
    or_,
    select,
    text,
    update,
)

from ..databases import name_of, supported, types_of
from ..databases.exact import AsBytes
from ..databases.identifiers import check_name
from ..databases.mysql.ddl import both_dialects, writing_dialect
from ..databases.mysql.literals import quoted
from ..databases.mysql.triggers import PERMIT, PERMITTED_ROWS, permitted_edge
from ..databases.types import integer_type
from ..errors import MigrationRefused
from ..errors.texts import escaped
from ..machine.states import FORCED
from ..orm.column import states_check
from ..sql.clock import utc_now
from .bare import bare_alter
from .databases import PIN, UNPIN, constraint_text, state_table
from .ops import AddStatesOp, AlterStatesOp, ConvertStatesOp, DropStatesOp, MigrateStatesOp, StatesOp

__all__ = ["script"]

# All that information_schema says of a column behind its type. MariaDB shows a default as an expression, MySQL as a
# value unless EXTRA says DEFAULT_GENERATED.
_ATTRIBUTES = """\
CONCAT(
    {collation}
    {null},
    {default},
    IF(EXTRA LIKE '%INVISIBLE%', ' INVISIBLE', ''),
    IF(COLUMN_COMMENT = '', '', CONCAT(' COMMENT ', QUOTE(COLUMN_COMMENT))))"""
# A collation that is the table's own is not repeated, as SHOW CREATE TABLE does not.
_COLLATION = """\
IF(IFNULL(COLLATION_NAME, 'none') IN ('none', (
            SELECT TABLE_COLLATION FROM information_schema.TABLES AS own
            WHERE own.TABLE_SCHEMA = COLUMNS.TABLE_SCHEMA AND own.TABLE_NAME = COLUMNS.TABLE_NAME)),
        '', CONCAT(' CHARACTER SET ', CHARACTER_SET_NAME, ' COLLATE ', COLLATION_NAME)),"""
_DEFAULT = """\
CASE WHEN COLUMN_DEFAULT IS NULL THEN ''
        WHEN VERSION() LIKE '%MariaDB%' THEN CONCAT(' DEFAULT ', COLUMN_DEFAULT)
        WHEN EXTRA LIKE '%DEFAULT_GENERATED%' THEN
            CONCAT(' DEFAULT (', REPLACE(COLUMN_DEFAULT, '\\\\''', ''''), ')')
        ELSE CONCAT(' DEFAULT ', QUOTE(COLUMN_DEFAULT)) END"""


def script(dialect: Dialect, op: StatesOp) -> Iterator[str]:
    """The statements of *op*, each with what ends it.

    Raises: MigrationRefused for a database that cannot look at itself.
    """
    database = supported(dialect)
    if database is None or not database.catalogue.is_scriptable:
        raise MigrationRefused(
            op.label,
            f"--sql cannot be written for {name_of(dialect)}",
            "the migration reads which states its rows are in; run it online",
        )
    _require_consent(op)
    writer = _Writer(dialect)
    yield f"-- {escaped(op.label)}: {_WHAT[type(op)](op)}"  # a line end in a name would end the comment
    if isinstance(op, AlterStatesOp):
        yield from bare_alter(op)
    for statement in _SCRIPTS[type(op)](writer, op):
        yield f"{statement};"
    yield ""


def _require_consent(op: StatesOp) -> None:
    """Refuse a step for which the server copies the table, as the operation does online."""
    if not isinstance(op, AlterStatesOp) or op.copies_table:
        return
    if isinstance(op, AddStatesOp) and op.storage == "enum" and op.algorithm != "COPY":
        return
    raise MigrationRefused(
        op.label,
        "for this step the server copies the table and blocks its writers",
        "give copies_table=True when that is acceptable, or hand the ALTER to gh-ost or pt-online-schema-change",
    )


class _Writer:
    """Spells names and values as the session reads them once it is pinned."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = writing_dialect(dialect)
        self.preparer = self.dialect.identifier_preparer

    def table(self, op: StatesOp) -> str:
        return str(self.preparer.format_table(state_table(op.table_name, op.column_name, op.schema)))

    def column(self, op: StatesOp) -> str:
        return str(self.preparer.quote(op.column_name))

    def compiled(self, element: Any) -> str:
        return str(element.compile(dialect=self.dialect, compile_kwargs={"literal_binds": True}))

    def check(self, op: AlterStatesOp, states: Sequence[str]) -> str:
        """``CONSTRAINT … CHECK (…)``."""
        column = state_table(op.table_name, op.column_name, op.schema).c[op.column_name]
        constraint = states_check(column, states, is_number=op.storage == "integer", is_script=True)
        return constraint_text(constraint, self.dialect)

    def type(self, states: Sequence[str], storage: str) -> str:
        """The column's type, as a SQL expression: only the server knows whether it is a MariaDB."""
        types = [
            quoted(str(types_of(dialect).state(dialect, states, storage).compile(dialect=dialect)))
            for dialect in both_dialects()
        ]
        return types[0] if types[0] == types[1] else f"IF(VERSION() LIKE '%MariaDB%', {', '.join(types)})"

    def where(self, op: StatesOp) -> str:
        schema = "DATABASE()" if op.schema is None else quoted(op.schema)
        table, column = quoted(op.table_name), quoted(op.column_name)
        return f"TABLE_SCHEMA = {schema} AND TABLE_NAME = {table} AND COLUMN_NAME = {column}"

    def permit(self, op: StatesOp, source: str, target: str) -> str:
        """The SQL that opens a machine's triggers for all rows of one edge."""
        schema = "DATABASE()" if op.schema is None else quoted(op.schema)
        edge = quoted(permitted_edge(op.table_name, op.column_name, source, target))
        return f"SET {PERMIT} = CONCAT({schema}, {edge}), {PERMITTED_ROWS} = {2**62}"

    def attributes(self, *, default: str | None = None, is_new: bool = False) -> str:
        """The DDL after the type, as a SQL expression; *is_new* makes it NOT NULL and leaves out the collation."""
        default_clause = _DEFAULT if default is None else quoted(f" DEFAULT {quoted(default)}")
        if is_new:
            default_clause = (
                f"IF(IS_NULLABLE = 'YES' AND IFNULL(COLUMN_DEFAULT, 'NULL') = 'NULL', '', {default_clause})"
            )
        null = "' NOT NULL'" if is_new else "IF(IS_NULLABLE = 'NO', ' NOT NULL', ' NULL')"
        return _ATTRIBUTES.format(collation="" if is_new else _COLLATION, null=null, default=default_clause)


def _look(what: str, into: str, where: str) -> Iterator[str]:
    """Have the script read *what* of the columns that information_schema lists."""
    # SELECT ... INTO leaves alone what no row is found for: what the operation before has read of another table.
    yield "SET @fsm_alter = NULL, @fsm_states = NULL, @fsm_attributes = NULL"
    yield "\n".join([f"SELECT {what}", f"INTO {into}", "FROM information_schema.COLUMNS", f"WHERE {where}"])


def _alter(writer: _Writer, op: AlterStatesOp, type_: str, then: str = "") -> Iterator[str]:
    """The ALTER whose type is the SQL expression *type_*, and whose other clauses are the text *then*."""
    algorithm = "" if op.algorithm is None else f", ALGORITHM={op.algorithm}"
    head = quoted(f"ALTER TABLE {writer.table(op)} MODIFY COLUMN {writer.column(op)} ")
    # This text is not a statement: the server stops there, and shows it in its error.
    missing = quoted(f"{op.label}: no column of this name that is stored like that")
    yield f"SET @fsm_alter = IFNULL(CONCAT({head}, {type_}, @fsm_attributes, {quoted(then + algorithm)}), {missing})"
    # A comment begins a line of its own, before the statement that it is about.
    yield (
        "-- The bare ALTER, for gh-ost or pt-online-schema-change, instead of the next three: SELECT @fsm_alter\n"
        "PREPARE fsm_alter FROM @fsm_alter"
    )
    yield "EXECUTE fsm_alter"
    yield "DEALLOCATE PREPARE fsm_alter"


def _read_enum(writer: _Writer, op: StatesOp, default: str | None = None) -> Iterator[str]:
    """``@fsm_states``: the states as the ENUM lists them, between commas."""
    states = "CONCAT(',', SUBSTRING(COLUMN_TYPE, 6, CHAR_LENGTH(COLUMN_TYPE) - 6), ',')"
    what = f"{states},\n    {writer.attributes(default=default)}"
    yield from _look(what, "@fsm_states, @fsm_attributes", f"{writer.where(op)} AND DATA_TYPE = 'enum'")


def _enum_type() -> str:
    return "CONCAT('enum(', TRIM(BOTH ',' FROM @fsm_states), ')')"


def _add(writer: _Writer, op: AddStatesOp) -> Iterator[str]:
    yield PIN.format(op.lock_wait_timeout)
    if op.storage != "enum":
        yield from _swap_check(writer, op, (*op.existing, *op.states))
    else:
        yield from _read_enum(writer, op)
        for state in op.states:
            # Compared as bytes: information_schema's own collation knows no case.
            found = f"LOCATE(CAST({quoted(_entry(state))} AS BINARY), CAST(@fsm_states AS BINARY))"
            appended = f"CONCAT(@fsm_states, {quoted(_entry(state)[1:])})"
            yield f"SET @fsm_states = IF({found}, @fsm_states, {appended})"
        yield from _alter(writer, op, _enum_type())
    yield UNPIN


def _drop(writer: _Writer, op: DropStatesOp) -> Iterator[str]:
    yield PIN.format(op.lock_wait_timeout)
    if op.storage != "enum":
        left = [state for state in op.existing if state not in op.states]
        yield from _swap_check(writer, op, left, op.server_default)
    else:
        yield from _read_enum(writer, op, op.server_default)
        for state in op.states:
            # REPLACE() tells case apart.
            yield f"SET @fsm_states = REPLACE(@fsm_states, {quoted(_entry(state))}, ',')"
        yield from _alter(writer, op, _enum_type())
    yield UNPIN


def _swap_check(writer: _Writer, op: AlterStatesOp, states: Sequence[str], default: str | None = None) -> Iterator[str]:
    if not op.existing:
        raise MigrationRefused(
            op.label, "--sql cannot read what the CHECK of the column lets in", "pass existing=[…], all states before"
        )
    name = writer.preparer.quote(check_name(op.table_name, op.column_name))
    then = f", DROP CONSTRAINT {name}, ADD {writer.check(op, states)}"
    if op.storage == "integer":
        what = f"{_number_type(op, states)},\n    {writer.attributes(default=default)}"
        yield from _look(what, "@fsm_states, @fsm_attributes", f"{writer.where(op)} AND DATA_TYPE LIKE '%int'")
        yield from _alter(writer, op, "@fsm_states", then)
        return
    is_varchar = f"{writer.where(op)} AND DATA_TYPE = 'varchar'"
    # A length that fits its states exactly is fitted again; a length that a person chose is only made longer.
    longest, before = max(map(len, states)), max(map(len, op.existing))
    length_column = "CHARACTER_MAXIMUM_LENGTH"
    length = f"IF({length_column} = {before:d}, {longest:d}, GREATEST({length_column}, {longest:d}))"
    what = f"CONCAT('varchar(', {length}, ')'),\n    {writer.attributes(default=default)}"
    yield from _look(what, "@fsm_states, @fsm_attributes", is_varchar)
    yield from _alter(writer, op, "@fsm_states", then)


def _convert(writer: _Writer, op: ConvertStatesOp) -> Iterator[str]:
    yield PIN.format(op.lock_wait_timeout)
    # A number, or a text of another kind, would be converted in the server's own way.
    kinds = "LIKE '%int'" if op.storage == "integer" else "IN ('enum', 'varchar')"
    is_state = f"{writer.where(op)} AND DATA_TYPE {kinds}"
    type_ = writer.type(op.states, op.storage)
    if op.storage == "integer":
        type_ = _number_type(op, op.states)
    if op.storage == "varchar":
        longest = max(map(len, op.states))
        length = f"GREATEST({longest:d}, IF(DATA_TYPE = 'varchar', CHARACTER_MAXIMUM_LENGTH, 0))"
        type_ = f"CONCAT('VARCHAR(', {length}, SUBSTRING({type_}, LOCATE(')', {type_})))"
    what = f"{type_},\n    {writer.attributes(is_new=True)}"
    yield from _look(what, "@fsm_states, @fsm_attributes", is_state)
    name = writer.preparer.quote(check_name(op.table_name, op.column_name))
    then = f", DROP CONSTRAINT {name}" if op.existing_storage in ("varchar", "integer") else ""
    then += f", ADD {writer.check(op, op.states)}" if op.storage != "enum" else ""
    yield from _alter(writer, op, "@fsm_states", then)
    yield UNPIN


def _number_type(op: AlterStatesOp, states: Sequence[str]) -> str:
    """The column's own type if it takes all numbers, else the one of a new column, as a SQL expression."""
    least, most = min(map(int, states)), max(map(int, states))
    unsigned = "COLUMN_TYPE LIKE '%unsigned%'"
    bits = "ELT(FIELD(DATA_TYPE, 'tinyint', 'smallint', 'mediumint', 'int', 'bigint'), 8, 16, 24, 32, 63)"
    highest = f"POW(2, IF({unsigned}, {bits}, {bits} - 1)) - 1"
    lowest = f"IF({unsigned}, 0, -POW(2, {bits} - 1))"
    new = str(integer_type(states).compile(dialect=both_dialects()[0]))
    return f"IF({least:d} >= {lowest} AND {most:d} <= {highest}, COLUMN_TYPE, {quoted(new)})"


def _entry(state: str) -> str:
    """*state* as COLUMN_TYPE lists it, between commas."""
    return f",{quoted(state)},"


def _migrate(writer: _Writer, op: MigrateStatesOp) -> Iterator[str]:
    """One transaction. The default goes first, so that no row is made in a state that was just left."""
    if op.keeps_timestamps:
        raise MigrationRefused(
            op.label, "--sql cannot read which columns the server sets at each UPDATE", "run it online"
        )
    yield PIN.format(1)
    if op.condition is None:
        yield from _default(writer, op)
    names = dict.fromkeys([*op.record.values(), op.column_name, *filter(None, [op.since])])
    since = {} if op.since is None else {op.since: utc_now()}
    table = Table(op.table_name, MetaData(), *(Column(name, String()) for name in names), schema=op.schema)
    state = table.c[op.column_name]
    only = [] if op.condition is None else [text(f"({op.condition.replace(':', chr(92) + ':')})")]
    holds = {source: and_(_holds(state, source), *only) for source in op.targets}
    sources = or_(*holds.values())
    target = case(*((holds[source], literal(to, String())) for source, to in op.targets.items()), else_=state)
    # Under READ COMMITTED the UPDATE could find rows that the INSERT has not.
    yield "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"
    yield "START TRANSACTION"
    if op.history is not None:
        yield writer.compiled(_records(op, table, sources, target))
    for source, to in op.targets.items():
        # Read where triggers enforce a machine on the column, and nowhere else.
        yield writer.permit(op, source or "", to)
        yield writer.compiled(update(table).where(holds[source]).values({**since, op.column_name: to}))
    yield f"SET {PERMIT} = NULL, {PERMITTED_ROWS} = NULL"
    yield "COMMIT"
    yield UNPIN


def _holds(state: ColumnElement[str], source: str | None) -> ColumnElement[bool]:
    """Whether *state* is *source*, byte by byte, whatever the collation."""
    if source is None:
        return state.is_(None)
    # The first comparison may use an index; the second decides.
    exact: ColumnElement[bytes] = literal_column(f"CAST({quoted(source)} AS BINARY)")
    return and_(state == literal(source, String()), AsBytes(state) == exact)


def _default(writer: _Writer, op: MigrateStatesOp) -> Iterator[str]:
    # MariaDB shows a text as a literal, MySQL as its value; a number has no quotes on either.
    alter = quoted(f"ALTER TABLE {writer.table(op)} ALTER COLUMN {writer.column(op)} SET DEFAULT ")
    for source, target in op.targets.items():
        if source is None:  # a column without a default stays so
            continue
        shown = source if op.is_number else quoted(source)
        value = f"IF(VERSION() LIKE '%MariaDB%', {quoted(shown)}, {quoted(source)})"
        is_default = f"CAST(COLUMN_DEFAULT AS BINARY) = CAST({value} AS BINARY)"
        statement = f"{alter[:-1]}{quoted(quoted(target))[1:]}"
        yield from _look(f"MAX(IF({is_default}, {statement}, NULL))", "@fsm_alter", writer.where(op))
        yield "SET @fsm_alter = IFNULL(@fsm_alter, 'DO 0')"
        yield "PREPARE fsm_alter FROM @fsm_alter"
        yield "EXECUTE fsm_alter"
        yield "DEALLOCATE PREPARE fsm_alter"


def _records(op: MigrateStatesOp, own: Table, sources: Any, target: Any) -> Any:
    if not op.record:
        raise MigrationRefused(
            op.label, "--sql cannot read which columns the history keeps the key in", 'pass record={"record_id": "id"}'
        )
    assert op.history is not None
    names = (*op.record, "sequence", "event", "source", "target", "at", "actor")
    history = Table(op.history, MetaData(), *(Column(name) for name in names), schema=op.schema)
    earlier = history.alias("fsm_earlier")
    same = [earlier.c[name] == own.c[part] for name, part in op.record.items()]
    latest = select(text("COALESCE(MAX(fsm_earlier.sequence), 0) + 1")).select_from(earlier).where(*same)
    values = [
        *(own.c[part] for part in op.record.values()),
        latest.scalar_subquery(),
        literal(FORCED, String()),
        _named(op, func.coalesce(own.c[op.column_name], "")),
        _named(op, target),
        utc_now(),
        literal(op.actor, String()),
    ]
    rows = select(*values).where(sources).with_for_update()
    return insert(history).from_select(list(names), rows, include_defaults=False)


def _named(op: MigrateStatesOp, state: ColumnElement[Any]) -> ColumnElement[Any]:
    """*state* as a history has it: by its name, where the column stores numbers."""
    if not op.names:
        return state
    return case({number: literal(name, String()) for number, name in op.names.items()}, value=state, else_=state)


_SCRIPTS: dict[type[StatesOp], Callable[[_Writer, Any], Iterator[str]]] = {
    AddStatesOp: _add,
    DropStatesOp: _drop,
    ConvertStatesOp: _convert,
    MigrateStatesOp: _migrate,
}
_WHAT: dict[type[StatesOp], Callable[[Any], str]] = {
    AddStatesOp: lambda op: f"take {list(op.states)}",
    DropStatesOp: lambda op: f"stop allowing {list(op.states)}",
    ConvertStatesOp: lambda op: f"store as {op.storage}",
    MigrateStatesOp: lambda op: f"rows from and to {dict(op.targets)}; online, this is done in batches",
}
