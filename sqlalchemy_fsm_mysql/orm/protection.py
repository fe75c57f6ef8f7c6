"""Refuses assignments to the state of a stored instance, and undeclared states in any instance."""

from __future__ import annotations

import enum
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
        value = _member(mapped, value)
        _refuse_assignment(mapped, instance, value)
        is_new = not inspect(instance).has_identity
        # A dataclass's __init__ assigns None for a state that is not given: the column's default follows at the flush.
        if value is None and is_new:
            return value
        return mapped.machine.loaded(_stored_value(mapped, value))

    def removed(instance: Any, value: Any, initiator: Any) -> None:
        """``del order.state`` is an assignment, too."""
        _refuse_assignment(mapped, instance, None)

    def initial(instance: Any, value: Any, values: dict[str, Any]) -> Any:
        """The state of an object that has none yet. It is not put into the object, so merge() copies nothing."""
        return _default(mapped) if value is None else value

    attribute = mapped.model.__dict__.get(mapped.attribute) or getattr(mapped.model, mapped.attribute)
    event.listen(attribute, "init_scalar", initial, retval=True, propagate=True)
    # A deferred attribute is not in memory. With active_history, SQLAlchemy loads it before the assignment, so that the
    # listener can compare the value with it.
    event.listen(attribute, "set", assigned, retval=True, active_history=attribute.property.deferred)
    event.listen(attribute, "remove", removed)


def _default(mapped: MappedState) -> Any:
    """The state that the flush will give a new row; None where a function or the database makes it."""
    default: Any = mapped.column.default
    if default is None:
        return mapped.machine.initial
    return mapped.machine.loaded(mapped.machine.stored(default.arg)) if default.is_scalar else None


def _loaded(mapped: MappedState, instance: Any) -> Any:
    """The state of *instance*, read from its row; an object that equals no state where it cannot be read now."""
    try:
        return getattr(instance, mapped.attribute)
    except (DetachedInstanceError, ObjectDeletedError, MissingGreenlet):
        return _NOTHING


def _member(mapped: MappedState, value: Any) -> Any:
    """The member of the Enum class whose name or stored value is *value*, as forms give it; *value* where none is."""
    members = getattr(mapped.column.type, "enum_class", None)
    if members is None or not isinstance(value, str) or isinstance(value, enum.Enum) or mapped.machine.declares(value):
        return value
    return members.__members__.get(value, mapped.machine.loaded(value))


def _stored_value(mapped: MappedState, value: Any) -> str:
    try:
        return mapped.machine.stored(value)
    except ValueError as error:
        raise ValueError(f"{mapped.label}: {error}") from error


def _refuse_assignment(mapped: MappedState, instance: Any, value: Any) -> None:
    if not mapped.protected or not inspect(instance).has_identity:
        return
    # Session.merge() and forms assign the value that the instance has already, which is allowed. A COMMIT may have
    # expired it, or a query left it out: then it is loaded to be compared.
    before = instance.__dict__.get(mapped.attribute, _NOTHING)
    is_unknown = before is _NOTHING
    if (_loaded(mapped, instance) if is_unknown else before) == value:
        if is_unknown:
            # SQLAlchemy recorded "no previous value" before this listener ran. A flush would therefore write the state,
            # and undo an event that another session has fired in between. With the loaded value there is no change.
            inspect(instance).committed_state.setdefault(mapped.attribute, instance.__dict__[mapped.attribute])
        return
    raise StateAssignmentError(
        f"{mapped.label} of a stored instance is moved by events, not assigned (or merged from another copy): "
        f"use fire(), or force_state() to bypass the machine"
    )
