"""A Coalescer: its calls are awaited exactly when its engine is async, and return outcomes of the model."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine
from typing_extensions import assert_type

from sqlalchemy_fsm_mysql import Coalescer, Moved, Refused
from tests.typing.models import Order


def in_threads(engine: Engine) -> None:
    with Coalescer(engine, max_batch=64, max_wait=timedelta(milliseconds=1)) as fires:
        assert_type(fires.fire_key(Order, 1, "Stop"), Moved[Order])
        assert_type(fires.try_fire_key(Order, 1, "Refund", amount=30, token="a"), Moved[Order] | Refused[Order])
        assert_type(fires.figures.mean_size, float)


async def in_tasks(engine: AsyncEngine) -> None:
    async with Coalescer(engine) as fires:
        assert_type(await fires.fire_key(Order, 1, "Stop", actor="ada"), Moved[Order])
        assert_type(await fires.try_fire_key(Order, 1, "Stop"), Moved[Order] | Refused[Order])


def wrong(engine: Engine) -> None:
    Coalescer(engine, max_wait=0.002)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Coalescer("mysql://")  # type: ignore[type-var]  # pyright: ignore[reportCallIssue, reportArgumentType]
