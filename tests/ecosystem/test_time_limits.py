"""The time limits of real workers, on an event that waits for a row's lock: nothing moves, and the next job is well.

docs/recipes/celery.md and docs/recipes/dramatiq-rq.md say what each does. The workers are the libraries' own: Celery's
process pool, dramatiq's threads, RQ's worker with a timer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, MetaData, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from sqlalchemy_fsm_mysql import Event, Machine, Stateful, StateMachineColumn, fire_key, run_transaction

pytestmark = pytest.mark.servers_only

PROJECT = Path(__file__).parents[2]
SHORT_LOCK_WAIT = {"init_command": "SET SESSION innodb_lock_wait_timeout = 2"}


class Base(DeclarativeBase):
    pass


class Order(Stateful, Base):
    __tablename__ = "limited_orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(Machine(initial="new", events=[Event("Pay", {"new": "paid"})]))


def pay(engine: Engine, key: int) -> str:
    return str(run_transaction(sessionmaker(engine), lambda session: fire_key(Order, key, "Pay", session)).target)


@pytest.fixture
def orders(engine: Engine, tables: Callable[[MetaData], None]) -> Iterator[Session]:
    """Two new orders, the first of them locked by this session."""
    tables(Base.metadata)
    with Session(engine) as session:
        session.add_all([Order(id=1), Order(id=2)])
        session.commit()
        fire_key(Order, 1, "Pay", session)
        yield session


@pytest.fixture
def workers(engine: Engine) -> Iterator[Engine]:
    """The engine of a worker: one connection, so that the second job has that of the first."""
    own = create_engine(
        engine.url, isolation_level="READ COMMITTED", connect_args=SHORT_LOCK_WAIT, pool_size=1, max_overflow=0
    )
    yield own
    own.dispose()


def states(session: Session) -> list[str]:
    session.rollback()
    return [order.state for order in session.query(Order).order_by(Order.id)]


CELERY = """
import os
from celery import Celery
from celery.signals import worker_process_init
from sqlalchemy import create_engine
from tests.ecosystem.test_time_limits import pay

engine = create_engine(
    os.environ["URL"], isolation_level="READ COMMITTED",
    connect_args={"init_command": "SET SESSION innodb_lock_wait_timeout = 20"}, pool_size=1, max_overflow=0,
)
app = Celery("limits", broker="filesystem://", backend="file://" + os.environ["FOLDER"] + "/results")
app.conf.broker_transport_options = {
    name: os.environ["FOLDER"] + "/queue"
    for name in ("data_folder_in", "data_folder_out", "control_folder", "processed_folder")
}
app.conf.worker_prefetch_multiplier = 1

@worker_process_init.connect
def fresh(**_):
    engine.dispose(close=False)

@app.task(soft_time_limit=1, time_limit=15)
def pay_order(key):
    return pay(engine, key)
"""


def test_a_soft_time_limit_of_celery_ends_the_wait_for_a_lock(orders: Session, engine: Engine, tmp_path: Path) -> None:
    pytest.importorskip("celery")
    (tmp_path / "limits.py").write_text(CELERY)
    for folder in ("queue", "results"):
        (tmp_path / folder).mkdir()
    environment = {
        **os.environ,
        "URL": engine.url.render_as_string(hide_password=False),
        "FOLDER": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(PROJECT)]),
    }
    client = (
        "import json, time; from limits import pay_order; begin = time.monotonic();"
        "jobs = [pay_order.delay(key) for key in (1, 2)];"
        "said = [job.get(timeout=40, propagate=False) for job in jobs];"
        "print(json.dumps([[str(type(one).__name__), str(one)] for one in said]))"
    )
    command = [sys.executable, "-m", "celery", "-A", "limits", "worker", "--concurrency=1", "--loglevel=WARNING"]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log) as worker,
    ):
        try:
            done = subprocess.run(
                [sys.executable, "-c", client],
                check=False,
                env=environment,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=60,
            )
        finally:
            worker.terminate()
            worker.wait(timeout=30)
    assert done.returncode == 0, done.stderr + (tmp_path / "log").read_text()
    first, second = json.loads(done.stdout)

    assert first[0] == "SoftTimeLimitExceeded"
    assert second == ["str", "paid"]
    assert states(orders) == ["new", "paid"]


def test_a_time_limit_of_dramatiq_is_raised_when_the_driver_returns(orders: Session, workers: Engine) -> None:
    dramatiq = pytest.importorskip("dramatiq")
    from dramatiq.brokers.stub import StubBroker
    from dramatiq.middleware import TimeLimit

    broker = StubBroker(middleware=[TimeLimit(interval=100)])
    ended: list[Any] = []

    def job(key: int) -> None:
        try:
            ended.append(pay(workers, key))
        except BaseException as error:
            ended.append(type(error).__name__)
            raise

    actor = dramatiq.actor(job, broker=broker, time_limit=500)
    worker = dramatiq.Worker(broker, worker_timeout=100, worker_threads=1)
    broker.emit_after("process_boot")  # as dramatiq's command does: it starts the timer
    worker.start()
    try:
        begin = time.monotonic()
        for key in (1, 2):
            actor.send(key)
        broker.join(actor.queue_name)
        worker.join()
    finally:
        worker.stop()
        broker.close()

    assert 1.5 < time.monotonic() - begin < 20
    assert ended == ["TimeLimitExceeded", "paid"]
    assert states(orders) == ["new", "paid"]


def test_a_job_timeout_of_rq_leaves_no_answer_for_the_next_job(
    orders: Session, workers: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rq")
    fakeredis = pytest.importorskip("fakeredis")
    from rq import Queue, SimpleWorker

    monkeypatch.setattr(sys.modules[__name__], "RQ_ENGINE", workers, raising=False)
    redis = fakeredis.FakeStrictRedis()
    queue = Queue(connection=redis)
    jobs = [queue.enqueue(f"{__name__}.rq_job", key, job_timeout=1) for key in (1, 2)]
    begin = time.monotonic()

    SimpleWorker([queue], connection=redis).work(burst=True)

    assert time.monotonic() - begin < 10
    assert jobs[0].is_failed
    assert "JobTimeoutException" in jobs[0].latest_result().exc_string
    assert jobs[1].return_value() == "paid"
    assert states(orders) == ["new", "paid"]


def rq_job(key: int) -> str:
    engine: Engine = vars(sys.modules[__name__])["RQ_ENGINE"]
    return pay(engine, key)
