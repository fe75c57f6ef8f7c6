"""One state column of one table, in Core terms: the target of a fire.

A model's declaration makes one (``orm.mapped``). Nothing in ``core`` knows more of a model than this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Column, Enum, TypeDecorator
from sqlalchemy.types import NULLTYPE

from ..errors.texts import State, shown
from ..machine import Machine
from ..machine.states import FORCED
from ..sql.values import unfit

if TYPE_CHECKING:
    from ..machine import Event
    from ..sql.events import EventSQL, StateRow
    from ..sql.history import HistorySQL

__all__ = ["Extras", "Target", "plain_key"]


EXTRAS = "sqlalchemy_fsm_mysql"
"""The key of a column's ``info`` under which its `Extras` are."""


class Extras:
    """The history, the hooks and the since column of a state column, shared by all classes that map it."""

    column: Column[Any]
    history: Any  # Any: an orm.history.History; core reads its .sql
    hooks: list[Any]
    since: Column[Any] | None  # holds since when the row is in its state
    is_set_elsewhere: bool  # whether an effect of another machine on the row sets this state
    one_packet: bool  # whether fires go out in packets where the engine does not say

    __slots__ = ("column", "history", "hooks", "is_set_elsewhere", "one_packet", "since")

    def __init__(self, column: Column[Any], *, one_packet: bool) -> None:
        self.column, self.history, self.hooks, self.since = column, None, [], None
        self.is_set_elsewhere, self.one_packet = False, one_packet


class Target:
    """A state column: the table that its row is in, its machine, and the SQL of each event."""

    model: type[Any]  # named in outcomes and errors
    attribute: str
    column: Column[Any]
    machine: Machine
    extras: Extras

    @property
    def table_name(self) -> str:
        return self.column.table.name

    @property
    def label(self) -> str:
        """The column as people name it: ``Order.state``."""
        return f"{self.model.__name__}.{self.attribute}"

    @cached_property
    def row(self) -> StateRow:
        """The place of the state: its table, its key, and what an UPDATE of it must mind."""
        raise NotImplementedError

    @cached_property
    def key_attributes(self) -> tuple[str, ...]:
        """The names of the parts of the row's key, as a caller gives them."""
        raise NotImplementedError

    @property
    def history(self) -> HistorySQL | None:
        """The table with a history row for each transition; None when the machine has no history."""
        recorder = self.extras.history
        return None if recorder is None else cast("HistorySQL", recorder.sql)

    def event(self, name: str | Event) -> EventSQL:
        """The SQL of the event *name*.

        Raises: UnknownEvent.
        """
        raise NotImplementedError

    @cached_property
    def makes_versions(self) -> bool:
        """Whether Python makes a row's next version from the one before."""
        return False

    def next_version(self, version: Any) -> Any:
        """The version after *version*, where :attr:`makes_versions`; None stands for that of a row that is new."""
        raise NotImplementedError

    @cached_property
    def forced(self) -> EventSQL:
        """The event that stands for a forced state: it has no transitions."""
        from ..sql.events import EventSQL

        return EventSQL(FORCED, self.row, self.machine.stored_states, ())

    def forced_to(self, state: State) -> EventSQL:
        """:attr:`forced` where the state is set to *state*, with the effects of the borders between.

        Raises: TypeError when one of these needs a payload.
        """
        return self.forced

    @cached_property
    def key_names(self) -> tuple[str, ...]:
        """The bound parameters of the row's key."""
        from ..sql.events import KEY

        return tuple(KEY.format(i) for i in range(len(self.row.key)))

    def key_parts(self, key: Any) -> tuple[Any, ...]:
        """The parts of the primary *key*: one value, or a tuple, or a mapping by attribute name.

        Raises: TypeError when the key has the wrong number of parts, or a part that MySQL would compare by converting;
        ValueError for a text that is no Unicode, and a number that is not finite.
        """
        if type(key) in self.plain_keys:
            return (key,)
        parts = self._split(key)
        for column, part in zip(self.row.key, parts, strict=True):
            wanted = _exact_types(column)
            if wanted and (not isinstance(part, wanted) or isinstance(part, bool)):
                raise TypeError(
                    f"{self.table_name}.{column.name} is {wanted[0].__name__}, and the key {shown(part)} is "
                    f"{type(part).__name__}: {_key_problem(part)}"
                )
            problem = unfit(NULLTYPE, part) if isinstance(part, _CHECKED) else None
            if problem is not None:
                raise ValueError(f"{self.table_name}.{column.name} {problem}")
        return tuple(map(_plain_part, self.row.key, parts))

    @cached_property
    def plain_keys(self) -> tuple[type[Any], ...]:
        """The types of which one value is the whole key and needs no further check."""
        if len(self.row.key) != 1:
            return ()
        return tuple(kind for kind in _exact_types(self.row.key[0]) if kind is int or not issubclass(kind, _CHECKED))

    def _split(self, key: Any) -> tuple[Any, ...]:
        names = self.key_attributes
        if isinstance(key, Mapping):
            if set(key) == set(names):
                return tuple(key[name] for name in names)
        else:
            parts = tuple(key) if isinstance(key, (tuple, list)) else (key,)
            if len(parts) == len(names):
                return parts
        raise TypeError(f"the key of {self.model.__name__} is ({', '.join(names)}), got {shown(key)}")


def _key_problem(part: Any) -> str:
    # None is the key of an object that is not stored yet. MySQL converts any other value, as '1abc' to 1.
    if part is None:
        return "an object that is not stored yet has no key; flush it first"
    return "MySQL would convert it, and may find another row"


def plain_key(parts: Sequence[Any]) -> Any:
    """A primary key as outcomes and messages show it: the one value, or the tuple of a composite key."""
    return parts[0] if len(parts) == 1 else tuple(parts)


def _plain_part(column: Column[Any], part: Any) -> Any:
    """*part*, of a subclass of int or str as a plain one, because drivers send others by their ``str()``."""
    if type(part) in (int, str) or not isinstance(part, (int, str)) or not _exact_types(column):
        return part
    return int(part) if isinstance(part, int) else str.__str__(part)


_CHECKED = (str, int, float, Decimal)  # not every value of these can be sent


def _exact_types(column: Column[Any]) -> tuple[type[Any], ...]:
    """The Python types that MySQL compares with *column* without converting; empty where the column's type converts."""
    if isinstance(column.type, (Enum, TypeDecorator)):
        return ()
    try:
        wanted = column.type.python_type
    except NotImplementedError:
        return ()
    return (Decimal, int, float) if wanted in (Decimal, float) else (wanted,)
