"""Machines by chance, and what they have to do, in plain Python.

A drawn machine is data: `Spec`. From it come the library's `Machine` on a mapped class, and `Spec.fire`, which knows
nothing of SQL or of the library. Guards and effects are small expression trees, read by both; NULL is in them, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st
from sqlalchemy import Column, ColumnElement, Integer, MetaData, Table, and_, literal, not_, null, or_
from sqlalchemy.orm import DeclarativeBase

from sqlalchemy_fsm_mysql import ANY, Event, Machine, StateType, Transition, TransitionHistory

STATES = tuple(f"s{i}" for i in range(12))
COLUMNS = ("a", "b", "c")
PAYLOAD = ("x", "y")
DEFAULTS = {"x": 3, "y": -2}
"""What the effects of borders take when a fire does not give it."""
SMALL = st.integers(-5, 5)

Row = dict[str, Any]


@dataclass(frozen=True)
class Tree:
    """An expression: a column, a payload, a constant, or an operator on others."""

    kind: str
    value: Any = None
    parts: tuple[Tree, ...] = ()

    def leaves(self, kind: str) -> set[str]:
        """The names of its columns or of its payload."""
        here = {self.value} if self.kind == kind else set()
        return here.union(*(part.leaves(kind) for part in self.parts))

    def sql(self, model: Any, payload: Mapping[str, Any]) -> ColumnElement[Any]:
        """The tree in SQLAlchemy's terms."""
        leaves: dict[str, Callable[[], Any]] = {
            "column": lambda: getattr(model, self.value),
            "payload": lambda: payload[self.value],
            "constant": lambda: null() if self.value is None else literal(self.value, Integer()),
        }
        if self.kind in leaves:
            return leaves[self.kind]()
        return SQL[self.kind](*(part.sql(model, payload) for part in self.parts))

    def plain(self, row: Row, payload: Mapping[str, Any]) -> Any:
        """The tree's value in Python, None for NULL."""
        leaves = {"column": row, "payload": payload, "constant": {self.value: self.value}}
        if self.kind in leaves:
            return leaves[self.kind][self.value]
        return PLAIN[self.kind](*(part.plain(row, payload) for part in self.parts))


def strict(function: Callable[..., Any]) -> Callable[..., Any]:
    """NULL makes NULL."""
    return lambda *values: None if None in values else function(*values)


def three_valued(decisive: bool) -> Callable[..., Any]:
    """AND (false decides) and OR (true decides)."""
    return lambda *values: decisive if decisive in values else None if None in values else not decisive


SQL: dict[str, Callable[..., Any]] = {
    "add": lambda left, right: left + right,
    "subtract": lambda left, right: left - right,
    "equal": lambda left, right: left == right,
    "less": lambda left, right: left < right,
    "at least": lambda left, right: left >= right,
    "is null": lambda value: value.is_(None),
    "and": and_,
    "or": or_,
    "not": not_,
}
PLAIN: dict[str, Callable[..., Any]] = {
    "add": strict(lambda left, right: left + right),
    "subtract": strict(lambda left, right: left - right),
    "equal": strict(lambda left, right: left == right),
    "less": strict(lambda left, right: left < right),
    "at least": strict(lambda left, right: left >= right),
    "is null": lambda value: value is None,
    "and": three_valued(decisive=False),
    "or": three_valued(decisive=True),
    "not": strict(lambda value: not value),
}


Effects = tuple[tuple[str, Tree], ...]
Guards = tuple[tuple[str, Tree], ...]  # by name


@dataclass(frozen=True)
class Way:
    """One transition: *source* None stands for ANY, and may be a group's name."""

    source: str | None
    target: str
    guards: Guards
    effects: Effects


@dataclass(frozen=True)
class EventSpec:
    name: str
    ways: tuple[Way, ...]
    effects: Effects
    guards: Guards = ()

    @property
    def trees(self) -> list[Tree]:
        """All expressions of the event itself; those of borders have defaults for what they take."""
        parts = [*self.effects, *self.guards]
        for way in self.ways:
            parts += [*way.effects, *way.guards]
        return [tree for _, tree in parts]


@dataclass(frozen=True)
class Fired:
    """What a fire does in plain Python: the row afterwards, why it was refused, and the guards that were not true."""

    row: Row
    reason: str | None = None
    failed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Spec:
    """A drawn machine. *groups* are each inside the one before it, or apart from it; *borders* are by role and name."""

    states: tuple[str, ...]
    events: tuple[EventSpec, ...]
    groups: tuple[tuple[str, tuple[str, ...]], ...] = ()
    borders: tuple[tuple[tuple[str, str | None], Effects], ...] = ()

    @classmethod
    def of_all(cls, states: tuple[str, ...]) -> Spec:
        """The machine that leads through all *states*."""
        return cls(states, (EventSpec("Next", tuple(Way(*pair, (), ()) for pair in pairwise(states)), ()),))

    def machine(self) -> Machine:
        groups = dict(self.groups)
        entering, leaving = (
            {ANY if of is None else of: _effect(effects, DEFAULTS) for (role, of), effects in self.borders if role == r}
            for r in ("enter", "exit")
        )
        return Machine(
            initial=self.states[0],
            states=self.states,
            events=[_event(event) for event in self.events],
            groups=groups,
            on_enter=entering,
            on_exit=leaving,
        )

    def payload(self, event: EventSpec) -> tuple[str, ...]:
        """What *event* has to be fired with."""
        return tuple(sorted(set().union(*(tree.leaves("payload") for tree in event.trees))))

    def optional(self, event: EventSpec) -> tuple[str, ...]:
        """What *event* may be fired with besides, for the borders on its ways."""
        crossed = [
            effects
            for way in event.ways
            for source in self.sources(event, way)
            for effects in self.crossed(source, way.target)
        ]
        names = set().union(*(tree.leaves("payload") for effects in crossed for _, tree in effects))
        return tuple(sorted(names - set(self.payload(event))))

    def sources(self, event: EventSpec, way: Way) -> tuple[str, ...]:
        groups = dict(self.groups)
        if way.source is not None:
            return groups.get(way.source, (way.source,))
        named = {state for other in event.ways if other.source for state in self.sources(event, other)}
        return tuple(state for state in self.states if state not in named)

    def crossed(self, source: str | None, target: str) -> list[Effects]:
        """The effects of the borders between two states, the least specific first."""
        if source == target:
            return []
        borders, groups = dict(self.borders), dict(self.groups)
        around = sorted(groups, key=lambda name: -len(groups[name]))
        entered = [name for name in around if target in groups[name] and source not in groups[name]]
        left = [name for name in around if source in groups[name] and target not in groups[name]]
        order = [
            ("exit", None), ("enter", None),
            *(("exit", name) for name in left), *(("enter", name) for name in entered),
            ("exit", source or ""), ("enter", target),
        ]  # fmt: skip
        if source is None:
            order.remove(("exit", ""))
        return [borders[border] for border in order if border in borders]

    def ways_from(self, event: EventSpec, state: str) -> list[Way]:
        return [way for way in event.ways if state in self.sources(event, way)]

    def fire(self, event: EventSpec, row: Row, payload: Mapping[str, Any]) -> Fired:
        payload = {**DEFAULTS, **payload}
        ways = self.ways_from(event, row["state"])
        for way in ways:
            if all(tree.plain(row, payload) is True for _, tree in (*event.guards, *way.guards)):
                return Fired(self._moved(row, way.target, payload, [event.effects, way.effects]))
        if not ways:
            return Fired(row, "state")
        asked = {**dict(event.guards), **{name: tree for way in event.ways if way in ways for name, tree in way.guards}}
        return Fired(row, "guard", tuple(name for name, tree in asked.items() if tree.plain(row, payload) is not True))

    def force(self, row: Row, target: str) -> Row:
        """The row after ``force_state``."""
        return self._moved(row, target, DEFAULTS, [])

    def _moved(self, row: Row, target: str, payload: Mapping[str, Any], own: list[Effects]) -> Row:
        effects: dict[str, Tree] = {}
        for more in (*self.crossed(row["state"], target), *own):
            effects |= dict(more)
        values = {column: tree.plain(row, payload) for column, tree in effects.items()}
        return {**row, **values, "state": target}


def _event(spec: EventSpec) -> Event:
    transitions = [
        Transition(
            ANY if way.source is None else way.source,
            way.target,
            guard=_guard(way.guards),
            effect=_effect(way.effects),
        )
        for way in spec.ways
    ]
    return Event(spec.name, transitions, guard=_guard(spec.guards), effect=_effect(spec.effects))


def _guard(guards: Guards) -> Any:
    return {name: _callable(tree.leaves("payload"), tree.sql) for name, tree in guards} or None


def _effect(effects: Effects, defaults: Mapping[str, Any] | None = None) -> Any:
    if not effects:
        return None
    names = set().union(*(tree.leaves("payload") for _, tree in effects))
    return _callable(
        names, lambda model, payload: {column: tree.sql(model, payload) for column, tree in effects}, defaults
    )


def _callable(
    names: set[str], body: Callable[[Any, Mapping[str, Any]], Any], defaults: Mapping[str, Any] | None = None
) -> Callable[..., Any]:
    """*body* with a parameter for each of *names*: a guard's or effect's payload is in its signature."""
    signatures: dict[tuple[str, ...], Callable[..., Any]] = {
        (): lambda model: body(model, {}),
        ("x",): lambda model, x: body(model, {"x": x}),
        ("y",): lambda model, y: body(model, {"y": y}),
        ("x", "y"): lambda model, x, y: body(model, {"x": x, "y": y}),
    }
    function = signatures[tuple(sorted(names))]
    if defaults is not None:
        function.__defaults__ = tuple(defaults[name] for name in sorted(names))  # type: ignore[attr-defined]
    return function


# --- strategies


def numbers(columns: tuple[str, ...]) -> st.SearchStrategy[Tree]:
    """An expression that reads no other columns than these."""
    leaves = st.sampled_from([Tree("payload", name) for name in PAYLOAD]) | st.builds(Tree, st.just("constant"), SMALL)
    if columns:
        leaves |= st.sampled_from([Tree("column", name) for name in columns])
    pairs = st.tuples(leaves, leaves)
    return leaves | st.builds(Tree, st.sampled_from(["add", "subtract"]), st.none(), pairs)


NUMBER = numbers(COLUMNS)
COMPARISON = st.builds(
    Tree, st.sampled_from(["equal", "less", "at least"]), st.none(), st.tuples(NUMBER, NUMBER)
) | st.builds(
    Tree, st.just("is null"), st.none(), st.tuples(st.sampled_from([Tree("column", name) for name in COLUMNS]))
)
GUARD = st.recursive(
    COMPARISON,
    lambda guards: (
        st.builds(Tree, st.sampled_from(["and", "or"]), st.none(), st.tuples(guards, guards))
        | st.builds(Tree, st.just("not"), st.none(), st.tuples(guards))
    ),
    max_leaves=3,
)


@st.composite
def effects(draw: st.DrawFn, order: tuple[str, ...]) -> tuple[tuple[str, Tree], ...]:
    """Values for some columns, each made of itself and of columns later in *order*: so there is no circle."""
    assigned = [name for name in order if draw(st.booleans())]
    return tuple((name, draw(numbers(order[order.index(name) :]))) for name in assigned)


@st.composite
def event_specs(
    draw: st.DrawFn, name: str, states: tuple[str, ...], order: tuple[str, ...], groups: Mapping[str, tuple[str, ...]]
) -> EventSpec:
    """An event whose sources are states, a group of states that are no other source, and ANY."""
    sources: list[str | None] = draw(st.lists(st.sampled_from(states), min_size=1, max_size=4, unique=True))
    free = [name for name, members in groups.items() if not set(members) & set(sources)]
    if free and draw(st.booleans()):
        sources.append(draw(st.sampled_from(free)))
    if draw(st.booleans()) and len({s for source in sources for s in groups.get(source or "", (source,))}) < len(
        states
    ):
        sources.append(None)
    ways = []
    for source in sources:
        number = draw(st.integers(1, 3))
        for i in range(number):
            # Only the last may lack a guard, or those behind it could never win.
            least = 1 if i < number - 1 or draw(st.booleans()) else 0
            trees = draw(st.lists(GUARD, min_size=least, max_size=2 * least))
            guards = tuple((f"g{len(ways)}.{j}", tree) for j, tree in enumerate(trees))
            own = draw(effects(order)) if draw(st.booleans()) else ()
            ways.append(Way(source, draw(st.sampled_from(states)), guards, own))
    of_all = (("all", draw(GUARD)),) if draw(st.integers(0, 3)) == 0 else ()
    return EventSpec(name, tuple(ways), draw(effects(order)) if draw(st.booleans()) else (), of_all)


@st.composite
def groups(draw: st.DrawFn, states: tuple[str, ...]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Up to three groups: an outer one, one inside it, and one apart from both."""
    if not draw(st.booleans()):
        return ()
    cut = draw(st.integers(1, len(states)))
    outer, apart = states[:cut], states[cut:]
    found = {"outer": outer, "apart": apart}
    inner = outer[: draw(st.integers(0, len(outer) - 1))]
    return tuple((name, members) for name, members in {**found, "inner": inner}.items() if members)


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    """A machine of 2 to 12 states. Its event "Next" leads through all of them, so each can be reached."""
    states = STATES[: draw(st.integers(2, len(STATES)))]
    chain = tuple(Way(source, target, (), ()) for source, target in pairwise(states))
    order = tuple(draw(st.permutations(COLUMNS)))
    named = draw(groups(states))
    drawn = [draw(event_specs(f"E{i}", states, order, dict(named))) for i in range(draw(st.integers(1, 3)))]
    around: list[str | None] = [None, *states[:3], *(name for name, _ in named)]
    borders = [
        ((role, of), draw(effects(order)))
        for role in ("enter", "exit")
        for of in draw(st.lists(st.sampled_from(around), max_size=4, unique=True))
    ]
    return Spec(states, (EventSpec("Next", chain, ()), *drawn), named, tuple(border for border in borders if border[1]))


@st.composite
def rows(draw: st.DrawFn, spec: Spec, number: int) -> dict[int, Row]:
    """Rows by key, from 1 on."""
    value = SMALL | st.none()
    return {
        key: {"state": draw(st.sampled_from(spec.states)), **{name: draw(value) for name in COLUMNS}}
        for key in range(1, number + 1)
    }


@st.composite
def payloads(draw: st.DrawFn, spec: Spec, event: EventSpec) -> dict[str, Any]:
    """A value for each name that is required, and for some of the optional ones."""
    optional = [name for name in spec.optional(event) if draw(st.booleans())]
    return {name: draw(SMALL | st.none()) for name in (*spec.payload(event), *optional)}


# --- the machine on a class


def table(states: tuple[str, ...], machine: Machine | None = None) -> Table:
    """The one table, in a MetaData of its own; the states of any drawn machine fit in."""
    machine = machine or Machine(initial=states[0], events=[Event("Next", dict(pairwise(states)))])
    values = [Column(name, Integer) for name in COLUMNS]
    state = Column("state", StateType(machine), nullable=False)
    return Table("drawn_rows", MetaData(), Column("id", Integer, primary_key=True, autoincrement=False), state, *values)


@contextmanager
def mapped(spec: Spec, *, history: bool = False) -> Iterator[Any]:
    """A class with the drawn machine, with or without a history; gone after the block."""
    machine = spec.machine()
    drawn = table(spec.states, machine)

    class Own(DeclarativeBase):
        metadata = drawn.metadata

    model: Any = type("Drawn", (Own,), {"__table__": drawn, "__module__": __name__})
    if history:
        # A name that the class keeps to itself.
        names = {"__tablename__": "drawn_transitions", "__records__": "Drawn.state", "__module__": __name__}
        model.transitions = type("DrawnTransition", (TransitionHistory, Own), names)
    try:
        yield model
    finally:
        Own.registry.dispose()
