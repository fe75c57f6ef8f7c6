"""OpenTelemetry: a span for each fire, and counters; needs the extra ``otel``, and one call at start-up::

    from sqlalchemy_fsm_mysql.observation import otel

    otel.instrument()

Spans are named by operation and event, such as ``fire Stop``. They are the parents of the spans of statements that
SQLAlchemy's own instrumentation makes. The metrics:

``fsm.fires``
    the number of fired events, by ``fsm.model``, ``fsm.operation``, ``fsm.event`` and ``fsm.outcome``; of one row also
    by ``fsm.source`` and ``fsm.target``.
``fsm.rows``
    the number of moved rows, by ``fsm.model``, ``fsm.operation``, ``fsm.event``, ``fsm.source`` and ``fsm.target``.
``fsm.fire.duration``
    seconds, as a histogram, by ``fsm.model``, ``fsm.operation``, ``fsm.event`` and ``fsm.outcome``.
``fsm.retries``
    the number of repetitions of units of work, by ``fsm.work``, where :func:`count_retry` is one of stamina's hooks.

They count fires, whether these are committed later or not. Only spans have the row's key, at most 64 characters of it
and without unprintable ones. Nothing contains a value of a payload, of ``details`` or of a token, nor a driver's
message, which may quote one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

try:
    from opentelemetry import metrics, trace
    from opentelemetry.trace import Span, Status, StatusCode
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "OpenTelemetry is not installed. Install the extra 'otel': pip install 'sqlalchemy-fsm-mysql[otel]'",
        name=error.name,
    ) from error

from ..errors import FireError, FSMError, LockTimeout, NotWritable, OutcomeUnknown, TransactionAborted
from ..errors.texts import SHOWN_CHARACTERS, escaped, shown, stored_form
from ..outcomes import MovedRows
from . import Attempt, observe, stop_observing

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider
    from stamina.instrumentation import RetryDetails

__all__ = ["count_retry", "instrument", "uninstrument"]

_SCOPE = "sqlalchemy_fsm_mysql"
_BROKEN = (LockTimeout, NotWritable, OutcomeUnknown, TransactionAborted)

_installed: list[Telemetry] = []


def instrument(*, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None) -> None:
    """Report every fire in this process to OpenTelemetry from now on. A second call does nothing.

    The providers default to the global ones.

    Raises: TypeError for a value that is not a provider.
    """
    for name, provider, kind in (
        ("tracer_provider", tracer_provider, trace.TracerProvider),
        ("meter_provider", meter_provider, metrics.MeterProvider),
    ):
        if provider is not None and not isinstance(provider, kind):
            raise TypeError(f"{name}={shown(provider)}; it must be a {kind.__name__} of OpenTelemetry")
    if not _installed:
        _installed.append(Telemetry(tracer_provider, meter_provider))
        observe(_installed[0].watch)


def uninstrument() -> None:
    """End the reports that :func:`instrument` has begun. Without them, it does nothing."""
    if _installed:
        stop_observing(_installed.pop().watch)


def count_retry(details: RetryDetails) -> None:
    """A hook for stamina that counts, as ``fsm.retries``, how often ``run_transaction`` ran its work again.

    Install it by ``stamina.instrumentation.set_on_retry_hooks([count_retry, …])``. It counts nothing without
    :func:`instrument`, and it does not count the program's other retries with stamina.
    """
    if _installed and isinstance(details.caused_by, FSMError):
        _installed[0].retries.add(1, {"fsm.work": details.name, "fsm.outcome": type(details.caused_by).__name__})


class Telemetry:
    """The instruments, and the observer that records with them."""

    def __init__(self, tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None) -> None:
        self.tracer = trace.get_tracer(_SCOPE, tracer_provider=tracer_provider)
        meter = metrics.get_meter(_SCOPE, meter_provider=meter_provider)
        self.fires = meter.create_counter("fsm.fires", "{fire}", "Events that were fired")
        self.rows = meter.create_counter("fsm.rows", "{row}", "Rows that were moved")
        self.duration = meter.create_histogram("fsm.fire.duration", "s", "From the call of a fire to its outcome")
        self.retries = meter.create_counter("fsm.retries", "{retry}", "Units of work that were run again")

    @contextmanager
    def watch(self, attempt: Attempt) -> Iterator[None]:
        asked = {"fsm.operation": attempt.operation, "fsm.model": attempt.model.__name__, "fsm.event": attempt.event}
        key = {} if attempt.key is None else {"fsm.key": escaped(str(attempt.key))[:SHOWN_CHARACTERS]}
        begin = time.perf_counter()
        with self.tracer.start_as_current_span(
            f"{attempt.operation} {attempt.event}",
            attributes={**asked, **key},
            # A driver's message may quote the values of a statement.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            finally:
                self._record(span, attempt, asked, time.perf_counter() - begin)

    def _record(self, span: Span, attempt: Attempt, asked: dict[str, str], seconds: float) -> None:
        known = {**asked, "fsm.outcome": attempt.outcome}
        ends = {"fsm.source": attempt.source, "fsm.target": attempt.target}
        of_row = {name: state for name, state in ends.items() if state is not None}
        self.duration.record(seconds, known)
        self.fires.add(1, {**known, **of_row})
        for edge, number in _moves(attempt):
            self.rows.add(number, {**asked, **edge})
        span.set_attributes({**known, **of_row, "fsm.rows": attempt.rows})
        if attempt.error is not None:
            _record_error(span, attempt.error)


def _moves(attempt: Attempt) -> Iterator[tuple[dict[str, str], int]]:
    if isinstance(attempt.result, MovedRows):
        for (source, target), number in attempt.result.by_transition.items():
            yield {"fsm.source": stored_form(source), "fsm.target": stored_form(target)}, number
    elif attempt.rows and attempt.source is not None and attempt.target is not None:
        yield {"fsm.source": attempt.source, "fsm.target": attempt.target}, attempt.rows


def _record_error(span: Span, error: BaseException) -> None:
    kind = type(error)
    attributes: dict[str, Any] = {"exception.type": f"{kind.__module__}.{kind.__qualname__}"}
    if isinstance(error, FSMError):  # its message holds no values
        attributes["exception.message"] = str(error)
    span.add_event("exception", attributes)
    if isinstance(error, _BROKEN) or not isinstance(error, FireError):
        span.set_status(Status(StatusCode.ERROR, kind.__name__))
