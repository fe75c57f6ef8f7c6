"""A fire is no flush: the listeners of flushes and of assignments are not called, as docs/guide/firing.md says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import event, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, validates

from sqlalchemy_fsm_mysql import Stateful, StateMachineColumn, fire_key, fire_where
from tests.reference import machine

called: list[str] = []


class Base(DeclarativeBase):
    """The tables of this module."""


class Order(Stateful, Base):
    __tablename__ = "unflushed_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)

    @validates("state")
    def validated(self, _, state):
        called.append("validates")
        return state


@pytest.fixture
def listening(session: Session) -> Iterator[Order]:
    """A stored order, with a listener at each place where a flush or an assignment would call one."""
    order = Order(id=1)
    session.add(order)
    session.flush()
    listened = [
        *((Order, name) for name in ("before_update", "after_update")),
        *((session, name) for name in ("before_flush", "after_flush")),
        (Order.state, "set"),
    ]
    listeners = [(target, name, lambda *_, name=name, **__: called.append(name)) for target, name in listened]
    for target, name, listener in listeners:
        event.listen(target, name, listener)
    called.clear()
    yield order
    for target, name, listener in listeners:
        event.remove(target, name, listener)


@pytest.mark.parametrize("how", ["fire", "fire_key", "fire_where"])
def test_a_fire_calls_no_listener_of_flushes_or_assignments(session, listening, how):
    if how == "fire":
        listening.fire("Stop")
    elif how == "fire_key":
        fire_key(Order, 1, "Stop", session)
    else:
        fire_where(Order, "Stop", session, Order.id == 1)

    assert listening.state == "Stopped"
    assert called == []


@pytest.mark.servers_only
def test_a_fire_sets_the_last_insert_id_of_the_connection(session, listening, backend):
    listening.fire("Stop")

    remembered = session.scalar(select(func.last_insert_id()))

    assert (remembered >= 2**63) is (backend == "own")
