"""``Order.state.can(event)`` and ``Order.state.after(event)``: the machine inside any statement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BindParameter,
    Column,
    ColumnElement,
    Dialect,
    String,
    TypeDecorator,
    and_,
    bindparam,
    inspect,
    literal,
    type_coerce,
)
from sqlalchemy.sql import operators, visitors
from sqlalchemy.types import TypeEngine

from ..errors.texts import listed, shown
from ..machine import Machine
from ..sql.exact import only_exactly, storable

if TYPE_CHECKING:
    from ..sql.events import EventSQL

EQUALITIES: dict[Any, Any] = {
    operators.eq: operators.in_op,
    operators.in_op: operators.in_op,
    operators.ne: operators.not_in_op,
    operators.not_in_op: operators.not_in_op,
}

# The operators that search in the text: their operand is a pattern or a part of a text, and no state.
_OF_TEXT = {
    *(operators.like_op, operators.not_like_op, operators.ilike_op, operators.not_ilike_op),
    *(operators.startswith_op, operators.not_startswith_op, operators.istartswith_op, operators.not_istartswith_op),
    *(operators.endswith_op, operators.not_endswith_op, operators.iendswith_op, operators.not_iendswith_op),
    *(operators.contains_op, operators.not_contains_op, operators.icontains_op, operators.not_icontains_op),
    *(operators.match_op, operators.not_match_op, operators.regexp_match_op, operators.not_regexp_match_op),
    *(operators.regexp_replace_op, operators.concat_op),
}

STATES = "__state_machines__"
"""The attribute of a mapped class that has its state columns, by attribute name."""


class StateText(TypeDecorator[str]):
    """The text of a state, which some drivers return as bytes where its collation is binary."""

    impl: TypeEngine[Any] | type[TypeEngine[Any]] = String
    cache_ok: bool | None = True

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return value.decode(errors="replace") if isinstance(value, bytes) else value


class StateComparator(String.Comparator[Any]):
    """The operators of a state column: those of a string, and ``can``, ``after`` and ``in_group`` of its machine."""

    def can(self, event: str, /, **payload: object) -> ColumnElement[bool]:
        """A SQL condition: whether *event* would move the row, its guards included.

        Pass the payload here, or leave it out and bind it by name when the statement is executed.

        Raises: UnknownEvent; TypeError for a payload that the event does not have.
        """
        machine = self._machine(event)
        if not _is_guarded(machine, event):
            _require_payload(event, payload, machine.payload(event))
            sources = machine.sources(event)
            can: ColumnElement[bool] = self.expr.in_(self._bound(sources))
            return only_exactly(can, self.expr, (text for state in sources for text in machine.spellings(state)))
        built = self._event(event)
        composed: ColumnElement[bool] = _composed(built.can, built, self.expr, payload)
        return composed

    # Any: a state, whose class the machine has; StateMapped tells it to type checkers.
    def after(self, event: str, /, **payload: object) -> ColumnElement[Any]:
        """A SQL expression: the state of the row after *event*; its present state where the event is refused.

        Raises: as :meth:`can`.
        """
        machine = self._machine(event)
        if not _is_guarded(machine, event):
            from ..sql.events import after

            _require_payload(event, payload, machine.payload(event))
            targets = {
                text: machine.stored(target)
                for source, target in machine.targets(event).items()
                for text in storable(self.expr, machine.spellings(source))
            }
            return type_coerce(after(self.expr, targets), self.expr.type)
        built = self._event(event)
        composed: ColumnElement[Any] = _composed(built.after(), built, self.expr, payload)
        return composed

    def due(self, event: str, /) -> ColumnElement[bool]:
        """A SQL condition: whether the timed *event* is due.

        It is due when it is allowed from the row's state and its time has come. The event's other guards are left out,
        so that an index on the state and the time can be used. :meth:`can` evaluates all guards.

        Raises: UnknownEvent; ValueError for an event without ``after=``.
        """
        machine = self._machine(event)
        if not machine.events[machine.event_name(event)].is_timed:
            timed = listed(shown(one.name) for one in machine.events.values() if one.is_timed) or "none"
            raise ValueError(f"event {shown(event)} has no after=, so it is never due; the timed events are {timed}")
        from ..sql.locks import without_locks

        built = self._event(event)
        due = without_locks(built.is_due(*built.from_source()))
        composed: ColumnElement[bool] = _composed(due, built, self.expr, {})
        return composed

    def in_group(self, group: str, /) -> ColumnElement[bool]:
        """A SQL condition: whether the row is in one of the states of *group*. An index on the column can be used.

        Raises: ValueError for a group that the machine does not have.
        """
        machine = self._own_machine()
        states = machine.groups.get(group)
        if states is None:
            known = listed(map(shown, machine.groups)) or "none"
            raise ValueError(f"{shown(group)} is not a group of this machine; its groups are {known}")
        inside: ColumnElement[bool] = self.expr.in_(self._bound(states))
        return inside

    # Any: as ColumnOperators declares it.
    def operate(self, op: Any, *other: Any, **options: Any) -> ColumnElement[Any]:
        """The operator, as on sqlalchemy.Enum; a state with aliases is compared with each of its spellings.

        Raises: TypeError for an operator of text where the column stores numbers.
        """
        if op in _OF_TEXT:
            self._require_text(op)
            return type_coerce(self.expr, StateText()).operate(op, *other, **options)
        machine = self._own_machine()
        if machine.aliases and other:
            if op in EQUALITIES:
                states = list(other[0]) if isinstance(other[0], (list, tuple, set, frozenset)) else [other[0]]
                if any(map(machine.declares, states)):
                    spellings = [one for state in states for one in self._spellings_of(state)]
                    return super().operate(EQUALITIES[op], spellings, **options)
            elif op in (operators.is_distinct_from, operators.is_not_distinct_from) and machine.declares(other[0]):
                is_one = and_(self.expr.is_not(None), self.expr.in_(self._bound(other)))
                return is_one if op is operators.is_not_distinct_from else ~is_one
        if op in (operators.in_op, operators.not_in_op):
            return super().operate(op, self._each_by_its_type(other[0]), **options)
        return super().operate(op, *other, **options)

    def _each_by_its_type(self, values: Any) -> Any:
        """*values* of ``in_()``; each is bound by its own type where old code mixes states with other spellings.

        SQLAlchemy takes the type of the first one for all of them.
        """
        type_ = self.expr.type
        if not isinstance(values, (list, tuple, set, frozenset)):
            return values
        listed = list(values)
        if not all(isinstance(value, (str, int, Enum)) for value in listed):  # NULL, or a SQL expression
            return values
        types = [type_.coerce_compared_value(operators.eq, value) for value in listed]
        are_alike = all(one is type_ for one in types) or all(one is not type_ for one in types)
        return values if are_alike else [literal(value, one) for value, one in zip(listed, types, strict=True)]

    # Any: as ColumnOperators declares it.
    def reverse_operate(self, op: Any, other: Any, **options: Any) -> ColumnElement[Any]:
        """As :meth:`operate`, with the column on the right of the operator."""
        if op in _OF_TEXT:
            self._require_text(op)
            return type_coerce(self.expr, StateText()).reverse_operate(op, other, **options)
        return super().reverse_operate(op, other, **options)

    def _require_text(self, op: Any) -> None:
        if self._numbers() is not None:
            raise TypeError(
                f"{op.__name__} searches in a text, and {self.expr} stores numbers: compare it with states, as by in_()"
            )

    def _numbers(self) -> Mapping[str, int] | None:
        numbers: Mapping[str, int] | None = getattr(self.expr.type, "numbers")  # noqa: B009 - as in _own_machine
        return numbers

    def _spellings_of(self, state: Any) -> list[Any]:
        return self._bound([state]) if self._own_machine().declares(state) else [state]

    def _bound(self, states: Iterable[Any]) -> list[ColumnElement[Any]]:
        """The stored values of a row in one of *states*.

        The state itself is bound with the column's type, because SQLAlchemy may compare it with instances in memory. An
        alias is bound as a plain string, because the column's type would bind it as its state.
        """
        machine = self._own_machine()
        bound: list[ColumnElement[Any]] = []
        for state in states:
            text, *aliases = storable(self.expr, machine.spellings(state))
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
                f"{name!r} has guards or after=, which need the mapped class: use Order.state, not the table's column"
            )
        state = entity.mapper.class_.__dict__[STATES][self.expr._annotations["proxy_key"]]
        built: EventSQL = state.event(name)
        return built


def _is_guarded(machine: Machine, event: str) -> bool:
    timed = machine.events[machine.event_name(event)].is_timed
    return timed or any(transition.guard is not None for transition in machine.transitions(event))


def _require_payload(event: str, given: dict[str, Any], names: tuple[str, ...]) -> None:
    unexpected = [name for name in given if name not in names]
    if unexpected:
        known = ", ".join(map(repr, names)) or "none"
        raise TypeError(f"{event!r} has no payload {', '.join(map(repr, unexpected))}; it has {known}")


def _composed(expression: Any, built: EventSQL, state: Any, payload: dict[str, Any]) -> Any:
    """*expression* on the entity that *state* belongs to, with the payload's values or names."""
    from ..core.payload import check_value, exact_value

    _require_payload(built.name, payload, tuple(dict.fromkeys(built.parameters.values())))
    entity = inspect(state._annotations["parententity"])
    attributes = {column: name for name, column in built.row.columns.items()} if entity.is_aliased_class else {}

    def replaced(element: Any, **_: Any) -> Any:
        if isinstance(element, BindParameter) and element.key in built.parameters:
            name = built.parameters[element.key]
            if name in payload:
                check_value(built, element.key, name, payload[name])
                value = exact_value(built, element.key, payload[name])
                return bindparam(None, value, type_=element.type, unique=True, expanding=element.expanding)
            if name in built.defaults:
                return bindparam(name, built.defaults[name], type_=element.type, expanding=element.expanding)
            return bindparam(name, type_=element.type, expanding=element.expanding)
        if attributes and isinstance(element, Column) and element.table is built.row.table:
            return getattr(entity.entity, attributes[element]).__clause_element__()
        return None

    return visitors.replacement_traverse(expression, {}, replaced)
