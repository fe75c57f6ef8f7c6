"""The rows of other tables that decide a write are locked until COMMIT; those of a plain SELECT are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, ForeignKey, exists, func, select, union
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from sqlalchemy_fsm_mysql import (
    Event,
    Machine,
    Stateful,
    StateMachineColumn,
    Transition,
    claim,
    fire_key,
    fire_or_create,
    fire_where,
    unlocked,
)

pytestmark = pytest.mark.servers_only


class Base(DeclarativeBase):
    """The tables of this module."""


def of(order):
    return select(Payment.id).where(Payment.order_id == order.id, Payment.ok == 1)


FORMS: dict[str, Callable[[Any], Any]] = {
    "exists where": lambda o: exists().where(Payment.order_id == o.id, Payment.ok == 1),
    "exists select": lambda o: exists(of(o)),
    "select exists": lambda o: of(o).exists(),
    "not": lambda o: ~(~exists().where(Payment.order_id == o.id, Payment.ok == 1)),
    "any": lambda o: o.payments.any(Payment.ok == 1),
    "in": lambda o: o.id.in_(select(Payment.order_id).where(Payment.ok == 1)),
    "count": lambda o: select(func.count()).where(Payment.order_id == o.id, Payment.ok == 1).scalar_subquery() == 1,
    "derived": lambda o: exists().where(select(Payment.order_id).subquery().c.order_id == o.id),
    "nested": lambda o: exists().where(Batch.id == o.id, exists().where(Payment.order_id == Batch.id, Payment.ok == 1)),
    "in nested": lambda o: o.id.in_(
        select(Batch.id).where(Batch.id.in_(select(Payment.order_id).where(Payment.ok == 1)))
    ),
    "union": lambda o: union(of(o).where(Payment.ok == 2), of(o)).exists(),
    "in union": lambda o: o.id.in_(union(select(Batch.id).where(Batch.id > 5), select(Payment.order_id))),
    "case": lambda o: func.if_(exists().where(Payment.order_id == o.id, Payment.ok == 1), 1, 0) == 1,
}


class Payment(Base):
    __tablename__ = "locked_payments"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("locked_orders.id"), index=True)
    ok: Mapped[int] = mapped_column(default=1)


class Batch(Base):
    __tablename__ = "locked_batches"

    id: Mapped[int] = mapped_column(primary_key=True)


class Order(Stateful, Base):
    __tablename__ = "locked_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    paid: Mapped[int | None]
    payments: Mapped[list[Payment]] = relationship()
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="open",
            events=[
                Event("Go", {"open": "sent"}),
                Event(
                    "Sum",
                    {"open": "sent"},
                    effect=lambda o: {
                        "paid": select(func.sum(Payment.ok)).where(Payment.order_id == o.id).scalar_subquery()
                    },
                ),
                Event("Hint", {"open": "sent"}, guard=lambda o: unlocked(FORMS["exists where"](o))),
                Event(
                    "Half",
                    {"open": "sent"},
                    guard=lambda o: unlocked(exists().where(Batch.id == o.id)) & FORMS["exists where"](o),
                ),
                *(
                    Event(name, [Transition("open", "sent", guard=guard), Transition("sent", "sent", guard=guard)])
                    for name, guard in FORMS.items()
                ),
            ],
        )
    )


@pytest.fixture
def committed(backend_engine: Engine, tables: None) -> Iterator[Engine]:
    """Orders 1 and 2, each with a payment and a batch, and nothing in flight."""
    with Session(backend_engine) as session:
        session.add_all([Order(id=1), Order(id=2)])
        session.flush()
        session.add_all([Payment(id=1, order_id=1), Payment(id=2, order_id=2), Batch(id=1), Batch(id=2)])
        session.commit()
    yield backend_engine
    with Session(backend_engine) as session:
        for model in (Payment, Batch, Order):
            session.query(model).delete()
        session.commit()


def locked(engine: Engine, model: Any = Payment) -> list[int]:
    """The rows of *model* that no other transaction can change now."""
    with Session(engine) as other:
        free = other.scalars(select(model.id).with_for_update(skip_locked=True)).all()
        return sorted({1, 2} - set(free))


def moved_by(session: Session, how: str, event: str) -> Any:
    if how == "fire_key":
        return fire_key(Order, 1, event, session)
    if how == "fire_where":
        return fire_where(Order, event, session, Order.id == 1).moved
    if how == "claim":
        return claim(Order, event, session, Order.id == 1, limit=1)
    return fire_or_create(Order(id=1), event, session)


@pytest.mark.parametrize("how", ["fire_key", "fire_where", "claim", "fire_or_create"])
@pytest.mark.parametrize("form", FORMS)
def test_the_row_that_a_guard_has_found_cannot_change_before_commit(committed, how, form):
    with Session(committed) as session:
        assert moved_by(session, how, form)

        assert 1 in locked(committed)


@pytest.mark.parametrize("how", ["fire_where", "batches", "at most", "claim"])
@pytest.mark.parametrize("form", FORMS)
def test_the_row_that_a_criterion_has_found_cannot_change_before_commit(committed, how, form):
    criterion = FORMS[form](Order)
    sizes = {"batches": {"batch_size": 1}, "at most": {"max_rows": 5}}.get(how, {})
    with Session(committed) as session:
        if how == "claim":
            assert len(claim(Order, "Go", session, Order.id == 1, criterion, limit=1)) == 1
        else:
            assert fire_where(Order, "Go", session, Order.id == 1, criterion, **sizes).moved == 1

        assert 1 in locked(committed)


def test_a_criterion_on_another_tables_columns_locks_its_row(committed):
    with Session(committed) as session:
        assert fire_where(Order, "Go", session, Payment.order_id == Order.id, Payment.id == 1).moved == 1

        assert 1 in locked(committed)


@pytest.mark.parametrize("how", ["fire_key", "fire_where", "claim"])
def test_the_rows_that_an_effect_reads_cannot_change_before_commit(committed, how):
    with Session(committed) as session:
        assert moved_by(session, how, "Sum")

        assert 1 in locked(committed)


@pytest.mark.parametrize("form", FORMS)
def test_a_select_that_decides_nothing_locks_nothing(committed, form):
    with Session(committed) as session:
        assert session.scalars(select(Order.id).where(Order.state.can(form)).order_by(Order.id)).all() == [1, 2]
        assert session.scalars(select(Order.state.after(form))).all() == ["sent", "sent"]
        assert form in session.get_one(Order, 1).possible_events()

        assert locked(committed) == []


@pytest.mark.parametrize("how", ["fire_key", "fire_where", "claim"])
def test_unlocked_reads_without_a_lock(committed, how):
    with Session(committed) as session:
        assert moved_by(session, how, "Hint")

        assert locked(committed) == []


def test_unlocked_is_for_the_part_that_it_marks(committed):
    with Session(committed) as session:
        assert moved_by(session, "fire_key", "Half")

        assert (locked(committed), locked(committed, Batch)) == ([1], [])


def test_unlocked_criteria_are_read_without_a_lock(committed):
    with Session(committed) as session:
        criterion = unlocked(FORMS["exists where"](Order))
        assert fire_where(Order, "Go", session, Order.id == 1, criterion).moved == 1

        assert locked(committed) == []


def test_unlocked_takes_sql():
    with pytest.raises(TypeError, match="unlocked"):
        unlocked("yes")
