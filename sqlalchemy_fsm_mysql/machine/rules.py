"""The edges that a database enforces: :class:`Rules`, as the texts that rows hold. Pure Python.

>>> from sqlalchemy_fsm_mysql import Event, Machine
>>> rules = Rules.of(Machine(initial="new", events=[Event("Pay", {"new": "paid"}), Event("Close", {"paid": "closed"})]))
>>> rules.moves
{'new': ('paid',), 'paid': ('closed',), 'closed': ()}
>>> rules.begins
('new', 'paid')
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import cast

from ..errors.texts import State
from .machine import Machine
from .states import AnyState

__all__ = ["Rules"]

# Goes into the fingerprint: a release that writes other triggers for the same rules has another number here.
TRIGGER_FORMAT = 2
_NUMBER = re.compile(r"-?[0-9]+")
_DIGITS = 16


@dataclass(frozen=True)
class Rules:
    """Rules for triggers: `moves`, the texts that may follow each text, and `begins`, the texts of a new row.

    A text that may follow itself is not listed: a row whose state stays is never refused.
    """

    moves: Mapping[str, tuple[str, ...]]
    begins: tuple[str, ...]

    @classmethod
    def of(cls, machine: Machine, initial_states: Iterable[State] | AnyState = ()) -> Rules:
        """The rules of *machine*: every edge of every event, whatever its guard, in every spelling of its two states.

        A new row may be in the initial state or one of the machine's `initial_states`; where `fire_or_create` puts one,
        which is the target of an event without guards and effects that leaves the initial state; and in the argument
        *initial_states*, all there are when that is `ANY`.

        Raises: ValueError for an initial state that *machine* does not declare.
        """
        targets: dict[State, dict[State, None]] = {state: {state: None} for state in machine.states}
        for event in machine.events:
            for way in machine.transitions(event):
                targets[cast(State, way.source)][way.target] = None
        moves = {
            text: tuple(other for target in reached for other in machine.spellings(target) if other != text)
            for state, reached in targets.items()
            for text in machine.spellings(state)
        }
        if isinstance(initial_states, AnyState):
            return cls(moves, machine.stored_states)
        more = map(machine.loaded, map(machine.stored, initial_states))
        begin = [machine.initial, *machine.initial_states, *_reached_at_once(machine), *more]
        return cls(moves, tuple(dict.fromkeys(chain.from_iterable(map(machine.spellings, begin)))))

    @classmethod
    def of_edges(cls, edges: Mapping[str | None, Iterable[str]]) -> Rules:
        """The rules that allow *edges*, ``{"new": ["paid"]}``; those from None are the texts of a new row.

        The states of a column of numbers may be given as numbers.

        >>> Rules.of_edges({"new": ["paid"], None: ["new"]})
        Rules(moves={'new': ('paid',), 'paid': ()}, begins=('new',))
        """
        moves = {
            str(source): tuple(dict.fromkeys(map(str, targets)))
            for source, targets in edges.items()
            if source is not None
        }
        begins = tuple(dict.fromkeys(map(str, edges.get(None, ()))))
        for text in dict.fromkeys(chain(chain.from_iterable(moves.values()), begins)):
            moves.setdefault(text, ())
        return cls(moves, begins)

    def union(self, *others: Rules) -> Rules:
        """The rules that allow each edge that these rules or one of *others* allow."""
        moves: dict[str, dict[str, None]] = {}
        for rules in (self, *others):
            for text, targets in rules.moves.items():
                moves.setdefault(text, {}).update(dict.fromkeys(targets))
        begins = dict.fromkeys(chain.from_iterable(rules.begins for rules in (self, *others)))
        return Rules({text: tuple(targets) for text, targets in moves.items()}, tuple(begins))

    def renamed(self, texts: Mapping[str, str]) -> Rules:
        """The same rules with another text for each state: *texts* maps those here to them; others are left out."""
        moves = {
            texts[text]: tuple(texts[target] for target in targets if target in texts)
            for text, targets in self.moves.items()
            if text in texts
        }
        return Rules(moves, tuple(texts[text] for text in self.begins if text in texts))

    def lacks(self, other: Rules) -> Rules | None:
        """The edges of *other* that these rules do not allow; None when they allow all."""
        moves = {
            text: tuple(target for target in targets if target not in self.moves.get(text, ()))
            for text, targets in other.moves.items()
        }
        moves = {text: targets for text, targets in moves.items() if targets}
        begins = tuple(text for text in other.begins if text not in self.begins)
        return Rules(moves, begins) if moves or begins else None

    @property
    def is_numeric(self) -> bool:
        """Whether the texts are the numbers of a column with ``storage="integer"``."""
        return bool(self.moves) and all(map(_NUMBER.fullmatch, self.moves))

    @property
    def edges(self) -> list[tuple[str, str]]:
        """Each text with each that may follow it."""
        return [(text, target) for text, targets in self.moves.items() for target in targets]

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that stand for the edges, whatever the order in which they were declared."""
        document = [TRIGGER_FORMAT, {text: sorted(to) for text, to in self.moves.items() if to}, sorted(self.begins)]
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:_DIGITS]


def _reached_at_once(machine: Machine) -> Iterable[State]:
    """Where an upsert puts a row that is missing: one statement, with no state before."""
    for event in machine.events.values():
        target = machine.targets(event).get(machine.initial)
        if target is None or list(event.callables()) or machine.borders.crossed(machine.initial, target):
            continue
        yield target
