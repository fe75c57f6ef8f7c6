"""Versions of SQLAlchemy-Continuum and SQLAlchemy-History for fires.

Both libraries make versions of the rows that a flush writes. A fire is an UPDATE outside of every flush, so it makes no
version by itself; :func:`record_versions` registers a hook that makes one.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from sqlalchemy.orm import Session

from ..errors.texts import shown
from ..outcomes import Moved
from .hooks import on_moved

__all__ = ["record_versions"]


# Any: the model of the column, and the Session.
def record_versions(column: object, manager: object) -> Callable[[Moved[Any], Any], None]:
    """Make each fire of *column* (``Order.state``) write a version, as an update by a flush does.

    Returns: the hook that does so, one of ``on_moved``; :func:`~sqlalchemy_fsm_mysql.remove_hook` removes it.

    *manager* is the ``versioning_manager`` of SQLAlchemy-Continuum or SQLAlchemy-History, or your own. The version
    belongs to the versioning transaction of this unit of work, and is rolled back with it. ``fire_where`` calls no
    hooks, so it makes no versions. A fire by key loads the row, by one SELECT.

    Raises: TypeError when *column* is not a state column, or *manager* is not a manager. The hook raises TypeError
    for a fire on a ``Connection``, because versions need a session.
    """
    if not callable(getattr(manager, "unit_of_work", None)):
        raise TypeError(f"record_versions takes the library's versioning_manager, not {shown(manager)}")
    # Both libraries have the same classes, in a package of their own.
    package = type(manager).__mro__[-2].__module__.partition(".")[0]
    operation: Any = import_module(f"{package}.operation").Operation
    made: Any = manager

    def make_version(moved: Moved[Any], session: Any) -> None:
        if not made.options["versioning"]:
            return
        if not isinstance(session, Session):
            raise TypeError(
                f"{moved.model.__name__} has versions, which a fire on {shown(session)} cannot make: use a session"
            )
        instance = moved.instance if moved.instance is not None else session.get(moved.model, moved.key)
        if instance is None:  # a filter of the session hides the row
            return
        unit = made.unit_of_work(session)
        if unit.current_transaction is None:
            unit.create_transaction(session)
        # A row that this transaction has inserted stays an insert, with the state that it has now.
        kind = (
            unit.operations[unit.operations.format_key(instance)].type
            if instance in unit.operations
            else operation.UPDATE
        )
        unit.operations.add(operation(instance, kind))
        unit.process_after_flush(session)

    return on_moved(column)(make_version)
