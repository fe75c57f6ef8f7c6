"""What is noted in a session's transactions, forgotten with them, and done once after the outermost COMMIT."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql.core.notes import notes_of
from sqlalchemy_fsm_mysql.orm.journal import journal_of, note


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "row"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(default="stored")

    def __eq__(self, other: object) -> bool:
        raise AssertionError("the journal compares instances by identity")

    __hash__ = object.__hash__


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path / 'fsm.db'}")
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with Session(engine, expire_on_commit=False) as session:
        yield session


@pytest.fixture
def row(session: Session) -> Row:
    row = Row(id=1)
    session.add(row)
    session.flush()
    return row


@pytest.fixture
def done() -> list[str]:
    return []


def begun(session: Session) -> Session:
    """The session, in a transaction."""
    session.connection()
    return session


def promise(session: Session, done: list[str], name: str) -> None:
    """Note something to be done at COMMIT."""
    connection = session.connection()
    run = partial(journal_of(session).after_commit, partial(done.append, name))
    notes_of(connection).promise(connection, run)


# --- what has to be done after COMMIT


def test_it_is_done_after_the_commit(session: Session, done: list[str]) -> None:
    promise(begun(session), done, "first")
    assert done == []
    session.commit()

    assert done == ["first"]


def test_it_is_done_once(session: Session, done: list[str]) -> None:
    promise(begun(session), done, "first")
    session.commit()
    begun(session).commit()

    assert done == ["first"]


def test_it_is_done_in_order(session: Session, done: list[str]) -> None:
    for name in ("first", "second", "third"):
        promise(begun(session), done, name)
    session.commit()

    assert done == ["first", "second", "third"]


def test_a_rollback_forgets_it(session: Session, done: list[str]) -> None:
    promise(begun(session), done, "first")
    session.rollback()
    begun(session).commit()

    assert done == []


def test_closing_the_session_forgets_it(session: Session, done: list[str]) -> None:
    promise(begun(session), done, "first")
    session.close()
    begun(session).commit()

    assert done == []


def test_a_released_savepoint_does_not_do_it_yet(session: Session, row: Row, done: list[str]) -> None:
    with session.begin_nested():
        promise(session, done, "first")
    assert done == []
    session.commit()

    assert done == ["first"]


def test_a_rolled_back_savepoint_forgets_only_its_own(session: Session, row: Row, done: list[str]) -> None:
    promise(session, done, "before")
    savepoint = session.begin_nested()
    promise(session, done, "within")
    savepoint.rollback()
    promise(session, done, "after")
    session.commit()

    assert done == ["before", "after"]


def test_a_savepoint_released_into_a_rolled_back_one_is_forgotten(session: Session, row: Row, done: list[str]) -> None:
    outer = session.begin_nested()
    with session.begin_nested():
        promise(session, done, "within")
    outer.rollback()
    session.commit()

    assert done == []


def test_a_flush_within_does_not_end_anything(session: Session, row: Row, done: list[str]) -> None:
    """A flush has a SessionTransaction of its own."""
    promise(session, done, "first")
    session.add(Row(id=2))
    session.flush()
    assert done == []
    session.commit()

    assert done == ["first"]


def test_a_commit_that_fails_forgets_it(session: Session, engine: Engine, row: Row, done: list[str]) -> None:
    def fail(connection: Connection) -> None:
        raise ConnectionError("the server has gone away")

    promise(session, done, "first")
    event.listen(engine, "commit", fail)
    with pytest.raises(ConnectionError):
        session.commit()
    event.remove(engine, "commit", fail)
    session.rollback()
    begun(session).commit()

    assert done == []


# --- what has been touched


def test_a_rolled_back_savepoint_expires_what_was_noted(session: Session, row: Row) -> None:
    savepoint = session.begin_nested()
    note(session, row)
    row.__dict__["text"] = "ahead of the database"
    savepoint.rollback()

    assert row.text == "stored"


def test_a_released_savepoint_expires_nothing(session: Session, row: Row) -> None:
    with session.begin_nested():
        note(session, row)
        row.__dict__["text"] = "as the database has it"

    assert row.text == "as the database has it"


def test_what_was_noted_outside_of_the_savepoint_is_kept(session: Session, row: Row) -> None:
    note(session, row)
    row.__dict__["text"] = "as the database has it"
    session.begin_nested().rollback()

    assert row.text == "as the database has it"


def test_what_has_left_the_session_is_let_be(session: Session, row: Row) -> None:
    savepoint = session.begin_nested()
    note(session, row)
    session.expunge(row)
    savepoint.rollback()

    assert row.__dict__["text"] == "stored"


def test_all_instances_of_a_noted_model_are_expired(session: Session, row: Row) -> None:
    savepoint = session.begin_nested()
    note(session, model=Row)
    row.__dict__["text"] = "ahead of the database"
    savepoint.rollback()

    assert row.text == "stored"


# --- the journal itself


def test_a_session_has_one_journal(session: Session) -> None:
    assert journal_of(session) is journal_of(session)


def test_the_info_of_another_session_brings_no_journal_along(session: Session, engine: Engine) -> None:
    journal = journal_of(session)
    with Session(engine, info=session.info) as other:
        assert journal is not journal_of(other)


def test_nothing_is_kept_after_the_transaction(session: Session, row: Row) -> None:
    for end in (session.commit, session.rollback):
        note(session, row, token="outside")
        with session.begin_nested():
            note(session, row, token="inside")
        end()

        assert kept_by(session) == ([], [None])


def kept_by(session: Session) -> tuple[list[str], list[object]]:
    """The tokens that the session's journal has, and the savepoints that it knows."""
    journal = journal_of(session)
    return journal.tokens, [level.savepoint for level in journal._levels]


def test_tokens_of_a_rolled_back_savepoint_are_forgotten(session: Session, row: Row) -> None:
    note(session, token="before")
    with session.begin_nested():
        note(session, token="released")
    savepoint = session.begin_nested()
    note(session, token="rolled back")
    savepoint.rollback()

    assert journal_of(session).tokens == ["before", "released"]


def test_a_released_savepoint_in_one_that_is_rolled_back_is_expired_with_it(session: Session, row: Row) -> None:
    outer = session.begin_nested()
    with session.begin_nested():
        note(session, row)
        row.__dict__["text"] = "ahead of the database"
    outer.rollback()

    assert row.text == "stored"


def test_a_long_transaction_keeps_nothing_of_its_savepoints(session: Session, row: Row) -> None:
    """The outermost rollback expires every instance by itself, so released savepoints leave tokens alone."""
    for i in range(50):
        savepoint = session.begin_nested()
        note(session, row)
        (savepoint.rollback if i % 2 else savepoint.commit)()

    assert kept_by(session) == ([], [None])
    assert journal_of(session)._levels[0].instances == {}
