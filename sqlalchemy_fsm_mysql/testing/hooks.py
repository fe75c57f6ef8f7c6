"""Hooks that do not act while a test runs: no mail is sent, and the test sees which would have been."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..core.hooks import Hook
from ..orm.column import MappedState, attribute_state
from ..outcomes import Moved

__all__ = ["HookCall", "frozen_hooks"]


@dataclass(frozen=True, slots=True)
class HookCall:
    """A call that a frozen hook would have got: `when` is ``"moved"`` or ``"committed"``."""

    when: Literal["moved", "committed"]
    function: Callable[..., Any]
    moved: Moved[Any]


@contextmanager
def frozen_hooks(*columns: Any) -> Iterator[list[HookCall]]:
    """Within the block the hooks of *columns* (``Order.state``) are not called; the list tells which would have been.

    Their filters hold, and those of ``on_committed`` come with the COMMIT, never after a rollback. A hook that is
    registered within the block is called as usual. What is still to be committed at the end of the block will not act
    either.

    >>> from sqlalchemy_fsm_mysql.demo import Order
    >>> with frozen_hooks(Order.state) as calls:
    ...     pass
    >>> calls
    []

    Raises: TypeError for what is no state column.
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


def _frozen(hook: Hook, calls: list[HookCall]) -> Hook:
    return replace(hook, function=_Note(hook.when, hook.function, calls))


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
