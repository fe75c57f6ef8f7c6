"""``op.enforce_machine`` and ``op.release_machine``, and ``op.migrate_states`` on a table that is held to a machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from alembic.autogenerate import render_python_code
from alembic.operations.ops import UpgradeOps
from sqlalchemy import Column, Engine, Integer, MetaData, Table, select, text, update
from sqlalchemy.dialects import mysql
from sqlalchemy.dialects.mysql import pymysql
from sqlalchemy.exc import DBAPIError

from sqlalchemy_fsm_mysql import (
    ANY,
    Event,
    FSMError,
    Machine,
    RefusedByDatabase,
    StateType,
    enforce_machine,
    release_machine,
)
from sqlalchemy_fsm_mysql.alembic.enforcing import EnforceMachineOp, ReleaseMachineOp
from sqlalchemy_fsm_mysql.databases import database_of
from sqlalchemy_fsm_mysql.databases.triggers import KINDS, CreateTrigger
from sqlalchemy_fsm_mysql.errors import MigrationRefused
from sqlalchemy_fsm_mysql.operations.enforcement import (
    allowed_edges,
    orphaned_triggers,
    own_triggers,
    watched_edges,
)
from tests.alembic.support import Project, stored
from tests.servers import make_engine

first = Machine(initial="new", events=[Event("Pay", {"new": "paid"}), Event("Close", {"paid": "it's \\ 100% over"})])
later = Machine(
    initial="new",
    events=[*first.events.values(), Event("Reopen", {"it's \\ 100% over": "paid"})],
    retired=["lost"],
)
OVER = "it's \\ 100% over"


def table_of(machine: Machine = later) -> Table:
    return Table(
        "orders",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("state", StateType(machine, initial_states=ANY), nullable=False, server_default="new"),
    )


@pytest.fixture
def table(project: Project, engine: Engine) -> Table:
    """The table with a row in each state, and no trigger."""
    made = table_of()
    made.metadata.create_all(engine)
    project.config.attributes["metadata"] = made.metadata
    with engine.begin() as connection:
        connection.execute(made.insert(), [{"id": n, "state": s} for n, s in enumerate(later.states, start=1)])
    return made


def fingerprints(engine: Engine, table: Table) -> set[str]:
    with engine.connect() as connection:
        return {one.fingerprint for one in own_triggers(connection, table.c.state)}


def may_reopen(engine: Engine, table: Table) -> bool:
    with engine.connect() as connection:
        try:
            connection.execute(update(table).where(table.c.state == OVER).values(state="paid"))
        except RefusedByDatabase:
            return False
        return True


def call(machine: Machine, previous: Machine | None = None) -> str:
    more = "" if previous is None else f", previous={previous.to_json()!r}"
    return f"op.enforce_machine('orders', 'state', {machine.to_json()!r}{more})"


def test_up_and_down_again(project: Project, engine: Engine, table: Table) -> None:
    project.write(call(first), "op.release_machine('orders', 'state')")
    project.write(call(later, first), call(first, later))

    seen = []
    for step in ("0001", "0002"):
        project.upgrade(step)
        seen.append((len(fingerprints(engine, table)), may_reopen(engine, table)))
    for step in ("0001", "base"):
        project.downgrade(step)
        seen.append((len(fingerprints(engine, table)), may_reopen(engine, table)))

    assert seen == [(1, False), (1, True), (1, False), (0, True)]


def test_the_fingerprint_is_that_of_the_model(project: Project, engine: Engine, table: Table) -> None:
    """So the doctor is content with what a revision has done."""
    text = call(later)[:-1] + ", initial_states=ANY)"
    project.write(f"from sqlalchemy_fsm_mysql import ANY; {text}")
    project.upgrade()

    assert fingerprints(engine, table) == {table.c.state.type.rules.fingerprint}


def test_it_is_run_twice(project: Project, engine: Engine, table: Table) -> None:
    for _ in range(2):
        project.write(call(first))
    project.upgrade()

    assert len(fingerprints(engine, table)) == 1


def test_what_is_no_machine_is_refused_before_anything_is_done(project: Project, engine: Engine, table: Table) -> None:
    project.write("op.enforce_machine('orders', 'state', '{}')")
    with pytest.raises(ValueError, match="not the JSON of a machine"):
        project.upgrade()

    assert fingerprints(engine, table) == set()


@pytest.mark.parametrize("previous", [None, first])
def test_it_is_reversible(previous: Machine | None) -> None:
    op = EnforceMachineOp(
        table_name="orders",
        column_name="state",
        machine=later.to_json(),
        initial_states=ANY,
        previous=None if previous is None else previous.to_json(),
    )
    back = op.reverse()
    again = back.reverse()

    assert isinstance(back, ReleaseMachineOp if previous is None else EnforceMachineOp)
    assert isinstance(again, EnforceMachineOp)
    assert (again.machine, again.initial_states) == (op.machine, ANY)


def test_it_is_rendered_with_its_machine_written_out() -> None:
    op = EnforceMachineOp(table_name="orders", column_name="state", machine=first.to_json(), initial_states=["paid"])
    code = render_python_code(UpgradeOps([op]))

    written = json.dumps(json.loads(first.to_json()))
    assert f"op.enforce_machine('orders', 'state', {written!r}, initial_states=['paid'])" in code


def model_of(machine: Machine, **options: Any) -> MetaData:
    metadata = MetaData()
    type_ = StateType(machine, **{"enforced": True, "initial_states": ANY, **options})
    state = Column("state", type_, nullable=False, server_default="new")
    Table("orders", metadata, Column("id", Integer, primary_key=True), state)
    return metadata


def test_autogenerate_enforces_what_is_declared_so(project: Project, engine: Engine) -> None:
    """With a new table, with a table that is there, and never what is not declared."""
    metadata = model_of(later)
    written = project.autogenerate(metadata)
    project.upgrade()
    project.check(metadata)
    table = metadata.tables["orders"]

    assert "from sqlalchemy_fsm_mysql import ANY" in written or "initial_states=ANY" in written
    assert fingerprints(engine, table) == {table.c.state.type.rules.fingerprint}
    project.check(model_of(later, enforced=False))
    project.downgrade("base")
    project.upgrade()
    assert len(fingerprints(engine, table)) == 1


def test_autogenerate_finds_triggers_of_another_machine(project: Project, engine: Engine) -> None:
    project.autogenerate(model_of(first))
    project.upgrade()
    wider = Machine(initial="new", states=first.states, events=[*first.events.values(), Event("Skip", {"new": OVER})])
    metadata = model_of(wider)
    written = project.autogenerate(metadata)
    project.upgrade()
    project.check(metadata)

    assert "# expand: " in written
    assert "also=" not in written
    assert fingerprints(engine, metadata.tables["orders"]) == {metadata.tables["orders"].c.state.type.rules.fingerprint}
    project.downgrade()
    assert fingerprints(engine, metadata.tables["orders"]) == {table_of(first).c.state.type.rules.fingerprint}


def test_autogenerate_writes_both_steps_of_a_rolling_deploy(project: Project, engine: Engine) -> None:
    """First the triggers allow the edges of both releases, then those of the new one; each step has its way back."""
    metadata = model_of(first)
    project.autogenerate(metadata)
    project.upgrade()
    changed = Machine(
        initial="new",
        states=first.states,
        events=[Event("Pay", {"new": "paid"}), Event("Reopen", {"new": OVER, OVER: "paid"})],
    )
    new = model_of(changed)

    expand = project.autogenerate(new)
    project.upgrade()
    with engine.connect() as connection:
        both = allowed_edges(connection, new.tables["orders"].c.state)["update"]
    contract = project.autogenerate(new)
    project.upgrade()
    project.check(new)
    with engine.connect() as connection:
        after = allowed_edges(connection, new.tables["orders"].c.state)["update"]
    project.downgrade()
    with engine.connect() as connection:
        back = allowed_edges(connection, new.tables["orders"].c.state)["update"]
    project.downgrade()
    assert fingerprints(engine, new.tables["orders"]) == {metadata.tables["orders"].c.state.type.rules.fingerprint}

    assert "# expand: " in expand
    assert "also=[{" in expand
    assert "# contract: " in contract
    assert both == back == {("new", "paid"), ("new", OVER), ("paid", OVER), (OVER, "paid")}
    assert after == {("new", "paid"), ("new", OVER), (OVER, "paid")}


def has_escaped_enums() -> bool:
    """Whether SQLAlchemy itself writes a percent sign of an ENUM as the driver wants it."""
    dialect = pymysql.dialect()
    return "100%%" in mysql.ENUM("100%").compile(dialect=dialect)


@pytest.mark.servers_only
def test_autogenerate_releases_a_column_before_it_is_dropped(project: Project, engine: Engine) -> None:
    """MySQL drops a column that a trigger reads, and then fails every write of the table."""
    # Alembic writes the ENUM of the dropped column as SQLAlchemy reflects it, and 2.0.30 doubles no percent sign of one.
    plain = Machine(initial="new", events=[Event("Pay", {"new": "paid"}), Event("Close", {"paid": "it's \\ over"})])
    metadata = model_of(later if has_escaped_enums() else plain)
    project.autogenerate(metadata)
    project.upgrade()
    without = MetaData()
    Table("orders", without, Column("id", Integer, primary_key=True))

    written = project.autogenerate(without)
    project.upgrade()
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO orders (id) VALUES (1)"))
    project.check(without)
    project.downgrade()
    assert len(fingerprints(engine, metadata.tables["orders"])) == 1

    assert written.index("op.release_machine(") < written.index("drop_column(")


@pytest.mark.parametrize("way", ["column", "table"])
def test_triggers_follow_a_rename(project: Project, engine: Engine, table: Table, way: str) -> None:
    """By Alembic's own operations; afterwards the triggers are as enforce_machine() makes them."""
    enforce_machine(table.c.state, engine)
    type_ = "sqlalchemy_fsm_mysql.alembic.States(" + ", ".join(map(repr, later.stored_states)) + ")"
    operations = {
        "column": f"op.alter_column('orders', 'state', new_column_name='status', existing_type={type_}, "
        "existing_nullable=False, existing_server_default='new')",
        "table": "op.rename_table('orders', 'orders_2025')",
    }
    project.write(f"import sqlalchemy_fsm_mysql.alembic\n    {operations[way]}")
    project.upgrade()

    name, column = ("orders", "status") if way == "column" else ("orders_2025", "state")
    renamed = Table(name, MetaData(), Column("id", Integer), Column(column, StateType(later, initial_states=ANY)))
    with engine.begin() as connection:
        made = [one.name for one in own_triggers(connection, renamed.c[column])]
        wanted = [CreateTrigger(renamed.c[column], renamed.c[column].type.rules, kind).name for kind in KINDS]
        orphans = orphaned_triggers(connection, renamed)
        connection.execute(text(f"INSERT INTO {name} (id) VALUES (100)"))
        with pytest.raises((RefusedByDatabase, DBAPIError)):
            connection.execute(update(renamed).where(renamed.c.id == 100).values({column: OVER}))

    assert sorted(made) == sorted(wanted)
    assert orphans == []
    with engine.begin() as connection:
        renamed.drop(connection)


@pytest.mark.servers_only
def test_a_dropped_column_takes_its_triggers_along(project: Project, engine: Engine, table: Table) -> None:
    enforce_machine(table.c.state, engine)
    project.write("op.drop_column('orders', 'state')")
    project.upgrade()

    with engine.begin() as connection:
        connection.execute(text("INSERT INTO orders (id) VALUES (100)"))
        assert database_of(connection).enforcer.triggers(connection, table) == []


@pytest.mark.servers_only
def test_an_account_that_sees_no_triggers_compares_none(project: Project, engine: Engine) -> None:
    """TRIGGER on another database does not count; `alembic check` in CI finds nothing to do."""
    metadata = model_of(later)
    project.autogenerate(metadata)
    project.upgrade()
    name = f"fsm_{uuid.uuid4().hex[:8]}"
    with engine.begin() as connection:
        connection.execute(text(f"CREATE USER {name}@'%'"))
        rights = "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, REFERENCES"
        connection.execute(text(f"GRANT {rights} ON `{engine.url.database}`.* TO {name}@'%'"))
        connection.execute(text(f"GRANT TRIGGER ON mysql.* TO {name}@'%'"))
    other = make_engine(engine.url.set(username=name, password=""))
    try:
        project.config.attributes["engine"] = other
        project.check(metadata)
        with pytest.raises(FSMError, match="no privilege TRIGGER"):
            release_machine(metadata.tables["orders"].c.state, other)
    finally:
        project.config.attributes["engine"] = engine
        other.dispose()
        with engine.begin() as connection:
            connection.execute(text(f"DROP USER {name}@'%'"))


def test_batch_mode_leaves_the_table_with_its_triggers(project: Project, engine: Engine) -> None:
    """SQLite's table is made again at the end of a batch, without triggers: they come behind it."""
    machine = Machine(initial="new", events=[Event("Pay", {"new": "paid"})])
    project.config.attributes["options"] = {"render_as_batch": True}
    project.autogenerate(model_of(machine, enforced=False))
    project.upgrade()
    metadata = model_of(machine)
    metadata.tables["orders"].c.state.nullable = True

    written = project.autogenerate(metadata)
    project.upgrade()

    assert "batch_op.alter_column('state'" in written
    project.check(metadata)
    project.downgrade()
    assert fingerprints(engine, metadata.tables["orders"]) == set()


def test_autogenerate_leaves_alone_what_env_py_leaves_out(project: Project, engine: Engine) -> None:
    project.autogenerate(model_of(later, enforced=False))
    project.upgrade()
    project.config.attributes["options"] = {
        "include_object": lambda item, name, kind, reflected, other: (kind, name) != ("column", "state")
    }

    project.check(model_of(later))


# --- --sql


def by_the_client(engine: Engine, script: str) -> None:
    """Run *script* by the client that people run it with."""
    url = engine.url
    client = shutil.which("mysql") or shutil.which("mariadb")
    if client is None:
        for statement in statements(script):
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
        return
    where = [f"--host={url.host}", f"--port={url.port}", f"--user={url.username}", "--protocol=tcp", str(url.database)]
    password = [f"--password={url.password}"] if url.password else []
    subprocess.run([client, *password, *where], input=script, text=True, check=True, capture_output=True)


def statements(script: str) -> Iterator[str]:
    delimiter, lines = ";", list[str]()
    for line in script.splitlines():
        if line.startswith("DELIMITER "):
            delimiter = line.removeprefix("DELIMITER ")
        elif line.endswith(delimiter):
            yield "\n".join([*lines, line.removesuffix(delimiter)]).strip()
            lines = []
        elif not line.startswith("--"):
            lines.append(line)


@pytest.mark.servers_only
def test_what_sql_writes_does_the_same(project: Project, engine: Engine, table: Table) -> None:
    release = f"op.release_machine('orders', 'state', {first.to_json()!r})"
    project.write(call(first), release)
    project.write(call(later, first), call(first, later))
    scripts = [project.sql("base:0001"), project.sql("0001:0002")]
    scripts += [project.sql("0002:0001", "downgrade"), project.sql("0001:base", "downgrade")]

    seen = []
    for script in scripts:
        by_the_client(engine, script)
        seen.append((len(fingerprints(engine, table)), may_reopen(engine, table)))

    assert seen == [(1, False), (1, True), (1, False), (0, True)]


@pytest.mark.servers_only
def test_sql_keeps_the_triggers_when_the_machine_before_had_the_same_edges(
    project: Project, engine: Engine, table: Table
) -> None:
    """As when an event got another name: the triggers are the same, and are not dropped as the ones before."""
    renamed = Machine(
        initial="new", events=[Event("Settle", {"new": "paid"}), Event("Close", {"paid": first.states[-1]})]
    )
    project.write(call(first))
    project.write(call(renamed, first), call(first, renamed))

    for script in (project.sql("head"), project.sql("0002:0001", "downgrade")):
        by_the_client(engine, script)
        assert len(fingerprints(engine, table)) == 1
        assert not may_reopen(engine, table)


@pytest.mark.servers_only
def test_it_makes_the_triggers_that_are_made_online(project: Project, engine: Engine, table: Table) -> None:
    """To the letter, but for IF NOT EXISTS: a script keeps odd names, and the fingerprint."""
    query = text("SELECT ACTION_STATEMENT FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = DATABASE()")
    project.write(call(later), f"op.release_machine('orders', 'state', {later.to_json()!r})")
    by_the_client(engine, project.sql("head"))
    with engine.connect() as connection:
        by_script = sorted(connection.scalars(query))
    by_the_client(engine, project.sql("0001:base", "downgrade"))
    project.upgrade()
    with engine.connect() as connection:
        assert by_script == sorted(connection.scalars(query))


@pytest.mark.servers_only
def test_sql_fails_when_another_table_has_a_trigger_of_the_name(project: Project, engine: Engine, table: Table) -> None:
    """After a rename the old table keeps its triggers; MariaDB's IF NOT EXISTS would leave the new one without."""
    enforce_machine(table.c.state, engine)
    states = ["paid", OVER, "lost"]
    project.write(f"op.enforce_machine('orders', 'state', {later.to_json()!r}, initial_states={states!r})")
    with engine.begin() as connection:
        connection.execute(text("RENAME TABLE orders TO orders_before"))
        table.create(connection)
    try:
        with pytest.raises((subprocess.CalledProcessError, DBAPIError)):
            by_the_client(engine, project.sql("head"))
    finally:
        with engine.begin() as connection:
            connection.execute(text("DROP TABLE orders_before"))


@pytest.mark.servers_only
def test_sql_watches(project: Project, engine: Engine, table: Table) -> None:
    project.write(call(first).removesuffix(")") + ", mode='watch')", call(first))
    by_the_client(engine, project.sql("base:0001"))
    with engine.begin() as connection:
        connection.execute(update(table).where(table.c.state == OVER).values(state="paid"))
        edges = watched_edges(table.c.state, connection)
        connection.execute(text("DROP TABLE fsm_watched_edges"))

    assert [(edge.source, edge.target) for edge in edges] == [(OVER, "paid")]


@pytest.mark.servers_only
def test_sql_without_a_machine_cannot_know_what_to_drop(project: Project, table: Table) -> None:
    project.write("op.release_machine('orders', 'state')")
    with pytest.raises(MigrationRefused, match="pass machine="):
        project.sql("head")


# --- migrate_states


def enforced(engine: Engine, table: Table) -> None:
    enforce_machine(table.c.state, engine)


def test_rows_are_migrated_through_the_triggers(project: Project, engine: Engine, table: Table) -> None:
    """Along an edge that the machine has not; afterwards it is closed again."""
    enforced(engine, table)
    with engine.begin() as connection:
        connection.execute(table.insert(), [{"id": n, "state": "lost"} for n in range(100, 150)])
    project.write("op.migrate_states('orders', 'state', {'lost': 'paid'}, batch_size=10)")
    project.upgrade()

    assert set(stored(engine).values()) == {"new", "paid", OVER}
    with engine.connect() as connection, pytest.raises(RefusedByDatabase):
        connection.execute(update(table).where(table.c.id == 100).values(state="lost"))


@pytest.mark.servers_only
def test_a_script_migrates_them_too(project: Project, engine: Engine, table: Table) -> None:
    enforced(engine, table)
    project.write("op.migrate_states('orders', 'state', {'lost': 'paid', 'new': \"it's \\\\ 100% over\"})")
    by_the_client(engine, project.sql("head"))

    assert set(stored(engine).values()) == {"paid", OVER}
    with engine.connect() as connection:
        assert connection.scalar(select(table.c.state).where(table.c.id == 1)) == OVER


@pytest.mark.parametrize("seconds", ["1; DROP TABLE victim", 0, -1, 1.5, True, None, 10**9])
@pytest.mark.parametrize("operation", [EnforceMachineOp, ReleaseMachineOp])
def test_a_wait_is_a_number_of_seconds(operation, seconds):
    """It is written into scripts of ``--sql`` as it is."""
    with pytest.raises(ValueError, match="lock_wait_timeout="):
        operation(table_name="orders", column_name="state", machine="{}", lock_wait_timeout=seconds)
