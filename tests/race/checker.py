"""What must hold between the log of a race and the tables after it. Pure: no database, no processes.

`violations` asks every check of `CHECKS`. A check looks at what the evidence has and passes over what it
lacks: without a history there are no numbers to look at. The names are those of the proof: I1, I2, …

On clocks: a call's `begin` and `end` are read by the caller, in nanoseconds of a clock that all processes
share. Its effect lies somewhere in between.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal, NamedTuple, TypeAlias

from sqlalchemy_fsm_mysql.demo.check import path_problem
from sqlalchemy_fsm_mysql.machine import Machine

Key: TypeAlias = Any  # a primary key has the type that its model gives it
Outcome: TypeAlias = Literal["moved", "refused", "failed", "unknown"]


# A tuple: hundreds of thousands of them travel between processes.
class Call(NamedTuple):
    """One attempt of one unit of work: a fire and its commit.

    ``failed`` is an attempt that was told that nothing happened (a deadlock, a lock wait); `code` is the
    server's error. ``unknown`` is one whose COMMIT was lost; `resolved` is what was found out about it
    afterwards, None when nobody asked. What it had been told before its COMMIT is kept like a move's.
    """

    worker: int
    begin: int
    end: int
    key: Key
    event: str
    outcome: Outcome
    source: str | None = None
    target: str | None = None
    state: str | None = None  # observed by a refusal
    code: int | None = None
    sequence: int | None = None
    token: str | None = None
    resolved: bool | None = None


class Row(NamedTuple):
    """A row after the race: its state, and how many UPDATEs it has counted itself, if it counts."""

    state: str
    steps: int | None = None


class Recorded(NamedTuple):
    """A row of the history table."""

    key: Key
    sequence: int
    event: str
    source: str
    target: str
    token: str | None = None


class Glimpse(NamedTuple):
    """What an instance showed at the end of a transaction or savepoint, and a fresh read of its row at once after.

    Only of a row that nobody else moves: of another's, the two may lawfully differ.
    """

    worker: int
    after: Literal["commit", "rollback", "savepoint"]
    key: Key
    shown: str
    stored: str


@dataclass(frozen=True)
class Evidence:
    """All that is known after a race. `history` is None when the model keeps none."""

    machine: Machine
    calls: Sequence[Call]
    rows: Mapping[Key, Row]
    history: Sequence[Recorded] | None = None
    initial: Mapping[Key, str] = field(default_factory=dict)  # where it is not the machine's
    glimpses: Sequence[Glimpse] = ()
    most: Mapping[Key, int] = field(default_factory=dict)  # how many moves of a row its guard allows

    def began_in(self, key: Key) -> str:
        return self.initial.get(key, self.machine.stored(self.machine.initial))

    @cached_property
    def by_key(self) -> dict[tuple[Key, Outcome], list[Call]]:
        found: defaultdict[tuple[Key, Outcome], list[Call]] = defaultdict(list)
        for call in self.calls:
            is_found = call.outcome == "unknown" and call.resolved
            outcome: Outcome = "failed" if call.resolved is False else "moved" if is_found else call.outcome
            found[call.key, outcome].append(call)
        return dict(found)

    @cached_property
    def recorded(self) -> dict[Key, list[Recorded]]:
        found: defaultdict[Key, list[Recorded]] = defaultdict(list)
        for row in sorted(self.history or (), key=lambda row: row.sequence):
            found[row.key].append(row)
        return dict(found)

    def of(self, key: Key, outcome: Outcome) -> list[Call]:
        """The calls on a row that ended so, an unknown one as it was resolved."""
        return self.by_key.get((key, outcome), [])

    def moved(self, key: Key) -> list[Call]:
        return self.of(key, "moved")

    def numbered(self, key: Key) -> list[Call] | None:
        """The moves of a row by sequence number; None when they carry none."""
        moved = self.moved(key)
        if any(call.sequence is None for call in moved):
            return None
        return sorted(moved, key=lambda call: call.sequence or 0)

    def has_unknown(self, key: Key) -> bool:
        return bool(self.of(key, "unknown"))


class Violation(NamedTuple):
    check: str
    what: str


def violations(evidence: Evidence) -> list[Violation]:
    """Everything that does not hold."""
    return [Violation(name, what) for name, check in CHECKS.items() for what in check(evidence)]


def undeclared(evidence: Evidence) -> Iterator[str]:
    """Each move is an edge of the machine, each refusal is of what the state refuses, each state declared."""
    for call in evidence.calls:
        targets = evidence.machine.targets(call.event)
        if call.outcome == "moved" and targets.get(str(call.source)) != call.target:
            yield f"{call} is no edge of the machine"
        if call.outcome == "refused" and call.state in targets:
            yield f"{call} was refused in a state that the event leaves"
    for key, row in evidence.rows.items():
        if not evidence.machine.declares(row.state):
            yield f"row {key!r} is stored as {row.state!r}"


def unchained(evidence: Evidence) -> Iterator[str]:
    """The moves of each row can be laid end to end, from where it began to where it is. Needs no numbers."""
    for key, row in evidence.rows.items():
        if evidence.has_unknown(key):  # a step may be missing from the reports, lawfully
            continue
        steps = Counter((call.event, str(call.source), str(call.target)) for call in evidence.moved(key))
        problem = path_problem(steps, evidence.began_in(key), row.state)
        if problem:
            yield f"row {key!r}, which ended in {row.state!r}: {problem}"


def miscounted(evidence: Evidence) -> Iterator[str]:
    """As many moves were reported of each row as it has counted: nothing lost, nothing doubled."""
    for key, row in evidence.rows.items():
        reported, unknown = len(evidence.moved(key)), len(evidence.of(key, "unknown"))
        if row.steps is not None and not reported <= row.steps <= reported + unknown:
            yield f"row {key!r} counted {row.steps} steps, {reported} were reported"
    for key in {call.key for call in evidence.calls if call.outcome == "moved"} - set(evidence.rows):
        yield f"row {key!r} is not stored, and was moved"


def unnumbered(evidence: Evidence) -> Iterator[str]:
    """I1: each row's history is numbered 1 to n without a gap, and each move is there, under its number."""
    for key in evidence.rows:
        recorded = _recorded(evidence, key)
        numbers = [row.sequence for row in recorded]
        if numbers != list(range(1, len(numbers) + 1)):
            yield f"row {key!r} is numbered {numbers}"
        told = Counter(call.sequence for call in evidence.moved(key) if call.sequence is not None)
        yield from (f"row {key!r}: number {number} was told {n} times" for number, n in told.items() if n > 1)
        if evidence.history is not None:
            yield from _recorded_otherwise(evidence.moved(key), recorded)


def _recorded_otherwise(moved: Iterable[Call], recorded: Iterable[Recorded]) -> Iterator[str]:
    by_number = {row.sequence: row for row in recorded}
    for call in moved:
        if call.sequence is None:
            continue
        row = by_number.get(call.sequence)
        if row is None or (row.event, row.source, row.target) != (call.event, call.source, call.target):
            yield f"{call} is recorded as {row}"


def unreplayable(evidence: Evidence) -> Iterator[str]:
    """I2: replayed from where the row began, each recorded step is declared, and the last ends at the row."""
    if evidence.history is None:
        return
    for key, row in evidence.rows.items():
        state = evidence.began_in(key)
        for recorded in _recorded(evidence, key):
            expected = evidence.machine.targets(recorded.event).get(recorded.source)
            if recorded.source != state or recorded.target != expected:
                yield f"{recorded} follows {state!r}"
            state = recorded.target
        if state != row.state:
            yield f"row {key!r} is {row.state!r}, its history ends in {state!r}"
    for key in {recorded.key for recorded in evidence.history} - set(evidence.rows):
        yield f"row {key!r} is not stored, and has a history"


def tokens_not_once(evidence: Evidence) -> Iterator[str]:
    """I3: the token of each acknowledged move is recorded exactly once."""
    yield from _token_counts(evidence, "moved", lawful=range(1, 2))


def tokens_of_nothing(evidence: Evidence) -> Iterator[str]:
    """I4: the token of a refusal or failure is not recorded, unless another attempt with it moved the row."""
    yield from _token_counts(evidence, "refused", lawful=range(1))
    yield from _token_counts(evidence, "failed", lawful=range(1))


def tokens_of_unknown(evidence: Evidence) -> Iterator[str]:
    """I5: the token of an attempt of unknown outcome is recorded once or not at all, as it was resolved."""
    yield from _token_counts(evidence, "unknown", lawful=range(2))
    if evidence.history is None:
        return
    recorded = {row.token for row in evidence.history}
    for call in evidence.calls:
        if call.token is not None and call.resolved is not None and call.resolved != (call.token in recorded):
            yield f"{call} was resolved as {call.resolved}, and its token is{'' if not call.resolved else ' not'} recorded"


def _token_counts(evidence: Evidence, outcome: Outcome, lawful: range) -> Iterator[str]:
    if evidence.history is None:
        return
    recorded = Counter(row.token for row in evidence.history)
    by_token: defaultdict[str, set[Outcome]] = defaultdict(set)
    for call in evidence.calls:
        if call.token is not None:
            by_token[call.token].add(call.outcome)
    # A token lives through all attempts of a unit of work; the best of them decides.
    best = {
        token: next(o for o in ("moved", "unknown", "refused", "failed") if o in seen)
        for token, seen in by_token.items()
    }
    for token, decisive in best.items():
        if decisive == outcome and recorded[token] not in lawful:
            yield f"token {token!r} of a {outcome} call is recorded {recorded[token]} times"


def out_of_time(evidence: Evidence) -> Iterator[str]:
    """I6: a call that ended before another began has the smaller number."""
    for key in evidence.rows:
        latest: Call | None = None  # of the smaller numbers, the one that began last
        for call in evidence.numbered(key) or ():
            if latest is not None and call.end < latest.begin:
                yield f"{call} had ended when {latest} began, and has the greater number"
            if latest is None or call.begin > latest.begin:
                latest = call


def unreasonable(evidence: Evidence) -> Iterator[str]:
    """I7: the row was, at some moment of each refusal, in the state that the refusal names."""
    for key in evidence.rows:
        refused = evidence.of(key, "refused")
        if not refused or evidence.has_unknown(key):
            continue
        numbered = evidence.numbered(key)
        was_in = _by_interval(evidence, key) if numbered is None else _by_number(evidence, key, numbered)
        yield from (f"{call}, but the row was never {call.state!r} then" for call in refused if not was_in(call))


def unlike_the_database(evidence: Evidence) -> Iterator[str]:
    """I8: after a commit, a rollback and a savepoint's rollback, memory shows what a fresh read finds."""
    yield from (f"{glimpse}" for glimpse in evidence.glimpses if glimpse.shown != glimpse.stored)


def against_the_guard(evidence: Evidence) -> Iterator[str]:
    """No row was moved more often than its guard allows."""
    for key, most in evidence.most.items():
        row = evidence.rows.get(key)
        counted = max(len(evidence.moved(key)), row.steps or 0 if row else 0)
        if counted > most:
            yield f"row {key!r} was moved {counted} times, and its guard allows {most}"


def _by_interval(evidence: Evidence, key: Key) -> Callable[[Call], bool]:
    """Whether the state seen had been entered when the refusal ended, and not left for good before it."""
    moved = evidence.moved(key)
    entered: dict[str | None, int] = {}
    left: dict[str | None, int] = {}
    for call in moved:
        entered[call.target] = min(call.begin, entered.get(call.target, call.begin))
        left[call.source] = max(call.end, left.get(call.source, call.end))
    first, last = evidence.began_in(key), evidence.rows[key].state

    def was_in(call: Call) -> bool:
        is_entered = call.state == first or entered.get(call.state, call.end) < call.end
        return is_entered and (call.state == last or left.get(call.state, call.begin) > call.begin)

    return was_in


def _by_number(evidence: Evidence, key: Key, numbered: Sequence[Call]) -> Callable[[Call], bool]:
    """Whether the row had the state seen after a move that may have been the latest during the call."""
    states = [evidence.began_in(key), *(str(call.target) for call in numbered)]
    ended = _greatest_number(call.end for call in numbered)
    begun = _greatest_number(call.begin for call in numbered)

    def was_in(call: Call) -> bool:
        surely, possibly = ended(call.begin), begun(call.end)
        return call.state in states[surely : max(surely, possibly) + 1]

    return was_in


def _greatest_number(times: Iterable[int]) -> Callable[[int], int]:
    """The greatest number, from 1 on, among those of *times* that are before a given time; 0 when none is."""
    by_time = sorted((moment, number) for number, moment in enumerate(times, 1))
    moments = [moment for moment, _ in by_time]
    greatest = [0, *accumulate((number for _, number in by_time), max)]
    return lambda moment: greatest[bisect_left(moments, moment)]


def _recorded(evidence: Evidence, key: Key) -> list[Recorded]:
    return evidence.recorded.get(key, [])


CHECKS: dict[str, Callable[[Evidence], Iterator[str]]] = {
    "declared": undeclared,
    "chain": unchained,
    "count": miscounted,
    "I1": unnumbered,
    "I2": unreplayable,
    "I3": tokens_not_once,
    "I4": tokens_of_nothing,
    "I5": tokens_of_unknown,
    "I6": out_of_time,
    "I7": unreasonable,
    "I8": unlike_the_database,
    "guard": against_the_guard,
}
