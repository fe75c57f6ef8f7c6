"""Since when a row is in its state: the declaration of the column, and the state that it belongs to.

The column is written like an effect of every transition whose source is not its target, in the same UPDATE
(``sql.expressions``), so there is no way to move a row and leave it behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Column, DateTime, Dialect, TypeDecorator
from sqlalchemy.orm import MappedColumn, Mapper, mapped_column
from sqlalchemy.types import TypeEngine

from ..databases import types_of
from ..errors import InvalidMachine
from ..errors.texts import listed, shown
from ..sql.clock import utc_default, utc_now

if TYPE_CHECKING:
    from .mapped import MappedState

__all__ = ["StateSinceColumn", "StateSinceType", "Timestamp", "find_since"]


class Timestamp(TypeDecorator[datetime]):
    """A point in time by the database's clock, in UTC, with microseconds; a naive datetime in Python."""

    impl: TypeEngine[Any] | type[TypeEngine[Any]] = DateTime

    cache_ok: bool | None = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(types_of(dialect).timestamp())


class StateSinceType(Timestamp):
    """The type of a column that holds since when a row is in a state.

    *of* is the name of the state's attribute, None for the only one. The type marks the column, so imperative mappings
    use it as the type of a plain ``Column``.
    """

    cache_ok: bool | None = True

    def __init__(self, of: str | None = None) -> None:
        super().__init__()
        self.of = of


# The options that the declaration gives the column itself, and why.
_FIXED: Mapping[str, str] = {
    "type_": "it makes the column's type itself",
    "default": "it is the database's time",
    "insert_default": "it is the database's time",
    "default_factory": "it is the database's time",
    "onupdate": "only a change of the state writes it",
    "server_onupdate": "only a change of the state writes it",
    "primary_key": "its value changes",
}


def StateSinceColumn(  # noqa: N802 - reads as the class it stands for, like StateMachineColumn
    name: str | None = None,
    /,
    *,
    of: str | None = None,
    **options: Any,  # Any: those of mapped_column, each of its own type
) -> MappedColumn[datetime]:
    """A :func:`~sqlalchemy.orm.mapped_column` with the time at which the row entered its state.

    It is a naive datetime in UTC. The database's clock gives the time, in microseconds (on SQLite, in milliseconds).
    An INSERT writes the current time. Every change of the state writes the time in the same UPDATE: fires of one row,
    of a key and of sets, ``claim``, ``fire_or_create`` and ``force_state``. A transition from a state to itself does
    not. SQL that is not the library's does not write it, and neither does the Alembic operation ``migrate_states``
    without *since*.

    *of* names the attribute of the state where a model has several machines. *name* is the column's name in the
    database, if it differs from the attribute's. All other *options* go to ``mapped_column``. Dataclass models need
    ``init=False``. ``op.add_since_column`` adds the column to a table that has rows.

    Raises: TypeError for an option that the column decides itself. InvalidMachine when the class is mapped and the
    column belongs to no state, or to a state that has such a column already.
    """
    for option in options.keys() & _FIXED.keys():
        raise TypeError(f"StateSinceColumn takes no {option}=, because {_FIXED[option]}")
    if of is not None and not isinstance(of, str):
        raise TypeError(f"of={shown(of)}; it must be the name of the state attribute")
    options = {"nullable": False, "server_default": utc_default(), **options}
    names = () if name is None else (name,)
    return mapped_column(*names, StateSinceType(of), insert_default=utc_now(), **options)


def find_since(mapper: Mapper[Any], states: Mapping[str, MappedState]) -> None:
    """Give each state of *mapper* the column that holds since when it is so.

    Raises: InvalidMachine when a column belongs to no state, and when a timed event needs one that is not there.
    """
    found = list(_declared(mapper))
    problems = [problem for name, column in found for problem in _belonging(mapper, name, column, states)]
    if not problems:
        problems = [problem for state in states.values() for problem in _missing(state)]
    if problems:
        raise InvalidMachine(problems)


def _declared(mapper: Mapper[Any]) -> Iterator[tuple[str, Column[Any]]]:
    """The attributes that *mapper* itself declares as since columns; its base has found those that it inherits."""
    inherited = set() if mapper.inherits is None or mapper.concrete else set(mapper.inherits.columns)
    for name, column in mapper.columns.items():
        if isinstance(column.type, StateSinceType) and column not in inherited:
            yield name, column


def _belonging(mapper: Mapper[Any], name: str, column: Column[Any], states: Mapping[str, MappedState]) -> Iterator[str]:
    """Note *column* at the state that it belongs to; the reason why there is none."""
    what, of = f"{mapper.class_.__name__}.{name}", column.type.of  # type: ignore[attr-defined]  # a StateSinceType
    known = listed(map(repr, states))
    if not states:
        yield f"{what} is a StateSinceColumn, and the model has no StateMachineColumn"
        return
    if of is not None and of not in states:
        yield f"{what} has of={shown(of)}, which is not a state column of the model; it has {known}"
        return
    here = [state for state in states.values() if state.column.table is column.table]
    if of is None and len(here) > 1:
        yield f"{what} can belong to {known}: name one by of="
        return
    state = states[of] if of is not None else next(iter(here), next(iter(states.values())))
    if state.column.table is not column.table:
        yield (
            f"{what} is in table {column.table.name!r} and {state.attribute!r} in {state.column.table.name!r}; one"
            " UPDATE writes both, so they have to be in the same table"
        )
    elif state.extras.since is not None and state.extras.since is not column:
        yield f"{what} belongs to {state.attribute!r}, which has the StateSinceColumn {state.extras.since.name!r}"
    else:
        state.extras.since = column


def _missing(state: MappedState) -> Iterator[str]:
    if state.extras.since is not None:
        return
    for event in state.machine.events.values():
        if isinstance(event.after, timedelta):
            yield (
                f"event {event.name!r} is due {event.after} after the row has entered its state, and {state.label} has"
                " no column with that time: add state_since: Mapped[datetime] = StateSinceColumn()"
            )
