"""An event in SQL: pure builders of expressions, no session and no server.

The unit is :class:`EventSQL`: one event of one machine on one mapped column, with its guards and effects as SQL. It
has the expressions that users compose (:meth:`EventSQL.can`, :meth:`EventSQL.after`) and the parts of the statements in
``databases``: the *code*, one integer that reports the outcome for a row, and the *assignments*, in an order in which
each of them reads the row as it was before the event.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any, NamedTuple

from sqlalchemy import (
    Column,
    ColumnElement,
    Integer,
    Table,
    Update,
    and_,
    bindparam,
    case,
    literal_column,
    or_,
    type_coerce,
    update,
)
from sqlalchemy.sql import visitors
from sqlalchemy.types import TypeEngine

from ..errors import InvalidMachine
from ..errors.texts import State
from . import code as codes
from .exact import ExactName, bound_state, compared, folds, name_in, only_exactly, storable, written_state
from .locks import without_locks

# Names of bound parameters. A payload name cannot begin with fsm_: machine.payload refuses it.
KEY, KNOWN_VERSION, NEXT_VERSION, PAYLOAD = "fsm_key_{}", "fsm_version", "fsm_next_version", "fsm_{}_{}"
VALUE = "fsm_value_{}"


def after(column: ColumnElement[Any], targets: Mapping[str, str | ColumnElement[str]]) -> ColumnElement[str]:
    """The state in *column* after the event, as a SQL expression.

    A row whose state is no key of *targets* keeps it: the ELSE is the column itself, so a refused event assigns the
    value that the row has.

    >>> from sqlalchemy import column
    >>> print(after(column("state"), {"new": "paid"}))
    CASE state WHEN :param_1 THEN :param_2 ELSE state END
    """
    is_folding = folds(column)
    whens = [
        (
            ExactName(source) if is_folding else bound_state(column, source),
            bound_state(column, target) if isinstance(target, str) else target,
        )
        for source, target in targets.items()
    ]
    return case(*whens, value=compared(column), else_=column) if whens else column


def is_in(state: Column[Any], *sources: str) -> ColumnElement[bool]:
    """Whether the column *state* holds one of *sources*, stored states; an index on it serves the criterion."""
    names = [bound_state(state, source) for source in sources]
    return only_exactly(state == names[0] if len(names) == 1 else state.in_(names), state, sources)


def number(value: int) -> ColumnElement[int]:
    """*value* as a literal in the statement."""
    return literal_column(str(int(value)), Integer())


@dataclass(frozen=True, eq=False, repr=False)
class StateRow:
    """The place of a machine's state, in Core terms: the table, its key, and the parts that every UPDATE of it has.

    ``visible`` is the criterion for rows of the mapped class (single-table inheritance), ``columns`` the table's
    columns by attribute name, ``implied`` the assignments that every UPDATE has (``onupdate`` expressions and the next
    version). ``since`` is the column of the time at which the row came into its state, where the model has one.
    """

    table: Table
    state: Column[Any]
    key: tuple[Column[Any], ...]
    columns: Mapping[str, Column[Any]]
    visible: ColumnElement[bool] | None = None
    version: Column[Any] | None = None
    implied: Mapping[Column[Any], ColumnElement[Any]] = field(default_factory=dict)
    since: Column[Any] | None = None

    @cached_property
    def writing(self) -> Update:
        """An UPDATE for ``Session.get_bind()``: it tells a session with several binds that the statement writes."""
        return update(self.table)

    def is_key(self) -> ColumnElement[bool]:
        """The criterion of the row's key. Each part has its column's type, because 1 = '1abc' is true on MySQL."""
        return and_(*(part == bindparam(KEY.format(i), type_=part.type) for i, part in enumerate(self.key)))

    def reads(self, expression: ColumnElement[Any]) -> set[Column[Any]]:
        """The columns of this table that *expression* reads, also in subqueries."""
        elements = (element for element in visitors.iterate(expression) if isinstance(element, Column))
        return {column for column in elements if column.table is self.table}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Branch:
    """One transition from one source: its guard and effects as SQL, and its number among those of the event."""

    source: str
    target: str
    guard: ColumnElement[bool] | None
    effects: Mapping[Column[Any], ColumnElement[Any]]
    number: int
    leaves: State  # the source and the target as the machine declares them, for outcomes
    leads_to: State
    guards: tuple[tuple[str, ColumnElement[bool]], ...] = ()  # those that `guard` is made of, by name

    @property
    def code(self) -> int:
        """The code of a row that takes this branch."""
        return codes.taken(self.number)


class Chosen(NamedTuple):
    """The branch that a row takes, computed before the first assignment.

    ``value`` is the expression that the database has remembered, and ``of(branch)`` its value for a branch.
    """

    value: ColumnElement[int]
    of: Callable[[Branch], int]


class Due(NamedTuple):
    """The time of a timed event: its guard, and the expression by which rows are in the order of becoming due.

    A row is due at `moment`, or `interval` after it.
    """

    guard: ColumnElement[bool]
    moment: ColumnElement[Any]
    interval: timedelta = timedelta(0)


@dataclass(frozen=True, eq=False, repr=False)
class EventSQL:
    """One event of one machine on one mapped column, as SQL. Built once per mapped class and event."""

    name: str
    row: StateRow
    states: tuple[str, ...]
    branches: tuple[Branch, ...]
    parameters: Mapping[str, str] = field(default_factory=dict)  # bound parameter -> payload name
    payload: tuple[str, ...] = ()  # the names that a fire may give
    defaults: Mapping[str, Any] = field(default_factory=dict)  # payload name -> its value when a fire leaves it out
    types: Mapping[str, TypeEngine[Any]] = field(default_factory=dict)  # bound parameter -> its type
    lists: frozenset[str] = frozenset()  # the bound parameters that take a list, as that of an IN
    named_guards: tuple[str, ...] = ()  # in the order of their bits in the code
    recorded: bool = True  # whether each transition has a history row
    outside: Mapping[Column[Any], ColumnElement[Any]] = field(default_factory=dict)  # effects from no declared state
    due: Due | None = None  # of a timed event
    cache: dict[Any, Any] = field(default_factory=dict)  # the statements that are built from this event
    readings: dict[int, codes.Reading] = field(default_factory=dict)  # the meanings of codes that were read before

    @cached_property
    def is_guarded(self) -> bool:
        """Whether any branch has a guard."""
        return any(branch.guard is not None for branch in self.branches)

    def from_source(self) -> dict[str, list[Branch]]:
        """The branches of each source, in winning order."""
        sources: dict[str, list[Branch]] = {}
        for branch in self.branches:
            sources.setdefault(branch.source, []).append(branch)
        return sources

    def code(self, *, known_version: bool = False) -> ColumnElement[int]:
        """The outcome code of a row, as a SQL expression: see :mod:`.code`.

        The guards are in this CASE and not in the WHERE: MariaDB evaluates LAST_INSERT_ID(code), and remembers its
        value, also when another condition of the WHERE is false.
        """
        sources, stored = self.from_source(), set(storable(self.row.state, self.states))
        whens = [
            (name_in(self.row.state, state), self._code_in(i, sources.get(state, ())))
            for i, state in enumerate(self.states)
            if state in stored
        ]
        code: ColumnElement[int] = case(*whens, value=compared(self.row.state), else_=number(codes.UNDECLARED))
        if self.row.visible is not None:
            code = case((self.row.visible, code), else_=number(codes.HIDDEN))
        if known_version and self.row.version is not None:
            known = self.row.version == bindparam(KNOWN_VERSION, type_=self.row.version.type)
            code = code + case((known, number(0)), else_=number(codes.OTHER_VERSION))
        return code

    def _code_in(self, index: int, branches: Sequence[Branch]) -> ColumnElement[int]:
        refused = self._refused(index, branches)
        return _first_true(branches, [number(branch.code) for branch in branches], refused)

    def _refused(self, index: int, branches: Sequence[Branch]) -> ColumnElement[int]:
        """The code of a row that no branch takes, with the bits of the guards that are not true of it.

        Only the guards of a branch with several guards are evaluated again: where a branch with one guard is not
        taken, that guard is not true.
        """
        code = codes.refused(index, by_guard=bool(branches))
        certain = {branch.guards[0][0] for branch in branches if len(branch.guards) == 1}
        evaluated: dict[str, list[ColumnElement[bool]]] = {}
        for branch in branches:
            for name, guard in branch.guards:
                if name not in certain and not any(guard is other for other in evaluated.get(name, ())):
                    evaluated.setdefault(name, []).append(guard)
        bit = {name: codes.failed(i) for i, name in enumerate(self.named_guards)}
        refused = number(code + sum(bit[name] for name in certain))
        for name, guards in evaluated.items():
            refused = refused + case((and_(*guards), number(0)), else_=number(bit[name]))
        return refused

    def read(self, code: int) -> codes.Reading:
        """The meaning of *code*, which a statement of this event has reported."""
        reading = self.readings.get(code)
        if reading is None:
            reading = codes.read(self, code)
            if not codes.names_guards(code):  # as many as states and branches; with guards, there could be 2³⁸
                self.readings[code] = reading
        return reading

    @cached_property
    def selected_code(self) -> ColumnElement[int]:
        """:meth:`code` as a column of a SELECT."""
        return self.code().label("fsm_code")

    @cached_property
    def can(self) -> ColumnElement[bool]:
        """Whether the event would move the row, for a SELECT: the other rows that it reads are not locked."""
        return without_locks(self.moves)

    @cached_property
    def moves(self) -> ColumnElement[bool]:
        """Whether the event moves the row, for a statement that moves it: the other rows that it reads are locked."""
        state = self.row.state
        free = [s for s, branches in self.from_source().items() if any(b.guard is None for b in branches)]
        guarded = [
            and_(state == bound_state(state, source), or_(*(b.guard for b in branches if b.guard is not None)))
            for source, branches in self.from_source().items()
            if source not in free
        ]
        can = or_(state.in_([bound_state(state, s) for s in free]), *guarded) if free or not guarded else or_(*guarded)
        return only_exactly(can, state, self.from_source())

    def is_due(self, *sources: str) -> ColumnElement[bool]:
        """Whether the row is in one of *sources*, and the time of this timed event has come; other guards aside.

        Of one state, an index on the state and the time has the rows in the order in which they became due.
        """
        assert self.due is not None
        return and_(is_in(self.row.state, *sources), self.due.guard)

    def after(self) -> ColumnElement[Any]:
        """The state after the event, with the column's own type; the other rows that it reads are not locked."""
        state = self.row.state
        targets = {
            source: _first_true(branches, [bound_state(state, b.target) for b in branches], state)
            for source, branches in self.from_source().items()
        }
        return type_coerce(without_locks(after(state, targets)), state.type)

    def assignments(
        self, chosen: Chosen | None = None, target: Callable[[Branch], ColumnElement[str]] | None = None
    ) -> list[tuple[Column[Any], ColumnElement[Any]]]:
        """The SET of an UPDATE of rows that the event moves, the state last.

        Without *chosen*, each assignment decides by the row's state and the guards. With it, each decides by a code
        that was computed before the first assignment, which is needed when an effect writes a column that a guard
        reads. *target* gives the SQL of a branch's target state, where that is not a literal.
        """
        values: dict[Column[Any], ColumnElement[Any]] = {}
        for column in _in_order(self.row, self.branches):
            pairs = [(b, b.effects[column]) for b in self.branches if column in b.effects]
            values[column] = self._choose(pairs, self.row.implied.get(column, column), chosen)
        values |= {column: value for column, value in self.row.implied.items() if column not in values}
        targets = [
            (b, target(b) if target is not None else written_state(self.row.state, b.target)) for b in self.branches
        ]
        values[self.row.state] = self._choose(targets, self.row.state, chosen)
        return list(values.items())

    def forced_assignments(self, target: ColumnElement[Any]) -> list[tuple[Column[Any], ColumnElement[Any]]]:
        """The SET of an UPDATE that sets a row in any state to the state *target*."""
        unknown = Branch("", "", None, self.outside, number=len(self.branches), leaves="", leads_to="")
        values: dict[Column[Any], ColumnElement[Any]] = {}
        for column in _in_order(self.row, [*self.branches, unknown]):
            kept = self.row.implied.get(column, column)
            otherwise = self.outside.get(column, kept)
            pairs = [(branch.source, branch.effects.get(column, kept)) for branch in self.branches]
            whens = [
                (written_state(self.row.state, source), value) for source, value in pairs if value is not otherwise
            ]
            values[column] = case(*whens, value=self.row.state, else_=otherwise) if whens else otherwise
        values |= {column: value for column, value in self.row.implied.items() if column not in values}
        return [*values.items(), (self.row.state, target)]

    def branch_assignments(self, branch: Branch) -> list[tuple[Column[Any], ColumnElement[Any]]]:
        """The SET of an UPDATE of a row that takes *branch*."""
        values = {column: branch.effects[column] for column in _in_order(self.row, [branch])}
        values |= {column: value for column, value in self.row.implied.items() if column not in values}
        return [*values.items(), (self.row.state, written_state(self.row.state, branch.target))]

    def _choose(
        self,
        pairs: Sequence[tuple[Branch, ColumnElement[Any]]],
        otherwise: ColumnElement[Any],
        chosen: Chosen | None,
    ) -> ColumnElement[Any]:
        """The value of one column: by the branch that the row takes, the value of *pairs*, else *otherwise*."""
        # Where each branch assigns the same expression, no CASE is needed: the WHERE has chosen rows that the event
        # moves. The state is an exception, because can() and after() also read rows that stay: there, *otherwise* is
        # the state itself.
        values = [value for _, value in pairs]
        if (
            otherwise is not self.row.state
            and len(pairs) == len(self.branches)
            and all(value is values[0] for value in values)
        ):
            return values[0]
        if chosen is not None:
            whens = [(number(chosen.of(branch)), value) for branch, value in pairs]
            return case(*whens, value=chosen.value, else_=otherwise)
        # MySQL evaluates this CASE for each assignment, and the state is assigned last, so each one decides alike.
        by_source = []
        for source, branches in self.from_source().items():
            by_branch = {branch.code: value for branch, value in pairs if branch.source == source}
            if by_branch:
                results = [by_branch.get(branch.code, otherwise) for branch in branches]
                by_source.append((name_in(self.row.state, source), _first_true(branches, results, otherwise)))
        return case(*by_source, value=compared(self.row.state), else_=otherwise)


def _first_true(
    branches: Sequence[Branch], results: Sequence[ColumnElement[Any]], otherwise: ColumnElement[Any]
) -> ColumnElement[Any]:
    """The result of the first branch whose guard is true, by a CASE; a branch without a guard is always taken."""
    whens = []
    for branch, result in zip(branches, results, strict=True):
        if branch.guard is None:
            otherwise = result
            break
        whens.append((branch.guard, result))
    return case(*whens, else_=otherwise) if whens else otherwise


def _in_order(row: StateRow, branches: Sequence[Branch]) -> list[Column[Any]]:
    """The columns that effects assign, each after every expression that reads it.

    MySQL and MariaDB assign SET from left to right, and an expression reads the values assigned before it
    (https://dev.mysql.com/doc/refman/9.4/en/update.html). SQLite reads the old values. In this order the result is the
    same on all.
    """
    if not any(branch.effects for branch in branches):
        return []
    from graphlib import CycleError, TopologicalSorter  # imported here, because few machines need it

    before: dict[Column[Any], set[Column[Any]]] = {}
    for branch in branches:
        for column, value in branch.effects.items():
            before.setdefault(column, set())
            for read in row.reads(value):
                if read is not column and read in branch.effects:
                    before.setdefault(read, set()).add(column)
    position = {column: i for i, column in enumerate(row.table.c)}
    graph = {
        column: sorted(before[column], key=position.__getitem__) for column in sorted(before, key=position.__getitem__)
    }
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        cycle = " → ".join(repr(column.name) for column in error.args[1])
        problem = f"effects of {row.table.name} read each other's columns in a circle ({cycle})"
        raise InvalidMachine([f"{problem}; MySQL assigns from left to right"]) from error
