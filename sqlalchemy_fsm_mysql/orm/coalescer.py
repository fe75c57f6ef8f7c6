"""Coalescer: the fires of many callers in one transaction, each caller with its own outcome.

One transaction for each fire is one wait for the disk, and often several round trips. A process that moves thousands of
rows a second, such as a consumer of messages or a web server, has many fires at a time: a :class:`Coalescer` sends them
together. ``coalescing`` has those that wait, ``batches`` sends them.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from sqlalchemy import Engine
from sqlalchemy.util import greenlet_spawn
from typing_extensions import Self

from ..core import fires
from ..core.attribution import Attribution
from ..core.fires import Fire
from ..core.keys import new_fire
from ..databases import has_server
from ..errors.texts import shown
from ..observation import Attempt, is_watched, watching
from ..outcomes import Moved, Refused
from .awaited import Awaited, Later
from .batches import Outcome, Sender
from .coalescing import CoalescerFigures, Limits, Pending, Queue
from .mapped import mapped_event

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    E = TypeVar("E", Engine, AsyncEngine)
else:
    E = TypeVar("E")

__all__ = ["Coalescer"]

M = TypeVar("M")

_CLOSED = "this Coalescer is closed, and accepts no fire"


class Coalescer(Generic[E]):
    """Sends the fires of many tasks or threads together, with one COMMIT. Each caller gets its own outcome.

    ::

        async with Coalescer(async_engine) as fires:
            moved = await fires.fire_key(Order, 42, "Stop")

    With an ``AsyncEngine``, use ``async with`` and await the calls, in one event loop. With an ``Engine``, use
    ``with``, and call from any number of threads. A call returns when its transaction is committed.

    - **Batches**: a batch has at most *max_batch* fires. It is sent when it is full, or when its first fire has waited
      for *max_wait*.
    - **At once**: at most *connections* batches are under way, and never two with fires on one row. The next batch
      fills while they are.
    - **Queue**: at most *max_pending* fires wait. A further caller waits until there is room.
    - **Errors**: when one fire of a batch fails, nothing of the batch is committed. That fire is then run alone, and
      the others again, so only its own caller gets the error.
    - **Large fires**: a fire with more than 8,192 characters of values is run alone, because a packet that is too large
      ends the connection.
    - **Unknown COMMIT**: a fire with a token is sent again under its token, which moves the row once. A fire without a
      token raises OutcomeUnknown.

    Raises: TypeError when *engine* is not an engine, or a limit is not a number; ValueError for a limit that is too
    small.
    """

    def __init__(
        self,
        engine: E,
        *,
        max_batch: int = 128,
        max_wait: timedelta = timedelta(milliseconds=2),
        max_pending: int = 4096,
        connections: int = 2,
    ) -> None:
        limits = Limits.checked(max_batch, max_wait, max_pending, connections)
        sync_engine = getattr(engine, "sync_engine", engine)
        if not isinstance(sync_engine, Engine):
            raise TypeError(f"a Coalescer is given an Engine or an AsyncEngine, not {shown(engine)}")
        self._engine = sync_engine
        is_async = sync_engine is not engine
        # An embedded database has one writer at a time.
        number = limits.connections if has_server(sync_engine.dialect) else 1
        senders = [Sender(sync_engine) for _ in range(number)]
        self._front: _Tasks | _Threads = (_Tasks if is_async else _Threads)(senders, Queue(limits))

    @property
    def figures(self) -> CoalescerFigures:
        """The figures so far, for a monitoring system to read."""
        queue = self._front.queue
        return replace(queue.figures, pending=len(queue.waiting))

    @overload
    def fire_key(
        self: Coalescer[AsyncEngine],
        model: type[M],
        key: object,
        event: str,
        /,
        *,
        column: object = ...,
        actor: str | None = ...,
        details: object = ...,
        token: str | None = ...,
        **payload: object,
    ) -> Later[Moved[M]]: ...
    @overload
    def fire_key(
        self: Coalescer[Engine],
        model: type[M],
        key: object,
        event: str,
        /,
        *,
        column: object = ...,
        actor: str | None = ...,
        details: object = ...,
        token: str | None = ...,
        **payload: object,
    ) -> Moved[M]: ...
    def fire_key(
        self,
        model: type[Any],
        key: Any,
        event: str,
        /,
        *,
        column: Any = None,
        actor: str | None = None,
        details: Any = None,
        token: str | None = None,
        **payload: Any,
    ) -> Any:
        """Fire as :func:`~sqlalchemy_fsm_mysql.fire_key`, in a batch with the fires of other callers.

        Returns: a :class:`Moved`, which is committed.

        A caller that gives up (its task is cancelled) before the batch is sent takes its fire back. Afterwards the fire
        goes on, and its outcome is dropped.

        Raises: as ``fire_key`` and ``run_transaction``; RuntimeError when the coalescer is closed.
        """
        fire = self._fire(model, key, event, column, payload, Attribution(actor, details, token))
        return self._front.fire(fire, raises_refusal=True)

    @overload
    def try_fire_key(
        self: Coalescer[AsyncEngine],
        model: type[M],
        key: object,
        event: str,
        /,
        *,
        column: object = ...,
        actor: str | None = ...,
        details: object = ...,
        token: str | None = ...,
        **payload: object,
    ) -> Later[Moved[M] | Refused[M]]: ...
    @overload
    def try_fire_key(
        self: Coalescer[Engine],
        model: type[M],
        key: object,
        event: str,
        /,
        *,
        column: object = ...,
        actor: str | None = ...,
        details: object = ...,
        token: str | None = ...,
        **payload: object,
    ) -> Moved[M] | Refused[M]: ...
    def try_fire_key(
        self,
        model: type[Any],
        key: Any,
        event: str,
        /,
        *,
        column: Any = None,
        actor: str | None = None,
        details: Any = None,
        token: str | None = None,
        **payload: Any,
    ) -> Any:
        """Fire as :meth:`fire_key`, and return a refusal as a value: a :class:`Refused`, which is false."""
        fire = self._fire(model, key, event, column, payload, Attribution(actor, details, token))
        return self._front.fire(fire, raises_refusal=False)

    def close(self) -> None:
        """Accept no further fire, and return when all waiting fires have their outcomes.

        It is for a coalescer of an ``Engine``.

        Raises: TypeError for a coalescer of an ``AsyncEngine``: await :meth:`aclose`.
        """
        _require(self._front, _Threads, "await aclose()").close()

    async def aclose(self) -> None:
        """Close as :meth:`close`, for a coalescer of an ``AsyncEngine``: await it."""
        await _require(self._front, _Tasks, "call close()").close()

    def __enter__(self) -> Self:
        _require(self._front, _Threads, "use `async with`")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        _require(self._front, _Tasks, "use `with`")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _fire(
        self, model: Any, key: Any, event: str, column: Any, payload: Mapping[str, Any], attribution: Attribution
    ) -> Fire:
        """The fire of a call's arguments, checked before it waits."""
        mapped, sql = mapped_event(model, event, column)
        parts = (key,) if type(key) in mapped.plain_keys else mapped.key_parts(key)
        return new_fire(self._engine, mapped, sql, parts, payload, attribution)


F = TypeVar("F", "_Tasks", "_Threads")


def _require(front: _Tasks | _Threads, kind: type[F], advice: str) -> F:
    """*front*, checked to be of *kind*.

    Raises: TypeError.
    """
    if not isinstance(front, kind):
        engine = "AsyncEngine" if isinstance(front, _Tasks) else "Engine"
        raise TypeError(f"this Coalescer has an {engine}: {advice}")
    return front


def _result(fire: Fire, outcome: Outcome, *, raises_refusal: bool) -> Moved[Any] | Refused[Any]:
    if isinstance(outcome, BaseException):
        raise outcome
    if raises_refusal and isinstance(outcome, Refused):
        raise fires.refusal_error(fire, outcome)
    return outcome


def _attempt(fire: Fire) -> Attempt:
    return Attempt("fire", fire.target.model, fire.target.table_name, fire.event.name, fire.key)


class _Tasks:
    """Callers are tasks of one event loop; one more task for each connection sends the batches."""

    def __init__(self, senders: Sequence[Sender], queue: Queue) -> None:
        self.senders, self.queue = senders, queue
        self._room = asyncio.Semaphore(queue.limits.max_pending)
        self._ready = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._is_closed = False

    def fire(self, fire: Fire, *, raises_refusal: bool) -> Any:
        name = "fire_key" if raises_refusal else "try_fire_key"
        coroutine: Any = self._watched(fire, raises_refusal=raises_refusal)
        coroutine.__qualname__ = name  # Python warns of one that is never awaited by this name
        return Awaited(coroutine, name, "Coalescer")

    async def _watched(self, fire: Fire, *, raises_refusal: bool) -> Moved[Any] | Refused[Any]:
        if not is_watched():
            return _result(fire, await self._outcome(fire), raises_refusal=raises_refusal)
        with watching(_attempt(fire)) as attempt:
            attempt.result = outcome = _result(fire, await self._outcome(fire), raises_refusal=False)
        return _result(fire, outcome, raises_refusal=raises_refusal)

    async def _outcome(self, fire: Fire) -> Outcome:
        since, loop = time.monotonic(), asyncio.get_running_loop()
        async with self._room:
            if self._is_closed:
                raise RuntimeError(_CLOSED)
            if not self._tasks:
                self._tasks = [loop.create_task(self._work(sender), name="Coalescer") for sender in self.senders]
            future: asyncio.Future[Outcome] = loop.create_future()
            waiting = self.queue.waiting
            waiting.append(Pending(fire, future, since))
            if len(waiting) == 1 or len(waiting) == self.queue.limits.max_batch:
                self._ready.set()
            return await future

    async def _work(self, sender: Sender) -> None:
        while True:
            self._ready.clear()
            wait = self.queue.wait(time.monotonic())
            if wait is None:
                if self._is_closed:
                    return
                await self._ready.wait()
            elif wait and not self._is_closed:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._ready.wait(), wait)
            elif batch := self.queue.take(lambda future: not future.done()):
                await self._send(sender, batch)
                self._ready.set()  # fires on the rows of this batch may wait for it
            elif self.queue.waiting:  # all for rows that another batch moves
                await self._ready.wait()

    async def _send(self, sender: Sender, batch: list[Pending]) -> None:
        sent, outcomes = time.monotonic(), []
        packets, rerun = sender.packets, sender.reruns
        try:
            outcomes = await greenlet_spawn(sender.send, [pending.fire for pending in batch])
        except BaseException as error:
            outcomes = [error] * len(batch)
            if not isinstance(error, Exception):  # this task is cancelled, and the loop is about to end
                raise
        finally:
            packets, rerun = sender.packets - packets, sender.reruns - rerun
            self.queue.done(batch, outcomes, sent=sent, now=time.monotonic(), packets=packets, rerun=rerun)
            for pending, outcome in zip(batch, outcomes, strict=True):
                if not pending.future.done():
                    pending.future.set_result(outcome)

    async def close(self) -> None:
        self._is_closed = True
        self._ready.set()
        if self._tasks:
            await asyncio.shield(asyncio.gather(*self._tasks))
        for sender in self.senders:
            await greenlet_spawn(sender.close)


class _Threads:
    """Callers are threads; one more thread for each connection sends the batches."""

    def __init__(self, senders: Sequence[Sender], queue: Queue) -> None:
        self.senders, self.queue = senders, queue
        self._room = threading.BoundedSemaphore(queue.limits.max_pending)
        self._ready = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._is_closed = False

    def fire(self, fire: Fire, *, raises_refusal: bool) -> Moved[Any] | Refused[Any]:
        if not is_watched():
            return _result(fire, self._outcome(fire), raises_refusal=raises_refusal)
        with watching(_attempt(fire)) as attempt:
            attempt.result = outcome = _result(fire, self._outcome(fire), raises_refusal=False)
        return _result(fire, outcome, raises_refusal=raises_refusal)

    def _outcome(self, fire: Fire) -> Outcome:
        since = time.monotonic()
        with self._room:
            future: Future[Outcome] = Future()
            with self._ready:
                if self._is_closed:
                    raise RuntimeError(_CLOSED)
                if not self._threads:
                    for sender in self.senders:
                        thread = threading.Thread(target=self._work, args=(sender,), name="Coalescer", daemon=True)
                        self._threads.append(thread)
                        thread.start()
                self.queue.waiting.append(Pending(fire, future, since))
                self._ready.notify()
            try:
                return future.result()
            except BaseException:
                future.cancel()  # KeyboardInterrupt: not sent yet, it will not be
                raise

    def _work(self, sender: Sender) -> None:
        while True:
            with self._ready:
                while (wait := self.queue.wait(time.monotonic())) is None or wait:
                    if self._is_closed:
                        if wait is None:
                            return
                        break
                    self._ready.wait(wait)
                batch = self.queue.take(lambda future: bool(future.set_running_or_notify_cancel()))
                if not batch and self.queue.waiting:  # all for rows that another batch moves
                    self._ready.wait()
            if batch:
                self._send(sender, batch)

    def _send(self, sender: Sender, batch: list[Pending]) -> None:
        sent, packets, rerun = time.monotonic(), sender.packets, sender.reruns
        try:
            outcomes: list[Outcome] = sender.send([pending.fire for pending in batch])
        except BaseException as error:  # noqa: BLE001 - the callers get it; this thread goes on
            outcomes = [error] * len(batch)
        packets, rerun = sender.packets - packets, sender.reruns - rerun
        with self._ready:
            self.queue.done(batch, outcomes, sent=sent, now=time.monotonic(), packets=packets, rerun=rerun)
            self._ready.notify_all()
        for pending, outcome in zip(batch, outcomes, strict=True):
            pending.future.set_result(outcome)

    def close(self) -> None:
        with self._ready:
            self._is_closed = True
            self._ready.notify_all()
        for thread in self._threads:
            thread.join()
        for sender in self.senders:
            sender.close()
