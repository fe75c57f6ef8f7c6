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
from sqlalchemy.orm import registry

from sqlalchemy_fsm_mysql import ANY, Event, Machine, StateType, Transition

STATES = tuple(f"s{i}" for i in range(12))
COLUMNS = ("a", "b", "c")
PAYLOAD = ("x", "y")
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


@dataclass(frozen=True)
class Way:
    """One transition: *source* None stands for ANY."""

    source: str | None
    target: str
    guard: Tree | None
    effects: tuple[tuple[str, Tree], ...]


@dataclass(frozen=True)
class EventSpec:
    name: str
    ways: tuple[Way, ...]
    effects: tuple[tuple[str, Tree], ...]

    @property
    def payload(self) -> tuple[str, ...]:
        """What the event has to be fired with."""
        trees = [tree for _, tree in self.effects]
        for way in self.ways:
            trees += [tree for _, tree in way.effects]
            trees += [way.guard] if way.guard is not None else []
        return tuple(sorted(set().union(*(tree.leaves("payload") for tree in trees))))

    def ways_from(self, state: str) -> list[Way]:
        named = [way for way in self.ways if way.source == state]
        return named or [way for way in self.ways if way.source is None]

    def fire(self, row: Row, payload: Mapping[str, Any]) -> tuple[Row, str | None]:
        """The row afterwards, and why it was refused: None, "state" or "guard"."""
        ways = self.ways_from(row["state"])
        for way in ways:
            if way.guard is None or way.guard.plain(row, payload) is True:
                effects = {**dict(self.effects), **dict(way.effects)}
                values = {column: tree.plain(row, payload) for column, tree in effects.items()}
                return {**row, **values, "state": way.target}, None
        return row, "guard" if ways else "state"


@dataclass(frozen=True)
class Spec:
    states: tuple[str, ...]
    events: tuple[EventSpec, ...]

    def machine(self) -> Machine:
        return Machine(initial=self.states[0], states=self.states, events=[_event(event) for event in self.events])


def _event(spec: EventSpec) -> Event:
    transitions = [
        Transition(
            ANY if way.source is None else way.source,
            way.target,
            guard=None if way.guard is None else _callable(way.guard.leaves("payload"), way.guard.sql),
            effect=_effect(way.effects),
        )
        for way in spec.ways
    ]
    return Event(spec.name, transitions, effect=_effect(spec.effects))


def _effect(effects: tuple[tuple[str, Tree], ...]) -> Callable[..., Any] | None:
    if not effects:
        return None
    names = set().union(*(tree.leaves("payload") for _, tree in effects))
    return _callable(names, lambda model, payload: {column: tree.sql(model, payload) for column, tree in effects})


def _callable(names: set[str], body: Callable[[Any, Mapping[str, Any]], Any]) -> Callable[..., Any]:
    """*body* with a parameter for each of *names*: a guard's or effect's payload is in its signature."""
    signatures: dict[tuple[str, ...], Callable[..., Any]] = {
        (): lambda model: body(model, {}),
        ("x",): lambda model, x: body(model, {"x": x}),
        ("y",): lambda model, y: body(model, {"y": y}),
        ("x", "y"): lambda model, x, y: body(model, {"x": x, "y": y}),
    }
    return signatures[tuple(sorted(names))]


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
def event_specs(draw: st.DrawFn, name: str, states: tuple[str, ...]) -> EventSpec:
    order = tuple(draw(st.permutations(COLUMNS)))
    sources: list[str | None] = draw(st.lists(st.sampled_from(states), min_size=1, max_size=5, unique=True))
    if draw(st.booleans()) and len(sources) < len(states):
        sources.append(None)
    ways = []
    for source in sources:
        number = draw(st.integers(1, 3))
        for i in range(number):
            # Only the last may lack a guard, or those behind it could never win.
            guard = draw(GUARD) if i < number - 1 or draw(st.booleans()) else None
            own = draw(effects(order)) if draw(st.booleans()) else ()
            ways.append(Way(source, draw(st.sampled_from(states)), guard, own))
    return EventSpec(name, tuple(ways), draw(effects(order)) if draw(st.booleans()) else ())


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    """A machine of 2 to 12 states. Its event "Next" leads through all of them, so each can be reached."""
    states = STATES[: draw(st.integers(2, len(STATES)))]
    chain = tuple(Way(source, target, None, ()) for source, target in pairwise(states))
    drawn = [draw(event_specs(f"E{i}", states)) for i in range(draw(st.integers(1, 3)))]
    return Spec(states, (EventSpec("Next", chain, ()), *drawn))


@st.composite
def rows(draw: st.DrawFn, spec: Spec, number: int) -> dict[int, Row]:
    """Rows by key, from 1 on."""
    value = SMALL | st.none()
    return {
        key: {"state": draw(st.sampled_from(spec.states)), **{name: draw(value) for name in COLUMNS}}
        for key in range(1, number + 1)
    }


@st.composite
def payloads(draw: st.DrawFn, event: EventSpec) -> dict[str, Any]:
    return {name: draw(SMALL | st.none()) for name in event.payload}


# --- the machine on a class


def table(states: tuple[str, ...], machine: Machine | None = None) -> Table:
    """The one table, in a MetaData of its own; the states of any drawn machine fit in."""
    machine = machine or Machine(initial=states[0], events=[Event("Next", dict(pairwise(states)))])
    values = [Column(name, Integer) for name in COLUMNS]
    state = Column("state", StateType(machine), nullable=False)
    return Table("drawn_rows", MetaData(), Column("id", Integer, primary_key=True, autoincrement=False), state, *values)


@contextmanager
def mapped(spec: Spec) -> Iterator[Any]:
    """A class with the drawn machine, gone after the block."""
    classes = registry()
    model = type("Drawn", (), {})
    classes.map_imperatively(model, table(spec.states, spec.machine()))
    try:
        yield model
    finally:
        classes.dispose()
