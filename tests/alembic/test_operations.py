"""Each operation on each server: what it does, what it leaves alone, what it refuses, and that it can be run again."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import text

from sqlalchemy_fsm_mysql.errors import MigrationRefused
from tests.alembic.support import fill, migrating, orders, shown_table, stored

STATES = ("new", "it's", "a\\b", "100%", "x,y")


@pytest.fixture(params=["enum", "varchar"])
def storage(request):
    return request.param


@pytest.fixture
def algorithm(storage, engine):
    return "INSTANT" if storage == "enum" else "COPY"


@pytest.fixture
def created(project, storage, engine):
    """The table as the model makes it, with a row in each state."""
    orders(STATES, storage).create_all(engine)
    fill(engine, dict(enumerate(STATES, start=1)))
    return shown_table(engine)


def test_states_are_appended_and_nothing_else_changes(engine, created, algorithm):
    before = created
    rows = stored(engine)

    with migrating(engine) as op:
        op.add_states("orders", "state", ["sent", 'said "no"'], algorithm=algorithm, copies_table=True)

    after = shown_table(engine)
    assert before.replace("'x,y'", "'x,y','sent'")[:20] == after[:20]
    assert without_states(before) == without_states(after)
    assert stored(engine) == rows
    fill(engine, {6: "sent", 7: 'said "no"'})


def without_states(shown):
    """The DDL without what lists the states, and without the length that they have."""
    strings = r"'(?:[^'\\]|\\.|'')*'"
    shown = re.sub(rf"(?:_\w+)?{strings}(?:, ?(?:_\w+)?{strings})+", "…", shown)
    return re.sub(r"(varchar|VARCHAR)\(\d+\)", "varchar", shown)


def test_an_append_can_be_run_again(engine, created, algorithm):
    with migrating(engine) as op:
        op.add_states("orders", "state", ["sent"], algorithm=algorithm, copies_table=True)
    once = shown_table(engine)

    with migrating(engine) as op:
        op.add_states("orders", "state", ["sent", "lost"], algorithm=algorithm, copies_table=True)
        op.add_states("orders", "state", ["sent", "lost"], algorithm=algorithm, copies_table=True)

    assert without_states(once) == without_states(shown_table(engine))
    fill(engine, {8: "sent", 9: "lost"})


def test_a_name_that_an_enum_would_change_is_refused(engine, created):
    with migrating(engine) as op, pytest.raises(ValueError, match="ends with a space"):
        op.add_states("orders", "state", ["sent "])


def test_what_was_added_can_be_dropped_again_to_the_letter(engine, created, algorithm):
    with migrating(engine) as op:
        op.add_states("orders", "state", ["sent", "delivered"], algorithm=algorithm, copies_table=True)
        op.drop_states("orders", "state", ["sent", "delivered"], copies_table=True)

    assert shown_table(engine) == created


def test_states_that_rows_are_in_are_not_dropped(engine, created):
    fill(engine, {8: "it's", 9: "x,y"})

    with migrating(engine) as op, pytest.raises(MigrationRefused, match="2 rows in") as refused:
        op.drop_states("orders", "state", ["it's", "x,y"], copies_table=True)

    assert refused.value.rows == {"it's": 2, "x,y": 2}
    assert shown_table(engine) == created


def test_the_default_is_not_dropped_unless_there_is_another(engine, created):
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM orders WHERE state = 'new'"))

    with migrating(engine) as op:
        with pytest.raises(MigrationRefused, match="'new' is the column's default"):
            op.drop_states("orders", "state", ["new"], copies_table=True)
        op.drop_states("orders", "state", ["new"], server_default="x,y", copies_table=True)

    with engine.begin() as connection:
        connection.execute(text("INSERT INTO orders (id) VALUES (20)"))
    assert stored(engine)[20] == "x,y"


def test_rows_are_migrated_and_the_default_with_them(engine, created, algorithm):
    fill(engine, dict.fromkeys(range(10, 30), "new"))

    with migrating(engine) as op:
        op.add_states("orders", "state", ["fresh"], algorithm=algorithm, copies_table=True)
        op.migrate_states("orders", "state", {"new": "fresh", "it's": "x,y"}, batch_size=4)

    with engine.begin() as connection:
        connection.execute(text("INSERT INTO orders (id) VALUES (100)"))
    states = list(stored(engine).values())
    assert (states.count("fresh"), states.count("x,y"), states.count("new"), states.count("it's")) == (22, 2, 0, 0)


def test_a_target_has_to_be_there(engine, created):
    with migrating(engine) as op, pytest.raises(MigrationRefused, match="does not take 'sent'"):
        op.migrate_states("orders", "state", {"new": "sent"})


def test_the_storage_is_converted_and_back(engine, created, storage):
    other = "varchar" if storage == "enum" else "enum"
    rows = stored(engine)

    with migrating(engine) as op:
        op.convert_states("orders", "state", STATES, storage=other, copies_table=True)
        assert stored(engine) == rows
        op.convert_states("orders", "state", STATES, storage=other, copies_table=True)
        op.convert_states("orders", "state", STATES, storage=storage, copies_table=True)

    assert shown_table(engine) == created
    assert stored(engine) == rows


def test_a_conversion_that_would_lose_rows_is_refused(engine, created, storage):
    other = "varchar" if storage == "enum" else "enum"

    with migrating(engine) as op, pytest.raises(MigrationRefused) as refused:
        op.convert_states("orders", "state", STATES[:3], storage=other, copies_table=True)

    assert refused.value.rows == {"100%": 1, "x,y": 1}
    assert shown_table(engine) == created
