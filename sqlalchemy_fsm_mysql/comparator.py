"""``Order.state.can(event)`` and ``Order.state.after(event)``: the machine inside any statement."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BindParameter, Column, ColumnElement, String, bindparam, inspect, literal, type_coerce
from sqlalchemy.sql import visitors

from .errors import UnknownEvent
from .machine import Machine
from .statement import EventSQL, after

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
            sources = [literal(machine.stored(source), String()) for source in machine.sources(event)]
            can: ColumnElement[bool] = self.expr.in_(sources)
            return can
        built = self._event(event)
        composed: ColumnElement[bool] = _composed(built.can(), built, self.expr, payload)
        return composed

    def after(self, event: str, /, **payload: Any) -> ColumnElement[Any]:
        """The state after *event*, as a SQL expression; the state itself where the event is refused.

        Raises: as :meth:`can`.
        """
        machine = self._machine(event)
        if not _is_guarded(machine, event):
            _check(event, payload, machine.payload(event))
            targets = {
                machine.stored(source): machine.stored(target) for source, target in machine.targets(event).items()
            }
            return type_coerce(after(self.expr, targets), self.expr.type)
        built = self._event(event)
        composed: ColumnElement[Any] = _composed(built.after(), built, self.expr, payload)
        return composed

    def _machine(self, event: object) -> Machine:
        machine: Machine = getattr(self.expr.type, "machine")  # noqa: B009 - StateType's, which names this class
        if not isinstance(event, str) or event not in machine.events:
            raise UnknownEvent(event, list(machine.events))
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
    columns = entity.selectable.c if entity.is_aliased_class else None

    def replaced(element: Any, **_: Any) -> Any:
        if isinstance(element, BindParameter) and element.key in built.parameters:
            name = built.parameters[element.key]
            if name in payload:
                return bindparam(None, payload[name], type_=element.type, unique=True)
            return bindparam(name, type_=element.type)
        if columns is not None and isinstance(element, Column) and element.table is built.row.table:
            return columns[element.key]
        return None

    return visitors.replacement_traverse(expression, {}, replaced)
