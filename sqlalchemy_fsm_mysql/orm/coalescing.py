"""The waiting half of a :class:`~.coalescer.Coalescer`: the fires that wait, the next batch of them, and figures."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from ..core.fires import Fire
from ..errors.texts import shown
from ..outcomes import Moved, Refused
from .batches import Outcome

__all__ = ["CoalescerFigures", "Limits", "Pending", "Queue"]


@dataclass(frozen=True, slots=True)
class CoalescerFigures:
    """The figures of a coalescer since it was made. Every number except `pending` and `mean_size` only grows.

    - `moved`, `refused`, `failed`: the numbers of outcomes of each kind.
    - `cancelled`: the number of fires whose caller gave up before they were sent.
    - `batches`: the number of batches, sent in `packets` packets or transactions. `largest` is the most fires of a
      batch.
    - `rerun`: the number of fires that were run alone, after an error or because they need a transaction.
    - `pending`: the number of fires that wait now.
    - `waited`, `took`: sums over all fires, in seconds: from the call until the batch was sent, and from the call until
      the outcome was known.
    - `longest`: the largest single value of `took`, in seconds.
    """

    moved: int = 0
    refused: int = 0
    failed: int = 0
    cancelled: int = 0
    batches: int = 0
    packets: int = 0
    largest: int = 0
    rerun: int = 0
    pending: int = 0
    waited: float = 0.0
    took: float = 0.0
    longest: float = 0.0

    @property
    def fires(self) -> int:
        """The number of fires that have an outcome."""
        return self.moved + self.refused + self.failed

    @property
    def mean_size(self) -> float:
        """The mean number of fires in a batch; 0 before the first."""
        return self.fires / self.batches if self.batches else 0.0


@dataclass(frozen=True, slots=True)
class Limits:
    """The sizes of a coalescer, checked: `max_wait` in seconds."""

    max_batch: int
    max_wait: float
    max_pending: int
    connections: int

    @classmethod
    def checked(cls, max_batch: Any, max_wait: Any, max_pending: Any, connections: Any) -> Limits:
        """The limits of these arguments.

        Raises: TypeError, ValueError.
        """
        numbers = {"max_batch": max_batch, "max_pending": max_pending, "connections": connections}
        for name, value in numbers.items():
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name}={shown(value)}; it must be a number")
            if value < 1:
                raise ValueError(f"{name}={shown(value)}; at least 1 is needed")
        if not isinstance(max_wait, timedelta):
            raise TypeError(f"max_wait={shown(max_wait)}; it must be a timedelta")
        if not timedelta(0) <= max_wait <= timedelta(minutes=1):
            raise ValueError(f"max_wait={shown(max_wait)}; it must be between 0 and 1 minute")
        return cls(max_batch, max_wait.total_seconds(), max_pending, connections)


@dataclass(slots=True, eq=False)
class Pending:
    """A fire that waits for its batch; `future` is the caller's, `since` the time of the call."""

    fire: Fire
    future: Any
    since: float

    @property
    def row(self) -> tuple[str, Any]:
        """The row that the fire moves, as a batch locks it."""
        return self.fire.target.table_name, self.fire.key


@dataclass(slots=True)
class Queue:
    """The fires that wait, in the order of their calls. It is not safe for threads by itself."""

    limits: Limits
    waiting: deque[Pending] = field(default_factory=deque)
    busy: set[tuple[str, Any]] = field(default_factory=set)  # the rows of batches that are on their way
    figures: CoalescerFigures = field(default_factory=CoalescerFigures)

    def wait(self, now: float) -> float | None:
        """Seconds until the next batch is to be sent, 0 for now; None when nothing waits."""
        if not self.waiting:
            return None
        if len(self.waiting) >= self.limits.max_batch:
            return 0.0
        return max(0.0, self.waiting[0].since + self.limits.max_wait - now)

    def take(self, begin: Callable[[Any], bool]) -> list[Pending]:
        """The next batch, in the order of the rows' keys; *begin* tells of a future whether its caller still waits.

        All coalescers lock rows in this order, so that two of them do not wait for each other. Fires on one row keep
        the order of their calls: while a batch moves the row, further ones wait. The batch is empty when all do.
        """
        batch: list[Pending] = []
        held: list[Pending] = []
        cancelled = 0
        while self.waiting and len(batch) < self.limits.max_batch:
            pending = self.waiting.popleft()
            if pending.row in self.busy:
                held.append(pending)
            elif begin(pending.future):
                batch.append(pending)
            else:
                cancelled += 1
        self.waiting.extendleft(reversed(held))
        self.busy.update(pending.row for pending in batch)
        if cancelled:
            self.figures = replace(self.figures, cancelled=self.figures.cancelled + cancelled)
        return in_key_order(batch)

    def done(
        self,
        batch: Sequence[Pending],
        outcomes: Iterable[Outcome],
        *,
        sent: float,
        now: float,
        packets: int,
        rerun: int,
    ) -> None:
        """Release the rows of *batch*, and add it to the figures."""
        self.busy.difference_update(pending.row for pending in batch)
        before = self.figures
        moved = refused = failed = 0
        for outcome in outcomes:
            moved += isinstance(outcome, Moved)
            refused += isinstance(outcome, Refused)
            failed += isinstance(outcome, BaseException)
        self.figures = replace(
            before,
            moved=before.moved + moved,
            refused=before.refused + refused,
            failed=before.failed + failed,
            batches=before.batches + 1,
            packets=before.packets + packets,
            rerun=before.rerun + rerun,
            largest=max(before.largest, len(batch)),
            waited=before.waited + sum(sent - pending.since for pending in batch),
            took=before.took + sum(now - pending.since for pending in batch),
            longest=max(before.longest, now - min(pending.since for pending in batch)),
        )


def in_key_order(batch: list[Pending]) -> list[Pending]:
    """*batch*, sorted by table and key; a stable sort."""
    try:
        return sorted(batch, key=lambda pending: pending.row)
    except TypeError:  # keys without an order of their own
        return sorted(batch, key=lambda pending: (pending.fire.target.table_name, repr(pending.fire.key)))
