"""The DDL of a state column, compiled without a server."""

from __future__ import annotations

import pytest
from sqlalchemy import Column, Integer, MetaData, Table
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.schema import CreateTable

from sqlalchemy_fsm_mysql import Event, Machine, StateMachineColumn, StateType
from tests.reference import Order

MYSQL, MARIADB = mysql.dialect(), mysql.dialect(is_mariadb=True)
STATES = "'Initializing', 'Running', 'Error', 'Stopped', 'Deleted'"
ENUM = f"ENUM({STATES.replace(', ', ',')}) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT 'Initializing'"


def ddl(table, dialect):
    return " ".join(str(CreateTable(table).compile(dialect=dialect)).split())


def own(storage="enum", machine=Order.state.type.machine, **names):
    class Base(DeclarativeBase):
        pass

    class Job(Base):
        __tablename__ = names.get("table", "jobs")
        id: Mapped[int] = mapped_column(primary_key=True)
        state: Mapped[str] = StateMachineColumn(machine, storage=storage, name=names.get("column", "state"))

    return Job.__table__


@pytest.mark.parametrize("dialect", [MYSQL, MARIADB])
def test_an_enum_is_exact_and_needs_no_check(dialect):
    created = ddl(own(), dialect)

    assert f"state {ENUM}" in created
    assert "CHECK" not in created


@pytest.mark.parametrize(
    ("dialect", "charset"),
    [
        (MYSQL, "CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin"),
        (MARIADB, "CHARACTER SET ascii COLLATE ascii_nopad_bin"),
    ],
)
def test_a_varchar_has_a_collation_that_pads_nothing_and_a_named_check(dialect, charset):
    created = ddl(own("varchar"), dialect)

    assert f"state VARCHAR(12) {charset} NOT NULL DEFAULT 'Initializing'" in created
    assert f"CONSTRAINT ck_jobs_state_states CHECK (state IN ({STATES}))" in created


@pytest.mark.parametrize("dialect", [sqlite.dialect(), postgresql.dialect()])
@pytest.mark.parametrize("storage", ["enum", "varchar"])
def test_a_database_without_enum_has_varchar_and_check_either_way(dialect, storage):
    created = ddl(own(storage), dialect)

    assert "state VARCHAR(12) DEFAULT 'Initializing' NOT NULL" in created
    assert f"CONSTRAINT ck_jobs_state_states CHECK (state IN ({STATES}))" in created


def test_the_states_keep_the_machines_order():
    machine = Machine(
        initial="b", states=["c", "b", "a"], events=[Event("Go", {("b", "c"): "a"}), Event("Back", {"a": "c"})]
    )

    assert "ENUM('c','b','a')" in ddl(own(machine=machine), MYSQL)


def test_states_are_quoted():
    machine = Machine(initial="it's", states=["it's", "a\\b"], events=[Event("Go", {"it's": "a\\b"})])

    assert r"ENUM('it''s','a\\b')" in ddl(own(machine=machine), MYSQL)
    assert "IN ('it''s', 'a\\b')" in ddl(own(machine=machine), sqlite.dialect())


def test_reserved_names_are_quoted_in_the_check():
    created = ddl(own("varchar", table="order", column="group"), MYSQL)

    assert f"CONSTRAINT ck_order_group_states CHECK (`group` IN ({STATES}))" in created


def test_the_checks_name_fits_mysql_and_stays_its_own():
    long, longer = ("x" * 40 + end for end in ("a", "b"))
    names = [
        constraint.name
        for column in (long, longer)
        for constraint in own("varchar", table="y" * 40, column=column).constraints
        if constraint.name
    ]

    assert [len(name) for name in names] == [64, 64]
    assert len(set(names)) == 2


def test_a_naming_convention_leaves_the_checks_name():
    metadata = MetaData(naming_convention={"ck": "convention_%(constraint_name)s"})
    table = Table(
        "jobs", metadata, Column("id", Integer, primary_key=True), Column("state", StateType(Order.state.type.machine))
    )

    assert "CONSTRAINT ck_jobs_state_states CHECK" in ddl(table, sqlite.dialect())


@pytest.mark.parametrize("storage", ["enum", "varchar"])
def test_a_copied_table_has_the_check_once(storage):
    copied = own(storage).to_metadata(MetaData())

    assert ddl(copied, sqlite.dialect()).count("CHECK") == 1
    assert ddl(copied, sqlite.dialect()) == ddl(own(storage), sqlite.dialect())
    assert ddl(copied, MYSQL) == ddl(own(storage), MYSQL)


def test_a_table_copied_under_another_name_has_a_check_of_its_own():
    assert "CONSTRAINT ck_others_state_states CHECK" in ddl(
        own().to_metadata(MetaData(), name="others"), sqlite.dialect()
    )
