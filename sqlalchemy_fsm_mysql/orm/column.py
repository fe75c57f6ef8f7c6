"""The mapped column that holds a machine's state: its type, its declaration, and what is known of it on each model.

:func:`StateMachineColumn` declares it, :class:`StateType` stores it, and :class:`MappedState` is one such column on
one mapped class: where the row lives, which events there are, and their SQL, built once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from typing import Any, Literal, cast

from sqlalchemy import (
    CheckConstraint,
    Column,
    ColumnElement,
    Connection,
    Dialect,
    Enum,
    Integer,
    String,
    Table,
    TypeDecorator,
    bindparam,
    event,
    exists,
    inspect,
    literal,
)
from sqlalchemy.orm import ColumnProperty, MappedColumn, Mapper, mapped_column
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import BinaryExpression, ColumnClause, conv
from sqlalchemy.types import TypeEngine

from ..databases import enforcer_of, require_database, types_of
from ..databases.triggers import KINDS, CreateTrigger, name_digest, short_identifier
from ..errors import InvalidMachine, StateAssignmentError, UnknownEvent
from ..errors.texts import State, shown, stored_form
from ..machine import AnyState, Machine
from ..machine.rules import Rules
from ..machine.states import FORCED
from ..sql.events import KEY, NEXT_VERSION, EventSQL, StateRow
from ..sql.expressions import event_sql, outside_subqueries
from .comparator import STATES, StateComparator

Storage = Literal["enum", "varchar"]

EXTRAS = "sqlalchemy_fsm_mysql"


def StateMachineColumn(  # noqa: N802 - reads as the class it stands for, like mapped_column's Column
    machine: Machine,
    *,
    storage: Storage = "enum",
    protected: bool = True,
    enforced: bool = False,
    initial_states: Iterable[State] | AnyState = (),
    **options: Any,
) -> MappedColumn[Any]:
    """A :func:`~sqlalchemy.orm.mapped_column` that holds the state of *machine*.

    The column is NOT NULL, and the machine's initial state is its default, in Python and in the DDL. *storage* is
    ``"enum"`` (ENUM on MySQL and MariaDB, where appending a state later is instant) or ``"varchar"`` (VARCHAR with a
    named CHECK); a database without ENUM has VARCHAR and CHECK either way. While *protected*, assigning the attribute
    of a stored instance raises :class:`StateAssignmentError`. All other *options* go to ``mapped_column``.

    With *enforced*, ``metadata.create_all()`` gives a new table the triggers that hold every writer to the machine
    (see :func:`enforce_machine`). They let a row begin only in the initial state, where
    ``fire_or_create`` puts one, and in *initial_states*: more states, or ``ANY`` for all.

    Raises: TypeError when *machine* is no Machine; ValueError for another *storage*, for ``nullable=True``, or an
    undeclared one of *initial_states*.
    """
    if not isinstance(machine, Machine):
        raise TypeError(f"StateMachineColumn takes a Machine first, not {shown(machine)}")
    if options.get("nullable"):
        raise ValueError("a state column cannot be nullable: every row is in some state")
    options = {"default": machine.initial, "server_default": machine.stored(machine.initial)} | options
    type_ = StateType(machine, storage=storage, protected=protected, enforced=enforced, initial_states=initial_states)
    return mapped_column(type_, **options | {"nullable": False})


class StateType(TypeDecorator[Any]):
    """The type of a column that holds the state of *machine*; for Core tables and imperative mappings.

    Binding an undeclared state raises ValueError. Loading one never fails, because another release may have written
    it: the text is handed over as it is, and firing on it raises :class:`UnknownState`.
    """

    impl = String
    cache_ok = True
    comparator_factory = StateComparator

    def __init__(
        self,
        machine: Machine,
        *,
        storage: Storage = "enum",
        protected: bool = True,
        enforced: bool = False,
        initial_states: Iterable[State] | AnyState = (),
    ) -> None:
        if storage not in ("enum", "varchar"):
            raise ValueError(f"storage={storage!r}; a state column is stored as 'enum' or 'varchar'")
        super().__init__(max(map(len, machine.stored_states)))
        self.machine, self.storage, self.protected, self.enforced = machine, storage, protected, enforced
        self.initial_states = initial_states if isinstance(initial_states, AnyState) else tuple(initial_states)
        self.rules = Rules.of(machine, self.initial_states)
        self.is_placed = False  # whether it is the type of a table's column
        event.listen(self, "after_parent_attach", add_check)
        event.listen(self, "after_parent_attach", _add_triggers)

    @property
    def stored_states(self) -> tuple[str, ...]:
        """All texts that the column may hold."""
        return self.machine.stored_states

    def copy(self, **_: Any) -> StateType:
        copied = StateType(
            self.machine,
            storage=self.storage,
            protected=self.protected,
            # The column of a mixin is copied for each model. A copy of a table's column is an archive's, or a version
            # table's, and rows come there in any state.
            enforced=self.enforced and not self.is_placed,
            initial_states=self.initial_states,
        )
        copied._variant_mapping = self._variant_mapping  # as TypeEngine.copy() does
        return copied

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        type_ = types_of(dialect).state(dialect, self.machine.stored_states, self.storage)
        return dialect.type_descriptor(type_)

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else self.machine.stored(value)

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], str | None]:
        return lambda value: self.process_bind_param(value, dialect)

    def literal_processor(self, dialect: Dialect) -> Callable[[Any], str]:
        # SQLAlchemy leaves String's literal_processor without types.
        plain: Callable[[str], str] = String().literal_processor(dialect)  # type: ignore[no-untyped-call]
        return lambda value: plain(self.machine.stored(value))

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:
        return self.machine.loaded

    def coerce_compared_value(self, op: Any, value: Any) -> TypeEngine[Any]:
        return self if getattr(op, "__name__", "") in ("eq", "ne", "in_op", "not_in_op") else String()

    @property
    def python_type(self) -> type[Any]:
        return type(self.machine.initial)


def add_check(type_: Any, column: Column[Any]) -> None:
    """Give the column's table a named CHECK, for the databases on which the type alone lets undeclared states in.

    *type_* has ``stored_states`` and ``storage``, as `StateType` does.
    """

    def attached(column: Column[Any], table: Any) -> None:
        if not isinstance(table, Table):
            return

        check = states_check(column, type_.stored_states)
        # Bound to its type, as Enum's is: Table.to_metadata() copies the type, which makes another one. And made by
        # rule, as Enum's is: ddl_if() is not asked where Alembic adds a column.
        check._type_bound, check._create_rule = True, _CheckRule(type_)  # noqa: SLF001 - as Enum does; there is no other
        table.append_constraint(check)
        event.listen(table, "before_create", _require_database)

    event.listen(column, "after_parent_attach", attached)


def _require_database(_: Table, connection: Connection | None, **__: Any) -> None:
    """Refuse to create the table in a database that the library does not support."""
    if connection is not None:  # Alembic writes a script
        require_database(connection)


class _CheckRule:
    """Whether a CHECK is needed, asked by whoever writes the DDL; Alembic knows by ``target`` that a type brings it."""

    def __init__(self, type_: Any) -> None:
        self.target = type_

    def __call__(self, compiler: Any) -> bool:
        return types_of(compiler.dialect).needs_check(self.target.storage)


def states_check(column: Column[Any], states: Iterable[str]) -> CheckConstraint:
    """The named CHECK that lets *column*, which is one of a table, hold *states* only."""
    is_one = column.in_([literal(state, String()) for state in states])
    return CheckConstraint(is_one, name=conv(check_name(column.table.name, column.name)))


def check_name(table: str, column: str) -> str:
    """The name of the CHECK over the states of *column*, which no column of another table has.

    >>> check_name("orders", "state"), check_name("orders", "payment_state")
    ('ck_orders_state_states', 'ck_orders_payment_state_states_1a927bee')
    """
    name = f"ck_{table}_{column}_states"
    # Two tables can have the same name here only if an underscore stands in it: orders_payment.state has this one, too.
    return short_identifier(f"{name}_{name_digest(table, column)}" if "_" in table + column else name)


def check_names(table: str, column: str) -> tuple[str, ...]:
    """The names that the CHECK over the states of *column* may have: its name, and that of earlier versions."""
    return tuple(dict.fromkeys((check_name(table, column), short_identifier(f"ck_{table}_{column}_states"))))


def _add_triggers(type_: StateType, column: Column[Any]) -> None:
    """Have the triggers created with the column's table, where the column is declared so and the database has any."""
    if not type_.enforced:
        return

    def create(table: Table, connection: Any, **_: Any) -> None:
        if connection is None or not enforcer_of(connection.dialect).can_enforce:  # None: Alembic writes a script
            return
        is_real = isinstance(connection, Connection)
        taken = enforcer_of(connection.dialect).taken_names(connection, table) if is_real else ()
        for kind in KINDS:
            connection.execute(CreateTrigger(table.c[column.name], type_.rules, kind, taken=taken))

    def attached(column: Column[Any], table: Any) -> None:
        if isinstance(table, Table):
            type_.is_placed = True
            event.listen(table, "after_create", create)

    event.listen(column, "after_parent_attach", attached)


@dataclass(slots=True)
class Extras:
    """What else is declared for a state column, shared by all classes that map it."""

    column: Column[Any]
    history: Any = None
    hooks: list[Any] = field(default_factory=list)


class MappedState:
    """One state column on one mapped class."""

    def __init__(self, mapper: Mapper[Any], attribute: str, column: Column[Any]) -> None:
        self.mapper, self.model, self.attribute, self.column = mapper, mapper.class_, attribute, column
        type_ = cast(StateType, column.type)
        self.machine, self.protected = type_.machine, type_.protected
        extras: Extras | None = column.info.get(EXTRAS)
        if extras is None or extras.column is not column:  # Table.to_metadata() copies a column's info along
            extras = column.info[EXTRAS] = Extras(column)
        self.extras = extras
        self._events: dict[str, EventSQL] = {}
        self._expired: dict[str, tuple[str, ...]] = {}

    @property
    def table_name(self) -> str:
        return self.column.table.name

    @property
    def label(self) -> str:
        """The column as people name it: ``Order.state``."""
        return f"{self.model.__name__}.{self.attribute}"

    @cached_property
    def row(self) -> StateRow:
        """Where the state lives; known once all mappers are configured."""
        table = self.column.table
        here = {
            cast("Column[Any]", c): prop.key
            for prop in self.mapper.column_attrs
            for c in prop.columns
            if getattr(c, "table", None) is table
        }
        version = cast("Column[Any] | None", self.mapper.version_id_col)
        if version is not None and version.table is not table:
            problem = (
                f"{self.model.__name__}.{self.attribute} is in table {table.name!r} and version_id_col in "
                f"{version.table.name!r}; one UPDATE moves both, so they have to be in the same table"
            )
            raise InvalidMachine([problem], self.machine.name)
        return StateRow(
            table=table,
            state=self.column,
            key=tuple(self._in_table(cast("Column[Any]", part), table) for part in self.mapper.primary_key),
            columns={name: column for column, name in here.items()},
            visible=self._visible(table),
            version=version,
            implied=self._implied(table, version),
        )

    def _in_table(self, part: Column[Any], table: Table) -> Column[Any]:
        """The column of *table* that holds this part of the key; a joined subclass has one of its own, by any name."""
        for mapper in reversed(list(self.mapper.iterate_to_root())):
            joins = visitors.iterate(mapper.inherit_condition) if mapper.inherit_condition is not None else ()
            pairs: list[set[Any]] = [{join.left, join.right} for join in joins if isinstance(join, BinaryExpression)]
            own = next((pair - {part} for pair in pairs if part in pair and part.table is not table), {part})
            (part,) = own
        return part

    def _visible(self, table: Table) -> ColumnElement[bool] | None:
        """When a row is one of the mapped class, and not of its base's or another child's that shares *table*."""
        mapper, discriminator = self.mapper, self.mapper.polymorphic_on
        is_own_table = mapper.inherits is None or (
            mapper.local_table is table and mapper.inherits.local_table is not table
        )
        if is_own_table or discriminator is None:
            return None
        # It may be an expression, such as a CASE. What is in no table at all is a union's, of concrete inheritance.
        read = {part.table for part in outside_subqueries(discriminator) if isinstance(part, ColumnClause)}
        others = [other for other in read if isinstance(other, Table) and other is not table]
        if len(others) > 1 or not all(isinstance(other, Table) for other in read):
            return None
        is_ours = discriminator.in_([mapper.polymorphic_identity for mapper in mapper.self_and_descendants])
        if not others:
            return is_ours
        (other,) = others
        joined = [
            self._in_table(part, table) == self._in_table(part, other)
            for part in cast("tuple[Column[Any], ...]", mapper.primary_key)
        ]
        return exists().where(*joined, is_ours).correlate(table)

    def _implied(self, table: Table, version: Column[Any] | None) -> Mapping[Column[Any], ColumnElement[Any]]:
        implied: dict[Column[Any], ColumnElement[Any]] = {
            column: cast("Any", column.onupdate).arg
            for column in table.c
            if column.onupdate is not None and column.onupdate.is_clause_element and column is not self.column
        }
        if version is not None and self.mapper.version_id_generator is not False:
            counts = self.counts_versions
            implied[version] = version + 1 if counts else bindparam(NEXT_VERSION, type_=version.type)
        return implied

    def next_version(self, version: Any) -> Any:
        """What the model's generator makes of *version*; None is that of a row that is new."""
        generator = self.mapper.version_id_generator
        assert callable(generator)
        return generator(version)

    @cached_property
    def counts_versions(self) -> bool:
        """Whether the version is SQLAlchemy's own counter, which SQL can increment by itself."""
        generator = self.mapper.version_id_generator
        own = getattr(generator, "__module__", None) == Mapper.__module__
        return own and self.mapper.version_id_col is not None and isinstance(self.mapper.version_id_col.type, Integer)

    @cached_property
    def makes_versions(self) -> bool:
        """Whether Python makes a row's next version of the one before."""
        return (
            self.row.version is not None and not self.counts_versions and self.mapper.version_id_generator is not False
        )

    def event(self, name: str) -> EventSQL:
        """The SQL of the event *name*, built at its first use."""
        name = self.machine.event_name(name)
        built = self._events.get(name)
        if built is None:
            built = event_sql(self.model, self.machine, name, self.row, self._other_state)
            self._events[name] = built
        return built

    def _other_state(self, column: Column[Any], value: Any) -> ColumnElement[Any] | None:
        """The SQL for *value* when *column* holds another machine's state; None when it holds none."""
        if not isinstance(column.type, StateType):
            return None
        machine = column.type.machine
        if isinstance(getattr(value, "type", None), StateType) and value.type.machine is machine:
            return None
        if not machine.declares(value):
            known = ", ".join(map(repr, machine.stored_states))
            raise ValueError(f"sets {column.name!r} to {shown(value)}; its own machine declares {known}")
        return literal(machine.stored(value), String())

    def changed_with(self, event: EventSQL) -> tuple[str, ...]:
        """The attributes, besides the state and the version, that the event's UPDATE may change."""
        if event.name not in self._expired:
            assigned = {column for branch in event.branches for column in branch.effects}
            by_itself = {c for c in self.row.table.c if c.onupdate is not None or c.server_onupdate is not None}
            changed = (assigned | by_itself) - {self.column, self.row.version}
            # As after a flush: a column_property() may be made of what has changed.
            made = [p.key for p in expirable(self.mapper) if p.expire_on_flush and not isinstance(p.columns[0], Column)]
            self._expired[event.name] = (
                *(key for key, column in self.row.columns.items() if column in changed),
                *made,
            )
        return self._expired[event.name]

    @cached_property
    def forced(self) -> EventSQL:
        """What stands for an event where a state is set past the machine."""
        return EventSQL(FORCED, self.row, self.machine.stored_states, ())

    @cached_property
    def key_names(self) -> tuple[str, ...]:
        """The bound parameters of the row's key."""
        return tuple(KEY.format(i) for i in range(len(self.row.key)))

    def key_parts(self, key: Any) -> tuple[Any, ...]:
        """The parts of the primary *key*: one value, or a tuple, or a mapping by attribute name.

        Raises: TypeError when the key has the wrong number of parts, or a part that MySQL would compare by converting.
        """
        if type(key) in self._plain_keys:
            return (key,)
        parts = self._split(key)
        for column, part in zip(self.row.key, parts, strict=True):
            wanted = _exact_types(column)
            if wanted and (not isinstance(part, wanted) or isinstance(part, bool)):
                raise TypeError(
                    f"{self.table_name}.{column.name} holds {wanted[0].__name__}, and the key {shown(part)} is "
                    f"{type(part).__name__}: MySQL would convert it, and may find another row"
                )
        return parts

    @cached_property
    def _plain_keys(self) -> tuple[type[Any], ...]:
        """The types of which a value is this row's whole key, as it is."""
        return _exact_types(self.row.key[0]) if len(self.row.key) == 1 else ()

    def _split(self, key: Any) -> tuple[Any, ...]:
        names = [self.mapper.get_property_by_column(part).key for part in self.mapper.primary_key]
        if isinstance(key, Mapping):
            if set(key) == set(names):
                return tuple(key[name] for name in names)
        else:
            parts = tuple(key) if isinstance(key, (tuple, list)) else (key,)
            if len(parts) == len(names):
                return parts
        raise TypeError(f"the key of {self.model.__name__} is ({', '.join(names)}), got {shown(key)}")

    def state_in_memory(self, instance: Any) -> Any:
        """The state that *instance* shows, without SQL: the initial one before the first flush, None when expired."""
        state = instance.__dict__.get(self.attribute)
        return self.machine.initial if state is None and not inspect(instance).has_identity else state

    def protect(self) -> None:
        """Refuse assignments to the attribute of a stored instance, and undeclared states in any."""

        def assigned(instance: Any, value: Any, previous: Any, initiator: Any) -> Any:
            self._refuse_assignment(instance, value)
            return (
                value
                if value is None and not inspect(instance).has_identity
                else self.machine.loaded(self._stored(value))
            )

        def removed(instance: Any, value: Any, initiator: Any) -> None:
            self._refuse_assignment(instance, None)

        attribute = self.model.__dict__.get(self.attribute) or getattr(self.model, self.attribute)
        # Of a deferred one, what is there already has to be loaded to be known.
        event.listen(attribute, "set", assigned, retval=True, active_history=attribute.property.deferred)
        event.listen(attribute, "remove", removed)

    def _stored(self, value: Any) -> str:
        try:
            return self.machine.stored(value)
        except ValueError as error:
            raise ValueError(f"{self.model.__name__}.{self.attribute}: {error}") from error

    def _refuse_assignment(self, instance: Any, value: Any) -> None:
        # What is there already may be assigned again: Session.merge() does that.
        if (
            not self.protected
            or not inspect(instance).has_identity
            or instance.__dict__.get(self.attribute, _NOTHING) == value
        ):
            return
        raise StateAssignmentError(
            f"{self.model.__name__}.{self.attribute} of a stored instance is moved by events, not assigned: "
            f"use fire(), or force_state() to go round the machine"
        )


_NOTHING = object()


def _exact_types(column: Column[Any]) -> tuple[type[Any], ...]:
    """What MySQL compares with *column* without converting; nothing where the column's type sees to that itself."""
    if isinstance(column.type, (Enum, TypeDecorator)):
        return ()
    try:
        wanted = column.type.python_type
    except NotImplementedError:
        return ()
    return (Decimal, int, float) if wanted in (Decimal, float) else (wanted,)


def expirable(mapper: Mapper[Any]) -> list[ColumnProperty[Any]]:
    """The column attributes that instances have; of a discriminator that is computed there is no attribute."""
    return [attribute for attribute in mapper.column_attrs if attribute.key in mapper.class_manager]


def state_columns(mapper: Mapper[Any]) -> list[tuple[str, Column[Any]]]:
    """The attributes of *mapper* that hold a machine's state. Usable before the mappers are configured."""
    return [(key, column) for key, column in mapper.columns.items() if isinstance(column.type, StateType)]


class States(dict[str, MappedState]):
    """The state columns of one mapped class, by attribute name, and which of them has which event."""

    def __init__(self, states: Mapping[str, MappedState]) -> None:
        super().__init__(states)
        self.events: dict[str, tuple[MappedState, EventSQL]] = {}  # those that were asked for, where one column has it


def mapped_states(model: Any) -> States:
    """The state columns of a mapped class, by attribute name.

    Raises: TypeError when *model* is no mapped class, or one without a state machine.
    """
    states: States | None = model.__dict__.get(STATES) if isinstance(model, type) else None
    if states is None:
        raise TypeError(f"{shown(model)} is no mapped class with a StateMachineColumn")
    return states


def mapped_event(model: Any, event: object, column: Any = None) -> tuple[MappedState, EventSQL]:
    """The one state column of *model* whose machine has *event*, and the event's SQL on it.

    Raises: as :func:`mapped_state`.
    """
    if column is None and type(event) is str:  # a subclass of str may hash and compare as it likes
        states: States | None = model.__dict__.get(STATES) if isinstance(model, type) else None
        found = states.events.get(event) if states is not None else None
        if found is None:
            mapped = mapped_state(model, event)
            found = mapped_states(model).events[event] = mapped, mapped.event(event)
        return found
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
    # A subclass of str may hash and compare as it likes: what counts is what it spells.
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

    Raises: TypeError when it is none.
    """
    states = mapped_states(model)
    name = column if isinstance(column, str) else getattr(column, "key", None)
    if not isinstance(name, str) or name not in states:
        raise TypeError(
            f"column={shown(name)} is no state machine of {model.__name__}; it has {', '.join(map(repr, states))}"
        )
    return states[name]


def attribute_state(attribute: Any) -> MappedState:
    """The state column that *attribute* is: ``Order.state`` itself, and not its name, its class or its table's column.

    Raises: TypeError when it is none.
    """
    model = getattr(attribute, "class_", None)
    if model is None:
        raise TypeError(f"{shown(attribute)} is no state column of a mapped class; give one, such as Order.state")
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


def remember(mapper: Mapper[Any]) -> list[MappedState]:
    """Note the state columns of a new *mapper* on its class, and protect them."""
    states = {name: MappedState(mapper, name, column) for name, column in state_columns(mapper)}
    if states:
        setattr(mapper.class_, STATES, States(states))
    for state in states.values():
        state.protect()
    return list(states.values())
