"""What a caller gives besides an event: refused before any SQL where that can be known, and an error of ours where not."""

from __future__ import annotations

import decimal
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import JSON, LargeBinary, Numeric, String, TypeDecorator, cast, func, inspect
from sqlalchemy.event import listen
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import (
    Event,
    Machine,
    StateMachineColumn,
    Transition,
    TransitionHistory,
    claim,
    fire_key,
    fire_or_create,
    fire_where,
    force_state,
)
from tests.conformance.support import counting, stored


class Base(DeclarativeBase):
    pass


class Letter(Base):
    __tablename__ = "letters"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str | None] = mapped_column(String(10))
    pages: Mapped[int] = mapped_column(default=0)
    scan: Mapped[bytes | None] = mapped_column(LargeBinary)
    tags: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))
    grade: Mapped[int | None] = mapped_column("the reader's `Grade`")
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="open",
            events=[
                Event("Seal", {"open": "sealed"}),
                Event("Write", {"open": "open"}, effect=lambda letter, text: {"text": text}),
                Event("Count", {"open": "open"}, effect=lambda letter, pages: {"pages": pages}),
                Event(
                    "Round",
                    {"open": "open"},
                    effect=lambda letter, pages: {"pages": func.round(cast(pages, Numeric(3, 1)))},
                ),
                Event("Grade", {"open": "open"}, effect=lambda letter, grade: {"grade": grade}),
                Event("Scan", {"open": "open"}, effect=lambda letter, scan: {"scan": scan}),
                Event("Tag", {"open": "open"}, effect=lambda letter, tags: {"tags": tags}),
                Event("Find", [Transition("open", "sealed", guard=lambda letter, among: letter.pages.in_(among))]),
            ],
        )
    )


class LetterStep(TransitionHistory, Base):
    __tablename__ = "letter_steps"
    __records__ = "Letter.state"


class Picky(TypeDecorator[str]):
    """A type of the application's own, which refuses a value by an exception of its own."""

    impl = String(20)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        if value == "bad":
            raise LookupError("xyzzy")
        return value


class Parcel(Base):
    """Columns whose types do more than the driver's."""

    __tablename__ = "parcels"

    id: Mapped[int] = mapped_column(primary_key=True)
    ref: Mapped[uuid.UUID | None]
    kind: Mapped[str | None] = mapped_column(Picky())
    word: Mapped[str] = mapped_column(String(20), default="open")
    due: Mapped[datetime | None]
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="new",
            events=[
                Event("Send", {"new": "sent"}, effect=lambda parcel, ref: {"ref": ref}),
                Event("Sort", {"new": "sent"}, effect=lambda parcel, kind: {"kind": kind}),
                Event("Find", [Transition("new", "sent", guard=lambda parcel, ref: parcel.ref == ref)]),
                Event("Open", [Transition("new", "sent", guard=lambda parcel, word: func.trim(parcel.word) == word)]),
                Event(
                    "Expire",
                    [Transition("new", "sent", guard=lambda parcel, at: func.addtime(parcel.due, "0:00") < at)],
                ),
                Event("Go", {"new": "sent"}),
            ],
        )
    )


@pytest.fixture
def letter(session: Session) -> Letter:
    letter = Letter(id=1)
    session.add(letter)
    session.flush()
    return letter


DOORS: dict[str, Callable[..., Any]] = {
    "fire": lambda session, **said: session.get_one(Letter, 1).fire("Seal", session, **said),
    "fire_key": lambda session, **said: fire_key(Letter, 1, "Seal", session, **said),
    "fire_where": lambda session, **said: fire_where(Letter, "Seal", session, Letter.id == 1, **said),
    "claim": lambda session, **said: claim(Letter, "Seal", session, Letter.id == 1, limit=1, **said),
    "fire_or_create": lambda session, **said: fire_or_create(Letter(id=2), "Seal", session, **said),
    "force_state": lambda session, **said: force_state(session.get_one(Letter, 1), "sealed", session, **said),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("actor", "error"), [(7, TypeError), (b"ada", TypeError), (["ada"], TypeError), ("a" * 256, ValueError)]
)
def test_what_can_be_no_actor_is_refused_before_any_sql(
    session: Session, letter: Letter, door: str, actor: Any, error: type[Exception]
) -> None:
    with counting(session.connection()) as sent, pytest.raises(error):
        DOORS[door](session, actor=actor)

    assert sent.number == 0


@pytest.mark.parametrize(
    ("event", "payload", "error"),
    [
        ("Write", {"text": ["a"]}, TypeError),  # a driver would spell it out as ('a')
        ("Write", {"text": {"a": 1}}, TypeError),
        ("Write", {"text": object()}, TypeError),
        ("Count", {"pages": float("nan")}, TypeError),
        ("Count", {"pages": decimal.Decimal("NaN")}, TypeError),  # a driver would spell it as a column's name
        ("Count", {"pages": 1j}, TypeError),
        ("Scan", {"scan": 3}, TypeError),  # bytes(3) are three of them
        ("Scan", {"scan": "text"}, TypeError),
    ],
    ids=str,
)
def test_what_is_no_value_of_the_payloads_column_is_refused_before_any_sql(
    session: Session, letter: Letter, event: str, payload: dict[str, Any], error: type[Exception]
) -> None:
    with counting(session.connection()) as sent, pytest.raises(error):
        fire_key(Letter, 1, event, session, **payload)

    assert sent.number == 0


def test_a_json_column_takes_lists(session: Session, letter: Letter) -> None:
    fire_key(Letter, 1, "Tag", session, tags=["a", {"b": None}])

    assert letter.tags == ["a", {"b": None}]


def test_a_guard_may_look_among_a_list(session: Session, letter: Letter) -> None:
    """Each element is a bound value of its own."""
    assert fire_key(Letter, 1, "Find", session, among=[0, 1]).target == "sealed"


@pytest.mark.servers_only
@pytest.mark.parametrize(("event", "payload"), [("Write", {"text": "x" * 11}), ("Count", {"pages": 2**40})])
def test_a_value_that_does_not_fit_its_column_is_a_value_error_and_moves_nothing(
    session: Session, letter: Letter, event: str, payload: dict[str, Any]
) -> None:
    before = stored(session, Letter)
    (column,) = payload
    message = f"letters 1: the database cannot store a value that was given for the column '{column}'"
    with pytest.raises(ValueError, match=message):
        fire_key(Letter, 1, event, session, **payload)

    assert stored(session, Letter) == before
    fire_key(Letter, 1, "Seal", session)


@pytest.mark.servers_only
def test_the_column_of_an_ill_chosen_name_is_named_as_a_whole(session: Session, letter: Letter) -> None:
    with pytest.raises(ValueError, match='for the column "the reader\'s `Grade`"'):
        fire_key(Letter, 1, "Grade", session, grade=2**40)


@pytest.mark.servers_only
def test_an_expression_that_the_server_calls_a_column_is_not_shown(session: Session, letter: Letter) -> None:
    """Its text has the value: Out of range value for column 'cast(73451 as decimal(3,1))'."""
    with pytest.raises(ValueError, match="that was given \\(error 1264\\)") as caught:
        fire_key(Letter, 1, "Round", session, pages=73451)

    assert "73451" not in str(caught.value)
    assert "73451" in str(caught.value.__cause__)


class Release(DeclarativeBase):
    """A later release of the program, whose migration has not run."""


class BurntLetter(Release):
    __tablename__ = "letters"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(Machine(initial="open", events=[Event("Burn", {"open": "burnt"})]))


@pytest.mark.servers_only
def test_a_state_that_the_column_lacks_is_an_error_that_names_the_migration(session: Session, letter: Letter) -> None:
    with pytest.raises(ValueError, match=r"letters 1: .* column 'state'; .* run the migration that adds the state"):
        fire_key(BurntLetter, 1, "Burn", session)


UNFIT: list[tuple[str, dict[str, Any]]] = [
    ("Send", {"ref": "xyzzy"}),
    ("Send", {"ref": 5}),
    ("Find", {"ref": "xyzzy"}),
    ("Find", {"ref": 5}),
    ("Sort", {"kind": "bad"}),
]


@pytest.mark.parametrize(("event", "payload"), UNFIT)
@pytest.mark.parametrize("way", ["fire_key", "fire_where", "claim", "fire_or_create"])
def test_a_payload_that_its_type_refuses_is_a_type_error_or_a_value_error(
    session: Session, backend: str, way: str, event: str, payload: dict[str, Any]
) -> None:
    """Whether the type, the driver or the server finds out, and whatever it raises."""
    if event == "Find" and (way == "claim" or backend == "locking"):
        pytest.skip("a SELECT of MariaDB compares it all the same, finds no row, and only warns")
    ways: dict[str, Callable[[], Any]] = {
        "fire_key": lambda: fire_key(Parcel, 1, event, session, **payload),
        "fire_where": lambda: fire_where(Parcel, event, session, Parcel.id == 1, **payload),
        "claim": lambda: claim(Parcel, event, session, Parcel.id == 1, limit=1, **payload),
        "fire_or_create": lambda: fire_or_create(Parcel(id=1), event, session, **payload),
    }
    session.add(Parcel(id=1, ref=uuid.UUID(int=1)))
    session.flush()
    session.expunge_all()

    with pytest.raises((TypeError, ValueError), match="value that was given") as unfit:
        ways[way]()

    assert "xyzzy" not in str(unfit.value)
    assert fire_key(Parcel, 1, "Go", session).target == "sent"


@pytest.mark.servers_only
@pytest.mark.parametrize(("event", "payload"), [("Open", {"word": 0}), ("Expire", {"at": "xyzzy"})])
def test_a_comparison_that_the_server_refuses_is_reported_as_one(
    session: Session, backend: str, event: str, payload: dict[str, Any]
) -> None:
    """Nothing was to be stored there. The functions have no type, so the payload is not checked before."""
    if backend == "locking":
        pytest.skip("a SELECT compares it all the same, and only warns")
    session.add(Parcel(id=1, due=datetime(2026, 1, 1)))  # noqa: DTZ001 - as the column has it
    session.flush()

    with pytest.raises(
        ValueError, match="parcels 1: the database cannot (store or )?compare .*a value that was given"
    ) as unfit:
        fire_key(Parcel, 1, event, session, **payload)

    assert "xyzzy" not in str(unfit.value)
    assert fire_key(Parcel, 1, "Go", session).target == "sent"


@pytest.mark.parametrize("token", [None, "t"])
def test_a_move_whose_record_cannot_be_written_cannot_be_committed(
    session: Session, letter: Letter, token: str | None
) -> None:
    """The row has moved by then: a caller that swallows the error must not commit it without its record."""
    engine = session.get_bind()
    session.commit()

    def refuse(*given: Any) -> None:  # a listener of the application
        if given[2].startswith("INSERT"):
            raise TypeError("not this one")

    try:
        listen(session.connection(), "before_cursor_execute", refuse)
        with pytest.raises(TypeError, match="not this one"):
            fire_key(Letter, 1, "Seal", session, token=token)
        with pytest.raises(Exception, match="rolled back|closed transaction|inactive"):
            session.commit()
        session.rollback()

        assert session.get_one(Letter, 1).state == "open"
        assert stored(session, LetterStep) == {}
        fire_key(Letter, 1, "Seal", session)
    finally:
        session.rollback()
        with engine.begin() as connection:  # type: ignore[union-attr]  # an engine, as the fixture makes it
            connection.execute(inspect(Letter).local_table.delete())
