"""Every call that the tables of docs/moving/ name exists: ours here, and the other libraries' in ``./dev peers``."""

from __future__ import annotations

import datetime as dt
import importlib
from typing import Any

import pytest
import sqlalchemy
import sqlalchemy.orm
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import sqlalchemy_fsm_mysql as ours
from tests.docs.pages import PEERS, is_installed
from tests.docs.tables import MOVING, World, pieces

machine = ours.Machine(
    initial="new",
    events=[ours.Event("pay", {("new", "draft"): "paid"}), ours.Event("publish", {"new": "draft"})],
)


class Base(DeclarativeBase):
    pass


class Order(ours.Stateful, Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    paid_at: Mapped[dt.datetime | None]
    state: Mapped[str] = ours.StateMachineColumn(machine)


class OrderOfAPlainColumn(ours.Stateful, Base):
    __tablename__ = "plain_orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    paid_at: Mapped[dt.datetime | None]
    status: Mapped[str] = ours.StateMachineColumn(machine)


SQLALCHEMY = {
    **{name: getattr(sqlalchemy, name) for name in ("Column", "String", "func", "update")},
    "Mapped": Mapped,
    "mapped_column": mapped_column,
    "session": Session(),
    "now": dt.datetime.now,
}


def here(model: type[Any] = Order) -> World:
    """What somebody has who has imported all that is public, and made a model."""
    instance = model(id=1)
    return World(
        {
            **{name: getattr(ours, name) for name in ours.__all__},
            **SQLALCHEMY,
            **dict.fromkeys(("Order", "Post"), model),
            **dict.fromkeys(("order", "post"), instance),
            "machine": machine,
            "f": lambda post: post.id > 1,
        },
        owners=(instance,),
        callables=(ours.Machine, ours.Event, ours.Transition, ours.fire_key),
    )


@pytest.mark.parametrize("page", MOVING.values(), ids=MOVING)
def test_moving_tables_name_what_is_here(page):
    world = here(OrderOfAPlainColumn if page == MOVING["a-column"] else Order)
    own = [piece for piece in pieces(page) if piece.is_ours]
    wrong = {str(piece): lost for piece in own if (lost := world.missing(piece.text))}

    assert len(own) > 5
    assert wrong == {}


def check(name: str, world: World) -> None:
    """All of the other library's code in a table; of another version's only what it has too."""
    theirs = [piece for piece in pieces(MOVING[name]) if not piece.is_ours]
    mine = [piece for piece in theirs if not piece.version or is_installed(name, piece.version.split(".")[0])]
    wrong = {str(piece): lost for piece in mine if (lost := world.missing(piece.text))}

    assert len(mine) > 5
    assert wrong == {}


def needs(*wanted: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not is_installed(*wanted), reason=f"{' '.join(wanted)} is for ./dev peers")


def public(*modules: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for module in map(importlib.import_module, modules):
        found |= {name: value for name, value in vars(module).items() if not name.startswith("_")}
    return found


def test_moving_tables_of_a_plain_column():
    class OldBase(DeclarativeBase):
        pass

    class OldOrder(OldBase):
        __tablename__ = "old_orders"
        id: Mapped[int] = mapped_column(primary_key=True)
        status: Mapped[str] = mapped_column(sqlalchemy.String(20), default="new")
        paid_at: Mapped[dt.datetime | None]

    names = {**SQLALCHEMY, "Order": OldOrder, "order": OldOrder()}
    world = World(names, owners=(OldOrder, sqlalchemy.CursorResult))
    theirs = [piece for piece in pieces(MOVING["a-column"]) if not piece.is_ours]

    assert {str(piece): lost for piece in theirs if (lost := world.missing(piece.text))} == {}


@needs("transitions")
def test_moving_tables_of_transitions():
    from transitions import Machine, MachineError
    from transitions.extensions import GraphMachine, HierarchicalMachine
    from transitions.extensions.states import Timeout

    class PyOrder:
        pass

    order = PyOrder()
    machine = Machine(order, states=["new", "paid"], initial="new", transitions=[["pay", "new", "paid"]])
    named = (Machine, MachineError, GraphMachine, HierarchicalMachine, Timeout)
    names = {each.__name__: each for each in named}
    samples = {"order": order, "model": order, "machine": machine}
    check("transitions", World({**names, **samples}, (machine,), (Machine, machine.add_transition)))


@needs("python-statemachine")
def test_moving_tables_of_python_statemachine():
    from statemachine import State, StateMachine
    from statemachine.transition import Transition

    class OrderMachine(StateMachine):
        new = State(initial=True)
        paid = State()
        cancelled = State(final=True)
        pay = new.to(paid)
        cancel = new.to(cancelled) | paid.to(cancelled)

        def on_enter_paid(self) -> None:
            """Called: tests/docs/test_peers.py."""

        def after_pay(self) -> None:
            """Called, too."""

    names = public("statemachine", "statemachine.exceptions", "statemachine.mixins")
    states = {name: getattr(OrderMachine, name) for name in ("new", "paid", "cancelled")}
    samples = {"OrderMachine": OrderMachine, "machine": OrderMachine(), "order": object()}
    check("python-statemachine", World({**names, **states, **samples}, (OrderMachine,), (Transition, State)))


@needs("sqlalchemy-fsm")
def test_moving_tables_of_sqlalchemy_fsm():
    import sqlalchemy_fsm

    is_3 = is_installed("sqlalchemy-fsm", "3")

    class OldBase(DeclarativeBase):
        pass

    class OldPost(OldBase):
        __tablename__ = "old_posts"
        id = sqlalchemy.Column(sqlalchemy.Integer, primary_key=True)
        state = sqlalchemy.Column(sqlalchemy_fsm.FSMField, nullable=False, default="draft")

        @sqlalchemy_fsm.transition(source="draft", target="published")
        def publish(self):
            pass

        if is_3:

            @sqlalchemy_fsm.async_transition(source="published", target="archived")
            async def archive(self):
                pass

    post = OldPost(state="draft")
    names = public("sqlalchemy_fsm", "sqlalchemy_fsm.exc")
    if is_3:
        for module in ("graph", "alembic"):
            importlib.import_module(f"sqlalchemy_fsm.extras.{module}")
        names["extras"] = importlib.import_module("sqlalchemy_fsm.extras")
    samples = {"Post": OldPost, "post": post, "f": len, **SQLALCHEMY}
    events = sqlalchemy.orm.attributes.manager_of_class(OldPost).dispatch
    owners = (post, post.publish, events, *([post.archive] if is_3 else []))
    check("sqlalchemy-fsm", World({**names, **samples}, owners, (sqlalchemy_fsm.transition,)))


@needs("django-fsm-2")
def test_moving_tables_of_django_fsm_2():
    import django
    from django.conf import settings

    if not settings.configured:  # the page's own example does it as well
        settings.configure(
            DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
            INSTALLED_APPS=["django_fsm"],
            DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        )
        django.setup()
    from django.db import models
    from django_fsm import FSMField, FSMModelMixin, transition

    class TablePost(FSMModelMixin, models.Model):
        state = FSMField(default="draft", protected=True)

        class Meta:
            app_label = "moving_tables"

        @transition(field=state, source="draft", target="published")
        def publish(self, **kwargs):
            pass

    post = TablePost()
    names = public("django_fsm", "django_fsm.signals", "django_fsm.admin", "django_fsm.management.commands")
    importlib.import_module("django_fsm.management.commands.graph_transitions")
    names |= public("django_fsm.management.commands")
    samples = {"post": post, "f": len}
    check("django-fsm-2", World({**names, **samples}, (post, models.QuerySet), (transition, FSMField)))


def test_moving_tables_are_of_all_libraries():
    named = {peer for peer in PEERS if " " not in peer}

    assert set(MOVING) == {*named, "a-column"}
