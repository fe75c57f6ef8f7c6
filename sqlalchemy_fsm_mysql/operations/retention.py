"""How long a history is kept, and who stands in it: old history rows are deleted, a person's name is erased.

Both work in the caller's transaction and commit nothing. A large history is worked through in units of a limited size::

    while run_transaction(sessions, lambda s: prune_history(Order.state, s, older_than=timedelta(days=400))):
        pass
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, overload

from sqlalchemy import delete, inspect, select, tuple_, update
from sqlalchemy.orm import Session, aliased

from ..core.attribution import ACTOR_LENGTH
from ..errors.texts import shown
from ..orm.awaited import Later
from ..orm.history import History, history_of
from ..orm.mapped import attribute_state
from ..orm.sessions import AnySession, within
from ..orm.sets import is_number_of_rows
from ..sql.clock import utc_ago
from ..sql.values import has_surrogate

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

__all__ = ["erase_actor", "prune_history"]

_PAGE = 1000
_UNCHANGED = {"synchronize_session": False}


@overload
def prune_history(column: object, session: AnySession, /, *, older_than: timedelta, limit: int = ...) -> int: ...
@overload
def prune_history(
    column: object, session: AsyncSession, /, *, older_than: timedelta, limit: int = ...
) -> Later[int]: ...
def prune_history(column: object, session: Any, /, *, older_than: timedelta, limit: int = 1000) -> Any:
    """Delete history rows of *column* (``Order.state``) that are older than *older_than* by the database's clock.

    Returns: the number of deleted rows. At most *limit* rows are deleted, the oldest numbers of each row first.

    The last history row of each row stays, at any age, because the next number follows it. ``replay(rows,
    pruned=True)`` checks a history without its beginning. A token that is deleted is forgotten. An index on ``at``
    finds the rows. With an ``AsyncSession``, await the call.

    Raises: TypeError when the column has no history, or an argument is of another type; ValueError for an *older_than*
    that is negative or a *limit* below 1.
    """
    if not isinstance(older_than, timedelta):
        raise TypeError(f"older_than={shown(older_than)}; it must be a timedelta")
    if older_than < timedelta():
        raise ValueError(f"older_than={shown(older_than)}; it cannot be negative")
    _check_limit(limit)
    return within(session, _prune, "prune_history")(_history(column), older_than, limit)


@overload
def erase_actor(
    column: object,
    actor: str,
    session: AnySession,
    /,
    *,
    replacement: str | None = ...,
    details: bool = ...,
    limit: int = ...,
) -> int: ...
@overload
def erase_actor(
    column: object,
    actor: str,
    session: AsyncSession,
    /,
    *,
    replacement: str | None = ...,
    details: bool = ...,
    limit: int = ...,
) -> Later[int]: ...
def erase_actor(
    column: object,
    actor: str,
    session: Any,
    /,
    *,
    replacement: str | None = None,
    details: bool = False,
    limit: int = 1000,
) -> Any:
    """Remove the name *actor* from the history of *column* (``Order.state``). The transitions and their order stay.

    Returns: the number of changed history rows, at most *limit*.

    *replacement* takes the place of the name; None stores NULL. With *details*, the details of those rows are also
    emptied. Names are compared byte by byte. An index on ``actor`` finds the rows. With an ``AsyncSession``, await the
    call.

    Raises: TypeError when the column has no history, or an argument is of another type; ValueError for a *replacement*
    that is too long or *actor* itself, or for a *limit* below 1.
    """
    for name, text in (("actor", actor), ("replacement", "" if replacement is None else replacement)):
        _check_text(name, text)
    if replacement is not None and (replacement == actor or len(replacement) > ACTOR_LENGTH):
        what = "the name itself" if replacement == actor else f"longer than {ACTOR_LENGTH} characters"
        raise ValueError(f"replacement={shown(replacement)} is {what}")
    _check_limit(limit)
    return within(session, _erase, "erase_actor")(_history(column), actor, replacement, details, limit)


def _check_text(name: str, text: object) -> None:
    if not isinstance(text, str):
        raise TypeError(f"{name}={shown(text)}; it must be a string")
    if has_surrogate(text):
        raise ValueError(f"{name}={shown(text)}; it has a lone surrogate, which UTF-8 cannot encode")


def _check_limit(limit: object) -> None:
    if not isinstance(limit, int) or isinstance(limit, bool):
        raise TypeError(f"limit={shown(limit)}; it must be a number of rows")
    if not is_number_of_rows(limit):
        raise ValueError(f"limit={shown(limit)}; it must be a number of rows, at least 1")


def _history(column: Any) -> History:
    attribute_state(column)  # raises
    return history_of(column.class_, column)


def _prune(session: Session, history: History, older_than: timedelta, limit: int) -> int:
    model: Any = history.model
    later = aliased(model)
    same = [getattr(later, part.key) == getattr(model, part.key) for part in history.sql.row_key]
    is_followed = select(later.sequence).where(*same, later.sequence > model.sequence).exists()
    key = inspect(model).primary_key
    # DELETE … LIMIT with this subquery is an error on MySQL (1093), so the keys are read first.
    old = select(*key).where(model.at < utc_ago(older_than), is_followed).order_by(*history.sql.row_key, model.sequence)
    keys = session.execute(old.limit(limit)).all()
    return _in_pages(session, keys, key, delete(model))


def _erase(session: Session, history: History, actor: str, replacement: str | None, details: bool, limit: int) -> int:  # noqa: FBT001 - by within()
    model: Any = history.model
    key = inspect(model).primary_key
    found: list[Any] = []
    named = select(*key, model.actor).where(model.actor == actor).order_by(*key).limit(_PAGE)
    page: Sequence[Any] = session.execute(named).all()
    while page and len(found) < limit:
        # The collation may compare 'ada' and 'Ada' as equal: those rows are read, and stay.
        found += [tuple(row[:-1]) for row in page if row[-1] == actor]
        page = session.execute(named.where(tuple_(*key) > tuple_(*page[-1][:-1]))).all()
    values = {"actor": replacement, **({"details": None} if details else {})}
    return _in_pages(session, found[:limit], key, update(model).values(values))


def _in_pages(session: Session, keys: Sequence[Any], key: Any, statement: Any) -> int:
    """Execute *statement* on the history rows with these *keys*; how many rows it has changed."""
    changed = 0
    for start in range(0, len(keys), _PAGE):
        page = [tuple(row) for row in keys[start : start + _PAGE]]
        is_one = key[0].in_([row[0] for row in page]) if len(key) == 1 else tuple_(*key).in_(page)
        result: Any = session.execute(statement.where(is_one), execution_options=_UNCHANGED)  # a CursorResult
        changed += result.rowcount
    return changed
