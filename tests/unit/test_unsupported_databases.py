"""A database that is not supported: a clear error at the first use, unless the locking read is asked for."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, create_mock_engine, select
from sqlalchemy.dialects import mysql, oracle, postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import FSMError, StateMachineColumn, TransitionHistory, fire_key, try_fire_key
from sqlalchemy_fsm_mysql.databases import LOCKING, MARIADB, MYSQL, SQLITE, database_of, database_of_dialect
from sqlalchemy_fsm_mysql.databases.rows import RowStatements
from sqlalchemy_fsm_mysql.operations.doctor import check_database
from tests.reference import machine


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)


class OrderTransition(TransitionHistory, Base):
    __tablename__ = "order_transitions"
    __records__ = "Order.state"


def elsewhere(**options):
    """An engine of SQLite behind the name of a database that is not supported, so that its statements really run."""
    engine = create_engine("sqlite://", **options)
    attributes = {"name": "elsewhere", "supports_statement_cache": True}
    engine.dialect.__class__ = type("Elsewhere", (type(engine.dialect),), attributes)
    return engine


def test_each_supported_dialect_has_its_database():
    found = [
        database_of_dialect(dialect) for dialect in (mysql.dialect(), mysql.dialect(is_mariadb=True), sqlite.dialect())
    ]

    assert found == [MYSQL, MARIADB, SQLITE]


@pytest.mark.parametrize("dialect", [postgresql.dialect(), oracle.dialect()])
def test_the_error_names_the_database_and_those_that_are_supported(dialect):
    with pytest.raises(FSMError) as refused:
        database_of_dialect(dialect)

    for part in (repr(dialect.name), "MySQL, MariaDB and SQLite", '{"fsm_backend": "locking"}'):
        assert part in str(refused.value)


def test_creating_the_table_is_refused():
    """create_mock_engine() writes DDL for a server that is not there; nothing of the table is written."""
    written = []
    engine = create_mock_engine("postgresql://", lambda statement, *_, **__: written.append(statement))

    with pytest.raises(FSMError, match="'postgresql' is not supported"):
        Base.metadata.create_all(engine, checkfirst=False)

    assert written == []


def test_firing_is_refused():
    engine = elsewhere()
    with Session(engine) as session, pytest.raises(FSMError, match="'elsewhere' is not supported"):
        fire_key(Order, 1, "Ready", session)


def test_the_doctor_refuses():
    with pytest.raises(FSMError, match="'elsewhere' is not supported"):
        check_database(Order.state, elsewhere())


def test_the_locking_read_can_be_asked_for():
    """Table, fire, refusal and history on a database that only the generic statements are known to fit."""
    engine = elsewhere(execution_options={"fsm_backend": "locking"})
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        assert database_of(session.connection()) is LOCKING
        session.add(Order(id=1))
        session.flush()
        moved, refused = fire_key(Order, 1, "Stop", session), try_fire_key(Order, 1, "Ready", session)
        recorded = session.execute(select(OrderTransition.sequence, OrderTransition.target)).all()

    assert (moved.target, refused.state, recorded) == ("Stopped", "Stopped", [(1, "Stopped")])


def test_the_locking_read_keeps_the_types_and_the_triggers_of_a_supported_database():
    engine = create_engine("sqlite://", execution_options={"fsm_backend": "locking"})
    with engine.connect() as connection:
        chosen = database_of(connection)

    assert (chosen.enforcer, chosen.types, chosen.transactions) == (SQLITE.enforcer, SQLITE.types, SQLITE.transactions)
    assert (type(chosen.rows), chosen.upsert) == (RowStatements, None)


def test_an_unknown_backend_is_refused():
    engine = create_engine("sqlite://", execution_options={"fsm_backend": "oracle"})
    with (
        engine.connect() as connection,
        pytest.raises(ValueError, match="names no backend; there are 'locking', 'mysql'"),
    ):
        database_of(connection)
