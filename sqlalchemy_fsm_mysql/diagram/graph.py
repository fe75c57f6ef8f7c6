"""The parts of a drawing, in plain text: states as they are stored, events, and the edges.

A renderer needs nothing else, and asks nothing of a machine. The order of everything is the machine's, so
that a drawing of the same machine is the same text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias, cast

from ..errors.texts import State, counted

if TYPE_CHECKING:  # a machine shows itself by this package
    from ..machine import Machine, Transition

Counts: TypeAlias = Mapping[tuple[str, str, str], int]
"""How often each edge was taken: ``{(event, source, target): times}``, by the names that are stored."""

Rows: TypeAlias = Mapping[str, int]
"""How many rows are in each state now: ``{state: rows}``, by the names that are stored."""

Times: TypeAlias = Mapping[str, timedelta | None]
"""How long rows stay in each state: ``{state: median}``, by the names that are stored; None for a state without one."""

HOTTEST = 5
_UNITS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"))


@dataclass(frozen=True, slots=True)
class Edge:
    """One event that leads from one state to one state.

    - `guard`: the name of the guard; None without one. A lambda is named ``guard``.
    - `effects`: the names of the effects, the event's own first. A lambda is named ``effect``.
    - `declared`: false for an edge that the machine does not have, but along which rows were moved.
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
    """All edges from one state to one state. A drawing has one line for them, with a label for each edge."""

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
class Box:
    """A group as a drawing has it: `states` are those in no box within it, `boxes` the groups inside."""

    group: str
    states: tuple[str, ...]
    boxes: tuple[Box, ...] = ()


# Not slotted: a cached property needs a dict.
@dataclass(frozen=True)
class Graph:
    """The states, events and edges of a machine as plain text, for a renderer.

    An edge is one event that leads from one state to one state. Edges are ordered by event, then by source, then in the
    order in which a fire tries them.

    - `strangers`: states that rows have or had, and that the machine does not declare.
    - `groups`: the states of each group.
    - `descriptions`: the texts of events, by name.
    - `borders`: the names of the effects of entering and leaving, by ``"enter"`` or ``"exit"``, and the state, the
      group, or None for every state.
    """

    states: tuple[str, ...]
    initial: str
    final: tuple[str, ...]
    events: tuple[str, ...]
    edges: tuple[Edge, ...]
    name: str | None = None
    strangers: tuple[str, ...] = ()
    initial_states: tuple[str, ...] = ()
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    descriptions: Mapping[str, str] = field(default_factory=dict)
    borders: Mapping[tuple[str, str | None], tuple[str, ...]] = field(default_factory=dict)

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
            initial_states=tuple(map(machine.stored, machine.initial_states)),
            groups={name: tuple(map(machine.stored, states)) for name, states in machine.groups.items()},
            descriptions={
                name: " ".join(event.description.split()) for name, event in machine.events.items() if event.description
            },
            borders=_borders(machine),
        )

    @cached_property
    def position(self) -> Mapping[str, int]:
        """The number of each event, from 0."""
        return {event: number for number, event in enumerate(self.events)}

    @cached_property
    def _by_state(self) -> Mapping[str, Mapping[str, list[Edge]]]:
        found: dict[str, dict[str, list[Edge]]] = {}
        for edge in self.edges:
            found.setdefault(edge.source, {}).setdefault(edge.event, []).append(edge)
        return found

    def from_state(self, state: str) -> Mapping[str, list[Edge]]:
        """The edges from *state*, by event; those of one event in the order in which a fire tries them."""
        return self._by_state.get(state, {})

    def leaving(self, state: str, event: str) -> list[Edge]:
        """The edges of *event* from *state*, in the order in which a fire tries them; none if it is refused."""
        return list(self.from_state(state).get(event, ()))

    def boxes(self) -> list[Box]:
        """The groups as boxes within boxes.

        A drawing has each state in one place, so of two groups that overlap, the one with fewer states is not drawn.
        """
        drawn: dict[str, set[str]] = {}
        for name, states in sorted(self.groups.items(), key=lambda group: -len(group[1])):
            mine = set(states)
            if all(mine <= other or not mine & other for other in drawn.values()):
                drawn[name] = mine
        return _boxes(drawn, [name for name in self.groups if name in drawn], self.states)

    def with_details(self, *, guards: bool = True, effects: bool = True, borders: bool = False) -> Graph:
        """A copy of this graph that shows only these details on its edges and borders."""
        return replace(
            self,
            edges=tuple(
                replace(edge, guard=edge.guard if guards else None, effects=edge.effects if effects else ())
                for edge in self.edges
            )
            if not (guards and effects)
            else self.edges,
            borders=self.borders if borders else {},
        )

    def border_lines(self, name: str | None) -> list[str]:
        """The effects of the border of the state or group *name*, a line for entering and one for leaving.

        >>> Graph((), "", (), (), (), borders={("enter", "paid"): ("stamp",)}).border_lines("paid")
        ['enter / stamp']
        """
        found = ((role, self.borders.get((role, name))) for role in ("enter", "exit"))
        return [f"{role} / {', '.join(names)}" for role, names in found if names]

    def arrows(self) -> list[Arrow]:
        """The edges, those between the same two states together, in the order in which they first appear."""
        together: dict[tuple[str, str], list[Edge]] = {}
        for edge in self.edges:
            together.setdefault((edge.source, edge.target), []).append(edge)
        return [Arrow(source, target, tuple(edges)) for (source, target), edges in together.items()]

    def with_figures(self, counts: Counts | None, rows: Rows | None, times: Times | None = None) -> Graph:
        """A copy of this graph, with the edges and states that only *counts*, *rows* and *times* contain.

        They come from ``force_state``, from an earlier release of the machine, or from writes that bypass the machine.
        """
        known = {(edge.event, edge.source, edge.target) for edge in self.edges}
        taken = sorted(edge for edge, times in (counts or {}).items() if times and edge not in known)
        named = {state for _, *ends in taken for state in ends} | {
            state for state, number in (rows or {}).items() if number
        }
        named |= {state for state, time in (times or {}).items() if time is not None}
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
    return counted(rows.get(state, 0), "row")


def figures_of(state: str, rows: Rows | None, times: Times | None) -> tuple[str, ...]:
    """The figures of *state*, as a diagram writes them.

    >>> figures_of("new", {"new": 3}, {"new": timedelta(minutes=90)}), figures_of("new", None, {})
    (('3 rows', '1.5 h'), ())
    """
    shown = () if rows is None else (rows_label(state, rows),)
    time = None if times is None else times.get(state)
    return shown if time is None else (*shown, duration(time))


def duration(time: timedelta) -> str:
    """*time* in its largest fitting unit, with two digits that count.

    >>> [duration(timedelta(seconds=s)) for s in (0.25, 5, 90, 36_000, 864_000)]
    ['0.25 s', '5 s', '1.5 min', '10 h', '10 d']
    """
    seconds = time.total_seconds()
    size, unit = next((one for one in _UNITS if seconds >= one[0]), _UNITS[-1])
    value = seconds / size
    return f"{value:.0f} {unit}" if value >= 10 else f"{value:.2g} {unit}"  # noqa: PLR2004 - two digits


def heats_of(times: Times) -> dict[str, int]:
    """How hot each state of *times* is drawn: 5 for the one in which rows stay longest, by the logarithm of seconds."""
    seconds = {state: math.ceil(time.total_seconds()) for state, time in times.items() if time is not None}
    longest = max(seconds.values(), default=0)
    return {state: heat(time, longest) for state, time in seconds.items()}


def graph_of(machine: Machine | Graph) -> Graph:
    """*machine*, drawn or not yet."""
    return machine if isinstance(machine, Graph) else Graph.of(machine)


def _boxes(drawn: Mapping[str, set[str]], names: Iterable[str], order: Iterable[str]) -> list[Box]:
    """The boxes of *names*, which are all groups of one level and below."""
    names = list(names)
    # Of two groups with the same states, the one declared first is outside.
    outermost = [
        name
        for position, name in enumerate(names)
        if not any(
            drawn[name] < drawn[other] or (drawn[name] == drawn[other] and at < position)
            for at, other in enumerate(names)
            if other != name
        )
    ]
    boxes = []
    for name in outermost:
        inside = [other for other in names if other not in outermost and drawn[other] <= drawn[name]]
        within = _boxes(drawn, inside, order)
        elsewhere = {state for other in inside for state in drawn[other]}
        boxes.append(Box(name, tuple(s for s in order if s in drawn[name] and s not in elsewhere), tuple(within)))
    return boxes


def _borders(machine: Machine) -> dict[tuple[str, str | None], tuple[str, ...]]:
    found: dict[tuple[str, str | None], tuple[str, ...]] = {}
    for border in machine.borders.effects:
        is_any = border.of not in machine.states and not border.is_group
        of = None if is_any else str(border.of) if border.is_group else machine.stored(cast(State, border.of))
        found[border.role, of] = _names("effect", border.function)
    return found


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
