"""Autogenerate on a server with many tables: few statements for all of them, and the same facts as table by table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from alembic.autogenerate import produce_migrations
from alembic.autogenerate.api import AutogenContext
from alembic.migration import MigrationContext
from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, event, text

from sqlalchemy_fsm_mysql import Event, Machine, StateType
from sqlalchemy_fsm_mysql.alembic.databases import place_of
from sqlalchemy_fsm_mysql.alembic.surveys import column_states, survey_of
from tests.alembic.support import drop_all

MACHINE = Machine(initial="new", events=[Event("Go", {"new": "done", "done": "new"})])


@pytest.fixture
def connection(engine) -> Iterator[Connection]:
    if engine.dialect.name == "sqlite":
        pytest.skip("the facts about SQLite's tables are read from a file of this process, one by one")
    drop_all(engine)
    with engine.connect() as connection:
        yield connection
        connection.rollback()
    drop_all(engine)


def tables(number: int, *, stateful: bool) -> MetaData:
    """Tables with an ENUM or a VARCHAR with a CHECK, half of them with triggers; or with a plain text in its place."""
    metadata = MetaData()
    for i in range(number):
        type_: Any = StateType(MACHINE, storage=("enum", "varchar")[i % 2], enforced=i % 4 < 2)
        state = Column("state", type_ if stateful else String(20), nullable=False)
        Table(f"many_{i:03d}", metadata, Column("id", Integer, primary_key=True), state)
    return metadata


@contextmanager
def counted(connection: Connection) -> Iterator[list[str]]:
    sent: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        sent.append(statement)

    event.listen(connection, "before_cursor_execute", note)
    yield sent
    event.remove(connection, "before_cursor_execute", note)


def compared(connection: Connection, metadata: MetaData) -> tuple[int, Any]:
    """The number of statements of one run of autogenerate, and what it found."""
    context = MigrationContext.configure(connection, opts={"compare_type": True, "target_metadata": metadata})
    with counted(connection) as sent:
        found = produce_migrations(context, metadata).upgrade_ops
    return len(sent), found


@pytest.mark.parametrize("number", [4, 24])
def test_autogenerate_adds_three_statements_whatever_the_number_of_tables(connection, number):
    with_states, plain = tables(number, stateful=True), tables(number, stateful=False)
    with_states.create_all(connection)
    theirs, _ = compared(connection, MetaData())
    ours, found = compared(connection, with_states)

    assert found.ops == []
    assert ours <= theirs + 3
    drop_all(connection.engine)
    plain.create_all(connection)
    assert compared(connection, plain)[0] + 3 >= ours


@pytest.mark.parametrize(
    "definition",
    [
        "ENUM('new','done') NOT NULL DEFAULT 'new'",
        "ENUM('new','done') CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT 'done' COMMENT 'it''s, \\\\'",
        "ENUM('new','done') NULL DEFAULT NULL",
        "ENUM('new','done')",
        "ENUM('it''s','a,b','x)','überfällig','已支付','100%','\"') NOT NULL DEFAULT 'it''s'",
        "ENUM('back\\\\slash','new') NOT NULL DEFAULT 'back\\\\slash'",
        "ENUM('new','done') CHARACTER SET latin1 COLLATE latin1_bin",
        "ENUM('new','done') CHARACTER SET ascii",
        "VARCHAR(10) NOT NULL",
        "VARCHAR(10) COLLATE utf8mb4_bin NOT NULL DEFAULT 'new'",
        "VARCHAR(10) NOT NULL, CONSTRAINT {check} CHECK (`state` IN ('new','done'))",
        "VARCHAR(10) NOT NULL DEFAULT 'it''s', CONSTRAINT {check} CHECK (`state` IN ('it''s','a,b'))",
        "VARCHAR(10) DEFAULT 'a\\\\b', CONSTRAINT {check} CHECK (`state` IN ('a\\\\b','c'))",
        "VARCHAR(10), CONSTRAINT `other` CHECK (`state` IN ('a','c'))",
        "VARBINARY(10) NOT NULL",
        "INT NOT NULL DEFAULT 0",
        "ENUM('a','b') AS (IF(id > 1, 'a', 'b')) STORED",
    ],
)
def test_the_facts_about_all_tables_are_those_about_each(connection, definition):
    place = place_of(connection, "one", "state", None)
    names = {one: f"`{one}`" for one in place.checks}
    for check in names.values():
        connection.execute(text("DROP TABLE IF EXISTS one"))
        connection.exec_driver_sql(
            f"CREATE TABLE one (id INT PRIMARY KEY, state {definition.format(check=check)})",
            execution_options={"no_parameters": True},
        )
        context = AutogenContext(MigrationContext.configure(connection))
        survey = survey_of(context, "one", None)

        assert survey is not None
        assert column_states(place, survey) == place.column_states()


def test_a_table_in_another_schema_is_found_there(connection):
    """The schema that a model names is translated, as in its own statements."""
    with_states = tables(1, stateful=True)
    with_states.create_all(connection)
    schema = connection.scalar(text("SELECT DATABASE()"))
    translated = connection.execution_options(schema_translate_map={"tenant": schema})

    context = AutogenContext(MigrationContext.configure(translated))

    assert survey_of(context, "many_000", "tenant").triggers("many_000") != []
    assert survey_of(context, "missing", "tenant") is None
    connection.execution_options(schema_translate_map=None)
