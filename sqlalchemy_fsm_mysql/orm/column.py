"""The column that holds a machine's state: its declaration, its type, its CHECK and its triggers.

:func:`StateMachineColumn` declares it on a model, :class:`StateType` stores it. :mod:`.mapped` is about such a column
on a mapped class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, cast

from sqlalchemy import (
    CheckConstraint,
    ClauseElement,
    Column,
    Connection,
    Dialect,
    Integer,
    String,
    Table,
    TypeDecorator,
    event,
)
from sqlalchemy import Enum as EnumType
from sqlalchemy.orm import MappedColumn, mapped_column
from sqlalchemy.sql.base import SchemaEventTarget
from sqlalchemy.sql.elements import conv
from sqlalchemy.sql.operators import custom_op
from sqlalchemy.types import TypeEngine

from ..databases import enforcer_of, require_database, types_of
from ..databases.identifiers import check_name
from ..errors import InvalidMachine
from ..errors.texts import State, listed, shown
from ..machine import AnyState, Event, Machine
from ..sql.exact import defined_state
from .attribute import StateMapped
from .choice import Choice, Choosable
from .comparator import EQUALITIES, StateComparator

Storage = Literal["enum", "varchar", "integer"]

_INT = range(-(2**31), 2**31)


def StateMachineColumn(  # noqa: N802 - reads as the class it stands for, like mapped_column's Column
    machine: Machine,
    *arguments: str | SchemaEventTarget,
    storage: Storage = "enum",
    protected: bool = True,
    enforced: bool = False,
    initial_states: Iterable[State] | AnyState = (),
    one_packet: bool = False,
    **options: Any,  # Any: those of mapped_column, each of its own type
) -> StateColumn:
    """A :func:`~sqlalchemy.orm.mapped_column` that stores the state of *machine*.

    It is NOT NULL. The default is the initial state, in Python and in the DDL. *storage* chooses the database column.
    On a database without ENUM, VARCHAR with a CHECK takes its place.

    - ``"enum"``: ENUM on MySQL and MariaDB. Appending a state later is instant.
    - ``"varchar"``: VARCHAR with a named CHECK.
    - ``"integer"``: SMALLINT or INT with a named CHECK. It stores the values of the machine's Enum class, which have to
      be ints.

    If *protected*, assigning the attribute of a stored instance raises :class:`StateAssignmentError`, and comparing it
    with a text that is not a state raises ValueError.

    If *enforced*, ``metadata.create_all()`` gives a new table the triggers that enforce the machine for every writer,
    as :func:`enforce_machine` does. A row can then only be inserted in the initial state, in a state in which
    ``fire_or_create`` creates one, and in *initial_states*: further states, or ``ANY`` for all.

    If *one_packet*, the fires of this machine are sent as with the execution option ``fsm_one_packet``, on every engine
    that does not set this option itself.

    All other *options*, and the positional *arguments* (the column's name, ``ForeignKey("states.name")``), go to
    ``mapped_column``.

    Raises: TypeError when *machine* is not a Machine, or another type is passed; ValueError for another *storage*, for
    ``"integer"`` where a state has no int, for ``nullable=True``, or an undeclared state in *initial_states*.
    InvalidMachine when the class is mapped and events cannot move the column: in the primary key, as the discriminator,
    with ``onupdate`` or a default that is not a state, or where ``use_existing_column=True`` finds a column of another
    machine.
    """
    if not isinstance(machine, Machine):
        raise TypeError(f"StateMachineColumn takes a Machine first, not {shown(machine)}")
    if options.get("nullable"):
        raise ValueError("a state column cannot be nullable: every row is in some state")
    default = {} if "insert_default" in options else {"default": machine.initial}
    type_ = StateType(
        machine,
        storage=storage,
        protected=protected,
        enforced=enforced,
        initial_states=initial_states,
        one_packet=one_packet,
    )
    options = {**default, "server_default": type_.stored_value(machine.initial), **options}
    if "type_" in options or any(_is_type(argument) for argument in arguments):
        raise TypeError("StateMachineColumn makes the column's type itself, from the machine and storage=")
    given: list[Any] = [*arguments]
    names = [given.pop(0)] if given and isinstance(given[0], str) else []
    column = mapped_column(*names, type_, *given, **options | {"nullable": False})
    # mapped_column() has no argument for its class. The subclass adds no attributes, so the instance can change to it.
    column.__class__ = StateColumn
    return cast("StateColumn", column)


def numbers_of(machine: Machine) -> dict[str, int]:
    """The number of each state of *machine*, by its name: the value of the member.

    Raises: ValueError when a state is not a member of an Enum class, or its value is not an int that INT can store.
    """
    numbers = {machine.stored(state): state.value for state in machine.states if isinstance(state, Enum)}
    unfit = [state for state in machine.states if not _is_number(numbers.get(machine.stored(state)))]
    if unfit or len(set(numbers.values())) < len(numbers):
        what = listed(map(shown, unfit)) + " has no such number" if unfit else "two states have the same one"
        raise ValueError(
            f'storage="integer" stores the value of an Enum member, an int from {_INT.start:,} to {_INT.stop - 1:,},'
            f" and {what}: declare the machine over an Enum class with ints, Machine(states=…)"
        )
    return numbers


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value in _INT


def _is_type(argument: Any) -> bool:
    return isinstance(argument, TypeEngine) or (isinstance(argument, type) and issubclass(argument, TypeEngine))


if TYPE_CHECKING:
    from ..machine.rules import Rules

    # Any: the annotation of the attribute says which states the column holds.
    class _Declared(MappedColumn[Any], StateMapped[Any]): ...

else:
    _Declared = MappedColumn


class StateColumn(_Declared):
    """A declared state column, which is not dropped silently where ``use_existing_column=True`` finds another one."""

    __slots__ = ()
    inherit_cache = True

    def declarative_scan(self, decl_scan: Any, registry: Any, cls: type[Any], *arguments: Any, **options: Any) -> None:
        declared = cast("StateType", self.column.type)
        super().declarative_scan(decl_scan, registry, cls, *arguments, **options)
        if self.column.type is not declared and not _are_alike(declared, self.column.type):
            is_state = isinstance(self.column.type, StateType)
            other = "another machine, or one with other options" if is_state else "none"
            name = f"{self.column.table.name}.{self.column.name}"
            problem = (
                f"{cls.__name__} declares a machine for {name}, which has {other}: all classes share the column's"
                " machine; give each class its own column"
            )
            raise InvalidMachine([problem], declared.machine.name)


class StateType(Choosable, TypeDecorator[Any]):
    """The SQLAlchemy type of a column that stores the state of *machine*, for Core tables and imperative mappings.

    Binding an undeclared state raises ValueError. Loading one never fails, because another release may have written it:
    the value is then the stored text, and firing on the row raises :class:`UnknownState`.
    """

    enforced: bool
    initial_states: AnyState | tuple[State, ...]
    machine: Machine
    one_packet: bool
    protected: bool

    # Any: as TypeDecorator declares it.
    impl: TypeEngine[Any] | type[TypeEngine[Any]] = String
    cache_ok: bool | None = True
    comparator_factory = StateComparator

    def __init__(
        self,
        machine: Machine,
        *,
        storage: Storage = "enum",
        protected: bool = True,
        enforced: bool = False,
        initial_states: Iterable[State] | AnyState = (),
        one_packet: bool = False,
    ) -> None:
        if storage not in ("enum", "varchar", "integer"):
            raise ValueError(f"storage={shown(storage)}; a state column is stored as 'enum', 'varchar' or 'integer'")
        super().__init__(max(map(len, machine.stored_states)))
        # For libraries that read types; load_dialect_impl() has the database's. SQLAlchemy declares impl as a class.
        self.choice = Choice(machine)
        self.impl = self.choice
        if self.choice.enum_class is not None:
            self.__class__ = EnumStateType
        self.machine, self.storage, self.protected, self.enforced = machine, storage, protected, enforced
        self.one_packet = one_packet
        if isinstance(initial_states, (str, ClauseElement)) or not isinstance(initial_states, (AnyState, Iterable)):
            raise TypeError(f"initial_states={shown(initial_states)}; they must be a collection of states, or ANY")
        self.initial_states = initial_states if isinstance(initial_states, AnyState) else tuple(initial_states)
        self.numbers: Mapping[str, int] | None = numbers_of(machine) if storage == "integer" else None
        self._named = {number: name for name, number in (self.numbers or {}).items()}
        if self.initial_states:
            _ = self.rules  # raises ValueError for an undeclared one
        self.is_placed = False  # whether the type belongs to a table's column
        event.listen(self, "after_parent_attach", add_check)
        event.listen(self, "after_parent_attach", _add_triggers)

    @property
    def stored_states(self) -> tuple[str, ...]:
        """All stored values that the column takes, as texts: those of ``storage="integer"`` are numbers."""
        return self.machine.stored_states if self.numbers is None else tuple(map(str, self.numbers.values()))

    def stored_value(self, state: State) -> str:
        """The value of *state* in the column, as a text.

        Raises: ValueError for an undeclared state.
        """
        name = self.machine.stored(state)
        return name if self.numbers is None else str(self.numbers[name])

    def spellings(self, state: State) -> tuple[str, ...]:
        """The values that the column may have for *state*, as texts: that of :meth:`stored_value`, and its aliases'."""
        return self.machine.spellings(state) if self.numbers is None else (self.stored_value(state),)

    @cached_property
    def rules(self) -> Rules:
        """The rules that the column's triggers enforce."""
        return self.rules_of(self.machine, self.initial_states)

    def rules_of(self, machine: Machine, initial_states: Iterable[State] | AnyState = ()) -> Rules:
        """The rules of *machine*, one that the column has in this or another release, in the column's stored values.

        Raises: ValueError where the column stores numbers, and a state of *machine* has none.
        """
        from ..machine.rules import Rules  # for triggers alone

        rules = Rules.of(machine, initial_states)
        if self.numbers is None:
            return rules
        # The text of a machine, from to_json(), has the names of states and not their numbers.
        given = {machine.stored(state): state.value for state in machine.states if isinstance(state, Enum)}
        numbers = {**self.numbers, **{name: value for name, value in given.items() if _is_number(value)}}
        unknown = [state for state in map(machine.stored, machine.states) if state not in numbers]
        if unknown:
            raise ValueError(
                f"the column stores numbers, and {listed(map(shown, unknown))} has none: give a machine over an Enum of"
                " ints, or edges of numbers, such as {'1': ['2']}"
            )
        return rules.renamed({name: str(number) for name, number in numbers.items()})

    def copy(self, **_: object) -> StateType:
        copied = StateType(
            self.machine,
            storage=self.storage,
            # SQLAlchemy copies a mixin's column for each model: those copies are protected and enforced. A copy of a
            # table's column is in an archive or a version table, where rows have any state.
            protected=self.protected and not self.is_placed,
            enforced=self.enforced and not self.is_placed,
            initial_states=self.initial_states,
            one_packet=self.one_packet,
        )
        copied._variant_mapping = self._variant_mapping  # as TypeEngine.copy() does
        return copied

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:  # Any: as TypeDecorator declares it
        type_ = types_of(dialect).state(dialect, self.stored_states, self.storage)
        return dialect.type_descriptor(type_)

    # Any: whatever the program binds; what is no state is refused.
    def process_bind_param(self, value: Any, dialect: Dialect) -> str | int | None:
        if value is None:
            return None
        name = self.machine.stored(value)
        return name if self.numbers is None else self.numbers[name]

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], str | int | None]:  # Any: as above
        return lambda value: self.process_bind_param(value, dialect)

    def literal_processor(self, dialect: Dialect) -> Callable[[Any], str]:  # Any: as above
        # SQLAlchemy leaves String's literal_processor without types.
        plain: Callable[[str], str] = String().literal_processor(dialect)  # type: ignore[no-untyped-call]
        if self.numbers is not None:
            return self.stored_value
        return lambda value: plain(self.machine.stored(value))

    # Any: what a driver returns, and a state, whose class the machine has.
    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:
        loaded, named = self.machine.loaded, self._named

        def load_number(value: Any) -> Any:
            # A driver may return a number as a Decimal or as bytes, as for a CASE.
            return None if value is None else loaded(named.get(int(value), str(int(value))))

        if self.numbers is not None:
            return load_number

        def load(value: Any) -> Any:
            # Some drivers return bytes for a CASE or a function over a column in a binary collation.
            return loaded(value.decode(errors="replace") if isinstance(value, bytes) else value)

        return load

    def coerce_compared_value(self, op: Any, value: Any) -> TypeEngine[Any]:  # Any: as TypeEngine declares it
        # As sqlalchemy.Enum: every operator binds a member or a state as a state, and another text as text. But an
        # equality with a text that is no state raises, because it can only be a misspelling.
        if op in EQUALITIES and not self.protected:
            return _of_old_code(self, value)
        if isinstance(value, Enum) or op in EQUALITIES:
            return self
        return self if self.machine.declares(value) and not isinstance(op, custom_op) else String()

    @classmethod
    def of(cls, *states: str | int, storage: Storage = "enum") -> StateType:
        """The type with its *states* written out, and a machine that moves rows nowhere: for DDL in revisions.

        Its ``repr`` is this call, so Alembic's autogenerate writes it where ``sqlalchemy_fsm_mysql.alembic``, which has
        a shorter form, is not imported.
        """
        return cls(_written_out(states, storage), storage=storage)

    def __repr__(self) -> str:
        storage = "" if self.storage == "enum" else f", storage={self.storage!r}"
        values = self.stored_states if self.numbers is None else self.numbers.values()
        return f"StateType.of({', '.join(map(repr, values))}{storage})"


class EnumStateType(StateType):
    """A StateType whose machine has an Enum class: some libraries look for an Enum at the class of a type."""

    impl: TypeEngine[Any] | type[TypeEngine[Any]] = EnumType
    cache_ok: bool | None = True


def _are_alike(type_: StateType, other: object) -> bool:
    """Whether *other* is the type of a column with the same machine and options as *type_*."""
    names = ("machine", "storage", "protected", "enforced", "initial_states", "one_packet")
    return isinstance(other, StateType) and all(getattr(type_, name) == getattr(other, name) for name in names)


def _written_out(states: Sequence[str | int], storage: Storage) -> Machine:
    """A machine with these states as they are stored. Each is left for another one, as a machine has to."""
    names: Sequence[Any] = states
    if storage == "integer":
        # mypy wants the members of a functional Enum as a literal.
        names = list(Enum("States", {f"_{number}": number for number in states}))  # type: ignore[call-overload]
    events = [Event("Any", {**dict.fromkeys(names[1:], names[0]), names[0]: names[-1]})]
    return Machine(initial=names[0], states=names, initial_states=names, events=events)


def _of_old_code(type_: StateType, value: Any) -> TypeEngine[Any]:
    """The type by which *value* is compared while the column is not protected: old code has values of its own.

    Under a collation that folds case, ``status == "Paid"`` finds what is stored as 'paid'. In a column of numbers,
    old code compares with numbers.
    """
    values = value if isinstance(value, (list, tuple, set, frozenset)) else (value,)
    if type_.numbers is not None:
        return Integer() if values and all(type(one) is int for one in values) else type_
    are_texts = all(isinstance(one, str) and not isinstance(one, Enum) for one in values)
    return String() if are_texts and not all(map(type_.machine.declares, values)) else type_


def add_check(type_: Any, column: Column[Any]) -> None:
    """Give the column's table a named CHECK, for the databases whose type accepts undeclared states.

    *type_* has ``stored_states`` and ``storage``, as `StateType` does.
    """

    def attached(column: Column[Any], table: Any) -> None:
        if not isinstance(table, Table):
            return

        check = states_check(column, type_.stored_states, is_number=type_.storage == "integer")
        # As sqlalchemy.Enum marks its CHECK. Table.to_metadata() skips a type-bound CHECK, because the copied type
        # makes a new one. Alembic evaluates a create rule when it adds a column, and does not evaluate ddl_if().
        check._type_bound, check._create_rule = True, _CheckRule(type_)  # noqa: SLF001 - as Enum does; there is no other
        table.append_constraint(check)

    event.listen(column, "after_parent_attach", attached)
    ask_server_before_create(type_, column)


def ask_server_before_create(_: Any, column: Column[Any]) -> None:
    """Before the table of *column* is created, refuse a database that is not supported, and learn what a server has."""

    def attached(_: Column[Any], table: Any) -> None:
        if isinstance(table, Table):
            event.listen(table, "before_create", _require_database)

    event.listen(column, "after_parent_attach", attached)


def _require_database(_: Table, connection: Connection | None, **__: Any) -> None:
    if connection is not None:  # None: Alembic writes a script
        require_database(connection)


class _CheckRule:
    """Whether a CHECK is needed, for the DDL compiler. By ``target``, Alembic sees that the CHECK belongs to a type."""

    def __init__(self, type_: Any) -> None:
        self.target = type_

    def __call__(self, compiler: Any) -> bool:
        return types_of(compiler.dialect).needs_check(self.target.storage)


def states_check(
    column: Column[Any], states: Iterable[str], *, is_number: bool = False, is_script: bool = False
) -> CheckConstraint:
    """The named CHECK that limits *column*, a column of a table, to *states*; with *is_number*, these are numbers.

    With *is_script*, its text is for any server: that of a script, which its client sends in its own character set.
    """
    is_one = column.in_([defined_state(state, is_number=is_number, is_script=is_script) for state in states])
    return CheckConstraint(is_one, name=conv(check_name(column.table.name, column.name)))


def _add_triggers(type_: StateType, column: Column[Any]) -> None:
    """Create the triggers with the column's table, if the column is enforced and the database can have them."""

    def create(table: Table, connection: Any, **_: Any) -> None:
        if connection is None or not enforcer_of(connection.dialect).can_enforce:  # None: Alembic writes a script
            return
        from ..databases.triggers import KINDS, CreateTrigger

        is_real = isinstance(connection, Connection)
        used = enforcer_of(connection.dialect).used_names(connection, table) if is_real else ()
        for kind in KINDS:
            connection.execute(CreateTrigger(table.c[column.name], type_.rules, kind, used_names=used))

    def attached(column: Column[Any], table: Any) -> None:
        if isinstance(table, Table):
            type_.is_placed = True
            if type_.enforced:
                event.listen(table, "after_create", create)

    event.listen(column, "after_parent_attach", attached)
