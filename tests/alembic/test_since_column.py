"""A since column added to a table that has rows: nothing is copied, old rows show the migration's time, new ones theirs."""

from __future__ import annotations

import os
import time
from datetime import datetime, timedelta
from typing import Any

import pytest
from alembic.autogenerate.api import AutogenContext
from alembic.autogenerate.render import render_op
from alembic.migration import MigrationContext
from sqlalchemy import Column, Engine, Index, MetaData, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import sqlalchemy_fsm_mysql.alembic  # noqa: F401 - the operations
from sqlalchemy_fsm_mysql import Event, Machine, StateMachineColumn, StateSinceColumn, fire_due, fire_key
from sqlalchemy_fsm_mysql.alembic import Timestamp
from sqlalchemy_fsm_mysql.alembic.since import AddSinceColumnOp
from sqlalchemy_fsm_mysql.errors import MigrationRefused
from sqlalchemy_fsm_mysql.orm.since import StateSinceType
from sqlalchemy_fsm_mysql.sql.clock import utc_default, utc_now
from tests.alembic.support import fill, migrating, orders, run_script, shown_table

STATES = ("new", "paid", "gone")
ROWS = int(os.environ.get("FSM_SINCE_ROWS", "0"))  # 2,000,000 for the figure of the documentation
SECOND = timedelta(seconds=1)


class Base(DeclarativeBase):
    """The models of the release that has the column."""


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(
        Machine(
            initial="new",
            events=[
                Event("Pay", {"new": "paid"}),
                Event("Expire", {("new", "paid"): "gone"}, after=timedelta(seconds=1)),
            ],
        )
    )
    state_since: Mapped[datetime] = StateSinceColumn()


def add(engine: Engine, **options: Any) -> None:
    with migrating(engine) as op:
        op.add_since_column("orders", **options)


def now(engine: Engine) -> datetime:
    with engine.connect() as connection:
        return connection.scalar(select(utc_now()))


@pytest.fixture
def old(project, engine) -> None:
    """Three rows of the release before."""
    orders(STATES, "varchar").create_all(engine)
    fill(engine, {1: "new", 2: "paid", 3: "gone"})


def test_old_rows_show_the_migration_and_new_rows_their_own_time(old, engine):
    before = now(engine)
    add(engine)
    after = now(engine)

    with Session(engine) as session:
        shown = session.scalars(select(Order.state_since)).all()
        assert len(set(shown)) == 1
        assert before - SECOND <= shown[0] <= after + SECOND
        session.add(Order(id=9))
        fire_key(Order, 1, "Pay", session)
        session.commit()
        new = session.scalars(select(Order.state_since).where(Order.id.in_([1, 9]))).all()
        assert all(one > shown[0] for one in new)
        assert fire_due(Order, session, Order.id < 3, event="Expire").moved == 0
    if engine.dialect.name != "sqlite":  # its default stays the migration's time
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO orders (id, state) VALUES (20, 'new')"))
            by_hand = connection.scalar(select(Order.__table__.c.state_since).where(Order.id == 20))
        assert by_hand > after - SECOND


def test_it_can_be_run_again_after_half_of_it(old, engine):
    if engine.dialect.name != "sqlite":
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "ALTER TABLE orders ADD COLUMN state_since DATETIME(6) NOT NULL DEFAULT '2026-01-01'"
            )
    add(engine)
    add(engine)
    if engine.dialect.name != "sqlite":
        assert "utc_timestamp(6)" in shown_table(engine).lower()
    with Session(engine) as session:
        assert session.get_one(Order, 1).state == "new"


@pytest.mark.servers_only
def test_a_table_to_which_nothing_can_be_added_without_a_copy_is_refused(old, engine):
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE orders ROW_FORMAT=COMPRESSED"))
    before = shown_table(engine)

    with pytest.raises(MigrationRefused, match=r"ALGORITHM=INSTANT.*op\.add_column\(\)"):
        add(engine)

    assert shown_table(engine) == before
    with migrating(engine) as op:
        op.add_column("orders", Column("state_since", Timestamp(), nullable=False, server_default=utc_default()))
    with Session(engine) as session:
        assert session.get_one(Order, 1).state_since > now(engine) - timedelta(minutes=1)


def test_the_script_does_the_same(project, old, engine):
    if engine.dialect.name == "sqlite":
        pytest.skip("--sql is written for servers")
    project.write("op.add_since_column('orders')", "op.drop_column('orders', 'state_since')")
    project.config.attributes["metadata"] = orders(STATES, "varchar")
    run_script(engine, project.sql("head"))
    by_script = shown_table(engine)
    run_script(engine, project.sql("0001:base", "downgrade"))
    add(engine)
    assert shown_table(engine) == by_script


def since(**options: Any) -> MetaData:
    """The table of `orders`, with the column and an index of it."""
    metadata = orders(STATES, "varchar")
    table = metadata.tables["orders"]
    default = {"nullable": False, "server_default": utc_default(), **options}
    table.append_column(Column("state_since", StateSinceType(), **default))
    Index("ix_orders_since", table.c.state, table.c.state_since)
    return metadata


@pytest.mark.parametrize("batch", [False, True], ids=["plain", "batch"])
def test_autogenerate_adds_it_without_a_copy_of_the_table(project, engine, batch):
    project.config.attributes["options"] = {"render_as_batch": batch}
    project.autogenerate(orders(STATES, "varchar"))
    project.upgrade()
    fill(engine, {1: "new", 2: "paid"})
    before, begun = shown_table(engine), now(engine)

    written = project.autogenerate(since())
    upgrade, downgrade = written.split("def downgrade")
    project.upgrade()

    assert "add_column" not in written
    assert upgrade.index("op.add_since_column('orders', 'state_since')") < upgrade.index("create_index(")
    assert downgrade.index("drop_index(") < downgrade.index("drop_column(")
    project.check(since())
    with engine.connect() as connection:
        moments = connection.scalars(select(Order.__table__.c.state_since)).all()
    assert begun - SECOND <= moments[0] == moments[1] <= now(engine) + SECOND
    add(engine)  # the same column: nothing is left to do
    project.check(since())
    project.downgrade()
    assert shown_table(engine) == before


@pytest.mark.parametrize(
    "options",
    [
        {"nullable": True, "server_default": None},
        {"server_default": text("'2020-01-01 00:00:00'")},
        {"comment": "when"},
    ],
    ids=["nullable", "default", "comment"],
)
def test_autogenerate_leaves_a_column_that_is_declared_otherwise_to_alembic(project, engine, options):
    if not engine.dialect.supports_comments and "comment" in options:
        pytest.skip("SQLite has no comments")
    project.autogenerate(orders(STATES, "varchar"))
    project.upgrade()

    written = project.autogenerate(since(**options))
    project.upgrade()

    assert "op.add_column('orders', sa.Column('state_since', sqlalchemy_fsm_mysql.alembic.Timestamp()" in written
    assert "add_since_column" not in written
    project.check(since(**options))


def test_autogenerate_names_the_schema(engine):
    context = AutogenContext(MigrationContext.configure(dialect=engine.dialect), MetaData())
    context.opts["alembic_module_prefix"] = "op."
    op = AddSinceColumnOp(table_name="orders", column_name="since", schema="elsewhere")

    assert render_op(context, op)[1] == "op.add_since_column('orders', 'since', schema='elsewhere')"
    assert op.reverse().to_diff_tuple()[:3] == ("remove_column", "elsewhere", "orders")


def test_migrate_states_writes_it_where_asked(old, engine):
    add(engine, column_name="state_since")
    with engine.begin() as connection:
        connection.execute(text("UPDATE orders SET state_since = '2020-01-01 00:00:00'"))
    with migrating(engine) as op:
        op.migrate_states("orders", "state", {"new": "paid"}, since="state_since")
        op.migrate_states("orders", "state", {"gone": "new"})
    with Session(engine) as session:
        years = {key: since.year for key, since in session.execute(select(Order.id, Order.state_since))}
    assert years == {1: now(engine).year, 2: 2020, 3: 2020}


@pytest.mark.servers_only
@pytest.mark.skipif(not ROWS, reason="millions of rows take minutes: FSM_SINCE_ROWS=2000000 asks for them")
def test_a_large_table_is_not_copied(old, engine):
    with engine.begin() as connection:
        have = 3
        while have < ROWS:
            connection.execute(
                text("INSERT INTO orders (id, state) SELECT id + :n, 'new' FROM orders WHERE id <= :m"),
                {"n": have, "m": ROWS - have},
            )
            have = connection.scalar(text("SELECT COUNT(*) FROM orders"))
    begun = time.monotonic()
    add(engine)
    took = time.monotonic() - begun
    print(f"{engine.dialect.name}: {have:,} rows, {took:.3f} s")
    assert took < 5
