"""The triggers through renames, swaps, deploys and copies of their table."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Column, Connection, Engine, Integer, MetaData, Table, insert, inspect, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_fsm_mysql import (
    ANY,
    Event,
    Machine,
    RefusedByDatabase,
    StateMachineColumn,
    StateType,
    enforce_machine,
    release_machine,
)
from sqlalchemy_fsm_mysql.databases.messages import refusal_in
from sqlalchemy_fsm_mysql.operations.enforcement import (
    allowed_edges,
    orphaned_triggers,
    own_triggers,
    watched_edges,
)
from tests.servers import make_engine

machine = Machine(initial="new", states=["new", "paid", "void"], events=[
    Event("Pay", {"new": "paid"}), Event("Void", {("new", "paid"): "void"})])  # fmt: skip
later = Machine(initial="new", states=["new", "paid", "void"], events=[
    Event("Pay", {"new": "paid"}), Event("Void", {"new": "void"}), Event("Reopen", {"void": "new"})])  # fmt: skip


def orders(name: str = "life_orders", of: Machine = machine, metadata: MetaData | None = None, **options: Any) -> Table:
    type_ = StateType(of, initial_states=ANY, **options)
    state = Column("state", type_, nullable=False, server_default="new")
    return Table(name, MetaData() if metadata is None else metadata, Column("id", Integer, primary_key=True), state)


@contextmanager
def created(engine: Engine, *tables: Table) -> Iterator[Connection]:
    """A connection in AUTOCOMMIT, with the *tables*; in the end none of them, nor any copy, is left."""
    own = make_engine(engine.url, isolation_level="AUTOCOMMIT")
    try:
        with own.connect() as connection:
            for table in tables:
                table.create(connection)
            yield connection
    finally:
        with own.connect() as connection:
            for name in inspect(connection).get_table_names():
                if name.startswith(("life_", "fsm_watched")):
                    connection.execute(text(f"DROP TABLE {name}"))
        own.dispose()


def is_refused(connection: Connection, table: Table, target: str) -> bool:
    """Whether an UPDATE of all rows to *target* is refused by triggers of ours."""
    try:
        connection.execute(update(table).values(state=target))
    except (RefusedByDatabase, DBAPIError) as error:
        assert refusal_in(error) is not None
        return True
    return False


def test_columns_of_two_tables_never_share_a_name(engine: Engine) -> None:
    """life.orders_state and life_orders.state: the CHECK's name, and the triggers', contain a digest of both."""

    class Base(DeclarativeBase):
        pass

    class First(Base):
        __tablename__ = "life_orders"

        id: Mapped[int] = mapped_column(primary_key=True)
        pay_state: Mapped[str] = StateMachineColumn(machine, storage="varchar", enforced=True)

    class Second(Base):
        __tablename__ = "life_orders_pay"

        id: Mapped[int] = mapped_column(primary_key=True)
        state: Mapped[str] = StateMachineColumn(machine, storage="varchar", enforced=True)

    with created(engine) as connection:
        Base.metadata.create_all(connection)
        counts = [len(own_triggers(connection, model.__table__.c[name])) for model, name in (
            (First, "pay_state"), (Second, "state"))]  # fmt: skip

    assert counts == [2, 2]


def test_a_new_table_takes_the_name_of_a_renamed_one(engine: Engine) -> None:
    """Each month's table is renamed, and keeps its triggers under their names."""
    table, archived = orders(enforced=True), orders("life_orders_2025")
    with created(engine, table) as connection:
        connection.execute(text("ALTER TABLE life_orders RENAME TO life_orders_2025"))
        table.create(connection)
        for each in (table, archived):
            connection.execute(insert(each).values(id=1, state="void"))
        refused = [is_refused(connection, each, "new") for each in (table, archived)]

    assert refused == [True, True]


def test_enforcing_a_renamed_table_makes_its_triggers_anew(engine: Engine) -> None:
    """Names and messages are then those of the new table, and `permitted` knows it."""
    table, renamed = orders(enforced=True), orders("life_renamed")
    with created(engine, table) as connection:
        before = {one.name for one in own_triggers(connection, table.c.state)}
        connection.execute(text("ALTER TABLE life_orders RENAME TO life_renamed"))
        enforce_machine(renamed.c.state, connection)
        after = {one.name for one in own_triggers(connection, renamed.c.state)}
        connection.execute(insert(renamed).values(id=1, state="void"))
        with pytest.raises((RefusedByDatabase, DBAPIError)) as raised:
            connection.execute(update(renamed).values(state="new"))
        refused = refusal_in(raised.value)

    assert (len(after), before & after) == (2, set())
    assert refused is not None
    assert refused.column == "life_renamed.state"


@pytest.mark.servers_only
def test_the_triggers_stay_when_a_partition_is_exchanged(engine: Engine) -> None:
    """The rows come in unseen, whatever their edges were; every later write is checked."""
    table, other = orders(enforced=True), orders("life_other")
    with created(engine, table, other) as connection:
        connection.execute(
            text(
                "ALTER TABLE life_orders PARTITION BY RANGE (id)"
                " (PARTITION low VALUES LESS THAN (10), PARTITION rest VALUES LESS THAN MAXVALUE)"
            )
        )
        before = {one.name for one in own_triggers(connection, table.c.state)}
        connection.execute(insert(other).values(id=1, state="void"))
        connection.execute(text("ALTER TABLE life_orders EXCHANGE PARTITION low WITH TABLE life_other"))

        assert connection.execute(select(table.c.id, table.c.state)).all() == [(1, "void")]
        assert {one.name for one in own_triggers(connection, table.c.state)} == before
        assert is_refused(connection, table, "new")


@pytest.mark.servers_only
def test_a_swapped_table_can_be_enforced_while_the_old_one_is_there(engine: Engine) -> None:
    """gh-ost and pt-osc leave the old table, with its triggers, under another name."""
    table = orders(enforced=True)
    with created(engine, table) as connection:
        connection.execute(text("CREATE TABLE life_gho LIKE life_orders"))
        connection.execute(text("RENAME TABLE life_orders TO life_del, life_gho TO life_orders"))
        connection.execute(insert(table).values(id=1, state="void"))
        before = is_refused(connection, table, "paid")
        enforce_machine(table.c.state, connection)
        connection.execute(text("DELETE FROM life_orders"))
        connection.execute(insert(table).values(id=1, state="void"))
        after = is_refused(connection, table, "paid")

    assert (before, after) == (False, True)


@pytest.mark.servers_only
def test_many_processes_enforce_at_once(engine: Engine) -> None:
    """Each pod of a deploy enforces when it starts; one has an older machine. One set of triggers is left."""
    table = orders()
    problems: list[BaseException] = []

    def pod(of: Machine) -> None:
        own = make_engine(engine.url, isolation_level="AUTOCOMMIT")
        try:
            enforce_machine(orders(of=of).c.state, own)
        except Exception as error:  # noqa: BLE001 - the test shows it
            problems.append(error)
        own.dispose()

    with created(engine, table) as connection:
        pods = [threading.Thread(target=pod, args=(of,)) for of in (later, machine, later, later)]
        for one in pods:
            one.start()
        for one in pods:
            one.join()
        found = own_triggers(connection, table.c.state)

    assert problems == []
    assert sorted(one.kind for one in found) == ["insert", "update"]
    assert len({one.fingerprint for one in found}) == 1


def test_both_machines_of_a_rolling_deploy_are_allowed(engine: Engine) -> None:
    table = orders()
    with created(engine, table) as connection:
        enforce_machine(table.c.state, connection, also=[later])
        allowed = allowed_edges(connection, table.c.state)
        connection.execute(insert(table).values(id=1, state="void"))
        refused = [is_refused(connection, table, state) for state in ("paid", "new")]

    wanted = {("new", "paid"), ("new", "void"), ("paid", "void"), ("void", "new")}
    assert allowed == {"update": wanted, "insert": {("new",), ("paid",), ("void",)}}
    assert refused == [True, False]


@pytest.mark.parametrize("other", [later.to_json(), {"void": ["new"]}])
def test_further_edges_are_given_as_text_or_as_edges(engine: Engine, other: Any) -> None:
    table = orders()
    with created(engine, table) as connection:
        enforce_machine(table.c.state, connection, also=[other])
        edges = allowed_edges(connection, table.c.state)["update"]

    assert edges == {("new", "paid"), ("new", "void"), ("paid", "void"), ("void", "new")}


def test_the_edges_of_odd_states_are_read_from_the_triggers(engine: Engine) -> None:
    """Separators, quotes, a backslash, other scripts: the trigger's text has them in hexadecimal."""
    odd = Machine(initial="a|b", states=["a|b", "c>d", "it's \\ 100%", "已支付"], events=[
        Event("On", {"a|b": "c>d", "c>d": "it's \\ 100%", "it's \\ 100%": "已支付"})])  # fmt: skip
    table = Table("life_odd", MetaData(), Column("id", Integer, primary_key=True), Column("state", StateType(odd)))
    with created(engine, table) as connection:
        enforce_machine(table.c.state, connection)
        allowed = allowed_edges(connection, table.c.state)

    assert allowed == {
        "update": {("a|b", "c>d"), ("c>d", "it's \\ 100%"), ("it's \\ 100%", "已支付")},
        "insert": {("a|b",), ("c>d",)},
    }


def test_watching_writes_down_and_refuses_nothing(engine: Engine) -> None:
    table = orders()
    with created(engine, table) as connection:
        enforce_machine(table.c.state, connection, mode="watch")
        connection.execute(insert(table), [{"id": 1, "state": "void"}, {"id": 2, "state": "void"}])
        for state in ("new", "paid", "new"):
            connection.execute(update(table).values(state=state))
        stored = connection.scalars(select(table.c.state)).all()
        edges = watched_edges(table.c.state, connection)
        before = len(own_triggers(connection, table.c.state))
        enforce_machine(table.c.state, connection)
        modes = [one.mode for one in own_triggers(connection, table.c.state)]
        connection.execute(update(table).values(state="void"))
        refused = is_refused(connection, table, "new")
        release_machine(table.c.state, connection)

    assert stored == ["new", "new"]
    assert [(edge.source, edge.target, edge.times) for edge in edges] == [("paid", "new", 2), ("void", "new", 2)]
    assert all(edge.first <= edge.last for edge in edges)
    assert (before, modes, refused) == (2, ["refuse", "refuse"], True)


@pytest.mark.servers_only
def test_watching_names_the_account_and_never_makes_a_write_fail(engine: Engine) -> None:
    table = orders()
    with created(engine, table) as connection:
        enforce_machine(table.c.state, connection, mode="watch")
        connection.execute(insert(table).values(id=1, state="void"))
        connection.execute(update(table).values(state="new"))
        (edge,) = watched_edges(table.c.state, connection)
        connection.execute(text("DROP TABLE fsm_watched_edges"))
        connection.execute(update(table).values(state="void"))
        connection.execute(update(table).values(state="paid"))
        stored = connection.scalar(select(table.c.state))

    assert edge.account is not None
    assert edge.account.startswith("root@")
    assert stored == "paid"


def test_a_copy_of_an_enforced_table_has_no_triggers(engine: Engine) -> None:
    """An archive, or Continuum's version table, takes rows in any state; a mixin's column is enforced for each model."""
    table = orders(enforced=True)
    archive = table.to_metadata(MetaData(), name="life_archive")

    class Base(DeclarativeBase):
        pass

    class HasState:
        state: Mapped[str] = StateMachineColumn(machine, enforced=True)

    class Mixed(HasState, Base):
        __tablename__ = "life_mixed"

        id: Mapped[int] = mapped_column(primary_key=True)

    with created(engine, table, archive, Mixed.__table__) as connection:
        counts = [len(own_triggers(connection, each.c.state)) for each in (table, archive, Mixed.__table__)]

    assert counts == [2, 0, 2]


@pytest.mark.servers_only
def test_triggers_of_a_dropped_column_are_found_and_replaced(engine: Engine) -> None:
    """The server drops or renames the column, and from then on refuses every write of the table."""
    table = orders(enforced=True)
    renamed = Table("life_orders", MetaData(), Column("id", Integer), Column("status", StateType(machine)))
    with created(engine, table) as connection:
        connection.execute(text("ALTER TABLE life_orders RENAME COLUMN state TO status"))
        orphans = orphaned_triggers(connection, table)
        with pytest.raises(DBAPIError, match="1054"):
            connection.execute(text("INSERT INTO life_orders (id) VALUES (1)"))
        enforce_machine(renamed.c.status, connection)
        connection.execute(text("INSERT INTO life_orders (id) VALUES (1)"))
        left, own = orphaned_triggers(connection, table), own_triggers(connection, renamed.c.status)

    assert (len(orphans), left, len(own)) == (2, [], 2)


def test_another_mode_is_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match="mode='report'"):
        enforce_machine(orders().c.state, engine, mode="report")  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["", ":watch"])
@pytest.mark.parametrize("before", ["", "-- ", "CONSTRAINT_NAME = '"])
def test_a_state_that_looks_like_a_mark_hides_no_trigger(engine: Engine, before: str, mode: str) -> None:
    """The names of states come before the mark in a trigger's text; the mark is found by what is before it."""
    looks_alike = f"{before}fsm:aaaaaaaa:bbbbbbbbbbbbbbbb{mode}"
    odd = Machine(initial="new", events=[Event("Go", {"new": looks_alike, looks_alike: looks_alike})])
    table = orders(of=odd, enforced=True)

    with created(engine, table) as connection:
        found = own_triggers(connection, table.c.state)
        enforce_machine(table.c.state, connection)
        release_machine(table.c.state, connection)

        assert len(found) == 2
        assert own_triggers(connection, table.c.state) == []
