"""``Order.state.can(event)`` and ``Order.state.after(event)``: the machine inside any statement."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import BindParameter, Column, ColumnElement, String, bindparam, inspect, literal, type_coerce
from sqlalchemy.sql import operators, visitors

from ..errors.texts import listed, shown
from ..machine import Machine
from ..sql.events import EventSQL, after
from ..sql.exact import only_exactly

_EQUALITIES: dict[Any, Any] = {
    operators.eq: operators.in_op,
    operators.in_op: operators.in_op,
    operators.ne: operators.not_in_op,
    operators.not_in_op: operators.not_in_op,
}

STATES = "__state_machines__"
"""Where a mapped class keeps what is known of its state columns, by attribute name."""


class StateComparator(String.Comparator[Any]):
    """The operators of a state column: those of a string, and what its machine adds."""

    def can(self, event: str, /, **payload: Any) -> ColumnElement[bool]:
        """Whether *event* would move the row, its guards included, as a SQL boolean.

        The payload is given here, or left out and bound by name when the statement is executed.

        Raises: UnknownEvent; TypeError for a payload the event does not have.
        """
        machine = self._machine(event)
        if not _is_guarded(machine, event):
            _check(event, payload, machine.payload(event))
            sources = machine.sources(event)
            can: ColumnElement[bool] = self.expr.in_(self._bound(sources))
            return only_exactly(can, self.expr, (text for state in sources for text in machine.spellings(state)))
        built = self._event(event)
        composed: ColumnElement[bool] = _composed(built.can, built, self.expr, payload)
        return composed

    def after(self, event: str, /, **payload: Any) -> ColumnElement[Any]:
        """The state after *event*, as a SQL expression; the state itself where the event is refused.

        Raises: as :meth:`can`.
        """
        machine = self._machine(event)
        if not _is_guarded(machine, event):
            _check(event, payload, machine.payload(event))
            targets = {
                text: machine.stored(target)
                for source, target in machine.targets(event).items()
                for text in machine.spellings(source)
            }
            return type_coerce(after(self.expr, targets), self.expr.type)
        built = self._event(event)
        composed: ColumnElement[Any] = _composed(built.after(), built, self.expr, payload)
        return composed

    def in_group(self, group: str, /) -> ColumnElement[bool]:
        """Whether the row is in one of the states of *group*, as a SQL boolean; an index on the column serves it.

        Raises: ValueError for a group that the machine does not have.
        """
        machine = self._own_machine()
        states = machine.groups.get(group)
        if states is None:
            known = listed(map(shown, machine.groups)) or "none"
            raise ValueError(f"{shown(group)} is no group of this machine; its groups are {known}")
        inside: ColumnElement[bool] = self.expr.in_(self._bound(states))
        return inside

    def operate(self, op: Any, *other: Any, **options: Any) -> ColumnElement[Any]:
        """As a string's; a state that has aliases is compared with each of its spellings."""
        machine = self._own_machine()
        if machine.aliases and op in _EQUALITIES and other:
            states = list(other[0]) if isinstance(other[0], (list, tuple, set, frozenset)) else [other[0]]
            if states and all(map(machine.declares, states)):
                return super().operate(_EQUALITIES[op], self._bound(states), **options)
        return super().operate(op, *other, **options)

    def _bound(self, states: Iterable[Any]) -> list[ColumnElement[Any]]:
        """What a row in one of *states* may hold.

        The state itself has the column's type: where SQLAlchemy evaluates a criterion in memory, it is what instances
        have. An alias is a plain string, as that type would bind it as its state.
        """
        machine = self._own_machine()
        bound: list[ColumnElement[Any]] = []
        for state in states:
            text, *aliases = machine.spellings(state)
            bound += [literal(machine.loaded(text), self.expr.type), *(literal(alias, String()) for alias in aliases)]
        return bound

    def _own_machine(self) -> Machine:
        machine: Machine = getattr(self.expr.type, "machine")  # noqa: B009 - StateType's, which names this class
        return machine

    def _machine(self, event: str) -> Machine:
        machine = self._own_machine()
        machine.event_name(event)  # raises
        return machine

    def _event(self, name: str) -> EventSQL:
        entity = self.expr._annotations.get("parententity")
        if entity is None:
            raise TypeError(
                f"{name!r} has guards, which need the mapped class: use Order.state, not the table's column"
            )
        state = entity.mapper.class_.__dict__[STATES][self.expr._annotations["proxy_key"]]
        built: EventSQL = state.event(name)
        return built


def _is_guarded(machine: Machine, event: str) -> bool:
    return any(transition.guard is not None for transition in machine.transitions(event))


def _check(event: str, given: dict[str, Any], names: tuple[str, ...]) -> None:
    unexpected = [name for name in given if name not in names]
    if unexpected:
        known = ", ".join(map(repr, names)) or "none"
        raise TypeError(f"{event!r} has no payload {', '.join(map(repr, unexpected))}; it has {known}")


def _composed(expression: Any, built: EventSQL, state: Any, payload: dict[str, Any]) -> Any:
    """*expression* on the entity that *state* belongs to, with the payload's values or names."""
    _check(built.name, payload, tuple(dict.fromkeys(built.parameters.values())))
    entity = inspect(state._annotations["parententity"])
    attributes = {column: name for name, column in built.row.columns.items()} if entity.is_aliased_class else {}

    def replaced(element: Any, **_: Any) -> Any:
        if isinstance(element, BindParameter) and element.key in built.parameters:
            name = built.parameters[element.key]
            if name in payload:
                return bindparam(None, payload[name], type_=element.type, unique=True, expanding=element.expanding)
            if name in built.defaults:
                return bindparam(name, built.defaults[name], type_=element.type, expanding=element.expanding)
            return bindparam(name, type_=element.type, expanding=element.expanding)
        if attributes and isinstance(element, Column) and element.table is built.row.table:
            return getattr(entity.entity, attributes[element]).__clause_element__()
        return None

    return visitors.replacement_traverse(expression, {}, replaced)
