"""Return values of a fire: ``Moved``, ``Refused``, ``Missing``, and ``MovedRows`` for a set of rows.

All are values: frozen, comparable, picklable. As a condition, an outcome answers "did it move?":

>>> bool(Moved(object, 42, "Stop", "Running", "Stopped"))
True
>>> bool(Refused(object, 42, "Stop", "Deleted", "state"))
False

``Moved`` means that the event took the row along a transition, which may lead back to the same state: then
``.changed`` is false.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from ..errors import FireError, GuardNotSatisfied, RowNotFound, TransitionNotAllowed
from ..errors.texts import State, stored_form
from .data import MissingData, MovedData, MovedRowsData, RefusedData, RowErrorData, plain_key
from .schema import Data
from .states import Ends, Seen

Reason: TypeAlias = Literal["state", "guard"]
"""Why an event did not move a row: it does not leave the row's state, or it does and no guard is true of the row."""

M_co = TypeVar("M_co", covariant=True)
K = TypeVar("K")
V = TypeVar("V")


# Not MappingProxyType: that can neither be pickled nor deep-copied, and outcomes travel between processes.
class ReadOnlyMapping(Mapping[K, V]):
    """A read-only mapping; equal to a dict of the same items.

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


@dataclass(frozen=True, slots=True, repr=False)
class Moved(Ends[M_co]):
    """The event moved the row from `source` to `target`. The transaction is not committed yet.

    A ``Moved`` is true as a condition. Its fields:

    - `model`: the mapped class.
    - `key`: the primary key; a tuple if it is composite.
    - `event`: the name of the event, a str.
    - `source`, `target`: the states before and after, as the machine declares them: str or Enum members.
    - `instance`: the object that was fired on; None for a fire by key.
    - `payload`: the values that the event was fired with, a read-only mapping.
    - `actor`, `details`: those that the caller passed; None without.
    - `token`: the idempotency token of the fire; None without.
    - `replayed`: true when an earlier fire with this token moved the row. Then this is the outcome of that fire, and
      nothing moved now.
    - `sequence`: the number of this transition in the row's history, an int from 1; None without a history.
    - `created`: true when ``fire_or_create`` has created the row.

    Equality and hash leave out `instance`, `payload` and `details`, and so does `repr`: they can be large, private, or
    unhashable. `repr` also leaves out fields that have their default.
    """

    model: type[M_co]
    key: Any  # Any: a primary key has the type that its model gives it
    event: str
    # Type checkers read these two in Ends, where they have the type of the model's states.
    if not TYPE_CHECKING:
        source: State
        target: State
    instance: M_co | None = field(default=None, compare=False, repr=False)
    # Any: a value of the payload has the type that the program gave it.
    payload: Mapping[str, Any] = field(default=NO_PAYLOAD, compare=False, repr=False)
    actor: str | None = None
    details: Any = field(default=None, compare=False, repr=False)  # Any: JSON
    token: str | None = None
    replayed: bool = False
    sequence: int | None = None
    created: bool = False

    if TYPE_CHECKING:

        def __init__(
            self,
            model: type[M_co],
            key: object,
            event: str,
            source: State,
            target: State,
            instance: M_co | None = None,
            payload: Mapping[str, object] = NO_PAYLOAD,
            actor: str | None = None,
            details: object = None,
            token: str | None = None,
            replayed: bool = False,  # noqa: FBT001, FBT002 - a field, as all of these
            sequence: int | None = None,
            created: bool = False,  # noqa: FBT001, FBT002
        ) -> None: ...

    @property
    def changed(self) -> bool:
        """Whether the state is another one now; false for a transition of a state to itself."""
        return self.source != self.target

    def to_dict(self) -> MovedData:
        """This outcome for JSON: no instance and no payload; states as they are stored.

        >>> moved = Moved(object, 42, "Stop", "Running", "Stopped").to_dict()
        >>> moved["moved"], moved["key"], moved["source"], moved["target"]
        (True, 42, 'Running', 'Stopped')
        """
        return {
            "moved": True,
            "model": self.model.__name__,
            "key": plain_key(self.key),
            "event": self.event,
            "source": stored_form(self.source),
            "target": stored_form(self.target),
            "changed": self.changed,
            "created": self.created,
            "replayed": self.replayed,
            "sequence": self.sequence,
            "actor": self.actor,
            "details": self.details,
            "token": self.token,
        }

    def __bool__(self) -> Literal[True]:
        return True


@dataclass(frozen=True, slots=True, repr=False)
class Refused(Seen[M_co]):
    """The event did not move the row. Nothing was changed, and the transaction goes on.

    A ``Refused`` is false as a condition. Its fields:

    - `model`: the mapped class.
    - `key`: the primary key; a tuple if it is composite.
    - `event`: the name of the event, a str.
    - `state`: the state of the row in the database, never one from memory: a str or Enum member.
    - `reason`: ``"state"`` when the event is not allowed from that state; ``"guard"`` when it is allowed, but no
      transition had all its guards true.
    - `allowed_from`: the states from which the event is allowed, a list in the machine's order.
    - `failed`: the names of all guards that were not true of the row, in the machine's order; the same statement
      reports them.
    - `sentences`: the sentences for people that those guards have.
    """

    model: type[M_co]
    key: Any  # Any: a primary key has the type that its model gives it
    event: str
    if not TYPE_CHECKING:  # as above: Seen has its type
        state: State
    reason: Reason
    allowed_from: list[State] = field(default_factory=list, hash=False)
    failed: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()

    if TYPE_CHECKING:

        def __init__(
            self,
            model: type[M_co],
            key: object,
            event: str,
            state: State,
            reason: Reason,
            allowed_from: list[State] = ...,
            failed: tuple[str, ...] = (),
            sentences: tuple[str, ...] = (),
        ) -> None: ...

    def error(self, table: str) -> TransitionNotAllowed:
        """The error that ``fire`` raises for this refusal of a row of *table*."""
        row = {"table": table, "key": self.key, "event": self.event, "model": self.model}
        state, allowed_from = self.state, self.allowed_from
        if self.reason != "guard":
            return TransitionNotAllowed(**row, state=state, allowed_from=allowed_from)
        return GuardNotSatisfied(
            **row, state=state, allowed_from=allowed_from, failed=self.failed, sentences=self.sentences
        )

    def to_dict(self) -> RefusedData:
        """This outcome for JSON; states as they are stored.

        >>> refused = Refused(object, 42, "Cancel", "paid", "guard", ["new", "paid"], ("owner",)).to_dict()
        >>> refused["moved"], refused["reason"], refused["failed"]
        (False, 'guard', ['owner'])
        """
        return {
            "moved": False,
            "model": self.model.__name__,
            "key": plain_key(self.key),
            "event": self.event,
            "state": stored_form(self.state),
            "reason": self.reason,
            "allowed_from": [stored_form(state) for state in self.allowed_from],
            "failed": list(self.failed),
            "sentences": list(self.sentences),
        }

    def __bool__(self) -> Literal[False]:
        return False


@dataclass(frozen=True, slots=True, repr=False)
class Missing(Data[M_co]):
    """There is no row with the primary key `key`, a tuple if it is composite. Nothing was changed.

    ``fire_keys`` returns it. A ``Missing`` is false as a condition.
    """

    model: type[M_co]
    key: Any  # Any: a primary key has the type that its model gives it
    event: str

    def error(self, table: str) -> RowNotFound:
        """The error that ``fire_key`` raises for this key of *table*."""
        return RowNotFound(table=table, key=self.key, event=self.event, model=self.model)

    def to_dict(self) -> MissingData:
        """This outcome for JSON.

        >>> Missing(object, 42, "Stop").to_dict()
        {'moved': False, 'model': 'object', 'key': 42, 'event': 'Stop', 'state': None, 'reason': 'missing'}
        """
        return {
            "moved": False,
            "model": self.model.__name__,
            "key": plain_key(self.key),
            "event": self.event,
            "state": None,
            "reason": "missing",
        }

    def __bool__(self) -> Literal[False]:
        return False


@dataclass(frozen=True, slots=True, repr=False)
class MovedRows(Data[M_co]):
    """The outcome of one event on a set of rows. It is true as a condition if a row moved. Its fields:

    - `model`: the mapped class.
    - `event`: the name of the event, a str.
    - `moved`: the number of rows that took a transition, an int.
    - `by_transition`: the number for each transition, ``{(source, target): rows}``; read-only, and equal to a dict.
    - `errors`: the errors of single rows that stay as they are, because the server failed on them. Each is a
      ``FireError`` with the row's `.key`. Only ``fire_due`` and ``run_due`` go on after such errors, so it is empty for
      all other calls.
    - `keys`: the transition of each row that moved, ``{primary key: (source, target)}``, with ``fire_where(…,
      keys=True)``; None otherwise.

    >>> rows = MovedRows(object, "Stop", 5, {("Running", "Stopped"): 3, ("Stopped", "Stopped"): 2})
    >>> rows.moved, rows.changed
    (5, 3)
    """

    model: type[M_co]
    event: str
    moved: int
    by_transition: Mapping[tuple[State, State], int]
    errors: tuple[FireError, ...] = field(default=(), hash=False, compare=False)
    keys: Mapping[Any, tuple[State, State]] | None = None  # Any: a primary key has the type that its model gives it

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_transition", ReadOnlyMapping(self.by_transition))
        if self.keys is not None:
            object.__setattr__(self, "keys", ReadOnlyMapping(self.keys))

    @property
    def changed(self) -> int:
        """The number of rows whose state is another one now."""
        return sum(rows for (source, target), rows in self.by_transition.items() if source != target)

    def to_dict(self) -> MovedRowsData:
        """This outcome for JSON; states as they are stored. ``"errors"`` and ``"keys"`` are there when it has them."""
        data: MovedRowsData = {
            "model": self.model.__name__,
            "event": self.event,
            "moved": self.moved,
            "changed": self.changed,
            "by_transition": [
                {"source": stored_form(source), "target": stored_form(target), "rows": rows}
                for (source, target), rows in self.by_transition.items()
            ],
        }
        if self.errors:
            data["errors"] = [_row_error(one) for one in self.errors]
        if self.keys is not None:
            data["keys"] = [
                {"key": plain_key(key), "source": stored_form(source), "target": stored_form(target)}
                for key, (source, target) in self.keys.items()
            ]
        return data

    def __bool__(self) -> bool:
        return self.moved > 0


def _row_error(error: FireError) -> RowErrorData:
    return {"key": plain_key(error.key), "event": error.event, "error": str(error)}
