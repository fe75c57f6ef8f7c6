"""The answer of a function that is given an async session or connection: to be awaited, and no truth value."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any, NoReturn, TypeAlias, TypeVar

__all__ = ["Awaited", "Later"]

R = TypeVar("R")

Later: TypeAlias = Coroutine[Any, Any, R]  # Any: a caller awaits it, and neither yields nor sends
"""The result of a call with an async session or connection. As a coroutine, and no Awaitable, so that a checker finds
the call that is not awaited."""


class Awaited(Coroutine[Any, Any, Any]):
    """A *coroutine* that refuses to be taken for its result: ``if order.try_fire("Pay"):`` would always be true."""

    __slots__ = ("__weakref__", "_coroutine", "_name", "_place")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], name: str, place: str) -> None:
        self._coroutine, self._name, self._place = coroutine, name, place

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        return self._coroutine.throw(*error)

    def close(self) -> None:
        self._coroutine.close()

    def __bool__(self) -> NoReturn:
        self._coroutine.close()  # the error says it, and no warning need follow
        raise TypeError(f"{self._name}() of an {self._place} has sent nothing yet: await it, and ask its outcome")

    def __repr__(self) -> str:
        return f"<{self._name}() of an {self._place}, to be awaited>"
