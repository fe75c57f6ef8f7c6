"""What is told of each fire while a program runs: one line in the log, and whatever observers make of it.

The logger is named ``sqlalchemy_fsm_mysql``. A move is a line at DEBUG; a refusal, a missing row and a failure are one
at INFO. No line holds a value of a payload, of ``details`` or of a token. Each has the attributes ``fsm_operation``,
``fsm_model``, ``fsm_event``, ``fsm_key``, ``fsm_outcome``, ``fsm_rows``, ``fsm_source`` and ``fsm_target`` for
formatters that write fields.

An observer is called with an :class:`Attempt` before the first statement and returns a context manager, which is left
when the outcome is known. That is how :mod:`.otel` is made. Nothing is done for anybody who does not ask.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar

from .errors import FSMError, GuardNotSatisfied, TransitionNotAllowed
from .errors.texts import State, row_label, shown, stored_form
from .outcomes import Moved, MovedRows, Refused

__all__ = ["Attempt", "is_watched", "observe", "stop_observing", "watching"]

log = logging.getLogger(__package__)

Operation: TypeAlias = Literal["fire", "fire_where", "claim", "force_state"]


@dataclass(slots=True)
class Attempt:
    """One call that may move rows: what was asked, and once it has ended, what came of it.

    `key` is None for sets of rows. `result` is what the call returns, with a refusal as a value; a claim's is a
    ``MovedRows``. `error` is what it raised instead. Both are None until it has ended.
    """

    operation: Operation
    model: type[Any]
    table: str
    event: str
    key: Any = None  # Any: a primary key has the type that its model gives it
    result: Moved[Any] | Refused[Any] | MovedRows[Any] | None = field(default=None, repr=False)
    error: BaseException | None = field(default=None, repr=False)

    @property
    def outcome(self) -> str:
        """``moved``, ``replayed``, ``refused``, ``guard``, or the name of the error's class."""
        if self.error is not None:
            return type(self.error).__name__
        if isinstance(self.result, Refused):
            return "guard" if self.result.reason == "guard" else "refused"
        return "replayed" if isinstance(self.result, Moved) and self.result.replayed else "moved"

    @property
    def rows(self) -> int:
        """How many rows were moved by it."""
        if isinstance(self.result, MovedRows):
            return self.result.moved
        return int(isinstance(self.result, Moved) and not self.result.replayed)

    @property
    def source(self) -> str | None:
        """The state that the one row has left, or that refused; as it is stored."""
        if isinstance(self.result, Moved):
            return stored_form(self.result.source)
        return stored_form(self.result.state) if isinstance(self.result, Refused) else None

    @property
    def target(self) -> str | None:
        """The state that the one row was moved to, as it is stored."""
        return stored_form(self.result.target) if isinstance(self.result, Moved) else None

    def __str__(self) -> str:
        """The line of the log."""
        result = self.result
        if self.error is not None:
            # Another error's message, as that of a driver, may hold values.
            return str(self.error) if isinstance(self.error, FSMError) else f"{self._place()}: {self.outcome}"
        if isinstance(result, Refused):
            kind = GuardNotSatisfied if result.reason == "guard" else TransitionNotAllowed
            return str(
                kind(
                    table=self.table,
                    key=self.key,
                    event=self.event,
                    state=result.state,
                    allowed_from=result.allowed_from,
                )
            )
        if isinstance(result, Moved):
            again = ", replayed: an earlier fire with this token did it" if result.replayed else ""
            return f"{self._place()}: {_edge(result.source, result.target)}{again}"
        ways = result.by_transition if result is not None else {}
        told = ", ".join(f"{_edge(*way)} × {number}" for way, number in ways.items())
        return f"{self._place()}: {self.rows} row{'' if self.rows == 1 else 's'}{f' ({told})' if told else ''}"

    def _place(self) -> str:
        row = self.table if self.key is None else row_label(self.table, self.key)
        return f"{row}, {self.operation} {shown(self.event)}"


Observer: TypeAlias = Callable[[Attempt], AbstractContextManager[Any]]
F = TypeVar("F", bound=Observer)

# The one thing here that changes: who looks on in this process. As loggers, observers are there for all.
_observers: list[Observer] = []


def observe(observer: F) -> F:
    """Have *observer* called with each :class:`Attempt`; usable as a decorator, above ``@contextmanager``.

    What it raises comes out of the fire.
    """
    _observers.append(observer)
    return observer


def stop_observing(observer: Observer) -> None:
    """Take back :func:`observe`.

    Raises: ValueError when *observer* is none.
    """
    _observers.remove(observer)


def is_watched() -> bool:
    """Whether anybody looks on."""
    return bool(_observers) or log.isEnabledFor(logging.INFO)


@contextmanager
def watching(attempt: Attempt) -> Iterator[Attempt]:
    """Tell whoever looks on of *attempt*, whose result the block sets, or which it ends by an error."""
    with ExitStack() as stack:
        for observer in _observers:
            stack.enter_context(observer(attempt))
        try:
            yield attempt
        except BaseException as error:
            attempt.error = error
            _write(attempt)
            raise
        _write(attempt)


def _write(attempt: Attempt) -> None:
    level = logging.INFO if attempt.error is not None or isinstance(attempt.result, Refused) else logging.DEBUG
    if not log.isEnabledFor(level):
        return
    fields = {
        "fsm_operation": attempt.operation,
        "fsm_model": attempt.model.__name__,
        "fsm_event": attempt.event,
        "fsm_key": attempt.key,
        "fsm_outcome": attempt.outcome,
        "fsm_rows": attempt.rows,
        "fsm_source": attempt.source,
        "fsm_target": attempt.target,
    }
    # As text: what collects the arguments of a line would find values in the attempt.
    log.log(level, "%s", str(attempt), extra=fields)


def _edge(source: State, target: State) -> str:
    return f"{shown(stored_form(source))} to {shown(stored_form(target))}"
