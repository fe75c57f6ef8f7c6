"""Compares the reports of the processes with the rows in the database. Pure: no database, no printing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from ..errors.texts import counted
from ..machine import Machine

Step: TypeAlias = tuple[str, str, str]
"""An event, the source and the target that a fire reported."""


@dataclass(slots=True)
class Tally:
    """The reports: how often each order took each step, and how often each state refused each event."""

    steps: Counter[tuple[int, Step]] = field(default_factory=Counter)
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)  # (event, state observed)
    again: int = 0  # units of work run once more, because the server had ended them
    naive_moved: int = 0  # moves that the read-decide-write code reported

    def add(self, other: Tally) -> None:
        """Add the counts of *other*."""
        self.steps.update(other.steps)
        self.refused.update(other.refused)
        self.again += other.again
        self.naive_moved += other.naive_moved

    @property
    def moved(self) -> int:
        return self.steps.total()

    @property
    def fired(self) -> int:
        return self.moved + self.refused.total()

    def edges(self) -> Counter[Step]:
        """The number of times that each edge of the machine was taken, over all orders."""
        edges: Counter[Step] = Counter()
        for (_, step), times in self.steps.items():
            edges[step] += times
        return edges


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored order: its state, and the number of steps that its row has counted."""

    state: str
    steps: int
    naive_steps: int = 0


@dataclass(frozen=True, slots=True)
class Contest:
    """The moves that the library and the read-decide-write code reported, and how many of them the rows do not have.

    While the processes race, reports arrive later than the rows change, so the losses are lower bounds.
    """

    moved: int
    lost: int
    naive_moved: int
    naive_lost: int

    @property
    def stored(self) -> int:
        """The library's moves that the rows have."""
        return self.moved - self.lost

    @property
    def naive_stored(self) -> int:
        """The moves of the read-decide-write code that the rows have: no other process overwrote them."""
        return self.naive_moved - self.naive_lost

    @classmethod
    def of(cls, tally: Tally, stored: Mapping[int, Stored]) -> Contest:
        steps, naive = (sum(row.steps for row in stored.values()), sum(row.naive_steps for row in stored.values()))
        return cls(tally.moved, max(0, tally.moved - steps), tally.naive_moved, max(0, tally.naive_moved - naive))


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: its claim in plain words, and every case that violates it."""

    claim: str
    violations: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return not self.violations


def findings(
    machine: Machine,
    tally: Tally,
    stored: Mapping[int, Stored],
    *,
    begun_with: int,
    lost_workers: tuple[str, ...] = (),
) -> list[Finding]:
    """Every check of *tally* against *stored*, for a race that began with *begun_with* orders.

    *lost_workers* has a sentence for each process that did not report to its end.
    """
    steps = _by_order(tally)
    deleted = sum(times for (_, source, target), times in tally.edges().items() if target == "Deleted" != source)
    return [
        Finding(_none_died(tally.again), lost_workers),
        Finding(
            f"All {tally.moved:,} moves and {tally.refused.total():,} refusals follow the machine's table.",
            tuple(_undeclared(machine, tally)),
        ),
        Finding(
            "No move was lost or counted twice: each row counts its own UPDATEs.",
            tuple(_miscounted(steps, stored)),
        ),
        # Two processes that move an order out of the same state at once would leave a gap in the path. A state that
        # is not the machine's is no end of a path, or a move into it was reported, which the table does not have.
        Finding(
            f"Each order's moves form one path from {machine.initial!r} to its stored state.",
            tuple(_broken(machine, steps, stored)),
        ),
        Finding(
            "Each deleted order was deleted once and replaced:"
            f" {begun_with:,} + {deleted:,} = {begun_with + deleted:,} orders.",
            tuple(_wrong_deletions(deleted, stored, begun_with)),
        ),
    ]


def _none_died(again: int) -> str:
    if again:
        return f"No process died; {counted(again, 'fire')} ran again after a deadlock or a lock timeout."
    return "No process died: every fire is counted."


def path_problem(steps: Mapping[Step, int], initial: Hashable, final: Hashable) -> str | None:
    """The reason why *steps* are not one path from *initial* to *final* that takes each of them as often as counted.

    None when they are one. This is Euler's condition: such a path exists if and only if each state is left as
    often as it is entered (but for the two ends), and all steps are connected with the first state.

    >>> path_problem({("Go", "a", "b"): 2, ("Back", "b", "a"): 1}, "a", "b")
    >>> path_problem({("Go", "a", "b"): 2}, "a", "b")
    "'a' was left 2 times, but could be left 1 time; 'b' was left 0 times, but could be left 1 time"
    """
    entered: Counter[Hashable] = Counter({initial: 1})
    left: Counter[Hashable] = Counter({final: 1})  # the end of the path counts as leaving the last state
    neighbours: defaultdict[Hashable, set[Hashable]] = defaultdict(set)
    for (_, source, target), times in steps.items():
        entered[target] += times
        left[source] += times
        neighbours[source].add(target)
        neighbours[target].add(source)
    unbalanced = [
        f"{state!r} was left {counted(left[state] - end, 'time')},"
        f" but could be left {counted(entered[state] - end, 'time')}"
        for state in {**entered, **left}
        if entered[state] != left[state]
        for end in [int(state == final)]
    ]
    if unbalanced:
        return "; ".join(unbalanced)
    apart = set(neighbours) - _connected(neighbours, initial)
    return f"{', '.join(sorted(map(repr, apart)))} cannot be reached from {initial!r} by these moves" if apart else None


def _connected(neighbours: Mapping[Hashable, set[Hashable]], start: Hashable) -> set[Hashable]:
    found, pending = {start}, [start]
    while pending:
        fresh = neighbours.get(pending.pop(), set()) - found
        found |= fresh
        pending += fresh
    return found


def _by_order(tally: Tally) -> dict[int, Counter[Step]]:
    orders: defaultdict[int, Counter[Step]] = defaultdict(Counter)
    for (key, step), times in tally.steps.items():
        orders[key][step] += times
    return dict(orders)


def _undeclared(machine: Machine, tally: Tally) -> Iterator[str]:
    for (event, source, target), times in tally.edges().items():
        if machine.targets(event).get(source) != target:
            yield f"{event!r} took {source!r} to {target!r} {counted(times, 'time')}, which the table does not have"
    for (event, state), times in tally.refused.items():
        if state in machine.targets(event):
            yield f"{event!r} was refused in {state!r} {counted(times, 'time')}, although it leaves that state"


def _miscounted(steps: Mapping[int, Counter[Step]], stored: Mapping[int, Stored]) -> Iterator[str]:
    for key in sorted({*steps, *stored}):
        reported = steps.get(key, Counter()).total()
        if key not in stored:
            yield f"order {key} is not stored, but {counted(reported, 'move')} of it were reported"
        elif reported != stored[key].steps:
            yield f"order {key} counted {counted(stored[key].steps, 'move')}, but {reported:,} were reported"


def _broken(machine: Machine, steps: Mapping[int, Counter[Step]], stored: Mapping[int, Stored]) -> Iterator[str]:
    for key, row in stored.items():
        problem = path_problem(steps.get(key, Counter()), machine.initial, row.state)
        if problem is not None:
            yield f"order {key}, stored as {row.state!r}: {problem}"


def _wrong_deletions(deleted: int, stored: Mapping[int, Stored], begun_with: int) -> Iterator[str]:
    gone = sum(row.state == "Deleted" for row in stored.values())
    if gone != deleted:
        yield f"{deleted:,} deletions were reported, but {gone:,} orders are stored as 'Deleted'"
    if len(stored) != begun_with + deleted:
        expected = begun_with + deleted
        yield f"{begun_with:,} orders and {deleted:,} new ones make {expected:,}; {len(stored):,} are stored"
