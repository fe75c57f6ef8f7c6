"""No way round a machine: where its column cannot be, and which effects are refused."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Column, Computed, ForeignKey, Integer, MetaData, String, Table, create_engine, insert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, registry

from sqlalchemy_fsm_mysql import (
    Event,
    InvalidMachine,
    Machine,
    StateMachineColumn,
    StateType,
    TransitionHistory,
    fire_key,
    on_moved,
)


def machine(**options: Any) -> Machine:
    return Machine(initial="new", events=[Event("Pay", {"new": "paid"}), Event("Ship", {"paid": "shipped"})], **options)


def mapped(*arguments: Any, **options: Any) -> type[Any]:
    """A model whose state column has these options."""

    class Own(DeclarativeBase):
        pass

    class State(Own):
        __tablename__ = "states"
        name: Mapped[str] = mapped_column(String(20), primary_key=True)

    class Order(Own):
        __tablename__ = "orders"
        id: Mapped[int] = mapped_column(primary_key=True)
        state: Mapped[str] = StateMachineColumn(machine(), *arguments, **options)

    return Order


PROBLEMS: dict[str, tuple[dict[str, Any], tuple[Any, ...], str]] = {
    "primary key": ({"primary_key": True}, (), "primary key"),
    "onupdate": ({"onupdate": "paid"}, (), "onupdate"),
    "server_onupdate": ({"server_onupdate": "paid"}, (), "onupdate"),
    "default": ({"default": "bogus"}, (), "default 'bogus'"),
    "insert_default": ({"insert_default": "bogus"}, (), "default 'bogus'"),
    "server_default": ({"server_default": "bogus"}, (), "server_default 'bogus'"),
    "computed": ({"default": None, "server_default": None}, (Computed("'new'"),), "computed"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_an_option_that_contradicts_the_machine_is_refused(name):
    options, arguments, clue = PROBLEMS[name]

    with pytest.raises(InvalidMachine, match=clue):
        mapped(*arguments, **options)


def test_a_state_that_is_no_part_of_the_mapped_key_may_be_in_the_tables():
    class Own(DeclarativeBase):
        pass

    class Order(Own):
        __tablename__ = "orders"
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        state: Mapped[str] = StateMachineColumn(machine(), primary_key=True)
        __mapper_args__ = {"primary_key": [id]}

    engine = create_engine("sqlite://")
    Own.metadata.create_all(engine)
    with Session(engine) as session:
        order = Order(id=1)
        session.add(order)
        assert [order.fire(event).target for event in ("Pay", "Ship")] == ["paid", "shipped"]


def test_a_key_of_an_imperative_mapping_is_refused_too():
    class Order:
        pass

    table = Table("orders", MetaData(), Column("id", Integer), Column("state", StateType(machine()), primary_key=True))

    with pytest.raises(InvalidMachine, match="primary key"):
        registry().map_imperatively(Order, table)


def test_the_discriminator_is_refused():
    with pytest.raises(InvalidMachine, match="polymorphic_on"):

        class Own(DeclarativeBase):
            pass

        class Order(Own):
            __tablename__ = "orders"
            id: Mapped[int] = mapped_column(primary_key=True)
            state: Mapped[str] = StateMachineColumn(machine())
            __mapper_args__ = {"polymorphic_on": "state", "polymorphic_identity": "new"}


# --- positional arguments


def test_a_foreign_key_and_a_name_are_positional_as_in_mapped_column():
    order = mapped("status", ForeignKey("states.name"), index=True)

    column = order.__table__.c.status
    assert [key.target_fullname for key in column.foreign_keys] == ["states.name"]
    assert (column.index, column.nullable, type(column.type)) == (True, False, StateType)


@pytest.mark.parametrize("type_", [String, String(20)])
def test_a_type_is_refused(type_):
    with pytest.raises(TypeError, match="makes the column's type itself"):
        mapped(type_)
    with pytest.raises(TypeError, match="makes the column's type itself"):
        mapped(type_=type_)


class Base(DeclarativeBase):
    """The tables of this module."""


statuses = Table(
    "placed_statuses", Base.metadata, Column("name", StateType(machine(), storage="varchar"), primary_key=True)
)


class Looked(Base):
    __tablename__ = "placed_orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine(), ForeignKey("placed_statuses.name"), storage="varchar")


def test_a_lookup_table_of_states(tables, session):
    session.execute(insert(statuses), [{"name": name} for name in ("new", "paid")])
    session.add(Looked(id=1))
    session.flush()

    assert fire_key(Looked, 1, "Pay", session).target == "paid"


# --- one table, several classes


def documents(**options: Any) -> tuple[type[Any], type[Any]]:
    """Two classes of one table, the second of which uses the column of the first."""

    class Own(DeclarativeBase):
        pass

    class Doc(Own):
        __tablename__ = "docs"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str] = mapped_column(String(10))
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "doc"}

    class Invoice(Doc):
        __mapper_args__ = {"polymorphic_identity": "invoice"}
        state: Mapped[str] = StateMachineColumn(machine(), use_existing_column=True)

    class Letter(Doc):
        __mapper_args__ = {"polymorphic_identity": "letter"}
        state: Mapped[str] = StateMachineColumn(options.pop("machine", machine()), use_existing_column=True, **options)

    return Invoice, Letter


def test_a_second_machine_on_one_column_is_refused():
    with pytest.raises(InvalidMachine, match="docs.state"):
        documents(machine=Machine(initial="draft", events=[Event("Send", {"draft": "sent"})]))


@pytest.mark.parametrize("options", [{"storage": "varchar"}, {"protected": False}, {"enforced": True}])
def test_other_options_on_one_column_are_refused(options):
    with pytest.raises(InvalidMachine, match="other options"):
        documents(**options)


def test_the_same_machine_on_one_column_is_taken():
    invoice, letter = documents()

    assert invoice.__table__.c.state is letter.__table__.c.state
    assert fire_in_sqlite(letter, "Pay") == "paid"


def test_a_column_without_a_machine_is_not_taken():
    with pytest.raises(InvalidMachine, match="docs.state, which has none"):

        class Own(DeclarativeBase):
            pass

        class Doc(Own):
            __tablename__ = "docs"
            id: Mapped[int] = mapped_column(primary_key=True)
            kind: Mapped[str] = mapped_column(String(10))
            state: Mapped[str] = mapped_column(String(10))
            __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "doc"}

        class Letter(Doc):
            __mapper_args__ = {"polymorphic_identity": "letter"}
            state: Mapped[str] = StateMachineColumn(machine(), use_existing_column=True)


# --- effects on another machine


def fire_in_sqlite(model: type[Any], event: str) -> Any:
    engine = create_engine("sqlite://")
    model.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(model(id=1))
        session.flush()
        return fire_key(model, 1, event, session, column="state").target


def two_machines(of_payment: Machine, value: Any = "paid", **options: Any) -> tuple[type[Any], type[Any]]:
    """A base, and a model with two machines: an event of the one, or a border of it, sets the other's state."""

    def captured(order: Any) -> dict[str, Any]:
        return {"payment": order.payment if value is None else value}

    orders = Machine(
        initial="cart",
        events=[Event("Complete", {"cart": "complete"}, effect=captured if not options else None)],
        **({"on_enter": {"complete": captured}} if options else {}),
    )

    class Own(DeclarativeBase):
        pass

    class Order(Own):
        __tablename__ = "orders"
        id: Mapped[int] = mapped_column(primary_key=True)
        state: Mapped[str] = StateMachineColumn(orders)
        payment: Mapped[str] = StateMachineColumn(of_payment)
        note: Mapped[str | None] = mapped_column(String(20))

    return Own, Order


def recorded(base: Any, model: Any) -> None:
    type("History", (TransitionHistory, base), {"__tablename__": "history", "__records__": model.payment})


def heard(_: Any, model: Any) -> None:
    on_moved(model.payment)(lambda moved, session: None)


@pytest.mark.parametrize("options", [{}, {"border": True}])
@pytest.mark.parametrize("value", ["paid", None])
@pytest.mark.parametrize(("known_by", "clue"), [(recorded, "history"), (heard, "hooks")])
def test_an_effect_past_another_machines_history_or_hooks_is_refused(known_by, clue, value, options):
    base, model = two_machines(machine(), value, **options)
    known_by(base, model)

    with pytest.raises(InvalidMachine, match=f"'payment', the state of another machine, without its {clue}: fire an"):
        fire_in_sqlite(model, "Complete")


def test_an_effect_past_another_machines_borders_is_refused():
    _, model = two_machines(machine(on_enter={"paid": lambda order: {"note": "entered"}}))

    with pytest.raises(InvalidMachine, match="effects of on_enter and on_exit"):
        fire_in_sqlite(model, "Complete")


def test_an_effect_sets_the_state_of_a_machine_that_nobody_follows():
    _, model = two_machines(machine())

    assert fire_in_sqlite(model, "Complete") == "complete"


@pytest.mark.parametrize("known_by", [recorded, heard])
def test_a_history_or_a_hook_that_comes_after_such_an_effect_is_refused(known_by):
    base, model = two_machines(machine())
    fire_in_sqlite(model, "Complete")

    with pytest.raises(InvalidMachine, match="which an effect of another machine bypasses"):
        known_by(base, model)
