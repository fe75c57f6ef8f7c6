"""What there is to draw of a machine, in plain text: states as they are stored, events, and the edges.

A renderer needs nothing else, and asks nothing of a machine. The order of everything is the machine's, so
that a drawing of the same machine is the same text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:  # a machine shows itself by this package
    from ..machine import Machine, Transition

Counts: TypeAlias = Mapping[tuple[str, str, str], int]
"""How often each edge was taken: ``{(event, source, target): times}``, by the names that are stored."""

Rows: TypeAlias = Mapping[str, int]
"""How many rows are in each state now: ``{state: rows}``, by the names that are stored."""

HOTTEST = 5


@dataclass(frozen=True, slots=True)
class Edge:
    """One event leading from one state to one state.

    `guard` is the name of the guard, None when there is none. `effects` are the names of the effects, the
    event's own first. A lambda is named ``guard`` or ``effect``. An edge that the machine does not have, but that
    rows were moved along, is not `declared`.
    """

    event: str
    source: str
    target: str
    guard: str | None = None
    effects: tuple[str, ...] = ()
    declared: bool = True

    def label(self, counts: Counts | None = None) -> str:
        """The edge as a diagram names it: ``Event [guard] / effect``, and how often it was taken.

        >>> Edge("Refund", "Paid", "Refunded", "is_whole", ("book",)).label({("Refund", "Paid", "Refunded"): 1200})
        'Refund [is_whole] / book × 1,200'
        """
        guard = "" if self.guard is None else f" [{self.guard}]"
        effects = f" / {', '.join(self.effects)}" if self.effects else ""
        times = "" if counts is None else f" × {counts.get((self.event, self.source, self.target), 0):,}"
        return f"{self.event}{guard}{effects}{times}"


@dataclass(frozen=True, slots=True)
class Arrow:
    """All edges from one state to one state: a drawing has one line for them, with a label for each."""

    source: str
    target: str
    edges: tuple[Edge, ...]

    @property
    def is_declared(self) -> bool:
        return any(edge.declared for edge in self.edges)

    def times(self, counts: Counts) -> int:
        """How often the arrow was taken."""
        return sum(counts.get(taken, 0) for taken in {(edge.event, edge.source, edge.target) for edge in self.edges})


@dataclass(frozen=True, slots=True)
class Graph:
    """A machine's states, events and edges. Edges come by event, then by source, then in winning order.

    `strangers` are states that rows hold, or held, and that the machine does not declare.
    """

    states: tuple[str, ...]
    initial: str
    final: tuple[str, ...]
    events: tuple[str, ...]
    edges: tuple[Edge, ...]
    name: str | None = None
    strangers: tuple[str, ...] = ()

    @classmethod
    def of(cls, machine: Machine) -> Graph:
        """The graph of *machine*.

        >>> from sqlalchemy_fsm_mysql import Event, Machine
        >>> graph = Graph.of(Machine(initial="new", events=[Event("Pay", {"new": "paid"})]))
        >>> graph.states, graph.final
        (('new', 'paid'), ('paid',))
        >>> graph.edges
        (Edge(event='Pay', source='new', target='paid', guard=None, effects=(), declared=True),)
        """
        return cls(
            states=tuple(map(machine.stored, machine.states)),
            initial=machine.stored(machine.initial),
            final=tuple(map(machine.stored, machine.final)),
            events=tuple(machine.events),
            edges=tuple(_edges(machine)),
            name=machine.name,
        )

    def leaving(self, state: str, event: str) -> list[Edge]:
        """The edges that *event* may take from *state*, in winning order; none when it refuses."""
        return [edge for edge in self.edges if (edge.source, edge.event) == (state, event)]

    def arrows(self) -> list[Arrow]:
        """The edges, those between the same two states together, in the order in which they first appear."""
        together: dict[tuple[str, str], list[Edge]] = {}
        for edge in self.edges:
            together.setdefault((edge.source, edge.target), []).append(edge)
        return [Arrow(source, target, tuple(edges)) for (source, target), edges in together.items()]

    def with_figures(self, counts: Counts | None, rows: Rows | None) -> Graph:
        """The same with the edges and states that only *counts* and *rows* know.

        They come from ``force_state``, from an earlier release of the machine, or from writes past it.
        """
        known = {(edge.event, edge.source, edge.target) for edge in self.edges}
        taken = sorted(edge for edge, times in (counts or {}).items() if times and edge not in known)
        named = {state for _, *ends in taken for state in ends} | {
            state for state, held in (rows or {}).items() if held
        }
        return replace(
            self,
            events=tuple(dict.fromkeys([*self.events, *(event for event, *_ in taken)])),
            edges=(*self.edges, *(Edge(*edge, declared=False) for edge in taken)),
            strangers=tuple(sorted(named - set(self.states))),
        )


def heat(times: int, most: int) -> int:
    """How hot an edge that was taken so many *times* is drawn: 0 for never, 5 for *most*, by the logarithm.

    >>> [heat(times, 10_000) for times in (0, 1, 10, 1_000, 10_000)]
    [0, 1, 2, 4, 5]
    """
    return 0 if times <= 0 else math.ceil(HOTTEST * math.log1p(times) / math.log1p(max(times, most)))


def rows_label(state: str, rows: Rows) -> str:
    """How many rows are in *state*, as a diagram writes it."""
    number = rows.get(state, 0)
    return f"{number:,} row{'' if number == 1 else 's'}"


def graph_of(machine: Machine | Graph) -> Graph:
    """*machine*, drawn or not yet."""
    return machine if isinstance(machine, Graph) else Graph.of(machine)


def _edges(machine: Machine) -> Iterator[Edge]:
    for name, event in machine.events.items():
        common = _names("effect", event.effect)
        for transition in machine.transitions(name):
            yield Edge(
                event=name,
                source=_stored(machine, transition),
                target=machine.stored(transition.target),
                guard=" and ".join(str(guard.name) for guard in transition.guards) or None,
                effects=common + _names("effect", transition.effect),
            )


def _stored(machine: Machine, transition: Transition) -> str:
    """The one source of a transition that :meth:`Machine.transitions` has spread."""
    (source,) = transition.written_sources()
    return machine.stored(source)


def _names(role: str, function: Callable[..., object] | None) -> tuple[str, ...]:
    if function is None:
        return ()
    name = getattr(function, "__name__", role)
    return (role if name == "<lambda>" else name,)
