"""Whatever the machine and the events: each database does what a few lines of Python do."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from sqlalchemy_fsm_mysql import Moved, TransitionNotAllowed, fire_key, fire_where, try_fire_key
from tests.property.conftest import EXAMPLES
from tests.property.machines import COLUMNS, Row, mapped, payloads, rows, specs

WAYS = ("fire", "try_fire", "fire_key", "try_fire_key", "fire_where", "fire_where", "batches", "max_rows")
ROWS = 5


def stored(session: Session, model: Any) -> dict[int, Row]:
    """The rows as the database has them, not as the session does."""
    table = model.__table__
    found = session.connection().execute(select(table)).mappings()
    return {row["id"]: {name: row[name] for name in ("state", *COLUMNS)} for row in found}


def fire_one(way: str, session: Session, model: Any, key: int, event: str, payload: dict[str, Any]) -> Any:
    """What came of it: source, target and no reason, or the state and the reason."""
    instance = session.get(model, key) if way in ("fire", "try_fire") else None
    call = {
        "fire": lambda: instance.fire(event, session, **payload),
        "try_fire": lambda: instance.try_fire(event, session, **payload),
        "fire_key": lambda: fire_key(model, key, event, session, **payload),
        "try_fire_key": lambda: try_fire_key(model, key, event, session, **payload),
    }[way]
    try:
        outcome = call()
    except TransitionNotAllowed as error:
        return error.state, error.state, "guard" if type(error) is not TransitionNotAllowed else "state"
    if isinstance(outcome, Moved):
        return outcome.source, outcome.target, None
    return outcome.state, outcome.state, outcome.reason


@settings(settings.get_profile("property"), max_examples=EXAMPLES)
@given(data=st.data())
def test_every_database_does_what_the_plain_model_does(database: Engine, data: st.DataObject) -> None:
    spec = data.draw(specs(), label="machine")
    expected = data.draw(rows(spec, ROWS), label="rows")
    with mapped(spec) as model, Session(database) as session:
        session.add_all(model(id=key, **row) for key, row in expected.items())
        session.flush()
        for _ in range(data.draw(st.integers(1, 6), label="events")):
            event = data.draw(st.sampled_from(spec.events), label="event")
            payload = data.draw(payloads(event), label="payload")
            way = data.draw(st.sampled_from(WAYS), label="way")
            if way in ("fire_where", "batches", "max_rows"):
                least = data.draw(st.integers(1, ROWS), label="least key")
                options = {"batches": {"batch_size": 2}, "max_rows": {"max_rows": ROWS}}.get(way, {})
                after = {key: event.fire(row, payload) for key, row in expected.items() if key >= least}
                transitions = Counter(
                    (expected[key]["state"], row["state"]) for key, (row, reason) in after.items() if reason is None
                )

                moved = fire_where(model, event.name, session, model.id >= least, **options, **payload)

                assert (moved.moved, moved.by_transition) == (transitions.total(), transitions)
                expected |= {key: row for key, (row, _) in after.items()}
            else:
                key = data.draw(st.integers(1, ROWS), label="key")
                row, reason = event.fire(expected[key], payload)

                told = fire_one(way, session, model, key, event.name, payload)

                assert told == (expected[key]["state"], row["state"], reason)
                expected[key] = row
            assert stored(session, model) == expected
            held = {row.id: {name: getattr(row, name) for name in ("state", *COLUMNS)} for row in session}
            assert held == {key: expected[key] for key in held}
