"""A state column on a mapped class, and the functions that find one: by class, by event, by attribute."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Column, inspect
from sqlalchemy.orm import ColumnProperty, Mapper

from ..core.target import EXTRAS, Extras, Target
from ..errors import UnknownEvent
from ..errors.texts import State, shown, stored_form
from ..machine import Machine
from .column import StateType
from .comparator import STATES
from .placement import other_state, require_place
from .protection import protect
from .since import find_since

if TYPE_CHECKING:
    from ..sql.events import EventSQL, StateRow


class MappedState(Target):
    """One state column on one mapped class.

    The modules that build its SQL are imported where an event is built, which is at its first fire.
    """

    mapper: Mapper[Any]
    model: type[Any]
    attribute: str
    column: Column[Any]
    machine: Machine
    protected: bool

    def __init__(self, mapper: Mapper[Any], attribute: str, column: Column[Any]) -> None:
        self.mapper, self.model, self.attribute, self.column = mapper, mapper.class_, attribute, column
        type_ = cast(StateType, column.type)
        self.machine, self.protected = type_.machine, type_.protected
        extras: Extras | None = column.info.get(EXTRAS)
        if extras is None or extras.column is not column:  # Table.to_metadata() copies a column's info
            extras = column.info[EXTRAS] = Extras(column, one_packet=type_.one_packet)
        self.extras = extras
        self._events: dict[str, EventSQL] = {}
        self._forced: dict[State, EventSQL] = {}
        # By event and state: the oldest time, and the number of the turn, at which fire_due has served them last.
        self.served: dict[tuple[str, str], tuple[datetime, int]] = {}

    @cached_property
    def row(self) -> StateRow:
        from .rows import state_row

        return state_row(self.mapper, self.attribute, self.column, self.machine, self.extras.since)

    @cached_property
    def key_attributes(self) -> tuple[str, ...]:
        return tuple(self.mapper.get_property_by_column(part).key for part in self.mapper.primary_key)

    @cached_property
    def counts_versions(self) -> bool:
        """Whether the version is SQLAlchemy's own counter, which SQL can increment by itself."""
        from .rows import counts_versions

        return counts_versions(self.mapper)

    @cached_property
    def makes_versions(self) -> bool:
        from .rows import makes_versions

        return makes_versions(self.mapper)

    def next_version(self, version: Any) -> Any:
        generator = self.mapper.version_id_generator
        assert callable(generator)
        return generator(version)

    def event(self, name: Any) -> EventSQL:
        """The SQL of the event *name*, built at its first use.

        Raises: UnknownEvent.
        """
        name = self.machine.event_name(name)
        built = self._events.get(name)
        if built is None:
            from ..sql.expressions import event_sql

            built = event_sql(self.model, self.machine, name, self.row, other_state)
            self._events[name] = built
        return built

    def forced_to(self, state: State) -> EventSQL:
        if not self.machine.borders.effects and self.extras.since is None:
            return self.forced
        built = self._forced.get(state)
        if built is None:
            from ..sql.expressions import forced_sql

            built = self._forced[state] = forced_sql(self.model, self.machine, state, self.row, other_state)
        return built

    def changed_with(self, event: EventSQL) -> tuple[str, ...]:
        """The attributes, besides the state and the version, that the event's UPDATE may change."""
        # Subclasses share the events of their base and may map more columns, so the key names this class.
        key = ("changed", id(self))
        if key not in event.cache:
            assigned = {column for branch in event.branches for column in branch.effects} | set(event.outside)
            by_itself = {c for c in self.row.table.c if c.onupdate is not None or c.server_onupdate is not None}
            changed = (assigned | by_itself) - {self.column, self.row.version}
            # A column_property() may be computed from a column that has changed. SQLAlchemy's flush expires it as well.
            computed = [
                p.key for p in expirable(self.mapper) if p.expire_on_flush and not isinstance(p.columns[0], Column)
            ]
            plain = [name for name, column in self.row.columns.items() if column in changed]
            event.cache[key] = (*plain, *computed)
        attributes: tuple[str, ...] = event.cache[key]
        return attributes

    def state_in_memory(self, instance: Any) -> Any:
        """The state of *instance* in memory, without SQL: the initial one before the first flush, None when expired."""
        state = instance.__dict__.get(self.attribute)
        return self.machine.initial if state is None and not inspect(instance).has_identity else state


def expirable(mapper: Mapper[Any]) -> list[ColumnProperty[Any]]:
    """The column attributes of the mapped class's instances; a computed discriminator has no attribute."""
    return [attribute for attribute in mapper.column_attrs if attribute.key in mapper.class_manager]


def state_columns(mapper: Mapper[Any]) -> list[tuple[str, Column[Any]]]:
    """The attributes of *mapper* with a machine's state. Usable before the mappers are configured."""
    return [(key, column) for key, column in mapper.columns.items() if isinstance(column.type, StateType)]


class MappedStates(dict[str, MappedState]):
    """The state columns of one mapped class, by attribute name, and which of them has which event."""

    def __init__(self, states: Mapping[str, MappedState]) -> None:
        super().__init__(states)
        self.events: dict[str, tuple[MappedState, EventSQL]] = {}  # by name, those that were fired without column=


def mapped_states(model: Any) -> MappedStates:
    """The state columns of a mapped class, by attribute name.

    Raises: TypeError when *model* is not a mapped class, or one without a state machine.
    """
    states: MappedStates | None = model.__dict__.get(STATES) if isinstance(model, type) else None
    if states is None:
        if isinstance(model, type) and inspect(model, raiseerr=False) is not None:
            raise TypeError(f"{model.__name__} is mapped, but has no StateMachineColumn")
        name = model.__name__ if isinstance(model, type) else shown(model)
        raise TypeError(f"{name} is not mapped by SQLAlchemy; give a mapped class with a StateMachineColumn")
    return states


def mapped_event(model: Any, event: object, column: Any = None) -> tuple[MappedState, EventSQL]:
    """The one state column of *model* whose machine has *event*, and the event's SQL on it.

    Raises: as :func:`mapped_state`.
    """
    if column is None and type(event) is str:  # a subclass of str may redefine hash and ==
        states: MappedStates | None = model.__dict__.get(STATES) if isinstance(model, type) else None
        known = states.events.get(event) if states is not None else None
        if known is None:
            mapped = mapped_state(model, event)
            known = mapped_states(model).events[event] = mapped, mapped.event(event)
        return known
    mapped = mapped_state(model, event, column)
    return mapped, mapped.event(cast(str, event))


def mapped_state(model: Any, event: object, column: Any = None) -> MappedState:
    """The one state column of *model* whose machine has *event*, or the one named by *column*.

    Raises: UnknownEvent when no machine has the event; TypeError when *column* is none of them, or is needed.
    """
    states: Mapping[str, MappedState] = mapped_states(model)
    if column is not None:
        chosen = named_state(model, column)
        states = {chosen.attribute: chosen}
    # A subclass of str may redefine hash and ==, so the lookup uses its exact text.
    name = stored_form(event) if isinstance(event, str) else None
    having = [state for state in states.values() if name in state.machine.events]
    if not having:
        raise UnknownEvent(event, [name for state in states.values() for name in state.machine.events], model=model)
    if len(having) > 1:
        names = " or ".join(f"column={state.attribute!r}" for state in having)
        raise TypeError(
            f"{len(having)} machines of {model.__name__} have the event {shown(event)}: name one by {names}"
        )
    return having[0]


def named_state(model: Any, column: Any) -> MappedState:
    """The state column of *model* that *column* names: an attribute's name, or ``Order.state`` itself.

    Raises: TypeError when it names none.
    """
    states = mapped_states(model)
    name = column if isinstance(column, str) else getattr(column, "key", None)
    if not isinstance(name, str) or name not in states:
        raise TypeError(
            f"column={shown(name)} is not a state machine of {model.__name__}; it has {', '.join(map(repr, states))}"
        )
    return states[name]


def attribute_state(attribute: Any) -> MappedState:
    """The state column that *attribute* is: ``Order.state`` itself, and not its name, its class or its table's column.

    Raises: TypeError when it is none.
    """
    model = getattr(attribute, "class_", None)
    if model is None:
        raise TypeError(f"{shown(attribute)} is not a state column of a mapped class; give one, such as Order.state")
    return named_state(model, attribute)


def sole_state(model: Any, column: Any = None) -> MappedState:
    """The one state column of *model*, or the one that *column* names.

    Raises: TypeError when *column* names none, or is needed.
    """
    if column is not None:
        return named_state(model, column)
    states = mapped_states(model)
    if len(states) > 1:
        raise TypeError(
            f"{model.__name__} has {len(states)} machines: name one by column={' or column='.join(map(repr, states))}"
        )
    return next(iter(states.values()))


def equip(mapper: Mapper[Any]) -> list[MappedState]:
    """Store the state columns of a new *mapper* on its class, and protect them.

    Raises: InvalidMachine when events cannot move one of them.
    """
    for name, column in state_columns(mapper):
        require_place(mapper, name, column)
    states = {name: MappedState(mapper, name, column) for name, column in state_columns(mapper)}
    find_since(mapper, states)
    if states:
        setattr(mapper.class_, STATES, MappedStates(states))
    for state in states.values():
        protect(state)
    return list(states.values())
