"""``Order.state.can(event)`` and ``.after(event)`` inside statements of every kind."""

from __future__ import annotations

import pytest
from sqlalchemy import ForeignKey, String, case, func, select, update
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import Mapped, aliased, mapped_column

from sqlalchemy_fsm_mysql import Event, Machine, StateMachineColumn, Transition, UnknownEvent, try_fire_key
from tests.reference import CELLS, EVENTS, MOVES, STATES, Base, Order

Table = Order.__table__


class Payment(Base):
    """Guards, with a payload, on a single-table base."""

    __tablename__ = "payments"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(10))
    balance: Mapped[int] = mapped_column("open_balance")
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="Due",
            states=["Due", "Paid", "Void"],
            events=[
                Event(
                    "Pay",
                    [
                        Transition("Due", "Paid", guard=lambda payment, amount: payment.balance == amount),
                        Transition("Due", "Due", guard=lambda payment, amount: payment.balance > amount),
                    ],
                ),
                Event("Cancel", {("Due", "Void"): "Void"}),
                Event(
                    "Reopen",
                    [Transition("Paid", "Due", guard=lambda payment: payment.balance > 15), Transition("Void", "Due")],
                ),
            ],
        )
    )

    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "any"}


class CardPayment(Payment):
    __mapper_args__ = {"polymorphic_identity": "card"}


class Account(Base):
    """Joined inheritance, with guards."""

    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(10))
    balance: Mapped[int] = mapped_column("open_balance")
    state: Mapped[str] = StateMachineColumn(Payment.state.type.machine)

    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "any"}


class Savings(Account):
    __tablename__ = "savings"

    id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    rate: Mapped[int] = mapped_column(default=1)

    __mapper_args__ = {"polymorphic_identity": "savings"}


KEYS = dict(enumerate(STATES, start=1))
BALANCES = {1: ("Due", 10), 2: ("Due", 20), 3: ("Due", 30), 4: ("Paid", 10), 5: ("Paid", 20), 6: ("Void", 10)}
GUARDED = {"single": (Payment, CardPayment), "joined": (Account, Savings)}


@pytest.fixture(autouse=True)
def rows(session):
    session.add_all(Order(id=key, state=state) for key, state in KEYS.items())
    session.add_all(CardPayment(id=key, state=state, balance=balance) for key, (state, balance) in BALANCES.items())
    session.add_all(Savings(id=key, state=state, balance=balance) for key, (state, balance) in BALANCES.items())
    session.add_all([Payment(id=7, state="Due", balance=20), Account(id=7, state="Due", balance=20)])
    session.flush()
    session.expunge_all()


def leaves(event):
    return [key for key, state in KEYS.items() if CELLS[state, event]]


COLUMNS = {"ORM": (Order.state, Order.id), "Core": (Table.c.state, Table.c.id)}
ALIAS, CORE_ALIAS = aliased(Order), Table.alias()
COLUMNS |= {"alias": (ALIAS.state, ALIAS.id), "Core alias": (CORE_ALIAS.c.state, CORE_ALIAS.c.id)}


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("event", EVENTS)
def test_can_selects_the_rows_that_the_event_moves(session, column, event):
    state, key = COLUMNS[column]

    assert leaves(event) == list(session.scalars(select(key).where(state.can(event)).order_by(key)))


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("event", EVENTS)
def test_not_can_selects_the_others(session, column, event):
    state, key = COLUMNS[column]

    assert sorted({*KEYS} - {*leaves(event)}) == list(
        session.scalars(select(key).where(~state.can(event)).order_by(key))
    )


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("event", EVENTS)
def test_after_is_the_target_or_the_state_itself(session, column, event):
    state, key = COLUMNS[column]

    assert [MOVES.get((s, event), s) for s in STATES] == list(session.scalars(select(state.after(event)).order_by(key)))


def test_can_is_a_column_of_a_result(session):
    found = session.execute(select(Order.id, Order.state.can("Delete").label("can")).order_by(Order.id)).all()

    assert [bool(can) for _, can in found] == [False, False, False, True, True]


def test_can_orders_rows(session):
    ordered = session.scalars(select(Order.id).order_by(Order.state.can("Delete").desc(), Order.id))

    assert list(ordered) == [4, 5, 1, 2, 3]


def test_after_groups_rows(session):
    after = Order.state.after("Ready")

    found = session.execute(select(after.label("next"), func.count()).group_by("next")).all()

    assert dict(map(tuple, found)) == {"Running": 3, "Stopped": 1, "Deleted": 1}


def test_can_is_a_condition_of_a_case(session):
    label = case((Order.state.can("Delete"), "deletable"), (Order.state.can("Ready"), "startable"), else_="neither")

    assert list(session.scalars(select(label).order_by(Order.id))) == ["startable"] * 3 + ["deletable"] * 2


def test_after_is_compared_like_the_state(session):
    assert list(
        session.scalars(select(Order.id).where(Order.state.after("Delete") == "Deleted", Order.state != "Deleted"))
    ) == [4]
    assert list(
        session.scalars(select(Order.id).where(Order.state.after("Delete").in_(["Deleted"])).order_by(Order.id))
    ) == [4, 5]


@pytest.mark.parametrize("kind", ["ORM", "Core"])
def test_an_update_by_hand_moves_rows_as_the_event_would(session, kind):
    target, state = (Order, Order.state) if kind == "ORM" else (Table, Table.c.state)
    statement = update(target).where(state.can("Stop")).values({"state": state.after("Stop"), "total": 1})
    if kind == "ORM":
        statement = statement.execution_options(synchronize_session=False)

    result = session.execute(statement)

    assert result.rowcount == 4
    assert list(session.scalars(select(Order.state).order_by(Order.id))) == ["Stopped"] * 4 + ["Deleted"]


@pytest.mark.parametrize("event", ["Halt", None, 1, b"Stop", "stop"])
@pytest.mark.parametrize("column", COLUMNS)
def test_an_unknown_event_is_no_expression(column, event):
    for ask in (COLUMNS[column][0].can, COLUMNS[column][0].after):
        with pytest.raises(UnknownEvent):
            ask(event)


def test_an_event_without_payload_takes_none():
    with pytest.raises(TypeError, match="'amount'"):
        Order.state.can("Stop", amount=1)
    with pytest.raises(TypeError, match="'amount'"):
        Order.state.after("Stop", amount=1)


# --- guards


@pytest.mark.parametrize("kind", GUARDED)
@pytest.mark.parametrize("how", ["entity", "alias", "flat alias"])
@pytest.mark.parametrize("by_name", [False, True], ids=["given", "by name"])
@pytest.mark.parametrize("amount", [5, 10, 20, 100])
def test_can_and_after_agree_with_what_a_fire_then_does(session, kind, how, by_name, amount):
    model = GUARDED[kind][1]
    entity = {
        "entity": lambda: model,
        "alias": lambda: aliased(model),
        "flat alias": lambda: aliased(model, flat=True),
    }[how]()
    given = {} if by_name else {"amount": amount}
    values = {"amount": amount} if by_name else {}

    can = session.scalars(select(entity.id).where(entity.state.can("Pay", **given)), values).all()
    after = dict(map(tuple, session.execute(select(entity.id, entity.state.after("Pay", **given)), values)))

    fired = {key: try_fire_key(model, key, "Pay", session, amount=amount) for key in BALANCES}
    assert sorted(key for key, outcome in fired.items() if outcome) == sorted(can)
    assert {key: outcome.target if outcome else outcome.state for key, outcome in fired.items()} == after


@pytest.mark.parametrize("kind", GUARDED)
def test_a_base_class_asks_about_its_childrens_rows_too(session, kind):
    base, child = GUARDED[kind]

    assert sorted(session.scalars(select(base.id).where(base.state.can("Pay", amount=20), base.balance == 20))) == [
        2,
        7,
    ]
    assert sorted(session.scalars(select(child.id).where(child.state.can("Pay", amount=20), child.balance == 20))) == [
        2
    ]


@pytest.mark.parametrize("kind", GUARDED)
def test_a_guard_may_stand_beside_a_source_without_one(session, kind):
    model = GUARDED[kind][1]

    assert sorted(session.scalars(select(model.id).where(model.state.can("Reopen")))) == [5, 6]


@pytest.mark.parametrize("event", ["Cancel", "Reopen"])
def test_a_payload_that_the_event_has_not_is_refused(event):
    with pytest.raises(TypeError, match="'amount'"):
        Payment.state.can(event, amount=1)


def test_guards_need_the_mapped_class_and_say_so():
    with pytest.raises(TypeError, match=r"use Order\.state, not the table's column"):
        Payment.__table__.c.state.can("Pay", amount=1)


def test_a_table_column_has_the_events_without_guards(session):
    state = Payment.__table__.c.state

    assert sorted(session.scalars(select(Payment.__table__.c.id).where(state.can("Cancel")))) == [1, 2, 3, 6, 7]


def test_two_aliases_stand_side_by_side(session):
    first, second = aliased(CardPayment), aliased(CardPayment)

    pairs = session.execute(
        select(first.id, second.id)
        .join(second, first.balance < second.balance)
        .where(first.state.can("Pay", amount=10), second.state.can("Pay", amount=30))
    ).all()

    assert {(1, 3), (2, 3)} == {tuple(pair) for pair in pairs}


def test_a_guarded_event_is_a_condition_of_an_update(session):
    statement = (
        update(CardPayment)
        .where(CardPayment.state.can("Pay", amount=10))
        .values(state=CardPayment.state.after("Pay", amount=10))
    )

    assert session.execute(statement.execution_options(synchronize_session=False)).rowcount == 3
    assert list(session.scalars(select(CardPayment.state).where(CardPayment.id < 4).order_by(CardPayment.id))) == [
        "Paid",
        "Due",
        "Due",
    ]


# --- the column's own operators


def test_the_states_text_has_its_operators(session):
    ids = select(Order.id).order_by(Order.id)

    assert list(session.scalars(ids.where(Order.state == "Running"))) == [2]
    assert list(session.scalars(ids.where(Order.state != "Running"))) == [1, 3, 4, 5]
    assert list(session.scalars(ids.where(Order.state.in_(["Running", "Error"])))) == [2, 3]
    assert list(session.scalars(ids.where(Order.state.not_in(["Running", "Error"])))) == [1, 4, 5]
    assert list(session.scalars(ids.where(Order.state.like("%ing")))) == [1, 2]
    assert list(session.scalars(ids.where(Order.state.startswith("Stop")))) == [4]


def test_a_comparison_with_an_undeclared_state_says_so(session):
    with pytest.raises(StatementError, match="'Bogus'"):
        session.scalars(select(Order.id).where(Order.state == "Bogus"))
