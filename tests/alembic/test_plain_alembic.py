"""What Alembic does by itself with a state column, before, and with our import, after: the table of docs/evolution.md.

"Before" runs in a process that never imports `sqlalchemy_fsm_mysql.alembic`.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.dialects import mysql, sqlite

from tests.alembic.support import orders
from tests.alembic.test_batches import recorded_model

STATES = ("new", "paid", "sent")
# What the model changes to, and the operations that are written for it.
CHANGES = {
    "added at the end": (("new", "paid", "sent", "lost"), {}, ["add_states"]),
    "added in the middle": (("new", "lost", "paid", "sent"), {}, ["add_states"]),
    "removed": (("new", "paid"), {}, ["drop_states"]),
    "renamed": (("new", "paid", "gone"), {"sent": "gone"}, ["add_states", "migrate_states"]),
    "reordered": (("new", "sent", "paid"), {}, []),
}
SCRIPT = """
import json, sys
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine
from tests.alembic.models import orders

def diffs(connection, states, storage, aliases):
    found = compare_metadata(MigrationContext.configure(connection), orders(states, storage, aliases=aliases))
    return [one[0][0] if isinstance(one, list) else one[0] for one in found]

assert "sqlalchemy_fsm_mysql.alembic" not in sys.modules
with create_engine(sys.argv[1]).connect() as connection:
    print(json.dumps([diffs(connection, *change) for change in json.loads(sys.argv[2])]))
"""


def cases(storage):
    other = {"enum": "varchar", "varchar": "enum"}[storage]
    changes = [(states, storage, aliases or None) for states, aliases, _ in CHANGES.values()]
    return [*changes, (STATES, other, None)]


@pytest.mark.servers_only
@pytest.mark.parametrize("storage", ["enum", "varchar"])
def test_before_and_after(project, engine, storage):
    orders(STATES, storage).create_all(engine)
    url = engine.url.render_as_string(hide_password=False)
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, url, json.dumps(cases(storage))],
        check=True,
        capture_output=True,
        text=True,
    )
    before = dict(zip([*CHANGES, "stored otherwise"], json.loads(said.stdout), strict=True))
    after = {}
    for name, change in zip(before, cases(storage), strict=True):
        with engine.connect() as connection:
            context = MigrationContext.configure(connection)
            after[name] = [
                one[0] for one in compare_metadata(context, orders(change[0], storage=change[1], aliases=change[2]))
            ]

    assert after == {**{name: ops for name, (_, _, ops) in CHANGES.items()}, "stored otherwise": ["convert_states"]}
    assert before == expected(storage)


def expected(storage):
    """As measured with Alembic 1.13 and 1.20: the number of an ENUM's states may change unseen, and a CHECK anyhow."""
    seen, unseen = ["modify_type"], []
    reordered = seen if storage == "enum" else unseen
    return {**dict.fromkeys(CHANGES, unseen), "reordered": reordered, "stored otherwise": seen}


def test_the_types_of_a_history_run_as_a_revision_has_them():
    """Alembic writes `RecordedState(length=64)` by itself; it makes the same column."""
    _, _, Transition = recorded_model()

    for column in Transition.__table__.c:
        written = eval(repr(column.type), {**vars(sqlalchemy), type(column.type).__name__: type(column.type)})  # noqa: S307 - our own types
        for dialect in (mysql.dialect(), sqlite.dialect()):
            assert written.compile(dialect=dialect) == column.type.compile(dialect=dialect), column
