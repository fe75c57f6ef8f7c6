"""What firing an event returns: `Moved`, `Refused`, and `MovedRows` for a set of rows.

All are values: frozen, comparable, picklable. As a condition, an outcome answers "did it move?":

>>> bool(Moved(object, 42, "Stop", "Running", "Stopped"))
True
>>> bool(Refused(object, 42, "Stop", "Deleted", "state"))
False

`Moved` says that the event took the row along a transition, also when that led back to the same state;
`.changed` tells the two apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from .errors.texts import State

Reason: TypeAlias = Literal["state", "guard"]
"""Why an event did not move a row: it does not leave the row's state, or it does and no guard is true of the row."""

M = TypeVar("M")
K = TypeVar("K")
V = TypeVar("V")


# Not MappingProxyType: that can neither be pickled nor deep-copied, and outcomes travel between processes.
class ReadOnlyMapping(Mapping[K, V]):
    """A mapping that nobody changes; equal to a dict of the same items.

    >>> ReadOnlyMapping({"amount": 30}) == {"amount": 30}
    True
    """

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[K, V]) -> None:
        self._items = dict(items)

    def __getitem__(self, key: K) -> V:
        return self._items[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)


NO_PAYLOAD: Mapping[str, Any] = ReadOnlyMapping({})  # Any: a payload value is whatever its column takes


@dataclass(frozen=True, slots=True)
class Moved(Generic[M]):
    """The event took the row from `source` to `target`; the transaction is not committed by that.

    `key` is the primary key, a tuple when it is composite. `source` and `target` are states as the machine
    declares them. `instance` is the object fired on, None when there was only a key. `payload` is what the
    event was fired with, read-only. `actor` and `details` are what the caller gave, None when nothing.
    `token` is the fire's idempotency token, and `replayed` is true when an earlier fire with this token did
    the moving: then this outcome is that one, and nothing moved now. `sequence` is the number of this
    transition within the row's history, None without a history.

    Equality and hash leave out `instance`, `payload` and `details`, and so does `repr`: they may be large,
    private, or unhashable.
    """

    model: type[M]
    key: Any  # Any: a primary key has the type that its model gives it
    event: str
    source: State
    target: State
    instance: M | None = field(default=None, compare=False, repr=False)
    payload: Mapping[str, Any] = field(default=NO_PAYLOAD, compare=False, repr=False)
    actor: str | None = None
    details: Any = field(default=None, compare=False, repr=False)  # Any: JSON
    token: str | None = None
    replayed: bool = False
    sequence: int | None = None
    created: bool = False

    # Made on every fire: the common case, no payload, must not pay for the copy.
    def __post_init__(self) -> None:
        if self.payload is not NO_PAYLOAD:
            object.__setattr__(self, "payload", ReadOnlyMapping(self.payload) if self.payload else NO_PAYLOAD)

    @property
    def changed(self) -> bool:
        """Whether the state is another one now; false for a transition of a state to itself."""
        return self.source != self.target

    def __bool__(self) -> Literal[True]:
        return True


@dataclass(frozen=True, slots=True)
class Refused(Generic[M]):
    """The event did not move the row, and nothing was changed.

    `state` is the state observed in the row, never one from memory. `reason` is ``"state"`` when the
    event does not leave that state, ``"guard"`` when it does and none of its guards held. `allowed_from`
    lists the states that the event leaves, in the machine's order.
    """

    model: type[M]
    key: Any  # Any: a primary key has the type that its model gives it
    event: str
    state: State
    reason: Reason
    allowed_from: list[State] = field(default_factory=list, hash=False)

    def __bool__(self) -> Literal[False]:
        return False


@dataclass(frozen=True, slots=True)
class MovedRows(Generic[M]):
    """What one event did to a set of rows.

    `moved` is the number of rows that it took along a transition, `by_transition` how many of them took
    which: ``{(source, target): rows}``, read-only and equal to a dict.

    >>> rows = MovedRows(object, "Stop", 5, {("Running", "Stopped"): 3, ("Stopped", "Stopped"): 2})
    >>> rows.moved, rows.changed
    (5, 3)
    """

    model: type[M]
    event: str
    moved: int
    by_transition: Mapping[tuple[State, State], int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_transition", ReadOnlyMapping(self.by_transition))

    @property
    def changed(self) -> int:
        """The number of rows whose state is another one now."""
        return sum(rows for (source, target), rows in self.by_transition.items() if source != target)

    def __bool__(self) -> bool:
        return self.moved > 0
