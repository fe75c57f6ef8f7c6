"""A rename really rolled out: 4 servers of one release beside 4 of the next, through every phase of the recipe.

In each phase every server fires FSM_ROLLING_FIRES times (5); more finds rarer things: 20 were run on all three servers.
"""

from __future__ import annotations

import os

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from sqlalchemy_fsm_mysql import replay
from tests.alembic.releases import ROWS, fleet, program
from tests.alembic.support import fill, migrating, shown_table, stored

pytestmark = [pytest.mark.servers_only, pytest.mark.timeout(600)]

FIRES = int(os.environ.get("FSM_ROLLING_FIRES", "5"))


def states(engine):
    return set(stored(engine).values())


def test_a_rename_disturbs_nobody(project, engine):
    Order, _ = program("before")
    Order.metadata.create_all(engine)
    fill(engine, dict.fromkeys(range(1, ROWS + 1), "Running"))
    seen = []

    with fleet(engine.url) as servers:
        servers.start("before", 8)
        servers.work(FIRES)
        with migrating(engine) as op:
            op.add_states("orders", "state", ["Failed"], attempts=30)
        servers.work(FIRES)
        servers.deploy("knows both", FIRES)
        seen.append(states(engine) <= {"Running", "Stopped", "Error"})
        servers.deploy("writes the other", FIRES)
        with migrating(engine) as op:
            op.migrate_states("orders", "state", {"Error": "Failed"}, batch_size=20, history="order_transitions")
        seen.append(states(engine) <= {"Running", "Stopped", "Failed"})
        servers.work(FIRES)
        servers.deploy("after", FIRES)
        with migrating(engine) as op:
            op.drop_states("orders", "state", ["Error"], attempts=30, copies_table=True)
        servers.work(FIRES)

    assert servers.errors == []
    assert servers.outcomes["moved"] > 20
    assert seen == [True, True]
    assert "'Error'" not in shown_table(engine)
    assert_history_leads_to_the_rows(engine)


def assert_history_leads_to_the_rows(engine):
    Order, Transition = program("after")
    with Session(engine) as session:
        spellings = set(session.scalars(select(Transition.__table__.c.target)))
        replayed = {order.id: replay(order.history()) or "Running" for order in session.scalars(select(Order))}
    assert {"Error", "Failed"} <= spellings  # both were written on the way
    assert replayed == stored(engine)


def test_without_the_release_in_between_servers_meet_what_they_do_not_know(project, engine):
    """What the recipe is for: with its second phase left out, the old servers raise UnknownState."""
    Order, _ = program("before")
    Order.metadata.create_all(engine)
    fill(engine, dict.fromkeys(range(1, ROWS + 1), "Running"))
    with migrating(engine) as op:
        op.add_states("orders", "state", ["Failed"])

    with fleet(engine.url) as servers:
        servers.start("before", 1)
        servers.start("writes the other", 1)
        servers.work(60)

    assert servers.outcomes["UnknownState"] > 0
    assert all(error.startswith("before: ") for error in servers.errors)


def test_without_the_expand_step_the_new_servers_cannot_write(project, engine):
    Order, _ = program("before")
    Order.metadata.create_all(engine)
    fill(engine, dict.fromkeys(range(1, ROWS + 1), "Running"))
    with fleet(engine.url) as servers:
        servers.start("writes the other", 1)
        servers.work(20)

    assert servers.errors
    assert "Failed" not in states(engine)
