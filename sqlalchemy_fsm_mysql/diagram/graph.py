"""What there is to draw of a machine, in plain text: states as they are stored, events, and the edges.

A renderer needs nothing else, and asks nothing of a machine. The order of everything is the machine's, so
that a drawing of the same machine is the same text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from ..machine import Machine, Transition

Counts: TypeAlias = Mapping[tuple[str, str, str], int]
"""How often each edge was taken: ``{(event, source, target): times}``."""


@dataclass(frozen=True, slots=True)
class Edge:
    """One event leading from one state to one state.

    `guard` is the name of the guard, None when there is none. `effects` are the names of the effects, the
    event's own first. A lambda is named ``guard`` or ``effect``.
    """

    event: str
    source: str
    target: str
    guard: str | None = None
    effects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Graph:
    """A machine's states, events and edges. Edges come by event, then by source, then in winning order."""

    states: tuple[str, ...]
    initial: str
    final: tuple[str, ...]
    events: tuple[str, ...]
    edges: tuple[Edge, ...]
    name: str | None = None

    @classmethod
    def of(cls, machine: Machine) -> Graph:
        """The graph of *machine*.

        >>> from sqlalchemy_fsm_mysql import Event
        >>> graph = Graph.of(Machine(initial="new", events=[Event("Pay", {"new": "paid"})]))
        >>> graph.states, graph.final
        (('new', 'paid'), ('paid',))
        >>> graph.edges
        (Edge(event='Pay', source='new', target='paid', guard=None, effects=()),)
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


def _edges(machine: Machine) -> Iterator[Edge]:
    for name, event in machine.events.items():
        common = _names("effect", event.effect)
        for transition in machine.transitions(name):
            yield Edge(
                event=name,
                source=_stored(machine, transition),
                target=machine.stored(transition.target),
                guard=next(iter(_names("guard", transition.guard)), None),
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
