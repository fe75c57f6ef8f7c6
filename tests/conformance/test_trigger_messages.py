"""The messages of our triggers, on connections whose character set is not utf8mb4."""

from __future__ import annotations

import subprocess
import sys

import pytest
from sqlalchemy import URL, Engine, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import ANY, Event, Machine, RefusedByDatabase, StateMachineColumn, force_state
from sqlalchemy_fsm_mysql.databases.messages import refusal_in
from tests.servers import make_engine

pytestmark = pytest.mark.servers_only

machine = Machine(initial="new", events=[Event("Pay", {"new": "paid"}), Event("Split", {"paid": "back\\slash~"})])


class Base(DeclarativeBase):
    pass


class Plain(Base):
    __tablename__ = "plain_messages"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine, enforced=True, initial_states=ANY)


class Auftrag(Base):
    __tablename__ = "aufträge 100%"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine, enforced=True, initial_states=ANY)


class Order(Base):
    __tablename__ = "注文\\~"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine, enforced=True, initial_states=ANY)


MODELS = (Plain, Auftrag, Order)


def can_name(charset: str, text: str) -> bool:
    """Whether a connection with this character set can send *text*."""
    try:
        text.encode({"utf8mb4": "utf8", "sjis": "shift_jis"}.get(charset, charset))
    except UnicodeEncodeError:
        return False
    return True


def every_refusal(engine: Engine, charset: str) -> None:
    """Refused updates, and a forced one, of each model; for the process of its own that the test starts."""
    for model in MODELS:
        if not can_name(charset, model.__tablename__):
            continue
        with Session(engine) as session:
            session.add(model(id=1, state="back\\slash~"))
            session.commit()
            with pytest.raises(RefusedByDatabase) as refused:
                session.execute(update(model).values(state="new"))
            assert (refused.value.source, refused.value.target) == ("back\\slash~", "new")
            assert refused.value.column == f"{model.__tablename__}.state"
            assert force_state(session.get(model, 1), "new", session).target == "new"
            session.commit()
            assert session.scalar(select(model.state)) == "new"


@pytest.mark.parametrize("charset", ["utf8mb4", "latin1", "gbk", "sjis"])
def test_refusals_are_read_on_any_character_set(url: URL, charset: str) -> None:
    """In a process of its own: mysqlclient ended it with a segmentation fault."""
    engine = make_engine(url)
    Base.metadata.create_all(engine)
    script = (
        "import sys; from sqlalchemy import create_engine; from tests.conformance.test_trigger_messages import *; "
        "every_refusal(create_engine(sys.argv[1]), sys.argv[2])"
    )
    own = url.update_query_dict({"charset": charset})
    try:
        done = subprocess.run(
            [sys.executable, "-c", script, own.render_as_string(hide_password=False), charset],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        Base.metadata.drop_all(engine)
        engine.dispose()

    assert (done.returncode, done.stderr[-2000:]) == (0, "")


@pytest.mark.parametrize(
    ("source", "target", "read"),
    [
        ("x", "übernächtigt", ("x", "übernächtigt")),
        ("已支付", "ok", ("已支付", "ok")),
        ("\x1b[2J", "a'b", ("\x1b[2J", "a'b")),
        ("部分退款中" * 4, "y", ("部分退款中" + "...", "y")),
        ("a" * 60, "y", ("a" * 26 + "...", "y")),
    ],
)
def test_messages_are_ascii_whatever_the_row_contains(
    engine: Engine, source: str, target: str, read: tuple[str, str]
) -> None:
    """A VARCHAR without a CHECK may contain any text; the message has it in Base64 and cut, the error as it is."""
    Base.metadata.create_all(engine, [Plain.__table__])
    try:
        with engine.connect() as connection:
            connection.execute(
                text("ALTER TABLE plain_messages MODIFY state VARCHAR(64) CHARACTER SET utf8mb4 NOT NULL")
            )
            names = [
                name
                for (name,) in connection.execute(
                    text("SELECT TRIGGER_NAME FROM information_schema.TRIGGERS WHERE EVENT_OBJECT_SCHEMA = DATABASE()")
                )
                if "_insert_" in name
            ]
            for name in names:
                connection.execute(text(f"DROP TRIGGER `{name}`"))
            put = text("INSERT INTO plain_messages VALUES (9, :state)")
            connection.execute(put, {"state": source})
            change = text("UPDATE plain_messages SET state = :state")
            with pytest.raises((RefusedByDatabase, DBAPIError)) as raised:
                connection.execute(change, {"state": target})
            refused = refusal_in(raised.value)
            connection.rollback()
    finally:
        Base.metadata.drop_all(engine, [Plain.__table__])

    assert refused is not None
    assert str(refused.__cause__ or raised.value.__cause__).isascii()
    for found, expected in zip((refused.source, refused.target), read, strict=True):
        assert found == expected or (expected.endswith("...") and found.startswith(expected[:3]) and "..." in found)
