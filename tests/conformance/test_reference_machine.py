"""The 20 cells of the reference machine, by every way to fire, and what a fire costs."""

from __future__ import annotations

import pytest
from sqlalchemy import DDL, event
from sqlalchemy.orm import Mapped, Session, mapped_column

from sqlalchemy_fsm_mysql import Moved, StateMachineColumn, try_fire_key
from tests.conformance.support import WAYS, refusal, stored
from tests.reference import CELLS, MOVES, REFUSALS, STATES, Base, Order, machine

KEYS = {state: number for number, state in enumerate(STATES, start=1)}


class Watched(Base):
    """A table with an UPDATE trigger, one that writes to a table with an AUTO_INCREMENT key at that."""

    __tablename__ = "watched_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = StateMachineColumn(machine)


class Update(Base):
    """What the trigger has seen."""

    __tablename__ = "watched_updates"

    id: Mapped[int] = mapped_column(primary_key=True)
    watched_id: Mapped[int]


INSERT = "INSERT INTO watched_updates (watched_id) VALUES (NEW.id)"
TRIGGERS = {
    ("mysql", "mariadb"): f"CREATE TRIGGER watch AFTER UPDATE ON watched_orders FOR EACH ROW {INSERT}",
    ("sqlite",): f"CREATE TRIGGER watch AFTER UPDATE ON watched_orders BEGIN {INSERT}; END",
}
for dialects, trigger in TRIGGERS.items():
    event.listen(Watched.__table__, "after_create", DDL(trigger).execute_if(dialect=dialects))


@pytest.fixture(autouse=True)
def rows(session: Session) -> None:
    insert_rows(session)


def insert_rows(session: Session) -> None:
    """An order in each state, and a watched one."""
    session.add_all(Order(id=number, state=state, total=number) for state, number in KEYS.items())
    session.add(Watched(id=1, state="Running"))
    session.flush()
    session.expunge_all()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("source", "event"), MOVES)
def test_a_declared_cell_moves_its_row_and_nothing_else(session, way, source, event):
    key, target, before = KEYS[source], MOVES[source, event], stored(session, Order)

    moved = WAYS[way](session, Order, key, event)

    assert isinstance(moved, Moved)
    assert (Order, key, event, source, target) == (moved.model, moved.key, moved.event, moved.source, moved.target)
    assert moved.changed is (source != target)
    assert stored(session, Order) == {**before, (key,): {**before[key,], "state": target}}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("source", "event"), REFUSALS)
def test_any_other_cell_is_refused_with_the_state_observed(session, way, source, event):
    before = stored(session, Order)

    state, allowed_from = refusal(lambda: WAYS[way](session, Order, KEYS[source], event))

    assert (source, machine.sources(event)) == (state, allowed_from)
    assert before == stored(session, Order)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("source", "event"), MOVES)
def test_a_loaded_instance_shows_the_target_without_a_statement(session, sent, way, source, event):
    order = session.get_one(Order, KEYS[source])
    WAYS[way](session, Order, KEYS[source], event)

    with sent() as statements:
        shown = order.state, order.customer, order.total

    assert ((MOVES[source, event], "Ada", KEYS[source]), 0) == (shown, statements.number)
    assert not session.is_modified(order)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("source", "event"), REFUSALS)
def test_a_refused_instance_keeps_its_state(session, sent, way, source, event):
    order = session.get_one(Order, KEYS[source])
    refusal(lambda: WAYS[way](session, Order, KEYS[source], event))

    with sent() as statements:
        shown = order.state, order.customer, order.total

    assert ((source, "Ada", KEYS[source]), 0) == (shown, statements.number)
    assert not session.is_modified(order)


@pytest.mark.servers_only
@pytest.mark.parametrize("way", ["try_fire", "fire_key"])
@pytest.mark.parametrize(("source", "event"), CELLS)
def test_a_fire_is_one_statement_moved_or_refused(session, sent, backend, way, source, event):
    order = session.get_one(Order, KEYS[source])  # held: what is counted must not include the loading

    with sent() as statements:
        attempt(WAYS[way], session, KEYS[source], event)

    by_lock = 2 if (source, event) in MOVES else 1
    assert (by_lock if backend == "locking" else 1) == statements.number
    assert order in session


def attempt(way, session, key, event):
    """Fire on *key*, whatever comes of it."""
    if (STATES[key - 1], event) in MOVES:
        return way(session, Order, key, event)
    return refusal(lambda: way(session, Order, key, event))


@pytest.mark.servers_only
@pytest.mark.parametrize("event", ["Stop", "Delete"])
def test_a_key_fires_in_one_statement_though_nothing_is_loaded(session, sent, backend, event):
    with sent() as statements:
        try_fire_key(Order, KEYS["Running"], event, session)

    assert (2 if backend == "locking" and event == "Stop" else 1) == statements.number
    assert not session.identity_map


@pytest.mark.parametrize("way", WAYS)
def test_a_table_with_an_update_trigger_tells_the_same_moves(session, way):
    sources = [WAYS[way](session, Watched, 1, event).source for event in ("NotReady", "NotReady", "Ready", "Stop")]

    assert sources == ["Running", "Error", "Error", "Running"]
    assert stored(session, Watched)[1,]["state"] == "Stopped"
    assert len(stored(session, Update)) >= 4


@pytest.mark.parametrize("way", WAYS)
def test_a_table_with_an_update_trigger_tells_the_same_refusal(session, way):
    state, _ = refusal(lambda: WAYS[way](session, Watched, 1, "Delete"))

    assert state == "Running"
    assert stored(session, Update) == {}


@pytest.mark.servers_only
@pytest.mark.parametrize(("event", "own"), [("Stop", 2), ("Delete", 1)])
def test_an_update_trigger_costs_a_second_look_at_a_move_only(session, sent, backend, event, own):
    with sent() as statements:
        try_fire_key(Watched, 1, event, session)

    assert own == statements.number  # the locking read needs as many, for its own reasons


@pytest.mark.parametrize("way", WAYS)
def test_every_further_fire_hits_the_compiled_cache(session, way):
    cache: dict[object, object] = {}
    session.rollback()
    session.connection(execution_options={"compiled_cache": cache})
    insert_rows(session)
    orders = [session.get_one(Order, key) for key in KEYS.values()]
    WAYS[way](session, Order, 1, "Stop")
    compiled = len(cache)

    for key in (2, 3, 4):
        WAYS[way](session, Order, key, "Stop")

    assert compiled == len(cache)
    assert len(KEYS) == len(orders)


def test_a_hint_on_an_expired_instance_loads_its_state(session: Session) -> None:
    """As after a commit: SQLAlchemy loads what is expired when it is asked for."""
    order = Order(id=901, state="Stopped", total=1)
    session.add(order)
    session.flush()
    session.expire(order)

    assert (order.can_fire("Delete"), order.available_events()) == (True, ["Stop", "Delete"])
