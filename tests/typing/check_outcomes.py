"""What a fire returns: of the model it was fired on, awaitable exactly when the session is async."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from typing_extensions import assert_type

from sqlalchemy_fsm_mysql import (
    Missing,
    Moved,
    MovedRows,
    Refused,
    claim,
    commit_with_fire,
    commit_with_fire_key,
    find_by_token,
    fire_key,
    fire_keys,
    fire_or_create,
    fire_where,
    force_state,
    run_transaction,
    try_commit_with_fire,
    try_commit_with_fire_key,
    try_fire_key,
)
from tests.typing.models import Light, Order, Special


def of_an_instance(order: Order, session: Session) -> None:
    assert_type(order.fire("Stop", session), Moved[Order])
    assert_type(order.fire("Stop"), Moved[Order])
    assert_type(order.fire("Stop", None), Moved[Order])
    assert_type(order.try_fire("Stop", session), Moved[Order] | Refused[Order])
    assert_type(order.fire("Refund", session, amount=30), Moved[Order])
    assert_type(order.fire("Stop", session, actor="ada", details={"why": "test"}), Moved[Order])
    assert_type(order.fire("Stop", session, column=Order.state, token=str(order.id)), Moved[Order])


def of_a_subclass(order: Special, session: Session) -> None:
    assert_type(order.fire("Stop", session), Moved[Special])
    assert_type(fire_key(Special, 1, "Stop", session), Moved[Special])


def of_a_key(session: Session) -> None:
    assert_type(fire_key(Order, 1, "Stop", session), Moved[Order])
    assert_type(fire_key(Order, ("acme", 1), "Stop", session, column="state"), Moved[Order])
    assert_type(fire_key(Order, {"id": 1}, "Refund", session, amount=30), Moved[Order])
    assert_type(try_fire_key(Order, 1, "Stop", session), Moved[Order] | Refused[Order])


def with_the_commit(order: Order, session: Session, connection: Connection) -> None:
    assert_type(commit_with_fire(order, "Stop", session), Moved[Order])
    assert_type(try_commit_with_fire(order, "Stop"), Moved[Order] | Refused[Order])
    assert_type(commit_with_fire_key(Order, 1, "Stop", connection), Moved[Order])
    assert_type(try_commit_with_fire_key(Order, 1, "Stop", session), Moved[Order] | Refused[Order])


async def with_the_commit_in_asyncio(order: Order, session: AsyncSession, connection: AsyncConnection) -> None:
    assert_type(await commit_with_fire(order, "Stop", session), Moved[Order])
    assert_type(await try_commit_with_fire_key(Order, 1, "Stop", connection), Moved[Order] | Refused[Order])


def in_a_scoped_session(order: Order, session: scoped_session[Session]) -> None:
    assert_type(order.fire("Stop", session), Moved[Order])
    assert_type(order.try_fire("Stop", session), Moved[Order] | Refused[Order])
    assert_type(fire_key(Order, 1, "Stop", session), Moved[Order])
    assert_type(try_fire_key(Order, 1, "Stop", session), Moved[Order] | Refused[Order])


async def in_an_async_session(order: Order, session: AsyncSession) -> None:
    awaited_1 = order.fire("Stop", session)
    _ = assert_type(awaited_1, Coroutine[Any, Any, Moved[Order]])
    awaited_2 = fire_key(Order, 1, "Stop", session)
    _ = assert_type(awaited_2, Coroutine[Any, Any, Moved[Order]])
    assert_type(await order.fire("Stop", session), Moved[Order])
    assert_type(await order.try_fire("Stop", session), Moved[Order] | Refused[Order])
    assert_type(await fire_key(Order, 1, "Stop", session), Moved[Order])
    assert_type(await try_fire_key(Order, 1, "Stop", session), Moved[Order] | Refused[Order])


def what_an_outcome_holds(order: Order, session: Session) -> None:
    moved = order.fire("Stop", session)
    assert_type(moved.model, type[Order])
    assert_type(moved.instance, Order | None)
    assert_type(moved.changed, bool)
    assert_type(moved.event, str)
    assert_type(moved.token, str | None)
    assert_type(moved.replayed, bool)
    assert_type(moved.sequence, int | None)
    assert_type(moved.payload, Mapping[str, Any])


def an_outcome_is_told_apart_by_its_truth(order: Order, session: Session) -> None:
    outcome = order.try_fire("Stop", session)
    if outcome:
        assert_type(outcome, Moved[Order])
    else:
        assert_type(outcome, Refused[Order])
        assert_type(outcome.reason, Literal["state", "guard"])


def hints(order: Order) -> None:
    assert_type(order.can_fire("Stop"), bool)
    assert_type(order.available_events(), list[str])


def states_are_of_the_type_that_is_mapped(order: Order) -> None:
    assert_type(order.state, str)
    assert_type(order.light, Light)


def by_operators(order: Order, session: Session) -> None:
    assert_type(force_state(order, "Running", session), Moved[Order])
    assert_type(force_state(order, "Running"), Moved[Order])
    assert_type(find_by_token(Order.state, "token", session), Moved[Any] | None)


async def by_operators_in_an_async_session(order: Order, session: AsyncSession) -> None:
    assert_type(await force_state(order, "Running", session), Moved[Order])
    assert_type(await find_by_token(Order.state, "token", session), Moved[Any] | None)


def sets_of_rows(session: Session) -> None:
    assert_type(fire_where(Order, "Stop", session, Order.id > 3), MovedRows[Order])
    assert_type(claim(Order, "Ready", session, Order.id > 3, limit=5), list[Order])
    assert_type(fire_or_create(Order(id=1), "Ready", session), Moved[Order])


def on_a_connection(connection: Connection) -> None:
    assert_type(fire_key(Order, 1, "Stop", connection), Moved[Order])
    assert_type(try_fire_key(Order, 1, "Stop", connection), Moved[Order] | Refused[Order])
    assert_type(fire_keys(Order, [1], "Stop", connection), list[Moved[Order] | Refused[Order] | Missing[Order]])
    assert_type(fire_where(Order, "Stop", connection, Order.id > 3, limit=3, keys=True), MovedRows[Order])
    assert_type(fire_or_create(Order, {"id": 1}, "Ready", connection), Moved[Order])
    assert_type(find_by_token(Order.state, "token", connection), Moved[Any] | None)


async def on_an_async_connection(connection: AsyncConnection) -> None:
    assert_type(await fire_key(Order, 1, "Stop", connection), Moved[Order])
    assert_type(await fire_keys(Order, [1], "Stop", connection), list[Moved[Order] | Refused[Order] | Missing[Order]])
    assert_type(await fire_or_create(Order, {"id": 1}, "Ready", connection), Moved[Order])


async def sets_of_rows_in_an_async_session(session: AsyncSession) -> None:
    assert_type(await fire_where(Order, "Stop", session, Order.id > 3), MovedRows[Order])
    assert_type(await claim(Order, "Ready", session, Order.id > 3, limit=5), list[Order])
    assert_type(await fire_or_create(Order(id=1), "Ready", session), Moved[Order])


def units_of_work(sessions: sessionmaker[Session]) -> None:
    def work(session: Session) -> Moved[Order]:
        return fire_key(Order, 1, "Stop", session)

    assert_type(run_transaction(sessions, work), Moved[Order])


def in_statements(session: Session) -> None:
    running: ColumnElement[bool] = Order.state == "Running"
    assert_type(session.scalars(select(Order).where(running)).all()[0], Order)


async def async_work(session: AsyncSession) -> Moved[Order]:
    return await fire_key(Order, 1, "Stop", session)


async def a_forgotten_await_is_found(
    order: Order, session: AsyncSession, sessions: async_sessionmaker[AsyncSession]
) -> None:
    order.fire("Stop", session)  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    fire_key(Order, 1, "Stop", session)  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    claim(Order, "Stop", session, limit=1)  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    run_transaction(sessions, async_work)  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]


def a_match_narrows(outcome: Moved[Order] | Refused[Order]) -> None:
    match outcome:
        case Moved():
            assert_type(outcome, Moved[Order])
        case Refused():
            assert_type(outcome, Refused[Order])


def of_wrong_criteria(session: Session) -> None:
    fire_where(Order, "Stop", session, True)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    fire_where(Order, "Stop", session, "id > 3")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
