"""The models that are fired on: names that need quoting, text keys, both storages, guards, effects and a history."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, LargeBinary, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_fsm_mysql import Event, Machine, StateMachineColumn, Transition, TransitionHistory

STATES = ("off", "on", "it's", 'a"b', "back\\slash", "100%", "%s", ":x", "; --")
ODD = "Say 'x' %s :x \\"


def machine(states: tuple[str, ...] = STATES) -> Machine:
    return Machine(
        initial="off",
        states=states,
        events=[
            Event("Go", {"off": "on", "on": "off"}),
            Event(
                "Write",
                {("off", "on"): "on"},
                effect=lambda row, note, amount, blob, tree: {
                    "note": note,
                    "amount": amount,
                    "blob": blob,
                    "tree": tree,
                },
            ),
            Event("Pay", [Transition("off", "on", guard=lambda row, amount: row.amount == amount)]),
            Event(ODD, dict(zip(states[1:], states[2:], strict=False))),
            Event("Stop", {("on", "; --"): "off"}),
        ],
    )


def models(collation: str, *, is_check_quoted: bool) -> list[tuple[Any, Any]]:
    """Models whose text is compared by *collation*, each with a key of a row of it.

    *is_check_quoted*: whether the CHECK of a VARCHAR may have quotes and backslashes. MySQL 9.7 keeps its text with
    backslashes before the quotes, and under NO_BACKSLASH_ESCAPES cannot open the table again.
    """
    checked = STATES if is_check_quoted else tuple(state for state in STATES if not {"'", "\\"} & set(state))

    class Base(DeclarativeBase):
        pass

    class Payload:
        note: Mapped[str | None] = mapped_column(String(20, collation=collation))
        amount: Mapped[int] = mapped_column(default=0)
        blob: Mapped[bytes | None] = mapped_column(LargeBinary)
        tree: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))

    class Plain(Payload, Base):
        __tablename__ = "fuzz_plain"
        id: Mapped[int] = mapped_column(primary_key=True)
        state: Mapped[str] = StateMachineColumn(machine())

    class Plain_(TransitionHistory, Base):  # noqa: N801 - the history of Plain
        __tablename__ = "fuzz_plain_history"
        __records__ = "Plain.state"

    class Texty(Payload, Base):
        __tablename__ = "fuzz ' \" %s :x \\ `"
        id: Mapped[str] = mapped_column("key %s '", String(40, collation=collation), primary_key=True)
        state: Mapped[str] = StateMachineColumn(machine(checked), name="state ` %s :x", storage="varchar")

    class Texty_(TransitionHistory, Base):  # noqa: N801 - the history of Texty
        __tablename__ = "fuzz ' history %s"
        __records__ = "Texty.state"

    class Bare(Payload, Base):
        """Without a history, so sets of rows are moved by one UPDATE."""

        __tablename__ = "fuzz_bare"
        id: Mapped[int] = mapped_column(primary_key=True)
        state: Mapped[str] = StateMachineColumn(machine())

    return [(Plain, 1), (Texty, "it's %s"), (Bare, 1)]
