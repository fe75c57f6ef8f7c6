"""Whatever the machine and the events: each database does what a few lines of Python do."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from sqlalchemy_fsm_mysql import (
    GuardNotSatisfied,
    Moved,
    TransitionNotAllowed,
    claim,
    fire_key,
    fire_where,
    force_state,
    replay,
    try_fire_key,
)
from tests.property.conftest import EXAMPLES
from tests.property.machines import COLUMNS, EventSpec, Fired, Row, Spec, mapped, payloads, rows, specs

ONE = ("fire", "try_fire", "fire_key", "try_fire_key")
SETS = ("fire_where", "batches", "max_rows", "claim")
WAYS = (*ONE, *SETS, "fire_where", "force_state")
ROWS = 5


def stored(session: Session, model: Any) -> dict[int, Row]:
    """The rows as the database has them, not as the session does."""
    table = model.__table__
    found = session.connection().execute(select(table)).mappings()
    return {row["id"]: {name: row[name] for name in ("state", *COLUMNS)} for row in found}


def fire_one(way: str, session: Session, model: Any, key: int, event: str, payload: dict[str, Any]) -> Any:
    """What came of it: source, target, no reason and no guards; or the state twice, the reason, the guards."""
    instance = session.get(model, key) if way in ("fire", "try_fire") else None
    call = {
        "fire": lambda: instance.fire(event, session, **payload),
        "try_fire": lambda: instance.try_fire(event, session, **payload),
        "fire_key": lambda: fire_key(model, key, event, session, **payload),
        "try_fire_key": lambda: try_fire_key(model, key, event, session, **payload),
    }[way]
    try:
        outcome = call()
    except GuardNotSatisfied as error:
        return error.state, error.state, "guard", sorted(error.failed)
    except TransitionNotAllowed as error:
        return error.state, error.state, "state", []
    if isinstance(outcome, Moved):
        return outcome.source, outcome.target, None, []
    return outcome.state, outcome.state, outcome.reason, sorted(outcome.failed)


class Run:
    """A machine on a table, and beside it the rows and the histories that there should be."""

    def __init__(self, spec: Spec, model: Any, session: Session, expected: dict[int, Row]) -> None:
        self.spec, self.model, self.session, self.expected = spec, model, session, expected
        self.histories: dict[int, list[tuple[str, str, str]]] = {key: [] for key in expected}

    def one(self, way: str, key: int, event: EventSpec, payload: dict[str, Any]) -> None:
        before = self.expected[key]
        fired = self.spec.fire(event, before, payload)

        told = fire_one(way, self.session, self.model, key, event.name, payload)

        assert told == (before["state"], fired.row["state"], fired.reason, sorted(fired.failed))
        self.note(key, event.name, fired)

    def force(self, key: int, target: str) -> None:
        before = self.expected[key]
        moved = force_state(self.session.get_one(self.model, key), target, self.session)
        assert (moved.source, moved.target) == (before["state"], target)
        self.note(key, "force_state", Fired(self.spec.force(before, target)))

    def set(self, way: str, least: int, event: EventSpec, payload: dict[str, Any]) -> None:
        model, session = self.model, self.session
        after = {key: self.spec.fire(event, row, payload) for key, row in self.expected.items() if key >= least}
        moving = {key: fired for key, fired in after.items() if fired.reason is None}
        if way == "claim":
            claimed = claim(model, event.name, session, model.id >= least, limit=ROWS, **payload)
            assert {row.id for row in claimed} == set(moving)
        else:
            options = {"batches": {"batch_size": 2}, "max_rows": {"max_rows": ROWS}}.get(way, {})
            transitions = Counter((self.expected[key]["state"], fired.row["state"]) for key, fired in moving.items())
            moved = fire_where(model, event.name, session, model.id >= least, **options, **payload)
            assert (moved.moved, moved.by_transition) == (transitions.total(), transitions)
        for key, fired in moving.items():
            self.note(key, event.name, fired)

    def note(self, key: int, event: str, fired: Fired) -> None:
        if fired.reason is None:
            self.histories[key].append((event, self.expected[key]["state"], fired.row["state"]))
        self.expected[key] = fired.row

    def check(self) -> None:
        """The rows, what the session holds of them, and the histories are as they should be."""
        session, expected = self.session, self.expected
        assert stored(session, self.model) == expected
        held = {
            row.id: {name: getattr(row, name) for name in ("state", *COLUMNS)}
            for row in session
            if isinstance(row, self.model)
        }
        assert held == {key: expected[key] for key in held}
        if not hasattr(self.model, "transitions"):
            return
        for key, history in self.histories.items():
            records = session.get_one(self.model, key).history(session)
            assert [(record.event, record.source, record.target) for record in records] == history
            assert not history or replay(records) == expected[key]["state"]


@settings(settings.get_profile("property"), max_examples=EXAMPLES)
@given(data=st.data())
def test_every_database_does_what_the_plain_model_does(database: Engine, data: st.DataObject) -> None:
    spec = data.draw(specs(), label="machine")
    expected = data.draw(rows(spec, ROWS), label="rows")
    with (
        mapped(spec, history=data.draw(st.booleans(), label="history")) as model,
        database.connect() as connection,
        Session(connection) as session,
    ):
        session.add_all(model(id=key, **row) for key, row in expected.items())
        session.flush()
        run = Run(spec, model, session, expected)
        for _ in range(data.draw(st.integers(1, 6), label="events")):
            event = data.draw(st.sampled_from(spec.events), label="event")
            way = data.draw(st.sampled_from(WAYS), label="way")
            key = data.draw(st.integers(1, ROWS), label="key, or the least one")
            if way == "force_state":
                run.force(key, data.draw(st.sampled_from(spec.states), label="target"))
            else:
                payload = data.draw(payloads(spec, event), label="payload")
                (run.set if way in SETS else run.one)(way, key, event, payload)
            run.check()
