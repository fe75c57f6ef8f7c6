"""Statements of people and programs that know nothing of the library: those that break the machine are refused.

And what no trigger can refuse, so that docs/enforcement.md says the truth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Connection, Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_fsm_mysql import RefusedByDatabase, StateMachineColumn
from sqlalchemy_fsm_mysql.databases.triggers import trigger_name
from tests.reference import MOVES, STATES, machine
from tests.servers import make_engine

# What a server refuses does not depend on who asks.
pytestmark = pytest.mark.one_driver

EDGES = {(source, target) for (source, _), target in MOVES.items()}
BREACHES = [pair for pair in product(STATES, STATES) if pair not in EDGES and pair[0] != pair[1]]
BEGINS = ("Initializing", "Running", "Stopped")
NO_BEGINS = [state for state in STATES if state not in BEGINS]


class Base(DeclarativeBase):
    """The tables of this module."""


class AsEnum(Base):
    __tablename__ = "refused_enum"

    id: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[int] = mapped_column(default=0, server_default="0")
    state: Mapped[str] = StateMachineColumn(machine, enforced=True)


class AsVarchar(Base):
    __tablename__ = "refused_varchar"

    id: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[int] = mapped_column(default=0, server_default="0")
    state: Mapped[str] = StateMachineColumn(machine, storage="varchar", enforced=True)


TABLES = [AsEnum.__tablename__, AsVarchar.__tablename__]

# {t} is the table, {id} a row in the state {s}, {T} the state that nothing leads to from there, {n} its number.
UPDATES = {
    "update": "UPDATE {t} SET state = '{T}' WHERE id = {id}",
    "update ignore": "UPDATE IGNORE {t} SET state = '{T}' WHERE id = {id}",
    "update by state": "UPDATE LOW_PRIORITY {t} SET note = 1, state = '{T}' WHERE state = '{s}' ORDER BY id LIMIT 1",
    "update by a computed value": "UPDATE {t} SET state = CONCAT(LEFT('{T}', 2), SUBSTR('{T}', 3)) WHERE id = {id}",
    "update by a subquery": "UPDATE {t} SET state = (SELECT '{T}') WHERE id = {id}",
    "joined update": "UPDATE {t} JOIN (SELECT {id} AS n) AS picked ON picked.n = {t}.id SET {t}.state = '{T}'",
    "update of two tables": "UPDATE refused_other, {t} SET refused_other.note = 1, {t}.state = '{T}' WHERE {t}.id = {id}",
    "upsert": "INSERT INTO {t} (id) VALUES ({id}) ON DUPLICATE KEY UPDATE state = '{T}'",
    "upsert ignore": "INSERT IGNORE INTO {t} (id) VALUES ({id}) ON DUPLICATE KEY UPDATE state = '{T}'",
    "upsert from a query": "INSERT INTO {t} (id) SELECT 0 + {id} ON DUPLICATE KEY UPDATE state = '{T}'",
    "view": "UPDATE {t}_view SET state = '{T}' WHERE id = {id}",
    "procedure": "CALL {t}_move({id}, '{T}')",
    "prepared": "SET @id = {id}, @state = '{T}'; PREPARE p FROM 'UPDATE {t} SET state = ? WHERE id = ?';"
    " EXECUTE p USING @state, @id",
    "another table's trigger": "INSERT INTO {t}_inbox VALUES ({id}, '{T}')",
    "update without strict mode": "SET sql_mode = ''; UPDATE {t} SET state = '{T}' WHERE id = {id}",
}
# {S} is a state that no row begins in; row 1 is there already, and row 99 is not.
INSERTS = {
    "insert": "INSERT INTO {t} (id, state) VALUES (99, '{S}')",
    "insert ignore": "INSERT IGNORE INTO {t} (id, state) VALUES (99, '{S}')",
    "insert set": "INSERT INTO {t} SET id = 99, state = '{S}'",
    "insert of several": "INSERT INTO {t} (id, state) VALUES (98, 'Initializing'), (99, '{S}')",
    "insert from a query": "INSERT INTO {t} (id, state) SELECT 99, '{S}'",
    "insert from a table": "INSERT INTO {t} (id, state) SELECT id + 90, state FROM refused_source WHERE state = '{S}'",
    "upsert": "INSERT INTO {t} (id, state) VALUES (99, '{S}') ON DUPLICATE KEY UPDATE note = 1",
    "replace": "REPLACE INTO {t} (id, state) VALUES (99, '{S}')",
    "replace of a row": "REPLACE INTO {t} (id, state) VALUES (1, '{S}')",
    "replace set": "REPLACE INTO {t} SET id = 1, state = '{S}'",
    "replace from a query": "REPLACE INTO {t} (id, state) SELECT 1, '{S}'",
    "view": "INSERT INTO {t}_view (id, state) VALUES (99, '{S}')",
    "procedure": "CALL {t}_add(99, '{S}')",
    "prepared": "SET @state = '{S}'; PREPARE p FROM 'INSERT INTO {t} (id, state) VALUES (99, ?)'; EXECUTE p USING @state",
    "load data": "LOAD DATA LOCAL INFILE '{file}' INTO TABLE {t} (id, state)",
    "load data ignore": "LOAD DATA LOCAL INFILE '{file}' IGNORE INTO TABLE {t} (id, state)",
    "load data replace": "LOAD DATA LOCAL INFILE '{file}' REPLACE INTO TABLE {t} (id, state)",
    "insert without strict mode": "SET sql_mode = ''; INSERT INTO {t} (id, state) VALUES (99, '{S}')",
}
# What no machine declares, put in by a server that is told to be lenient. {v} is a value.
LENIENT_VALUES = ("'Lost'", "''", "'READY'", "'Running '", "NULL", "0", "99")
LENIENT = {
    "update": "SET sql_mode = ''; UPDATE {t} SET state = {v} WHERE id = {id}",
    "update ignore": "UPDATE IGNORE {t} SET state = {v} WHERE id = {id}",
    "upsert": "SET sql_mode = ''; INSERT INTO {t} (id) VALUES ({id}) ON DUPLICATE KEY UPDATE state = {v}",
    "insert": "SET sql_mode = ''; INSERT INTO {t} (id, state) VALUES (99, {v})",
    "insert ignore": "INSERT IGNORE INTO {t} (id, state) VALUES (99, {v})",
    "replace": "SET sql_mode = ''; REPLACE INTO {t} (id, state) VALUES (1, {v})",
}
ON_SQLITE = {
    "update": "UPDATE {t} SET state = '{T}' WHERE id = {id}",
    "update or ignore": "UPDATE OR IGNORE {t} SET state = '{T}' WHERE id = {id}",
    "update or replace": "UPDATE OR REPLACE {t} SET state = '{T}' WHERE id = {id}",
    "upsert": "INSERT INTO {t} (id) VALUES ({id}) ON CONFLICT DO UPDATE SET state = '{T}'",
    "update from": "UPDATE {t} SET state = o.s FROM (SELECT '{T}' AS s) AS o WHERE id = {id}",
}
INSERTS_ON_SQLITE = {
    "insert": "INSERT INTO {t} (id, state) VALUES (99, '{S}')",
    "insert or ignore": "INSERT OR IGNORE INTO {t} (id, state) VALUES (99, '{S}')",
    "replace": "REPLACE INTO {t} (id, state) VALUES (99, '{S}')",
    "replace of a row": "REPLACE INTO {t} (id, state) VALUES (1, '{S}')",
    "insert from a query": "INSERT INTO {t} (id, state) SELECT 99, '{S}'",
}
ROWS = {state: number for number, state in enumerate(STATES, start=1)}


@pytest.fixture(scope="module")
def setting(url: URL) -> Iterator[Engine]:
    """The tables, with views, procedures and triggers of somebody else; each statement commits."""
    is_server = url.get_backend_name() != "sqlite"
    local = {"local_infile": 1} if url.get_driver_name() in {"mysqldb", "pymysql"} else {}
    if url.get_driver_name() == "mysqlconnector":
        local = {"allow_local_infile": True}
    engine = make_engine(url, isolation_level="AUTOCOMMIT", **({"connect_args": local} if local else {}))
    Base.metadata.create_all(engine)
    with engine.connect() as connection:
        was_local = connection.scalar(text("SELECT @@GLOBAL.local_infile")) if is_server else None
        if is_server:
            connection.execute(text("SET GLOBAL local_infile = ON"))
            for statement in surroundings():
                connection.exec_driver_sql(statement)
        yield engine
        if is_server:
            connection.execute(text(f"SET GLOBAL local_infile = {int(was_local or 0)}"))
            for table in TABLES:
                connection.exec_driver_sql(f"DROP VIEW {table}_view")
                connection.exec_driver_sql(f"DROP TABLE {table}_inbox")
            connection.exec_driver_sql("DROP TABLE refused_other, refused_source")
    Base.metadata.drop_all(engine)
    engine.dispose()


def surroundings() -> Iterator[str]:
    yield "CREATE TABLE refused_other (id INT PRIMARY KEY, note INT)"
    yield "INSERT INTO refused_other VALUES (1, 0)"
    yield "CREATE TABLE refused_source (id INT PRIMARY KEY, state VARCHAR(20))"
    yield "INSERT INTO refused_source VALUES (1, 'Error'), (2, 'Deleted')"
    for table in TABLES:
        yield f"CREATE VIEW {table}_view AS SELECT id, state FROM {table}"
        yield f"CREATE TABLE {table}_inbox (order_id INT, state VARCHAR(20))"
        yield (
            f"CREATE TRIGGER {table}_inbox_insert AFTER INSERT ON {table}_inbox FOR EACH ROW"
            f" UPDATE {table} SET state = NEW.state WHERE id = NEW.order_id"
        )
        yield (
            f"CREATE PROCEDURE {table}_move(which INT, target VARCHAR(20))"
            f" UPDATE {table} SET state = target WHERE id = which"
        )
        yield (
            f"CREATE PROCEDURE {table}_add(which INT, target VARCHAR(20))"
            f" INSERT INTO {table} (id, state) VALUES (which, target)"
        )


def statements(is_server: bool, folder: Path) -> Iterator[tuple[str, str]]:
    """Each breach with its label; those of one form on one table differ by their states."""
    updates, inserts = (UPDATES, INSERTS) if is_server else (ON_SQLITE, INSERTS_ON_SQLITE)
    for table, (form, pattern), (source, target) in product(TABLES, updates.items(), BREACHES):
        values = {"t": table, "id": ROWS[source], "s": source, "T": target}
        yield f"{table} {form}: {source} to {target}", pattern.format(**values)
    for table, (form, pattern), state in product(TABLES, inserts.items(), NO_BEGINS):
        file = folder / f"{state}.tsv"
        file.write_text(f"99\t{state}\n")
        yield f"{table} {form}: {state}", pattern.format(t=table, S=state, file=file)
    if is_server:
        for state, number in product(STATES, (1, 2, 3, 4, 5)):
            if (state, STATES[number - 1]) in BREACHES:
                yield f"{state} to number {number}", f"UPDATE {TABLES[0]} SET state = {number} WHERE id = {ROWS[state]}"


def lenient_statements() -> Iterator[tuple[str, str]]:
    for table, (form, pattern), value, state in product(TABLES, LENIENT.items(), LENIENT_VALUES, STATES):
        if value == "'Running '" and table == AsEnum.__tablename__:
            continue  # an ENUM strips the space, and there is an edge to 'Running'
        if "{id}" in pattern or state == STATES[0]:
            yield f"{table} {form}: {state} to {value}", pattern.format(t=table, v=value, id=ROWS[state])


def refill(connection: Connection, is_server: bool) -> None:
    """A row in each state. To get it there, the triggers have to be followed, or TRUNCATE and the machine."""
    for table in TABLES:
        connection.exec_driver_sql(f"DELETE FROM {table}")
        for state, number in ROWS.items():
            connection.exec_driver_sql(f"INSERT INTO {table} (id) VALUES ({number})")
            for step in {"Error": ("Running", "Error"), "Deleted": ("Stopped", "Deleted")}.get(state, (state,)):
                connection.exec_driver_sql(f"UPDATE {table} SET state = '{step}', note = 0 WHERE id = {number}")


def held(connection: Connection) -> list[Any]:
    both = [f"SELECT '{table}', id, HEX(state) FROM {table}" for table in TABLES]
    return sorted(tuple(row) for row in connection.exec_driver_sql(" UNION ALL ".join(both)))


def attempt(connection: Connection, statement: str) -> str:
    """By whom *statement* is refused: our trigger, or the server; empty when it is not."""
    try:
        for part in statement.split("; "):
            connection.exec_driver_sql(part.replace("%", "%%"))
    except RefusedByDatabase:
        return "trigger"
    except DBAPIError:
        return "server"
    finally:
        if "sql_mode" in statement:
            connection.exec_driver_sql("SET sql_mode = DEFAULT")
    return ""


@pytest.mark.long
def test_more_than_200_statements_that_break_the_machine_are_refused(setting: Engine, tmp_path: Path) -> None:
    """By the triggers, and each leaves all rows as they were. On SQLite there are fewer ways to say it."""
    is_server = setting.dialect.name != "sqlite"
    refused: Counter[str] = Counter()
    passed = []
    with setting.connect() as connection:
        refill(connection, is_server)
        before = held(connection)
        for label, statement in statements(is_server, tmp_path):
            by = attempt(connection, statement)
            refused[by] += 1
            if by != "trigger" or held(connection) != before:
                passed.append(f"{by or 'not refused'}: {label}")
                refill(connection, is_server)

    assert passed == []
    assert refused["trigger"] >= (400 if is_server else 100)


@pytest.mark.servers_only
def test_a_lenient_server_lets_nothing_in_that_is_not_declared(setting: Engine) -> None:
    """Without strict mode, and by IGNORE, a server would make '' of it. What it refuses itself need not come to us."""
    refused: Counter[str] = Counter()
    passed = []
    with setting.connect() as connection:
        refill(connection, True)
        before = held(connection)
        for label, statement in lenient_statements():
            by = attempt(connection, statement)
            refused[by] += 1
            after = held(connection)
            if after != before:
                passed.append(f"{by or 'not refused'}: {label}: {sorted(set(after) - set(before))}")
                refill(connection, True)

    assert passed == []
    assert refused["trigger"] >= 200


# --- what no trigger can refuse

INTO = "UPDATE {t} SET state = 'Running' WHERE id = 5"  # row 5 is 'Deleted', and no event leads from there
BEYOND = {
    "the triggers are dropped": (["DROP TRIGGER {update}", INTO], "Running"),
    "rows are deleted": (["DELETE FROM {t} WHERE id = 5"], None),
    "a row is deleted and made again": (
        ["DELETE FROM {t} WHERE id = 5", "INSERT INTO {t} (id, state) VALUES (5, 'Running')"],
        "Running",
    ),
    "a row is replaced by one in a state to begin in": (
        ["REPLACE INTO {t} (id, state) VALUES (5, 'Running')"],
        "Running",
    ),
}
BEYOND_ON_SERVERS = {
    "the table is truncated": (["TRUNCATE {t}"], None),
    "a trigger made later assigns the state": (
        ["CREATE TRIGGER later BEFORE UPDATE ON {t} FOR EACH ROW SET NEW.state = 'Running'", "UPDATE {t} SET note = 9"],
        "Running",
    ),
    "the way through is opened by hand": (
        ["SET @fsm_permit = CONCAT(DATABASE(), '.{t}.state: Deleted > Running'), @fsm_permit_rows = 1", INTO],
        "Running",
    ),
    "the column's type is changed by a lenient session": (
        [
            "SET sql_mode = ''",
            "ALTER TABLE {t} MODIFY state ENUM('Initializing','Running','Error','Stopped') NOT NULL",
        ],
        "",
    ),
    "another table takes its name": (
        ["CREATE TABLE {t}_copy LIKE {t}", "DROP TABLE {t}", "RENAME TABLE {t}_copy TO {t}",
         "INSERT INTO {t} (id, state) VALUES (5, 'Error')"],
        "Error",
    ),
}  # fmt: skip


@pytest.fixture
def deleted(url: URL) -> Iterator[tuple[Connection, str]]:
    """A connection in AUTOCOMMIT, and a table of the test's own in which row 5 is 'Deleted'."""

    class Own(DeclarativeBase):
        pass

    class Row(Own):
        __tablename__ = "refused_beyond"

        id: Mapped[int] = mapped_column(primary_key=True)
        note: Mapped[int] = mapped_column(default=0, server_default="0")
        state: Mapped[str] = StateMachineColumn(machine, enforced=True)

    engine = make_engine(url, isolation_level="AUTOCOMMIT")
    Own.metadata.create_all(engine)
    with engine.connect() as connection:
        for statement in ("INSERT INTO refused_beyond (id) VALUES (5)", *(
            f"UPDATE refused_beyond SET state = '{state}'" for state in ("Stopped", "Deleted")
        )):  # fmt: skip
            connection.exec_driver_sql(statement)
        yield connection, trigger_name(Row.__table__.c.state, Row.state.type.rules, "update")
    Own.metadata.drop_all(engine)
    engine.dispose()


def go_beyond(connection: Connection, trigger: str, statements: list[str]) -> Any:
    table = "refused_beyond"
    assert attempt(connection, INTO.format(t=table)) == "trigger"
    for statement in statements:
        connection.exec_driver_sql(statement.format(t=table, update=trigger))
    return connection.exec_driver_sql(f"SELECT state FROM {table} WHERE id = 5").scalar()


@pytest.mark.parametrize("way", BEYOND)
def test_it_cannot_be_refused_that(deleted: tuple[Connection, str], way: str) -> None:
    statements, state = BEYOND[way]

    assert go_beyond(*deleted, statements) == state


@pytest.mark.servers_only
@pytest.mark.parametrize("way", BEYOND_ON_SERVERS)
def test_it_cannot_be_refused_on_a_server_that(deleted: tuple[Connection, str], way: str) -> None:
    statements, state = BEYOND_ON_SERVERS[way]

    assert go_beyond(*deleted, statements) == state


@pytest.mark.servers_only
def test_a_cascade_starts_no_trigger(url: URL) -> None:
    """Where the state is a foreign key, and the name of a state is changed in the table that it refers to."""
    engine = make_engine(url, isolation_level="AUTOCOMMIT")
    made = "VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin"

    class Own(DeclarativeBase):
        pass

    class Row(Own):
        __tablename__ = "refused_child"

        id: Mapped[int] = mapped_column(primary_key=True)
        state: Mapped[str] = StateMachineColumn(machine, enforced=True)

    Own.metadata.create_all(engine)
    with engine.connect() as connection:
        for statement in (
            f"CREATE TABLE refused_names (name {made} PRIMARY KEY)",
            "INSERT INTO refused_names VALUES ('Initializing')",
            f"ALTER TABLE refused_child MODIFY state {made} NOT NULL",
            "ALTER TABLE refused_child ADD FOREIGN KEY (state) REFERENCES refused_names (name) ON UPDATE CASCADE",
            "INSERT INTO refused_child (id, state) VALUES (5, 'Initializing')",
        ):
            connection.exec_driver_sql(statement)
        try:
            connection.exec_driver_sql("UPDATE refused_names SET name = 'Deleted'")
            assert connection.exec_driver_sql("SELECT state FROM refused_child").scalar() == "Deleted"
        finally:
            connection.exec_driver_sql("DROP TABLE refused_child, refused_names")
    engine.dispose()
