"""The sync tests on the async drivers: each runs in the greenlet in which SQLAlchemy's async engines do their work.

An `AsyncSession` runs sync code in a greenlet: what the driver awaits goes from there to the event loop, and the answer
comes back. `bridged` does the same for any function. The loop runs in a thread of its own, so a test may itself call
`asyncio.run`, and a session may go from one thread to another, as with a sync driver.

>>> async def answer():
...     return 42
>>> def ask():
...     from sqlalchemy.util import await_only
...     return await_only(answer())
>>> bridged(ask)
42
"""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any, TypeVar

import greenlet

R = TypeVar("R")


def bridged(work: Callable[..., R], *arguments: Any, **options: Any) -> R:
    """``work(*arguments, **options)``, in which an async engine may be used as a sync one."""
    loop = _loop()
    context = _greenlet()(work, greenlet.getcurrent())
    asyncio.set_event_loop(loop)  # which drivers ask for also outside of what is awaited
    result = context.switch(*arguments, **options)
    while not context.dead:
        try:
            value = asyncio.run_coroutine_threadsafe(_answer(result), loop).result()
        except BaseException:  # noqa: BLE001 - it belongs to the code that waits for the answer
            result = context.throw(*sys.exc_info())
        else:
            result = context.switch(value)
    asyncio.set_event_loop(None)
    answer: R = result
    return answer


def unbridged(work: Callable[..., R], *arguments: Any) -> R:
    """``work(*arguments)`` as if there were no bridge around it: for a test with a loop of its own."""
    result: R = greenlet.greenlet(work).switch(*arguments)
    return result


def bridge_threads() -> None:
    """Have every thread that is started from now on bridged, too."""
    run = threading.Thread.run
    _loop()

    @functools.wraps(run)
    def bridged_run(thread: threading.Thread) -> None:
        bridged(run, thread)

    threading.Thread.run = bridged_run  # type: ignore[method-assign]


async def _answer(awaitable: Awaitable[R]) -> R:
    return await awaitable


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """One loop for all threads: a connection belongs to the loop it was opened in."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="event loop", daemon=True).start()
    return loop


def _greenlet() -> Any:
    """SQLAlchemy's kind of greenlet, by which it knows that it may wait here. It has no public name."""
    try:
        from sqlalchemy.util.concurrency import _concurrency_shim
    except ImportError:  # SQLAlchemy 2.0
        from sqlalchemy.util import _concurrency_py3k

        return _concurrency_py3k._AsyncIoGreenlet
    return _concurrency_shim._AsyncIoGreenlet
