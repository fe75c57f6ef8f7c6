"""From a machine's functions to SQL: calls each guard and effect of an event once, and checks the value returned."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any, cast

from sqlalchemy import (
    TIMESTAMP,
    Alias,
    BinaryExpression,
    BindParameter,
    Column,
    ColumnElement,
    Join,
    Select,
    Table,
    TextClause,
    TypeCoerce,
    and_,
    bindparam,
    false,
    literal,
    null,
    true,
    type_coerce,
)
from sqlalchemy.sql import visitors
from sqlalchemy.sql.annotation import _deep_deannotate
from sqlalchemy.types import TypeEngine

from ..errors import InvalidMachine
from ..errors.texts import State, listed, stored_form
from ..machine import BorderEffect, Machine
from ..machine.guards import AFTER
from ..machine.payload import Takes as Payload
from ..machine.states import FORCED
from .clock import utc_ago, utc_now
from .events import PAYLOAD, Branch, Due, EventSQL, StateRow
from .exact import storable
from .locks import for_share
from .unfit import unfit_calls, unfit_dates

# A function that gives the SQL for a value which an effect assigns to the state of another machine; None for any other
# column. It raises ValueError for a state that the other machine does not declare.
StateValue = Callable[[Column[Any], Any], "ColumnElement[Any] | None"]


Effects = dict[Column[Any], "ColumnElement[Any]"]

_TEXT = "text(), which has no type and no columns; write the model's columns, or literal_column('n = 0')"


def event_sql(model: type[Any], machine: Machine, event: str, row: StateRow, state_value: StateValue) -> EventSQL:
    """*event* of *machine* on *model*, its guards and effects called with the payload's names as bound parameters.

    Raises: InvalidMachine when a function raises, or its SQL cannot be part of an UPDATE of the row's table.
    """
    return _Builder(model, machine, event, row, state_value).build()


def forced_sql(model: type[Any], machine: Machine, target: State, row: StateRow, state_value: StateValue) -> EventSQL:
    """The SQL of ``force_state`` to *target*, in the form of an event, with the effects of the borders.

    Raises: InvalidMachine as :func:`event_sql`; TypeError when an effect needs a payload.
    """
    return _Builder(model, machine, FORCED, row, state_value).forced(target)


class _Builder:
    def __init__(self, model: type[Any], machine: Machine, event: str, row: StateRow, state_value: StateValue) -> None:
        self.model, self.machine, self.event, self.row, self.state_value = (
            model,
            machine,
            event,
            row,
            state_value,
        )
        self.payload = Payload()
        self.parameters: dict[str, str] = {}
        self.types: dict[str, TypeEngine[Any]] = {}
        self.lists: set[str] = set()
        self.problems: list[str] = []
        self._guards: dict[int, ColumnElement[bool]] = {}  # by the function's id
        self._assigned: dict[int, Effects] = {}
        self._now: ColumnElement[Any] = utc_now()

    def build(self) -> EventSQL:
        machine = self.machine
        self.payload = Payload(machine.payload(self.event), machine.optional_payload(self.event))
        common = self._effects(machine.events[self.event].effect, "effect")
        due = self._due()
        timed = () if due is None else ((AFTER, due.guard),)
        parts = []
        for transition in machine.transitions(self.event):
            guards = tuple((str(guard.name), self._guard(guard.function)) for guard in transition.guards) + timed
            own = common | self._effects(transition.effect, "effect")
            parts.append((transition, guards, self._crossing(transition.source, transition.target, own) | own))
        # A source state has one branch for each of its spellings: a row may have an alias as its stored value.
        by_spelling = [
            (text, *part)
            for part in parts
            for text in storable(self.row.state, machine.spellings(cast(State, part[0].source)))
        ]
        branches = tuple(
            Branch(
                source,
                machine.stored(transition.target),
                _all_of(guards),
                effects,
                number=i,
                leaves=machine.loaded(source),
                leads_to=machine.loaded(machine.stored(transition.target)),
                guards=guards,
            )
            for i, (source, transition, guards, effects) in enumerate(by_spelling)
        )
        self._raise()
        built = EventSQL(
            self.event,
            self.row,
            machine.stored_states,
            branches,
            self.parameters,
            self.payload.names,
            self.payload.optional,
            self.types,
            frozenset(self.lists),
            (*machine.guards(self.event), *(name for name, _ in timed)),
            recorded=machine.events[self.event].recorded,
            due=due,
        )
        for branch in branches:
            built.branch_assignments(branch)  # raises now for effects that read each other in a circle
            built.read(branch.code)
        return built

    def forced(self, target: State) -> EventSQL:
        """The SQL of ``force_state`` to *target*, with the effects of the borders between any state and *target*."""
        machine = self.machine
        crossed = [machine.borders.crossed(state, target) for state in (None, *machine.states)]
        self.payload = Payload.of(*(border.function for borders in crossed for border in borders))
        if self.payload.required:
            raise TypeError(
                f"forcing {stored_form(target)!r} writes an effect of on_enter or on_exit that needs"
                f" {listed(map(repr, self.payload.required))}, which force_state cannot give: give it a default there"
            )
        sources = [
            (text, state) for state in machine.states for text in storable(self.row.state, machine.spellings(state))
        ]
        branches = tuple(
            Branch(
                text,
                machine.stored(target),
                None,
                self._crossing(state, target, {}),
                number=i,
                leaves=state,
                leads_to=target,
            )
            for i, (text, state) in enumerate(sources)
        )
        outside = self._crossing(None, target, {})
        self._raise()
        return EventSQL(
            self.event,
            self.row,
            machine.stored_states,
            branches,
            self.parameters,
            self.payload.names,
            self.payload.optional,
            self.types,
            frozenset(self.lists),
            outside=outside,
        )

    def _raise(self) -> None:
        if self.problems:
            raise InvalidMachine(list(dict.fromkeys(self.problems)), self.machine.name)

    def _crossing(self, source: Any, target: State, own: Effects) -> Effects:
        """The effects of the borders between *source* and *target*; of several on one column, the most specific.

        Columns that the transition's *own* effects write are left out, because those effects win. A change of the state
        also writes the time at which the row came into its state.
        """
        borders = self.machine.borders
        chosen: dict[Column[Any], tuple[BorderEffect, ColumnElement[Any]]] = {}
        for border in borders.crossed(source, target):
            for column, value in self._effects(border.function, f"on_{border.role} of {border}").items():
                if column in own:
                    continue
                first, _ = chosen.setdefault(column, (border, value))
                if borders.conflicts(first, border):
                    self.problems.append(
                        f"on_{border.role} of {first} and of {border} both set {column.name!r}, and neither group is"
                        " inside the other: leave one, or set it by an effect of the state or the event"
                    )
        effects = {column: value for column, (_, value) in chosen.items()}
        if self.row.since is not None and source != target:
            effects[self.row.since] = self._now
        return effects

    def _due(self) -> Due | None:
        """The time of the event; None of one that is not timed."""
        after, since = self.machine.events[self.event].after, self.row.since
        if after is None:
            return None
        if isinstance(after, timedelta):
            if since is None:  # refused when the class was mapped
                raise InvalidMachine([f"event {self.event!r}: its after needs a StateSinceColumn"], self.machine.name)
            return Due(since <= utc_ago(after), since, after)
        value = _element(self._call_with_payload(after, AFTER))
        if not isinstance(value, ColumnElement):
            self._problem(
                AFTER, f"returned {type(value).__name__}; it has to return a SQL expression, such as a column"
            )
            value = null()
        moment = self._in_core_terms(value, AFTER)
        for column in visitors.iterate(moment):
            if isinstance(column, Column) and isinstance(column.type, TIMESTAMP):
                zoned = f"reads {column.name!r}, a TIMESTAMP, which MySQL shows in the time zone of each session"
                self._problem(AFTER, f"{zoned}: use DATETIME in UTC")
        return Due(moment <= self._now, moment)

    # Many branches share one guard or effect. Each function is called once, and its SQL is shared.
    def _guard(self, guard: Callable[..., Any]) -> ColumnElement[bool]:
        if id(guard) not in self._guards:
            self._guards[id(guard)] = self._called_guard(guard)
        return self._guards[id(guard)]

    def _effects(self, effect: Callable[..., Any] | None, role: str) -> Effects:
        if effect is None:
            return {}
        if id(effect) not in self._assigned:
            self._assigned[id(effect)] = self._called_effect(effect, role)
        return self._assigned[id(effect)]

    def _called_guard(self, guard: Callable[..., Any]) -> ColumnElement[bool]:
        value = self._call_with_payload(guard, "guard")
        if isinstance(value, bool):
            return true() if value else false()
        if isinstance(value, TextClause):
            self._problem("guard", f"returned {_TEXT}")
            return false()
        if not isinstance(_element(value), ColumnElement):
            self._problem("guard", f"returned {type(value).__name__}; it must return a SQL expression")
            return false()
        return self._in_core_terms(_element(value), "guard")

    def _called_effect(self, effect: Callable[..., Any], role: str) -> Effects:
        values = self._call_with_payload(effect, role)
        if not isinstance(values, Mapping):
            self._problem(
                role,
                f"returned {type(values).__name__}; it must return a dict of attribute name to SQL",
            )
            return {}
        assigned = {}
        for attribute, value in values.items():
            column = self._assignable(attribute, role)
            if column is not None:
                assigned[column] = self._value(column, value, role)
        return assigned

    def _call_with_payload(self, function: Callable[..., Any], role: str) -> Any:
        names = self.machine.callable_payload(function)
        try:
            with _no_truth_of_comparisons():
                return function(self.model, **{name: bindparam(name) for name in names})
        except Exception as error:
            hint = (
                " (SQL expressions are combined with & | ~, not with and, or, not)"
                if "Boolean value" in str(error)
                else ""
            )
            raise InvalidMachine(
                [f"event {self.event!r}: its {role} raised {error!r}{hint}"], self.machine.name
            ) from error

    def _assignable(self, attribute: Any, role: str) -> Column[Any] | None:
        column = self.row.columns.get(attribute) if isinstance(attribute, str) else None
        if column is None:
            known = ", ".join(repr(name) for name in self.row.columns)
            self._problem(
                role,
                f"sets {attribute!r}, which is not a column attribute on table {self.row.table.name!r}; it has {known}",
            )
        elif column is self.row.since:
            self._problem(role, f"sets {attribute!r}, a StateSinceColumn, which every change of the state writes")
        elif column is self.row.state:
            self._problem(role, f"sets {attribute!r}, the machine's own state: only the transition's target does")
        elif column in self.row.key or column is self.row.version:
            self._problem(role, f"sets {attribute!r}, the row's key or version")
        else:
            return column
        return None

    def _value(self, column: Column[Any], value: Any, role: str) -> ColumnElement[Any]:
        try:
            state = self.state_value(column, value)
        except ValueError as error:
            self._problem(role, str(error))
            return null()
        if state is not None:
            return state
        element = _element(value)
        if value is None:
            return null()
        if isinstance(value, TextClause):
            self._problem(role, f"sets {column.name!r} to {_TEXT}")
            return null()
        if not isinstance(element, ColumnElement):
            return literal(value, column.type)
        if isinstance(element, BindParameter) and element.type._isnull:
            element = type_coerce(element, column.type)
        return self._in_core_terms(element, role)

    def _in_core_terms(self, expression: ColumnElement[Any], role: str) -> ColumnElement[Any]:
        """*expression* in Core terms, with a bound parameter of another name for each use of the payload.

        SQLAlchemy would read a parameter named like a column as an assignment to it, and a name used with two types
        would get only one of them.
        """
        table = self.row.table
        for message in (*_misplaced(expression, table), *unfit_calls(expression, table), *unfit_dates(expression)):
            self._problem(role, message)
        names = self.payload.names

        def replaced(element: Any, **_: Any) -> Any:
            bound = element.clause if isinstance(element, TypeCoerce) else element
            if isinstance(bound, BindParameter) and bound.key in names and not bound.unique:
                name = PAYLOAD.format(len(self.parameters), bound.key)
                self.parameters[name] = bound.key
                self.types[name] = element.type
                if bound.expanding:
                    self.lists.add(name)
                return bindparam(name, type_=element.type, expanding=bound.expanding)
            if isinstance(element, Column) and element.table is self.row.table:
                return self.row.table.c[element.key]
            return None

        # SQLAlchemy marks the criterion of a relationship's any() and has() so that replacement_traverse() skips it.
        # The payload in it must be replaced, so the mark is removed.
        opened = _deep_deannotate(for_share(expression), ["no_replacement_traverse"])
        result: ColumnElement[Any] = visitors.replacement_traverse(opened, {}, replaced)
        return result

    def _problem(self, role: str, text: str) -> None:
        self.problems.append(f"event {self.event!r}: its {role} {text}")


def _all_of(guards: Sequence[tuple[str, ColumnElement[bool]]]) -> ColumnElement[bool] | None:
    conditions = [guard for _, guard in guards]
    return and_(*conditions) if len(conditions) > 1 else next(iter(conditions), None)


@contextmanager
def _no_truth_of_comparisons() -> Iterator[None]:
    """Within the block, refuse ``a == 1 and b == 2``, which silently evaluates to ``b == 2``.

    SQLAlchemy defines the truth of ``==`` for its own use in sets, so ``and`` drops the first comparison. A profile
    function sees each call of ``BinaryExpression.__bool__``, and the caller's module. Under another profiler nothing is
    checked, because a thread has one profile function, and CPython before 3.12 cannot restore that of cProfile.

    Raises: TypeError when code outside of SQLAlchemy asked for the truth of a comparison.
    """
    # A profiler written in C, such as yappi, may not show in sys.getprofile(), but it sets a function for new threads.
    if sys.getprofile() is not None or threading.getprofile() is not None:
        yield
        return
    callers: list[str] = []

    def watch(frame: FrameType, kind: str, _: Any) -> None:
        caller = frame.f_back if kind == "call" and frame.f_code is BinaryExpression.__bool__.__code__ else None
        if caller is not None and not caller.f_globals.get("__name__", "").startswith("sqlalchemy."):
            callers.append(caller.f_code.co_name)

    sys.setprofile(watch)  # for this thread only
    try:
        yield
    finally:
        sys.setprofile(None)
    if callers:
        raise TypeError("a comparison of columns has no Boolean value")


def _element(value: Any) -> Any:
    """The SQL element behind an ORM attribute, or *value* itself."""
    clause = getattr(value, "__clause_element__", None)
    return clause() if callable(clause) else value


def _misplaced(expression: Any, table: Table) -> Iterator[str]:
    """The reasons why *expression* cannot be part of an UPDATE of *table*."""
    for element in outside_subqueries(expression):
        if isinstance(element, Column) and element.table is not table:
            yield (
                f"reads {element.table.name}.{element.name}, but the state is in {table.name!r}: "
                "another table is read by a subquery, as in exists(select(…).where(…))"
            )
    if any(selects_from(element, table) for element in visitors.iterate(expression)):
        yield (
            f"selects from {table.name!r} itself, which MySQL refuses in an UPDATE of it (error 1093): "
            "use the row's own columns, or keep the figure in a column of another table"
        )


def outside_subqueries(element: Any) -> Iterator[Any]:
    """*element* and its parts, without those of subqueries."""
    if isinstance(element, Select):
        return
    yield element
    for child in element.get_children():
        yield from outside_subqueries(child)


def selects_from(element: Any, table: Table) -> bool:
    """Whether *element* is a subquery, or part of one, on *table* itself."""
    if isinstance(element, Alias):
        return element.element is table
    if not isinstance(element, Select):
        return False
    froms = element.get_final_froms()
    return froms == [table] or any(isinstance(part, Join) and part.is_derived_from(table) for part in froms)
