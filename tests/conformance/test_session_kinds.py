"""The ways in which people set up sessions and models, each of which an event has to fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.horizontal_shard import ShardedSession
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from sqlalchemy_fsm_mysql import RowNotFound, TransitionNotAllowed, fire_key, try_fire_key
from tests.conformance.session_models import Base, Camera, Device, Job, Order, Printer
from tests.conformance.session_support import create, stored

# --- sessions


def test_a_session_joins_the_connections_transaction_by_a_savepoint(database: Engine) -> None:
    """As test suites do: the session commits, and the transaction around it is rolled back."""
    key = create(database, Order)
    with database.connect() as connection:
        around = connection.begin()
        connection.execute(Order.__table__.update().where(Order.__table__.c.id == key).values(note="around"))
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            order = session.get(Order, key)
            order.fire("Ready", session)
            session.commit()
            order.fire("Stop", session)
            session.rollback()

            assert order.state == "Running"
        around.rollback()

    assert stored(database, Order, key) == "Initializing"


def test_a_scoped_session_is_a_session(database: Engine) -> None:
    key = create(database, Order)
    sessions = scoped_session(sessionmaker(database))
    fire_key(Order, key, "Ready", sessions)
    sessions.get(Order, key).fire("Stop", sessions)
    sessions.commit()
    sessions.remove()

    assert stored(database, Order, key) == "Stopped"


def test_without_autobegin_an_event_begins_nothing(database: Engine) -> None:
    key = create(database, Order)
    with (
        sessionmaker(database, autobegin=False)() as session,
        pytest.raises(InvalidRequestError, match=r"[Aa]utobegin"),
    ):
        fire_key(Order, key, "Ready", session)

    assert stored(database, Order, key) == "Initializing"


def test_without_autobegin_an_event_is_fired_in_the_transaction_begun(database: Engine) -> None:
    key = create(database, Order)
    with sessionmaker(database, autobegin=False)() as session, session.begin():
        fire_key(Order, key, "Ready", session)

    assert stored(database, Order, key) == "Running"


class Routing(Session):
    """Reads here, writes there: the documented recipe, with no more arguments than it needs."""

    readers: list[Any]
    writer: Engine

    def get_bind(self, mapper: Any = None, clause: Any = None) -> Any:  # type: ignore[override]
        is_write = self._flushing or getattr(clause, "is_dml", False)
        if not is_write:
            self.readers.append(clause)
        return self.writer


def test_a_routing_session_sends_an_event_to_the_writer(database: Engine) -> None:
    key = create(database, Order)
    with Routing() as session:
        session.readers, session.writer = [], database
        fire_key(Order, key, "Ready", session)
        assert session.readers == []
        session.commit()

    assert stored(database, Order, key) == "Running"


def test_a_session_with_binds_per_class_uses_the_models(database: Engine) -> None:
    key = create(database, Order)
    with Session(binds={Order: database}) as session:
        session.get(Order, key).fire("Ready", session)
        session.commit()

    assert stored(database, Order, key) == "Running"


def test_a_session_of_a_connection_fires_in_its_transaction(database: Engine) -> None:
    key = create(database, Order)
    with database.connect() as connection, Session(connection) as session:
        assert isinstance(session.get_bind(), Connection)
        fire_key(Order, key, "Ready", session)
        session.commit()

    assert stored(database, Order, key) == "Running"


def test_a_sharded_session_fires_in_the_instances_shard(tmp_path: Path) -> None:
    shards = {name: create_engine(f"sqlite:///{tmp_path / name}") for name in ("odd", "even")}
    for engine in shards.values():
        Base.metadata.create_all(engine)
    with ShardedSession(
        shards=shards,
        shard_chooser=lambda mapper, instance, clause=None: "odd" if instance.id % 2 else "even",
        identity_chooser=lambda mapper, key, **context: ["odd" if key[0] % 2 else "even"],
        execute_chooser=lambda context: list(shards),
    ) as session:
        session.add_all([Order(id=1), Order(id=2)])
        session.flush()
        for key, event in ((1, "Ready"), (2, "Stop")):
            session.get_one(Order, key).fire(event, session)
        session.commit()

    assert (stored(shards["odd"], Order, 1), stored(shards["even"], Order, 2)) == ("Running", "Stopped")
    for engine in shards.values():
        engine.dispose()


# --- two machines, a key of two parts


@pytest.fixture
def job(mine: Session, database: Engine) -> Job:
    return mine.get_one(Job, create(database, Job, tenant="acme"))


def test_each_machine_of_a_row_moves_for_itself(mine: Session, database: Engine, job: Job) -> None:
    job.fire("Ready", mine)
    job.fire("Approve", mine)
    mine.commit()

    assert stored(database, Job, ("acme", job.number), "state", "review") == ("Running", "Approved")


def test_an_event_of_both_machines_moves_the_one_that_is_named(mine: Session, database: Engine, job: Job) -> None:
    job.fire("Stop", mine, column="review")
    mine.commit()

    assert stored(database, Job, ("acme", job.number), "state", "review") == ("Initializing", "Dropped")


def test_an_event_of_both_machines_is_not_guessed(mine: Session, job: Job) -> None:
    with pytest.raises(TypeError, match="2 machines of Job have the event 'Stop'"):
        job.fire("Stop", mine)


def test_a_refusal_on_a_row_of_two_machines_names_the_one_asked(mine: Session, job: Job) -> None:
    job.fire("Approve", mine)

    with pytest.raises(TransitionNotAllowed) as refused:
        job.fire("Stop", mine, column=Job.review)

    assert (refused.value.state, refused.value.allowed_from) == ("Approved", ["Asked"])


@pytest.mark.parametrize(
    "shape", [tuple, list, lambda key: dict(zip(("number", "tenant"), reversed(key), strict=True))]
)
def test_a_key_of_two_parts_is_a_tuple_or_a_mapping(mine: Session, job: Job, shape: Any) -> None:
    moved = fire_key(Job, shape((job.tenant, job.number)), "Ready", mine)

    assert (("acme", job.number), "Running") == (moved.key, job.state)


def test_one_part_of_the_key_is_not_enough(mine: Session, database: Engine, job: Job) -> None:
    create(database, Job, tenant="other", number=job.number)
    fire_key(Job, ("acme", job.number), "Ready", mine)
    mine.commit()

    assert stored(database, Job, ("other", job.number)) == "Initializing"


# --- inheritance


@pytest.mark.parametrize("model", [Device, Camera, Printer])
def test_a_machine_of_the_base_moves_every_subclass(mine: Session, database: Engine, model: Any) -> None:
    key = create(database, model)
    mine.get(model, key).fire("Ready", mine)
    fire_key(model, key, "NotReady", mine)
    mine.commit()

    assert stored(database, model, key) == "Error"


@pytest.mark.parametrize("model", [Camera, Printer])
def test_a_subclass_is_fired_by_the_key_of_its_base(mine: Session, database: Engine, model: Any) -> None:
    device = mine.get(model, create(database, model))

    fire_key(Device, device.id, "Ready", mine)

    assert device.state == "Running"


@pytest.mark.parametrize("model", [Device, Printer])
def test_a_row_of_another_class_is_not_found(mine: Session, database: Engine, model: Any) -> None:
    key = create(database, model)

    with pytest.raises(RowNotFound):
        fire_key(Camera, key, "Ready", mine)

    assert stored(database, model, key) == "Initializing"


def test_a_machine_of_a_joined_subclass_moves_its_own_table(mine: Session, database: Engine) -> None:
    printer = mine.get(Printer, create(database, Printer))
    printer.fire("Print", mine)
    printer.fire("Ready", mine)
    mine.commit()

    assert stored(database, Printer, printer.id, "tray", "state") == ("Empty", "Running")


def test_a_subclass_column_that_every_update_changes_is_read_again(mine: Session, database: Engine) -> None:
    camera = mine.get(Camera, create(database, Camera))
    before = camera.shots
    fire_key(Device, camera.id, "Ready", mine)
    shown = camera.shots
    mine.commit()

    assert before != shown
    assert stored(database, Camera, camera.id, "shots") == shown


# --- servers that bend values


@pytest.mark.servers_only
@pytest.mark.parametrize("mode", ["", "STRICT_ALL_TABLES,ANSI_QUOTES", "NO_BACKSLASH_ESCAPES"])
def test_an_event_is_the_same_in_every_sql_mode(mine: Session, database: Engine, mode: str) -> None:
    order = mine.get(Order, create(database, Order))
    mine.connection().exec_driver_sql(f"SET SESSION sql_mode = '{mode}'")

    assert order.fire("Stop", mine).target == "Stopped"
    refused = try_fire_key(Order, order.id, "Ready", mine)
    mine.connection().exec_driver_sql("SET SESSION sql_mode = DEFAULT")
    mine.commit()

    assert (refused.state, stored(database, Order, order.id)) == ("Stopped", "Stopped")
