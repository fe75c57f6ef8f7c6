"""A session that sends reads to a replica: what decides a write is read where the row is written."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Delete, Engine, ForeignKey, String, Update, create_engine, event, insert, select, true, update
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, with_loader_criteria
from sqlalchemy.pool import StaticPool

from sqlalchemy_fsm_mysql import (
    Event,
    FireError,
    Machine,
    Moved,
    Refused,
    StateMachineColumn,
    TransitionHistory,
    claim,
    fire_key,
    fire_or_create,
    fire_where,
    force_state,
    try_fire_key,
)
from tests.bridge import unbridged

machine = Machine(
    initial="queued",
    events=[
        Event("Start", {"queued": "running"}),
        Event("Finish", {"running": "done"}),
        Event("Cancel", {("queued", "running"): "cancelled"}),
        Event("StartN", {"queued": "running"}, effect=lambda job: {"n": job.n + 1}),
    ],
)


class Base(DeclarativeBase):
    pass


class Queue(Base):
    __tablename__ = "routed_queues"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(20))


class Job(Base):
    __tablename__ = "routed_jobs"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    n: Mapped[int] = mapped_column(default=0)
    tenant: Mapped[int] = mapped_column(default=1)
    queue_id: Mapped[int] = mapped_column(ForeignKey(Queue.id), default=1)
    queue: Mapped[Queue] = relationship(lazy="joined")
    state: Mapped[str] = StateMachineColumn(machine)


class Recorded(Base):
    __tablename__ = "routed_recorded"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    tenant: Mapped[int] = mapped_column(default=1)
    n: Mapped[int] = mapped_column(default=0)
    queue_id: Mapped[int] = mapped_column(ForeignKey(Queue.id), default=1)
    queue: Mapped[Queue] = relationship(lazy="selectin")
    state: Mapped[str] = StateMachineColumn(machine)


class RecordedStep(TransitionHistory, Base):
    __tablename__ = "routed_steps"
    __records__ = Recorded.state


class Routing(Session):
    """SQLAlchemy's recipe, "Custom Vertical Partitioning"."""

    primary: Engine
    replica: Engine

    def get_bind(self, mapper: Any = None, clause: Any = None, **options: Any) -> Any:
        is_write = self._flushing or isinstance(clause, (Update, Delete))
        return self.primary if is_write else self.replica


MODELS = [Job, Recorded]


@pytest.fixture
def routing(backend_engine: Engine, tables: None) -> Iterator[type[Routing]]:
    """A class of sessions whose replica is another database, in which every job is queued still."""
    replica = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    Base.metadata.create_all(replica)
    for engine, state, name in ((backend_engine, "done", "primary"), (replica, "queued", "replica")):
        with engine.begin() as connection:
            connection.execute(insert(Queue).values(id=1, name=name))
            for model in MODELS:
                connection.execute(insert(model), [{"id": i, "state": state} for i in (1, 2)])
                connection.execute(update(model).where(model.id == 2).values(state="queued"))

    class Routed(Routing):
        primary = backend_engine

    Routed.replica = replica
    yield Routed
    replica.dispose()
    with backend_engine.begin() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(table.delete())


@pytest.fixture(params=["plain", "filtered"])
def session(request: pytest.FixtureRequest, routing: type[Routing]) -> Iterator[Session]:
    """A session that routes, and one that also has a listener that adds criteria."""
    with routing() as session:
        if request.param == "filtered":

            @event.listens_for(session, "do_orm_execute")
            def of_tenant(state: Any) -> None:
                if state.is_select:
                    options = [with_loader_criteria(model, model.tenant == 1) for model in MODELS]
                    state.statement = state.statement.options(*options)

        yield session


def states(session: Any, model: Any) -> dict[int, str]:
    """What the primary holds."""
    with Session(session.primary) as reading:
        return {key: state for key, state in reading.execute(select(model.id, model.state))}  # noqa: C416 - rows, no pairs


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", ["Start", "StartN"])
def test_a_job_that_is_done_is_not_claimed_again(session: Any, model: Any, name: str) -> None:
    """The instance, and what is loaded along with it, are of the primary."""
    jobs = claim(model, name, session, limit=5)

    assert [(job.id, job.state, job.queue.name) for job in jobs] == [(2, "running", "primary")]
    session.commit()
    assert states(session, model) == {1: "done", 2: "running"}


@pytest.mark.parametrize("model", MODELS)
def test_two_workers_never_claim_the_same_job(session: Any, routing: type[Routing], model: Any) -> None:
    assert [job.id for job in claim(model, "Start", session, limit=1)] == [2]
    session.commit()
    with routing() as other:
        assert claim(model, "Start", other, limit=1) == []


SETS: dict[str, Callable[[Session, Any], int]] = {
    "at once": lambda session, model: fire_where(model, "Cancel", session, true()).moved,
    "in batches": lambda session, model: fire_where(model, "Cancel", session, true(), batch_size=1).moved,
    "at most": lambda session, model: fire_where(model, "Cancel", session, true(), max_rows=1).moved,
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("way", SETS)
def test_a_set_moves_the_rows_that_the_primary_has(session: Any, model: Any, way: str) -> None:
    assert SETS[way](session, model) == 1
    session.commit()
    assert states(session, model) == {1: "done", 2: "cancelled"}


@pytest.mark.parametrize("model", MODELS)
def test_one_row_is_judged_by_the_primary(session: Any, model: Any) -> None:
    """Also where the session holds the replica's instance."""
    held = session.get_one(model, 1)
    assert held.state == "queued"
    refused = try_fire_key(model, 1, "Start", session)

    assert isinstance(refused, Refused)
    assert (refused.state, held.state) == ("done", "done")
    assert fire_or_create(model(id=2), "Start", session).created is False
    assert force_state(held, "queued", session).source == "done"
    assert fire_key(model, 1, "Start", session).target == "running"
    session.commit()
    assert states(session, model) == {1: "running", 2: "running"}


def test_a_row_that_only_the_primary_has_is_visible(session: Any) -> None:
    with Session(session.primary) as other:
        other.add(Job(id=3))
        other.commit()

    assert fire_key(Job, 3, "Start", session).target == "running"


@pytest.mark.servers_only
def test_an_async_session_that_routes_claims_from_the_primary(
    routing: type[Routing], asyncio_url: Any, tmp_path: Path
) -> None:
    if asyncio_url.port != routing.primary.url.port:
        pytest.skip("another server")

    async def run() -> list[Any]:
        primary = create_async_engine(asyncio_url.set(database=routing.primary.url.database))
        routing.primary = primary.sync_engine
        try:
            async with AsyncSession(sync_session_class=routing) as session:
                jobs = await claim(Job, "StartN", session, limit=5)
                found = [(job.id, job.n, job.queue.name) for job in jobs]
                await session.commit()
                return found
        finally:
            await primary.dispose()

    assert unbridged(asyncio.run, run()) == [(2, 1, "primary")]


@pytest.mark.parametrize("model", MODELS)
def test_rows_that_are_not_in_their_source_when_they_are_moved_are_an_error(
    routing: type[Routing], monkeypatch: pytest.MonkeyPatch, model: Any
) -> None:
    """Whatever let the two reads differ: nothing of it can be committed."""
    from contextlib import nullcontext

    from sqlalchemy_fsm_mysql.orm.sessions import Writer

    monkeypatch.setattr(Writer, "reading", lambda self, connection: nullcontext())
    with routing() as session:
        event.listen(
            session, "do_orm_execute", lambda state: None
        )  # without a listener, the session takes no part in the SELECT
        with pytest.raises(FireError, match="locked 2 rows in a source state, and found 1 of them there"):
            claim(model, "Start", session, limit=5)
        with pytest.raises(Exception, match="rolled back|inactive|closed"):
            session.commit()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SQLite in memory: its transaction has been rolled back already
            session.rollback()

        assert states(session, model) == {1: "done", 2: "queued"}
        assert isinstance(fire_key(model, 2, "Start", session), Moved)
