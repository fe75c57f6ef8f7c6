"""Reports of each fire while a program runs: one line in the log, and calls of observers.

The logger is named ``sqlalchemy_fsm_mysql``. A move is a line at DEBUG; a refusal, a missing row and a failure are a
line at INFO. No line contains a value of a payload, of ``details`` or of a token. Unprintable characters of a key
become escapes, so that it cannot forge a line. Each line has the attributes ``fsm_operation``, ``fsm_model``,
``fsm_event``, ``fsm_key``, ``fsm_outcome``, ``fsm_rows``, ``fsm_source`` and ``fsm_target`` for formatters that write
fields.

An observer is called with an :class:`Attempt` before the first statement. It returns a context manager, which is
exited when the outcome is known; :mod:`.otel` is one. Without observers and with the logger off, a fire skips all this.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar

from ..errors import FSMError
from ..errors.texts import State, counted, escaped, row_label, shown, stored_form
from ..outcomes import Moved, MovedRows, Refused

__all__ = ["Attempt", "is_watched", "observe", "stop_observing", "watching"]

log: logging.Logger = logging.getLogger("sqlalchemy_fsm_mysql")

Operation: TypeAlias = Literal["fire", "fire_keys", "fire_where", "fire_due", "claim", "force_state"]


@dataclass(slots=True)
class Attempt:
    """One call that may move rows: its arguments, and after its end, its outcome.

    `key` is the primary key, None for sets of rows. `result` is the call's return value, with a refusal as a value; for
    a claim and for ``fire_keys`` it is a ``MovedRows``. `error` is the exception that the call raised instead. Both are
    None until the call has ended.
    """

    operation: Operation
    model: type[object]
    table: str
    event: str
    key: Any = None  # Any: a primary key has the type that its model gives it
    # Any: the models of this process.
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
        """The number of rows that it moved."""
        if isinstance(self.result, MovedRows):
            return self.result.moved
        return int(isinstance(self.result, Moved) and not self.result.replayed)

    @property
    def source(self) -> str | None:
        """The state that the one row has left, or that refused, as the database stores it."""
        if isinstance(self.result, Moved):
            return stored_form(self.result.source)
        return stored_form(self.result.state) if isinstance(self.result, Refused) else None

    @property
    def target(self) -> str | None:
        """The state that the one row was moved to, as the database stores it."""
        return stored_form(self.result.target) if isinstance(self.result, Moved) else None

    def __str__(self) -> str:
        """The line of the log."""
        result = self.result
        if self.error is not None:
            # The message of another error, such as a driver's, may contain values.
            return str(self.error) if isinstance(self.error, FSMError) else f"{self._place()}: {self.outcome}"
        if isinstance(result, Refused):
            return str(result.error(self.table))
        if isinstance(result, Moved):
            again = ", replayed: an earlier fire with this token did it" if result.replayed else ""
            return f"{self._place()}: {_edge(result.source, result.target)}{again}"
        numbers = result.by_transition if result is not None else {}
        edges = ", ".join(f"{_edge(*edge)} × {number}" for edge, number in numbers.items())
        return f"{self._place()}: {counted(self.rows, 'row')}{f' ({edges})' if edges else ''}"

    def _place(self) -> str:
        row = self.table if self.key is None else row_label(self.table, self.key)
        return f"{row}, {self.operation} {shown(self.event)}"


Observer: TypeAlias = Callable[[Attempt], AbstractContextManager[object]]
F = TypeVar("F", bound=Observer)

# The only state of this module: the observers of this process. Like loggers, they see the fires of all sessions.
observers: list[Observer] = []


def observe(observer: F) -> F:
    """Call *observer* with each :class:`Attempt`. It can be used as a decorator, above ``@contextmanager``.

    An exception that *observer* raises propagates out of the fire.
    """
    observers.append(observer)
    return observer


def stop_observing(observer: Observer) -> None:
    """Call *observer* no longer.

    Raises: ValueError when *observer* is not registered.
    """
    observers.remove(observer)


def is_watched() -> bool:
    """Whether there is an observer, or the logger writes lines of this kind."""
    return bool(observers) or log.isEnabledFor(logging.INFO)


@contextmanager
def watching(attempt: Attempt) -> Iterator[Attempt]:
    """Report *attempt* to the observers and the log. The block sets its result, or raises its error."""
    with ExitStack() as stack:
        for observer in observers:
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
        "fsm_key": _on_one_line(attempt.key),
        "fsm_outcome": attempt.outcome,
        "fsm_rows": attempt.rows,
        "fsm_source": attempt.source,
        "fsm_target": attempt.target,
    }
    # As text: a log collector that stores the arguments of a line would store the values in the attempt.
    log.log(level, "%s", escaped(str(attempt)), extra=fields)


def _on_one_line(key: Any) -> Any:  # Any: a primary key has the type that its model gives it
    """*key*, whose texts are :func:`.errors.texts.escaped`: a formatter may write them as they are."""
    if isinstance(key, tuple):
        return tuple(map(_on_one_line, key))
    return escaped(key) if isinstance(key, str) else key


def _edge(source: State, target: State) -> str:
    return f"{shown(stored_form(source))} to {shown(stored_form(target))}"
