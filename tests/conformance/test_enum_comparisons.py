"""A state compares as sqlalchemy.Enum does, in every operator, and what returns a state returns the member."""

from __future__ import annotations

import enum
from typing import Any

import pytest
from sqlalchemy import Enum, bindparam, case, delete, func, literal, null, or_, select, type_coerce, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import Event, Machine, StateMachineColumn


class Base(DeclarativeBase):
    """The tables of this module."""


class S(enum.Enum):
    NEW = "new"
    PAID = "paid"
    SENT = "sent"


class T(str, enum.Enum):
    NEW = "new"
    PAID = "paid"
    SENT = "sent"


def events(of):
    return [Event("Pay", {of.NEW: of.PAID}), Event("Send", {of.PAID: of.SENT})]


def values(of):
    return Enum(of, values_callable=lambda members: [member.value for member in members])


class Order(Base):
    __tablename__ = "compared_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    s: Mapped[S] = StateMachineColumn(Machine(initial=S.NEW, states=S, events=events(S)))
    s_enum: Mapped[S | None] = mapped_column(values(S))
    t: Mapped[T] = StateMachineColumn(Machine(initial=T.NEW, states=T, events=events(T)))
    t_enum: Mapped[T | None] = mapped_column(values(T))
    text: Mapped[str] = StateMachineColumn(
        Machine(initial="new", states=["new", "paid", "sent"], events=[Event("Pay", {"new": "paid"}),
                                                                      Event("Send", {"paid": "sent"})]),
        storage="varchar",
    )  # fmt: skip
    text_enum: Mapped[str | None] = mapped_column(Enum("new", "paid", "sent"))


class Renamed(Base):
    """A state with an alias, which a row holds."""

    __tablename__ = "compared_aliases"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(
        Machine(initial="new", events=[Event("Pay", {"new": "paid"})], aliases={"settled": "paid"})
    )


COLUMNS = {
    "Enum": (Order.s, Order.s_enum, S),
    "str Enum": (Order.t, Order.t_enum, T),
    "text": (Order.text, Order.text_enum, T),
}


@pytest.fixture(autouse=True)
def rows(session: Session) -> None:
    for key, state in enumerate(T, start=1):
        member = S[state.name]
        session.add(
            Order(id=key, s=member, s_enum=member, t=state, t_enum=state, text=state.value, text_enum=state.value)
        )
    session.flush()
    session.expunge_all()


# By name, a condition on column *c*; *v* makes a state of a name, a member or a text as the column has it.
CONDITIONS: dict[str, Any] = {
    "==": lambda c, v: c == v("PAID"),
    "== reversed": lambda c, v: v("PAID") == c,
    "!=": lambda c, v: c != v("PAID"),
    "<": lambda c, v: c < v("PAID"),
    "<=": lambda c, v: c <= v("PAID"),
    ">": lambda c, v: c > v("PAID"),
    ">=": lambda c, v: c >= v("PAID"),
    "< reversed": lambda c, v: v("PAID") < c,
    "between": lambda c, v: c.between(v("NEW"), v("PAID")),
    "not between": lambda c, v: ~c.between(v("NEW"), v("PAID")),
    "is_distinct_from": lambda c, v: c.is_distinct_from(v("PAID")),
    "is_not_distinct_from": lambda c, v: c.is_not_distinct_from(v("PAID")),
    "is_distinct_from(None)": lambda c, v: c.is_distinct_from(None),
    "is_(None)": lambda c, v: c.is_(None),
    "is_not(None)": lambda c, v: c.is_not(None),
    "== None": lambda c, v: c == None,  # noqa: E711
    "in_": lambda c, v: c.in_([v("NEW"), v("SENT")]),
    "not_in": lambda c, v: c.not_in([v("NEW"), v("SENT")]),
    "in_ of nothing": lambda c, v: c.in_([]),
    "in_ with None": lambda c, v: c.in_([v("NEW"), None]),
    "in_ with SQL": lambda c, v: c.in_([v("NEW"), literal(v("PAID"), c.type), null()]),
    "in_ expanding": lambda c, v: c.in_(bindparam("x", [v("NEW"), v("SENT")], expanding=True)),
    "in_ literal_execute": lambda c, v: c.in_(bindparam("y", [v("PAID")], expanding=True, literal_execute=True)),
    "literal_execute": lambda c, v: c == bindparam("z", v("PAID"), literal_execute=True),
    "untyped literal": lambda c, v: c == literal(v("PAID")),
    "any of": lambda c, v: or_(c == v("NEW"), c > v("PAID")),
    "case": lambda c, v: case((c == v("PAID"), 1), (c < v("PAID"), 2), else_=3) == 1,
    "nullif": lambda c, v: func.nullif(c, literal(v("PAID"), c.type)).is_(None),
    "coalesce": lambda c, v: func.coalesce(c, None) == v("PAID"),
    "coalesce <": lambda c, v: func.coalesce(c, None) < v("PAID"),
    "subquery": lambda c, v: c == select(func.max(c)).scalar_subquery(),
    "in_ subquery": lambda c, v: c.in_(select(c).where(c != v("PAID"))),
    "like": lambda c, v: c.like("%e%"),
    "not like": lambda c, v: c.not_like("%e%"),
    "like a parameter": lambda c, v: c.like(bindparam("pattern", "%e%")),
    "ilike": lambda c, v: c.ilike("PAI%"),
    "startswith": lambda c, v: c.istartswith("p"),
    "contains": lambda c, v: c.icontains("ai"),
    "endswith": lambda c, v: c.iendswith("w"),
    "is_distinct_from undeclared": lambda c, v: c.is_distinct_from("bogus"),
    "is_not_distinct_from undeclared": lambda c, v: c.is_not_distinct_from("bogus"),
    "> undeclared": lambda c, v: c > "b",
    "between undeclared": lambda c, v: c.between("a", "zz"),
}
IGNORES_CASE = {"like", "not like", "like a parameter"}


def plain(value):
    return getattr(value, "name", value).lower()


def found(session, column, condition, of, name) -> Any:
    make = (lambda name: of[name].value) if name == "text" else (lambda name: of[name])
    try:
        return list(session.scalars(select(Order.id).where(condition(column, make)).order_by(Order.id)))
    except (SQLAlchemyError, TypeError) as error:
        return type(error)


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("name", CONDITIONS)
def test_an_operator_means_what_it_means_on_an_enum(session, kind, name):
    column, reference, of = COLUMNS[kind]

    wanted = found(session, reference, CONDITIONS[name], of, kind)

    assert isinstance(wanted, (list, type))
    assert wanted == found(session, column, CONDITIONS[name], of, kind)


# What returns one of the states.
STATES: dict[str, Any] = {
    "column": lambda c, v: c,
    "case": lambda c, v: case((Order.id < 5, c)),
    "case else": lambda c, v: case((Order.id > 5, c), else_=c),
    "case else None": lambda c, v: case((Order.id < 5, c), else_=None),
    "case by value": lambda c, v: case({2: c}, value=Order.id, else_=c),
    "coalesce": lambda c, v: func.coalesce(c, None),
    "coalesce first": lambda c, v: func.coalesce(None, c),
    "nullif": lambda c, v: func.nullif(c, v("PAID")),
    "ifnull": lambda c, v: func.ifnull(c, v("PAID")),
    "max": lambda c, v: func.max(c),
    "min": lambda c, v: func.min(c),
    "subquery": lambda c, v: select(c).where(Order.id == 2).correlate(None).scalar_subquery(),
    "after": lambda c, v: c.after("Pay"),
    "lag": lambda c, v: func.lag(c).over(order_by=Order.id),
    "first_value": lambda c, v: func.first_value(c).over(order_by=Order.id),
    "max over": lambda c, v: func.max(c).over(),
}
ON_SERVERS = {"greatest": lambda c, v: func.greatest(c, v("PAID")), "if": lambda c, v: func.if_(Order.id < 5, c, c)}


def returned(session, column, expression, of, kind) -> set[Any]:
    make = (lambda name: of[name].value) if kind == "text" else (lambda name: of[name])
    return set(session.scalars(select(expression(column, make)).select_from(Order)))


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("name", [*STATES, *ON_SERVERS])
def test_what_returns_a_state_returns_it_as_the_column_does(session, kind, name):
    if name in ON_SERVERS and session.get_bind().dialect.name == "sqlite":
        pytest.skip("SQLite has no such function")
    column, _, of = COLUMNS[kind]

    states = returned(session, column, {**STATES, **ON_SERVERS}[name], of, kind) - {None}

    wanted = str if kind == "text" else of
    assert states
    assert {type(state) for state in states} == {wanted}


@pytest.mark.parametrize("kind", COLUMNS)
def test_nullif_compares_states(session, kind):
    column, _, of = COLUMNS[kind]

    states = returned(session, column, STATES["nullif"], of, kind)

    assert states == {None, *([s.value for s in (of.NEW, of.SENT)] if kind == "text" else (of.NEW, of.SENT))}


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("make", [lambda c: c + "x", lambda c: c.concat("x"), lambda c: "x" + c])
def test_concatenation_is_text(session, kind, make):
    texts = session.scalars(select(make(COLUMNS[kind][0])))

    assert all(type(text) is str and "x" in text for text in texts)


def test_functions_of_other_types_stay_as_they_were(session):
    assert func.nullif(Order.id, 1).type._isnull
    assert session.scalars(select(func.nullif(Order.id, 2)).order_by(Order.id)).all() == [1, None, 3]
    assert func.nullif(Order.s, S.NEW, type_=Order.id.type).type is Order.id.type


def test_an_update_and_a_delete_touch_the_rows_that_they_mean(session):
    touched = session.execute(
        update(Order).where(Order.s.is_distinct_from(S.PAID)).values(id=Order.id + 100),
        execution_options={"synchronize_session": False},
    )
    assert touched.rowcount == 2
    gone = session.execute(
        delete(Order).where(Order.s.is_not_distinct_from(S.PAID)),
        execution_options={"synchronize_session": False},
    )
    assert gone.rowcount == 1


def test_an_alias_is_the_state_in_every_equality(session):
    session.add_all([Renamed(id=1), Renamed(id=2, state="paid"), Renamed(id=3, state="paid")])
    session.flush()
    session.execute(
        update(Renamed.__table__)
        .where(Renamed.__table__.c.id == 3)
        .values(state=type_coerce(literal("settled"), Order.text_enum.type))
    )
    ids, state = select(Renamed.id).order_by(Renamed.id), Renamed.state

    for paid in (
        *(state == "paid", state.in_(["paid"]), state.in_(["paid", None]), state.is_not_distinct_from("paid")),
        *(~state.is_distinct_from("paid"), state.is_distinct_from("new"), state != "new"),
    ):
        assert session.scalars(ids.where(paid)).all() == [2, 3]
