"""Statements that try to take a row of an enforced machine along an edge that it has not: none gets through.

Those that docs/enforcement.md announces get through here, too, so that the page stays true.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_fsm_mysql import Event, Machine, RefusedByDatabase, Stateful, StateMachineColumn

pytestmark = [pytest.mark.servers_only, pytest.mark.one_driver]


class Base(DeclarativeBase):
    pass


class Parcel(Stateful, Base):
    __tablename__ = "bypassed"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(
        Machine(initial="new", events=[Event("Pay", {"new": "paid"}), Event("Ship", {"paid": "shipped"})]),
        enforced=True,
    )
    note: Mapped[int | None]


# The row 1 is paid. "new" is no state that an event leads to from there, and no row begins as "shipped".
BACK = "UPDATE bypassed SET state = 'new'"
REFUSED = {
    "plain": [BACK],
    "by its number": ["UPDATE bypassed SET state = 1"],
    "number 0": ["UPDATE IGNORE bypassed SET state = 0"],
    "cast": ["UPDATE bypassed SET state = CAST(1 AS UNSIGNED)"],
    "trailing space": ["UPDATE bypassed SET state = 'new '"],
    "upper case": ["UPDATE bypassed SET state = 'NEW'"],
    "bytes": ["UPDATE bypassed SET state = X'6E6577'"],
    "through a legal state": ["UPDATE bypassed SET state = 'shipped', state = 'new'"],
    "CASE": ["UPDATE bypassed SET state = CASE state WHEN 'paid' THEN 'new' ELSE state END"],
    "DEFAULT": ["UPDATE bypassed SET state = DEFAULT"],
    "DEFAULT(state)": ["UPDATE bypassed SET state = DEFAULT(state)"],
    "NULL": ["UPDATE IGNORE bypassed SET state = NULL"],
    "joined": ["UPDATE bypassed a JOIN bypassed b ON a.id = b.id SET a.state = 'new', b.note = 1"],
    "joined, twice": ["UPDATE bypassed a JOIN bypassed b ON a.id = b.id SET a.state = 'shipped', b.state = 'new'"],
    "upsert": ["INSERT INTO bypassed (id, state) VALUES (1, 'new') ON DUPLICATE KEY UPDATE state = 'new'"],
    "upsert by VALUES": [
        "INSERT INTO bypassed (id, state) VALUES (1, 'new') ON DUPLICATE KEY UPDATE state = VALUES(state)"
    ],
    "upsert that moves the key": [
        "INSERT INTO bypassed (id, state) VALUES (1, 'new') ON DUPLICATE KEY UPDATE id = 2, state = 'new'"
    ],
    "REPLACE": ["REPLACE INTO bypassed (id, state) VALUES (1, 'shipped')"],
    "INSERT IGNORE": ["INSERT IGNORE INTO bypassed (id, state) VALUES (9, 'shipped')"],
    "INSERT SELECT": ["INSERT INTO bypassed (id, state) SELECT id + 10, 'shipped' FROM bypassed"],
    "insert by its number": ["INSERT INTO bypassed (id, state) VALUES (9, 3)"],
    "insert, not strict": ["SET SESSION sql_mode = ''", "INSERT INTO bypassed (id, state) VALUES (9, 'zzz')"],
    "update, not strict": ["SET SESSION sql_mode = ''", "UPDATE bypassed SET state = 'zzz'"],
    "other sql_mode": [
        "SET SESSION sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH,PIPES_AS_CONCAT,IGNORE_SPACE'",
        BACK,
    ],
    "other character sets": [
        "SET character_set_client = latin1, character_set_connection = ucs2, collation_connection = ucs2_general_ci",
        BACK,
    ],
    "folding connection": ["SET collation_connection = utf8mb4_general_ci", "UPDATE bypassed SET state = 'NEW'"],
    "permit without rows": ["SET @fsm_permit = '{db}.bypassed.state: paid > new'", BACK],
    "permit of 0 rows": ["SET @fsm_permit = '{db}.bypassed.state: paid > new', @fsm_permit_rows = 0", BACK],
    "permit of -1 rows": ["SET @fsm_permit = '{db}.bypassed.state: paid > new', @fsm_permit_rows = -1", BACK],
    "permit of half a row": [
        "INSERT INTO bypassed (id, state) VALUES (2, 'new')",
        "UPDATE bypassed SET state = 'paid' WHERE id = 2",
        "SET @fsm_permit = '{db}.bypassed.state: paid > new', @fsm_permit_rows = 0.5",
        BACK,
    ],
    "permit in upper case": ["SET @fsm_permit = '{db}.bypassed.state: PAID > NEW', @fsm_permit_rows = 1", BACK],
    "LAST_INSERT_ID": ["SELECT LAST_INSERT_ID(9223372036855824384)", BACK],
    "prepared": ["PREPARE s FROM 'UPDATE bypassed SET state = ?'", "SET @a = 1", "EXECUTE s USING @a"],
    "view": ["CREATE VIEW bypassed_view AS SELECT * FROM bypassed", "UPDATE bypassed_view SET state = 'new'"],
    "insert into a view": [
        "CREATE VIEW bypassed_view AS SELECT * FROM bypassed",
        "INSERT INTO bypassed_view (id, state) VALUES (9, 'shipped')",
    ],
    "procedure with a handler": [
        f"CREATE PROCEDURE bypassed_by() BEGIN DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END; {BACK}; END",
        "CALL bypassed_by()",
    ],
    "XA": ["XA START 'bypass'", BACK, "XA END 'bypass'", "XA PREPARE 'bypass'", "XA COMMIT 'bypass'"],
    "without checks": ["SET foreign_key_checks = 0, unique_checks = 0", BACK],
    "LIMIT": [f"{BACK} ORDER BY id LIMIT 1"],
    "subquery": ["UPDATE bypassed SET state = (SELECT 'new')"],
    "another table's trigger": [
        "CREATE TABLE bypassed_side (id INT)",
        f"CREATE TRIGGER bypassed_side_trigger BEFORE INSERT ON bypassed_side FOR EACH ROW {BACK}",
        "INSERT INTO bypassed_side VALUES (1)",
    ],
    "another order of the ENUM": [
        "ALTER TABLE bypassed MODIFY state ENUM('shipped','paid','new') CHARACTER SET ascii COLLATE ascii_bin NOT NULL",
        "UPDATE bypassed SET state = 3",
    ],
    "after a copy of the table": ["ALTER TABLE bypassed ENGINE = InnoDB", BACK],
}
ANNOUNCED = {
    "REPLACE by a beginning": ["REPLACE INTO bypassed (id, state) VALUES (1, 'new')"],
    "keys that are swapped": [
        "INSERT INTO bypassed (id, state) VALUES (2, 'new')",
        "UPDATE bypassed SET id = id + 100",
        "UPDATE bypassed SET id = 1 WHERE id = 102",
    ],
    "a number and back": [
        "ALTER TABLE bypassed MODIFY state INT NOT NULL",
        "ALTER TABLE bypassed MODIFY state ENUM('paid','new','shipped') NOT NULL DEFAULT 'new'",
    ],
    "a trigger that follows": [
        "CREATE TRIGGER bypassed_after BEFORE UPDATE ON bypassed FOR EACH ROW SET NEW.state = 'new'",
        "UPDATE bypassed SET note = 3",
    ],
}


@contextmanager
def attempt(engine: Engine, statements: list[str]) -> Iterator[Connection]:
    """A connection on which *statements* were sent, up to one that has failed; the table is made anew before."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as setup:
        for one in ("VIEW IF EXISTS bypassed_view", "TABLE IF EXISTS bypassed_side", "PROCEDURE IF EXISTS bypassed_by"):
            setup.exec_driver_sql(f"DROP {one}")
        Base.metadata.drop_all(setup)
        Base.metadata.create_all(setup)
        setup.exec_driver_sql("INSERT INTO bypassed (id) VALUES (1)")
        setup.exec_driver_sql("UPDATE bypassed SET state = 'paid'")
        database = setup.exec_driver_sql("SELECT DATABASE()").scalar_one()
    attacker = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    try:
        for statement in statements:
            sent = statement.replace("{db}", str(database))
            attacker.exec_driver_sql(sent, execution_options={"no_parameters": True})
    except (DBAPIError, RefusedByDatabase):
        pass
    finally:
        attacker.invalidate()
        attacker.close()
    with engine.connect() as connection:
        yield connection
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE bypassed")


def states(connection: Connection) -> dict[int, str]:
    rows = connection.exec_driver_sql("SELECT id, CAST(state AS CHAR) FROM bypassed ORDER BY id")
    return {int(row[0]): str(row[1]) for row in rows}


@pytest.mark.parametrize("how", REFUSED)
def test_no_statement_takes_the_row_back(engine: Engine, how: str) -> None:
    with attempt(engine, REFUSED[how]) as connection:
        found = states(connection)

    assert found.pop(1) == "paid"
    assert set(found.values()) <= {"new", "paid"}


@pytest.mark.parametrize("how", ANNOUNCED)
def test_what_is_announced_gets_through(engine: Engine, how: str) -> None:
    with attempt(engine, ANNOUNCED[how]) as connection:
        assert states(connection)[1] == "new"
