"""``order.possible_events()``: the events that would move the row now, guards included, by one SELECT.

The statement has a column for each event, ``can("Pay")``, and is built once for each set of events whose payload is
given; 64 are kept. The parameters of each event have its number in their names, because two events may use one name
differently.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Select, bindparam, inspect, select
from sqlalchemy.orm import Session
from sqlalchemy.sql import visitors

from ..core.payload import payload_parameters
from ..errors.texts import shown
from ..sql.events import EventSQL
from .mapped import MappedState, mapped_states, named_state
from .sessions import flush_first, is_sharded, persistent_key, session_or_own, within

__all__ = ["possible_events"]

_KEPT = 64  # statements of one column
_NUMBERED = "fsm_event_{}_{}"


def possible_events(instance: Any, session: Any, column: Any, payload: Mapping[str, Any]) -> Any:
    """The work of the method ``possible_events``: a list of events, to be awaited on an async session."""
    return within(session_or_own(session, instance), _possible_events)(instance, column, payload)


def _possible_events(session: Session, instance: Any, column: Any, payload: Mapping[str, Any]) -> list[str]:
    model = type(instance)
    states = [named_state(model, column)] if column is not None else list(mapped_states(model).values())
    _require_known(model, states, payload)
    possible: list[str] = []
    for mapped in states:
        flush_first(session, mapped.mapper, model=model, event="possible_events")
        key = dict(zip(mapped.key_names, persistent_key(session, instance), strict=True))
        events = [
            event for event in map(mapped.event, mapped.machine.events) if _required_payload(event) <= payload.keys()
        ]
        if not events:
            continue
        parameters: dict[str, Any] = {}
        for number, event in enumerate(events):
            given = {name: payload[name] for name in event.payload if name in payload}
            values = payload_parameters(mapped, event, given)
            parameters |= {_NUMBERED.format(number, name): value for name, value in values.items()}
        shard = {"shard_id": inspect(instance).identity_token} if is_sharded(session) else {}
        statement = _statement(mapped, tuple(events))
        row = session.execute(
            statement, {**key, **parameters}, bind_arguments={"mapper": mapped.mapper, **shard}
        ).one_or_none()
        possible += [event.name for event, can in zip(events, row or (), strict=False) if can]
    return possible


def _required_payload(event: EventSQL) -> set[str]:
    return set(event.payload) - set(event.defaults)


def _require_known(model: type[Any], states: list[MappedState], payload: Mapping[str, Any]) -> None:
    known = {name for mapped in states for event in mapped.machine.events for name in mapped.machine.payload(event)}
    unknown = [name for name in payload if name not in known]
    if unknown:
        names = ", ".join(map(repr, sorted(known))) or "none"
        raise TypeError(f"no event of {model.__name__} takes {', '.join(map(shown, unknown))}; its events take {names}")


def _statement(mapped: MappedState, events: tuple[EventSQL, ...]) -> Select[Any]:
    # One for each mapped column. The names of a payload may come from outside, and n events have 2**n sets.
    cache: dict[tuple[str, ...], Select[Any]] = mapped.forced.cache.setdefault("possible", {})
    key = tuple(event.name for event in events)
    known = cache.get(key)
    if known is not None:
        return known
    for oldest in list(cache)[: len(cache) - _KEPT + 1] if len(cache) >= _KEPT else ():
        cache.pop(oldest, None)  # another thread may have done it
    cans = [_numbered(event.can, number, event).label(f"can_{number}") for number, event in enumerate(events)]
    query: Any = select(*cans).where(mapped.row.is_key())
    statement: Select[Any] = query if mapped.row.visible is None else query.where(mapped.row.visible)
    cache[key] = statement
    return statement


def _numbered(can: ColumnElement[bool], number: int, event: EventSQL) -> ColumnElement[bool]:
    """*can* with the number of its event in the names of its parameters."""

    def replaced(element: Any, **_: Any) -> Any:
        if isinstance(element, BindParameter) and element.key in event.parameters:
            return bindparam(_NUMBERED.format(number, element.key), type_=element.type, expanding=element.expanding)
        return None

    result: ColumnElement[bool] = visitors.replacement_traverse(can, {}, replaced)
    return result
