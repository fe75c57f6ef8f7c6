"""The calls that the tables of docs/moving/ name do what the tables say; only where the libraries are, as in ``./dev peers``.

What the pages' own examples call is not called again here.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.docs.pages import is_installed


def needs(*wanted: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not is_installed(*wanted), reason=f"{' '.join(wanted)} is for ./dev peers")


@needs("transitions")
def test_moving_from_transitions():
    from transitions import Machine, MachineError

    class Order:
        pass

    order, entered = Order(), []
    machine = Machine(
        order,
        states=["new", "paid", "cancelled"],
        initial="new",
        transitions=[
            ["pay", "new", "paid"],
            ["remind", "new", "="],
            {"trigger": "cancel", "source": "*", "dest": "cancelled", "after": lambda: entered.append("after")},
        ],
    )
    machine.on_enter_paid(lambda: entered.append("enter"))
    assert machine.get_triggers("new") >= ["pay"]
    assert order.may_pay()
    assert order.remind()
    assert order.is_new()
    assert order.trigger("pay")
    assert not order.may_pay()
    with pytest.raises(MachineError):
        order.pay()
    assert order.cancel()
    assert order.to_paid()  # past the transitions
    assert entered == ["enter", "after", "enter"]
    Machine(
        quiet := Order(), states=["a", "b"], initial="a", transitions=[["go", "b", "a"]], ignore_invalid_triggers=True
    )
    assert quiet.go() is False


@needs("python-statemachine")
def test_moving_from_python_statemachine():
    from statemachine import State, StateMachine

    class OrderMachine(StateMachine):
        allow_event_without_transition = True
        new = State(initial=True)
        paid = State()
        cancelled = State(final=True)
        pay = new.to(paid)
        remind = new.to.itself()
        cancel = cancelled.from_(new, paid)
        lose = cancelled.from_.any()

        def __init__(self) -> None:
            self.entered: list[str] = []
            super().__init__()

        def on_enter_paid(self) -> None:
            self.entered.append("enter")

        def after_pay(self) -> None:
            self.entered.append("after")

    machine = OrderMachine()
    machine.remind()
    machine.pay()
    assert machine.entered == ["enter", "after"]
    assert machine.paid.is_active
    assert {event.id for event in machine.allowed_events} == {"cancel", "lose"}
    machine.send("pay")  # no such transition, and no error
    assert machine.paid.is_active


@needs("sqlalchemy-fsm")
def test_moving_from_sqlalchemy_fsm():
    from sqlalchemy import Column, Integer, event
    from sqlalchemy.orm import DeclarativeBase
    from sqlalchemy_fsm import FSMField, transition

    class Base(DeclarativeBase):
        pass

    class Post(Base):
        __tablename__ = "posts"
        id = Column(Integer, primary_key=True)
        state = Column(FSMField, nullable=False, default="draft")
        how = None

        @transition(source="*", target="lost")
        def lose(self):
            pass

        @transition(target="published")
        class publish:  # noqa: N801
            @transition(source="draft")
            def from_draft(self, instance):
                instance.how = "fresh"

            @transition(source="lost")
            def from_lost(self, instance):
                instance.how = "found"

    heard = []
    new = is_installed("sqlalchemy-fsm", "3")
    event.listen(
        Post, "before_transition" if new else "before_state_change", lambda **said: heard.append("before"), named=True
    )
    event.listen(
        Post, "after_transition" if new else "after_state_change", lambda **said: heard.append("after"), named=True
    )
    post = Post(state="draft")
    assert post.publish.can_proceed()
    post.publish.set()
    post.lose.set()
    post.publish.set()
    assert (post.state, post.how) == ("published", "found")
    assert heard == ["before", "after"] * 3
    post.state = "anything"  # possible


LATE = """
from sqlalchemy import Column, Integer
from sqlalchemy.orm import DeclarativeBase

class Elsewhere(DeclarativeBase):
    pass

class User(Elsewhere):
    __tablename__ = "users"
    id = Column(Integer, primary_key=True)

from sqlalchemy_fsm import FSMField, transition

class Base(DeclarativeBase):
    pass

class Post(Base):
    __tablename__ = "posts"
    id = Column(Integer, primary_key=True)
    state = Column(FSMField, nullable=False, default="draft")

    @transition(source="draft", target="published")
    def publish(self):
        pass

Post(state="draft").publish.set()
"""


@needs("sqlalchemy-fsm")
def test_moving_needs_sqlalchemy_fsm_imported_before_a_class_is_mapped():
    done = subprocess.run([sys.executable, "-c", LATE], check=False, capture_output=True, text=True)
    name = "before_transition" if is_installed("sqlalchemy-fsm", "3") else "before_state_change"

    assert f"AttributeError: {name}" in done.stderr


@needs("sqlalchemy-fsm", "3")
def test_moving_from_sqlalchemy_fsm_3():
    from sqlalchemy import Column, Integer
    from sqlalchemy.orm import DeclarativeBase
    from sqlalchemy_fsm import FSMField, async_transition, transition, validate_fsm
    from sqlalchemy_fsm.exc import PermissionDeniedError

    class Base(DeclarativeBase):
        pass

    class Post(Base):
        __tablename__ = "posts"
        id = Column(Integer, primary_key=True)
        state = Column(FSMField["draft", "published", "archived"], nullable=False, default="draft")

        @transition(source="draft", target="published", permissions=[lambda post, user=None: user == "ada"])
        def publish(self, user=None):
            pass

        @async_transition(source="published", target="archived")
        async def archive(self):
            pass

    validate_fsm(Post)
    post = Post(state="draft")
    with pytest.raises(PermissionDeniedError):
        post.publish.set(user="bob")
    post.publish.set(user="ada")
    import asyncio

    asyncio.run(post.archive.aset())
    assert post.state == "archived"
