"""A row that somebody sits on, a pool without a connection, a server without one, and a server that turns read-only."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Engine, NullPool, create_engine, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from sqlalchemy_fsm_mysql import LockTimeout, NotWritable, fire_key, run_transaction
from tests.faults.conftest import own_server
from tests.faults.durable import Durable, Scripted
from tests.faults.ledger import Job, Move, fresh_jobs, problems
from tests.servers import execute, make_engine


@pytest.fixture
def keys(engine: Engine) -> list[int]:
    return fresh_jobs(engine, 2)


# --- what a client can do to the others


@pytest.mark.servers_only
def test_a_stalled_client_costs_a_lock_timeout_and_nothing_else(engine: Engine, keys: list[int], figures: Any) -> None:
    """It holds row 2. Row 1 and the transaction around go on, and row 2 moves when it is gone."""
    told = []
    with Session(engine) as stalled, Session(engine) as session:
        stalled.execute(select(Job).where(Job.id == 2).with_for_update())
        session.connection().exec_driver_sql("SET SESSION innodb_lock_wait_timeout = 1")
        told.append(Move.of(fire_key(Job, 1, "Ready", session)))
        began = time.monotonic()
        with pytest.raises(LockTimeout) as error:
            fire_key(Job, 2, "Ready", session)
        waited = time.monotonic() - began
        told.append(Move.of(fire_key(Job, 1, "NotReady", session)))
        session.commit()
        stalled.rollback()
        told.append(Move.of(fire_key(Job, 2, "Ready", session)))
        session.connection().exec_driver_sql("SET SESSION innodb_lock_wait_timeout = DEFAULT")
        session.commit()
    figures(waited=f"{waited:.1f} s")

    assert (error.value.code, error.value.key) == (1205, 2)
    assert 0.5 < waited < 10
    assert problems(engine, told) == []


@pytest.mark.servers_only
def test_an_exhausted_pool_moves_nothing_and_recovers(url: URL, engine: Engine, keys: list[int]) -> None:
    small = make_engine(url, pool_size=1, max_overflow=0, pool_timeout=0.2)
    factory = sessionmaker(small)
    with small.connect(), pytest.raises(PoolTimeout):  # SQLAlchemy's own: no database has been asked
        run_transaction(factory, lambda session: fire_key(Job, 1, "Ready", session))
    found = problems(engine, [])
    moved = run_transaction(factory, lambda session: fire_key(Job, 1, "Ready", session))
    small.dispose()

    assert found == []
    assert problems(engine, [Move.of(moved)]) == []


# --- what a server can do: one of its own, because others may be using the shared ones


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Durable | Scripted]:
    with own_server(request, tmp_path_factory.mktemp("limits"), "a server at its limits") as made:
        yield made


@pytest.fixture
def root(server: Durable | Scripted) -> Iterator[Engine]:
    execute(server.url, "CREATE DATABASE IF NOT EXISTS limits")
    engine = make_engine(server.url.set(drivername="mysql+pymysql", database="limits"))
    fresh_jobs(engine, 2)
    yield engine
    engine.dispose()


@pytest.fixture
def application(root: Engine) -> Iterator[Engine]:
    """A user who may not write where the server is read-only, as root may."""
    execute(root.url, "CREATE USER IF NOT EXISTS fsm_app", "GRANT SELECT, INSERT, UPDATE ON limits.* TO fsm_app")
    engine = create_engine(root.url.set(username="fsm_app"), isolation_level="READ COMMITTED", poolclass=NullPool)
    yield engine
    engine.dispose()


@pytest.mark.full
@pytest.mark.parametrize("when", ["before the fire", "before the commit"])
def test_a_server_that_becomes_read_only_in_the_middle_commits_nothing(
    root: Engine, application: Engine, when: str, tmp_path: Path
) -> None:
    def unit(session: Session) -> None:
        fire_key(Job, 1, "Ready", session)
        if when == "before the fire":
            execute(root.url, "SET GLOBAL read_only = 1")
        fire_key(Job, 2, "Ready", session)
        if when == "before the commit":
            execute(root.url, "SET GLOBAL read_only = 1")

    factory = sessionmaker(application)
    try:
        with pytest.raises(NotWritable) as error:
            run_transaction(factory, unit)
    finally:
        execute(root.url, "SET GLOBAL read_only = 0")
    found = problems(root, [])
    moved = run_transaction(factory, lambda session: fire_key(Job, 1, "Ready", session))

    assert error.value.code == 1290
    assert found == []
    assert problems(root, [Move.of(moved)]) == []


@pytest.mark.full
def test_a_server_without_a_connection_left_lets_nobody_half_in(root: Engine, application: Engine) -> None:
    """SQLAlchemy's error passes: nothing was sent, and another server may have room."""
    with root.connect() as admin:
        before = admin.exec_driver_sql("SELECT @@GLOBAL.max_connections").scalar_one()
        admin.exec_driver_sql("SET GLOBAL max_connections = 10")
        try:
            with ExitStack() as taken:
                with pytest.raises(DBAPIError) as full:
                    for _ in range(20):
                        taken.enter_context(application.connect())
                with pytest.raises(DBAPIError) as error:
                    run_transaction(sessionmaker(application), lambda session: fire_key(Job, 1, "Ready", session))
        finally:
            admin.exec_driver_sql(f"SET GLOBAL max_connections = {before}")
    found = problems(root, [])
    moved = run_transaction(sessionmaker(application), lambda session: fire_key(Job, 1, "Ready", session))

    assert (full.value.orig.args[0], error.value.orig.args[0]) == (1040, 1040)
    assert found == []
    assert problems(root, [Move.of(moved)]) == []
