"""The outcome code: the integer by which a statement reports the outcome of an event. It is written and read here.

::

    bit 63      62       61 … 24                   23 … 1                                   0
        OFFSET  TAKEN    failed guards             number of the state or the branch       OTHER_VERSION

- **taken**: bit 62, and twice the number of the branch: a source, a target, a guard, effects.
- **refused**: ``4 + 4 · i`` when the row is in state number *i*, which the event does not leave; two more when the
  event leaves it, but no guard is true. Then each named guard that is not true of the row sets its bit from 24 on.
- **undeclared**: 2, the row is in a state that the machine does not declare.
- **hidden**: 0, the row is not one of the mapped class (single-table inheritance). A missing row has this code, too.

Codes are even. Bit 0 is set when the row has another version than the one in the session. The move is valid, but the
values of the row's other columns in the session are old.

MySQL and MariaDB send the code by ``LAST_INSERT_ID(expr)``, where bit 63 is added to each code. An AUTO_INCREMENT id
of an earlier INSERT cannot be that large, so an id is never read as an answer. An upsert adds a random number in the
bits of the failed guards (its events have no guards), because its session may remember the answer of an earlier upsert.

The number of a history row is sent in the same way, with the bits 63, 62 and 61 added: no outcome has all three. So the
answer of an earlier statement, or an AUTO_INCREMENT id, is never read as a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from ..outcomes import Reason

if TYPE_CHECKING:
    from .events import Branch, EventSQL

HIDDEN: Final = 0
UNDECLARED: Final = 2
OTHER_VERSION: Final = 1
TAKEN: Final = 1 << 62
OFFSET: Final = 1 << 63

NUMBERED: Final = OFFSET | TAKEN | 1 << 61
NUMBER: Final = (1 << 61) - 1
"""The bits of a history row's number in a code that has the bits of `NUMBERED`."""

_REFUSED, _BY_STATE, _BY_GUARD, _STATE_STEP = 4, 0, 2, 4
_LOW_BITS = 24
_LOW = (1 << _LOW_BITS) - 1

MAX_NAMED_GUARDS: Final = 62 - _LOW_BITS
"""The most named guards of one event: each has a bit of the code, which is set when it is not true of the row."""

NONCE_BITS: Final = 62 - _LOW_BITS


def taken(branch: int) -> int:
    """The code of a row that the event moves along the branch with this number.

    >>> taken(3) == TAKEN + 6
    True
    """
    return TAKEN | branch << 1


def refused(state: int, *, by_guard: bool) -> int:
    """The code of a row that stays in the state with this number.

    >>> refused(0, by_guard=False), refused(2, by_guard=True)
    (4, 14)
    """
    return _REFUSED + _STATE_STEP * state + (_BY_GUARD if by_guard else _BY_STATE)


def failed(guard: int) -> int:
    """The addition to a refusal when the named guard with this number is not true of the row."""
    return 1 << _LOW_BITS + guard


def names_guards(code: int) -> bool:
    """Whether *code* has the bit of a named guard that is not true of the row."""
    return bool(code & (TAKEN - 1) & ~_LOW)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Taken:
    """The event moves the row along ``branch``; ``is_other_version`` is bit 0 of the code."""

    branch: Branch
    is_other_version: bool = False


class Refusal(NamedTuple):
    """The row stays in ``state``, a stored value; ``failed`` names the guards that are not true of the row."""

    state: str
    reason: Reason
    failed: tuple[str, ...] = ()


class Undeclared:
    """The row is in a state that the machine does not declare."""

    __slots__ = ()


class NoRow:
    """There is no row with this key, or the row does not belong to the mapped class."""

    __slots__ = ()


class Created:
    """An upsert has inserted the row. No code reports that, because no row was there to compute one from."""

    __slots__ = ()


Reading: TypeAlias = Taken | Refusal | Undeclared | NoRow

NO_ROW: Final = NoRow()
UNDECLARED_STATE: Final = Undeclared()
CREATED: Final = Created()


def read(event: EventSQL, code: int) -> Reading:
    """The meaning of *code*, which the SQL of *event* has computed."""
    if code & TAKEN:
        return Taken(event.branches[(code & _LOW) >> 1], bool(code & OTHER_VERSION))
    low = code & _LOW & ~OTHER_VERSION
    if low < _REFUSED:
        return UNDECLARED_STATE if low == UNDECLARED else NO_ROW
    state, reason = divmod(low - _REFUSED, _STATE_STEP)
    names: Sequence[str] = event.named_guards
    not_true = tuple(name for i, name in enumerate(names) if code & failed(i))
    return Refusal(event.states[state], "guard" if reason == _BY_GUARD else "state", not_true)


def nonce(random: int) -> int:
    """The number that an upsert adds to its code, made of *random* bits.

    MariaDB's connector reports only the lower half of a large id. Bit 31 is set, so that a small id differs from it.

    >>> nonce(0) == 1 << 31
    True
    """
    return (random & ((1 << NONCE_BITS) - 1)) << _LOW_BITS | 1 << 31


def is_cut(remembered: int, nonce: int) -> bool:
    """Whether *remembered* is the lower half of an answer to the statement that added *nonce*."""
    return (remembered - nonce) % (1 << 32) <= _LOW


def answered(remembered: int, nonce: int) -> int | None:
    """The code that a statement with *nonce* has remembered; None when *remembered* is no answer to it.

    >>> answered(OFFSET + nonce(5) + taken(1), nonce(5)) == taken(1)
    True
    >>> answered(OFFSET + nonce(4) + taken(1), nonce(5)) is None
    True
    """
    code = remembered - OFFSET - nonce
    return code if code >= 0 and not code & ~(TAKEN | _LOW) else None
