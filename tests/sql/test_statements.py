"""The text of what is sent, compiled without a server."""

from __future__ import annotations

import pytest
from sqlalchemy import ForeignKey, String, func, select
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_fsm_mysql import Event, Machine, StateMachineColumn, Transition
from sqlalchemy_fsm_mysql.databases import LOCKING, SUPPORTED
from sqlalchemy_fsm_mysql.orm.mapped import mapped_state
from tests.reference import Order as Reference

DATABASES = {**SUPPORTED, "locking": LOCKING}
DIALECTS = {
    "mysql": mysql.dialect(),
    "mariadb": mysql.dialect(is_mariadb=True),
    "locking": mysql.dialect(),
    "sqlite": sqlite.dialect(),
}


class Base(DeclarativeBase):
    pass


machine = Machine(initial="new", states=["new", "it's 50% \\", "gone"], events=[
    Event("Go", {"new": "it's 50% \\"}),
    Event("Leave", {("new", "it's 50% \\"): "gone"}),
    Event("Pay", [
        Transition("new", "gone", guard=lambda o, amount: o.rest <= amount, effect=lambda o: {"rest": 0}),
        Transition("new", "new", effect=lambda o, amount: {"rest": o.rest - amount}),
    ]),
    Event("Ask", [Transition("new", "gone", guard=lambda o, amount: o.rest <= amount)]),
    Event("Shift", {"new": "new"}, effect=lambda o: {"rest": o.extra, "extra": o.more, "more": 1}),
])  # fmt: skip


class Order(Base):
    __tablename__ = "order"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine, name="group")
    rest: Mapped[int]
    extra: Mapped[int]
    more: Mapped[int]


class Stamped(Base):
    __tablename__ = "stamped"

    tenant: Mapped[str] = mapped_column(String(9), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)
    rest: Mapped[int]
    extra: Mapped[int]
    more: Mapped[int]
    changed_at: Mapped[str] = mapped_column(onupdate=func.now())
    version: Mapped[int] = mapped_column()

    __mapper_args__ = {"version_id_col": version}


class Animal(Base):
    __tablename__ = "animals"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(9))
    state: Mapped[str] = StateMachineColumn(Reference.state.type.machine)

    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}


class Dog(Animal):
    __tablename__ = "dogs"

    id: Mapped[int] = mapped_column(ForeignKey("animals.id"), primary_key=True)

    __mapper_args__ = {"polymorphic_identity": "dog"}


def statements(model, event, backend):
    """What a fire sends on *backend*, each in one line."""
    built = mapped_state(model, event).event(event)
    return [
        " ".join(str(statement.compile(dialect=DIALECTS[backend])).split())
        for statement in DATABASES[backend].rows.statements(built)
    ]


def sent(model, event, backend="mysql"):
    (statement,) = statements(model, event, backend)
    return statement


def after_set(statement):
    """The assignments of an UPDATE, by column, in their order."""
    return statement.split(" SET ")[1].rsplit(" WHERE ", 1)[0]


OFFSET = 2**63


@pytest.mark.parametrize("backend", ["mysql", "mariadb"])
def test_a_fire_is_one_update_that_remembers_what_it_saw(backend):
    assert (
        "UPDATE orders SET state=CASE orders.state WHEN 'Stopped' THEN 'Deleted' WHEN 'Deleted' THEN 'Deleted'"
        " ELSE orders.state END WHERE orders.id = %s AND last_insert_id(CASE orders.state WHEN 'Initializing' THEN 4"
        " WHEN 'Running' THEN 8 WHEN 'Error' THEN 12"
        f" WHEN 'Stopped' THEN {2**62} WHEN 'Deleted' THEN {2**62 + 2} ELSE 2 END"
        f" + {OFFSET}) >= {OFFSET + 2**62}"
    ) == sent(Reference, "Delete", backend)


def test_the_key_is_the_only_parameter_of_a_plain_event():
    built = mapped_state(Reference, "Stop").event("Stop")
    (statement,) = DATABASES["mysql"].rows.statements(built)

    assert statement.compile(dialect=DIALECTS["mysql"]).params == {"fsm_key_0": None}


def test_the_locking_read_and_the_update_by_key():
    read, *takes = statements(Reference, "Delete", "locking")

    assert read.startswith("SELECT CASE orders.state WHEN 'Initializing' THEN 4")
    assert read.endswith("WHERE orders.id = %s FOR UPDATE")
    assert takes == ["UPDATE orders SET state='Deleted' WHERE orders.id = %s"] * 2


def test_sqlite_has_no_for_update():
    assert not [statement for statement in statements(Reference, "Delete", "sqlite") if "FOR UPDATE" in statement]


def test_reserved_names_are_quoted():
    assert sent(Order, "Go").startswith("UPDATE `order` SET `group`=CASE `order`.`group` WHEN 'new' THEN %s ELSE")


def test_a_name_that_needs_quoting_is_bound():
    (statement,) = DATABASES["mysql"].rows.statements(mapped_state(Order, "Leave").event("Leave"))

    assert "it's" not in str(statement.compile(dialect=DIALECTS["mysql"]))
    assert "it's 50% \\" in statement.compile(dialect=DIALECTS["mysql"]).params.values()


def test_the_state_is_assigned_last_and_each_column_after_what_reads_it():
    assignments = after_set(sent(Order, "Shift"))
    columns = [part.split("=")[0].strip() for part in assignments.split(", ")]

    assert columns == ["rest", "extra", "more", "`group`"]
    assert assignments.startswith("rest=`order`.extra, extra=`order`.more, more=%s, ")


def test_guarded_assignments_go_by_the_code_and_not_by_the_guard_again():
    assignments = after_set(sent(Order, "Pay"))

    assert "last_insert_id() >> 1" in assignments
    assert "<=" not in assignments


def test_only_the_key_stands_beside_the_code_in_where():
    where = sent(Order, "Pay").split(" WHERE ")[-1]

    assert where.startswith("`order`.id = %s AND last_insert_id(CASE `order`.`group` WHEN 'new' THEN CASE WHEN")


def test_the_version_and_onupdate_are_part_of_the_update():
    assignments = after_set(sent(Stamped, "Leave"))

    assert "changed_at=now()" in assignments
    assert "version=(stamped.version + " in assignments
    assert assignments.index("state=CASE") > assignments.index("version=")


def test_a_composite_key_is_compared_part_by_part():
    assert " WHERE stamped.tenant = %s AND stamped.number = %s AND last_insert_id(" in sent(Stamped, "Leave")


def test_a_joined_child_names_the_table_that_owns_the_state():
    statement = sent(Dog, "Stop")

    assert statement.startswith("UPDATE animals SET state=")
    assert (
        " WHERE animals.id = %s AND last_insert_id(CASE WHEN (animals.kind IN (__[POSTCOMPILE_kind_1]))"
        " THEN CASE animals.state" in statement
    )
    assert "dogs" not in statement


def test_a_refused_event_writes_the_column_itself():
    assert "ELSE orders.state END" in str(select(Reference.state.after("Stop")))


def test_can_is_an_in_and_after_a_case():
    assert str(Reference.state.can("Delete")) == "orders.state IN (:param_1, :param_2)"
    assert str(Reference.state.after("Delete")).startswith("CASE orders.state WHEN :param_1 THEN :param_2")


def test_a_guards_payload_keeps_its_name_in_an_expression():
    assert "`order`.rest <= :amount" in str(Order.state.can("Ask")).replace('"', "`")
    assert "amount" not in Order.state.can("Ask", amount=3).compile().params


@pytest.mark.parametrize("backend", DATABASES)
def test_a_statement_is_built_once(backend):
    built = mapped_state(Order, "Pay").event("Pay")

    assert all(
        a is b
        for a, b in zip(
            DATABASES[backend].rows.statements(built), DATABASES[backend].rows.statements(built), strict=True
        )
    )
    assert built is mapped_state(Order, "Pay").event("Pay")
