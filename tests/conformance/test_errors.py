"""What is refused, and how that is said: nothing was sent where nothing could have been meant."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from sqlalchemy import Connection, String, delete, insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    FSMError,
    GuardNotSatisfied,
    Machine,
    NotWritable,
    RowNotFound,
    StateMachineColumn,
    Transition,
    TransitionNotAllowed,
    UnknownEvent,
    UnknownState,
    fire_key,
    try_fire_key,
)
from tests.conformance.support import stored
from tests.reference import Base, Order, machine

VALUE = "xyzzy"

guarded = Machine(
    initial="Held",
    events=[
        Event(
            "Release",
            [
                Transition("Held", "Free", guard=lambda vault, word: vault.word == word),
            ],
        )
    ],
)


class Vault(Base):
    """A guard with a payload that no message may tell."""

    __tablename__ = "vaults"

    id: Mapped[int] = mapped_column(primary_key=True)
    word: Mapped[str] = mapped_column(String(20), default="open")
    state: Mapped[str] = StateMachineColumn(guarded)


class Evil(str):
    """A string that equals everything, or fails on every question."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash("Stop")


class Failing(str):
    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("eq")

    def __hash__(self) -> int:
        raise RuntimeError("hash")

    def __repr__(self) -> str:
        raise RuntimeError("repr")


STRANGE: dict[str, Any] = {
    "quotes": "Stop' OR '1'='1",
    "double quotes": 'Stop"; DROP TABLE orders; --',
    "percent": "%s%(x)s%%",
    "NUL": "Stop\0",
    "other case": "stop",
    "padded": "Stop ",
    "empty": "",
    "64 kB": "x" * 65_536,
    "64 kB of Stop": "Stop" * 16_384,
    "emoji": "🛑",
    "surrogate": "\ud800",
    "bytes": b"Stop",
    "None": None,
    "int": 4,
    "bool": True,
    "list": ["Stop"],
    "dict": {"Stop": 1},
    "object": object(),
    "equals everything": Evil("Halt"),
    "fails on everything": Failing("Halt"),
}
ASKS = {
    "fire": lambda session, order, event: order.fire(event, session),
    "try_fire": lambda session, order, event: order.try_fire(event),
    "fire_key": lambda session, order, event: fire_key(Order, 1, event, session),
    "try_fire_key": lambda session, order, event: try_fire_key(Order, 1, event, session),
    "can_fire": lambda session, order, event: order.can_fire(event),
    "column.can": lambda session, order, event: Order.state.can(event),
    "column.after": lambda session, order, event: Order.state.after(event),
}


@pytest.fixture
def order(session: Session) -> Order:
    order = Order(id=1, state="Running")
    session.add(order)
    session.flush()
    session.refresh(order)
    return order


@pytest.mark.parametrize("event", list(STRANGE.values()), ids=list(STRANGE))
def test_an_unknown_event_is_refused_before_any_sql_however_asked(session, sent, order, event):
    refusals = []

    with sent() as statements:
        for ask in ASKS.values():
            with pytest.raises(UnknownEvent) as unknown:
                ask(session, order, event)
            refusals.append(unknown.value)

    assert statements.number == 0
    assert all(refused.event is event for refused in refusals)
    assert [["NotReady", "Ready", "Stop", "Delete"]] * len(ASKS) == [list(refused.known) for refused in refusals]
    assert max(len(str(refused)) for refused in refusals) < 200


class Spelled(str):
    """A string that may be taken for what it spells."""

    __slots__ = ()


@pytest.mark.parametrize("ask", list(ASKS)[:4])
def test_a_subclass_of_str_fires_the_event_it_spells_and_is_told_as_a_plain_string(session, order, ask):
    moved = ASKS[ask](session, order, Spelled("Stop"))

    assert ("Stop", str) == (moved.event, type(moved.event))


# --- the four parts of a message: which row, what was asked, what is true, what would have worked


@pytest.mark.parametrize("way", ["fire", "fire_key"])
def test_a_refusal_says_row_event_state_and_sources(session, order, way):
    with pytest.raises(TransitionNotAllowed) as refused:
        ASKS[way](session, order, "Delete")

    expected = "orders 1 refused 'Delete': it is 'Running'; 'Delete' leaves 'Stopped', 'Deleted'."
    assert str(refused.value) == expected
    assert (Order, 1, "Delete", "Running", ["Stopped", "Deleted"]) == (
        refused.value.model, refused.value.key, refused.value.event, refused.value.state, refused.value.allowed_from,
    )  # fmt: skip
    assert refused.value.__cause__ is None


def test_a_missing_row_says_row_and_event(session):
    with pytest.raises(RowNotFound) as missing:
        fire_key(Order, 404, "Stop", session)

    assert (
        str(missing.value)
        == "orders 404: there is no row with this key, so 'Stop' was not fired; create the row first."
    )


@pytest.mark.parametrize("way", ["fire", "fire_key"])
def test_a_guards_refusal_says_row_event_and_state_and_not_the_payload(session, way):
    vault = Vault(id=1)
    session.add(vault)
    session.flush()
    ask = {
        "fire": lambda: vault.fire("Release", word=VALUE),
        "fire_key": lambda: fire_key(Vault, 1, "Release", session, word=VALUE),
    }

    with pytest.raises(GuardNotSatisfied) as refused:
        ask[way]()

    expected = (
        "vaults 1 refused 'Release': it is 'Held', which 'Release' leaves, "
        "but no guard of 'Release' is true of this row."
    )
    assert expected == str(refused.value)
    assert (refused.value.state, refused.value.allowed_from) == ("Held", ["Held"])


def test_an_unknown_state_says_row_event_state_and_what_is_declared(session):
    session.execute(insert(Stranger).values(id=1, state="Deleted"))

    with pytest.raises(UnknownState) as unknown:
        fire_key(Strange, 1, "Release", session, word=VALUE)

    expected = (
        "strangers 1 refused 'Release': it is 'Deleted', which the machine does not declare; "
        "it declares 'Held', 'Free'. If a newer release declares it, deploy that release; "
        "if none does, force_state() repairs the row."
    )
    assert (expected, "Deleted") == (str(unknown.value), unknown.value.state)


class Stranger(Base):
    """A row whose state another machine has written."""

    __tablename__ = "strangers"

    id: Mapped[int] = mapped_column(primary_key=True)
    word: Mapped[str] = mapped_column(String(20), default="open")
    state: Mapped[str] = StateMachineColumn(machine)


class Others(DeclarativeBase):
    """Another application's view of the same tables."""


class Strange(Others):
    __tablename__ = "strangers"

    id: Mapped[int] = mapped_column(primary_key=True)
    word: Mapped[str] = mapped_column(String(20), default="open")
    state: Mapped[str] = StateMachineColumn(guarded)


# --- errors of the server


def test_a_servers_error_is_the_cause_and_the_message_has_neither_sql_nor_values(backend_engine, tables):
    with Session(backend_engine) as setting:
        setting.add(Vault(id=1, word=VALUE))
        setting.commit()
    try:
        with backend_engine.connect() as connection:
            refuse_writes(connection)
            with Session(connection) as session, pytest.raises(NotWritable) as refused:
                fire_key(Vault, 1, "Release", session, word=VALUE)
            connection.invalidate()  # nobody else shall have it
    finally:
        with Session(backend_engine) as setting:
            setting.execute(delete(Vault))
            setting.commit()

    assert isinstance(refused.value.__cause__, DBAPIError)
    assert (Vault, 1, "Release") == (refused.value.model, refused.value.key, refused.value.event)
    assert str(refused.value).startswith("vaults 1: the server takes no writes while 'Release' was fired")
    assert not [
        word for word in ("UPDATE", "SELECT", "LAST_INSERT_ID", VALUE, "word", "[SQL") if word in str(refused.value)
    ]


def refuse_writes(connection: Connection) -> None:
    """Make *connection* one that can only read, from its next transaction on."""
    is_sqlite = connection.dialect.name == "sqlite"
    connection.exec_driver_sql("PRAGMA query_only = ON" if is_sqlite else "SET SESSION TRANSACTION READ ONLY")
    connection.commit()


@pytest.mark.parametrize(
    "ask",
    [
        lambda session, order: order.fire("Delete"),
        lambda session, order: order.fire("Nothing"),
        lambda session, order: fire_key(Order, 404, "Stop", session),
        lambda session, order: setattr(order, "state", "Stopped"),
    ],
)
def test_an_error_survives_the_way_to_another_process(session, order, ask):
    with pytest.raises(FSMError) as raised:
        ask(session, order)

    copied = pickle.loads(pickle.dumps(raised.value))  # noqa: S301

    assert (type(raised.value), str(raised.value), vars(raised.value)) == (type(copied), str(copied), vars(copied))


def test_outcomes_survive_the_way_to_another_process(session, order):
    outcomes = [fire_key(Order, 1, "Stop", session), try_fire_key(Order, 1, "Ready", session)]

    assert outcomes == pickle.loads(pickle.dumps(outcomes))  # noqa: S301


# --- the payload


@pytest.mark.parametrize("payload", [{}, {"other": 1}, {"word": "x", "other": 1}, {"Word": "x"}])
def test_a_payload_that_does_not_fit_is_refused_before_any_sql(session, sent, payload):
    vault = Vault(id=1)
    session.add(vault)
    session.flush()
    session.refresh(vault)

    with sent() as statements:
        for fire in (vault.fire, vault.try_fire):
            with pytest.raises(TypeError, match="its payload is 'word'"):
                fire("Release", **payload)
        for fire in (fire_key, try_fire_key):
            with pytest.raises(TypeError, match="its payload is 'word'"):
                fire(Vault, 1, "Release", session, **payload)

    assert (statements.number, stored(session, Vault)[1,]["state"]) == (0, "Held")


def test_an_event_without_payload_takes_none(session, sent, order):
    with sent() as statements, pytest.raises(TypeError, match="it takes no payload"):
        order.fire("Stop", amount=1)

    assert statements.number == 0
