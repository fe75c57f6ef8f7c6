"""Hooks in tests: kept from acting, so that a test sees the calls; or called although a fixture never commits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from ..core.hooks import Hook
from ..orm.journal import early_commits
from ..orm.mapped import MappedState, attribute_state
from ..outcomes import Moved

__all__ = ["HookCall", "frozen_hooks", "hooks_follow_session"]


@dataclass(frozen=True, slots=True)
class HookCall:
    """A recorded call of a hook.

    `when` is ``"moved"`` or ``"committed"``, `function` the hook, and `moved` the :class:`~sqlalchemy_fsm_mysql.Moved`
    that it would have got.
    """

    when: Literal["moved", "committed"]
    function: Callable[..., object]
    moved: Moved[Any]  # Any: the model of the hook's column


@contextmanager
def frozen_hooks(*columns: object) -> Iterator[list[HookCall]]:
    """Within the ``with`` block, record the calls of the hooks of *columns* (``Order.state``) instead of calling them.

    Returns: a context manager, whose value is the list of `HookCall`.

    The filters of the hooks apply, and a hook of ``on_committed`` is recorded at the COMMIT, never after a rollback. A
    hook that is registered within the block is called as usual. A move that is committed after the block does not call
    the hook either.

    >>> from sqlalchemy_fsm_mysql.demo import Order
    >>> with frozen_hooks(Order.state) as calls:
    ...     pass
    >>> calls
    []

    Raises: TypeError for a value that is not a state column.
    """
    calls: list[HookCall] = []
    every = [attribute_state(column) for column in columns]
    kept = [(mapped, list(mapped.extras.hooks)) for mapped in every]
    for mapped, hooks in kept:
        mapped.extras.hooks[:] = [_frozen(hook, calls) for hook in hooks]
    try:
        yield calls
    finally:
        for mapped, hooks in kept:
            _thaw(mapped, hooks, calls)


@contextmanager
def hooks_follow_session() -> Iterator[None]:
    """Within the block the functions of ``on_committed`` are called when a *session* commits, COMMIT or not.

    Use it in a suite whose fixture begins a transaction on the connection, lets the session join it, and rolls it back
    after each test. Nothing is committed there, so without this block the functions are not called.

    >>> from sqlalchemy import create_engine
    >>> from sqlalchemy.orm import Session
    >>> from sqlalchemy_fsm_mysql import fire_key, on_committed, remove_hook
    >>> from sqlalchemy_fsm_mysql.demo import Base, Order
    >>> engine, mails = create_engine("sqlite://"), []
    >>> Base.metadata.create_all(engine)
    >>> @on_committed(Order.state)
    ... def send_mail(moved):
    ...     mails.append(moved.key)
    >>> with engine.connect() as connection, connection.begin() as outer, hooks_follow_session():
    ...     with Session(connection, join_transaction_mode="create_savepoint") as session:
    ...         session.add(Order(id=1))
    ...         moved = fire_key(Order, 1, "Ready", session)
    ...         session.commit()
    ...     outer.rollback()
    >>> mails
    [1]
    >>> remove_hook(Order.state, send_mail)
    """
    block = object()
    early_commits.append(block)
    try:
        yield
    finally:
        early_commits.remove(block)


def _frozen(hook: Hook, calls: list[HookCall]) -> Hook:
    return hook._replace(function=_Note(hook.when, hook.function, calls))


def _thaw(mapped: MappedState, hooks: list[Hook], calls: list[HookCall]) -> None:
    added = [
        hook for hook in mapped.extras.hooks if not (isinstance(hook.function, _Note) and hook.function.calls is calls)
    ]
    mapped.extras.hooks[:] = [*hooks, *added]


@dataclass(eq=False)
class _Note:
    """Called in the place of a hook's function."""

    when: Literal["moved", "committed"]
    function: Callable[..., Any]
    calls: list[HookCall]

    def __call__(self, moved: Moved[Any], *_: Any) -> None:
        self.calls.append(HookCall(self.when, self.function, moved))
