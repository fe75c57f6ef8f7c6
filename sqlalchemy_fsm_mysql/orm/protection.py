"""Refuses assignments to the state of a stored instance, and undeclared states in any instance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import event, inspect
from sqlalchemy.exc import MissingGreenlet
from sqlalchemy.orm.exc import DetachedInstanceError, ObjectDeletedError

from ..errors import StateAssignmentError

if TYPE_CHECKING:
    from .mapped import MappedState

_NOTHING = object()


def protect(mapped: MappedState) -> None:
    """Listen for assignments to the attribute of *mapped*."""

    def assigned(instance: Any, value: Any, previous: Any, initiator: Any) -> Any:
        """Check an assignment, and put the machine's own object in the place of an equal one."""
        _refuse_assignment(mapped, instance, value)
        is_new = not inspect(instance).has_identity
        # None on a new object means that it was not given: the column's default follows at the flush.
        if value is None and is_new:
            return value
        return mapped.machine.loaded(_stored(mapped, value))

    def removed(instance: Any, value: Any, initiator: Any) -> None:
        """``del order.state`` is an assignment, too."""
        _refuse_assignment(mapped, instance, None)

    attribute = mapped.model.__dict__.get(mapped.attribute) or getattr(mapped.model, mapped.attribute)
    # The state of a deferred attribute is not in memory: active_history loads it, to be compared with the value.
    event.listen(attribute, "set", assigned, retval=True, active_history=attribute.property.deferred)
    event.listen(attribute, "remove", removed)


def _loaded(mapped: MappedState, instance: Any) -> Any:
    """The state of *instance*, read from its row; nothing that equals a state where it cannot be read now."""
    try:
        return getattr(instance, mapped.attribute)
    except (DetachedInstanceError, ObjectDeletedError, MissingGreenlet):
        return _NOTHING


def _stored(mapped: MappedState, value: Any) -> str:
    try:
        return mapped.machine.stored(value)
    except ValueError as error:
        raise ValueError(f"{mapped.label}: {error}") from error


def _refuse_assignment(mapped: MappedState, instance: Any, value: Any) -> None:
    if not mapped.protected or not inspect(instance).has_identity:
        return
    # Session.merge() and forms assign the value that is there already. It has to be loaded where a COMMIT has expired
    # it, or a query has left it out.
    held = instance.__dict__.get(mapped.attribute, _NOTHING)
    is_unknown = held is _NOTHING
    if (_loaded(mapped, instance) if is_unknown else held) == value:
        if is_unknown:
            # SQLAlchemy has looked for the value before, and a flush would write it back: it would undo the event that
            # another session has fired in between.
            inspect(instance).committed_state.setdefault(mapped.attribute, instance.__dict__[mapped.attribute])
        return
    raise StateAssignmentError(
        f"{mapped.label} of a stored instance is moved by events, not assigned: "
        f"use fire(), or force_state() to bypass the machine"
    )
