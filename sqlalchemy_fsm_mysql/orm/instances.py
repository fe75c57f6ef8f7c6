"""Brings the instances of a session up to date with a fire, without asking the database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import inspect
from sqlalchemy.orm.attributes import set_committed_value

from ..core.fires import Fire
from ..outcomes import Moved, Refused
from ..sql.events import KNOWN_VERSION, NEXT_VERSION, EventSQL
from .journal import note
from .mapped import MappedState, expirable, mapped_states
from .sessions import Writer

__all__ = ["know_version", "show_columns", "show_moved", "show_refused", "show_row", "show_state", "unedited"]


def know_version(writer: Writer, fire: Fire) -> None:
    """Add the version that the session knows of the row to the parameters of *fire*."""
    version, mapper = fire.event.row.version, writer.mapped.mapper
    instance = fire.instance if fire.instance is not None else writer.instance(fire.key)
    if version is None or instance is None:
        return
    # Read past the attribute: an expired version must not be loaded, because then it would be the row's own, and no
    # change by another session would show.
    known = instance.__dict__.get(mapper.get_property_by_column(version).key)
    if known is not None:
        fire.parameters[KNOWN_VERSION] = known
        fire.knows_version = True


def show_moved(writer: Writer, fire: Fire, moved: Moved[Any]) -> None:
    """Bring the row's instance up to date with the UPDATE, and note it, so that a savepoint's rollback expires it."""
    session, instance = writer.session, fire.instance
    if instance is None and session.identity_map:
        instance = writer.instance(fire.key)
    if instance is not None:
        show_row(writer, instance, moved.target, fire.event, fire)
    elif session.in_nested_transaction():
        note(session, identity=writer.identity(fire.key))  # it may be loaded before the savepoint ends


def show_refused(writer: Writer, fire: Fire, refused: Refused[Any]) -> None:
    """Set the row's instance to the state that refused the event, where it shows another."""
    instance = fire.instance if fire.instance is not None else writer.instance(fire.key)
    if instance is not None and instance.__dict__.get(writer.mapped.attribute, refused.state) != refused.state:
        show_state(writer, instance, refused.state)


def show_state(writer: Writer, instance: Any, state: Any) -> None:
    """Set the state of *instance* to *state* as if it had been loaded."""
    set_committed_value(instance, writer.mapped.attribute, state)
    if writer.session.in_nested_transaction():
        note(writer.session, instance)


def show_columns(instance: Any, values: Mapping[str, Any]) -> None:
    """Set the attributes of *instance* to *values* where they are loaded and not edited."""
    edited = inspect(instance).committed_state
    for name, value in values.items():
        if name in instance.__dict__ and name not in edited:
            set_committed_value(instance, name, value)


def unedited(instance: Any) -> list[str] | None:
    """The attributes of *instance* that may be read again without losing an edit; None for all of them.

    Of an edited instance these are columns: a collection may have edits without having been loaded.
    """
    state = inspect(instance)
    if not state.modified:
        return None
    return [attribute.key for attribute in state.mapper.column_attrs if attribute.key not in state.committed_state]


def show_row(writer: Writer, instance: Any, state: Any, event: EventSQL, fire: Fire | None = None) -> None:
    """Set *instance* to *state*, and expire the other attributes that the UPDATE of *event* may have changed.

    *fire* is the fire that moved the row; None in a set, where the versions of the rows are not known.
    """
    mapped = writer.mapped
    # As show_state(), without its call.
    set_committed_value(instance, mapped.attribute, state)
    if writer.session.in_nested_transaction():
        note(writer.session, instance)
    # A fire by the key of a base class may find an instance of a subclass, which maps more columns of the row.
    if type(instance) is not mapped.model:
        mapped = mapped_states(type(instance))[mapped.attribute]
    changed = mapped.changed_with(event)
    if event.row.version is not None:
        changed += _settle_version(mapped, instance, event, fire)
    if changed:
        writer.session.expire(instance, changed)


def _settle_version(mapped: MappedState, instance: Any, event: EventSQL, fire: Fire | None) -> tuple[str, ...]:
    """Set the next version where it is known; otherwise return the attributes to be read again.

    Three cases. The row had the version in memory: the next one follows from it, and SQLAlchemy's next flush compares
    with it. The row had another version, and the instance has no edits: all of it is read again. The instance has
    edits: they were made on an older row, so the old version stays, and the next flush raises StaleDataError.
    """
    mapper = inspect(instance).mapper
    name = mapper.get_property_by_column(event.row.version).key
    if fire is not None and fire.knows_version and not fire.is_other_version:
        if mapper.version_id_generator is False:  # the database makes the version
            return (name,)
        known = fire.parameters[KNOWN_VERSION]
        following = fire.parameters.get(NEXT_VERSION, known + 1 if mapped.counts_versions else None)
        set_committed_value(instance, name, following)
        return ()
    if inspect(instance).modified:
        return ()
    return tuple(attribute.key for attribute in expirable(mapper) if attribute.key != mapped.attribute)
