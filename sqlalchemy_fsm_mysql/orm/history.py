"""The history of a machine: a history row per transition, written in the same transaction, and its tokens.

Declaring a history is enough::

    class OrderTransition(TransitionHistory, Base):
        __tablename__ = "order_transitions"
        __records__ = "Order.state"

From then on every function of this library that moves ``Order.state`` writes it. Its primary key is the key of the row
and a number that counts the row's transitions from 1. So the order of the history rows depends on no clock, and the
history rows of one row are next to each other in the table.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from sqlalchemy import (
    JSON,
    Connection,
    Dialect,
    Integer,
    String,
    Table,
    TypeDecorator,
    event,
    inspect,
    select,
)
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import Mapped, Session, mapped_column
from sqlalchemy.sql.base import SchemaEventTarget
from sqlalchemy.types import TypeEngine

from ..core.attribution import ACTOR_LENGTH, TOKEN_LENGTH, checked_token
from ..core.failures import raise_explained
from ..core.keys import prepare
from ..core.tokens import with_token
from ..databases import database_of, types_of
from ..errors import HistoryError, InvalidMachine
from ..errors.texts import State, row_label, shown, stored_form
from ..machine import Machine
from ..machine.states import FORCED
from ..outcomes import Moved
from ..sql.history import HistorySQL
from .awaited import Later
from .column import ask_server_before_create
from .history_table import make_table, shown_row
from .mapped import MappedState, attribute_state, mapped_states, named_state
from .placement import require_unset
from .sessions import (
    AsyncPlace,
    SyncPlace,
    Writer,
    flush_first,
    is_sharded,
    persistent_key,
    session_or_own,
    within,
)
from .since import Timestamp

if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    S = TypeVarWithDefault("S", default=State)

    class _Parameter(Generic[S]): ...

else:
    S = TypeVar("S")

    class _Parameter:
        # For type checkers; see Stateful.
        def __class_getitem__(cls, parameter: object) -> type:
            return cls


__all__ = ["History", "TransitionHistory", "find_by_token", "history_of", "history_rows", "replay"]

_BOUND = "__state_history__"
_KEY = "__history_key__"


class ExactText(TypeDecorator[str]):
    """Text that is compared byte by byte, whatever the database's default collation."""

    impl: TypeEngine[Any] | type[TypeEngine[Any]] = String
    cache_ok: bool | None = True

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.length = length
        event.listen(self, "after_parent_attach", ask_server_before_create)

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(types_of(dialect).exact_text(dialect, self.length))


class RecordedState(ExactText):
    """A state in a history row: a text, and maybe a state of an earlier machine; a declared one is loaded as such.

    Without a *machine*, as in ``RecordedState(length=64)`` of a revision that Alembic has written without
    ``import sqlalchemy_fsm_mysql.alembic``, every state is loaded as a text.
    """

    cache_ok: bool | None = True

    def __init__(self, machine: Machine | None = None, length: int = 64) -> None:
        super().__init__(length)
        self.machine = machine

    def copy(self, **_: Any) -> RecordedState:
        return RecordedState(self.machine, self.length)

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return stored_form(value) if isinstance(value, (str, enum.Enum)) else None

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return value if value is None or self.machine is None else self.machine.loaded(value)


class TransitionHistory(_Parameter[S]):
    """A declarative mixin for the history of one state column, which ``__records__`` names, as in ``"Order.state"``.

    Each transition is a row with these columns:

    - ``record_…``: one column for each part of the row's key, such as ``record_id``.
    - ``sequence``: the number of the transition in the row's history, from 1, without gaps.
    - ``event``, ``source``, ``target``: the event's name and the stored states.
    - ``at``: the time in UTC, by the database's clock.
    - ``actor``: who did it, at most 255 characters; NULL if none was passed.
    - ``details``: JSON; NULL if none was passed.
    - ``token``: the idempotency token, unique; NULL if none was passed.

    The key columns and ``sequence`` are the primary key. On a base that has a primary key of its own (``id``, made by
    the database), they are a unique key. You can declare more columns with defaults. A default that is a function is
    called once for each statement.

    Raises: InvalidMachine when ``__records__`` names no state column that is mapped already, or one with a history, or
    when the base's primary key has a default in Python, or none.
    """

    # At run time the attributes have no annotations: MappedAsDataclass refuses an annotated mixin that is no dataclass.
    if TYPE_CHECKING:
        __records__: Any  # Any: Order.state, which checkers type by its Mapped, or its name
        sequence: Mapped[int]
        event: Mapped[str]
        source: Mapped[S]
        target: Mapped[S]
        at: Mapped[datetime]
        actor: Mapped[str | None]
        details: Mapped[Any | None]  # Any: JSON
        token: Mapped[str | None]
    else:
        sequence = mapped_column(Integer, primary_key=True, autoincrement=False, sort_order=-1)
        event = mapped_column(ExactText(64), nullable=False)
        at = mapped_column(Timestamp(), nullable=False)
        actor = mapped_column(ExactText(ACTOR_LENGTH))
        details = mapped_column(JSON(none_as_null=True))
        token = mapped_column(ExactText(TOKEN_LENGTH), unique=True)

    def __init_subclass__(cls, **options: Any) -> None:  # Any: those of the base, each of its own type
        if "__records__" not in cls.__dict__:
            super().__init_subclass__(**options)
            return
        mapped = _recorded_state(cls, cls.__dict__["__records__"])
        require_unset(mapped.extras, "a history")
        if "__mapper__" in cls.__dict__:
            raise InvalidMachine(
                [f"{cls.__name__}: write TransitionHistory before the declarative base among its bases"]
            )
        names = [f"record_{mapped.mapper.get_property_by_column(part).key}" for part in mapped.mapper.primary_key]
        for name, part in zip(names, mapped.mapper.primary_key, strict=True):
            type_ = part.type.copy() if isinstance(part.type, SchemaEventTarget) else part.type
            setattr(cls, name, mapped_column(type_, primary_key=True, autoincrement=False, sort_order=-2))
        for name in ("source", "target"):
            setattr(cls, name, mapped_column(RecordedState(mapped.machine), nullable=False))
        setattr(cls, _KEY, (*names, "sequence"))
        is_shown = "__repr__" in cls.__dict__
        super().__init_subclass__(**options)
        if not is_shown:  # a dataclass makes one of its fields, which the columns of this mixin are not
            cls.__repr__ = TransitionHistory.__repr__  # type: ignore[method-assign]
        history = History(cls, mapped)
        setattr(cls, _BOUND, history)
        mapped.extras.history = history

    @classmethod
    def __table_cls__(cls, *arguments: Any, **options: Any) -> Table:  # Any: SQLAlchemy's arguments of a Table
        """Called by SQLAlchemy to make the table, when all of its columns are known."""
        key = getattr(cls, _KEY, ())
        return make_table(cls, getattr(super(), "__table_cls__", Table), arguments, options, key)

    def __repr__(self) -> str:
        return shown_row(self)


def _recorded_state(cls: type[Any], records: Any) -> MappedState:
    """The state column that ``__records__`` names."""
    if isinstance(records, str):
        model_name, _, attribute = records.rpartition(".")
        # With registry.mapped, the decorator sets cls.registry only after this. SQLModel has it under another name.
        registry = getattr(cls, "registry", None) or getattr(cls, "_sa_registry", None)
        mappers = registry.mappers if registry is not None else ()
        models = [mapper.class_ for mapper in mappers if mapper.class_.__name__ == model_name]
        if len(models) != 1:
            what = "no mapped class" if not models else f"{len(models)} mapped classes"
            problem = (
                f"{cls.__name__}.__records__ = {shown(records)} names {what}: declare the model first, or give its"
                " attribute"
            )
            raise InvalidMachine([problem])
        model: Any = models[0]
    else:
        model, attribute = getattr(records, "class_", None), str(getattr(records, "key", None))
    try:
        mapped = named_state(model, attribute)
    except TypeError as error:
        raise InvalidMachine([f"{cls.__name__}.__records__ = {shown(records)}: {error}"]) from error
    if mapped.extras.history is not None:
        other = mapped.extras.history.model.__name__
        raise InvalidMachine([f"{cls.__name__}: {model.__name__}.{attribute} has a history already, {other}"])
    return mapped


class History:
    """One history class, bound to the state column that it records."""

    mapped: MappedState
    model: type[Any]

    def __init__(self, model: type[Any], mapped: MappedState) -> None:
        self.model, self.mapped = model, mapped

    @cached_property
    def sql(self) -> HistorySQL:
        table = cast(Table, self.model.__table__)
        names = [self.mapped.mapper.get_property_by_column(part).key for part in self.mapped.mapper.primary_key]
        return HistorySQL(table, tuple(table.c[f"record_{name}"] for name in names))

    def rows(self, session: Session, key: tuple[Any, ...], bind_arguments: Mapping[str, Any]) -> list[Any]:
        """The history rows of the row with this *key*, oldest first."""
        rows = select(self.model).where(self.sql.of_row()).order_by(self.sql.table.c.sequence)
        parameters = dict(zip(self.mapped.key_names, key, strict=True))
        return list(session.scalars(rows, parameters, bind_arguments=dict(bind_arguments)))


def history_of(model: Any, column: Any = None) -> History:
    """The history of *model*'s one machine that has a history, or of the machine that *column* names.

    Raises: TypeError when there is no history, or when *column* is needed.
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


@overload
# Any: the model of the column.
def find_by_token(column: object, token: str, session: SyncPlace) -> Moved[Any] | None: ...
@overload
# Any: the model of the column.
def find_by_token(column: object, token: str, session: AsyncPlace) -> Later[Moved[Any] | None]: ...
def find_by_token(column: Any, token: str, session: Any) -> Any:
    """Find the committed transition with *token*, for instance after an OutcomeUnknown.

    Returns: its :class:`Moved`, with ``.replayed`` true; None if no committed transition has the token.

    *column* is the state column, as in ``find_by_token(Order.state, token, session)``. The read takes a lock on the
    primary: it waits for a COMMIT in flight, which a plain read can miss. *session* can be a Core ``Connection``. With
    an ``AsyncSession`` or an ``AsyncConnection``, await the call.

    Raises: TypeError when the column has no history; ValueError for a text that cannot be a token; FSMError on a server
    whose locking reads do not wait (OceanBase): fire again with the token there.
    """
    return within(session, _find_by_token, on_connection=_find_by_token)(column, token)


def _find_by_token(place: Session | Connection, column: Any, token: str) -> Moved[Any] | None:
    mapped = attribute_state(column)
    checked_token(token, mapped)
    if isinstance(place, Session):
        connection = Writer(place, mapped).connection(mapped.forced, is_one_row=True, is_fire=False)
    else:
        connection = place
        prepare(connection, mapped, None, is_one_row=True)
    try:
        database_of(connection).history.require_waiting(connection)
        return with_token(connection, mapped, token)
    except StatementError as error:
        raise_explained(error, connection)


def history_rows(instance: Any, session: Any, *, column: Any = None) -> Any:
    """The history rows of *instance*, oldest first; the work of the models' method ``history()``.

    Raises: see :meth:`~.stateful.Stateful.history`.
    """
    return within(session_or_own(session, instance), _history_rows, "history")(instance, column)


def _history_rows(session: Session, instance: Any, column: Any) -> list[Any]:
    bound = history_of(type(instance), column)
    flush_first(session, bound.mapped.mapper, model=bound.mapped.model)
    key = persistent_key(session, instance)
    shard = {"shard_id": inspect(instance).identity_token} if is_sharded(session) else {}
    return bound.rows(session, key, shard)


def replay(history: Iterable[object], *, pruned: bool = False) -> State | None:
    """Compute the state of a row from *history*, its history rows, oldest first.

    Returns: the state after the last history row; None without history rows.

    The numbers begin at 1. With *pruned*, they can begin later, as after :func:`prune_history`. A history row with a
    state that the machine no longer declares comes from an earlier release, whose events are not known. It only has to
    follow from the history row before it.

    Raises: HistoryError with the first history row that does not follow from the one before it, or that is no
    transition of the machine.
    """
    state: State | None = None
    if not isinstance(history, Iterable):
        raise TypeError(f"replay() takes rows of a TransitionHistory, not {shown(history)}")
    number = 0
    row: Any
    for row in history:
        number = getattr(row, "sequence", 1) if pruned and number == 0 else number + 1
        fault = _fault(row, number, state)
        if fault is not None:
            raise HistoryError(f"{_history_row_label(row)}: {fault}", row)
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
    transitions = machine.transitions(row.event) if row.event in machine.events else []
    if not any((one.source, one.target) == (row.source, row.target) for one in transitions):
        ends = f"{shown(stored_form(row.source))} to {shown(stored_form(row.target))}"
        return f"the machine has no {shown(row.event)} from {ends}"
    return None


def _history_row_label(row: Any) -> str:
    bound: History = getattr(type(row), _BOUND)
    key = tuple(getattr(row, part.key) for part in bound.sql.row_key)
    return f"{row_label(bound.sql.table.name, (*key, row.sequence))}"
