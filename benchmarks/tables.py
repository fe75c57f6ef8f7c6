"""The table that all contestants share, the reference machine on it, and the statement written by hand."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, String, create_engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_fsm_mysql import Event, Machine, StateMachineColumn, TransitionHistory

STATES = ("Initializing", "Running", "Error", "Stopped", "Deleted")
TARGETS = {
    "NotReady": {"Initializing": "Initializing", "Running": "Error", "Error": "Error"},
    "Ready": {"Initializing": "Running", "Running": "Running", "Error": "Running"},
    "Stop": {"Initializing": "Stopped", "Running": "Stopped", "Error": "Stopped", "Stopped": "Stopped"},
    "Delete": {"Stopped": "Deleted", "Deleted": "Deleted"},
}
# In turns, from Running: each moves the row to another state.
EVENTS = ("NotReady", "Ready")

TABLE = "bench_orders"
CREATE = f"""
CREATE TABLE {{name}} (
    id INTEGER PRIMARY KEY AUTO_INCREMENT,
    state ENUM({", ".join(repr(state) for state in STATES)}) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT 'Initializing',
    steps INTEGER NOT NULL DEFAULT 0,
    version INTEGER NOT NULL DEFAULT 1,
    note VARCHAR(40) NOT NULL DEFAULT 'forty characters of a note of no matter'
) ENGINE=InnoDB
"""

OFFSET = 2**63
MOVED = 100


def engine_of(url: str, **options: Any) -> Engine:
    return create_engine(url, **{"isolation_level": "READ COMMITTED"} | options)


def machine(*, counting: bool = False) -> Machine:
    """The machine of the README; when *counting*, each event also adds one to the row's ``steps``."""
    effect = (lambda order: {"steps": order.steps + 1}) if counting else None
    events = [Event(name, dict(targets), effect=effect) for name, targets in TARGETS.items()]
    return Machine(initial="Initializing", states=STATES, events=events)


def model(name: str = TABLE, *, counting: bool = False, history: bool = False) -> type[Any]:
    """A class of its own registry on the table *name*; with a *history* in the table ``{name}_history``."""

    class Base(DeclarativeBase):
        """One model and its history."""

    class Order(Base):
        __tablename__ = name
        id: Mapped[int] = mapped_column(primary_key=True)
        state: Mapped[str] = StateMachineColumn(machine(counting=counting))
        steps: Mapped[int] = mapped_column(default=0)
        note: Mapped[str] = mapped_column(String(40))

    if history:

        class OrderTransition(TransitionHistory, Base):
            __tablename__ = f"{name}_history"
            __records__ = Order.state

    return Order


def by_hand(event: str, *, counting: bool = False, parameter: str = "%s") -> str:
    """The statement as one would write it: which state was left, or refused, comes back as the last insert id."""
    targets = TARGETS[event]
    moves = " ".join(f"WHEN '{source}' THEN '{target}'" for source, target in targets.items())
    codes = " ".join(f"WHEN '{s}' THEN {i + MOVED if s in targets else i}" for i, s in enumerate(STATES, start=1))
    count = "steps = steps + 1, " if counting else ""
    return (
        f"UPDATE {TABLE} SET {count}state = CASE state {moves} ELSE state END WHERE id = {parameter}"
        f" AND LAST_INSERT_ID({OFFSET} + CASE state {codes} ELSE 99 END) >= {OFFSET + MOVED}"
    )


def source_of(last_insert_id: int) -> str:
    """What :func:`by_hand` says: the state that was left.

    Raises: ValueError for a refusal.
    """
    code = last_insert_id - OFFSET
    if code < MOVED:
        raise ValueError(f"refused: {STATES[code - 1]}")
    return STATES[code - MOVED - 1]


def fill(engine: Engine, rows: int, name: str = TABLE) -> None:
    """The table *name* with *rows* new rows, all of them Running; its histories are emptied."""
    with engine.begin() as connection:
        connection.execute(text(f"DROP TABLE IF EXISTS {name}_history"))
        connection.execute(text(f"DROP TABLE IF EXISTS {name}"))
        connection.execute(text(CREATE.format(name=name)))
        connection.execute(text(f"INSERT INTO {name} (id, state) VALUES (1, 'Running')"))
    have = 1
    while have < rows:
        more = min(have, rows - have)
        with engine.begin() as connection:
            connection.execute(
                text(f"INSERT INTO {name} (id, state) SELECT id + {have}, 'Running' FROM {name} WHERE id <= {more}")
            )
        have += more
    with engine.begin() as connection:
        connection.execute(text(f"ANALYZE TABLE {name}")).close()


def create_history(engine: Engine, order: type[Any]) -> None:
    """The table of the history of *order*, empty."""
    history = order.metadata.tables[f"{order.__tablename__}_history"]
    history.drop(engine, checkfirst=True)
    history.create(engine)
