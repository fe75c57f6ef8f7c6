"""The key of a fire: every form that it may come in, and those that would find another row."""

from __future__ import annotations

import sys
import uuid
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import select

import sqlalchemy_fsm_mysql
from sqlalchemy_fsm_mysql import (
    RowNotFound,
    check_database,
    count_rows,
    count_transitions,
    find_by_token,
    fire_key,
    on_moved,
    try_fire_key,
)
from tests.conformance.models import RANDOM, Base, Binary, Composite, Exact, Named, Renamed, Unique
from tests.conformance.support import stored

ROWS = [
    Renamed, Named, Composite, Unique, Binary, Exact,
]  # fmt: skip


@pytest.fixture(autouse=True)
def rows(session):
    session.add_all([
        Renamed(number=1, phase="Running"),
        Named(name="1", state="Running"),
        Named(name="1abc", state="Running"),
        Composite(tenant="1", number=1, state="Running"),
        Composite(tenant="1abc", number=1, state="Running"),
        Unique(id=RANDOM, state="Running"),
        Binary(id=b"1", state="Running"),
        Exact(id=Decimal("1.50"), state="Running"),
    ])  # fmt: skip
    session.flush()
    session.expunge_all()


def moved_rows(session):
    """The rows that are in another state than before."""
    return [
        (model, key) for model in ROWS for key, row in stored(session, model).items() if "Running" not in row.values()
    ]


@pytest.mark.parametrize(
    ("model", "key", "row"),
    [
        (Renamed, 1, (1,)),
        (Renamed, (1,), (1,)),
        (Renamed, [1], (1,)),
        (Renamed, {"number": 1}, (1,)),
        (Named, "1", ("1",)),
        (Named, "1abc", ("1abc",)),
        (Named, {"name": "1"}, ("1",)),
        (Composite, ("1", 1), ("1", 1)),
        (Composite, ["1abc", 1], ("1abc", 1)),
        (Composite, {"number": 1, "tenant": "1"}, ("1", 1)),
        (Unique, RANDOM, (RANDOM,)),
        (Binary, b"1", (b"1",)),
        (Exact, Decimal("1.5"), (Decimal("1.50"),)),
        (Exact, 1.5, (Decimal("1.50"),)),
    ],
)
def test_a_key_moves_its_row_and_no_other(session, model, key, row):
    moved = fire_key(model, key, "Stop", session)

    assert row == (moved.key if isinstance(moved.key, tuple) else (moved.key,))
    assert [(model, row)] == moved_rows(session)


@pytest.mark.parametrize(
    ("model", "key"),
    [
        *(
            (Renamed, key)
            for key in ("1", "1abc", 1.0, True, None, b"1", Decimal(1), RANDOM, [], (), (1, 2), {}, {"id": 1}, {1})
        ),
        *((Named, key) for key in (1, 1.0, 0, True, None, b"1", RANDOM, ("1", "1"))),
        *(
            (Composite, key)
            for key in ("1", 1, ("1",), ("1", "1"), (1, 1), ("1", 1, 1), ("1", True), ("1", None), {"tenant": "1"})
        ),
        *((Composite, key) for key in ({"tenant_name": "1", "number": 1}, {"tenant": 1, "number": 1})),
        *((Unique, key) for key in (str(RANDOM), RANDOM.hex, RANDOM.bytes, 1, None)),
        *((Binary, key) for key in ("1", 1, True, None)),
        *((Exact, key) for key in ("1.5", "1.5abc", None, b"1.5", True)),
    ],
)
def test_a_key_of_another_kind_is_refused_before_any_sql(session, sent, model, key):
    with sent() as statements:
        for fire in (fire_key, try_fire_key):
            with pytest.raises(TypeError):
                fire(model, key, "Stop", session)

    assert statements.number == 0
    assert moved_rows(session) == []


@pytest.mark.parametrize(
    ("model", "key"),
    [
        (Renamed, 2), (Renamed, -1), (Renamed, 0), (Renamed, 2**31 + 1),
        (Named, ""), (Named, "01"), (Named, "1' OR '1'='1"), (Named, "%"), (Named, "\\"),
        (Composite, ("1", 2)), (Composite, ("2", 1)), (Unique, uuid.UUID(int=1)), (Binary, b"1 "),
        (Binary, b""), (Exact, 1),
    ],
)  # fmt: skip
def test_a_key_without_a_row_is_told_with_the_key(session, model, key):
    with pytest.raises(RowNotFound) as missing:
        fire_key(model, key, "Stop", session)

    assert (model, key, "Stop") == (missing.value.model, missing.value.key, missing.value.event)
    assert moved_rows(session) == []


@pytest.mark.parametrize("model", [None, int, "Renamed", Base, Renamed.__table__, Renamed.phase, object()])
def test_what_is_no_model_with_a_machine_is_refused(session, sent, model):
    with (
        sent() as statements,
        pytest.raises(TypeError, match="not mapped by SQLAlchemy; give a mapped class with a StateMachineColumn"),
    ):
        fire_key(model, 1, "Stop", session)

    assert statements.number == 0


@pytest.mark.parametrize("nothing", [None, 1, "session", object()])
def test_what_is_no_session_is_refused(nothing):
    with pytest.raises(
        TypeError, match="a session or a Connection is needed, got .*; an event's payload is given by name"
    ):
        fire_key(Renamed, 1, "Stop", nothing)


@pytest.mark.parametrize(
    "call",
    [
        lambda column, session: count_rows(column, session),
        lambda column, session: count_transitions(column, session),
        lambda column, session: find_by_token(column, "token", session),
        lambda column, session: on_moved(column),
        lambda column, session: check_database(column, session.connection()),
    ],
)
def test_what_is_no_state_column_is_refused(session, call):
    """The class, its table's column and a name alone are the likely mistakes: the message shows the right form."""
    for column in (None, Renamed, Composite.__table__.c.state, "phase", object()):
        with pytest.raises(TypeError, match=r"is not a state column of a mapped class; give one, such as Order\.state"):
            call(column, session)


def test_pending_changes_of_the_row_are_flushed_before_its_key_is_fired(session):
    session.add(Named(name="new", state="Stopped"))

    assert fire_key(Named, "new", "Delete", session).target == "Deleted"
    assert session.scalar(select(Named.state).where(Named.name == "new")) == "Deleted"


@pytest.mark.servers_only
@pytest.mark.one_driver
def test_a_fire_takes_few_calls_through_few_modules(session, backend):
    """Whoever follows a fire in a debugger passes seven modules; a step more for each is paid by each fire."""
    if backend == "locking":
        pytest.skip("the locking read has a few calls more")
    calls = []
    # Not the name of the folder: a clone may have it, too, with the environment of the tests inside.
    package = f"{Path(sqlalchemy_fsm_mysql.__file__).parent}/"

    def note(frame, what, _):
        path = frame.f_code.co_filename
        if what == "call" and path.startswith(package):
            calls.append((path.removeprefix(package), frame.f_code.co_name))

    for _ in range(3):  # the first ones build the statement, and find out that the answer has the code
        del calls[:]
        sys.setprofile(note)
        try:
            fire_key(Renamed, 1, "Stop", session)
        finally:
            sys.setprofile(None)

    passed = "\n".join(f"{path}: {name}" for path, name in calls)
    assert len(calls) <= 20, passed
    assert len({path for path, _ in calls}) <= 7, passed
