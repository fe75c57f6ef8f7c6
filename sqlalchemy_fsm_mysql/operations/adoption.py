"""A column of another program, read before a machine takes it over: its values, and the phases that follow.

:func:`look` only reads. ``op.adopt_column`` begins with it, and ``sqlalchemy-fsm-mysql adopt`` prints it. What the
phases do is in :mod:`..alembic.adoption`.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, MetaData, Table, func, literal_column, select

from ..databases import name_of, types_of
from ..databases.exact import AsBytes
from ..databases.mysql.adoption import (
    NUMBERS,
    TEXTS,
    Adoption,
    ForeignKey,
    Index,
    OldValue,
    adoption_of,
    adoptions,
    becomes,
    can_hold,
    foreign_keys,
    indexes,
)
from ..databases.mysql.dependents import dependents
from ..databases.mysql.shape import ColumnShape, column_shape, table_kind, table_size
from ..errors import MigrationRefused
from ..errors.texts import stored_form
from ..machine import Machine

__all__ = ["Look", "Phase", "Value", "look", "look_at", "suggested"]

# Rows a second with 300,000 rows and 6 writers, on 2 cores with a load of 10: tests/alembic/test_adoption.py.
FILLED_A_SECOND, REBUILT_A_SECOND = 17_000, 90_000


@dataclass(frozen=True, slots=True)
class Value:
    """A value that *rows* rows of the old column have, and its state; None when the mapping does not name one."""

    value: OldValue
    rows: int
    state: str | None


@dataclass(frozen=True, slots=True)
class Phase:
    """One step: what is done, about how long it takes in seconds, and a sentence on what other writers see of it."""

    what: str
    seconds: float
    writers: str


@dataclass(frozen=True)
class Look:
    """Everything that an adoption has to know of the table."""

    schema: str | None
    shape: ColumnShape
    adoption: Adoption
    values: tuple[Value, ...]
    rows: int
    keys: tuple[ForeignKey, ...] = ()
    indexes: tuple[Index, ...] = ()
    referred: tuple[OldValue, ...] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        return ".".join(part for part in (self.schema, self.adoption.table, self.adoption.old) if part)

    @property
    def fits(self) -> bool:
        """Whether the column is a text whose values are states already, to the byte: it can be declared as it is."""
        is_text = self.shape.kind in ("enum", "varchar")
        return is_text and all(one.value == one.state for one in self.values)

    @property
    def unknown(self) -> dict[str, int]:
        """The rows whose value stands for no state, by value."""
        return {shown(one.value): one.rows for one in self.values if one.state is None}

    @property
    def old_values(self) -> dict[str, OldValue]:
        """The value that the old column gets for each state."""
        return self.adoption.old_values(self.holds)

    def holds(self, value: OldValue) -> bool:
        """Whether the old column can hold *value*: by its type, and by its foreign key."""
        if not can_hold(self.shape, value):
            return False
        return value is None or self.referred is None or value in self.referred

    def unspelled(self, states: Sequence[str]) -> list[str]:
        """Those of *states* for which the old column has no value."""
        return [state for state in states if state not in self.old_values]

    def phases(self) -> list[Phase]:
        """The steps of ``op.adopt_column`` and ``op.finish_adoption``, in order."""
        new, old = self.adoption.new, self.adoption.old
        known, moment = self.adoption.unknown, "Other writers wait for a moment."
        strange = f"A value that the mapping lacks {'is refused (error 30046)' if known is None else f'is {known!r}'}."
        return [
            Phase(f"add {new}, empty, by ALGORITHM=INSTANT", 0.1, moment),
            Phase("create two triggers that keep both columns in step", 0.1, f"{moment} {strange}"),
            Phase(
                f"fill {new} in committed batches; after a crash, run it again",
                self.rows / FILLED_A_SECOND,
                "Other writers go on; a batch locks its rows for some hundredths of a second.",
            ),
            Phase("deploy the code that fires events", 0, "Old and new code write side by side."),
            Phase(
                f"op.finish_adoption(): make {new} NOT NULL, by ALGORITHM=INPLACE, LOCK=NONE",
                self.rows / REBUILT_A_SECOND,
                "Other writers go on while the server rebuilds the table.",
            ),
            Phase(
                f"drop the triggers, and drop {old} or make it a generated column",
                0.1,
                f"{moment} From then on, {old} cannot be written.",
            ),
        ]


def look(
    connection: Connection,
    table: str,
    old: str,
    new: str,
    *,
    states: Sequence[str],
    mapping: Mapping[Any, Any],
    unknown: Any = None,
    schema: str | None = None,
) -> Look:
    """The values of *old*, and what *mapping* makes of them. It reads the whole table.

    Raises: MigrationRefused when there is no such table or column, when the column is of a kind that cannot be taken
    over, or *mapping* does not fit the column or *states*.
    """
    label = ".".join(part for part in (schema, table, old) if part)
    shape = _shape(connection, label, table, old, schema)
    is_number = shape.kind in NUMBERS
    pairs = tuple(
        (_plain(label, value, is_number=is_number), _state(label, state, states)) for value, state in mapping.items()
    )
    known = None if unknown is None else _state(label, unknown, states)
    adoption = Adoption(table, shape.name, new, pairs, known, is_number)
    keys = foreign_keys(connection, table, schema)
    own = next((key for key in keys if key.table == table and key.columns == (shape.name,)), None)
    found = Look(
        schema=schema,
        shape=shape,
        adoption=adoption,
        values=tuple(_values(connection, adoption, schema)),
        rows=table_size(connection, table, schema)[0],
        keys=tuple(keys),
        indexes=tuple(one for one in indexes(connection, table, schema) if shape.name in one.columns),
        referred=None if own is None else tuple(_referred(connection, own, is_number=is_number)),
    )
    found.notes.extend(_notes(found, own))
    going = adoption_of(connection, table, shape.name, new, schema)
    if going is not None:
        found = replace(found, adoption=replace(adoption, names=going.names))
    return found


def look_at(
    connection: Connection,
    table: str,
    old: str,
    new: str,
    machine: Machine,
    *,
    given: Mapping[OldValue, str] | None = None,
    unknown: str | None = None,
    schema: str | None = None,
) -> Look:
    """As :func:`look`, with a mapping that is guessed from the values and *machine* where *given* has none."""
    label = ".".join(part for part in (schema, table, old) if part)
    shape = _shape(connection, label, table, old, schema)
    given = {_typed(label, value, shape): state for value, state in (given or {}).items()}
    states = machine.stored_states
    first = look(connection, table, old, new, states=states, mapping=given, unknown=None, schema=schema)
    names = _names_of_ids(connection, first)
    guessed: dict[OldValue, str] = {}
    for one in first.values:
        state = given.get(one.value) or suggested(machine, one.value, names.get(one.value))
        if state is not None:
            guessed[one.value] = state
    # The first value of a state is the one that the column gets: one that is spelled alike, also if it was given and no
    # row has it; then that of the most rows; then the state's own name.
    rows = {one.value: one.rows for one in first.values}
    known = guessed | given

    def rank(value: OldValue) -> tuple[bool, bool, int, bool]:
        is_alike = suggested(machine, value, names.get(value)) == known[value]
        return value in (None, ""), not is_alike, -rows.get(value, 0), value != known[value]

    guesses = []
    mapping = {value: known[value] for value in sorted(known, key=rank)}
    # NULL and '' are read as a state, but new code shall write a value that means one.
    spelled = {state for value, state in mapping.items() if value not in (None, "")}
    added: dict[OldValue, str] = {}
    for state in states:
        value = None if state in spelled else _value_for(machine, first, state, names)
        if value is not None and value not in mapping:
            added[value] = state
            guesses.append(
                f"no row is in {state!r}, so {shown(value)!r} is a guess; correct it by --map 'VALUE={state}'"
            )
    empty: dict[OldValue, str] = {value: state for value, state in mapping.items() if value in (None, "")}
    mapping = {value: state for value, state in mapping.items() if value not in empty} | added | empty
    found = look(connection, table, old, new, states=states, mapping=mapping, unknown=unknown, schema=schema)
    found.notes.extend(guesses)
    written = found.old_values
    if unseen := [shown(value) for value, state in given.items() if value not in rows and written.get(state) != value]:
        found.notes.append(f"the mapping has {', '.join(map(repr, unseen))}, which no row has")
    if found.adoption.names:
        found.notes.append(f"the adoption has begun; op.adopt_column() with another mapping replaces that of {new}")
    own = [name for one in adoptions(connection, table, schema) for name in one.names]
    if users := dependents(connection, table, shape.name, schema, own_triggers=own, stays_readable=True):
        found.notes.append(f"{old} is used by {', '.join(users)}: make it use {new} before op.finish_adoption()")
    return found


def suggested(machine: Machine, value: OldValue, name: str | None = None) -> str | None:
    """The state that *value* most likely stands for; None when no state is like it. *name* is that of an id.

    >>> from sqlalchemy_fsm_mysql import Event
    >>> machine = Machine(initial="new", events=[Event("Hold", {"new": "on_hold"})])
    >>> suggested(machine, "On hold "), suggested(machine, None), suggested(machine, 7), suggested(machine, 2, "NEW")
    ('on_hold', 'new', None, 'new')
    """
    if isinstance(value, int):
        for state in machine.states:
            if isinstance(state, enum.Enum) and state.value == value and type(state.value) is not str:
                return machine.stored(state)
        return None if name is None else suggested(machine, name)
    if value is None or value == "":
        return machine.stored(machine.initial)
    if value in machine.stored_states:
        return value
    alike = [state for state in machine.stored_states if _folded(state) == _folded(value)]
    return alike[0] if len(alike) == 1 else None


def shown(value: OldValue) -> str:
    """*value* for people, in which NULL is no text of that name."""
    return "NULL (no value)" if value is None else str(value)


def _folded(text: str) -> str:
    return re.sub(r"[\s_\-]+", "", text).casefold()


def _value_for(machine: Machine, found: Look, state: str, names: Mapping[OldValue, str]) -> OldValue:
    """A value of the old column for a *state* that no row is in: of its foreign key, of its ENUM, or its own name."""
    for value in found.referred or ():
        if suggested(machine, value, names.get(value)) == state:
            return value
    if found.adoption.is_number:
        member = next((one for one in machine.states if machine.stored(one) == state), None)
        value = getattr(member, "value", None)
        return value if isinstance(value, int) and found.holds(value) else None
    if found.shape.kind == "enum":
        members = [one.replace("''", "'") for one in re.findall(r"'((?:[^']|'')*)'", found.shape.type)]
        return next((one for one in members if suggested(machine, one) == state), None)
    return state if found.holds(state) else None


def _typed(label: str, value: OldValue, shape: ColumnShape) -> OldValue:
    """*value* of a command line as the column holds it."""
    if value is None or shape.kind not in NUMBERS:
        return value
    try:
        return int(value)
    except ValueError as error:
        raise MigrationRefused(label, f"{value!r} is not a whole number", f"the column is {shape.type}") from error


def _shape(connection: Connection, label: str, table: str, old: str, schema: str | None) -> ColumnShape:
    if not types_of(connection.dialect).has_enum:
        what = f"this library has no triggers for an adoption on {name_of(connection.dialect)}"
        raise MigrationRefused(label, what, "on SQLite, make the table again by op.batch_alter_table()")
    kind = table_kind(connection, table, schema)
    if kind != "BASE TABLE":
        what = "there is no table of this name" if kind is None else f"this is a {kind.lower()}"
        raise MigrationRefused(label, what, "name the table that has the column, and its schema= if it has one")
    shape = column_shape(connection, table, old, schema)
    if shape is None:
        raise MigrationRefused(label, "the table has no column of this name", "name one that it has")
    if shape.is_generated:
        raise MigrationRefused(label, "the column is generated", "adopt the column that it is computed from")
    if shape.kind not in (*TEXTS, *NUMBERS, "enum"):
        raise MigrationRefused(
            label,
            f"a column of type {shape.type} cannot be taken over",
            "texts, ENUM, whole numbers and foreign keys to a table of states can",
        )
    return shape


def _plain(label: str, value: Any, *, is_number: bool) -> OldValue:
    """The key *value* of a mapping as the column holds it."""
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None or (isinstance(value, int) if is_number else isinstance(value, str)):
        return int(value) if isinstance(value, int) else value
    wanted = "whole numbers" if is_number else "texts"
    raise MigrationRefused(
        label, f"the mapping has the key {value!r}, and the column contains {wanted}", "correct the mapping"
    )


def _state(label: str, state: Any, states: Sequence[str]) -> str:
    name = stored_form(state) if isinstance(state, (str, enum.Enum)) else state
    if name not in states:
        raise MigrationRefused(
            label, f"the mapping names the state {name!r}", f"the machine's states are {', '.join(map(repr, states))}"
        )
    return str(name)


def _values(connection: Connection, adoption: Adoption, schema: str | None) -> list[Value]:
    source = Table(adoption.table, MetaData(), Column(adoption.old), schema=schema)
    column = source.c[adoption.old]
    value: Any = column if adoption.is_number else AsBytes(column)
    states = dict(adoption.mapping)
    counted = connection.execute(select(value, func.count()).select_from(source).group_by(value))
    found = []
    for value, number in counted:
        plain: OldValue = value.decode(errors="backslashreplace") if isinstance(value, bytes) else value
        if plain is not None and adoption.is_number:
            plain = int(plain)
        found.append(Value(plain, int(number), states.get(plain, adoption.unknown)))
    return sorted(found, key=lambda one: (-one.rows, shown(one.value)))


def _referred(connection: Connection, key: ForeignKey, *, is_number: bool) -> list[OldValue]:
    """All values that a foreign key lets in."""
    other = Table(key.referred, MetaData(), Column(key.referred_columns[0]), schema=key.referred_schema)
    column = other.c[key.referred_columns[0]]
    found = connection.execute(select(column if is_number else AsBytes(column)).select_from(other).limit(10_000))
    return [value.decode() if isinstance(value, bytes) else int(value) if is_number else value for (value,) in found]


def _names_of_ids(connection: Connection, found: Look) -> dict[OldValue, str]:
    """The name of each id in the table of states: its text column whose values are most like states."""
    own = next((key for key in found.keys if key.columns == (found.adoption.old,)), None)
    if own is None or not found.adoption.is_number:
        return {}
    other = Table(own.referred, MetaData(), schema=own.referred_schema, autoload_with=connection)
    id_ = other.c[own.referred_columns[0]]
    for column in other.c:
        if getattr(column.type, "length", None) is not None:
            rows = connection.execute(select(id_, column).limit(10_000)).all()
            names = {int(key): str(name) for key, name in rows if name is not None}
            if len(set(names.values())) == len(rows):
                return names  # type: ignore[return-value]  # ids are numbers here
    return {}


def _notes(found: Look, own: ForeignKey | None) -> list[str]:
    old, notes = found.adoption.old, []
    if own is not None and own.cascades:
        notes.append(
            f"the foreign key {own.name} changes {old} by CASCADE or SET NULL, which no trigger sees: change no key of"
            f" {own.referred} during the adoption"
        )
    if own is not None:
        notes.append(f"a state that is new to {own.referred} needs a row there before new code can enter it")
    return notes


def disagreeing(connection: Connection, adoption: Adoption, schema: str | None) -> int:
    """How many rows have two columns that say different things; 0 while the triggers are there, once all are filled."""
    source = Table(adoption.table, MetaData(), Column(adoption.new), schema=schema)
    quote = connection.dialect.identifier_preparer.quote
    expected: ColumnElement[str] = literal_column(f"({becomes(quote(adoption.old), adoption)})")
    differs = AsBytes(source.c[adoption.new]).is_distinct_from(AsBytes(expected))
    return int(connection.execute(select(func.count()).select_from(source).where(differs)).scalar_one())
