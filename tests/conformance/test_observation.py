"""The log's lines, and OpenTelemetry's spans and metrics, of what is done on real rows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import URL, delete
from sqlalchemy.orm import Session, sessionmaker

from sqlalchemy_fsm_mysql import (
    FSMError,
    TransactionAborted,
    claim,
    fire_key,
    fire_or_create,
    fire_where,
    force_state,
    on_moved,
    remove_hook,
    run_transaction,
    try_fire_key,
)
from sqlalchemy_fsm_mysql.observation import Attempt, is_watched, observe, otel, stop_observing
from tests.conformance.history_models import Order, OrderTransition, Payment, Plain

SECRET = 314159

# Unless every driver is asked for.
ONE_DRIVER = True


@pytest.fixture(scope="module", params=["own"])
def backend(request: pytest.FixtureRequest) -> str:
    """What is told does not depend on the backend."""
    return str(request.param)


@pytest.fixture
def session(mine: Session) -> Session:
    """Nothing is committed; what other modules left is deleted for this transaction."""
    for model in (Order, OrderTransition, Payment, Plain):
        mine.execute(delete(model))
    mine.add_all([Order(id=1), Order(id=2), Order(id=3, state="Deleted")])
    mine.flush()
    return mine


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG, logger="sqlalchemy_fsm_mysql"):
        yield caplog


def lines(log: pytest.LogCaptureFixture) -> list[tuple[str, str, str]]:
    return [(record.name, record.levelname, record.getMessage()) for record in log.records]


# --- the log


def test_a_move_is_one_line_at_debug(session: Session, log: Any) -> None:
    fire_key(Order, 1, "Ready", session)

    table = Order.__table__.name
    assert lines(log) == [
        ("sqlalchemy_fsm_mysql", "DEBUG", f"{table} 1, fire 'Ready': 'Initializing' to 'Running'"),
    ]
    (record,) = log.records
    assert (record.fsm_model, record.fsm_key, record.fsm_event) == ("Order", 1, "Ready")
    assert (record.fsm_outcome, record.fsm_rows) == ("moved", 1)
    assert (record.fsm_source, record.fsm_target) == ("Initializing", "Running")


def test_a_refusal_is_one_line_at_info_which_says_what_the_error_says(session: Session, log: Any) -> None:
    with pytest.raises(FSMError) as refused:
        fire_key(Order, 3, "Ready", session)
    try_fire_key(Order, 3, "Ready", session)

    assert lines(log) == [("sqlalchemy_fsm_mysql", "INFO", str(refused.value))] * 2
    assert {record.fsm_outcome for record in log.records} == {"refused"}


def test_a_missing_row_is_one_line_at_info(session: Session, log: Any) -> None:
    with pytest.raises(FSMError) as missing:
        fire_key(Order, 99, "Ready", session)

    assert lines(log) == [("sqlalchemy_fsm_mysql", "INFO", str(missing.value))]
    assert log.records[0].fsm_outcome == "RowNotFound"


def test_sets_claims_forced_and_replayed_moves_are_one_line_each(session: Session, log: Any) -> None:
    fire_where(Order, "Ready", session, Order.id < 3)
    claim(Order, "Stop", session, limit=1, order_by=Order.id)
    force_state(session.get_one(Order, 2), "Error", session)
    fire_key(Order, 2, "Ready", session, token="secret-token")
    fire_key(Order, 2, "Ready", session, token="secret-token")
    fire_or_create(Order(id=7), "Ready", session)

    table = Order.__table__.name
    assert [message for _, level, message in lines(log) if level == "DEBUG"] == [
        f"{table}, fire_where 'Ready': 2 rows ('Initializing' to 'Running' × 2)",
        f"{table}, claim 'Stop': 1 row ('Running' to 'Stopped' × 1)",
        f"{table} 2, force_state 'force_state': 'Running' to 'Error'",
        f"{table} 2, fire 'Ready': 'Error' to 'Running'",
        f"{table} 2, fire 'Ready': 'Error' to 'Running', replayed: an earlier fire with this token did it",
        f"{table} 7, fire 'Ready': 'Initializing' to 'Running'",
    ]
    assert "secret" not in log.text


class JsonOnce(dict[str, Any]):
    """Details that are JSON when they are checked, and none when they are bound: SQLAlchemy's message quotes them."""

    is_used = False

    def items(self) -> Any:
        if self.is_used:
            raise TypeError("no JSON any more")
        self.is_used = True
        return super().items()


def test_no_value_of_a_payload_is_in_a_line(session: Session, log: Any) -> None:
    session.add(Payment(id=1, total=SECRET + 1))
    session.flush()
    log.clear()
    fire_key(Payment, 1, "Refund", session, amount=SECRET, actor=None, details={"card": SECRET})
    try_fire_key(Payment, 1, "Refund", session, amount=SECRET)
    with suppress(Exception):
        fire_key(Order, 1, "Ready", session, details=JsonOnce(card=SECRET))

    assert len(log.records) == 3
    told = log.text + "".join(str(vars(record)) for record in log.records)
    assert str(SECRET) not in told


def test_nothing_is_done_for_nobody() -> None:
    logger = logging.getLogger("sqlalchemy_fsm_mysql")
    assert not is_watched()
    logger.setLevel(logging.INFO)
    try:
        assert is_watched()
    finally:
        logger.setLevel(logging.NOTSET)


# --- OpenTelemetry


class Told:
    """What the exporters got."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])

    @property
    def spans(self) -> list[Any]:
        return list(self.exporter.get_finished_spans())

    def metric(self, name: str) -> dict[frozenset[Any], Any]:
        data = self.reader.get_metrics_data()
        assert data is not None
        metrics = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics if m.name == name]
        return {frozenset(p.attributes.items()): p for m in metrics for p in m.data.data_points}

    def sums(self, name: str, *by: str) -> dict[tuple[Any, ...], int]:
        return {
            tuple(dict(attributes).get(f"fsm.{part}") for part in by): point.value
            for attributes, point in self.metric(name).items()
        }


@pytest.fixture
def told() -> Iterator[Told]:
    told = Told()
    otel.instrument(tracer_provider=told.tracers, meter_provider=told.meters)
    otel.instrument()  # does nothing
    yield told
    otel.uninstrument()
    otel.uninstrument()


def test_spans_and_counters_of_a_fire(session: Session, told: Told) -> None:
    fire_key(Order, 1, "Ready", session)
    try_fire_key(Order, 3, "Ready", session)
    with pytest.raises(FSMError):
        fire_key(Order, 99, "Ready", session)

    assert [span.name for span in told.spans] == ["fire Ready"] * 3
    moved, refused, missing = (dict(span.attributes) for span in told.spans)
    assert moved == {
        "fsm.operation": "fire",
        "fsm.model": "Order",
        "fsm.event": "Ready",
        "fsm.key": "1",
        "fsm.outcome": "moved",
        "fsm.source": "Initializing",
        "fsm.target": "Running",
        "fsm.rows": 1,
    }
    assert (refused["fsm.outcome"], refused["fsm.source"]) == ("refused", "Deleted")
    assert missing["fsm.outcome"] == "RowNotFound"
    assert all(span.status.is_unset for span in told.spans)
    assert told.sums("fsm.fires", "event", "outcome", "source", "target") == {
        ("Ready", "moved", "Initializing", "Running"): 1,
        ("Ready", "refused", "Deleted", None): 1,
        ("Ready", "RowNotFound", None, None): 1,
    }
    assert told.sums("fsm.rows", "source", "target") == {("Initializing", "Running"): 1}
    durations = told.metric("fsm.fire.duration")
    assert sum(point.count for point in durations.values()) == 3
    assert all(0 < point.sum < 60 for point in durations.values())


def test_a_set_counts_its_rows(session: Session, told: Told) -> None:
    fire_where(Order, "Stop", session, Order.id < 3)
    claim(Order, "Stop", session, limit=5)

    assert [(span.name, span.attributes["fsm.rows"]) for span in told.spans] == [
        ("fire_where Stop", 2),
        ("claim Stop", 2),
    ]
    assert told.sums("fsm.rows", "operation", "source", "target") == {
        ("fire_where", "Initializing", "Stopped"): 2,
        ("claim", "Stopped", "Stopped"): 2,
    }


def test_keys_are_in_no_metric(session: Session, told: Told) -> None:
    fire_key(Order, 1, "Ready", session)

    names = {
        key
        for name in ("fsm.fires", "fsm.rows", "fsm.fire.duration")
        for point in told.metric(name)
        for key, _ in point
    }
    assert "fsm.key" not in names
    assert "fsm.event" in names


def test_an_error_marks_the_span_and_quotes_no_value(session: Session, told: Told) -> None:
    with pytest.raises(TypeError):
        fire_key(Order, 1, "Ready", session, details=JsonOnce(card=SECRET))

    (span,) = told.spans
    assert span.status.status_code is trace.StatusCode.ERROR
    assert span.events[0].name == "exception"
    assert str(SECRET) not in span.to_json()


def test_a_fires_span_is_the_parent_of_what_happens_within(session: Session, told: Told) -> None:
    tracer = trace.get_tracer("of the application", tracer_provider=told.tracers)

    @on_moved(Order.state, event="Ready")
    def within(moved: Any, session: Session) -> None:
        tracer.start_span("within").end()

    try:
        with tracer.start_as_current_span("around"):
            fire_key(Order, 1, "Ready", session)
    finally:
        remove_hook(Order.state, within)

    within_, fired, around = told.spans
    assert within_.parent.span_id == fired.context.span_id
    assert fired.parent.span_id == around.context.span_id


def test_async_fires_keep_their_parents_apart(asyncio_url: URL, told: Told) -> None:
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    tracer = trace.get_tracer("of the application", tracer_provider=told.tracers)

    async def one(engine: Any, key: int) -> None:
        async with AsyncSession(engine) as session:
            with tracer.start_as_current_span(f"around {key}"):
                await asyncio.sleep(0)
                await fire_key(Plain, key, "Ready", session)
            await session.rollback()

    async def main() -> None:
        engine = create_async_engine(asyncio_url)
        async with engine.begin() as connection:
            await connection.run_sync(Plain.__table__.drop, checkfirst=True)
            await connection.run_sync(Plain.__table__.create)
        async with AsyncSession(engine) as session:
            session.add_all([Plain(id=key) for key in range(1, 4)])
            await session.commit()
        await asyncio.gather(*(one(engine, key) for key in range(1, 4)))
        async with engine.begin() as connection:
            await connection.run_sync(Plain.__table__.drop)
        await engine.dispose()

    asyncio.run(main())
    spans = {span.context.span_id: span for span in told.spans}
    fired = [span for span in spans.values() if span.name == "fire Ready"]
    assert sorted((span.attributes["fsm.key"], spans[span.parent.span_id].name) for span in fired) == [
        (str(key), f"around {key}") for key in range(1, 4)
    ]


def test_retries_of_a_unit_are_counted_by_staminas_hook(database: Any, told: Told) -> None:
    import stamina

    before = stamina.instrumentation.get_on_retry_hooks()
    stamina.instrumentation.set_on_retry_hooks([otel.count_retry])
    failures = [TransactionAborted(code=1213, retryable=True)] * 2

    def unlucky(session: Session) -> str:
        if failures:
            raise failures.pop()
        return "done"

    try:
        assert run_transaction(sessionmaker(database), unlucky) == "done"
    finally:
        stamina.instrumentation.set_on_retry_hooks(before)
    ((attributes, point),) = told.metric("fsm.retries").items()
    assert dict(attributes)["fsm.work"].endswith("unlucky")
    assert point.value == 2


# --- observers


def test_an_observer_sees_each_attempt_and_can_be_taken_back(session: Session) -> None:
    seen: list[tuple[str, str]] = []

    @observe
    @contextmanager
    def look(attempt: Attempt) -> Iterator[None]:
        seen.append(("before", attempt.event))
        yield
        seen.append((attempt.outcome, attempt.event))

    try:
        fire_key(Order, 1, "Ready", session)
        try_fire_key(Order, 3, "Ready", session)
    finally:
        stop_observing(look)
    fire_key(Order, 1, "Stop", session)

    assert seen == [("before", "Ready"), ("moved", "Ready"), ("before", "Ready"), ("refused", "Ready")]
