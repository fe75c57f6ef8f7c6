"""Tables as they are in production: every operation up and down, online and by --sql, and nothing else changes."""

from __future__ import annotations

import pytest
from sqlalchemy import MetaData, text

from tests.alembic.support import run_script, shown_table

pytestmark = pytest.mark.servers_only

ENUM = "ENUM('new','paid') CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT 'new'"
LONG_TABLE, LONG_COLUMN = "t" * 64, "c" * 64
ODD = "la'te, 10%\\x"
# The name, and the definition with the state column as {}.
TABLES = {
    "hash partitions": ("orders", "id INT, {} " + ENUM + ", PRIMARY KEY (id)) PARTITION BY HASH(id) PARTITIONS 4"),
    "a generated column over it": ("orders", "id INT PRIMARY KEY, {0} " + ENUM + ", p INT AS ({0} = 'paid') STORED)"),
    "an indexed generated column": (
        "orders",
        "id INT PRIMARY KEY, {0} " + ENUM + ", p INT AS ({0} = 'paid') VIRTUAL, KEY (p))",
    ),
    "an index of an expression": ("orders", "id INT PRIMARY KEY, {0} " + ENUM + ", KEY ((CAST({0} AS CHAR(20)))))"),
    "invisible, in the middle": ("orders", "id INT PRIMARY KEY, a INT, {} " + ENUM + " INVISIBLE, z INT)"),
    "compressed": ("orders", "id INT PRIMARY KEY, {} " + ENUM + ") ROW_FORMAT=COMPRESSED"),
    "FULLTEXT, in utf8mb3": ("orders", "id INT PRIMARY KEY, {} " + ENUM + ", t TEXT, FULLTEXT (t)) CHARSET utf8mb3"),
    "a key to itself": (
        "orders",
        "id INT PRIMARY KEY, {} " + ENUM + ", p INT, FOREIGN KEY (p) REFERENCES orders (id))",
    ),
    "a unique key over it": ("orders", "id INT PRIMARY KEY, {0} " + ENUM + ", k INT, UNIQUE (k, {0}), KEY ({0}))"),
    "names of 64 characters": (LONG_TABLE, "id INT PRIMARY KEY, {} " + ENUM + ")"),
    "odd names": ("my orders%", "id INT PRIMARY KEY, {} " + ENUM + ")"),
    "reserved names": ("order", "id INT PRIMARY KEY, {} " + ENUM + ")"),
    "an emoji in the comment": ("orders", "id INT PRIMARY KEY, {} " + ENUM + " COMMENT 'go 🚀, `x`; 100%')"),
}
COLUMNS = {"names of 64 characters": LONG_COLUMN, "odd names": "the state", "reserved names": "check"}


@pytest.mark.parametrize("kind", TABLES)
def test_everything_else_survives(project, engine, kind):
    if kind == "an index of an expression" and engine.dialect.is_mariadb:
        pytest.skip("MariaDB has no index of an expression")
    (name, definition), column = TABLES[kind], COLUMNS.get(kind, "state")
    with engine.begin() as connection:
        made = f"CREATE TABLE `{name}` ({definition.format(f'`{column}`')}"
        connection.exec_driver_sql(made, execution_options={"no_parameters": True})
        rows = f"INSERT INTO `{name}` (id) VALUES (1), (2), (3)"
        connection.exec_driver_sql(rows, execution_options={"no_parameters": True})
    before = shown_table(engine, f"`{name}`")
    project.config.attributes["metadata"] = MetaData()
    machine = {None: ["new"], "new": ["paid"], ODD: ["new"]}
    where = f"{name!r}, {column!r}"
    project.write(
        f"op.add_states({where}, [{ODD!r}]); op.migrate_states({where}, {{'new': {ODD!r}}});"
        f" op.enforce_machine({where}, {machine!r})",
        f"op.release_machine({where}, {machine!r}); op.migrate_states({where}, {{{ODD!r}: 'new'}});"
        f" op.drop_states({where}, [{ODD!r}], copies_table=True)",
    )

    project.upgrade()
    online = shown_table(engine, f"`{name}`")
    project.downgrade("base")

    assert shown_table(engine, f"`{name}`") == before
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE alembic_version"))
    run_script(engine, _without_triggers(project.sql("head")))
    assert shown_table(engine, f"`{name}`") == online
    run_script(engine, _without_triggers(project.sql("head:base", "downgrade")))
    assert shown_table(engine, f"`{name}`") == before


def _without_triggers(script):
    """*script* without the part for triggers, which is for the client's DELIMITER: test_enforcing.py runs that."""
    lines, is_trigger = [], False
    for line in script.split("\n"):
        is_trigger = line.startswith("DELIMITER //") or (is_trigger and line != "DELIMITER ;")
        is_check = "fsm_check" in line or line.startswith("DROP TRIGGER")
        if not is_trigger and not is_check and line != "DELIMITER ;":
            lines.append(line)
    return "\n".join(lines)
