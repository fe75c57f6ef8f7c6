"""``version_id_col``: moved by the event's own UPDATE, and known to the session afterwards.

The next flush neither fails nor overwrites what somebody else wrote, whoever makes the version: SQLAlchemy's counter,
a Python function of one's own, or the database.
"""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError

from sqlalchemy_fsm_mysql import TransitionNotAllowed, fire_key
from tests.conformance.session_models import Counted, Stamped, Stepped, Triggered
from tests.conformance.session_support import create, move, statements, stored

MADE_BY_PYTHON = [Counted, Stamped, Stepped]
VERSIONED = [*MADE_BY_PYTHON, Triggered]


@pytest.mark.parametrize("model", VERSIONED)
def test_the_event_gives_the_row_another_version(mine: Session, database: Engine, model: Any) -> None:
    key = create(database, model)
    before = stored(database, model, key, "version")

    mine.get(model, key).fire("Ready", mine)
    mine.commit()

    assert before != stored(database, model, key, "version")


@pytest.mark.parametrize("model", VERSIONED)
def test_a_refusal_leaves_the_version(mine: Session, database: Engine, model: Any) -> None:
    key = create(database, model, state="Deleted")
    before = stored(database, model, key, "version")

    with pytest.raises(TransitionNotAllowed):
        mine.get(model, key).fire("Ready", mine)
    mine.commit()

    assert before == stored(database, model, key, "version")


@pytest.mark.parametrize("model", MADE_BY_PYTHON)
def test_the_new_version_is_known_without_a_select(mine: Session, database: Engine, model: Any) -> None:
    key = create(database, model)
    row = mine.get(model, key)
    row.fire("Ready", mine)

    with statements(database) as sent:
        shown = row.version
    mine.commit()

    assert sent == []
    assert shown == stored(database, model, key, "version")


@pytest.mark.parametrize("model", VERSIONED)
@pytest.mark.parametrize("how", ["instance", "key"])
def test_an_edit_after_the_event_is_flushed(mine: Session, database: Engine, model: Any, how: str) -> None:
    key = create(database, model)
    row = mine.get(model, key)
    row.fire("Ready", mine) if how == "instance" else fire_key(model, key, "Ready", mine)

    row.note = "mine"
    mine.commit()

    assert stored(database, model, key, "state", "note") == ("Running", "mine")


@pytest.mark.parametrize("model", VERSIONED)
@pytest.mark.parametrize("how", ["instance", "key"])
def test_an_edit_from_before_the_event_is_flushed(mine: Session, database: Engine, model: Any, how: str) -> None:
    """Under no_autoflush the edit is still in memory only when the event moves the version."""
    key = create(database, model)
    row = mine.get(model, key)
    row.note = "mine"
    with mine.no_autoflush:
        row.fire("Ready", mine) if how == "instance" else fire_key(model, key, "Ready", mine)

    mine.commit()

    assert stored(database, model, key, "state", "note") == ("Running", "mine")


@pytest.mark.parametrize("model", VERSIONED)
def test_events_and_flushes_take_turns(mine: Session, database: Engine, model: Any) -> None:
    key = create(database, model)
    row = mine.get(model, key)
    for number, event in enumerate(["Ready", "NotReady", "Ready", "Stop"]):
        row.note = f"mine {number}"
        row.fire(event, mine)
    row.note = "the last"
    mine.commit()

    assert stored(database, model, key, "state", "note") == ("Stopped", "the last")


@pytest.mark.parametrize("model", VERSIONED)
def test_a_stale_instance_is_read_again_and_then_edited(mine: Session, database: Engine, model: Any) -> None:
    """Somebody else moved and edited the row; the event shows all of it, and the next flush goes through."""
    key = create(database, model)
    row = mine.get(model, key)
    move(database, model, key, "Ready")
    write_edit(database, model, key, "theirs")

    moved = row.fire("NotReady", mine)
    seen = row.note
    row.note = f"{seen}, then mine"
    mine.commit()

    assert (moved.source, moved.target) == ("Running", "Error")
    assert stored(database, model, key, "state", "note") == ("Error", "theirs, then mine")


@pytest.mark.parametrize("model", VERSIONED)
@pytest.mark.parametrize("how", ["instance", "key"])
def test_edits_of_an_older_version_are_stale_at_their_flush(
    mine: Session, database: Engine, model: Any, how: str
) -> None:
    """The event moves the row as it is, and does not launder an edit that was made on an older one."""
    key = create(database, model)
    row = mine.get(model, key)
    write_edit(database, model, key, "theirs")
    row.note = "mine"
    with mine.no_autoflush:
        row.fire("Ready", mine) if how == "instance" else fire_key(model, key, "Ready", mine)

    with pytest.raises(StaleDataError):
        mine.flush()
    mine.rollback()

    assert stored(database, model, key, "state", "note") == ("Initializing", "theirs")


@pytest.mark.parametrize("model", VERSIONED)
def test_a_stale_instance_gives_no_version_that_another_session_holds(
    mine: Session, theirs: Session, database: Engine, model: Any
) -> None:
    """The next version comes from the row's, not from the older one in memory: that may be in use already."""
    key = create(database, model)
    row = mine.get(model, key)
    write_edit(database, model, key, "theirs")
    held = theirs.get(model, key)
    row.fire("Ready", mine)
    mine.commit()

    held.note = "too late"
    with pytest.raises(StaleDataError):
        theirs.flush()


@pytest.mark.parametrize("model", VERSIONED)
def test_fire_key_gives_no_version_that_another_session_holds(
    mine: Session, theirs: Session, database: Engine, model: Any
) -> None:
    key = create(database, model)
    held = theirs.get(model, key)
    fire_key(model, key, "Ready", mine)
    mine.commit()

    held.note = "too late"
    with pytest.raises(StaleDataError):
        theirs.flush()


@pytest.mark.parametrize("model", VERSIONED)
def test_a_rolled_back_event_takes_its_version_back(mine: Session, database: Engine, model: Any) -> None:
    key = create(database, model)
    row = mine.get(model, key)
    row.fire("Ready", mine)
    mine.rollback()

    row.note = "mine"
    mine.commit()

    assert stored(database, model, key, "state", "note") == ("Initializing", "mine")


@pytest.mark.parametrize("model", VERSIONED)
def test_a_rolled_back_savepoint_takes_its_version_back(mine: Session, database: Engine, model: Any) -> None:
    key = create(database, model)
    row = mine.get(model, key)
    savepoint = mine.begin_nested()
    row.fire("Ready", mine)
    savepoint.rollback()

    row.note = "mine"
    mine.commit()

    assert stored(database, model, key, "state", "note") == ("Initializing", "mine")


def write_edit(engine: Engine, model: Any, key: Any, note: str) -> None:
    """Another session edits the row, and so gives it another version."""
    with Session(engine) as session:
        session.get(model, key).note = note
        session.commit()
