"""The history of a machine: a row per transition, written in the same transaction, and the tokens it keeps.

A history is declared, and that is all::

    class OrderTransition(TransitionHistory, Base):
        __tablename__ = "order_transitions"
        __records__ = "Order.state"

From then on whatever moves ``Order.state`` through this library writes it. Its primary key is the record's key and a
number that counts the record's transitions from 1, so the order of the rows depends on no clock, and the history of
one record lies together in the table.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import (
    JSON,
    Connection,
    DateTime,
    Dialect,
    Integer,
    Select,
    String,
    Table,
    TypeDecorator,
    bindparam,
    select,
)
from sqlalchemy.orm import Mapped, Session, mapped_column
from sqlalchemy.sql.base import SchemaEventTarget
from sqlalchemy.types import TypeEngine

from ..databases import backend_of_dialect
from ..databases.base import is_autocommit
from ..errors import HistoryError, InvalidMachine, TransactionRequired
from ..errors.texts import State, row_label, shown, stored_form
from ..machine import Machine
from ..machine.states import FORCED
from ..outcomes import Moved
from ..sql.events import KEY, HistorySQL
from .column import MappedState, mapped_states, named_state

__all__ = ["History", "TransitionHistory", "checked_said", "checked_token", "history_of", "replay"]

TOKEN_LENGTH = 64
ACTOR_LENGTH = 255
_BOUND = "__state_history__"


class ExactText(TypeDecorator[str]):
    """Text that is compared to the letter, whatever the database's default collation."""

    impl = String
    cache_ok = True

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.length = length

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(backend_of_dialect(dialect).exact_text(dialect, self.length))


class RecordedState(ExactText):
    """A state as the history keeps it: text, which outlives the machine's changes; a declared one is loaded as such."""

    cache_ok = True

    def __init__(self, machine: Machine) -> None:
        super().__init__(64)
        self.machine = machine

    def copy(self, **_: Any) -> RecordedState:
        return RecordedState(self.machine)

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return stored_form(value) if isinstance(value, (str, enum.Enum)) else None

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return None if value is None else self.machine.loaded(value)


class Timestamp(TypeDecorator[datetime]):
    """A point in time by the database's clock, in UTC, with microseconds; a naive datetime in Python."""

    impl = DateTime

    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(backend_of_dialect(dialect).timestamp())


class TransitionHistory:
    """A declarative mixin for the history of one state column, named by ``__records__``.

    The columns: ``record_…`` for each part of the record's key (``record_id``), ``sequence`` (from 1, without gaps),
    ``event``, ``source``, ``target``, ``at`` (the database's clock, UTC), ``actor`` (at most 255 characters),
    ``details`` (JSON), ``token`` (unique). More columns may be declared, with defaults and without AUTO_INCREMENT;
    a default that is a function is called once for each statement.

    Raises: InvalidMachine when ``__records__`` names no state column that is mapped already, or one with a history.
    """

    if TYPE_CHECKING:  # at runtime without annotations: with them, a base of dataclasses takes no mixin that is none
        __records__: Any
        sequence: Mapped[int]
        event: Mapped[str]
        source: Mapped[Any]  # Any: a string, or a member of the machine's enum
        target: Mapped[Any]
        at: Mapped[datetime]
        actor: Mapped[str | None]
        details: Mapped[Any | None]
        token: Mapped[str | None]
    else:
        sequence = mapped_column(Integer, primary_key=True, autoincrement=False, sort_order=-1)
        event = mapped_column(ExactText(64), nullable=False)
        at = mapped_column(Timestamp(), nullable=False)
        actor = mapped_column(String(ACTOR_LENGTH))
        details = mapped_column(JSON(none_as_null=True))
        token = mapped_column(ExactText(TOKEN_LENGTH), unique=True)

    def __init_subclass__(cls, **options: Any) -> None:
        if "__records__" not in cls.__dict__:
            super().__init_subclass__(**options)
            return
        mapped = _recorded(cls, cls.__dict__["__records__"])
        if "__mapper__" in cls.__dict__:
            raise InvalidMachine(
                [f"{cls.__name__}: write TransitionHistory before the declarative base among its bases"]
            )
        for part in mapped.mapper.primary_key:
            name = f"record_{mapped.mapper.get_property_by_column(part).key}"
            type_ = part.type.copy() if isinstance(part.type, SchemaEventTarget) else part.type
            setattr(cls, name, mapped_column(type_, primary_key=True, autoincrement=False, sort_order=-2))
        for name in ("source", "target"):
            setattr(cls, name, mapped_column(RecordedState(mapped.machine), nullable=False))
        super().__init_subclass__(**options)
        history = History(cls, mapped)
        setattr(cls, _BOUND, history)
        mapped.extras.history = history


def _recorded(cls: type[Any], records: Any) -> MappedState:
    """The state column that ``__records__`` names."""
    if isinstance(records, str):
        model_name, _, attribute = records.rpartition(".")
        # A class that a registry's decorator maps has no registry yet.
        mappers = cls.registry.mappers if hasattr(cls, "registry") else ()
        models = [mapper.class_ for mapper in mappers if mapper.class_.__name__ == model_name]
        if len(models) != 1:
            what = "no mapped class" if not models else f"{len(models)} mapped classes"
            problem = (
                f"{cls.__name__}.__records__ = {records!r} names {what}: declare the model first, or give its attribute"
            )
            raise InvalidMachine([problem])
        model: Any = models[0]
    else:
        model, attribute = getattr(records, "class_", None), str(getattr(records, "key", None))
    try:
        mapped = named_state(model, attribute)
    except TypeError as error:
        raise InvalidMachine([f"{cls.__name__}.__records__ = {records!r}: {error}"]) from error
    if mapped.extras.history is not None:
        other = mapped.extras.history.model.__name__
        raise InvalidMachine([f"{cls.__name__}: {model.__name__}.{attribute} has a history already, {other}"])
    return mapped


class History:
    """One history class, bound to the state column that it records."""

    def __init__(self, model: type[Any], mapped: MappedState) -> None:
        self.model, self.mapped = model, mapped

    @cached_property
    def sql(self) -> HistorySQL:
        table = cast(Table, self.model.__table__)
        names = [self.mapped.mapper.get_property_by_column(part).key for part in self.mapped.mapper.primary_key]
        return HistorySQL(table, tuple(table.c[f"record_{name}"] for name in names))

    def key_parameters(self, key: tuple[Any, ...]) -> dict[str, Any]:
        return {KEY.format(i): part for i, part in enumerate(key)}

    def rows(self, session: Session, key: tuple[Any, ...], bind_arguments: Mapping[str, Any]) -> list[Any]:
        """The records of the row with this *key*, oldest first."""
        rows = select(self.model).where(self.sql.of_record()).order_by(self.sql.table.c.sequence)
        return list(session.scalars(rows, self.key_parameters(key), bind_arguments=dict(bind_arguments)))

    def by_token(self) -> Select[Any]:
        """The record that has the parameter ``fsm_token``, read with a lock."""
        token = self.sql.table.c.token
        return (
            select(self.sql.table).where(token == bindparam("fsm_token", type_=token.type)).with_for_update(read=True)
        )

    def with_token(self, connection: Connection, token: str) -> Moved[Any] | None:
        """The transition that has *token*, as it was told the first time; None when no committed one has it.

        The read takes a lock: it waits for a transaction that is about to commit the token, and sees what was committed
        after this transaction's snapshot.
        """
        table = self.sql.table
        row = connection.execute(self.by_token(), {"fsm_token": token}).mappings().one_or_none()
        if row is None:
            return None
        key = tuple(row[part] for part in self.sql.record)
        return Moved(
            self.mapped.model,
            key[0] if len(key) == 1 else key,
            row[table.c.event],
            row[table.c.source],
            row[table.c.target],
            actor=row[table.c.actor],
            details=row[table.c.details],
            token=token,
            replayed=True,
            sequence=row[table.c.sequence],
        )


def history_of(model: Any, column: Any = None) -> History:
    """The history of *model*'s one recorded machine, or of the one that *column* names.

    Raises: TypeError when there is none, or when *column* is needed.
    """
    states = [named_state(model, column)] if column is not None else list(mapped_states(model).values())
    histories = [state.extras.history for state in states if state.extras.history is not None]
    if not histories:
        raise TypeError(
            f"{model.__name__} has no TransitionHistory: declare one whose __records__ names its state column"
        )
    if len(histories) > 1:
        raise TypeError(f"{len(histories)} machines of {model.__name__} have a history: name one by column=")
    return cast(History, histories[0])


def checked_token(token: Any, mapped: MappedState) -> str:
    """*token*, fit to be stored.

    Raises: TypeError when it is no string, or there is no history to keep it; ValueError when it is empty, too long, or
    not printable.
    """
    if not isinstance(token, str):
        raise TypeError(f"a token is a string, not {type(token).__name__}")
    if mapped.extras.history is None:
        raise TypeError(
            f"a token needs a TransitionHistory to keep it, and {mapped.model.__name__}.{mapped.attribute} has none"
        )
    if not 1 <= len(token) <= TOKEN_LENGTH or not token.isprintable():
        raise ValueError(f"a token has 1 to {TOKEN_LENGTH} printable characters, not {shown(token)} ({len(token)})")
    return token


def checked_said(said: tuple[Any, Any, Any], mapped: MappedState) -> tuple[str | None, Any, str | None]:
    """What a caller said about a fire, its actor, details and token, fit to be stored.

    Raises: TypeError for an actor that is no string, ValueError for one that is too long; and as :func:`checked_token`.
    """
    actor, details, token = said
    if actor is not None and not isinstance(actor, str):
        raise TypeError(f"an actor is a string, not {type(actor).__name__}")
    if actor is not None and len(actor) > ACTOR_LENGTH:
        raise ValueError(f"an actor has at most {ACTOR_LENGTH} characters, not {len(actor)}: {shown(actor)}")
    if token is not None:
        checked_token(token, mapped)
    return None if actor is None else str.__str__(actor), details, token


def require_transaction(connection: Connection, mapped: MappedState) -> None:
    """Raises: TransactionRequired where the state and its history cannot be committed together."""
    if is_autocommit(connection):
        raise TransactionRequired(
            f"{mapped.model.__name__}.{mapped.attribute} has a history, which is committed together with the state, "
            "and this connection is in AUTOCOMMIT: use another isolation level, such as READ COMMITTED"
        )


def replay(history: Iterable[Any]) -> State | None:
    """The state that the rows of one record's *history*, oldest first, lead to; None for no rows.

    A row with a state that the machine does not declare any more, one of an earlier release, has to follow from the row
    before it; which events there were then, the machine cannot know.

    Raises: HistoryError naming the first row that does not follow from the one before it, or not by the machine.
    """
    state: State | None = None
    for number, row in enumerate(history, start=1):
        fault = _fault(row, number, state)
        if fault is not None:
            raise HistoryError(f"{_label(row)}: {fault}", row)
        state = row.target
    return state


def _fault(row: Any, number: int, state: State | None) -> str | None:
    bound: History | None = getattr(type(row), _BOUND, None)
    if bound is None:
        raise TypeError(f"replay() takes rows of a TransitionHistory, not {shown(row)}")
    if row.sequence != number:
        return f"its number is {row.sequence}, and {number} was expected"
    if state is not None and row.source != state:
        return f"it leaves {shown(stored_form(row.source))}, and the row before it led to {shown(stored_form(state))}"
    if row.event == FORCED:
        return None
    machine = bound.mapped.machine
    if not (machine.declares(row.source) and machine.declares(row.target)):
        return None
    edges: Iterable[Any] = machine.transitions(row.event) if row.event in machine.events else ()
    if not any((edge.source, edge.target) == (row.source, row.target) for edge in edges):
        edge = f"{shown(stored_form(row.source))} to {shown(stored_form(row.target))}"
        return f"the machine has no {shown(row.event)} from {edge}"
    return None


def _label(row: Any) -> str:
    bound: History = getattr(type(row), _BOUND)
    key = tuple(getattr(row, part.key) for part in bound.sql.record)
    return f"{row_label(bound.sql.table.name, (*key, row.sequence))}"
