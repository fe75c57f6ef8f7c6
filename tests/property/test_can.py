"""Over rows and machines by chance: what can() selects is what fire() moves, and after() is where to."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, Result, select
from sqlalchemy.orm import Session, aliased

from sqlalchemy_fsm_mysql import Moved, try_fire_key
from tests.property.conftest import EXAMPLES
from tests.property.machines import mapped, payloads, rows, specs

ROWS = 8

# Where can() and after() stand: each gives the entity, what to call them with, and what to execute the statement with.
PLACES: dict[str, Any] = {
    "payload as keywords": lambda model, payload: (model, payload, {}),
    "payload bound by name": lambda model, payload: (model, {}, payload),
    "an alias": lambda model, payload: (aliased(model), payload, {}),
}


def states_of(found: Result[Any]) -> dict[int, str]:
    """Rows of a key and a state."""
    return dict(map(tuple, found))


@settings(settings.get_profile("property"), max_examples=EXAMPLES)
@given(data=st.data())
def test_can_selects_the_rows_that_fire_moves_and_after_tells_where_to(database: Engine, data: st.DataObject) -> None:
    spec = data.draw(specs(), label="machine")
    drawn = data.draw(rows(spec, ROWS), label="rows")
    event = data.draw(st.sampled_from(spec.events), label="event")
    payload = data.draw(payloads(spec, event), label="payload")
    place = PLACES[data.draw(st.sampled_from(sorted(PLACES)), label="place")]
    with mapped(spec) as model, Session(database) as session:
        session.add_all(model(id=key, **row) for key, row in drawn.items())
        session.flush()
        entity, given_now, given_later = place(model, payload)
        able = select(entity.id).where(entity.state.can(event.name, **given_now))
        unable = select(entity.id).where(~entity.state.can(event.name, **given_now))
        after = select(entity.id, entity.state.after(event.name, **given_now))

        selected = set(session.scalars(able, given_later))
        refused = set(session.scalars(unable, given_later))
        told = states_of(session.execute(after, given_later))
        outcomes = {key: try_fire_key(model, key, event.name, session, **payload) for key in drawn}

        assert selected == {key for key, outcome in outcomes.items() if isinstance(outcome, Moved)}
        assert not selected & refused
        assert told == states_of(session.execute(select(model.id, model.state)))
