"""States beyond ASCII by a connection in another character set: what it makes, every other connection reads."""

from __future__ import annotations

import pytest
from sqlalchemy import Column, Integer, MetaData, Table
from sqlalchemy.exc import DBAPIError

from sqlalchemy_fsm_mysql import Event, Machine, StateType, enforce_machine
from sqlalchemy_fsm_mysql.errors import RefusedByDatabase
from tests.alembic.support import fill, migrating, shown_table, stored
from tests.servers import make_engine

pytestmark = pytest.mark.servers_only

MACHINE = Machine(
    initial="neu", events=[Event("Zahle", {"neu": "bezählt"}), Event("Verfalle", {"bezählt": "überfällig"})]
)


@pytest.mark.parametrize("storage", ["enum", "varchar"])
def test_states_made_by_a_latin1_connection_are_the_same_states(project, engine, storage):
    table = Table(
        "orders",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("state", StateType(MACHINE, storage=storage), nullable=False, server_default="neu"),
    )
    copies = {"storage": "varchar", "existing": ["neu", "bezählt", "überfällig"], "algorithm": "COPY"}
    latin1 = make_engine(engine.url.update_query_dict({"charset": "latin1"}))
    try:
        table.metadata.create_all(latin1)
        with migrating(latin1) as op:
            more = {**copies, "copies_table": True} if storage == "varchar" else {}
            op.add_states("orders", "state", ["später"], **more)
        fill(latin1, {1: "neu"})
        with migrating(latin1) as op:
            op.migrate_states("orders", "state", {"neu": "später"})
            op.migrate_states("orders", "state", {"später": "neu"})
        enforce_machine(table.c.state, latin1)
        by_latin1 = shown_table(latin1)
    finally:
        latin1.dispose()

    assert shown_table(engine) == by_latin1
    assert "'später'" in by_latin1
    with pytest.raises((RefusedByDatabase, DBAPIError)), engine.begin() as connection:
        connection.exec_driver_sql("UPDATE orders SET state = 'überfällig'")
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE orders SET state = 'bezählt'")
        connection.exec_driver_sql("UPDATE orders SET state = 'überfällig'")
    assert stored(engine) == {1: "überfällig"}
    with migrating(engine) as op:
        op.release_machine("orders", "state")
        op.migrate_states("orders", "state", {"überfällig": "später"})
    assert stored(engine) == {1: "später"}
